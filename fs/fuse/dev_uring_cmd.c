// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: commands.
 */
#include "dev_uring_slot.h"
#include "fuse_trace.h"

#include <linux/nospec.h>

/*
 * Read and check the reply in a held slot.  The server can still write to it:
 * read each field once.
 */
static __always_inline int
fuse_uring_read_reply(struct fuse_uring_slot *slot, int *error, u32 *payload_sz)
{
	struct fuse_uring_slot_header *hdr = slot->hdr;
	struct fuse_out_header *oh = (struct fuse_out_header *)hdr->in_out;
	u64 unique, flags;

	flags = READ_ONCE(hdr->flags);
	*error = READ_ONCE(oh->error);
	*payload_sz = READ_ONCE(hdr->payload_sz);

	if (likely(slot->req)) {
		unique = slot->req->in.h.unique;
	} else if (slot->message == FUSE_URING_MSG_INTERRUPT) {
		unique = slot->unique;
		*payload_sz = 0;
	} else {
		/* No reply expected */
		return flags ? -EINVAL : 0;
	}

	if (flags | (READ_ONCE(oh->unique) ^ unique))
		return -EINVAL;
	if (*error <= -512 || *error > 0)
		return -EINVAL;
	if (*error)
		*payload_sz = 0;
	if (*payload_sz > slot->payload_room)
		return -EINVAL;

	return 0;
}

/* Read each field once: the server can still write to the SQE */
static __always_inline struct fuse_uring_slot_cmd
fuse_uring_read_cmd(struct io_uring_cmd *cmd)
{
	const struct fuse_uring_slot_cmd *shared = io_uring_sqe_cmd(cmd->sqe);

	return (struct fuse_uring_slot_cmd) {
		.commit_id = READ_ONCE(shared->commit_id),
		.qid = READ_ONCE(shared->qid),
		.slot = READ_ONCE(shared->slot),
		.flags = READ_ONCE(shared->flags),
	};
}

/* Returns NULL if there is no such slot, see fuse_uring_slot_error() */
static __always_inline struct fuse_uring_slot *
fuse_uring_find_slot(const struct fuse_uring *uring,
		     struct fuse_uring_slot_cmd ureq)
{
	struct fuse_uring_queue *queue;
	unsigned int nr_slots;

	if (unlikely(!uring))
		return NULL;
	/* No slots with user buffers */
	nr_slots = fuse_uring_nr_slots(uring);
	if (unlikely(ureq.qid >= uring->nr_queues || ureq.slot >= nr_slots))
		return NULL;
	queue = uring->queues[array_index_nospec(ureq.qid, uring->nr_queues)];

	return &queue->slots[array_index_nospec(ureq.slot, nr_slots)];
}

static int fuse_uring_slot_error(struct fuse_conn *fc)
{
	if (!READ_ONCE(fc->connected))
		return -ENOTCONN;
	return READ_ONCE(fc->uring_user) ? -EBUSY : -ENXIO;
}

/* FUSE_URING_REQ_FETCH: arm a slot */
static int fuse_uring_fetch(struct io_uring_cmd *cmd,
			    struct fuse_uring_slot *slot,
			    unsigned int issue_flags)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_uring_thread *thread, *new;
	int err = 0;

	/* Used by the first slot of a thread only, but this is no hot path */
	new = fuse_uring_thread_alloc(queue, cmd);
	if (!new)
		return -ENOMEM;

	spin_lock(&queue->lock);
	if (queue->stopped)
		err = -ENOTCONN;
	else if (slot->state != FUSE_URING_SLOT_IDLE)
		err = -EBUSY;
	if (err) {
		fuse_uring_unlock(queue);
		fuse_uring_thread_free(new);
		return err;
	}
	thread = fuse_uring_thread_find(queue, cmd, &new);
	err = fuse_uring_arm(cmd, slot, thread, issue_flags);
	fuse_uring_thread_free(new);

	return err;
}

/* Copy a reply that fuse_uring_commit_small() can take, or return false */
static __always_inline bool
fuse_uring_copy_small(struct fuse_uring_slot *slot,
		      const struct fuse_uring_thread *thread, int error,
		      u32 payload_sz)
{
	struct fuse_req *req = slot->req;

	/* The end of a background request sends the next one */
	return likely(req && !test_bit(FR_BACKGROUND, &req->flags) &&
		      slot->thread == thread && !slot->detached &&
		      !slot->queue->nr_pending) &&
		(error || fuse_uring_copy_out_small(slot, req->args, payload_sz));
}

/* End a request and park the command without unlocking the queue between */
static __always_inline void
fuse_uring_commit_small(struct io_uring_cmd *cmd, struct fuse_uring_slot *slot,
			int error, u32 payload_sz, unsigned int issue_flags)
	__releases(&slot->queue->lock)
{
	const unsigned int qid = slot->queue->qid, index = slot->index;
	struct fuse_req *req = fuse_uring_slot_release(slot);

	fuse_uring_set_result(req, error, payload_sz);
	clear_bit(FR_SENT, &req->flags);
	WRITE_ONCE(req->uring_queue, NULL);
	trace_fuse_uring_commit(req, qid, index);
	fuse_uring_prepare(cmd, slot, slot->thread, issue_flags);
	fuse_uring_park(slot, cmd, FUSE_URING_SLOT_HELD);
	fuse_uring_unlock(slot->queue);

	trace_fuse_uring_end(req, qid, index);
	fuse_request_end(req);
}

/*
 * FUSE_URING_REQ_COMMIT_AND_FETCH.  RCU, and then the held slot, pin the ring.
 * Returns -EAGAIN if the thread is not known to the queue and @new is not
 * usable.  With NULL for @new it takes the usual way only, or returns -EAGAIN.
 */
static __always_inline int
fuse_uring_try_commit(struct io_uring_cmd *cmd, struct fuse_conn *fc,
		      struct fuse_uring_slot_cmd ureq,
		      struct fuse_uring_thread **new, unsigned int issue_flags)
{
	struct fuse_uring_thread *thread;
	struct fuse_uring_queue *queue;
	struct fuse_uring_slot *slot;
	u32 payload_sz;
	int err, error;

	if (unlikely(ureq.flags && !new))
		return -EAGAIN;

	rcu_read_lock();
	slot = fuse_uring_find_slot(fuse_uring_rcu(fc), ureq);
	if (unlikely(!slot)) {
		rcu_read_unlock();
		return fuse_uring_slot_error(fc);
	}
	queue = slot->queue;
	spin_lock(&queue->lock);
	rcu_read_unlock();

	if (unlikely(queue->stopped || slot->commit_id != ureq.commit_id ||
		     (slot->state != FUSE_URING_SLOT_HELD &&
		      slot->state != FUSE_URING_SLOT_ORPHAN)))
		err = fuse_uring_commit_error(slot);
	else
		err = fuse_uring_read_reply(slot, &error, &payload_sz);
	if (unlikely(err))
		goto unlock;

	thread = slot->thread;
	if (unlikely(!thread || !fuse_uring_thread_is(thread, cmd))) {
		err = -EAGAIN;
		thread = new ? fuse_uring_thread_find(queue, cmd, new) : NULL;
		if (!thread)
			goto unlock;
	}

	if (new && ureq.flags & FUSE_URING_COMMIT_ONLY) {
		slot->detached = true;
		slot->commit_only = true;
		fuse_uring_slot_unregister(slot);
	}
	if (unlikely(slot->is_control))
		return fuse_uring_commit_control(cmd, slot, thread, error,
						 issue_flags);
	if (likely(fuse_uring_copy_small(slot, thread, error, payload_sz))) {
		fuse_uring_commit_small(cmd, slot, error, payload_sz,
					issue_flags);
		return -EIOCBQUEUED;
	}
	return fuse_uring_commit(cmd, slot, thread, error, payload_sz,
				 issue_flags);
unlock:
	fuse_uring_unlock(queue);
	return err;
}

/* Commit with flags, or by another thread than the one that has the request */
static noinline int fuse_uring_commit_other(struct io_uring_cmd *cmd,
					    struct fuse_conn *fc,
					    struct fuse_uring_slot_cmd ureq,
					    unsigned int issue_flags)
{
	struct fuse_uring_thread *new = NULL;
	int ret;

	for (;;) {
		ret = fuse_uring_try_commit(cmd, fc, ureq, &new, issue_flags);
		if (ret != -EAGAIN)
			break;
		fuse_uring_thread_free(new);
		new = fuse_uring_new_thread(cmd, fc, ureq.qid);
		if (IS_ERR(new))
			return PTR_ERR(new);
	}
	fuse_uring_thread_free(new);

	return ret;
}

/* FETCH, NOTIFY and DETACH */
static int fuse_uring_do_cmd(struct io_uring_cmd *cmd, struct fuse_uring *uring,
			     struct fuse_uring_slot_cmd ureq,
			     unsigned int issue_flags)
{
	struct fuse_uring_slot *slot;

	if (uring->user)
		return fuse_uring_slot_error(uring->fc);
	if (ureq.commit_id ||
	    (ureq.slot && cmd->cmd_op != FUSE_URING_REQ_FETCH) ||
	    (ureq.qid && cmd->cmd_op == FUSE_URING_REQ_NOTIFY))
		return -EINVAL;
	if (cmd->cmd_op == FUSE_URING_REQ_NOTIFY)
		return fuse_uring_notify(cmd, uring, issue_flags);

	slot = fuse_uring_find_slot(uring, ureq);
	if (!slot)
		return fuse_uring_slot_error(uring->fc);
	if (cmd->cmd_op == FUSE_URING_REQ_FETCH)
		return fuse_uring_fetch(cmd, slot, issue_flags);

	fuse_uring_queue_detach(slot->queue);
	return READ_ONCE(slot->queue->stopped) ? -ENOTCONN : 0;
}

static bool fuse_uring_knows(u32 cmd_op, u32 flags)
{
	switch (cmd_op) {
	case FUSE_IO_URING_CMD_REGISTER:
	case FUSE_IO_URING_CMD_COMMIT_AND_FETCH:
		return true;
	case FUSE_URING_REQ_COMMIT_AND_FETCH:
		return !(flags & ~FUSE_URING_COMMIT_ONLY);
	case FUSE_URING_REQ_FETCH:
	case FUSE_URING_REQ_NOTIFY:
	case FUSE_URING_REQ_DETACH:
		return !flags;
	default:
		return false;
	}
}

static void fuse_uring_cmd_in_task(struct io_uring_cmd *cmd,
				   unsigned int issue_flags)
{
	unsigned int flags = *io_uring_cmd_to_pdu(cmd, unsigned int);
	int ret = -ECANCELED;

	if (!(current->flags & (PF_EXITING | PF_KTHREAD)))
		ret = fuse_uring_cmd(cmd, issue_flags | flags);
	fuse_uring_cmd_done(cmd, ret, issue_flags);
}

/* All commands other than FUSE_URING_REQ_COMMIT_AND_FETCH, and the exceptions */
static noinline int fuse_uring_other_cmd(struct io_uring_cmd *cmd,
					 unsigned int issue_flags)
{
	struct fuse_dev *fud = fuse_get_dev(cmd->file);
	struct fuse_uring_slot_cmd ureq;
	struct fuse_uring *uring;
	int ret;

	/* Here the SQE is not valid any more */
	if (issue_flags & IO_URING_F_CANCEL) {
		if (cmd->cmd_op == FUSE_URING_REQ_NOTIFY)
			fuse_uring_notify_cancel(cmd);
		else
			fuse_uring_cancel(cmd);
		return 0;
	}
	ureq = fuse_uring_read_cmd(cmd);
	if (!fuse_uring_knows(cmd->cmd_op, ureq.flags))
		return fud && READ_ONCE(fud->fc->uring_user) ? -EINVAL :
			-EOPNOTSUPP;
	if (!fud)
		return -ENOTCONN;

	/* io-wq does not hold the lock under which commands are cancelled */
	if (issue_flags & IO_URING_F_UNLOCKED &&
	    cmd->cmd_op != FUSE_URING_REQ_NOTIFY) {
		*io_uring_cmd_to_pdu(cmd, unsigned int) = issue_flags &
			(IO_URING_F_SQE128 | IO_URING_F_COMPAT);
		io_uring_cmd_complete_in_task(cmd, fuse_uring_cmd_in_task);
		return -EIOCBQUEUED;
	}

	if (cmd->cmd_op == FUSE_IO_URING_CMD_REGISTER ||
	    cmd->cmd_op == FUSE_IO_URING_CMD_COMMIT_AND_FETCH)
		return fuse_uring_user_cmd(cmd, fud, issue_flags);
	if (cmd->cmd_op == FUSE_URING_REQ_COMMIT_AND_FETCH)
		return fuse_uring_commit_other(cmd, fud->fc, ureq,
					       issue_flags);

	uring = fuse_uring_get(fud->fc);
	if (!uring)
		return fuse_uring_slot_error(fud->fc);
	ret = fuse_uring_do_cmd(cmd, uring, ureq, issue_flags);
	fuse_uring_put(uring);

	return ret;
}

/*
 * The SQE is valid during this call only.  Returns -EIOCBQUEUED, or the result
 * of the command, see FUSE_URING_REQ_FETCH.
 */
int fuse_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct fuse_dev *fud = fuse_get_dev(cmd->file);
	int ret;

	if (unlikely(cmd->cmd_op != FUSE_URING_REQ_COMMIT_AND_FETCH || !fud ||
		     issue_flags & (IO_URING_F_CANCEL | IO_URING_F_UNLOCKED)))
		return fuse_uring_other_cmd(cmd, issue_flags);

	ret = fuse_uring_try_commit(cmd, fud->fc, fuse_uring_read_cmd(cmd),
				    NULL, issue_flags);
	if (unlikely(ret == -EAGAIN))
		return fuse_uring_other_cmd(cmd, issue_flags);

	return ret;
}
