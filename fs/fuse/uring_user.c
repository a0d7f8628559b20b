// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: slots in memory of the server.
 *
 * This is what servers written for Linux 6.14 and later speak: each slot's
 * command comes with the addresses of a header and of a payload area.  What
 * becomes of a request is the same as with memory of the ring; only that all
 * copying is done by a task of the server, and never waits for that memory
 * while it holds a request.
 */
#include "uring_i.h"

#include <linux/compat.h>
#include <linux/hash.h>
#include <linux/nospec.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/uio.h>

/* A header and a payload area */
#define FUSE_URING_NR_AREAS	2

static struct hlist_head *fuse_uring_commit_list(struct fuse_uring_queue *queue,
						 u64 commit_id)
{
	return &queue->commits[hash_64(commit_id, FUSE_URING_COMMIT_BITS)];
}

/**
 * fuse_uring_user_assign - a slot has got a request
 * @slot: the slot, whose queue is locked
 * @req: the request
 *
 * Commands do not name the slot.  It is found by the request's unique id, until
 * it has another request.
 */
void fuse_uring_user_assign(struct fuse_uring_slot *slot, struct fuse_req *req)
{
	struct fuse_uring_queue *queue = slot->queue;

	slot->commit_id = req->in.h.unique;
	hlist_del_init(&slot->by_commit_id);
	hlist_add_head(&slot->by_commit_id,
		       fuse_uring_commit_list(queue, slot->commit_id));
}

static struct fuse_uring_slot *
fuse_uring_find_commit(struct fuse_uring_queue *queue, u64 commit_id)
{
	struct fuse_uring_slot *slot;

	hlist_for_each_entry(slot, fuse_uring_commit_list(queue, commit_id),
			     by_commit_id)
		if (slot->commit_id == commit_id)
			return slot;

	return NULL;
}

/* The request's headers into the server's memory, if that is there */
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

/**
 * fuse_uring_user_copy_in - copy a request into its slot
 * @slot: the slot, in state FILL, whose command is the current task's
 * @req: the request
 * @skip: how many of its arguments lie in the header
 *
 * Return: 0, -EFAULT when memory of the server is not there at the moment, or
 * the error to end the request with.
 */
int fuse_uring_user_copy_in(struct fuse_uring_slot *slot, struct fuse_req *req,
			    unsigned int skip)
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

/**
 * fuse_uring_user_copy_out - copy a reply out of a slot
 * @slot: the slot, in state COMMIT, by a command of the current task
 * @req: the request
 * @payload_sz: size of the reply, within the slot's payload area
 *
 * Return: 0, -EFAULT when memory of the server is not there at the moment, or
 * -EINVAL when the size of the reply is not one that the request can have.
 */
int fuse_uring_user_copy_out(struct fuse_uring_slot *slot, struct fuse_req *req,
			     u32 payload_sz)
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
		/* The next attempt may be another reply */
		if (nr)
			args->out_args[nr - 1].size = last_size;
		return -EFAULT;
	}

	return err;
}

/**
 * fuse_uring_user_fault_in - bring in the memory of a slot that is to be filled
 * @slot: the slot, in state FILL without a request, by a command of the current
 *	task
 * @payload_sz: how much of the payload area is needed
 *
 * May sleep for as long as the server's memory takes.
 *
 * Return: whether it is there now.
 */
bool fuse_uring_user_fault_in(struct fuse_uring_slot *slot, u32 payload_sz)
{
	return !fatal_signal_pending(current) &&
		!fault_in_writeable((char __user *)slot->user_hdr,
				    sizeof(*slot->user_hdr)) &&
		!fault_in_writeable(slot->user_payload, payload_sz);
}

/*
 * A reply's headers out of the server's memory, if that is there.  Each field
 * is read once.  The queue is locked.
 */
static int fuse_uring_get_headers(struct fuse_uring_slot *slot,
				  struct fuse_out_header *oh, u32 *payload_sz)
{
	struct fuse_uring_req_header __user *hdr = slot->user_hdr;
	struct fuse_out_header __user *uoh = (void __user *)hdr->in_out;
	int err = -EFAULT;

	pagefault_disable();
	if (!user_read_access_begin(hdr, sizeof(*hdr)))
		goto out;
	unsafe_get_user(oh->error, &uoh->error, fault);
	unsafe_get_user(oh->unique, &uoh->unique, fault);
	unsafe_get_user(*payload_sz, &hdr->ring_ent_in_out.payload_sz, fault);
	err = 0;
fault:
	user_read_access_end();
out:
	pagefault_enable();
	return err;
}

/*
 * What a slot in the server's hands says of the reply.  What is no reply to the
 * request is -EIO, as the server is not told of that, and so is what can not be
 * read.
 */
static int fuse_uring_read_user_reply(struct fuse_uring_slot *slot,
				      bool unreadable,
				      struct fuse_out_header *oh,
				      u32 *payload_sz)
{
	int err = 0;

	if (!unreadable)
		err = fuse_uring_get_headers(slot, oh, payload_sz);
	if (err)
		return err;

	if (unreadable || oh->unique != slot->req->in.h.unique || oh->error <= -512 ||
	    oh->error > 0 || (!oh->error && *payload_sz > slot->payload_room))
		oh->error = -EIO;
	if (oh->error)
		*payload_sz = 0;
	oh->unique = slot->req->in.h.unique;
	oh->len = sizeof(*oh) + *payload_sz;

	return 0;
}

/* The slot of a reply.  The queue is locked. */
static struct fuse_uring_slot *
fuse_uring_commit_slot(struct fuse_uring_queue *queue, u64 commit_id)
{
	struct fuse_uring_slot *slot = fuse_uring_find_commit(queue, commit_id);

	if (queue->stopped)
		return ERR_PTR(-ENOTCONN);
	if (!slot)
		return ERR_PTR(-ENOENT);

	switch (slot->state) {
	case FUSE_URING_SLOT_BUSY:
		return slot->req ? slot : ERR_PTR(-ENOENT);
	case FUSE_URING_SLOT_FILL:
	case FUSE_URING_SLOT_SENT:
	case FUSE_URING_SLOT_COMMIT:
		return ERR_PTR(-EBUSY);
	default:
		return ERR_PTR(-ENOENT);
	}
}

/* Where a reply lies that has to be brought in */
struct fuse_uring_reply_area {
	struct fuse_uring_req_header __user *hdr;
	void __user *payload;
	u32 payload_sz;
};

/*
 * Take a reply, or say why not: -EFAULT when memory of the server is not there,
 * -EAGAIN when the task is not the one that had the slot, and may have to be
 * watched.
 */
static int fuse_uring_try_commit(struct io_uring_cmd *cmd,
				 struct fuse_uring_queue *queue, u64 commit_id,
				 bool watched, bool bad,
				 struct fuse_uring_reply_area *area,
				 unsigned int issue_flags)
{
	struct task_struct *task = io_uring_cmd_get_task(cmd);
	struct fuse_uring_slot *slot;
	struct fuse_out_header oh;
	int err;

	spin_lock(&queue->lock);
	slot = fuse_uring_commit_slot(queue, commit_id);
	if (IS_ERR(slot)) {
		err = PTR_ERR(slot);
	} else if (unlikely(slot->task != task && !watched)) {
		err = -EAGAIN;
	} else {
		area->hdr = slot->user_hdr;
		area->payload = slot->user_payload;
		area->payload_sz = 0;
		err = fuse_uring_read_user_reply(slot, bad, &oh,
						 &area->payload_sz);
	}
	if (unlikely(err)) {
		spin_unlock(&queue->lock);
		return err;
	}

	return fuse_uring_take_user_reply(cmd, slot, &oh, area->payload_sz,
					  issue_flags);
}

/*
 * FUSE_IO_URING_CMD_COMMIT_AND_FETCH
 *
 * When memory of the server is not there, the request stays in the server's
 * hands while that is brought in.  Memory that never comes makes an error of
 * the reply.
 */
static int fuse_uring_user_commit(struct io_uring_cmd *cmd,
				  struct fuse_uring *uring, u16 qid,
				  u64 commit_id, unsigned int issue_flags)
{
	bool bad = false, watched = false;
	struct fuse_uring_reply_area area;
	struct fuse_uring_queue *queue;
	unsigned int faults = 0;
	int err;

	queue = uring->queues[array_index_nospec(qid, uring->nr_queues)];
	for (;;) {
		err = fuse_uring_try_commit(cmd, queue, commit_id, watched, bad,
					    &area, issue_flags);
		if (unlikely(err == -EAGAIN)) {
			err = fuse_uring_watch(uring,
					       io_uring_cmd_get_task(cmd));
			if (err)
				return err;
			watched = true;
			continue;
		}
		if (likely(err != -EFAULT))
			return err;

		bad = fault_in_readable((char __user *)area.hdr,
					sizeof(*area.hdr)) ||
			fault_in_readable(area.payload, area.payload_sz) ||
			++faults == FUSE_URING_MAX_FAULTS;
		/* Then that is no reason, and the request dies with its task */
		if (fatal_signal_pending(current))
			return -EINTR;
	}
}

/* Where the server wants a slot to be.  Only what is said now counts. */
static int fuse_uring_get_areas(struct io_uring_cmd *cmd, struct iovec *iov,
				unsigned int issue_flags)
{
	const void __user *addr = u64_to_user_ptr(READ_ONCE(cmd->sqe->addr));

	if (READ_ONCE(cmd->sqe->len) != FUSE_URING_NR_AREAS)
		return -EINVAL;

#ifdef CONFIG_COMPAT
	if (issue_flags & IO_URING_F_COMPAT) {
		struct compat_iovec ciov[FUSE_URING_NR_AREAS];
		unsigned int i;

		if (copy_from_user(ciov, addr, sizeof(ciov)))
			return -EFAULT;
		for (i = 0; i < FUSE_URING_NR_AREAS; i++) {
			iov[i].iov_base = compat_ptr(ciov[i].iov_base);
			iov[i].iov_len = ciov[i].iov_len;
		}
		return 0;
	}
#endif
	if (copy_from_user(iov, addr, FUSE_URING_NR_AREAS * sizeof(*iov)))
		return -EFAULT;

	return 0;
}

/* FUSE_IO_URING_CMD_REGISTER */
static int fuse_uring_register(struct io_uring_cmd *cmd, struct fuse_conn *fc,
			       u16 qid, unsigned int issue_flags)
{
	struct fuse_uring_queue *queue;
	struct fuse_uring_slot *slot, *new;
	struct fuse_uring *uring;
	struct iovec iov[FUSE_URING_NR_AREAS];
	int err;

	err = fuse_uring_get_areas(cmd, iov, issue_flags);
	if (err)
		return err;
	if (qid >= nr_cpu_ids)
		return -EINVAL;

	uring = fuse_uring_user_make(fc);
	if (IS_ERR(uring))
		return PTR_ERR(uring);
	if (iov[0].iov_len < sizeof(struct fuse_uring_req_header) ||
	    iov[1].iov_len < uring->payload_size)
		return -EINVAL;
	if (!access_ok(iov[0].iov_base, iov[0].iov_len) ||
	    !access_ok(iov[1].iov_base, iov[1].iov_len))
		return -EFAULT;

	err = fuse_uring_watch(uring, io_uring_cmd_get_task(cmd));
	if (err)
		return err;

	queue = uring->queues[array_index_nospec(qid, uring->nr_queues)];
	new = kzalloc_node(sizeof(*new), GFP_KERNEL_ACCOUNT, queue->node);
	if (!new)
		return -ENOMEM;

	spin_lock(&queue->lock);
	slot = fuse_uring_queue_claim(queue, new);
	if (!slot)
		err = -ENOSPC;
	else if (queue->stopped)
		err = -ENOTCONN;
	if (err) {
		spin_unlock(&queue->lock);
		return err;
	}
	slot->user_hdr = iov[0].iov_base;
	slot->user_payload = iov[1].iov_base;
	slot->payload_room = min_t(size_t, iov[1].iov_len, MAX_RW_COUNT);

	return fuse_uring_arm(cmd, slot, issue_flags);
}

/**
 * fuse_uring_expect_no_more - requests need not wait for the first slot
 * @fc: the connection
 *
 * It has been registered, or could not be.  In that case they go over
 * /dev/fuse, until another one is.
 */
void fuse_uring_expect_no_more(struct fuse_conn *fc)
{
	if (likely(READ_ONCE(fc->initialized)) || !READ_ONCE(fc->uring_user))
		return;

	fuse_set_initialized(fc);
	wake_up_all(&fc->blocked_waitq);
}

/* Whether the connection is one for these commands */
static int fuse_uring_check_user(struct fuse_conn *fc, unsigned int issue_flags)
{
	if (!(issue_flags & IO_URING_F_SQE128))
		return -EINVAL;
	if (!READ_ONCE(fc->connected))
		return -ENOTCONN;
	/* Pairs with fuse_uring_expect() */
	if (smp_load_acquire(&fc->uring_user))
		return 0;
	if (fuse_uring_exists(fc))
		return -EBUSY;

	return READ_ONCE(fc->initialized) ? -EOPNOTSUPP : -EAGAIN;
}

/**
 * fuse_uring_user_cmd - the commands of a ring with user buffers
 * @cmd: the command, see fuse_uring_cmd()
 * @fud: the /dev/fuse file of a connection
 * @issue_flags: as io_uring gives them
 *
 * Return: as fuse_uring_cmd().
 */
int fuse_uring_user_cmd(struct io_uring_cmd *cmd, struct fuse_dev *fud,
			unsigned int issue_flags)
{
	const struct fuse_uring_cmd_req *ureq;
	struct fuse_conn *fc = fud->fc;
	struct fuse_uring *uring;
	u16 qid;
	int err;

	err = fuse_uring_check_user(fc, issue_flags);
	/* As a return value that would send the command to a worker */
	if (err == -EAGAIN)
		return fuse_uring_cmd_done(cmd, err, issue_flags);
	if (err) {
		if (cmd->cmd_op == FUSE_IO_URING_CMD_REGISTER)
			fuse_uring_expect_no_more(fc);
		return err;
	}

	ureq = io_uring_sqe_cmd(cmd->sqe);
	qid = READ_ONCE(ureq->qid);
	switch (cmd->cmd_op) {
	case FUSE_IO_URING_CMD_REGISTER:
		err = fuse_uring_register(cmd, fc, qid, issue_flags);
		fuse_uring_expect_no_more(fc);
		return err;
	case FUSE_IO_URING_CMD_COMMIT_AND_FETCH:
		/* Stays for as long as the connection */
		rcu_read_lock();
		uring = fuse_uring_rcu(fc);
		rcu_read_unlock();
		if (!uring)
			return -ENOENT;
		if (qid >= uring->nr_queues)
			return -EINVAL;
		return fuse_uring_user_commit(cmd, uring, qid,
					      READ_ONCE(ureq->commit_id),
					      issue_flags);
	default:
		return -EOPNOTSUPP;
	}
}
