// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: create, change and free queues; move pending requests.
 *
 * Pending requests move from list to list under fiq->lock only: away from a
 * queue that is not live any more, from /dev/fuse to the ring and back, and
 * from a queue whose threads do not come to one with an idle thread.
 */
#include "dev_uring_slot.h"
#include "fuse_trace.h"

#include <linux/slab.h>

/* Slots or requests between two chances to reschedule */
#define FUSE_URING_BATCH	64

/*
 * Call between two slots.  Drops the lock now and then.  Slots are never taken
 * off the queue's list.
 */
static void fuse_uring_relax(struct fuse_uring_queue *queue,
			     const struct fuse_uring_slot *slot)
	__must_hold(&queue->lock)
{
	if ((slot->index + 1) % FUSE_URING_BATCH)
		return;

	spin_unlock(&queue->lock);
	cond_resched();
	spin_lock(&queue->lock);
}

/* Queue a request if the queue is live.  Called under fiq->lock. */
static bool fuse_uring_give(struct fuse_uring_queue *queue,
			    struct fuse_req *req)
{
	struct io_uring_cmd *cmd = NULL;
	bool live;

	spin_lock(&queue->lock);
	live = queue->live;
	if (live)
		cmd = fuse_uring_submit(queue, req);
	if (cmd)
		io_uring_cmd_complete_in_task(cmd, fuse_uring_called);
	/* Its sender may have been killed while the server had it */
	if (live)
		wake_up(&req->waitq);
	spin_unlock(&queue->lock);

	return live;
}

/*
 * Requeue pending requests that are on no queue.  fuse_dev_remove_pending()
 * waits for fiq->lock, so FR_PENDING may stay set.
 */
static void fuse_uring_move_pending(struct fuse_uring *uring,
				    struct list_head *reqs)
{
	struct fuse_iqueue *fiq = &uring->fc->iq;
	struct fuse_req *req, *next;
	u16 qid;

	lockdep_assert_held(&fiq->lock);

	list_for_each_entry_safe(req, next, reqs, list) {
		list_del_init(&req->list);
		fuse_uring_measure(uring, req, READ_ONCE(req->flags));
		qid = READ_ONCE(uring->cpu_map[req->uring_cpu]);
		if (!uring->active || !fuse_uring_carries(uring, req) ||
		    !fuse_uring_give(uring->queues[qid], req))
			list_add_tail(&req->list, &fiq->pending);
	}
	if (!list_empty(&fiq->pending)) {
		wake_up(&fiq->waitq);
		kill_fasync(&fiq->fasync, SIGIO, POLL_IN);
	}
}

/* Take all pending requests off a queue */
static void fuse_uring_collect(struct fuse_uring_queue *queue,
			       struct list_head *reqs)
{
	struct fuse_req *req;
	unsigned int kind;

	for (kind = 0; kind < FUSE_URING_NR_KINDS; kind++) {
		while (!list_empty(&queue->pending[kind])) {
			req = list_first_entry(&queue->pending[kind],
					       struct fuse_req, list);
			fuse_uring_dequeue(queue, req);
			list_add_tail(&req->list, reqs);
		}
	}
}

/*
 * Update the map, and requeue the requests of queues that are not live.  This
 * may find that threads have ended and a queue is not live any more: repeat.
 */
static void fuse_uring_update_locked(struct fuse_uring *uring)
{
	struct fuse_iqueue *fiq = &uring->fc->iq;
	struct fuse_uring_queue *queue;
	LIST_HEAD(reqs);
	unsigned int qid;
	bool changed;

	lockdep_assert_held(&fiq->lock);

	do {
		bool was_active = uring->active;

		changed = fuse_uring_map_update(uring);
		for (qid = 0; qid < uring->nr_queues; qid++) {
			queue = uring->queues[qid];
			spin_lock(&queue->lock);
			if (!queue->live)
				fuse_uring_collect(queue, &reqs);
			spin_unlock(&queue->lock);
		}
		/* The first queue is live: adopt what waits for /dev/fuse */
		if (uring->active && !was_active)
			list_splice_init(&fiq->pending, &reqs);
		fuse_uring_move_pending(uring, &reqs);
	} while (changed);
	fuse_uring_messages_update(uring);
}

/*
 * A queue has become live, or has ceased to be.  The last of several callers
 * sees what all have changed.
 */
void fuse_uring_update(struct fuse_conn *fc)
{
	struct fuse_uring *uring;

	spin_lock(&fc->iq.lock);
	uring = fuse_uring_locked(fc);
	if (uring && fc->iq.connected)
		fuse_uring_update_locked(uring);
	spin_unlock(&fc->iq.lock);
}

/* One that was moved has not been waiting for the threads that it waits for */
static bool fuse_uring_is_overdue(const struct fuse_req *req)
{
	return time_after_eq(jiffies, (req->uring_moved ?: req->uring_since) +
				      FUSE_URING_OVERDUE);
}

/* The first request of a kind, if it is overdue */
static struct fuse_req *fuse_uring_overdue(struct fuse_uring_queue *queue,
					   unsigned int kind)
{
	struct fuse_req *req;

	req = list_first_entry_or_null(&queue->pending[kind], struct fuse_req,
				       list);
	return req && fuse_uring_is_overdue(req) ? req : NULL;
}

static bool fuse_uring_any_overdue(struct fuse_uring_queue *queue)
{
	unsigned int kind;

	for (kind = 0; queue->waiting && kind < FUSE_URING_NR_KINDS; kind++)
		if (fuse_uring_overdue(queue, kind))
			return true;

	return false;
}

/*
 * Look whether a queue's requests are being taken: every jiffy while requests
 * are sent, less often if that does not help, never while all threads are idle.
 * Also finds threads that have ended with all slots busy, as these have no
 * command for io_uring to cancel.
 */
void fuse_uring_tick(struct timer_list *timer)
{
	struct fuse_uring_queue *queue = from_timer(queue, timer, timer);
	struct fuse_uring *uring = queue->uring;
	bool overdue, sending;
	unsigned int max;

	/* This may have interrupted the owner of the lock */
	if (!spin_trylock(&queue->lock)) {
		mod_timer(timer, jiffies + 1);
		return;
	}

	overdue = fuse_uring_any_overdue(queue) ||
		(queue->set[FUSE_URING_CONTROL].nr_registered &&
		 fuse_uring_messages_overdue(uring));
	sending = queue->nr_pending || queue->tick_seq != queue->next_seq;
	queue->tick_seq = queue->next_seq;
	if (!overdue && sending)
		max = 1;
	else
		max = overdue ? max(HZ / 10, 1) : HZ;
	queue->tick_interval = min(2 * queue->tick_interval, max);

	if (queue->stopped ||
	    (!overdue && !sending && queue->nr_idle == queue->nr_threads)) {
		queue->ticking = false;
	} else {
		if (overdue || queue->tick_interval == HZ)
			queue_work(fuse_uring_wq, &uring->balancer);
		mod_timer(timer, jiffies + queue->tick_interval);
	}
	spin_unlock(&queue->lock);
}

/*
 * Move a request to an idle thread of another queue.  Locks one queue at a
 * time.  Called under fiq->lock.
 */
static bool fuse_uring_balance_one(struct fuse_uring_queue *from,
				   struct fuse_uring_queue *to,
				   unsigned int kind)
{
	struct io_uring_cmd *cmd = NULL;
	struct fuse_req *req;

	spin_lock(&from->lock);
	req = fuse_uring_overdue(from, kind);
	if (req)
		fuse_uring_dequeue(from, req);
	spin_unlock(&from->lock);
	if (!req)
		return false;

	spin_lock(&to->lock);
	if (to->live && fuse_uring_may_take(to, kind))
		cmd = fuse_uring_submit(to, req);
	if (cmd) {
		to->stats.spills++;
		req->uring_moved = jiffies;
		io_uring_cmd_complete_in_task(cmd, fuse_uring_called);
	} else if (!list_empty(&req->list)) {
		fuse_uring_dequeue(to, req);
	}
	spin_unlock(&to->lock);
	if (cmd)
		return true;

	spin_lock(&from->lock);
	if (from->live) {
		fuse_uring_putback(from, req);
		spin_unlock(&from->lock);
	} else {
		LIST_HEAD(reqs);

		spin_unlock(&from->lock);
		list_add(&req->list, &reqs);
		fuse_uring_move_pending(from->uring, &reqs);
	}

	return false;
}

/*
 * Whether a queue has a parked slot of an idle thread, or of @any thread, for a
 * request of another queue
 */
static bool fuse_uring_can_help(struct fuse_uring_queue *queue,
				unsigned int kind, bool any)
{
	bool can;

	/* Pairs with fuse_uring_park(), by the lock */
	spin_lock(&queue->lock);
	can = queue->live && (any || queue->nr_idle) &&
		queue->set[FUSE_URING_ORDINARY].nr_parked &&
		fuse_uring_may_take(queue, kind);
	spin_unlock(&queue->lock);

	return can;
}

/* Find threads for the overdue requests of one kind.  Under fiq->lock. */
static void fuse_uring_balance_kind(struct fuse_uring_queue *from,
				    unsigned int kind, bool any)
{
	struct fuse_uring *uring = from->uring;
	unsigned int i, nr = uring->nr_queues, nr_moved = 0;
	struct fuse_uring_queue *to;

	/* The queues of the same node in the first round, others in the second */
	for (i = 1; i < 2 * nr && READ_ONCE(from->nr_pending); i++) {
		to = uring->queues[(from->qid + i) % nr];
		if (to == from || (to->node == from->node ? i >= nr : i < nr))
			continue;
		while (fuse_uring_can_help(to, kind, any) &&
		       fuse_uring_balance_one(from, to, kind)) {
			/* The rest in another run, without the lock between */
			if (++nr_moved == FUSE_URING_BATCH) {
				queue_work(fuse_uring_wq, &uring->balancer);
				return;
			}
		}
	}
}

/* A thread with empty hands was called, and should be there soon */
static bool fuse_uring_is_coming(const struct fuse_uring_queue *queue)
{
	struct rb_node *node;

	for (node = rb_first(&queue->threads); node; node = rb_next(node)) {
		const struct fuse_uring_thread *thread;

		thread = rb_entry(node, struct fuse_uring_thread, node);
		if (thread->nr_called && thread->nr_called == thread->nr_occupied)
			return true;
	}

	return false;
}

/*
 * Call a thread for each kind that is overdue, with @idle only idle ones.
 * Others may be blocked and take a request all the same, so those that were
 * called get more time.  Returns the kinds.
 */
static unsigned int fuse_uring_call_overdue(struct fuse_uring_queue *queue,
					    bool idle)
{
	bool coming = !idle && fuse_uring_is_coming(queue);
	unsigned int kind, kinds = 0;
	struct fuse_req *req;

	for (kind = 0; kind < FUSE_URING_NR_KINDS; kind++) {
		req = fuse_uring_overdue(queue, kind);
		if (!req)
			continue;
		kinds |= BIT(kind);
		if (idle ? !queue->nr_idle : coming &&
		    time_before(jiffies, req->uring_since + HZ / 2))
			continue;
		if (fuse_uring_may_take(queue, kind))
			fuse_uring_call_one(queue, req->uring_sender);
	}

	return kinds;
}

/* Find threads for all overdue requests of a queue.  Under fiq->lock. */
static void fuse_uring_balance_queue(struct fuse_uring_queue *queue)
{
	struct fuse_uring_set *set = &queue->set[FUSE_URING_ORDINARY];
	unsigned int kind, kinds;
	bool any;

	spin_lock(&queue->lock);
	kinds = fuse_uring_call_overdue(queue, true);
	any = !set->nr_parked && !set->nr_called;
	spin_unlock(&queue->lock);
	if (!kinds)
		return;

	for (kind = 0; kind < FUSE_URING_NR_KINDS; kind++) {
		if (!(kinds & BIT(kind)))
			continue;
		fuse_uring_balance_kind(queue, kind, false);
		/* Without a slot or credit of its own, busy ones will do */
		if (any || !fuse_uring_may_take(queue, kind))
			fuse_uring_balance_kind(queue, kind, true);
	}

	spin_lock(&queue->lock);
	fuse_uring_call_overdue(queue, false);
	spin_unlock(&queue->lock);
}

/*
 * Whether a thread that becomes idle should run the balancer: there are overdue
 * requests that a queue may take
 */
static bool fuse_uring_wants_idle(struct fuse_uring *uring)
{
	unsigned int qid, kind, overdue = 0, takeable = 0;

	for (qid = 0; qid < uring->nr_queues; qid++) {
		struct fuse_uring_queue *queue = uring->queues[qid];

		spin_lock(&queue->lock);
		for (kind = 0; kind < FUSE_URING_NR_KINDS; kind++) {
			if (fuse_uring_overdue(queue, kind))
				overdue |= BIT(kind);
			if (queue->live && fuse_uring_may_take(queue, kind))
				takeable |= BIT(kind);
		}
		spin_unlock(&queue->lock);
	}

	return overdue & takeable;
}

/*
 * Reap threads, call more threads of queues with overdue requests, and move
 * such requests to queues with idle threads.
 */
void fuse_uring_balance(struct work_struct *work)
{
	struct fuse_uring *uring = container_of(work, struct fuse_uring,
						balancer);
	struct fuse_iqueue *fiq = &uring->fc->iq;
	unsigned int qid;

	fuse_uring_reap(uring);
	/* See fuse_uring_park() for those that become idle from here on */
	WRITE_ONCE(uring->overdue, true);
	for (qid = 0; qid < uring->nr_queues; qid++) {
		struct fuse_uring_queue *queue = uring->queues[qid];

		spin_lock(&fiq->lock);
		if (fuse_uring_locked(uring->fc) == uring && fiq->connected)
			fuse_uring_balance_queue(queue);
		spin_unlock(&fiq->lock);
		cond_resched();
	}

	spin_lock(&fiq->lock);
	if (fuse_uring_locked(uring->fc) == uring && fiq->connected) {
		/* Threads may have been found to have ended */
		fuse_uring_update_locked(uring);
		if (fuse_uring_messages_overdue(uring))
			fuse_uring_messages_call(uring, true);
		WRITE_ONCE(uring->overdue, fuse_uring_wants_idle(uring));
	}
	spin_unlock(&fiq->lock);
}

/*
 * The requester was killed.  Returns false if the request is not on a queue.
 * @removed: it was pending, and is the caller's now.
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
	mine = req->uring_queue == queue;
	*removed = mine && test_bit(FR_PENDING, &req->flags);
	if (*removed)
		fuse_uring_dequeue(queue, req);
	fuse_uring_unlock(queue);
	rcu_read_unlock();

	return mine;
}

/* FUSE_URING_REQ_DETACH: disarm the slots, held ones when they are committed */
void fuse_uring_queue_detach(struct fuse_uring_queue *queue)
{
	struct fuse_uring_slot *slot;

	spin_lock(&queue->lock);
	fuse_uring_for_each_slot(slot, queue) {
		if (queue->stopped)
			break;
		switch (slot->state) {
		case FUSE_URING_SLOT_IDLE:
			break;
		case FUSE_URING_SLOT_PARKED:
		case FUSE_URING_SLOT_CALLED:
			fuse_uring_slot_drop(slot, -ECANCELED);
			break;
		default:
			slot->detached = true;
			fuse_uring_slot_unregister(slot);
			break;
		}
		fuse_uring_relax(queue, slot);
	}
	fuse_uring_unlock(queue);
}

/* End requests that are on no list, after an abort */
static void fuse_uring_end_all(struct list_head *reqs)
{
	struct fuse_req *req, *next;

	list_for_each_entry_safe(req, next, reqs, list) {
		list_del_init(&req->list);
		req->out.h.error = -ECONNABORTED;
		trace_fuse_uring_end(req, 0, -1);
		fuse_request_end(req);
		cond_resched();
	}
}

/* A request that was taken in a ring that is replaced now waits again */
void fuse_uring_requeue(struct fuse_conn *fc, struct fuse_req *req)
{
	struct fuse_iqueue *fiq = &fc->iq;
	struct fuse_uring *uring;
	LIST_HEAD(reqs);

	WRITE_ONCE(req->uring_queue, NULL);
	list_add(&req->list, &reqs);
	spin_lock(&fiq->lock);
	uring = fuse_uring_locked(fc);
	if (uring && fiq->connected) {
		set_bit(FR_PENDING, &req->flags);
		fuse_uring_move_pending(uring, &reqs);
	}
	spin_unlock(&fiq->lock);
	fuse_uring_end_all(&reqs);
}

/*
 * The connection has ended: disarm the slots, and collect all requests but
 * those that are being copied.  Whoever copies them ends them.
 */
static void fuse_uring_queue_stop(struct fuse_uring_queue *queue,
				  struct list_head *to_end)
{
	struct fuse_iqueue *fiq = &queue->uring->fc->iq;
	struct fuse_uring_slot *slot;
	struct fuse_req *req;
	LIST_HEAD(reqs);

	/* As for all moves: who is killed must not see it half-way */
	spin_lock(&fiq->lock);
	spin_lock(&queue->lock);
	queue->stopped = true;
	WRITE_ONCE(queue->live, false);

	fuse_uring_collect(queue, &reqs);
	list_for_each_entry(req, &reqs, list)
		clear_bit(FR_PENDING, &req->flags);
	list_splice_tail(&reqs, to_end);
	spin_unlock(&queue->lock);
	spin_unlock(&fiq->lock);

	spin_lock(&queue->lock);

	fuse_uring_for_each_slot(slot, queue) {
		switch (slot->state) {
		case FUSE_URING_SLOT_PARKED:
		case FUSE_URING_SLOT_CALLED:
			fuse_uring_slot_drop(slot, fuse_uring_gone(queue->uring->fc,
								   slot->is_user));
			break;
		case FUSE_URING_SLOT_HELD:
		case FUSE_URING_SLOT_ORPHAN:
			req = fuse_uring_slot_revoke(slot);
			if (req)
				list_add_tail(&req->list, to_end);
			break;
		default:
			break;
		}
		fuse_uring_relax(queue, slot);
	}
	queue->changed = false;
	spin_unlock(&queue->lock);
}

/*
 * The connection has ended: end all requests, disarm all slots.  Does not wait
 * for the server.  The last thread frees the ring.
 */
void fuse_uring_abort(struct fuse_conn *fc)
{
	struct fuse_uring *uring;
	struct fuse_req *req;
	LIST_HEAD(to_end);
	unsigned int qid;

	/* New requests find /dev/fuse, which is not connected */
	spin_lock(&fc->iq.lock);
	uring = fuse_uring_locked(fc);
	rcu_assign_pointer(fc->uring, NULL);
	fc->uring_ended = uring;
	if (uring) {
		list_for_each_entry(req, &uring->unclaimed, list)
			clear_bit(FR_SENT, &req->flags);
		list_splice_init(&uring->unclaimed, &to_end);
	}
	spin_unlock(&fc->iq.lock);
	if (!uring)
		return;

	fuse_uring_notifier_abort(uring->notifier);
	fuse_uring_messages_abort(uring);
	for (qid = 0; qid < uring->nr_queues; qid++)
		fuse_uring_queue_stop(uring->queues[qid], &to_end);
	fuse_uring_put(uring);

	fuse_uring_end_all(&to_end);
}

/*
 * Revoke the requests of threads that have ended and, with @others, of other
 * processes.  They are on no list then.
 */
static void fuse_uring_revoke(struct fuse_uring *uring, bool others,
			      struct list_head *reqs)
{
	struct fuse_uring_queue *queue;
	struct fuse_uring_slot *slot;
	struct fuse_req *req;
	unsigned int qid;

	for (qid = 0; qid < uring->nr_queues; qid++) {
		queue = uring->queues[qid];
		spin_lock(&queue->lock);
		fuse_uring_threads_reap(queue);
		fuse_uring_for_each_slot(slot, queue) {
			req = NULL;
			if (slot->state == FUSE_URING_SLOT_ORPHAN ||
			    (others && slot->state == FUSE_URING_SLOT_HELD &&
			     !same_thread_group(slot->thread->task, current)))
				req = fuse_uring_slot_revoke(slot);
			if (req)
				list_add_tail(&req->list, reqs);
			fuse_uring_relax(queue, slot);
		}
		fuse_uring_call_more(queue);
		fuse_uring_unlock(queue);
		cond_resched();
	}
}

/*
 * FUSE_NOTIFY_RESEND: requeue what is in flight in other processes, and what
 * servers held when they ended.  The caller answers its own requests.
 */
void fuse_uring_resend(struct fuse_conn *fc)
{
	struct fuse_iqueue *fiq = &fc->iq;
	struct fuse_uring *uring = fuse_uring_get(fc);
	struct fuse_req *req;
	LIST_HEAD(again);

	if (!uring)
		return;

	fuse_uring_revoke(uring, true, &again);
	fuse_uring_put(uring);

	spin_lock(&fiq->lock);
	uring = fuse_uring_locked(fc);
	if (!uring || !fiq->connected) {
		spin_unlock(&fiq->lock);
		fuse_uring_end_all(&again);
		return;
	}
	list_splice_init(&uring->unclaimed, &again);
	list_for_each_entry(req, &again, list) {
		clear_bit(FR_SENT, &req->flags);
		/* The server is told of it again when it has the request */
		if (test_bit(FR_INTERRUPTED, &req->flags))
			list_del_init(&req->intr_entry);
		req->in.h.unique |= FUSE_UNIQUE_RESEND;
		set_bit(FR_PENDING, &req->flags);
		req->uring_since = jiffies;
		req->uring_moved = 0;
	}
	/* And what was read from /dev/fuse.  The rest was sent later. */
	list_splice_tail_init(&fiq->pending, &again);
	fuse_uring_move_pending(uring, &again);
	fuse_uring_update_locked(uring);
	spin_unlock(&fiq->lock);
}

/* Find threads that have ended.  Returns whether others are left. */
bool fuse_uring_reap(struct fuse_uring *uring)
{
	bool served = false;
	unsigned int qid;

	for (qid = 0; qid < uring->nr_queues; qid++) {
		struct fuse_uring_queue *queue = uring->queues[qid];

		spin_lock(&queue->lock);
		fuse_uring_threads_reap(queue);
		fuse_uring_call_more(queue);
		served |= queue->nr_threads;
		fuse_uring_unlock(queue);
		cond_resched();
	}

	return served;
}

/*
 * Prepare a ring to be replaced.  Returns false if a thread serves it.  Else
 * what is pending has moved to /dev/fuse, and @by continues its sequences.
 */
bool fuse_uring_retire(struct fuse_uring *uring, struct fuse_uring *by)
{
	struct fuse_uring_queue *queue;
	unsigned int qid, nr;
	bool served = false;
	u64 seq = 0;

	lockdep_assert_held(&uring->fc->iq.lock);

	for (nr = 0; nr < uring->nr_queues && !served; nr++) {
		queue = uring->queues[nr];
		spin_lock(&queue->lock);
		fuse_uring_threads_reap(queue);
		served = !RB_EMPTY_ROOT(&queue->threads);
		queue->stopped = !served;
		seq = max(seq, queue->next_seq);
		spin_unlock(&queue->lock);
	}
	for (qid = 0; served && qid < nr; qid++) {
		queue = uring->queues[qid];
		spin_lock(&queue->lock);
		queue->stopped = false;
		fuse_uring_call_more(queue);
		spin_unlock(&queue->lock);
	}
	fuse_uring_update_locked(uring);
	if (served)
		return false;

	/* Unique ids of requests that are still held, and commit_ids */
	for (qid = 0; qid < by->nr_queues; qid++)
		by->queues[qid]->next_seq = seq;

	return true;
}

/* What the threads of a ring that was replaced held is the next one's to resend */
void fuse_uring_inherit(struct fuse_uring *old)
{
	struct fuse_conn *fc = old->fc;
	struct fuse_uring *uring;
	LIST_HEAD(reqs);

	fuse_uring_revoke(old, false, &reqs);
	spin_lock(&fc->iq.lock);
	list_splice_init(&old->unclaimed, &reqs);
	uring = fuse_uring_locked(fc);
	if (uring)
		list_splice_tail_init(&reqs, &uring->unclaimed);
	spin_unlock(&fc->iq.lock);
	/* Aborted by now */
	fuse_uring_end_all(&reqs);
}

static void fuse_uring_slot_init(struct fuse_uring_queue *queue,
				 struct fuse_uring_slot *slot, u16 index)
{
	slot->queue = queue;
	slot->index = index;
	slot->is_user = queue->uring->user;
	slot->kind = FUSE_URING_NR_KINDS;
	list_add_tail(&slot->of_queue, &queue->all_slots);
}

/*
 * Find an IDLE slot for user buffers.  Uses or frees @new.  Returns NULL if
 * FUSE_URING_MAX_QUEUE_DEPTH slots are in use.
 */
struct fuse_uring_slot *fuse_uring_queue_claim(struct fuse_uring_queue *queue,
					       struct fuse_uring_slot *new)
{
	struct fuse_uring_slot *slot;

	lockdep_assert_held(&queue->lock);

	if (queue->set[FUSE_URING_ORDINARY].nr_registered < queue->nr_slots) {
		fuse_uring_for_each_slot(slot, queue) {
			if (slot->state == FUSE_URING_SLOT_IDLE) {
				kfree(new);
				return slot;
			}
		}
	}
	if (queue->nr_slots < FUSE_URING_MAX_QUEUE_DEPTH) {
		fuse_uring_slot_init(queue, new, queue->nr_slots++);
		return new;
	}
	kfree(new);

	return NULL;
}

static int fuse_uring_queue_alloc_slots(struct fuse_uring_queue *queue)
{
	struct fuse_uring *uring = queue->uring;
	unsigned int i;

	queue->slots = kvcalloc_node(fuse_uring_nr_slots(uring),
				     sizeof(*queue->slots),
				     GFP_KERNEL_ACCOUNT, queue->node);
	if (!queue->slots)
		return -ENOMEM;

	for (i = 0; i < fuse_uring_nr_slots(uring); i++) {
		struct fuse_uring_slot *slot = &queue->slots[i];

		slot->hdr = queue->mem->addr + i * FUSE_URING_HEADER_STRIDE;
		slot->is_control = i >= uring->queue_depth;
		fuse_uring_slot_init(queue, slot, i);
		fuse_uring_slot_own_area(slot);
	}

	return 0;
}

/*
 * @node and @nr_cpus describe its CPUs.  Returns an error as
 * fuse_uring_mem_alloc().
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
	timer_setup(&queue->timer, fuse_uring_tick, 0);
	INIT_LIST_HEAD(&queue->all_slots);
	for (i = 0; i < FUSE_URING_NR_SETS; i++)
		INIT_LIST_HEAD(&queue->set[i].threads);
	for (i = 0; i < FUSE_URING_NR_KINDS; i++)
		INIT_LIST_HEAD(&queue->pending[i]);
	queue->threads = RB_ROOT;
	queue->next_seq = 1;

	if (uring->user) {
		queue->commits = kcalloc_node(FUSE_URING_COMMIT_BUCKETS,
					      sizeof(*queue->commits),
					      GFP_KERNEL_ACCOUNT, node);
		err = queue->commits ? 0 : -ENOMEM;
		goto out;
	}

	queue->mem = fuse_uring_mem_alloc(uring->granted.mmap_size, node);
	err = PTR_ERR_OR_ZERO(queue->mem);
	if (err)
		queue->mem = NULL;
	if (!err)
		err = fuse_uring_pool_init(queue);
	if (!err)
		err = fuse_uring_queue_alloc_slots(queue);
out:
	if (err) {
		fuse_uring_queue_end(queue);
		kfree(queue);
		return ERR_PTR(err);
	}

	return queue;
}

/* Free all of an unused queue but what its statistics need */
void fuse_uring_queue_end(struct fuse_uring_queue *queue)
{
	struct fuse_uring_mem *mem = queue->mem;
	struct fuse_uring_slot *slot, *next;
	LIST_HEAD(slots);

	WARN_ON_ONCE(!RB_EMPTY_ROOT(&queue->threads));

	spin_lock(&queue->lock);
	list_splice_init(&queue->all_slots, &slots);
	queue->mem = NULL;
	spin_unlock(&queue->lock);

	kfree(queue->pool.chunks);
	if (mem)
		fuse_uring_mem_put(mem);
	if (queue->slots) {
		kvfree(queue->slots);
	} else {
		list_for_each_entry_safe(slot, next, &slots, of_queue)
			kfree(slot);
	}
	kfree(queue->commits);
}
