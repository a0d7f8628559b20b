// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: pending requests, and calling threads for them.
 */
#include "dev_uring_slot.h"
#include "fuse_trace.h"

#include <linux/sched/signal.h>

/*
 * Whether there is a slot for one more request of a kind that is not let have
 * all.  One slot is reserved for synchronous requests, and one for writeback.
 * Open-ended requests leave one for the requests that they wait for.
 */
bool fuse_uring_has_credit(const struct fuse_uring_queue *queue,
			   enum fuse_uring_kind kind)
{
	unsigned int nr = READ_ONCE(queue->set[FUSE_URING_ORDINARY].nr_registered);
	unsigned int credits = fuse_uring_credits(queue);
	unsigned int background = fuse_uring_nr_background(queue);

	if (kind == FUSE_URING_OPEN_ENDED)
		return nr > 1 ? queue->taken[kind] < nr - 1 : queue->may_lend;

	/* What the server has set counts while synchronous requests wait */
	if (fuse_uring_sync_waits(queue))
		credits = min(credits, queue->uring->max_background ?:
				       max(DIV_ROUND_UP(nr, 2), 1U));
	if (kind == FUSE_URING_WRITEBACK)
		return background < credits ||
			(nr > 2 && !queue->taken[FUSE_URING_WRITEBACK]);

	return background < credits &&
		(credits == 1 || background -
		 READ_ONCE(queue->taken[FUSE_URING_WRITEBACK]) < credits - 1);
}

/* Whether a slot may be given to any pending request */
static bool fuse_uring_may_take_any(const struct fuse_uring_queue *queue)
{
	unsigned int kind;

	for (kind = 0; kind < FUSE_URING_NR_KINDS; kind++)
		if (queue->waiting & BIT(kind) && fuse_uring_may_take(queue, kind))
			return true;

	return false;
}

/*
 * Whether the thread is, or stands for, @sender, which may be NULL.  With SQPOLL
 * the task of a command never waits for completions: take the creator of the
 * io_uring instead.
 */
bool fuse_uring_thread_is_sender(const struct fuse_uring_thread *thread,
				 struct task_struct *sender)
{
	struct io_uring_task *tctx;

	if (thread->task == sender)
		return true;
	if (!sender || !same_thread_group(thread->task, sender))
		return false;
	/* The sender waits for its request, so it can not exit or exec */
	tctx = READ_ONCE(sender->io_uring);

	return tctx && xa_load(&tctx->xa, (unsigned long)thread->ctx);
}

static __always_inline struct io_uring_cmd *
__fuse_uring_call(struct fuse_uring_queue *queue,
		  struct task_struct *sender,
		  const enum fuse_uring_set_index index)
{
	struct list_head *threads = &queue->set[index].threads;
	struct fuse_uring_thread *thread;
	struct fuse_uring_slot *slot;

	lockdep_assert_held(&queue->lock);

again:
	list_for_each_entry(thread, threads, entry[index]) {
		if (fuse_uring_thread_is_dead(thread)) {
			fuse_uring_thread_end(thread);
			goto again;
		}
		if (fuse_uring_may_be_sender(thread, sender) &&
		    fuse_uring_thread_is_sender(thread, sender))
			continue;

		slot = list_first_entry(&thread->parked[index],
					struct fuse_uring_slot, parked);
		slot->since = jiffies;
		__fuse_uring_slot_move(slot, FUSE_URING_SLOT_PARKED,
				       FUSE_URING_SLOT_CALLED, index);
		/* Next time another one, as this one may not come */
		if (unlikely(queue->nr_threads > 1) &&
		    !list_empty(&thread->entry[index]))
			list_move_tail(&thread->entry[index], threads);
		return slot->cmd;
	}

	return NULL;
}

/*
 * Call a thread that has parked slots of set @index, idle ones first, but not
 * @sender, which may be NULL.  Returns a command to schedule fuse_uring_called()
 * for, or NULL.
 */
struct io_uring_cmd *fuse_uring_call(struct fuse_uring_queue *queue,
				     struct task_struct *sender,
				     enum fuse_uring_set_index index)
{
	return __fuse_uring_call(queue, sender, index);
}

/* As fuse_uring_call(), and schedule fuse_uring_called() */
void fuse_uring_call_one(struct fuse_uring_queue *queue,
			 struct task_struct *sender)
{
	struct io_uring_cmd *cmd;

	cmd = fuse_uring_call(queue, sender, FUSE_URING_ORDINARY);
	if (cmd)
		io_uring_cmd_complete_in_task(cmd, fuse_uring_called);
}

/* See fuse_uring_call_more() */
void fuse_uring_call_next(struct fuse_uring_queue *queue)
{
	if (!queue->stopped && fuse_uring_may_take_any(queue))
		fuse_uring_call_one(queue, NULL);
}

/* Count a request, and give it a unique id */
static __always_inline void fuse_uring_enter(struct fuse_uring_queue *queue,
					     struct fuse_req *req)
{
	if (req->uring_kind >= FUSE_URING_BACKGROUND)
		queue->stats.background++;
	else if (test_bit(FR_ISREPLY, &req->flags))
		queue->stats.synchronous++;
	else
		queue->stats.noreply++;

	/* Kept from /dev/fuse, or from the notification it answers */
	if (!req->in.h.unique)
		req->in.h.unique = fuse_uring_unique(queue);
	req->uring_since = jiffies;
}

static __always_inline void
fuse_uring_add_pending(struct fuse_uring_queue *queue, struct fuse_req *req)
{
	WRITE_ONCE(req->uring_queue, queue);
	queue->waiting |= BIT(req->uring_kind);
	queue->nr_pending++;
}

static __always_inline struct io_uring_cmd *
__fuse_uring_submit(struct fuse_uring_queue *queue, struct fuse_req *req)
{
	struct fuse_uring_set *set = &queue->set[FUSE_URING_ORDINARY];

	if (likely(!req->uring_since))
		fuse_uring_enter(queue, req);
	list_add_tail(&req->list, &queue->pending[req->uring_kind]);
	fuse_uring_add_pending(queue, req);
	if (unlikely(!queue->ticking || queue->tick_interval > 1))
		fuse_uring_watch(queue);

	if (unlikely(!set->nr_parked || queue->nr_pending <= set->nr_called ||
		     !fuse_uring_may_take(queue, req->uring_kind))) {
		queue->stats.waits++;
		trace_fuse_uring_queue(req, queue->qid, -1);
		return NULL;
	}
	/* A busy thread may be blocked, and one that commits will look */
	if (unlikely(!queue->nr_idle && queue->nr_committing))
		return NULL;

	return __fuse_uring_call(queue, req->uring_sender, FUSE_URING_ORDINARY);
}

/*
 * Add an FR_PENDING request to a live queue, which is locked, and call a thread
 * if there is a slot for it.  Returns as fuse_uring_call().
 */
struct io_uring_cmd *fuse_uring_submit(struct fuse_uring_queue *queue,
				       struct fuse_req *req)
{
	return __fuse_uring_submit(queue, req);
}

/* Remove a pending request from its queue, which is locked */
void fuse_uring_dequeue(struct fuse_uring_queue *queue, struct fuse_req *req)
{
	fuse_uring_del_pending(queue, req, req->uring_kind);
	WRITE_ONCE(req->uring_queue, NULL);
	if (list_empty(&queue->pending[req->uring_kind]))
		fuse_uring_pool_pass(queue, req->uring_kind);
	fuse_uring_call_more(queue);
}

/*
 * Requeue a request that was taken, as the first one of its kind.  Called under
 * queue->lock.
 */
void fuse_uring_putback(struct fuse_uring_queue *queue, struct fuse_req *req)
{
	set_bit(FR_PENDING, &req->flags);
	list_add(&req->list, &queue->pending[req->uring_kind]);
	fuse_uring_add_pending(queue, req);
	if (unlikely(!queue->live))
		queue->changed = true;
	fuse_uring_watch(queue);
	/* Its sender may have been killed while it was taken */
	wake_up(&req->waitq);
	fuse_uring_call_more(queue);
}

/* Number of other queues that a background request looks at */
#define FUSE_URING_SPILL_SCAN	8

/* A hint, as the queue is not locked */
static __always_inline bool
fuse_uring_has_room(struct fuse_uring_queue *queue, enum fuse_uring_kind kind,
		    unsigned int area)
{
	struct fuse_uring *uring = queue->uring;

	return READ_ONCE(queue->set[FUSE_URING_ORDINARY].nr_parked) &&
		fuse_uring_may_take(queue, kind) &&
		(area <= uring->small_size ||
		 area <= (u64)READ_ONCE(queue->pool.nr_free) * uring->chunk_size);
}

/*
 * The queue for a background request.  One thread that reads ahead sends all
 * its requests from one CPU.  If that queue is out of slots, credits or memory,
 * choose among the next ones of the node that with the most parked slots.
 */
static noinline struct fuse_uring_queue *
fuse_uring_spill(struct fuse_uring_queue *queue, enum fuse_uring_kind kind,
		 unsigned int area)
{
	struct fuse_uring *uring = queue->uring;
	unsigned int i, nth, nr_parked, most = 0;
	struct fuse_uring_queue *best = queue;

	nth = queue->nth_of_node;
	for (i = 1; i < min(queue->nr_of_node, FUSE_URING_SPILL_SCAN + 1U); i++) {
		struct fuse_uring_queue *other;

		if (++nth == queue->nr_of_node)
			nth = 0;
		other = uring->queues[uring->by_node[queue->first_of_node + nth]];
		nr_parked = READ_ONCE(other->set[FUSE_URING_ORDINARY].nr_parked);
		if (nr_parked > most && fuse_uring_has_room(other, kind, area)) {
			most = nr_parked;
			best = other;
		}
	}

	return best;
}

/* Returns false if the request has to use /dev/fuse */
static __always_inline bool fuse_uring_try_send(struct fuse_conn *fc,
						struct fuse_req *req)
{
	struct fuse_uring_queue *queue, *home;
	const unsigned long flags = READ_ONCE(req->flags);
	struct io_uring_cmd *cmd;
	struct fuse_uring *uring;
	bool lazy = false;

	rcu_read_lock();
	uring = fuse_uring_rcu(fc);
	if (unlikely(!uring))
		goto out;
	fuse_uring_measure(uring, req, flags);
	if (unlikely(!fuse_uring_carries(uring, req)))
		goto out;
	/* Only compared, and only while the request is pending */
	if (likely((flags & (BIT(FR_ISREPLY) | BIT(FR_BACKGROUND))) ==
		   BIT(FR_ISREPLY)))
		req->uring_sender = current;

	home = uring->queues[READ_ONCE(uring->cpu_map[req->uring_cpu])];
	queue = home;
	if (req->uring_kind >= FUSE_URING_BACKGROUND &&
	    !fuse_uring_has_room(home, req->uring_kind, req->uring_area))
		queue = fuse_uring_spill(home, req->uring_kind, req->uring_area);

	spin_lock(&queue->lock);
	if (unlikely(!queue->live)) {
		spin_unlock(&queue->lock);
		goto out;
	}
	rcu_read_unlock();

	if (unlikely(queue != home))
		queue->stats.spills++;
	cmd = __fuse_uring_submit(queue, req);
	/*
	 * A server that waits for several completions may wait for more, as
	 * long as there is another slot to call for synchronous requests.
	 */
	if (req->uring_kind >= FUSE_URING_BACKGROUND)
		lazy = queue->set[FUSE_URING_ORDINARY].nr_parked;
	fuse_uring_unlock(queue);

	if (likely(cmd && !lazy))
		io_uring_cmd_complete_in_task(cmd, fuse_uring_called);
	else if (cmd)
		io_uring_cmd_do_in_task_lazy(cmd, fuse_uring_called);

	return true;
out:
	rcu_read_unlock();
	return false;
}

/* Whether a request is to use the ring.  Called under fiq->lock. */
bool fuse_uring_takes(struct fuse_iqueue *fiq, struct fuse_req *req)
{
	struct fuse_conn *fc = container_of(fiq, struct fuse_conn, iq);
	struct fuse_uring *uring = fuse_uring_locked(fc);

	return uring && uring->active && fiq->connected &&
		fuse_uring_carries(uring, req);
}

/*
 * Send a request, over /dev/fuse if no queue is live or the ring does not carry
 * such requests
 */
void fuse_uring_send(struct fuse_iqueue *fiq, struct fuse_req *req)
{
	struct fuse_conn *fc = container_of(fiq, struct fuse_conn, iq);

	if (likely(fuse_uring_try_send(fc, req)))
		return;

	/* When neither takes it, the map of live queues is behind */
	while (!fuse_dev_try_queue_req(fiq, req)) {
		fuse_uring_update(fc);
		if (fuse_uring_try_send(fc, req))
			return;
	}
}
