/* SPDX-License-Identifier: GPL-2.0 */
/*
 * FUSE over io_uring: the state machine of slots.
 *
 * Inline, as this is the hot path and states are constants nearly everywhere.
 */
#ifndef _FS_FUSE_DEV_URING_SLOT_H
#define _FS_FUSE_DEV_URING_SLOT_H

#include "dev_uring_i.h"

#include <linux/hash.h>

/* The table of transitions in dev_uring_i.h */
static __always_inline bool
fuse_uring_slot_may_move(enum fuse_uring_slot_state from,
			 enum fuse_uring_slot_state to)
{
	static const u8 next[] = {
		[FUSE_URING_SLOT_IDLE]	 = BIT(FUSE_URING_SLOT_COPY),
		[FUSE_URING_SLOT_PARKED] = BIT(FUSE_URING_SLOT_CALLED) |
					   BIT(FUSE_URING_SLOT_IDLE),
		[FUSE_URING_SLOT_CALLED] = BIT(FUSE_URING_SLOT_COPY) |
					   BIT(FUSE_URING_SLOT_IDLE),
		[FUSE_URING_SLOT_COPY]	 = BIT(FUSE_URING_SLOT_HELD) |
					   BIT(FUSE_URING_SLOT_PARKED) |
					   BIT(FUSE_URING_SLOT_IDLE),
		[FUSE_URING_SLOT_HELD]	 = BIT(FUSE_URING_SLOT_COMMIT) |
					   BIT(FUSE_URING_SLOT_ORPHAN) |
					   BIT(FUSE_URING_SLOT_IDLE),
		[FUSE_URING_SLOT_ORPHAN] = BIT(FUSE_URING_SLOT_COMMIT) |
					   BIT(FUSE_URING_SLOT_IDLE),
		[FUSE_URING_SLOT_COMMIT] = BIT(FUSE_URING_SLOT_PARKED) |
					   BIT(FUSE_URING_SLOT_COPY) |
					   BIT(FUSE_URING_SLOT_HELD) |
					   BIT(FUSE_URING_SLOT_IDLE),
	};

	return next[from] & BIT(to);
}

/* The thread is working on the slot, or the server holds it */
static __always_inline bool
fuse_uring_slot_is_busy(enum fuse_uring_slot_state state)
{
	return state == FUSE_URING_SLOT_COPY || state == FUSE_URING_SLOT_HELD ||
		state == FUSE_URING_SLOT_COMMIT;
}

/* The slot keeps its thread from being idle */
static __always_inline bool
fuse_uring_slot_is_occupied(enum fuse_uring_slot_state state)
{
	return state == FUSE_URING_SLOT_CALLED || fuse_uring_slot_is_busy(state);
}

/* Idle threads are called first */
static __always_inline void
fuse_uring_thread_update(struct fuse_uring_thread *thread)
{
	bool idle = !thread->nr_held && !thread->nr_called;
	struct fuse_uring_queue *queue = thread->queue;
	unsigned int i;

	if (idle == thread->idle || unlikely(thread->ended))
		return;

	thread->idle = idle;
	WRITE_ONCE(queue->nr_idle, queue->nr_idle + (idle ? 1 : -1));
	/* There is no order of one */
	if (likely(queue->nr_threads == 1))
		return;
	for (i = 0; i < FUSE_URING_NR_SETS; i++) {
		if (list_empty(&thread->entry[i]))
			continue;
		if (idle)
			list_move(&thread->entry[i], &queue->set[i].threads);
		else
			list_move_tail(&thread->entry[i],
				       &queue->set[i].threads);
	}
}

static inline void fuse_uring_slot_register(struct fuse_uring_slot *slot)
{
	struct fuse_uring_queue *queue = slot->queue;

	if (slot->registered)
		return;

	slot->registered = true;
	if (queue->set[slot->is_control].nr_registered++)
		return;
	queue->changed = true;
	if (!slot->is_control && !queue->stopped)
		WRITE_ONCE(queue->live, true);
}

static inline void fuse_uring_slot_unregister(struct fuse_uring_slot *slot)
{
	struct fuse_uring_queue *queue = slot->queue;

	if (!slot->registered)
		return;

	slot->registered = false;
	if (--queue->set[slot->is_control].nr_registered)
		return;
	queue->changed = true;
	if (!slot->is_control)
		WRITE_ONCE(queue->live, false);
}

static inline void fuse_uring_slot_bind(struct fuse_uring_slot *slot,
					struct fuse_uring_thread *thread)
{
	slot->thread = thread;
	list_add(&slot->of_thread, &thread->slots);
	thread->refs++;
}

static inline void fuse_uring_slot_unbind(struct fuse_uring_slot *slot)
{
	struct fuse_uring_thread *thread = slot->thread;

	slot->thread = NULL;
	list_del(&slot->of_thread);
	/* A thread without slots serves nothing, dropped commands or not */
	if (list_empty(&thread->slots) && !thread->ended)
		fuse_uring_thread_unlink(thread);
	fuse_uring_thread_put(thread);
}

/* Another thread is about to commit a HELD slot */
static inline void fuse_uring_slot_rebind(struct fuse_uring_slot *slot,
					  struct fuse_uring_thread *thread)
{
	struct fuse_uring_thread *old = slot->thread;

	old->nr_held--;
	fuse_uring_thread_update(old);
	fuse_uring_slot_unbind(slot);
	fuse_uring_slot_bind(slot, thread);
	thread->nr_held++;
	fuse_uring_thread_update(thread);
}

static inline struct hlist_head *
fuse_uring_commit_list(struct fuse_uring_queue *queue, u64 commit_id)
{
	return &queue->commits[hash_64(commit_id, FUSE_URING_COMMIT_BITS)];
}

/*
 * Change the state of a slot.  The only place that does, so it keeps all counts
 * and lists.  A queue is live while it has registered ordinary slots.  A slot
 * that becomes IDLE or ORPHAN loses its thread, which may be freed.
 */
static __always_inline void
fuse_uring_slot_move(struct fuse_uring_slot *slot,
		     enum fuse_uring_slot_state from,
		     enum fuse_uring_slot_state to)
{
	const unsigned int i = slot->is_control;
	struct fuse_uring_thread *thread = slot->thread;
	struct fuse_uring_set *set = &slot->queue->set[i];

	lockdep_assert_held(&slot->queue->lock);
	WARN_ON_ONCE(slot->state != from);
	WARN_ON_ONCE(!fuse_uring_slot_may_move(from, to));

	if (from == FUSE_URING_SLOT_IDLE)
		slot->detached = false;
	if (from == FUSE_URING_SLOT_IDLE || from == FUSE_URING_SLOT_ORPHAN)
		fuse_uring_slot_register(slot);

	if (from == FUSE_URING_SLOT_PARKED) {
		list_del(&slot->parked);
		WRITE_ONCE(set->nr_parked, set->nr_parked - 1);
		if (list_empty(&thread->parked[i]))
			list_del_init(&thread->entry[i]);
	}
	if (from == FUSE_URING_SLOT_CALLED) {
		thread->nr_called--;
		set->nr_called--;
		if (unlikely(i))
			atomic_dec(&slot->queue->uring->messages.nr_called);
	}
	if (fuse_uring_slot_is_busy(from) && !fuse_uring_slot_is_busy(to))
		thread->nr_held--;

	if (from == FUSE_URING_SLOT_COMMIT)
		slot->queue->nr_committing--;

	slot->state = to;

	if (to == FUSE_URING_SLOT_COMMIT)
		slot->queue->nr_committing++;

	if (fuse_uring_slot_is_busy(to) && !fuse_uring_slot_is_busy(from))
		thread->nr_held++;
	if (to == FUSE_URING_SLOT_CALLED) {
		thread->nr_called++;
		set->nr_called++;
		if (unlikely(i))
			atomic_inc(&slot->queue->uring->messages.nr_called);
	}
	if (fuse_uring_slot_is_occupied(from) != fuse_uring_slot_is_occupied(to))
		fuse_uring_thread_update(thread);
	if (to == FUSE_URING_SLOT_PARKED) {
		/* The slot that was used last is in the caches */
		list_add(&slot->parked, &thread->parked[i]);
		WRITE_ONCE(set->nr_parked, set->nr_parked + 1);
		if (!list_empty(&thread->entry[i])) {
			/*
			 * The thread is on the list already
			 */
		} else if (thread->idle) {
			list_add(&thread->entry[i], &set->threads);
		} else {
			list_add_tail(&thread->entry[i], &set->threads);
		}
	}
	if (to == FUSE_URING_SLOT_IDLE || to == FUSE_URING_SLOT_ORPHAN) {
		fuse_uring_slot_unregister(slot);
		if (from != FUSE_URING_SLOT_ORPHAN)
			fuse_uring_slot_unbind(slot);
	}
}

#endif /* _FS_FUSE_DEV_URING_SLOT_H */
