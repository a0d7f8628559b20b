// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: the server's side of a slot.
 *
 * All of this runs in the task that submitted the command: at submission, in
 * task work, or when io_uring cancels the command.  Once that task is gone the
 * latter two run in a kworker.
 */
#include "dev_uring_slot.h"
#include "fuse_trace.h"

#include <linux/cgroup.h>
#include <linux/page-flags.h>
#include <linux/sched/signal.h>

/*
 * Whether nobody would see the completion of @cmd by this task work: it runs in
 * a kworker, the task exits or is killed, or the io_uring is closed.
 */
static bool fuse_uring_cmd_is_dead(struct io_uring_cmd *cmd)
{
	return (current->flags & (PF_EXITING | PF_KTHREAD)) ||
		fatal_signal_pending(current) ||
		percpu_ref_is_dying(&fuse_uring_cmd_ctx(cmd)->refs);
}

/* The first request of a kind that the thread of the slot may take */
static __always_inline struct fuse_req *
fuse_uring_first(const struct fuse_uring_slot *slot, enum fuse_uring_kind kind)
{
	struct list_head *list = &slot->queue->pending[kind];
	struct fuse_req *req;

	req = list_first_entry(list, struct fuse_req, list);
	if (likely(!(slot->thread->ctx->flags & IORING_SETUP_SQPOLL)))
		return req;

	list_for_each_entry(req, list, list)
		if (!fuse_uring_thread_is_sender(slot->thread,
						 req->uring_sender))
			return req;

	return NULL;
}

/* See fuse_uring_pool_take() for a kind that has to wait for memory */
static struct fuse_req *fuse_uring_take_kind(struct fuse_uring_slot *slot,
					     enum fuse_uring_kind kind)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_req *req;

	if (!fuse_uring_may_take(queue, kind)) {
		fuse_uring_pool_pass(queue, kind);
		return NULL;
	}
	req = fuse_uring_first(slot, kind);
	if (unlikely(req && req->uring_area > queue->uring->small_size) &&
	    !fuse_uring_pool_take(slot, req->uring_area, kind)) {
		queue->stats.pool_waits++;
		return NULL;
	}

	return req;
}

/*
 * Commands with user buffers name the request, not the slot.  So find the slot
 * by the unique id of its last request.
 */
static void fuse_uring_user_commit_id(struct fuse_uring_slot *slot, u64 unique)
{
	slot->commit_id = unique;
	hlist_del_init(&slot->by_commit_id);
	hlist_add_head(&slot->by_commit_id,
		       fuse_uring_commit_list(slot->queue, unique));
}

/* Move a pending request to the slot.  Signals do not end it any more. */
static __always_inline struct fuse_req *
fuse_uring_take_one(struct fuse_uring_slot *slot, struct fuse_req *req,
		    enum fuse_uring_kind kind)
{
	struct fuse_uring_queue *queue = slot->queue;

	fuse_uring_del_pending(queue, req, kind);
	clear_bit(FR_PENDING, &req->flags);
	slot->req = req;
	if (kind > FUSE_URING_SYNC_LARGE) {
		slot->kind = kind;
		WRITE_ONCE(queue->taken[kind], queue->taken[kind] + 1);
	}
	if (likely(!slot->is_user))
		slot->commit_id = fuse_uring_commit_id(queue);
	else
		fuse_uring_user_commit_id(slot, req->in.h.unique);

	return req;
}

/*
 * Kinds take turns.  A kind is skipped if its first request finds no credit or
 * memory.
 */
static noinline struct fuse_req *
fuse_uring_take_turn(struct fuse_uring_slot *slot)
{
	struct fuse_uring_queue *queue = slot->queue;
	unsigned int kind, mask, later;
	struct fuse_req *req;

	for (mask = queue->waiting; mask; mask &= ~BIT(kind)) {
		later = mask & -BIT(queue->next_kind);
		kind = __ffs(later ?: mask);
		req = fuse_uring_take_kind(slot, kind);
		if (!req)
			continue;
		/* One that needs none may come before those that wait for memory */
		if (unlikely(queue->pool.turn == kind))
			fuse_uring_pool_pass(queue, kind);
		queue->next_kind = kind + 1 < FUSE_URING_NR_KINDS ? kind + 1 : 0;
		return fuse_uring_take_one(slot, req, kind);
	}

	return NULL;
}

/* Take the next pending request into a slot in COPY */
static __always_inline struct fuse_req *
fuse_uring_take(struct fuse_uring_slot *slot)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_req *req;

	lockdep_assert_held(&queue->lock);

	/* Nearly always one kind waits, and it needs no memory */
	if (likely(queue->waiting == BIT(FUSE_URING_SYNC))) {
		req = fuse_uring_first(slot, FUSE_URING_SYNC);
		return likely(req) ?
			fuse_uring_take_one(slot, req, FUSE_URING_SYNC) : NULL;
	}
	if (queue->waiting == BIT(FUSE_URING_BACKGROUND) &&
	    fuse_uring_may_take(queue, FUSE_URING_BACKGROUND)) {
		req = fuse_uring_first(slot, FUSE_URING_BACKGROUND);
		return fuse_uring_take_one(slot, req, FUSE_URING_BACKGROUND);
	}

	return fuse_uring_take_turn(slot);
}

/*
 * The request is in flight from here: the command is about to be completed.
 * Unlocks the queue.
 */
static __always_inline void
fuse_uring_deliver(struct fuse_uring_slot *slot)
	__releases(&slot->queue->lock)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_req *req = slot->req;
	bool interrupted = false;
	unsigned int qid, index;

	slot->since = jiffies;
	__fuse_uring_slot_move(slot, FUSE_URING_SLOT_COPY, FUSE_URING_SLOT_HELD,
			       FUSE_URING_ORDINARY);
	trace_fuse_uring_send(req, queue->qid, slot->index);
	if (unlikely(!test_bit(FR_ISREPLY, &req->flags))) {
		/* The server holds the slot until it is committed */
		slot->req = NULL;
		slot->opcode = req->in.h.opcode;
		slot->unique = req->in.h.unique;
		WRITE_ONCE(req->uring_queue, NULL);
		/* The slot pinned the ring, which may be freed now */
		qid = queue->qid;
		index = slot->index;
		fuse_uring_call_more(queue);
		fuse_uring_unlock(queue);
		req->out.h.error = 0;
		trace_fuse_uring_end(req, qid, index);
		fuse_request_end(req);
		return;
	}

	set_bit(FR_SENT, &req->flags);
	/* matches barrier in request_wait_answer() */
	smp_mb__after_atomic();
	if (unlikely(test_bit(FR_INTERRUPTED, &req->flags))) {
		__fuse_get_request(req);
		interrupted = true;
	}
	/* The slot is HELD: this may find that its own thread has ended */
	fuse_uring_call_more(queue);
	fuse_uring_unlock(queue);

	if (interrupted) {
		fuse_queue_interrupt(req);
		fuse_put_request(req);
	}
}

/*
 * Requeue the request while memory is faulted in, so that another slot can take
 * it, or a signal end it.  The memory may depend on this very request.  Returns
 * whether to try again.
 */
static bool fuse_uring_retry(struct fuse_uring_slot *slot, struct fuse_req *req,
			     unsigned int faults)
	__must_hold(&slot->queue->lock)
{
	struct fuse_uring_queue *queue = slot->queue;
	u32 size = req->uring_in_size;
	bool ok;

	fuse_uring_putback(queue, req);
	fuse_uring_unlock(queue);
	ok = faults < FUSE_URING_MAX_FAULTS && fuse_uring_fault_in(slot, size);
	spin_lock(&queue->lock);

	return ok;
}

/*
 * Give the next request to a slot in COPY, or park its command.  Unlocks the
 * queue.  Returns the result of the command, -EIOCBQUEUED if it is parked.
 * @done: the slot may take no more requests.  One that was called would have
 * been dropped.
 */
static __always_inline int __fuse_uring_feed(struct fuse_uring_slot *slot,
					     struct io_uring_cmd *cmd, bool done)
	__releases(&slot->queue->lock)
{
	struct fuse_uring_queue *queue = slot->queue;
	unsigned int faults = 0;
	struct fuse_req *req;
	int err;

	for (;; done = true) {
		err = -ECANCELED;
		if (done && fuse_uring_slot_is_done(slot)) {
			err = fuse_uring_slot_disarmed(slot);
			break;
		}

		req = fuse_uring_take(slot);
		if (!req) {
			fuse_uring_park(slot, cmd, FUSE_URING_SLOT_COPY);
			fuse_uring_unlock(queue);
			return -EIOCBQUEUED;
		}
		/* Only one without payload is copied under the lock */
		if (likely(!req->uring_in_size && !slot->is_user &&
			   fuse_uring_fits(slot, req))) {
			fuse_uring_copy_headers(slot, req);
			fuse_uring_deliver(slot);
			return 0;
		}
		fuse_uring_call_more(queue);
		spin_unlock(&queue->lock);
		err = fuse_uring_copy_in(slot, req);
		spin_lock(&queue->lock);
		if (likely(!err && !fuse_uring_slot_is_done(slot))) {
			fuse_uring_deliver(slot);
			return 0;
		}

		fuse_uring_slot_release(slot);
		if (queue->stopped) {
			spin_unlock(&queue->lock);
			fuse_uring_requeue(queue->uring->fc, req);
			spin_lock(&queue->lock);
			continue;
		} else if (!err) {
			fuse_uring_putback(queue, req);
			continue;
		} else if (err == -EFAULT && slot->is_user) {
			if (fuse_uring_retry(slot, req, ++faults))
				continue;
			break;
		}
		WRITE_ONCE(req->uring_queue, NULL);
		spin_unlock(&queue->lock);
		req->out.h.error = err;
		trace_fuse_uring_end(req, slot->queue->qid, slot->index);
		fuse_request_end(req);
		spin_lock(&queue->lock);
	}

	if (queue->stopped || (slot->is_user && err == -ECANCELED))
		err = fuse_uring_gone(queue->uring->fc, slot->is_user);
	fuse_uring_slot_move(slot, FUSE_URING_SLOT_COPY, FUSE_URING_SLOT_IDLE);
	fuse_uring_call_more(queue);
	fuse_uring_unlock(queue);

	return err;
}

static noinline int fuse_uring_feed(struct fuse_uring_slot *slot,
				    struct io_uring_cmd *cmd)
	__releases(&slot->queue->lock)
{
	return slot->is_control ? fuse_uring_feed_control(slot, cmd) :
		__fuse_uring_feed(slot, cmd, true);
}

/* Complete a command, unless @ret says that it is parked */
int fuse_uring_cmd_done(struct io_uring_cmd *cmd, int ret,
			unsigned int issue_flags)
{
	if (ret != -EIOCBQUEUED)
		io_uring_cmd_done(cmd, ret, 0, issue_flags);
	return -EIOCBQUEUED;
}

/*
 * Arm an IDLE slot of a queue that is not stopped.  Unlocks the queue.  Returns
 * -EIOCBQUEUED.
 */
int fuse_uring_arm(struct io_uring_cmd *cmd, struct fuse_uring_slot *slot,
		   struct fuse_uring_thread *thread, unsigned int issue_flags)
	__releases(&slot->queue->lock)
{
	struct fuse_uring_queue *queue = slot->queue;

	fuse_uring_slot_bind(slot, thread);
	fuse_uring_slot_move(slot, FUSE_URING_SLOT_IDLE, FUSE_URING_SLOT_COPY);
	/* May make the queue live, so that requests come to it */
	fuse_uring_unlock(queue);
	fuse_uring_prepare(cmd, slot, thread, issue_flags);

	spin_lock(&queue->lock);
	fuse_uring_cmd_done(cmd, fuse_uring_feed(slot, cmd), issue_flags);

	return -EIOCBQUEUED;
}

/* Why a slot can not be committed.  Called under queue->lock. */
int fuse_uring_commit_error(struct fuse_uring_slot *slot)
{
	if (slot->queue->stopped)
		return -ENOTCONN;
	if (slot->state == FUSE_URING_SLOT_COPY ||
	    slot->state == FUSE_URING_SLOT_COMMIT)
		return -EBUSY;
	return -ENOENT;
}

/* Called under queue->lock */
static __always_inline void
fuse_uring_commit_begin(struct fuse_uring_slot *slot,
			struct fuse_uring_thread *thread, unsigned int i)
{
	if (unlikely(slot->state == FUSE_URING_SLOT_ORPHAN)) {
		fuse_uring_slot_disown(slot);
		fuse_uring_slot_bind(slot, thread);
		__fuse_uring_slot_move(slot, FUSE_URING_SLOT_ORPHAN,
				       FUSE_URING_SLOT_COMMIT, i);
		if (slot->detached)
			fuse_uring_slot_unregister(slot);
		return;
	}

	if (unlikely(slot->thread != thread))
		fuse_uring_slot_rebind(slot, thread);
	__fuse_uring_slot_move(slot, FUSE_URING_SLOT_HELD,
			       FUSE_URING_SLOT_COMMIT, i);
}

static void fuse_uring_end_work(struct work_struct *work)
{
	fuse_request_end(container_of(work, struct fuse_req, uring_end_work));
}

/*
 * Marking pages dirty takes their locks.  Those of files may be locked for as
 * long as this very server takes to write them back; anonymous ones are not.
 */
static bool fuse_uring_end_may_wait(const struct fuse_req *req)
{
	const struct fuse_args_pages *ap;
	unsigned int i;

	if (likely(!req->args->may_block))
		return false;

	ap = container_of(req->args, struct fuse_args_pages, args);
	for (i = 0; i < ap->num_pages; i++)
		if (!PageAnon(ap->pages[i]))
			return true;

	return false;
}

/*
 * End a request.  If that may block, e.g. on a page under writeback, let a
 * worker do it: what it waits for may need this thread.
 */
static void fuse_uring_end(struct fuse_uring_queue *queue, struct fuse_req *req)
{
	if (likely(!fuse_uring_end_may_wait(req))) {
		fuse_request_end(req);
		return;
	}

	INIT_WORK(&req->uring_end_work, fuse_uring_end_work);
	fuse_uring_notifier_queue(queue->uring->notifier, &req->uring_end_work);
}

/*
 * The reply has to be faulted in first: give the slot back to the server.
 * Returns false if the connection has ended.
 */
static bool fuse_uring_uncommit(struct fuse_uring_slot *slot,
				struct fuse_req *req)
{
	struct fuse_uring_queue *queue = slot->queue;
	bool stopped;

	spin_lock(&queue->lock);
	stopped = queue->stopped;
	if (!stopped) {
		slot->req = req;
		slot->since = jiffies;
		fuse_uring_slot_move(slot, FUSE_URING_SLOT_COMMIT,
				     FUSE_URING_SLOT_HELD);
		if (slot->thread->ended)
			fuse_uring_slot_orphan(slot);
		else
			fuse_uring_watch(queue);
		fuse_uring_call_more(queue);
	}
	fuse_uring_unlock(queue);

	return !stopped;
}

/*
 * Take the reply in a HELD or ORPHAN slot, and arm the slot again.  Unlocks the
 * queue.  Returns -EIOCBQUEUED.  A malformed reply fails the request with -EIO;
 * it also disarms a managed slot, and returns -EBADMSG.  User buffers: -EFAULT
 * if nothing has changed, as the reply has to be faulted in first.
 */
int fuse_uring_commit(struct io_uring_cmd *cmd, struct fuse_uring_slot *slot,
		      struct fuse_uring_thread *thread, int error,
		      u32 payload_sz, unsigned int issue_flags)
	__releases(&slot->queue->lock)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_req *req;
	int err = 0;

	fuse_uring_commit_begin(slot, thread, FUSE_URING_ORDINARY);
	req = slot->req;
	slot->req = NULL;
	fuse_uring_unlock(queue);

	if (likely(req)) {
		if (!error)
			err = fuse_uring_copy_out(slot, req, payload_sz);
		if (unlikely(err == -EFAULT && slot->is_user) &&
		    fuse_uring_uncommit(slot, req))
			return err;
		clear_bit(FR_SENT, &req->flags);
		/* The requester may read it after the ring is freed */
		WRITE_ONCE(req->uring_queue, NULL);
		trace_fuse_uring_commit(req, queue->qid, slot->index);
		fuse_uring_set_result(req, unlikely(err) ? -EIO : error,
				      payload_sz);
		trace_fuse_uring_end(req, queue->qid, slot->index);
		fuse_uring_end(queue, req);
	}

	if (unlikely(err && !slot->is_user)) {
		spin_lock(&queue->lock);
		fuse_uring_slot_release(slot);
		__fuse_uring_slot_move(slot, FUSE_URING_SLOT_COMMIT,
				       FUSE_URING_SLOT_IDLE,
				       FUSE_URING_ORDINARY);
		fuse_uring_call_more(queue);
		fuse_uring_unlock(queue);
		return -EBADMSG;
	}

	fuse_uring_prepare(cmd, slot, thread, issue_flags);

	spin_lock(&queue->lock);
	fuse_uring_slot_release(slot);
	if (likely(!queue->nr_pending && !fuse_uring_slot_is_done(slot))) {
		fuse_uring_park(slot, cmd, FUSE_URING_SLOT_COMMIT);
		fuse_uring_unlock(queue);
	} else {
		__fuse_uring_slot_move(slot, FUSE_URING_SLOT_COMMIT,
				       FUSE_URING_SLOT_COPY,
				       FUSE_URING_ORDINARY);
		fuse_uring_cmd_done(cmd, __fuse_uring_feed(slot, cmd, true),
				    issue_flags);
	}

	return -EIOCBQUEUED;
}

/* As fuse_uring_commit(), for a control slot */
int fuse_uring_commit_control(struct io_uring_cmd *cmd,
			      struct fuse_uring_slot *slot,
			      struct fuse_uring_thread *thread, int error,
			      unsigned int issue_flags)
	__releases(&slot->queue->lock)
{
	struct fuse_uring_queue *queue = slot->queue;
	bool interrupt = slot->message == FUSE_URING_MSG_INTERRUPT;
	const struct fuse_out_header oh = {
		.len = sizeof(oh),
		.error = error,
		.unique = slot->unique,
	};

	fuse_uring_message_end(slot);
	fuse_uring_commit_begin(slot, thread, FUSE_URING_CONTROL);
	fuse_uring_unlock(queue);

	/* What a write(2) of it does.  The request may be answered by now. */
	if (interrupt && error)
		fuse_dev_take(fuse_get_dev(cmd->file), &oh, sizeof(oh));
	fuse_uring_prepare(cmd, slot, thread, issue_flags);

	spin_lock(&queue->lock);
	fuse_uring_slot_move(slot, FUSE_URING_SLOT_COMMIT, FUSE_URING_SLOT_COPY);
	fuse_uring_cmd_done(cmd, fuse_uring_feed(slot, cmd), issue_flags);

	return -EIOCBQUEUED;
}

/* Task work for a command that was called or dropped */
void fuse_uring_called(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct fuse_uring_pdu *pdu = fuse_uring_pdu(cmd);
	struct fuse_uring_thread *thread = pdu->thread;
	struct fuse_uring_queue *queue = thread->queue;
	struct fuse_uring_slot *slot = pdu->slot;
	int ret;

	spin_lock(&queue->lock);
	if (unlikely(!pdu->dropped && fuse_uring_cmd_is_dead(cmd))) {
		fuse_uring_thread_end(thread);
		fuse_uring_call_more(queue);
	}
	if (unlikely(pdu->dropped)) {
		fuse_uring_thread_put(thread);
		fuse_uring_unlock(queue);
		/* See fuse_uring_cancel() */
		cmd->flags |= IORING_URING_CMD_CANCELABLE;
		io_uring_cmd_done(cmd, pdu->ret, 0, issue_flags);
		return;
	}

	/* A frozen task runs task work only */
	if (unlikely(cgroup_task_frozen(current))) {
		fuse_uring_slot_move(slot, FUSE_URING_SLOT_CALLED,
				     FUSE_URING_SLOT_COPY);
		fuse_uring_slot_move(slot, FUSE_URING_SLOT_COPY,
				     FUSE_URING_SLOT_PARKED);
		fuse_uring_unlock(queue);
		return;
	}

	slot->cmd = NULL;
	if (unlikely(slot->is_control)) {
		fuse_uring_slot_move(slot, FUSE_URING_SLOT_CALLED,
				     FUSE_URING_SLOT_COPY);
		ret = fuse_uring_feed_control(slot, cmd);
	} else {
		__fuse_uring_slot_move(slot, FUSE_URING_SLOT_CALLED,
				       FUSE_URING_SLOT_COPY,
				       FUSE_URING_ORDINARY);
		ret = __fuse_uring_feed(slot, cmd, false);
	}
	fuse_uring_cmd_done(cmd, ret, issue_flags);
}

/*
 * io_uring cancels a command: the io_uring is being closed, or the task exits
 * or runs another program.  So the thread has ended.
 *
 * Task work completes a dropped command.  It may be on the io_uring's own list,
 * which runs only after a round of cancellation that found nothing to cancel.
 * So such a command must not be cancelable any more.
 */
void fuse_uring_cancel(struct io_uring_cmd *cmd)
{
	struct fuse_uring_pdu *pdu = fuse_uring_pdu(cmd);
	struct fuse_uring_thread *thread = pdu->thread;
	struct fuse_uring_queue *queue = thread->queue;

	rcu_read_lock();
	spin_lock(&queue->lock);
	fuse_uring_thread_end(thread);
	fuse_uring_call_more(queue);
	if (pdu->dropped)
		cmd->flags &= ~IORING_URING_CMD_CANCELABLE;
	fuse_uring_unlock(queue);
	rcu_read_unlock();
}
