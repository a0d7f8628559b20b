// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: slots, the threads that serve them, pending requests.
 *
 * The core of a queue, under queue->lock: which requests are pending, which
 * thread to call for them, and which slot may take which.
 */
#include "dev_uring_slot.h"
#include "fuse_trace.h"

#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

/* The process has ended, so nobody can commit what it holds */
static bool fuse_uring_process_is_dead(const struct task_struct *task)
{
	return (READ_ONCE(task->flags) & PF_EXITING) &&
		(READ_ONCE(task->signal->flags) & SIGNAL_GROUP_EXIT ||
		 thread_group_empty((struct task_struct *)task));
}

/* The task or the io_uring has ended */
static bool fuse_uring_thread_is_dead(const struct fuse_uring_thread *thread)
{
	return unlikely(READ_ONCE(thread->task->flags) & PF_EXITING ||
			READ_ONCE(thread->task->signal->flags) &
			SIGNAL_GROUP_EXIT ||
			percpu_ref_is_dying(&thread->ctx->refs) ||
			READ_ONCE(thread->task->self_exec_id) != thread->exec_id);
}

/* Whether @cmd is a command of @thread, which has not ended */
bool fuse_uring_thread_is(const struct fuse_uring_thread *thread,
			  struct io_uring_cmd *cmd)
{
	return thread->task == io_uring_cmd_get_task(cmd) &&
		thread->ctx == fuse_uring_cmd_ctx(cmd) &&
		thread->exec_id == READ_ONCE(thread->task->self_exec_id);
}

/*
 * Allocate the thread of a command, for fuse_uring_thread_find().  The caller
 * pins the ring.  Returns NULL without memory.
 */
struct fuse_uring_thread *
fuse_uring_thread_alloc(struct fuse_uring_queue *queue,
			struct io_uring_cmd *cmd)
{
	struct fuse_uring_thread *thread;
	unsigned int i;

	thread = kzalloc_node(sizeof(*thread), GFP_KERNEL_ACCOUNT, queue->node);
	if (!thread)
		return NULL;

	thread->queue = queue;
	thread->task = get_task_struct(io_uring_cmd_get_task(cmd));
	thread->ctx = fuse_uring_cmd_ctx(cmd);
	thread->exec_id = READ_ONCE(thread->task->self_exec_id);
	percpu_ref_get(&thread->ctx->refs);
	refcount_inc(&queue->uring->ref);
	INIT_LIST_HEAD(&thread->slots);
	for (i = 0; i < FUSE_URING_NR_SETS; i++) {
		INIT_LIST_HEAD(&thread->parked[i]);
		INIT_LIST_HEAD(&thread->entry[i]);
	}

	return thread;
}

/* Free a thread that has not been added to its queue, or has left it */
void fuse_uring_thread_free(struct fuse_uring_thread *thread)
{
	if (!thread)
		return;

	percpu_ref_put(&thread->ctx->refs);
	put_task_struct(thread->task);
	fuse_uring_put(thread->queue->uring);
	kfree(thread);
}

/* Remove a thread from its queue, which is locked */
void fuse_uring_thread_unlink(struct fuse_uring_thread *thread)
{
	struct fuse_uring_queue *queue = thread->queue;

	rb_erase(&thread->node, &queue->threads);
	queue->nr_threads--;
	if (thread->idle)
		WRITE_ONCE(queue->nr_idle, queue->nr_idle - 1);
	thread->ended = true;
}

/* Called under queue->lock */
void fuse_uring_thread_put(struct fuse_uring_thread *thread)
{
	if (--thread->refs)
		return;

	fuse_uring_thread_free(thread);
}

static int fuse_uring_thread_cmp(const struct task_struct *task,
				 const struct io_ring_ctx *ctx,
				 const struct fuse_uring_thread *thread)
{
	if (task != thread->task)
		return task < thread->task ? -1 : 1;
	if (ctx != thread->ctx)
		return ctx < thread->ctx ? -1 : 1;
	return 0;
}

/*
 * Find the thread of a command.  If there is none, add *@new and set it to
 * NULL, or return NULL if *@new is not for this queue.  Ends a thread that runs
 * another program now.
 */
struct fuse_uring_thread *fuse_uring_thread_find(struct fuse_uring_queue *queue,
						 struct io_uring_cmd *cmd,
						 struct fuse_uring_thread **new)
{
	struct task_struct *task = io_uring_cmd_get_task(cmd);
	struct io_ring_ctx *ctx = fuse_uring_cmd_ctx(cmd);
	struct fuse_uring_thread *thread;
	struct rb_node **link, *parent;
	int cmp;

	lockdep_assert_held(&queue->lock);

again:
	link = &queue->threads.rb_node;
	parent = NULL;
	while (*link) {
		thread = rb_entry(*link, struct fuse_uring_thread, node);
		cmp = fuse_uring_thread_cmp(task, ctx, thread);
		if (!cmp && likely(fuse_uring_thread_is(thread, cmd)))
			return thread;
		if (!cmp) {
			fuse_uring_thread_end(thread);
			fuse_uring_call_more(queue);
			goto again;
		}
		parent = *link;
		link = cmp < 0 ? &parent->rb_left : &parent->rb_right;
	}

	thread = *new;
	if (!thread || thread->queue != queue)
		return NULL;

	*new = NULL;
	rb_link_node(&thread->node, parent, link);
	rb_insert_color(&thread->node, &queue->threads);
	queue->nr_threads++;
	fuse_uring_thread_update(thread);

	return thread;
}

/* Give back a slot's credit and its memory from the pool */
static void fuse_uring_slot_give_back(struct fuse_uring_slot *slot)
{
	struct fuse_uring_queue *queue = slot->queue;

	if (slot->kind != FUSE_URING_NR_KINDS) {
		WRITE_ONCE(queue->taken[slot->kind],
			   queue->taken[slot->kind] - 1);
		slot->kind = FUSE_URING_NR_KINDS;
	}
	if (slot->buf_type != FUSE_URING_BUF_OWN)
		fuse_uring_pool_give(slot);
}

/* Detach the request, or NULL, from its slot.  Gives back credit and memory. */
struct fuse_req *fuse_uring_slot_release(struct fuse_uring_slot *slot)
{
	struct fuse_req *req = slot->req;

	lockdep_assert_held(&slot->queue->lock);

	slot->req = NULL;
	fuse_uring_slot_give_back(slot);
	/* See fuse_uring_slot_orphan() */
	if (unlikely(!slot->payload_room))
		fuse_uring_slot_own_area(slot);

	return req;
}

/* Revoke the request, or NULL, of a HELD or ORPHAN slot */
struct fuse_req *fuse_uring_slot_revoke(struct fuse_uring_slot *slot)
{
	struct fuse_req *req = fuse_uring_slot_release(slot);

	fuse_uring_message_end(slot);
	fuse_uring_slot_move(slot, slot->state, FUSE_URING_SLOT_IDLE);
	if (req) {
		clear_bit(FR_SENT, &req->flags);
		WRITE_ONCE(req->uring_queue, NULL);
	}

	return req;
}

/* Disarm a PARKED or CALLED slot.  Task work completes the command. */
void fuse_uring_slot_drop(struct fuse_uring_slot *slot, int ret)
{
	struct io_uring_cmd *cmd = slot->cmd;
	struct fuse_uring_pdu *pdu = fuse_uring_pdu(cmd);

	slot->cmd = NULL;
	pdu->dropped = true;
	pdu->ret = ret;
	pdu->thread->refs++;
	if (slot->state == FUSE_URING_SLOT_PARKED) {
		fuse_uring_slot_move(slot, FUSE_URING_SLOT_PARKED,
				     FUSE_URING_SLOT_IDLE);
		io_uring_cmd_complete_in_task(cmd, fuse_uring_called);
	} else {
		/* Another control slot has to be called instead */
		slot->queue->changed |= slot->is_control;
		fuse_uring_slot_move(slot, FUSE_URING_SLOT_CALLED,
				     FUSE_URING_SLOT_IDLE);
	}
}

/*
 * The thread of a HELD slot has ended.  Give its credit back, as requests of
 * others must not wait for it.  If its process is dead, give its pool memory
 * back as well: nobody can commit a payload any more.
 */
void fuse_uring_slot_orphan(struct fuse_uring_slot *slot)
{
	bool dead = fuse_uring_process_is_dead(slot->thread->task);

	fuse_uring_message_end(slot);
	if (dead && slot->buf_type != FUSE_URING_BUF_OWN) {
		fuse_uring_slot_give_back(slot);
		slot->payload_room = 0;
	} else if (slot->kind != FUSE_URING_NR_KINDS) {
		WRITE_ONCE(slot->queue->taken[slot->kind],
			   slot->queue->taken[slot->kind] - 1);
		slot->kind = FUSE_URING_NR_KINDS;
	}
	fuse_uring_slot_move(slot, FUSE_URING_SLOT_HELD, FUSE_URING_SLOT_ORPHAN);
}

/*
 * A thread has ended: disarm its slots.  Others can still commit what it holds.
 * Its queue is live only by other slots.  May free the thread.
 */
void fuse_uring_thread_end(struct fuse_uring_thread *thread)
{
	struct fuse_uring_queue *queue = thread->queue;
	int ret = queue->uring->user ? -ENOTCONN : -ECANCELED;
	struct fuse_uring_slot *slot, *next;

	lockdep_assert_held(&queue->lock);

	if (thread->ended)
		return;

	fuse_uring_thread_unlink(thread);
	thread->refs++;
	list_for_each_entry_safe(slot, next, &thread->slots, of_thread) {
		switch (slot->state) {
		case FUSE_URING_SLOT_PARKED:
		case FUSE_URING_SLOT_CALLED:
			fuse_uring_slot_drop(slot, ret);
			break;
		case FUSE_URING_SLOT_HELD:
			fuse_uring_slot_orphan(slot);
			break;
		default:
			/* The task works on it, and sees thread->ended */
			fuse_uring_slot_unregister(slot);
			break;
		}
	}
	fuse_uring_thread_put(thread);
}

/* End threads whose task or io_uring has ended.  Called under queue->lock. */
void fuse_uring_threads_reap(struct fuse_uring_queue *queue)
{
	struct rb_node *node, *next;
	bool ended = false;

	for (node = rb_first(&queue->threads); node; node = next) {
		struct fuse_uring_thread *thread;

		next = rb_next(node);
		thread = rb_entry(node, struct fuse_uring_thread, node);
		if (fuse_uring_thread_is_dead(thread)) {
			fuse_uring_thread_end(thread);
			ended = true;
		}
	}
	if (ended)
		fuse_uring_call_more(queue);
}

/*
 * Number of slots for background requests: what the server has set while
 * synchronous requests wait, else all but one.
 */
static unsigned int fuse_uring_credits(const struct fuse_uring_queue *queue)
{
	unsigned int nr = READ_ONCE(queue->set[FUSE_URING_ORDINARY].nr_registered);
	unsigned int credits = max(nr, 2U) - 1;

	if (fuse_uring_sync_waits(queue))
		credits = min(credits, queue->uring->max_background ?:
				       DIV_ROUND_UP(nr, 2));
	return max(credits, 1U);
}

/*
 * Whether a request of @kind may have a slot; a hint if the queue is not
 * locked.  One slot is reserved for synchronous requests, and one for
 * writeback.  Open-ended requests leave one for the requests that they wait
 * for.
 */
bool fuse_uring_may_take(const struct fuse_uring_queue *queue,
			 enum fuse_uring_kind kind)
{
	unsigned int nr, credits, background;

	if (likely(kind <= FUSE_URING_SYNC_LARGE))
		return true;

	nr = READ_ONCE(queue->set[FUSE_URING_ORDINARY].nr_registered);
	if (kind == FUSE_URING_OPEN_ENDED)
		return nr > 1 ? queue->taken[kind] < nr - 1 : queue->may_lend;

	credits = fuse_uring_credits(queue);
	background = fuse_uring_nr_background(queue);
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
 * Whether the thread waits for @req.  With SQPOLL the task of a command never
 * waits for completions: take the creator of the io_uring instead.
 */
static bool fuse_uring_thread_is_sender(const struct fuse_uring_thread *thread,
					const struct fuse_req *req)
{
	struct task_struct *sender = req ? req->uring_sender : NULL;
	struct io_uring_task *tctx;

	if (likely(thread->task != sender)) {
		if (likely(!(thread->ctx->flags & IORING_SETUP_SQPOLL)) ||
		    !sender || !same_thread_group(thread->task, sender))
			return false;
		/* The sender waits for @req, so it can not exit or exec */
		tctx = READ_ONCE(sender->io_uring);
		return tctx && xa_load(&tctx->xa, (unsigned long)thread->ctx);
	}

	return true;
}

/*
 * Call a thread, idle ones first, but not the sender of @req, which may be
 * NULL.  Returns a command to schedule fuse_uring_called() for, or NULL.
 */
struct io_uring_cmd *fuse_uring_call(struct fuse_uring_queue *queue,
				     enum fuse_uring_set_index index,
				     const struct fuse_req *req)
{
	struct list_head *threads = &queue->set[index].threads;
	struct fuse_uring_thread *thread, *next;
	struct fuse_uring_slot *slot;

	lockdep_assert_held(&queue->lock);

again:
	list_for_each_entry_safe(thread, next, threads, entry[index]) {
		if (fuse_uring_thread_is_dead(thread)) {
			fuse_uring_thread_end(thread);
			goto again;
		}
		if (fuse_uring_thread_is_sender(thread, req))
			continue;

		slot = list_first_entry(&thread->parked[index],
					struct fuse_uring_slot, parked);
		slot->since = jiffies;
		fuse_uring_slot_move(slot, FUSE_URING_SLOT_PARKED,
				     FUSE_URING_SLOT_CALLED);
		/* Next time another one, as this one may not come */
		if (!list_empty(&thread->entry[index]))
			list_move_tail(&thread->entry[index], threads);
		return slot->cmd;
	}

	return NULL;
}

/* As fuse_uring_call(), and schedule fuse_uring_called() */
void fuse_uring_call_one(struct fuse_uring_queue *queue,
			 const struct fuse_req *req)
{
	struct io_uring_cmd *cmd;

	cmd = fuse_uring_call(queue, FUSE_URING_ORDINARY, req);
	if (cmd)
		io_uring_cmd_complete_in_task(cmd, fuse_uring_called);
}

/*
 * Call a thread if there is something to take: after a request was taken, or a
 * resource was given back.  Each thread calls the next.
 */
void fuse_uring_call_more(struct fuse_uring_queue *queue)
{
	struct fuse_uring_set *set = &queue->set[FUSE_URING_ORDINARY];

	if (unlikely(queue->nr_pending > set->nr_called) && set->nr_parked &&
	    !queue->stopped && fuse_uring_may_take_any(queue))
		fuse_uring_call_one(queue, NULL);
}

static void fuse_uring_add_pending(struct fuse_uring_queue *queue,
				   struct fuse_req *req,
				   enum fuse_uring_kind kind)
{
	WRITE_ONCE(req->uring_queue, queue);
	queue->waiting |= BIT(kind);
	queue->nr_pending++;
}

/* Count a request, and give it a unique id */
static void fuse_uring_enter(struct fuse_uring_queue *queue,
			     struct fuse_req *req)
{
	if (test_bit(FR_BACKGROUND, &req->flags))
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

/*
 * Add an FR_PENDING request to a live queue, which is locked.  Returns whether
 * to call a thread.
 */
bool fuse_uring_enqueue(struct fuse_uring_queue *queue, struct fuse_req *req)
{
	struct fuse_uring_set *set = &queue->set[FUSE_URING_ORDINARY];
	enum fuse_uring_kind kind = fuse_uring_kind(queue->uring, req);
	bool call;

	if (likely(!req->uring_since))
		fuse_uring_enter(queue, req);
	list_add_tail(&req->list, &queue->pending[kind]);
	fuse_uring_add_pending(queue, req, kind);
	call = set->nr_parked && fuse_uring_may_take(queue, kind) &&
		queue->nr_pending > set->nr_called;
	if (unlikely(!call)) {
		queue->stats.waits++;
		trace_fuse_uring_queue(req, queue->qid, -1);
	}
	if (unlikely(!queue->ticking || queue->tick_interval > 1))
		fuse_uring_watch(queue);

	return call;
}

static void fuse_uring_del_pending(struct fuse_uring_queue *queue,
				   struct fuse_req *req,
				   enum fuse_uring_kind kind)
{
	list_del_init(&req->list);
	queue->nr_pending--;
	if (likely(list_empty(&queue->pending[kind])))
		queue->waiting &= ~BIT(kind);
}

/* Remove a pending request from its queue, which is locked */
void fuse_uring_dequeue(struct fuse_uring_queue *queue, struct fuse_req *req)
{
	enum fuse_uring_kind kind = fuse_uring_kind(queue->uring, req);

	fuse_uring_del_pending(queue, req, kind);
	WRITE_ONCE(req->uring_queue, NULL);
	if (list_empty(&queue->pending[kind]))
		fuse_uring_pool_pass(queue, kind);
	fuse_uring_call_more(queue);
}

/*
 * Requeue a request that was taken, as the first one of its kind.  Called under
 * queue->lock.
 */
void fuse_uring_putback(struct fuse_uring_queue *queue, struct fuse_req *req)
{
	enum fuse_uring_kind kind = fuse_uring_kind(queue->uring, req);

	set_bit(FR_PENDING, &req->flags);
	list_add(&req->list, &queue->pending[kind]);
	fuse_uring_add_pending(queue, req, kind);
	if (unlikely(!queue->live))
		queue->changed = true;
	fuse_uring_watch(queue);
	/* Its sender may have been killed while it was taken */
	wake_up(&req->waitq);
	fuse_uring_call_more(queue);
}

/* The first request of a kind that the thread of the slot may take */
static struct fuse_req *fuse_uring_first(const struct fuse_uring_slot *slot,
					 enum fuse_uring_kind kind)
{
	struct list_head *list = &slot->queue->pending[kind];
	struct fuse_req *req;

	req = list_first_entry(list, struct fuse_req, list);
	if (likely(!(slot->thread->ctx->flags & IORING_SETUP_SQPOLL)))
		return req;

	list_for_each_entry(req, list, list)
		if (!fuse_uring_thread_is_sender(slot->thread, req))
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

/*
 * Take the next pending request into a slot in COPY.  Kinds take turns.  A kind
 * is skipped if its first request finds no credit or memory.  Signals do not
 * end the request any more.
 */
struct fuse_req *fuse_uring_take(struct fuse_uring_slot *slot)
{
	struct fuse_uring_queue *queue = slot->queue;
	unsigned int kind, mask, later;
	struct fuse_req *req = NULL;

	lockdep_assert_held(&queue->lock);

	for (mask = queue->waiting; mask; mask &= ~BIT(kind)) {
		later = mask & -BIT(queue->next_kind);
		kind = __ffs(later ?: mask);
		req = fuse_uring_take_kind(slot, kind);
		if (likely(req))
			break;
	}
	if (!req)
		return NULL;

	fuse_uring_del_pending(queue, req, kind);
	/* One that needs none may come before those that wait for memory */
	if (unlikely(queue->pool.turn == kind))
		fuse_uring_pool_pass(queue, kind);
	queue->next_kind = kind + 1 < FUSE_URING_NR_KINDS ? kind + 1 : 0;
	clear_bit(FR_PENDING, &req->flags);
	slot->req = req;
	slot->kind = kind;
	WRITE_ONCE(queue->taken[kind], queue->taken[kind] + 1);
	if (likely(!slot->is_user))
		slot->commit_id = fuse_uring_commit_id(queue);
	else
		fuse_uring_user_commit_id(slot, req->in.h.unique);

	return req;
}

/* Start the timer, see fuse_uring_tick().  Called under queue->lock. */
void fuse_uring_watch(struct fuse_uring_queue *queue)
{
	if (queue->stopped || (queue->ticking && queue->tick_interval == 1))
		return;

	queue->ticking = true;
	queue->tick_interval = 1;
	mod_timer(&queue->timer, jiffies + 1);
}

/* The queue may be freed once it is unlocked */
void fuse_uring_unlock_changed(struct fuse_uring_queue *queue)
	__releases(&queue->lock)
{
	struct fuse_conn *fc = queue->uring->fc;

	queue->changed = false;
	spin_unlock(&queue->lock);
	fuse_uring_update(fc);
}
