// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: forgets and interrupts, in control slots.
 *
 * They are messages about the whole connection, and nobody waits for them.  So
 * they wait on lists of the ring, under fiq->lock, or on those of /dev/fuse if
 * no control slot is armed.  A control slot takes an interrupt, else as many
 * forgets as fit.  One slot is called when a list becomes non-empty; a slot
 * that leaves messages behind calls another.  Only one slot of a queue carries
 * forgets at a time, so at least one is left for interrupts.
 */
#include "dev_uring_slot.h"
#include "fuse_trace.h"

#include <linux/slab.h>

/* A message on its way from the lists to a slot */
struct fuse_uring_message {
	enum fuse_uring_message_kind kind;
	struct fuse_in_header ih;
	/* FUSE_URING_MSG_FORGET */
	struct fuse_forget_link *forgets;
	unsigned int nr_forgets;
	/* FUSE_URING_MSG_INTERRUPT: unique id of the request */
	u64 interrupted;
};

static bool fuse_uring_messages_wait(const struct fuse_uring_messages *msgs)
{
	return msgs->nr_forgets || !list_empty(&msgs->interrupts);
}

/*
 * Call a control slot of the first queue that has one, with @idle of those that
 * have an idle thread.  Under fiq->lock.
 */
static bool fuse_uring_call_any(struct fuse_uring *uring,
				struct fuse_uring_queue *first, bool idle)
{
	struct io_uring_cmd *cmd = NULL;
	unsigned int i;

	for (i = 0; i < uring->nr_queues && !cmd; i++) {
		struct fuse_uring_queue *queue;

		queue = uring->queues[(first->qid + i) % uring->nr_queues];
		spin_lock(&queue->lock);
		if (!idle || queue->nr_idle)
			cmd = fuse_uring_call(queue, NULL, FUSE_URING_CONTROL);
		if (cmd)
			fuse_uring_watch(queue);
		spin_unlock(&queue->lock);
	}
	if (cmd)
		io_uring_cmd_complete_in_task(cmd, fuse_uring_called);

	return cmd;
}

/*
 * Call a control slot if messages wait.  With @again call one although others
 * are called already, as they do not come.
 */
void fuse_uring_messages_call(struct fuse_uring *uring, bool again)
{
	struct fuse_uring_messages *msgs = &uring->messages;
	struct fuse_uring_queue *queue = NULL;
	struct fuse_req *req;

	lockdep_assert_held(&uring->fc->iq.lock);

	if (!msgs->active || !fuse_uring_messages_wait(msgs))
		return;

	req = list_first_entry_or_null(&msgs->interrupts, struct fuse_req,
				       intr_entry);
	if (req)
		queue = READ_ONCE(req->uring_queue);
	if (!queue || queue->uring != uring)
		queue = uring->queues[READ_ONCE(uring->cpu_map[raw_smp_processor_id()])];

	if (!again && atomic_read(&msgs->nr_called)) {
		/* Whoever was called takes it, or does not come */
		spin_lock(&queue->lock);
		fuse_uring_watch(queue);
		spin_unlock(&queue->lock);
		return;
	}
	/* A busy thread may be blocked, and take a message all the same */
	if (again && (fuse_uring_call_any(uring, queue, true) ||
		      time_before(jiffies, msgs->since + HZ / 2)))
		return;
	fuse_uring_call_any(uring, queue, false);
}

/* Only a hint when fiq->lock is not held */
bool fuse_uring_messages_overdue(const struct fuse_uring *uring)
{
	const struct fuse_uring_messages *msgs = &uring->messages;

	return READ_ONCE(msgs->active) &&
		(READ_ONCE(msgs->nr_forgets) || !list_empty_careful(&msgs->interrupts)) &&
		time_after_eq(jiffies, READ_ONCE(msgs->since) + FUSE_URING_OVERDUE);
}

static void fuse_uring_forgets_move(struct fuse_forget_link *from,
				    struct fuse_forget_link **from_tail,
				    struct fuse_forget_link **to_tail)
{
	if (!from->next)
		return;

	(*to_tail)->next = from->next;
	*to_tail = *from_tail;
	from->next = NULL;
	*from_tail = from;
}

/* Adopt the messages that wait for a read of /dev/fuse */
static void fuse_uring_messages_adopt(struct fuse_uring *uring)
{
	struct fuse_uring_messages *msgs = &uring->messages;
	struct fuse_iqueue *fiq = &uring->fc->iq;
	struct fuse_forget_link *link;

	if (!fuse_uring_messages_wait(msgs))
		WRITE_ONCE(msgs->since, jiffies);
	list_splice_tail_init(&fiq->interrupts, &msgs->interrupts);
	for (link = fiq->forget_list_head.next; link; link = link->next)
		msgs->nr_forgets++;
	fuse_uring_forgets_move(&fiq->forget_list_head, &fiq->forget_list_tail,
				&msgs->forgets_tail);
}

static void fuse_uring_messages_return(struct fuse_uring *uring)
{
	struct fuse_uring_messages *msgs = &uring->messages;
	struct fuse_iqueue *fiq = &uring->fc->iq;

	list_splice_tail_init(&msgs->interrupts, &fiq->interrupts);
	fuse_uring_forgets_move(&msgs->forgets, &msgs->forgets_tail,
				&fiq->forget_list_tail);
	msgs->nr_forgets = 0;
	wake_up(&fiq->waitq);
	kill_fasync(&fiq->fasync, SIGIO, POLL_IN);
}

/* Control slots may have come or gone */
void fuse_uring_messages_update(struct fuse_uring *uring)
{
	struct fuse_uring_messages *msgs = &uring->messages;
	unsigned int qid;
	bool active = false;

	lockdep_assert_held(&uring->fc->iq.lock);

	for (qid = 0; uring->nr_control && qid < uring->nr_queues && !active; qid++)
		active = READ_ONCE(uring->queues[qid]->set[FUSE_URING_CONTROL].nr_registered);

	if (active)
		fuse_uring_messages_adopt(uring);
	else if (msgs->active)
		fuse_uring_messages_return(uring);
	WRITE_ONCE(msgs->active, active);
	if (!atomic_read(&msgs->nr_called))
		fuse_uring_messages_call(uring, false);
}

/*
 * The connection has ended: drop forgets.  fuse_request_end() drops interrupts.
 */
void fuse_uring_messages_abort(struct fuse_uring *uring)
{
	struct fuse_uring_messages *msgs = &uring->messages;
	struct fuse_iqueue *fiq = &uring->fc->iq;
	struct fuse_forget_link *link, *next;

	spin_lock(&fiq->lock);
	WRITE_ONCE(msgs->active, false);
	link = msgs->forgets.next;
	msgs->forgets.next = NULL;
	msgs->forgets_tail = &msgs->forgets;
	msgs->nr_forgets = 0;
	spin_unlock(&fiq->lock);

	for (; link; link = next) {
		next = link->next;
		kfree(link);
		cond_resched();
	}
}

/* Called under fiq->lock.  Returns false for a forget that uses /dev/fuse. */
bool fuse_uring_queue_forget(struct fuse_iqueue *fiq,
			     struct fuse_forget_link *link)
{
	struct fuse_conn *fc = container_of(fiq, struct fuse_conn, iq);
	struct fuse_uring *uring = fuse_uring_locked(fc);
	struct fuse_uring_messages *msgs;
	bool first;

	if (!uring || !uring->messages.active)
		return false;

	msgs = &uring->messages;
	first = !fuse_uring_messages_wait(msgs);
	if (first)
		WRITE_ONCE(msgs->since, jiffies);
	msgs->forgets_tail->next = link;
	msgs->forgets_tail = link;
	WRITE_ONCE(msgs->nr_forgets, msgs->nr_forgets + 1);
	if (first)
		fuse_uring_messages_call(uring, false);

	return true;
}

/* Let an interrupt wait for a control slot, false if it goes to /dev/fuse */
bool fuse_uring_queue_interrupt(struct fuse_iqueue *fiq, struct fuse_req *req)
{
	struct fuse_conn *fc = container_of(fiq, struct fuse_conn, iq);
	struct fuse_uring *uring;
	bool active;

	spin_lock(&fiq->lock);
	uring = fuse_uring_locked(fc);
	active = uring && uring->messages.active;
	/* The server has to hold it.  Else it is told when it does again. */
	if (active && list_empty(&req->intr_entry) &&
	    test_bit(FR_SENT, &req->flags)) {
		if (!fuse_uring_messages_wait(&uring->messages))
			WRITE_ONCE(uring->messages.since, jiffies);
		list_add_tail(&req->intr_entry, &uring->messages.interrupts);
		/*
		 * Pairs with smp_mb() implied by test_and_set_bit() from
		 * fuse_request_end().
		 */
		smp_mb();
		if (test_bit(FR_FINISHED, &req->flags))
			list_del_init(&req->intr_entry);
		else
			fuse_uring_messages_call(uring, false);
	}
	spin_unlock(&fiq->lock);

	return active;
}

/* Take the next message.  Called under fiq->lock. */
static bool fuse_uring_message_take(struct fuse_uring_slot *slot,
				    struct fuse_uring_message *msg)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_uring_messages *msgs = &queue->uring->messages;
	struct fuse_forget_link *last;
	unsigned int max;

	if (!list_empty(&msgs->interrupts)) {
		struct fuse_req *req = list_first_entry(&msgs->interrupts,
							struct fuse_req,
							intr_entry);

		list_del_init(&req->intr_entry);
		msg->kind = FUSE_URING_MSG_INTERRUPT;
		msg->interrupted = req->in.h.unique;
		msg->ih.opcode = FUSE_INTERRUPT;
		msg->ih.unique = req->in.h.unique | FUSE_INT_REQ_BIT;
		msg->ih.len = sizeof(msg->ih) + sizeof(struct fuse_interrupt_in);
		msgs->stat_interrupts++;
		return true;
	}

	if (!msgs->nr_forgets || READ_ONCE(queue->forgetting))
		return false;

	/* Until this one is committed, the queue's other slots take none */
	WRITE_ONCE(queue->forgetting, true);
	max = queue->uring->fc->minor < 16 ? 1 : FUSE_URING_MAX_FORGETS;
	msg->kind = FUSE_URING_MSG_FORGET;
	msg->forgets = msgs->forgets.next;
	last = msg->forgets;
	for (msg->nr_forgets = 1; msg->nr_forgets < max && last->next;
	     msg->nr_forgets++)
		last = last->next;
	msgs->forgets.next = last->next;
	last->next = NULL;
	if (!msgs->forgets.next)
		msgs->forgets_tail = &msgs->forgets;
	WRITE_ONCE(msgs->nr_forgets, msgs->nr_forgets - msg->nr_forgets);
	msgs->stat_forgets++;

	if (msg->nr_forgets == 1) {
		msg->ih.opcode = FUSE_FORGET;
		msg->ih.nodeid = msg->forgets->forget_one.nodeid;
		msg->ih.len = sizeof(msg->ih) + sizeof(struct fuse_forget_in);
	} else {
		msg->ih.opcode = FUSE_BATCH_FORGET;
		msg->ih.len = sizeof(msg->ih) +
			sizeof(struct fuse_batch_forget_in) +
			msg->nr_forgets * sizeof(struct fuse_forget_one);
	}

	return true;
}

/* Copy a message into the slot, and free it */
static void fuse_uring_message_copy(struct fuse_uring_slot *slot,
				    struct fuse_uring_message *msg)
{
	struct fuse_uring_slot_header *hdr = slot->hdr;
	struct fuse_forget_one *one = slot->payload;
	struct fuse_forget_link *link, *next;

	memcpy(hdr->in_out, &msg->ih, sizeof(msg->ih));
	hdr->flags = 0;
	hdr->commit_id = slot->commit_id;
	hdr->payload_sz = 0;
	hdr->payload_offset = slot->payload_offset;
	hdr->payload_room = FUSE_URING_CONTROL_AREA;

	if (msg->kind == FUSE_URING_MSG_INTERRUPT) {
		struct fuse_interrupt_in arg = { .unique = msg->interrupted };

		memcpy(hdr->op_in, &arg, sizeof(arg));
	} else if (msg->nr_forgets == 1) {
		struct fuse_forget_in arg = {
			.nlookup = msg->forgets->forget_one.nlookup,
		};

		memcpy(hdr->op_in, &arg, sizeof(arg));
	} else {
		struct fuse_batch_forget_in arg = { .count = msg->nr_forgets };

		memcpy(hdr->op_in, &arg, sizeof(arg));
		hdr->payload_sz = msg->nr_forgets * sizeof(*one);
	}

	for (link = msg->forgets; link; link = next) {
		next = link->next;
		if (msg->nr_forgets > 1)
			*one++ = link->forget_one;
		kfree(link);
	}
}

/* The slot does not carry a message any more.  Called under queue->lock. */
void fuse_uring_message_end(struct fuse_uring_slot *slot)
{
	if (slot->message == FUSE_URING_MSG_NONE)
		return;

	/* Another slot of the queue may carry forgets now */
	if (slot->message == FUSE_URING_MSG_FORGET) {
		WRITE_ONCE(slot->queue->forgetting, false);
		if (READ_ONCE(slot->queue->uring->messages.nr_forgets))
			slot->queue->changed = true;
	}
	slot->message = FUSE_URING_MSG_NONE;
}

/*
 * Take a message, or park the command before the next one can arrive.  Drops
 * and takes the lock of the queue.
 */
static bool fuse_uring_message_take_or_park(struct fuse_uring_slot *slot,
					    struct fuse_uring_message *msg,
					    struct io_uring_cmd *cmd)
	__must_hold(&slot->queue->lock)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_iqueue *fiq = &queue->uring->fc->iq;
	bool taken;

	spin_unlock(&queue->lock);
	spin_lock(&fiq->lock);
	taken = fuse_uring_message_take(slot, msg);
	if (taken)
		fuse_uring_messages_call(queue->uring, false);
	spin_lock(&queue->lock);
	if (!taken && !queue->stopped && !slot->detached &&
	    !slot->thread->ended) {
		slot->cmd = cmd;
		fuse_uring_slot_move(slot, FUSE_URING_SLOT_COPY,
				     FUSE_URING_SLOT_PARKED);
	}
	spin_unlock(&fiq->lock);

	return taken;
}

/*
 * Give a message to a slot in COPY, or park @cmd.  Unlocks the queue.  Returns
 * the result of @cmd, or -EIOCBQUEUED if it is parked.
 */
int fuse_uring_feed_control(struct fuse_uring_slot *slot,
			    struct io_uring_cmd *cmd)
	__releases(&slot->queue->lock)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_uring_message msg = { };
	int err = 0;

	msg.ih.unique = fuse_uring_unique(queue);
	slot->commit_id = fuse_uring_commit_id(queue);
	if (queue->stopped || slot->detached || slot->thread->ended) {
		/* Takes nothing */
	} else if (fuse_uring_message_take_or_park(slot, &msg, cmd)) {
		spin_unlock(&queue->lock);
		fuse_uring_message_copy(slot, &msg);
		spin_lock(&queue->lock);
		slot->message = msg.kind;
	} else if (slot->state == FUSE_URING_SLOT_PARKED) {
		fuse_uring_unlock(queue);
		return -EIOCBQUEUED;
	}

	if (queue->stopped) {
		err = -ENOTCONN;
	} else if (slot->message == FUSE_URING_MSG_NONE) {
		err = fuse_uring_slot_disarmed(slot);
	} else {
		slot->opcode = msg.ih.opcode;
		slot->unique = msg.ih.unique;
		slot->since = jiffies;
		trace_fuse_uring_control(queue->uring->fc, &msg.ih, queue->qid,
					 slot->index);
		fuse_uring_slot_move(slot, FUSE_URING_SLOT_COPY,
				     FUSE_URING_SLOT_HELD);
		if (unlikely(slot->thread->ended))
			fuse_uring_slot_orphan(slot);
		else
			fuse_uring_watch(queue);
	}
	if (err) {
		fuse_uring_message_end(slot);
		fuse_uring_slot_move(slot, FUSE_URING_SLOT_COPY,
				     FUSE_URING_SLOT_IDLE);
	}
	fuse_uring_unlock(queue);

	return err;
}

static struct fuse_req *fuse_uring_find_held(struct fuse_uring_queue *queue,
					     u64 unique)
{
	struct fuse_uring_slot *slot;
	struct fuse_req *req = NULL;

	spin_lock(&queue->lock);
	fuse_uring_for_each_slot(slot, queue) {
		if (slot->state == FUSE_URING_SLOT_HELD && slot->req &&
		    slot->req->in.h.unique == unique) {
			req = slot->req;
			__fuse_get_request(req);
			break;
		}
	}
	spin_unlock(&queue->lock);

	return req;
}

/*
 * Find the request that a reply to an interrupt is about.  Returns it with a
 * reference, or NULL.  Slow, but such replies are rare.
 */
struct fuse_req *fuse_uring_find_interrupted(struct fuse_conn *fc, u64 unique)
{
	struct fuse_req *req = NULL;
	struct fuse_uring *uring;
	unsigned int qid;

	if (!(unique & FUSE_INT_REQ_BIT))
		return NULL;

	rcu_read_lock();
	uring = fuse_uring_rcu(fc);
	for (qid = 0; uring && !req && qid < uring->nr_queues; qid++)
		req = fuse_uring_find_held(uring->queues[qid],
					   unique & ~FUSE_INT_REQ_BIT);
	rcu_read_unlock();

	return req;
}
