// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: slots and the threads that serve them.
 */
#include "dev_uring_slot.h"

#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

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

/* Allocate a thread for the queue @qid, see fuse_uring_thread_alloc() */
struct fuse_uring_thread *fuse_uring_new_thread(struct io_uring_cmd *cmd,
						struct fuse_conn *fc, u16 qid)
{
	struct fuse_uring *uring = fuse_uring_get(fc);
	struct fuse_uring_thread *thread = NULL;

	if (!uring)
		return ERR_PTR(-ENOTCONN);

	if (qid < uring->nr_queues)
		thread = fuse_uring_thread_alloc(uring->queues[qid], cmd);
	fuse_uring_put(uring);

	return thread ?: ERR_PTR(-ENOMEM);
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

/* A thread of several has become idle, or has ceased to be */
void fuse_uring_thread_sort(struct fuse_uring_thread *thread, bool idle)
{
	struct fuse_uring_set *set = thread->queue->set;
	unsigned int i;

	for (i = 0; i < FUSE_URING_NR_SETS; i++) {
		if (list_empty(&thread->entry[i]))
			continue;
		if (idle)
			list_move(&thread->entry[i], &set[i].threads);
		else
			list_move_tail(&thread->entry[i], &set[i].threads);
	}
}

/* Remove a thread from its queue, which is locked */
void fuse_uring_thread_unlink(struct fuse_uring_thread *thread)
{
	struct fuse_uring_queue *queue = thread->queue;

	rb_erase(&thread->node, &queue->threads);
	queue->nr_threads--;
	if (!thread->nr_occupied)
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
	fuse_uring_thread_update(thread, true);

	return thread;
}

/* Place the payload in the slot's own area */
void fuse_uring_slot_own_area(struct fuse_uring_slot *slot)
{
	struct fuse_uring *uring = slot->queue->uring;

	slot->buf_type = FUSE_URING_BUF_OWN;
	if (slot->is_control) {
		slot->payload_room = FUSE_URING_CONTROL_AREA;
		slot->payload_offset = uring->control_offset +
			(slot->index - uring->queue_depth) *
			FUSE_URING_CONTROL_AREA;
	} else {
		slot->payload_room = uring->small_size;
		slot->payload_offset = uring->payload_offset +
			slot->index * uring->small_size;
	}
	slot->payload = slot->queue->mem->addr + slot->payload_offset;
}

/* Revoke the request, or NULL, of a HELD or ORPHAN slot */
struct fuse_req *fuse_uring_slot_revoke(struct fuse_uring_slot *slot)
{
	struct fuse_req *req = fuse_uring_slot_release(slot);

	fuse_uring_slot_disown(slot);
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
 * others must not wait for it.  The rest of its process may write to its pool
 * memory until it is dead, see fuse_uring_owners_reap().
 */
void fuse_uring_slot_orphan(struct fuse_uring_slot *slot)
{
	fuse_uring_message_end(slot);
	fuse_uring_slot_give_credit_back(slot);
	if (slot->buf_type != FUSE_URING_BUF_OWN) {
		slot->owner = get_task_struct(slot->thread->task);
		slot->queue->pool.nr_owned++;
	}
	fuse_uring_slot_move(slot, FUSE_URING_SLOT_HELD, FUSE_URING_SLOT_ORPHAN);
}

static void fuse_uring_slot_put_owner(struct fuse_uring_slot *slot)
{
	put_task_struct(slot->owner);
	slot->owner = NULL;
	slot->queue->pool.nr_owned--;
}

/* The slot is about to be ORPHAN no more.  It has memory again. */
void fuse_uring_slot_disown(struct fuse_uring_slot *slot)
{
	if (slot->owner)
		fuse_uring_slot_put_owner(slot);
	if (!slot->payload_room)
		fuse_uring_slot_own_area(slot);
}

/*
 * Give back the pool memory that dead processes had: nobody can commit a
 * payload any more.
 */
static void fuse_uring_owners_reap(struct fuse_uring_queue *queue)
{
	struct fuse_uring_slot *slot;

	if (!queue->pool.nr_owned)
		return;

	fuse_uring_for_each_slot(slot, queue) {
		if (!slot->owner || atomic_read(&slot->owner->signal->live))
			continue;
		fuse_uring_slot_put_owner(slot);
		fuse_uring_pool_give(slot);
		slot->payload_room = 0;
	}
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

	for (node = rb_first(&queue->threads); node; node = next) {
		struct fuse_uring_thread *thread;

		next = rb_next(node);
		thread = rb_entry(node, struct fuse_uring_thread, node);
		if (fuse_uring_thread_is_dead(thread))
			fuse_uring_thread_end(thread);
	}
	fuse_uring_owners_reap(queue);
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
