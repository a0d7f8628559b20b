// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: copy requests into slots and replies out of them.
 *
 * The other side is the memory of the queue, or with user buffers that of the
 * server.  The caller owns the slot, see enum fuse_uring_slot_state.
 */
#include "dev_uring_slot.h"

#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

/* Both lie over the same bytes */
static_assert(sizeof(struct fuse_uring_slot_header) ==
	      sizeof(struct fuse_uring_req_header));
static_assert(offsetof(struct fuse_uring_slot_header, payload_sz) ==
	      offsetof(struct fuse_uring_req_header, ring_ent_in_out.payload_sz));

/*
 * Not inlined: the copy state on the stack is cleared, which costs time that
 * requests without payload should not spend.
 */
static noinline int fuse_uring_copy_in_payload(struct fuse_uring_slot *slot,
					       struct fuse_req *req)
{
	struct fuse_copy_state cs __uninitialized;
	unsigned int skip = req->uring_has_op;
	struct fuse_args *args = req->args;

	fuse_copy_init_kaddr(&cs, 1, req, slot->payload, req->uring_in_size);
	return fuse_copy_args(&cs, args->in_numargs - skip, args->in_pages,
			      (struct fuse_arg *)args->in_args + skip, 0);
}

static noinline int fuse_uring_copy_out_payload(struct fuse_uring_slot *slot,
						struct fuse_req *req, u32 size)
{
	struct fuse_copy_state cs __uninitialized;

	fuse_copy_init_kaddr(&cs, 0, req, slot->payload, size);
	return fuse_copy_out_args(&cs, req->args,
				  sizeof(struct fuse_out_header) + size);
}

/* Fails with -EFAULT when the memory has to be faulted in, as the next two */
static int fuse_uring_put_headers(struct fuse_uring_slot *slot,
				  struct fuse_req *req)
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
	if (req->uring_has_op)
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

static noinline int fuse_uring_user_copy_in(struct fuse_uring_slot *slot,
					    struct fuse_req *req)
{
	unsigned int skip = req->uring_has_op;
	struct fuse_args *args = req->args;
	struct fuse_copy_state cs __uninitialized;
	int err;

	err = fuse_uring_put_headers(slot, req);
	if (err || !req->uring_in_size)
		return err;

	fuse_copy_init_uaddr(&cs, 1, req, slot->user_payload,
			     req->uring_in_size);
	err = fuse_copy_args(&cs, args->in_numargs - skip, args->in_pages,
			     (struct fuse_arg *)args->in_args + skip, 0);

	return cs.faulted ? -EFAULT : err;
}

static noinline int fuse_uring_user_copy_out(struct fuse_uring_slot *slot,
					     struct fuse_req *req,
					     u32 payload_sz)
{
	struct fuse_args *args = req->args;
	unsigned int nr = args->out_numargs;
	unsigned int last_size = nr ? args->out_args[nr - 1].size : 0;
	struct fuse_copy_state cs __uninitialized;
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

/*
 * Copy a measured request into its slot, which is in COPY.  Returns the error
 * to end the request with, or -EFAULT to fault in the server's memory.  Nothing
 * is copied if there is no room for the request or its reply.
 */
int fuse_uring_copy_in(struct fuse_uring_slot *slot, struct fuse_req *req)
{
	if (unlikely(!fuse_uring_fits(slot, req)))
		return req->args->opcode == FUSE_SETXATTR ? -E2BIG : -EIO;
	if (slot->is_user)
		return fuse_uring_user_copy_in(slot, req);

	fuse_uring_copy_headers(slot, req);

	return req->uring_in_size ? fuse_uring_copy_in_payload(slot, req) : 0;
}

/* See fuse_uring_copy_out_small() */
bool fuse_uring_copy_out_args(const struct fuse_uring_slot *slot,
			      struct fuse_args *args, u32 payload_sz)
{
	const void *from = slot->payload;
	unsigned int i;

	if (payload_sz != fuse_uring_size(args->out_args, args->out_numargs))
		return false;

	for (i = 0; i < args->out_numargs; i++) {
		memcpy(args->out_args[i].value, from, args->out_args[i].size);
		from += args->out_args[i].size;
	}

	return true;
}

/*
 * Copy a reply out of a slot in COMMIT.  @payload_sz fits the area.  Returns
 * -EINVAL for a size that the request can not have, or -EFAULT to fault in the
 * server's memory.
 */
int fuse_uring_copy_out(struct fuse_uring_slot *slot, struct fuse_req *req,
			u32 payload_sz)
{
	if (slot->is_user)
		return fuse_uring_user_copy_out(slot, req, payload_sz);

	return fuse_uring_copy_out_payload(slot, req, payload_sz);
}
