// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: a request's way into a slot.
 *
 * A synchronous request that finds a slot ready is copied in by its requester,
 * on its own CPU.  All others are left to the server to copy in: those that
 * wait for a slot, and background requests, which are sent under spinlocks.
 */
#include "uring_i.h"
#include "fuse_trace.h"

#include <linux/slab.h>

static void fuse_uring_slot_uncredit(struct fuse_uring_slot *slot)
{
	struct fuse_uring_queue *queue = slot->queue;

	if (slot->background) {
		slot->background = false;
		WRITE_ONCE(queue->nr_background, queue->nr_background - 1);
	}
}

/**
 * fuse_uring_slot_revoke - take a slot's request away, and give back what it has
 *	for it: a credit, memory of the pool
 * @slot: the slot, whose queue is locked
 *
 * Return: the request, NULL when there was none.
 */
struct fuse_req *fuse_uring_slot_revoke(struct fuse_uring_slot *slot)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_req *req = slot->req;

	lockdep_assert_held(&queue->lock);

	slot->req = NULL;
	fuse_uring_slot_uncredit(slot);
	if (slot->lot)
		fuse_uring_pool_give(slot);

	return req;
}

/**
 * fuse_uring_end - end a request of a slot
 * @slot: the slot, which has let go of it, and is not locked
 * @req: the request
 * @error: 0 or a negative error
 */
void fuse_uring_end(struct fuse_uring_slot *slot, struct fuse_req *req,
		    int error)
{
	req->out.h.error = error;
	trace_fuse_uring_end(req, slot->queue->qid, slot->index);
	fuse_request_end(req);
}

/**
 * fuse_uring_pick - give the next request on the queue's lists to a slot
 * @slot: the slot, which has none, and whose queue is locked
 *
 * The lists take turns.  One whose first request may have no slot now, for want
 * of a credit or of memory, is passed over: its other requests may have none
 * either, and those of other lists must not wait for it.
 *
 * Return: whether the slot has got a request.
 */
bool fuse_uring_pick(struct fuse_uring_slot *slot)
{
	struct fuse_uring_queue *queue = slot->queue;
	unsigned int i, kind = queue->next_kind;
	struct fuse_req *req;

	lockdep_assert_held(&queue->lock);

	for (i = 0; i < FUSE_URING_NR_KINDS; i++) {
		struct list_head *list = &queue->pending[kind];

		if (!list_empty(list)) {
			req = list_first_entry(list, struct fuse_req, list);
			if (fuse_uring_slot_assign(slot, req, kind))
				break;
		}
		if (++kind == FUSE_URING_NR_KINDS)
			kind = 0;
	}
	if (i == FUSE_URING_NR_KINDS)
		return false;

	list_del_init(&req->list);
	queue->nr_pending--;
	queue->next_kind = kind + 1 < FUSE_URING_NR_KINDS ? kind + 1 : 0;
	return true;
}

/* Take the command from a slot.  It is completed by task work, with @ret. */
static void fuse_uring_cmd_drop(struct fuse_uring_slot *slot, int ret)
{
	struct io_uring_cmd *cmd = slot->cmd;

	slot->cmd = NULL;
	fuse_uring_pdu(cmd)->dropped = true;
	fuse_uring_pdu(cmd)->ret = ret;
	io_uring_cmd_complete_in_task(cmd, fuse_uring_sent_work);
}

/**
 * fuse_uring_slot_drop - disarm a slot
 * @slot: the slot, which is READY and whose queue is locked
 * @ret: what to complete its command with
 */
void fuse_uring_slot_drop(struct fuse_uring_slot *slot, int ret)
{
	fuse_uring_cmd_drop(slot, ret);
	fuse_uring_slot_to(slot, FUSE_URING_SLOT_IDLE);
}

/**
 * fuse_uring_slot_send - leave it to the server's task to copy in
 * @slot: the slot, which is READY and whose queue is locked
 *
 * A server that waits for several completions at a time may be left to it for
 * a background request or forgets, but not while somebody waits.
 */
void fuse_uring_slot_send(struct fuse_uring_slot *slot)
{
	fuse_uring_slot_move(slot, FUSE_URING_SLOT_READY, FUSE_URING_SLOT_SENT);
	if (slot->background || slot->control == FUSE_URING_CONTROL_FORGET)
		io_uring_cmd_do_in_task_lazy(slot->cmd, fuse_uring_sent_work);
	else
		io_uring_cmd_complete_in_task(slot->cmd, fuse_uring_sent_work);
}

/**
 * fuse_uring_dispatch - bring slots that are ready and waiting requests together
 * @queue: the queue, locked
 *
 * To be called whenever one of them may have come while the other was there:
 * a request for which there is a credit, and memory, never waits while a slot is
 * READY.
 */
void fuse_uring_dispatch(struct fuse_uring_queue *queue)
{
	struct fuse_uring_slot *slot;

	lockdep_assert_held(&queue->lock);

	while (queue->nr_pending &&
	       (slot = fuse_uring_ready_slot(&queue->ordinary)) &&
	       fuse_uring_pick(slot))
		fuse_uring_slot_send(slot);
}

/*
 * The requester copies its request into the slot.  In the meantime the command
 * may have been cancelled or the connection aborted: both leave the request to
 * us.
 */
static void fuse_uring_fill(struct fuse_uring_slot *slot, struct fuse_req *req)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct io_uring_cmd *cmd;
	struct fuse_conn *fc = req->fm->fc;
	unsigned int qid, index;
	bool update;
	int err;

	err = fuse_uring_copy_in(slot, req);

	spin_lock(&queue->lock);
	cmd = slot->cmd;
	if (likely(!err && cmd && !queue->stopped)) {
		slot->filled = true;
		fuse_uring_slot_move(slot, FUSE_URING_SLOT_FILL,
				     FUSE_URING_SLOT_SENT);
		spin_unlock(&queue->lock);
		io_uring_cmd_complete_in_task(cmd, fuse_uring_sent_work);
		return;
	}

	/* From here on nothing may keep the ring */
	qid = queue->qid;
	index = slot->index;
	fuse_uring_slot_revoke(slot);
	WRITE_ONCE(req->uring_queue, NULL);
	if (queue->stopped)
		err = -ECONNABORTED;
	if (cmd)
		fuse_uring_slot_to(slot, FUSE_URING_SLOT_READY);
	else
		fuse_uring_slot_to(slot, FUSE_URING_SLOT_IDLE);
	if (cmd && queue->stopped)
		fuse_uring_slot_drop(slot, -ENOTCONN);
	else
		fuse_uring_dispatch(queue);
	update = fuse_uring_may_have_died(queue);
	spin_unlock(&queue->lock);

	if (update)
		fuse_uring_update(fc);
	if (!err) {
		fuse_uring_requeue(req);
		return;
	}
	req->out.h.error = err;
	trace_fuse_uring_end(req, qid, index);
	fuse_request_end(req);
}

/* The request becomes one of this queue */
static __always_inline void fuse_uring_enter(struct fuse_uring_queue *queue,
					     struct fuse_req *req)
{
	/* Unless it comes from another one */
	if (!req->uring_queue) {
		if (test_bit(FR_BACKGROUND, &req->flags))
			queue->stats.background++;
		else if (test_bit(FR_ISREPLY, &req->flags))
			queue->stats.synchronous++;
		else
			queue->stats.noreply++;
	}

	if (req->in.h.opcode != FUSE_NOTIFY_REPLY && !req->in.h.unique)
		req->in.h.unique = fuse_uring_unique(queue);
	WRITE_ONCE(req->uring_queue, queue);
}

static void fuse_uring_wait(struct fuse_uring_queue *queue,
			    struct fuse_req *req, enum fuse_uring_kind kind)
{
	/* Set already, unless the request has been in a slot before */
	if (!test_bit(FR_PENDING, &req->flags))
		set_bit(FR_PENDING, &req->flags);
	list_add_tail(&req->list, &queue->pending[kind]);
	queue->nr_pending++;
	queue->stats.waits++;
	trace_fuse_uring_queue(req, queue->qid, -1);
}

/**
 * fuse_uring_unassign - a request waits again, the first one of its kind
 * @queue: its queue, locked
 * @req: the request, which has just lost its slot
 */
void fuse_uring_unassign(struct fuse_uring_queue *queue, struct fuse_req *req)
{
	set_bit(FR_PENDING, &req->flags);
	list_add(&req->list,
		 &queue->pending[fuse_uring_kind(queue->uring, req)]);
	queue->nr_pending++;
}

/*
 * The slot for a request that comes to the queue, or NULL when it has to wait:
 * for a slot, or behind others of its kind, which wait for what it needs too.
 */
static struct fuse_uring_slot *
fuse_uring_get_slot(struct fuse_uring_queue *queue, struct fuse_req *req,
		    enum fuse_uring_kind kind)
{
	struct fuse_uring_slot *slot;
	bool first = true;

	if (unlikely(queue->nr_pending))
		first = list_empty(&queue->pending[kind]);
	if (kind >= FUSE_URING_BACKGROUND && !fuse_uring_has_credit(queue))
		return NULL;

	slot = fuse_uring_ready_slot(&queue->ordinary);
	if (!slot)
		return NULL;
	if (likely(first && fuse_uring_slot_assign(slot, req, kind)))
		return slot;

	queue->stats.pool_waits++;
	return NULL;
}

/*
 * Queue a request, unless it does not go over the ring, or the queue it was
 * routed to is not live any more
 */
static bool fuse_uring_try_queue_req(struct fuse_conn *fc, struct fuse_req *req)
{
	struct fuse_uring_queue *queue, *home;
	struct fuse_uring_slot *slot;
	enum fuse_uring_kind kind;
	bool background, update;

	fuse_uring_measure(req);

	rcu_read_lock();
	home = fuse_uring_route(fuse_uring_rcu(fc));
	if (unlikely(!fuse_uring_carries(home->uring, req))) {
		rcu_read_unlock();
		return false;
	}
	kind = fuse_uring_kind(home->uring, req);
	background = kind >= FUSE_URING_BACKGROUND;
	queue = background ? fuse_uring_spill(home, req->uring_area) : home;

	spin_lock(&queue->lock);
	rcu_read_unlock();
	if (unlikely(!queue->live)) {
		spin_unlock(&queue->lock);
		return false;
	}

	fuse_uring_enter(queue, req);
	if (queue != home)
		queue->stats.spills++;

	slot = fuse_uring_get_slot(queue, req, kind);
	if (!slot) {
		fuse_uring_wait(queue, req, kind);
		update = !queue->live;
		spin_unlock(&queue->lock);
		/* Its last slot was one of a task that exits */
		if (unlikely(update))
			fuse_uring_update(fc);
		return true;
	}

	/* Memory of the server can be reached by the server only */
	if (background || slot->is_user) {
		fuse_uring_slot_send(slot);
		spin_unlock(&queue->lock);
	} else {
		fuse_uring_slot_move(slot, FUSE_URING_SLOT_READY,
				     FUSE_URING_SLOT_FILL);
		spin_unlock(&queue->lock);
		fuse_uring_fill(slot, req);
	}

	return true;
}

/* Whether a request is to go to the ring.  Called under fiq->lock. */
bool fuse_uring_takes(struct fuse_iqueue *fiq, struct fuse_req *req)
{
	struct fuse_conn *fc = container_of(fiq, struct fuse_conn, iq);
	struct fuse_uring *uring = fuse_uring_locked(fc);

	if (!uring || !uring->active)
		return false;
	if (uring->user)
		fuse_uring_measure(req);

	return fuse_uring_carries(uring, req);
}

/**
 * fuse_uring_queue_req - send a request
 * @fiq: input queue of a connection that has a ring
 * @req: the request
 *
 * It goes to /dev/fuse when the ring has no live queue, or not such requests.
 * That is checked again under the lock of the /dev/fuse list, and whether a
 * queue is live under its own.  When neither takes the request, the map is behind.
 */
void fuse_uring_queue_req(struct fuse_iqueue *fiq, struct fuse_req *req)
{
	struct fuse_conn *fc = container_of(fiq, struct fuse_conn, iq);

	while (!fuse_uring_try_queue_req(fc, req) &&
	       !fuse_dev_try_queue_req(fiq, req))
		fuse_uring_update(fc);
}

/* Move the requests that wait on a queue that is not live any more */
static void fuse_uring_move_pending(struct fuse_uring_queue *queue,
				    enum fuse_uring_kind kind, bool live)
{
	struct fuse_uring *uring = queue->uring;
	struct fuse_iqueue *fiq = &uring->fc->iq;
	struct fuse_uring_queue *to;
	struct fuse_req *req, *next;

	list_for_each_entry_safe(req, next, &queue->pending[kind], list) {
		if (!live) {
			list_move_tail(&req->list, &fiq->pending);
			queue->nr_pending--;
			fuse_uring_leave(req);
			continue;
		}

		to = fuse_uring_route(uring);
		if (to == queue)
			continue;
		spin_lock_nested(&to->lock, SINGLE_DEPTH_NESTING);
		list_move_tail(&req->list, &to->pending[kind]);
		queue->nr_pending--;
		to->nr_pending++;
		fuse_uring_enter(to, req);
		fuse_uring_dispatch(to);
		spin_unlock(&to->lock);
	}
	if (list_empty(&queue->pending[kind]))
		fuse_uring_pool_forgo(queue, kind);
}

static void fuse_uring_queue_evacuate(struct fuse_uring_queue *queue, bool live)
{
	unsigned int kind;

	spin_lock(&queue->lock);
	for (kind = 0; !queue->live && kind < FUSE_URING_NR_KINDS; kind++)
		fuse_uring_move_pending(queue, kind, live);
	spin_unlock(&queue->lock);
}

/* The first slot is armed: what waits for /dev/fuse to be read comes here */
static void fuse_uring_take_over(struct fuse_uring *uring)
{
	struct fuse_iqueue *fiq = &uring->fc->iq;
	struct fuse_uring_queue *queue;
	struct fuse_req *req, *next;

	list_for_each_entry_safe(req, next, &fiq->pending, list) {
		fuse_uring_measure(req);
		if (!fuse_uring_carries(uring, req))
			continue;
		queue = fuse_uring_route(uring);
		spin_lock(&queue->lock);
		list_del(&req->list);
		fuse_uring_enter(queue, req);
		fuse_uring_wait(queue, req, fuse_uring_kind(uring, req));
		fuse_uring_dispatch(queue);
		spin_unlock(&queue->lock);
	}
}

/* Requests have come to the list of /dev/fuse.  Called under fiq->lock. */
static void fuse_uring_pending_send(struct fuse_uring *uring)
{
	struct fuse_iqueue *fiq = &uring->fc->iq;

	if (uring->active)
		fuse_uring_take_over(uring);
	if (!list_empty(&fiq->pending)) {
		wake_up_all(&fiq->waitq);
		kill_fasync(&fiq->fasync, SIGIO, POLL_IN);
	}
}

/**
 * fuse_uring_requeue - send a request again that was not delivered
 * @req: the request, neither pending nor sent, and of no queue
 *
 * Somebody waits for it already, and may be killed: which list it is on has to
 * change together with what it says of that, under fiq->lock.
 */
void fuse_uring_requeue(struct fuse_req *req)
{
	struct fuse_conn *fc = req->fm->fc;
	struct fuse_iqueue *fiq = &fc->iq;

	spin_lock(&fiq->lock);
	if (!fiq->connected) {
		spin_unlock(&fiq->lock);
		req->out.h.error = -ENOTCONN;
		fuse_request_end(req);
		return;
	}
	set_bit(FR_PENDING, &req->flags);
	list_add_tail(&req->list, &fiq->pending);
	fuse_uring_pending_send(fuse_uring_locked(fc));
	spin_unlock(&fiq->lock);
	fuse_uring_update(fc);
}

/**
 * fuse_uring_update - a queue has become live, or has ceased to be
 * @fc: the connection, whose ring it is or was
 *
 * Brings the map up to date, and moves the requests that wait where nobody
 * will fetch them.  Must be called after each such change, under no lock of a
 * queue.  Several at the same time are as good as one: the last one to get
 * fiq->lock sees what all have done.
 *
 * A queue that gets requests here may be found to be served by tasks that
 * exit, and cease to be live by that.  Then there is another round.
 */
void fuse_uring_update(struct fuse_conn *fc)
{
	struct fuse_iqueue *fiq = &fc->iq;
	struct fuse_uring *uring;
	unsigned int qid;
	bool live;

	spin_lock(&fiq->lock);
	uring = fuse_uring_locked(fc);
	/* All requests are being ended, see fuse_uring_abort() */
	if (!fiq->connected) {
		spin_unlock(&fiq->lock);
		return;
	}

	do {
		live = fuse_uring_map_update(uring);
		for (qid = 0; qid < uring->nr_queues; qid++)
			fuse_uring_queue_evacuate(uring->queues[qid], live);
		if (live && !uring->active)
			fuse_uring_take_over(uring);
		uring->active = live;
	} while (fuse_uring_map_stale(uring));
	fuse_uring_control_update(uring);
	if (!live && !list_empty(&fiq->pending)) {
		wake_up_all(&fiq->waitq);
		kill_fasync(&fiq->fasync, SIGIO, POLL_IN);
	}
	spin_unlock(&fiq->lock);
}

/**
 * fuse_uring_remove_pending - take a request off the list of its queue
 * @req: a request whose requester has been killed
 * @removed: set to whether it was still pending, and is the caller's now
 *
 * Return: false when the request is not one of a queue.
 */
bool fuse_uring_remove_pending(struct fuse_req *req, bool *removed)
{
	struct fuse_uring_queue *queue;
	bool mine;

	rcu_read_lock();
	queue = READ_ONCE(req->uring_queue);
	if (!queue) {
		rcu_read_unlock();
		return false;
	}

	spin_lock(&queue->lock);
	rcu_read_unlock();
	mine = req->uring_queue == queue;
	*removed = mine && test_bit(FR_PENDING, &req->flags);
	if (*removed) {
		list_del(&req->list);
		queue->nr_pending--;
		/* Others may have been waiting for its turn to be over */
		fuse_uring_pool_forgo(queue, fuse_uring_kind(queue->uring, req));
		fuse_uring_dispatch(queue);
	}
	spin_unlock(&queue->lock);

	return mine;
}

/**
 * fuse_uring_find_interrupted - find what the reply to an interrupt is about
 * @fc: the connection
 * @unique: unique id of the interrupt
 *
 * These replies are rare, and name nothing else.
 *
 * Return: the request with a reference, or NULL when it is in no slot.
 */
struct fuse_req *fuse_uring_find_interrupted(struct fuse_conn *fc, u64 unique)
{
	struct fuse_req *req = NULL;
	struct fuse_uring_slot *slot;
	struct fuse_uring *uring;
	unsigned int qid;

	if (!(unique & FUSE_INT_REQ_BIT))
		return NULL;

	unique &= ~FUSE_INT_REQ_BIT;
	rcu_read_lock();
	uring = fuse_uring_rcu(fc);
	for (qid = 0; uring && !req && qid < uring->nr_queues; qid++) {
		struct fuse_uring_queue *queue = uring->queues[qid];

		spin_lock(&queue->lock);
		fuse_uring_for_each_slot(slot, queue) {
			if (slot->state == FUSE_URING_SLOT_BUSY && slot->req &&
			    slot->req->in.h.unique == unique)
				req = slot->req;
		}
		if (req)
			__fuse_get_request(req);
		spin_unlock(&queue->lock);
	}
	rcu_read_unlock();

	return req;
}

/**
 * fuse_uring_slot_unsend - take a slot that is SENT out of its command's hands
 * @slot: the slot, whose queue is locked
 * @ret: what to complete the command with
 *
 * The task work that is under way will only complete the command.
 *
 * Return: the request, which is the caller's to send again or to end.  NULL for
 * a control slot, of which fuse_uring_control_again() has to be told.
 */
struct fuse_req *fuse_uring_slot_unsend(struct fuse_uring_slot *slot, int ret)
{
	struct fuse_req *req = fuse_uring_slot_revoke(slot);

	fuse_uring_control_unsend(slot);
	fuse_uring_pdu(slot->cmd)->dropped = true;
	fuse_uring_pdu(slot->cmd)->ret = ret;
	slot->cmd = NULL;
	fuse_uring_slot_to(slot, FUSE_URING_SLOT_IDLE);

	return req;
}

/*
 * Disarm a slot, whose queue is locked, as far as it is not in use, and let it
 * not be a reason for more requests to come.  The task of its command is dead,
 * or it is to be disarmed later too.
 *
 * Returns a request that has not been delivered, to be sent again.
 */
static struct fuse_req *fuse_uring_slot_withdraw(struct fuse_uring_slot *slot,
						 bool detach)
{
	int ret = detach ? -ECANCELED : -ENOTCONN;

	switch (slot->state) {
	case FUSE_URING_SLOT_IDLE:
		break;
	case FUSE_URING_SLOT_READY:
		fuse_uring_slot_drop(slot, ret);
		break;
	case FUSE_URING_SLOT_SENT:
		return fuse_uring_slot_unsend(slot, ret);
	case FUSE_URING_SLOT_FILL:
		/* See fuse_uring_fill() */
		if (slot->cmd) {
			fuse_uring_cmd_drop(slot, ret);
			break;
		}
		fallthrough;
	case FUSE_URING_SLOT_COMMIT:
		/* By a command of a task that lives */
		if (!detach)
			break;
		fallthrough;
	case FUSE_URING_SLOT_BUSY:
		if (detach) {
			slot->detached = true;
		} else {
			WRITE_ONCE(slot->task, NULL);
			/* What others have must not depend on a dead one */
			fuse_uring_slot_uncredit(slot);
		}
		fuse_uring_slot_unregister(slot);
		/* Another one may carry forgets now */
		if (slot->control == FUSE_URING_CONTROL_FORGET)
			fuse_uring_control_unsend(slot);
		break;
	}

	return NULL;
}

/* Withdraw the slots of a task that has died, or detach all of them */
static void fuse_uring_withdraw(struct fuse_uring_queue *queue,
				struct task_struct *task)
{
	bool update, control = false;
	struct fuse_uring_slot *slot;
	struct fuse_req *req, *next;
	LIST_HEAD(again);

	spin_lock(&queue->lock);
	fuse_uring_for_each_slot(slot, queue) {
		if (queue->stopped || (task && slot->task != task))
			continue;
		control |= slot->is_control;
		req = fuse_uring_slot_withdraw(slot, !task);
		if (req) {
			WRITE_ONCE(req->uring_queue, NULL);
			list_add_tail(&req->list, &again);
		}
	}
	fuse_uring_dispatch(queue);
	update = fuse_uring_may_have_died(queue);
	spin_unlock(&queue->lock);

	if (update)
		fuse_uring_update(queue->uring->fc);
	else if (control)
		fuse_uring_control_again(queue->uring->fc);
	list_for_each_entry_safe(req, next, &again, list) {
		list_del_init(&req->list);
		fuse_uring_requeue(req);
	}
}

/**
 * fuse_uring_queue_withdraw - a task of the server has died
 * @queue: a queue
 * @task: the task
 *
 * Disarms its slots, and sends again what has not been delivered.  What has
 * been can still be committed by another thread, but the slots that hold it are
 * no reason for more requests to come.
 */
void fuse_uring_queue_withdraw(struct fuse_uring_queue *queue,
			       struct task_struct *task)
{
	fuse_uring_withdraw(queue, task);
}

/**
 * fuse_uring_queue_detach - FUSE_URING_REQ_DETACH
 * @queue: the queue
 *
 * Disarms its slots, those in the server's hands once they are committed.
 *
 * Return: 0, or -ENOTCONN when the connection has ended.
 */
int fuse_uring_queue_detach(struct fuse_uring_queue *queue)
{
	fuse_uring_withdraw(queue, NULL);

	return READ_ONCE(queue->stopped) ? -ENOTCONN : 0;
}

/*
 * End a queue of a connection that has ended: collect the requests that are
 * not being copied.  Those are ended by whoever copies them.
 */
static void fuse_uring_queue_stop(struct fuse_uring_queue *queue,
				  struct list_head *to_end)
{
	struct fuse_uring_slot *slot;
	struct fuse_req *req;
	unsigned int i;

	spin_lock(&queue->lock);
	queue->stopped = true;
	WRITE_ONCE(queue->live, false);

	for (i = 0; i < FUSE_URING_NR_KINDS; i++) {
		list_for_each_entry(req, &queue->pending[i], list)
			clear_bit(FR_PENDING, &req->flags);
		list_splice_tail_init(&queue->pending[i], to_end);
	}
	queue->nr_pending = 0;

	fuse_uring_for_each_slot(slot, queue) {
		switch (slot->state) {
		case FUSE_URING_SLOT_READY:
			fuse_uring_slot_drop(slot, -ENOTCONN);
			break;
		case FUSE_URING_SLOT_SENT:
			req = fuse_uring_slot_unsend(slot, -ENOTCONN);
			if (req)
				list_add_tail(&req->list, to_end);
			break;
		case FUSE_URING_SLOT_BUSY:
			req = fuse_uring_slot_revoke(slot);
			if (req) {
				clear_bit(FR_SENT, &req->flags);
				list_add_tail(&req->list, to_end);
			}
			fuse_uring_slot_to(slot, FUSE_URING_SLOT_IDLE);
			break;
		default:
			break;
		}
	}
	spin_unlock(&queue->lock);
}

/**
 * fuse_uring_abort - the connection has ended
 * @fc: the connection, not connected any more, with no background request that
 *	waits to be sent
 *
 * Ends all requests of the ring and disarms all slots.  Does not wait for the
 * server.
 */
void fuse_uring_abort(struct fuse_conn *fc)
{
	struct fuse_req *req, *next;
	struct fuse_uring *uring;
	LIST_HEAD(to_end);
	unsigned int qid;

	/* New requests find /dev/fuse, which is not connected */
	spin_lock(&fc->iq.lock);
	uring = fuse_uring_locked(fc);
	if (uring) {
		uring->active = false;
		list_for_each_entry(req, &uring->held, list)
			clear_bit(FR_SENT, &req->flags);
		list_splice_init(&uring->held, &to_end);
	}
	spin_unlock(&fc->iq.lock);
	/* This one stays, as no server can set up another one */
	if (!uring)
		return;

	fuse_uring_notifier_abort(uring->notifier);
	fuse_uring_control_abort(uring);
	for (qid = 0; qid < uring->nr_queues; qid++)
		fuse_uring_queue_stop(uring->queues[qid], &to_end);

	list_for_each_entry_safe(req, next, &to_end, list) {
		list_del_init(&req->list);
		req->out.h.error = -ECONNABORTED;
		trace_fuse_uring_end(req, req->uring_queue ?
				     req->uring_queue->qid : 0, -1);
		fuse_request_end(req);
	}
}

/*
 * Take the requests that a server has died with, in no particular order, and
 * disarm the slots.
 */
static void fuse_uring_take_orphans(struct fuse_uring_queue *queue,
				    struct list_head *orphans)
{
	struct fuse_uring_slot *slot;
	struct fuse_req *req;

	spin_lock(&queue->lock);
	fuse_uring_for_each_slot(slot, queue) {
		if (!fuse_uring_slot_is_orphan(slot))
			continue;
		req = fuse_uring_slot_revoke(slot);
		fuse_uring_control_unsend(slot);
		fuse_uring_slot_to(slot, FUSE_URING_SLOT_IDLE);
		if (req) {
			WRITE_ONCE(req->uring_queue, NULL);
			list_add_tail(&req->list, orphans);
		}
	}
	/* Credits may have come back */
	fuse_uring_dispatch(queue);
	spin_unlock(&queue->lock);
}

/**
 * fuse_uring_resend - FUSE_NOTIFY_RESEND
 * @fc: the connection
 *
 * Sends again what a server had in its hands when it died, and what waits for
 * /dev/fuse when there is a queue that takes it.  What a task has that lives
 * will be answered by that.
 *
 * A server whose FUSE_IO_URING_CMD_REGISTERs never come here, as io_uring
 * refuses them, has no other way to say that nothing needs to wait for these.
 */
void fuse_uring_resend(struct fuse_conn *fc)
{
	struct fuse_iqueue *fiq = &fc->iq;
	struct fuse_uring *uring = fuse_uring_get(fc);
	struct fuse_req *req;
	LIST_HEAD(again);
	unsigned int qid;

	fuse_uring_expect_no_more(fc);
	if (!uring)
		return;

	/* The caller may know that the server is dead before the ring does */
	fuse_uring_watch_reap(uring);
	fuse_uring_put(uring);

	spin_lock(&fiq->lock);
	if (!fiq->connected) {
		spin_unlock(&fiq->lock);
		return;
	}
	uring = fuse_uring_locked(fc);
	list_splice_init(&uring->held, &again);
	for (qid = 0; qid < uring->nr_queues; qid++)
		fuse_uring_take_orphans(uring->queues[qid], &again);

	list_for_each_entry(req, &again, list) {
		clear_bit(FR_SENT, &req->flags);
		/* It is told of again when the request has been */
		if (test_bit(FR_INTERRUPTED, &req->flags))
			list_del_init(&req->intr_entry);
		req->in.h.unique |= FUSE_UNIQUE_RESEND;
		set_bit(FR_PENDING, &req->flags);
	}
	list_splice(&again, &fiq->pending);
	fuse_uring_pending_send(uring);
	spin_unlock(&fiq->lock);
	fuse_uring_update(fc);
}

/*
 * A queue of which nothing is in use, but for requests of a dead server, takes
 * no more commands.
 */
static bool fuse_uring_queue_retire(struct fuse_uring_queue *queue)
{
	struct fuse_uring_slot *slot;
	bool unused;

	spin_lock(&queue->lock);
	unused = !queue->nr_cmds && !queue->stopped && !queue->nr_pending;
	fuse_uring_for_each_slot(slot, queue)
		unused &= slot->state == FUSE_URING_SLOT_IDLE ||
			fuse_uring_slot_is_orphan(slot);
	if (unused)
		queue->stopped = true;
	spin_unlock(&queue->lock);

	return unused;
}

static void fuse_uring_queue_unretire(struct fuse_uring_queue *queue)
{
	spin_lock(&queue->lock);
	queue->stopped = false;
	spin_unlock(&queue->lock);
}

/**
 * fuse_uring_retire - let a ring be replaced, if nothing of it is in use
 * @uring: the ring of the connection, under fiq->lock
 * @by: the new one, which keeps the requests that the old one's server has died
 *	with
 *
 * Return: whether it can be replaced.
 */
bool fuse_uring_retire(struct fuse_uring *uring, struct fuse_uring *by)
{
	unsigned int qid, nr;
	u64 seq = 0;

	lockdep_assert_held(&uring->fc->iq.lock);

	for (nr = 0; nr < uring->nr_queues; nr++)
		if (!fuse_uring_queue_retire(uring->queues[nr]))
			break;
	if (nr < uring->nr_queues) {
		while (nr--)
			fuse_uring_queue_unretire(uring->queues[nr]);
		return false;
	}

	/* Gives back what control slots have left, if nobody has done so yet */
	fuse_uring_control_update(uring);

	list_splice_init(&uring->held, &by->held);
	for (qid = 0; qid < uring->nr_queues; qid++) {
		fuse_uring_take_orphans(uring->queues[qid], &by->held);
		seq = max(seq, uring->queues[qid]->next_seq);
	}
	/* What is held keeps its unique id */
	for (qid = 0; qid < by->nr_queues; qid++)
		by->queues[qid]->next_seq = seq;

	return true;
}

static void fuse_uring_slot_init(struct fuse_uring_queue *queue,
				 struct fuse_uring_slot *slot, u16 index)
{
	slot->queue = queue;
	slot->index = index;
	slot->is_user = queue->uring->user;
	slot->set = slot->is_control ? &queue->control : &queue->ordinary;
	list_add_tail(&slot->of_queue, &queue->all_slots);
}

/* One of the slots that are not in use.  The queue is locked. */
static struct fuse_uring_slot *
fuse_uring_idle_slot(struct fuse_uring_queue *queue)
{
	struct fuse_uring_slot *slot;

	if (queue->ordinary.nr_registered == queue->nr_slots)
		return NULL;

	fuse_uring_for_each_slot(slot, queue)
		if (slot->state == FUSE_URING_SLOT_IDLE)
			return slot;

	return NULL;
}

/**
 * fuse_uring_queue_claim - find a slot for memory of the server
 * @queue: a queue of a ring with user buffers, locked
 * @new: a slot from kzalloc() for when all others are in use, freed when it is
 *	not needed
 *
 * Return: a slot that is IDLE, NULL when FUSE_URING_MAX_QUEUE_DEPTH are in use.
 */
struct fuse_uring_slot *fuse_uring_queue_claim(struct fuse_uring_queue *queue,
					       struct fuse_uring_slot *new)
{
	struct fuse_uring_slot *slot = fuse_uring_idle_slot(queue);

	lockdep_assert_held(&queue->lock);

	if (!slot && queue->nr_slots < FUSE_URING_MAX_QUEUE_DEPTH) {
		fuse_uring_slot_init(queue, new, queue->nr_slots++);
		return new;
	}
	kfree(new);

	return slot;
}

static void fuse_uring_queue_free_slots(struct fuse_uring_queue *queue)
{
	struct fuse_uring_slot *slot, *next;

	if (queue->slots) {
		kvfree(queue->slots);
		return;
	}
	list_for_each_entry_safe(slot, next, &queue->all_slots, of_queue)
		kfree(slot);
}

/**
 * fuse_uring_queue_alloc - allocate a queue, its memory and its slots
 * @uring: the ring
 * @qid: number of the queue
 * @node: NUMA node of the queue's CPUs
 * @nr_cpus: how many these are
 *
 * Return: the queue or an error, see fuse_uring_mem_alloc().
 */
struct fuse_uring_queue *fuse_uring_queue_alloc(struct fuse_uring *uring,
						u16 qid, int node,
						unsigned int nr_cpus)
{
	struct fuse_uring_queue *queue;
	unsigned int i;
	int err;

	queue = kzalloc_node(sizeof(*queue), GFP_KERNEL_ACCOUNT, node);
	if (!queue)
		return ERR_PTR(-ENOMEM);

	queue->uring = uring;
	queue->qid = qid;
	queue->node = node;
	queue->nr_cpus = nr_cpus;
	spin_lock_init(&queue->lock);
	INIT_LIST_HEAD(&queue->all_slots);
	INIT_LIST_HEAD(&queue->ordinary.ready);
	INIT_LIST_HEAD(&queue->control.ready);
	for (i = 0; i < FUSE_URING_NR_KINDS; i++)
		INIT_LIST_HEAD(&queue->pending[i]);
	queue->next_seq = 1;
	queue->max_background = uring->max_background;

	if (uring->user) {
		queue->commits = kcalloc_node(FUSE_URING_COMMIT_BUCKETS,
					      sizeof(*queue->commits),
					      GFP_KERNEL_ACCOUNT, node);
		if (queue->commits)
			return queue;
		err = -ENOMEM;
		goto err_free;
	}

	queue->slots = kvcalloc_node(fuse_uring_nr_slots(uring),
				     sizeof(*queue->slots),
				     GFP_KERNEL_ACCOUNT, node);
	if (!queue->slots) {
		err = -ENOMEM;
		goto err_free;
	}

	queue->mem = fuse_uring_mem_alloc(uring->mmap_size, node);
	if (IS_ERR(queue->mem)) {
		err = PTR_ERR(queue->mem);
		goto err_slots;
	}

	err = fuse_uring_pool_init(queue);
	if (err)
		goto err_mem;

	for (i = 0; i < fuse_uring_nr_slots(uring); i++) {
		struct fuse_uring_slot *slot = &queue->slots[i];

		slot->hdr = queue->mem->addr + i * FUSE_URING_HEADER_STRIDE;
		slot->is_control = i >= uring->queue_depth;
		fuse_uring_slot_init(queue, slot, i);
		fuse_uring_slot_own_area(slot);
	}

	return queue;

err_mem:
	fuse_uring_mem_put(queue->mem);
err_slots:
	kvfree(queue->slots);
err_free:
	kfree(queue);
	return ERR_PTR(err);
}

void fuse_uring_queue_free(struct fuse_uring_queue *queue)
{
	WARN_ON_ONCE(queue->ordinary.nr_registered ||
		     queue->control.nr_registered);
	fuse_uring_pool_destroy(queue);
	if (queue->mem)
		fuse_uring_mem_put(queue->mem);
	fuse_uring_queue_free_slots(queue);
	kfree(queue->commits);
	kfree(queue);
}
