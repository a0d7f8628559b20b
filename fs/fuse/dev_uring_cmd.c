// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: commands.
 */
#include "dev_uring_i.h"

#include <linux/nospec.h>

/*
 * Read and check the reply in a held slot.  The server can still write to it:
 * read each field once.
 */
static int fuse_uring_read_reply(struct fuse_uring_slot *slot,
				 struct fuse_out_header *oh, u32 *payload_sz)
{
	struct fuse_uring_req_header *hdr = slot->hdr;
	struct fuse_out_header *uoh = (struct fuse_out_header *)hdr->in_out;
	u64 unique;

	oh->error = READ_ONCE(uoh->error);
	oh->unique = READ_ONCE(uoh->unique);
	*payload_sz = READ_ONCE(hdr->ring_ent_in_out.payload_sz);

	if (likely(slot->req)) {
		unique = slot->req->in.h.unique;
	} else if (slot->message == FUSE_URING_MSG_INTERRUPT) {
		unique = slot->unique;
		*payload_sz = 0;
	} else {
		/* No reply expected */
		return 0;
	}

	if (oh->unique != unique)
		return -EINVAL;
	if (oh->error <= -512 || oh->error > 0)
		return -EINVAL;
	if (oh->error)
		*payload_sz = 0;
	if (*payload_sz > slot->payload_room)
		return -EINVAL;

	oh->len = sizeof(*oh) + *payload_sz;
	return 0;
}

/* Read each field once: the server can still write to the SQE */
static void fuse_uring_read_cmd(struct io_uring_cmd *cmd,
				struct fuse_uring_req_cmd *ureq)
{
	const struct fuse_uring_req_cmd *shared = io_uring_sqe_cmd(cmd->sqe);

	ureq->commit_id = READ_ONCE(shared->commit_id);
	ureq->qid = READ_ONCE(shared->qid);
	ureq->slot = READ_ONCE(shared->slot);
	ureq->flags = READ_ONCE(shared->flags);
}

static __always_inline struct fuse_uring_slot *
fuse_uring_find_slot(struct fuse_uring *uring,
		     const struct fuse_uring_req_cmd *ureq)
{
	struct fuse_uring_queue *queue;
	unsigned int nr_slots;

	if (unlikely(!uring))
		return ERR_PTR(-EOPNOTSUPP);
	/* No slots with user buffers */
	nr_slots = fuse_uring_nr_slots(uring);
	if (unlikely(ureq->flags || ureq->qid >= uring->nr_queues ||
		     ureq->slot >= nr_slots))
		return ERR_PTR(uring->user ? -EBUSY : -EINVAL);
	queue = uring->queues[array_index_nospec(ureq->qid, uring->nr_queues)];

	return &queue->slots[array_index_nospec(ureq->slot, nr_slots)];
}

/* Error of a command when there is no managed ring */
static int fuse_uring_no_ring(struct fuse_conn *fc)
{
	if (!READ_ONCE(fc->connected))
		return -ENOTCONN;
	return READ_ONCE(fc->uring_user) ? -EBUSY : -EOPNOTSUPP;
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

/*
 * FUSE_URING_REQ_COMMIT_AND_FETCH.  RCU, and then the held slot, pin the ring.
 * Returns -EAGAIN if the thread is not known to the queue and @new is not
 * usable.
 */
static int fuse_uring_try_commit(struct io_uring_cmd *cmd, struct fuse_conn *fc,
				 const struct fuse_uring_req_cmd *ureq,
				 struct fuse_uring_thread **new,
				 unsigned int issue_flags)
{
	struct fuse_uring_thread *thread = NULL;
	struct fuse_uring_queue *queue;
	struct fuse_uring_slot *slot;
	struct fuse_out_header oh;
	u32 payload_sz;
	int err;

	rcu_read_lock();
	slot = fuse_uring_find_slot(fuse_uring_rcu(fc), ureq);
	if (IS_ERR(slot)) {
		rcu_read_unlock();
		err = PTR_ERR(slot);
		return err == -EOPNOTSUPP ? fuse_uring_no_ring(fc) : err;
	}
	queue = slot->queue;
	spin_lock(&queue->lock);
	rcu_read_unlock();

	if (unlikely(queue->stopped || slot->commit_id != ureq->commit_id ||
		     (slot->state != FUSE_URING_SLOT_HELD &&
		      slot->state != FUSE_URING_SLOT_ORPHAN)))
		err = fuse_uring_commit_error(slot);
	else
		err = fuse_uring_read_reply(slot, &oh, &payload_sz);
	if (likely(!err)) {
		thread = slot->thread;
		if (unlikely(!thread || !fuse_uring_thread_is(thread, cmd)))
			thread = fuse_uring_thread_find(queue, cmd, new);
		if (unlikely(!thread))
			err = -EAGAIN;
	}
	if (unlikely(err)) {
		fuse_uring_unlock(queue);
		return err;
	}

	if (unlikely(slot->is_control))
		return fuse_uring_commit_control(cmd, slot, thread, &oh,
						 issue_flags);
	return fuse_uring_commit(cmd, slot, thread, &oh, payload_sz,
				 issue_flags);
}

static int fuse_uring_commit_cmd(struct io_uring_cmd *cmd, struct fuse_conn *fc,
				 const struct fuse_uring_req_cmd *ureq,
				 unsigned int issue_flags)
{
	struct fuse_uring_thread *new = NULL;
	int ret;

	for (;;) {
		ret = fuse_uring_try_commit(cmd, fc, ureq, &new, issue_flags);
		if (likely(ret != -EAGAIN))
			break;
		fuse_uring_thread_free(new);
		new = fuse_uring_new_thread(cmd, fc, ureq->qid);
		if (IS_ERR(new))
			return PTR_ERR(new);
	}
	fuse_uring_thread_free(new);

	return ret;
}

/* FUSE_URING_REQ_DETACH */
static int fuse_uring_detach(struct fuse_uring_queue *queue)
{
	fuse_uring_queue_detach(queue);

	return READ_ONCE(queue->stopped) ? -ENOTCONN : 0;
}

/* All commands other than FUSE_URING_REQ_COMMIT_AND_FETCH */
static int fuse_uring_other_cmd(struct io_uring_cmd *cmd,
				struct fuse_uring *uring,
				const struct fuse_uring_req_cmd *ureq,
				unsigned int issue_flags)
{
	struct fuse_uring_slot *slot = fuse_uring_find_slot(uring, ureq);

	if (IS_ERR(slot))
		return PTR_ERR(slot);

	switch (cmd->cmd_op) {
	case FUSE_URING_REQ_FETCH:
		if (ureq->commit_id)
			return -EINVAL;
		return fuse_uring_fetch(cmd, slot, issue_flags);
	case FUSE_URING_REQ_NOTIFY:
		if (ureq->commit_id || ureq->qid || ureq->slot)
			return -EINVAL;
		return fuse_uring_notify(cmd, uring, issue_flags);
	case FUSE_URING_REQ_DETACH:
		if (ureq->commit_id || ureq->slot)
			return -EINVAL;
		return fuse_uring_detach(slot->queue);
	default:
		return -EOPNOTSUPP;
	}
}

/*
 * The SQE is valid during this call only.  Returns -EIOCBQUEUED, or the result
 * of the command, see FUSE_URING_REQ_FETCH.
 */
int fuse_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct fuse_uring_req_cmd ureq;
	struct fuse_uring *uring;
	struct fuse_dev *fud;
	int ret;

	if (unlikely(issue_flags & IO_URING_F_CANCEL)) {
		if (cmd->cmd_op == FUSE_URING_REQ_NOTIFY)
			fuse_uring_notify_cancel(cmd, issue_flags);
		else
			fuse_uring_cancel(cmd, issue_flags);
		return 0;
	}

	fud = fuse_get_dev(cmd->file);
	if (!fud)
		return -EOPNOTSUPP;

	if (unlikely(cmd->cmd_op == FUSE_IO_URING_CMD_REGISTER ||
		     cmd->cmd_op == FUSE_IO_URING_CMD_COMMIT_AND_FETCH))
		return fuse_uring_user_cmd(cmd, fud, issue_flags);

	fuse_uring_read_cmd(cmd, &ureq);
	if (likely(cmd->cmd_op == FUSE_URING_REQ_COMMIT_AND_FETCH))
		return fuse_uring_commit_cmd(cmd, fud->fc, &ureq, issue_flags);

	uring = fuse_uring_get(fud->fc);
	if (!uring)
		return fuse_uring_no_ring(fud->fc);
	ret = fuse_uring_other_cmd(cmd, uring, &ureq, issue_flags);
	fuse_uring_put(uring);

	return ret;
}
