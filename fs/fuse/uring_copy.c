// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: bytes of a request into a slot, bytes of a reply out
 * of it.
 *
 * One side of the copy are the arguments and pages of the request.  The other
 * one is the queue's memory, which the server has mapped, or memory of the
 * server, see uring_user.c.  Whoever calls these owns the slot's memory, see
 * enum fuse_uring_slot_state.
 */
#include "uring_i.h"

/*
 * Does the first argument of the request lie in the header?
 *
 * These have a name or an array as their first argument, and no header of
 * their own.
 */
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

/* In bytes, that of the headers of READ and WRITE */
#define FUSE_URING_WORD_COPY	40

/* As fuse_len_args(), of the few arguments that there are, on the hot path */
static unsigned int fuse_uring_size(const struct fuse_arg *args,
				    unsigned int nr)
{
	unsigned int size = 0;

	while (nr--)
		size += args++->size;

	return size;
}

/*
 * The arguments that lie in the payload area.  Apart from those who have none,
 * as the state of a copy on their stack would be cleared for nothing.
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

/*
 * These headers are a few words, and the hot path: for so little a call of
 * memcpy() costs more than it copies.
 */
static __always_inline void fuse_uring_copy_op_header(char *to, const void *from,
						      unsigned int size)
{
	const u64 *src = from;
	u64 *dst = (u64 *)to;

	if (unlikely(size % sizeof(u64) || size > FUSE_URING_WORD_COPY)) {
		memcpy(to, from, size);
		return;
	}
	for (; size; size -= sizeof(u64))
		WRITE_ONCE(*dst++, *src++);
}

/**
 * fuse_uring_measure - take the size of a request's payload
 * @req: the request
 *
 * A slot's payload area has to have room for what the request sends, and for
 * what it may receive instead.
 */
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

/**
 * fuse_uring_copy_in - copy a request into its slot
 * @slot: the slot, in state FILL
 * @req: the request, of which the size has been taken
 *
 * Fails, before anything is copied, when the slot's memory has no room for
 * what the request sends, or for what it may receive.
 *
 * Return: 0, or the error to end the request with.  -EFAULT for memory of the
 * server that is not there at the moment.
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

/**
 * fuse_uring_copy_out - copy a reply out of a slot
 * @slot: the slot, in state COMMIT
 * @req: the request
 * @payload_sz: size of the reply, within the slot's payload area
 *
 * Return: 0, or -EINVAL when the size of the reply is not one that the
 * request can have.  -EFAULT for memory of the server that is not there at the
 * moment.
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
