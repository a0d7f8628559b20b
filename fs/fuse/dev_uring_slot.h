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
#include <linux/sched/signal.h>

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
					   BIT(FUSE_URING_SLOT_PARKED) |
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
fuse_uring_thread_update(struct fuse_uring_thread *thread, bool idle)
{
	struct fuse_uring_queue *queue = thread->queue;

	if (unlikely(thread->ended))
		return;

	WRITE_ONCE(queue->nr_idle, queue->nr_idle + (idle ? 1 : -1));
	/* There is no order of one */
	if (unlikely(queue->nr_threads > 1))
		fuse_uring_thread_sort(thread, idle);
}

static __always_inline void
fuse_uring_thread_occupy(struct fuse_uring_thread *thread)
{
	if (!thread->nr_occupied++)
		fuse_uring_thread_update(thread, false);
}

static __always_inline void
fuse_uring_thread_vacate(struct fuse_uring_thread *thread)
{
	if (!--thread->nr_occupied)
		fuse_uring_thread_update(thread, true);
}

/* Whether @cmd is a command of @thread, which has not ended */
static __always_inline bool
fuse_uring_thread_is(const struct fuse_uring_thread *thread,
		     struct io_uring_cmd *cmd)
{
	return thread->task == io_uring_cmd_get_task(cmd) &&
		thread->ctx == fuse_uring_cmd_ctx(cmd) &&
		thread->exec_id == READ_ONCE(thread->task->self_exec_id);
}

/* The task or the io_uring has ended */
static __always_inline bool
fuse_uring_thread_is_dead(const struct fuse_uring_thread *thread)
{
	return unlikely(READ_ONCE(thread->task->flags) & PF_EXITING ||
			READ_ONCE(thread->task->signal->flags) &
			SIGNAL_GROUP_EXIT ||
			percpu_ref_is_dying(&thread->ctx->refs) ||
			READ_ONCE(thread->task->self_exec_id) != thread->exec_id);
}

/* Almost always false, and then @thread is not the one of @sender */
static __always_inline bool
fuse_uring_may_be_sender(const struct fuse_uring_thread *thread,
			 struct task_struct *sender)
{
	return unlikely(thread->task == sender ||
			thread->ctx->flags & IORING_SETUP_SQPOLL);
}

static __always_inline void
fuse_uring_del_pending(struct fuse_uring_queue *queue, struct fuse_req *req,
		       enum fuse_uring_kind kind)
{
	list_del_init(&req->list);
	queue->nr_pending--;
	if (likely(list_empty(&queue->pending[kind])))
		queue->waiting &= ~BIT(kind);
}

/*
 * Call a thread if there is something to take: after a request was taken, or a
 * resource was given back.  Each thread calls the next.
 */
static __always_inline void
fuse_uring_call_more(struct fuse_uring_queue *queue)
{
	struct fuse_uring_set *set = &queue->set[FUSE_URING_ORDINARY];

	if (unlikely(queue->nr_pending > set->nr_called) && set->nr_parked)
		fuse_uring_call_next(queue);
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

	fuse_uring_thread_vacate(old);
	fuse_uring_slot_unbind(slot);
	fuse_uring_slot_bind(slot, thread);
	fuse_uring_thread_occupy(thread);
}

static inline struct hlist_head *
fuse_uring_commit_list(struct fuse_uring_queue *queue, u64 commit_id)
{
	return &queue->commits[hash_64(commit_id, FUSE_URING_COMMIT_BITS)];
}

/*
 * Change the state of a slot of set @i.  The only place that does, so it keeps
 * all counts and lists.  A queue is live while it has registered ordinary
 * slots.  A slot that becomes IDLE or ORPHAN loses its thread, which may be
 * freed.
 */
static __always_inline void
__fuse_uring_slot_move(struct fuse_uring_slot *slot,
		       enum fuse_uring_slot_state from,
		       enum fuse_uring_slot_state to, const unsigned int i)
{
	struct fuse_uring_thread *thread = slot->thread;
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_uring_set *set = &queue->set[i];

	lockdep_assert_held(&queue->lock);
	WARN_ON_ONCE(slot->state != from);
	WARN_ON_ONCE(!fuse_uring_slot_may_move(from, to));

	if (from == FUSE_URING_SLOT_IDLE) {
		slot->detached = false;
		slot->commit_only = false;
	}
	if (from == FUSE_URING_SLOT_IDLE || from == FUSE_URING_SLOT_ORPHAN)
		fuse_uring_slot_register(slot);

	if (from == FUSE_URING_SLOT_PARKED) {
		__list_del_entry(&slot->parked);
		WRITE_ONCE(set->nr_parked, set->nr_parked - 1);
		if (list_empty(&thread->parked[i]))
			list_del_init(&thread->entry[i]);
	}
	if (from == FUSE_URING_SLOT_CALLED) {
		thread->nr_called--;
		set->nr_called--;
		if (unlikely(i))
			atomic_dec(&queue->uring->messages.nr_called);
	}
	if (from == FUSE_URING_SLOT_COMMIT)
		queue->nr_committing--;

	slot->state = to;

	if (to == FUSE_URING_SLOT_COMMIT)
		queue->nr_committing++;
	if (to == FUSE_URING_SLOT_CALLED) {
		thread->nr_called++;
		set->nr_called++;
		if (unlikely(i))
			atomic_inc(&queue->uring->messages.nr_called);
	}
	if (fuse_uring_slot_is_occupied(to) && !fuse_uring_slot_is_occupied(from))
		fuse_uring_thread_occupy(thread);
	if (fuse_uring_slot_is_occupied(from) && !fuse_uring_slot_is_occupied(to))
		fuse_uring_thread_vacate(thread);

	if (to == FUSE_URING_SLOT_PARKED) {
		/* The slot that was used last is in the caches */
		list_add(&slot->parked, &thread->parked[i]);
		WRITE_ONCE(set->nr_parked, set->nr_parked + 1);
		if (!list_empty(&thread->entry[i])) {
			/*
			 * The thread is on the list already
			 */
		} else if (!thread->nr_occupied) {
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

/* As __fuse_uring_slot_move(), for a slot of either set */
static __always_inline void
fuse_uring_slot_move(struct fuse_uring_slot *slot,
		     enum fuse_uring_slot_state from,
		     enum fuse_uring_slot_state to)
{
	__fuse_uring_slot_move(slot, from, to, slot->is_control);
}

static __always_inline void
fuse_uring_slot_give_credit_back(struct fuse_uring_slot *slot)
{
	unsigned int *taken = &slot->queue->taken[slot->kind];

	if (slot->kind == FUSE_URING_NR_KINDS)
		return;
	WRITE_ONCE(*taken, *taken - 1);
	slot->kind = FUSE_URING_NR_KINDS;
}

/* Detach the request, or NULL, from its slot.  Gives back credit and memory. */
static __always_inline struct fuse_req *
fuse_uring_slot_release(struct fuse_uring_slot *slot)
{
	struct fuse_req *req = slot->req;

	lockdep_assert_held(&slot->queue->lock);

	slot->req = NULL;
	fuse_uring_slot_give_credit_back(slot);
	if (unlikely(slot->buf_type != FUSE_URING_BUF_OWN))
		fuse_uring_pool_give(slot);

	return req;
}

/* The slot takes no more requests */
static __always_inline bool
fuse_uring_slot_is_done(const struct fuse_uring_slot *slot)
{
	return unlikely(slot->queue->stopped || slot->detached ||
			slot->thread->ended);
}

/* Result of the command of a slot that was disarmed */
static inline int fuse_uring_slot_disarmed(const struct fuse_uring_slot *slot)
{
	return slot->commit_only ? 0 : -ECANCELED;
}

/*
 * Let io_uring cancel a command.  Cancellation does not find it in a slot
 * before it is parked.
 */
static __always_inline void
fuse_uring_prepare(struct io_uring_cmd *cmd, struct fuse_uring_slot *slot,
		   struct fuse_uring_thread *thread, unsigned int issue_flags)
{
	*fuse_uring_pdu(cmd) = (struct fuse_uring_pdu) {
		.slot = slot,
		.thread = thread,
	};
	io_uring_cmd_mark_cancelable(cmd, issue_flags);
}

/*
 * Park the command of an ordinary slot.  If that makes the thread idle, it may
 * help other queues.  Pairs with fuse_uring_can_help(), by the lock.
 */
static __always_inline void
fuse_uring_park(struct fuse_uring_slot *slot, struct io_uring_cmd *cmd,
		enum fuse_uring_slot_state from)
{
	struct fuse_uring *uring = slot->queue->uring;

	slot->cmd = cmd;
	__fuse_uring_slot_move(slot, from, FUSE_URING_SLOT_PARKED,
			       FUSE_URING_ORDINARY);
	if (unlikely(READ_ONCE(uring->overdue)) && !slot->thread->nr_occupied)
		queue_work(fuse_uring_wq, &uring->balancer);
}

/* Inline for the most frequent sizes: GETATTR and SETXATTR, READ and WRITE */
static __always_inline void
fuse_uring_copy_op_header(char *to, const void *from, unsigned int size)
{
	if (size == sizeof(struct fuse_getattr_in))
		memcpy(to, from, sizeof(struct fuse_getattr_in));
	else if (size == sizeof(struct fuse_read_in))
		memcpy(to, from, sizeof(struct fuse_read_in));
	else
		memcpy(to, from, size);
}

/* Whether a request and its reply have room in a slot */
static __always_inline bool fuse_uring_fits(const struct fuse_uring_slot *slot,
					    const struct fuse_req *req)
{
	return req->uring_area <= slot->payload_room &&
		(!req->uring_has_op || req->args->in_args[0].size <=
				       FUSE_URING_OP_IN_OUT_SZ);
}

/* Copy all of a request but its payload into a slot of a managed ring */
static __always_inline void
fuse_uring_copy_headers(struct fuse_uring_slot *slot,
			const struct fuse_req *req)
{
	struct fuse_uring_slot_header *hdr = slot->hdr;
	const struct fuse_in_arg *op = &req->args->in_args[0];

	memcpy(hdr->in_out, &req->in.h, sizeof(req->in.h));
	if (req->uring_has_op)
		fuse_uring_copy_op_header(hdr->op_in, op->value, op->size);
	hdr->flags = 0;
	hdr->commit_id = slot->commit_id;
	hdr->payload_sz = req->uring_in_size;
	hdr->payload_offset = slot->payload_offset;
	hdr->payload_room = slot->payload_room;
}

/* As a server's struct fuse_out_header sets it */
static __always_inline void fuse_uring_set_result(struct fuse_req *req,
						  int error, u32 payload_sz)
{
	req->out.h.len = sizeof(req->out.h) + payload_sz;
	req->out.h.error = error;
}

/* Bytes of a reply that may be copied under queue->lock */
#define FUSE_URING_SMALL_REPLY	256

/* Copy a small reply of exactly the expected size, or return false */
static __always_inline bool
fuse_uring_copy_out_small(const struct fuse_uring_slot *slot,
			  struct fuse_args *args, u32 payload_sz)
{
	void *value = args->out_args[0].value;

	if (args->out_pages || payload_sz > FUSE_URING_SMALL_REPLY)
		return false;

	/* Most replies are one structure, and most of these are attributes */
	if (unlikely(args->out_numargs != 1))
		return fuse_uring_copy_out_args(slot, args, payload_sz);
	if (unlikely(payload_sz != args->out_args[0].size))
		return false;
	if (payload_sz == sizeof(struct fuse_attr_out))
		memcpy(value, slot->payload, sizeof(struct fuse_attr_out));
	else if (payload_sz == sizeof(struct fuse_entry_out))
		memcpy(value, slot->payload, sizeof(struct fuse_entry_out));
	else
		return fuse_uring_copy_out_args(slot, args, payload_sz);

	return true;
}

#endif /* _FS_FUSE_DEV_URING_SLOT_H */
