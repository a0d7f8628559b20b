// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: copy requests into slots and replies out of them.
 *
 * The other side is the memory of the queue, or with user buffers that of the
 * server.  The caller owns the slot, see enum fuse_uring_slot_state.
 */
#include "dev_uring_i.h"

#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include <linux/unaligned.h>

/* False if the first argument is a name or an array, not an operation header */
static bool fuse_uring_has_op_header(const struct fuse_args *args)
{
	switch (args->opcode) {
	case FUSE_LOOKUP:
	case FUSE_SYMLINK:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_REMOVEXATTR:
	case FUSE_REMOVEMAPPING:
		return false;
	default:
		return args->in_numargs > 0;
	}
}

/* Size of the headers of READ and WRITE, in bytes */
#define FUSE_URING_WORD_COPY	40

/* As fuse_len_args(), but inline */
static unsigned int fuse_uring_size(const struct fuse_arg *args,
				    unsigned int nr)
{
	unsigned int size = 0;

	while (nr--)
		size += args++->size;

	return size;
}

/*
 * Not inlined: the copy state on the stack is cleared, which costs time that
 * requests without payload should not spend.
 */
static noinline int fuse_uring_copy_in_payload(struct fuse_uring_slot *slot,
					       struct fuse_req *req,
					       unsigned int skip, u32 size)
{
	struct fuse_args *args = req->args;
	struct fuse_copy_state cs;

	fuse_copy_init_kaddr(&cs, 1, req, slot->payload, size);
	return fuse_copy_args(&cs, args->in_numargs - skip, args->in_pages,
			      (struct fuse_arg *)args->in_args + skip, 0);
}

static noinline int fuse_uring_copy_out_payload(struct fuse_uring_slot *slot,
						struct fuse_req *req, u32 size)
{
	struct fuse_copy_state cs;

	fuse_copy_init_kaddr(&cs, 0, req, slot->payload, size);
	return fuse_copy_out_args(&cs, req->args,
				  sizeof(struct fuse_out_header) + size);
}

/* On the hot path a call of memcpy() costs more than these few words */
static __always_inline void
fuse_uring_copy_op_header(char *to, const void *from, unsigned int size)
{
	u64 *dst = (u64 *)to;

	if (unlikely(size % sizeof(u64) || size > FUSE_URING_WORD_COPY)) {
		memcpy(to, from, size);
		return;
	}
	for (; size; size -= sizeof(u64), from += sizeof(u64))
		WRITE_ONCE(*dst++, get_unaligned((const u64 *)from));
}

/* Fails with -EFAULT when the memory has to be faulted in, as the next two */
static int fuse_uring_put_headers(struct fuse_uring_slot *slot,
				  struct fuse_req *req, unsigned int skip)
{
	struct fuse_uring_req_header __user *hdr = slot->user_hdr;
	struct fuse_uring_ent_in_out __user *ent = &hdr->ring_ent_in_out;
	const struct fuse_in_arg *op = &req->args->in_args[0];
	const void *in = &req->in.h;
	int err = -EFAULT;

	pagefault_disable();
	if (!user_write_access_begin(hdr, sizeof(*hdr)))
		goto out;
	unsafe_copy_to_user(hdr->in_out, in, sizeof(req->in.h), fault);
	if (skip)
		unsafe_copy_to_user(hdr->op_in, op->value, op->size, fault);
	unsafe_put_user(0, &ent->flags, fault);
	unsafe_put_user(slot->commit_id, &ent->commit_id, fault);
	unsafe_put_user(req->uring_in_size, &ent->payload_sz, fault);
	unsafe_put_user(0, &ent->padding, fault);
	unsafe_put_user(0, &ent->reserved, fault);
	err = 0;
fault:
	user_write_access_end();
out:
	pagefault_enable();
	return err;
}

static int fuse_uring_user_copy_in(struct fuse_uring_slot *slot,
				   struct fuse_req *req, unsigned int skip)
{
	struct fuse_args *args = req->args;
	struct fuse_copy_state cs;
	int err;

	err = fuse_uring_put_headers(slot, req, skip);
	if (err || !req->uring_in_size)
		return err;

	fuse_copy_init_uaddr(&cs, 1, req, slot->user_payload,
			     req->uring_in_size);
	err = fuse_copy_args(&cs, args->in_numargs - skip, args->in_pages,
			     (struct fuse_arg *)args->in_args + skip, 0);

	return cs.faulted ? -EFAULT : err;
}

static int fuse_uring_user_copy_out(struct fuse_uring_slot *slot,
				    struct fuse_req *req, u32 payload_sz)
{
	struct fuse_args *args = req->args;
	unsigned int nr = args->out_numargs;
	unsigned int last_size = nr ? args->out_args[nr - 1].size : 0;
	struct fuse_copy_state cs;
	int err;

	fuse_copy_init_uaddr(&cs, 0, req, slot->user_payload, payload_sz);
	err = fuse_copy_out_args(&cs, args,
				 sizeof(struct fuse_out_header) + payload_sz);
	if (unlikely(cs.faulted)) {
		/* The next attempt may find another reply */
		if (nr)
			args->out_args[nr - 1].size = last_size;
		return -EFAULT;
	}

	return err;
}

/*
 * Fault in the memory of a slot in COPY, by its own task.  May sleep for long.
 * Returns false if that failed, or if the task was killed.
 */
bool fuse_uring_fault_in(struct fuse_uring_slot *slot, u32 payload_sz)
{
	return !fatal_signal_pending(current) &&
		!fault_in_writeable((char __user *)slot->user_hdr,
				    sizeof(*slot->user_hdr)) &&
		!fault_in_writeable(slot->user_payload, payload_sz);
}

/* The payload area needs room for what is sent, and for the reply */
void fuse_uring_measure(struct fuse_req *req)
{
	const struct fuse_args *args = req->args;
	unsigned int skip = fuse_uring_has_op_header(args);
	unsigned int area;

	area = fuse_uring_size((const struct fuse_arg *)args->in_args + skip,
			       args->in_numargs - skip);
	req->uring_in_size = area;
	if (test_bit(FR_ISREPLY, &req->flags))
		area = max(area, fuse_uring_size(args->out_args,
						 args->out_numargs));
	req->uring_area = area;
}

/*
 * Copy a measured request into its slot, which is in COPY.  Returns the error
 * to end the request with, or -EFAULT to fault in the server's memory.  Nothing
 * is copied if there is no room for the request or its reply.
 */
int fuse_uring_copy_in(struct fuse_uring_slot *slot, struct fuse_req *req)
{
	struct fuse_args *args = req->args;
	struct fuse_uring_req_header *hdr = slot->hdr;
	struct fuse_uring_ent_in_out *ent = &hdr->ring_ent_in_out;
	unsigned int skip = fuse_uring_has_op_header(args);
	const struct fuse_in_arg *op = &args->in_args[0];
	unsigned int in_size = req->uring_in_size;

	if (unlikely(req->uring_area > slot->payload_room ||
		     (skip && op->size > sizeof(hdr->op_in))))
		return args->opcode == FUSE_SETXATTR ? -E2BIG : -EIO;
	if (slot->is_user)
		return fuse_uring_user_copy_in(slot, req, skip);

	memcpy(hdr->in_out, &req->in.h, sizeof(req->in.h));
	if (skip)
		fuse_uring_copy_op_header(hdr->op_in, op->value, op->size);
	ent->flags = 0;
	ent->commit_id = slot->commit_id;
	ent->payload_sz = in_size;
	ent->padding = slot->payload_offset;
	ent->reserved = slot->payload_room;

	return in_size ? fuse_uring_copy_in_payload(slot, req, skip, in_size) : 0;
}

/*
 * Copy a reply out of a slot in COMMIT.  @payload_sz fits the area.  Returns
 * -EINVAL for a size that the request can not have, or -EFAULT to fault in the
 * server's memory.
 */
int fuse_uring_copy_out(struct fuse_uring_slot *slot, struct fuse_req *req,
			u32 payload_sz)
{
	struct fuse_args *args = req->args;

	if (slot->is_user)
		return fuse_uring_user_copy_out(slot, req, payload_sz);

	/* Most replies are one structure */
	if (args->out_numargs == 1 && !args->out_pages &&
	    args->out_args[0].size == payload_sz) {
		memcpy(args->out_args[0].value, slot->payload, payload_sz);
		return 0;
	}

	return fuse_uring_copy_out_payload(slot, req, payload_sz);
}
