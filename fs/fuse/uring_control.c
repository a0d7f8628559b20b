// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: forgets and interrupts, in slots of their own.
 *
 * Neither is a request: nobody waits for them, and they are about the whole
 * connection.  So they wait on lists of the ring, as on those of /dev/fuse,
 * under fiq->lock, and a control slot takes what is there when the server's
 * task comes by with it: interrupts first, else as many forgets as fit.  Only
 * one of a queue's slots carries forgets, which leaves the others, of which
 * there is at least one, for interrupts, and lets an ordinary request wait for
 * no more than that one.
 *
 * While no control slot is armed the lists are those of /dev/fuse.
 */
#include "uring_i.h"
#include "fuse_trace.h"

#include <linux/slab.h>

/* What a control slot has taken off the lists */
struct fuse_uring_message {
	enum fuse_uring_control kind;
	struct fuse_in_header ih;
	/* FUSE_URING_CONTROL_FORGET */
	struct fuse_forget_link *forgets;
	unsigned int nr_forgets;
	/* FUSE_URING_CONTROL_INTERRUPT: what it is about */
	u64 interrupted;
};

void fuse_uring_control_init(struct fuse_uring_messages *msgs)
{
	INIT_LIST_HEAD(&msgs->interrupts);
	msgs->forgets_tail = &msgs->forgets;
}

/* Have a slot of the queue come by.  Called under fiq->lock. */
static bool fuse_uring_control_send(struct fuse_uring_queue *queue,
				    enum fuse_uring_control kind)
{
	bool forget = kind == FUSE_URING_CONTROL_FORGET;
	struct fuse_uring_slot *slot = NULL;

	spin_lock(&queue->lock);
	if (!forget || !queue->forgetting)
		slot = fuse_uring_ready_slot(&queue->control);
	if (slot) {
		slot->control = kind;
		if (forget) {
			WRITE_ONCE(queue->forgetting, true);
			atomic_inc(&queue->uring->control.nr_sent);
		}
		fuse_uring_slot_send(slot);
	}
	spin_unlock(&queue->lock);

	return slot;
}

/* The same with one queue rather than another.  Called under fiq->lock. */
static bool fuse_uring_control_send_any(struct fuse_uring *uring,
					struct fuse_uring_queue *first,
					enum fuse_uring_control kind)
{
	unsigned int i, qid = first->qid;

	for (i = 0; i < uring->nr_queues; i++) {
		if (fuse_uring_control_send(uring->queues[qid], kind))
			return true;
		if (++qid == uring->nr_queues)
			qid = 0;
	}

	return false;
}

/*
 * Have as many slots come by as are needed for the forgets that wait.  What
 * none can take is taken by those that are busy now.  Called under fiq->lock.
 */
static void fuse_uring_forgets_send(struct fuse_uring *uring)
{
	struct fuse_uring_messages *msgs = &uring->control;

	if (msgs->forgets_wait)
		return;

	while (msgs->nr_forgets >
	       atomic_read(&msgs->nr_sent) * FUSE_URING_MAX_FORGETS) {
		if (!fuse_uring_control_send_any(uring, fuse_uring_route(uring),
						 FUSE_URING_CONTROL_FORGET)) {
			msgs->forgets_wait = true;
			break;
		}
	}
}

static void fuse_uring_interrupt_send(struct fuse_uring *uring,
				      struct fuse_req *req)
{
	struct fuse_uring_queue *queue = READ_ONCE(req->uring_queue);

	fuse_uring_control_send_any(uring, queue ?: fuse_uring_route(uring),
				    FUSE_URING_CONTROL_INTERRUPT);
}

/* Called under fiq->lock */
static void fuse_uring_messages_send(struct fuse_uring *uring)
{
	struct fuse_uring_messages *msgs = &uring->control;

	if (!msgs->active)
		return;

	if (!list_empty(&msgs->interrupts))
		fuse_uring_interrupt_send(uring,
					  list_first_entry(&msgs->interrupts,
							   struct fuse_req,
							   intr_entry));
	msgs->forgets_wait = false;
	fuse_uring_forgets_send(uring);
}

/**
 * fuse_uring_control_again - a slot that was to carry a message will not
 * @fc: the connection
 *
 * Others may have to.  Called under no lock of a queue.
 */
void fuse_uring_control_again(struct fuse_conn *fc)
{
	struct fuse_iqueue *fiq = &fc->iq;

	spin_lock(&fiq->lock);
	fuse_uring_messages_send(fuse_uring_locked(fc));
	spin_unlock(&fiq->lock);
}

/* Move all forgets from one list to the end of another */
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

/* What waits for /dev/fuse to be read comes here.  Called under fiq->lock. */
static void fuse_uring_messages_take_over(struct fuse_uring *uring)
{
	struct fuse_uring_messages *msgs = &uring->control;
	struct fuse_iqueue *fiq = &uring->fc->iq;
	struct fuse_forget_link *link;

	list_splice_tail_init(&fiq->interrupts, &msgs->interrupts);
	for (link = fiq->forget_list_head.next; link; link = link->next)
		msgs->nr_forgets++;
	fuse_uring_forgets_move(&fiq->forget_list_head, &fiq->forget_list_tail,
				&msgs->forgets_tail);
}

static void fuse_uring_messages_give_back(struct fuse_uring *uring)
{
	struct fuse_uring_messages *msgs = &uring->control;
	struct fuse_iqueue *fiq = &uring->fc->iq;

	list_splice_tail_init(&msgs->interrupts, &fiq->interrupts);
	fuse_uring_forgets_move(&msgs->forgets, &msgs->forgets_tail,
				&fiq->forget_list_tail);
	msgs->nr_forgets = 0;
	wake_up(&fiq->waitq);
	kill_fasync(&fiq->fasync, SIGIO, POLL_IN);
}

/**
 * fuse_uring_control_update - control slots may have come or gone
 * @uring: the ring
 *
 * Part of fuse_uring_update(), under fiq->lock.
 */
void fuse_uring_control_update(struct fuse_uring *uring)
{
	struct fuse_uring_messages *msgs = &uring->control;
	unsigned int qid;
	bool active = false;

	lockdep_assert_held(&uring->fc->iq.lock);

	for (qid = 0; qid < uring->nr_queues && !active; qid++)
		active = READ_ONCE(uring->queues[qid]->control.nr_registered);

	if (active && !msgs->active)
		fuse_uring_messages_take_over(uring);
	else if (!active && msgs->active)
		fuse_uring_messages_give_back(uring);
	WRITE_ONCE(msgs->active, active);
	fuse_uring_messages_send(uring);
}

/**
 * fuse_uring_control_abort - the connection has ended
 * @uring: the ring
 *
 * Nobody will be told of anything.  Each interrupt leaves the list with its
 * request.
 */
void fuse_uring_control_abort(struct fuse_uring *uring)
{
	struct fuse_uring_messages *msgs = &uring->control;
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
	}
}

/**
 * fuse_uring_messages_recheck - a message has gone to /dev/fuse
 * @fc: the connection, which has a ring
 *
 * The ring, or a control slot, may have come meanwhile.
 */
void fuse_uring_messages_recheck(struct fuse_conn *fc)
{
	struct fuse_iqueue *fiq = &fc->iq;
	struct fuse_uring *uring;

	spin_lock(&fiq->lock);
	uring = fuse_uring_locked(fc);
	if (uring->control.active) {
		fuse_uring_messages_take_over(uring);
		fuse_uring_messages_send(uring);
	}
	spin_unlock(&fiq->lock);
}

/**
 * fuse_uring_send_forget - send a forget
 * @fiq: input queue of a connection that has a ring
 * @link: the forget, which becomes ours
 */
void fuse_uring_send_forget(struct fuse_iqueue *fiq,
			    struct fuse_forget_link *link)
{
	struct fuse_conn *fc = container_of(fiq, struct fuse_conn, iq);
	struct fuse_uring_messages *msgs;
	struct fuse_uring *uring;

	spin_lock(&fiq->lock);
	uring = fuse_uring_locked(fc);
	msgs = &uring->control;
	if (msgs->active) {
		msgs->forgets_tail->next = link;
		msgs->forgets_tail = link;
		msgs->nr_forgets++;
		fuse_uring_forgets_send(uring);
		spin_unlock(&fiq->lock);
		return;
	}
	spin_unlock(&fiq->lock);

	fuse_dev_fiq_ops.send_forget(fiq, link);
}

/**
 * fuse_uring_send_interrupt - tell the server that a request was interrupted
 * @fiq: input queue of a connection that has a ring
 * @req: the request, which the server has, or has just answered
 */
void fuse_uring_send_interrupt(struct fuse_iqueue *fiq, struct fuse_req *req)
{
	struct fuse_conn *fc = container_of(fiq, struct fuse_conn, iq);
	struct fuse_uring_messages *msgs;
	struct fuse_uring *uring;

	spin_lock(&fiq->lock);
	uring = fuse_uring_locked(fc);
	msgs = &uring->control;
	if (!msgs->active) {
		spin_unlock(&fiq->lock);
		fuse_dev_fiq_ops.send_interrupt(fiq, req);
		return;
	}

	/* One that is not the server's any more will be told when it is again */
	if (list_empty(&req->intr_entry) && test_bit(FR_SENT, &req->flags)) {
		list_add_tail(&req->intr_entry, &msgs->interrupts);
		/*
		 * Pairs with smp_mb() implied by test_and_set_bit() from
		 * fuse_request_end().
		 */
		smp_mb();
		if (test_bit(FR_FINISHED, &req->flags))
			list_del_init(&req->intr_entry);
		else
			fuse_uring_interrupt_send(uring, req);
	}
	spin_unlock(&fiq->lock);
}

/* The next message for a slot, if there is one.  Called under fiq->lock. */
static bool fuse_uring_control_take(struct fuse_uring_slot *slot,
				    struct fuse_uring_message *msg)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_uring_messages *msgs = &queue->uring->control;
	struct fuse_forget_link *last;
	unsigned int max;

	if (!list_empty(&msgs->interrupts)) {
		struct fuse_req *req = list_first_entry(&msgs->interrupts,
							struct fuse_req,
							intr_entry);

		list_del_init(&req->intr_entry);
		msg->kind = FUSE_URING_CONTROL_INTERRUPT;
		msg->interrupted = req->in.h.unique;
		msg->ih.opcode = FUSE_INTERRUPT;
		msg->ih.unique = req->in.h.unique | FUSE_INT_REQ_BIT;
		msg->ih.len = sizeof(msg->ih) + sizeof(struct fuse_interrupt_in);
		msgs->stat_interrupts++;
		/* It may have been sent for forgets, which need another one */
		msgs->forgets_wait = false;
		return true;
	}

	if (!msgs->nr_forgets || READ_ONCE(queue->forgetting))
		return false;

	/* Others must not take any until this slot is committed */
	WRITE_ONCE(queue->forgetting, true);
	max = queue->uring->fc->minor < 16 ? 1 : FUSE_URING_MAX_FORGETS;
	msg->kind = FUSE_URING_CONTROL_FORGET;
	msg->forgets = msgs->forgets.next;
	last = msg->forgets;
	for (msg->nr_forgets = 1; msg->nr_forgets < max && last->next;
	     msg->nr_forgets++)
		last = last->next;
	msgs->forgets.next = last->next;
	last->next = NULL;
	if (!msgs->forgets.next)
		msgs->forgets_tail = &msgs->forgets;
	msgs->nr_forgets -= msg->nr_forgets;
	msgs->forgets_wait = false;
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

/* Lay a message out in the slot, and let go of it */
static void fuse_uring_control_copy(struct fuse_uring_slot *slot,
				    struct fuse_uring_message *msg)
{
	struct fuse_uring_req_header *hdr = slot->hdr;
	struct fuse_uring_ent_in_out *ent = &hdr->ring_ent_in_out;
	struct fuse_forget_one *one = slot->payload;
	struct fuse_forget_link *link, *next;

	memcpy(hdr->in_out, &msg->ih, sizeof(msg->ih));
	ent->flags = 0;
	ent->commit_id = slot->commit_id;
	ent->payload_sz = 0;
	ent->padding = slot->payload_offset;
	ent->reserved = FUSE_URING_CONTROL_AREA;

	if (msg->kind == FUSE_URING_CONTROL_INTERRUPT) {
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
		ent->payload_sz = msg->nr_forgets * sizeof(*one);
	}

	for (link = msg->forgets; link; link = next) {
		next = link->next;
		if (msg->nr_forgets > 1)
			*one++ = link->forget_one;
		kfree(link);
	}
}

/**
 * fuse_uring_control_unsend - a slot is not SENT for a message any more
 * @slot: the slot, whose queue is locked
 */
void fuse_uring_control_unsend(struct fuse_uring_slot *slot)
{
	struct fuse_uring_queue *queue = slot->queue;

	if (slot->control == FUSE_URING_CONTROL_FORGET) {
		WRITE_ONCE(queue->forgetting, false);
		if (slot->state == FUSE_URING_SLOT_SENT)
			atomic_dec(&queue->uring->control.nr_sent);
	}
	slot->control = FUSE_URING_CONTROL_NONE;
}

/**
 * fuse_uring_control_feed - give a command of a control slot a message
 * @slot: the slot, in state FILL, SENT or COMMIT, whose queue is locked
 * @cmd: the command
 *
 * Unlocks the queue.
 *
 * Return: what the command is to be completed with, or -EIOCBQUEUED when it is
 * parked.
 */
int fuse_uring_control_feed(struct fuse_uring_slot *slot,
			    struct io_uring_cmd *cmd)
	__releases(&slot->queue->lock)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_uring *uring = queue->uring;
	struct fuse_conn *fc = uring->fc;
	struct fuse_iqueue *fiq = &fc->iq;
	struct fuse_uring_message msg = { };
	bool update;
	int err;

	fuse_uring_control_unsend(slot);
	if (queue->stopped || slot->detached)
		goto out;

	if (slot->state != FUSE_URING_SLOT_FILL)
		fuse_uring_slot_to(slot, FUSE_URING_SLOT_FILL);
	slot->commit_id++;
	msg.ih.unique = fuse_uring_unique(queue);
	spin_unlock(&queue->lock);

	spin_lock(&fiq->lock);
	if (!fuse_uring_control_take(slot, &msg)) {
		/* No message can come before the slot can be found */
		spin_lock(&queue->lock);
		if (!queue->stopped && !slot->detached) {
			slot->cmd = cmd;
			fuse_uring_slot_to(slot, FUSE_URING_SLOT_READY);
			spin_unlock(&queue->lock);
			spin_unlock(&fiq->lock);
			return -EIOCBQUEUED;
		}
		spin_unlock(&fiq->lock);
		goto out;
	}
	fuse_uring_forgets_send(uring);
	spin_unlock(&fiq->lock);

	fuse_uring_control_copy(slot, &msg);

	spin_lock(&queue->lock);
	slot->control = msg.kind;
	if (unlikely(queue->stopped)) {
		fuse_uring_control_unsend(slot);
		goto out;
	}
	slot->opcode = msg.ih.opcode;
	slot->unique = msg.ih.unique;
	slot->since = jiffies;
	fuse_uring_slot_to(slot, FUSE_URING_SLOT_BUSY);
	queue->nr_cmds--;
	trace_fuse_uring_control(fc, &msg.ih, queue->qid, slot->index);
	spin_unlock(&queue->lock);

	return 0;

out:
	err = queue->stopped ? -ENOTCONN : -ECANCELED;
	fuse_uring_slot_to(slot, FUSE_URING_SLOT_IDLE);
	queue->nr_cmds--;
	update = fuse_uring_may_have_died(queue);
	spin_unlock(&queue->lock);
	if (update)
		fuse_uring_update(fc);
	return err;
}

/* As fuse_uring_read_reply(), of which there is no payload */
static int fuse_uring_control_reply(struct fuse_uring_slot *slot,
				    struct fuse_out_header *oh)
{
	struct fuse_uring_req_header *hdr = slot->hdr;
	struct fuse_out_header *uoh = (struct fuse_out_header *)hdr->in_out;

	oh->len = sizeof(*oh);
	oh->error = READ_ONCE(uoh->error);
	oh->unique = READ_ONCE(uoh->unique);
	if (slot->control != FUSE_URING_CONTROL_INTERRUPT)
		return 0;

	if (oh->unique != slot->unique)
		return -EINVAL;
	if (oh->error <= -512 || oh->error > 0)
		return -EINVAL;

	return 0;
}

/**
 * fuse_uring_control_commit - FUSE_URING_REQ_COMMIT_AND_FETCH of a control slot
 * @cmd: the command
 * @slot: the slot
 * @commit_id: what the server says that it is
 * @issue_flags: as io_uring gives them
 *
 * As fuse_uring_commit().
 *
 * Return: as fuse_uring_cmd().
 */
int fuse_uring_control_commit(struct io_uring_cmd *cmd,
			      struct fuse_uring_slot *slot, u64 commit_id,
			      unsigned int issue_flags)
	__releases(RCU)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_out_header oh;
	bool interrupt, first;
	int err;

	spin_lock(&queue->lock);
	rcu_read_unlock();
	if (queue->stopped || slot->state != FUSE_URING_SLOT_BUSY ||
	    slot->commit_id != commit_id)
		err = fuse_uring_commit_error(slot);
	else
		err = fuse_uring_control_reply(slot, &oh);
	if (err) {
		spin_unlock(&queue->lock);
		return err;
	}
	first = !queue->control.nr_registered;
	interrupt = slot->control == FUSE_URING_CONTROL_INTERRUPT;
	fuse_uring_control_unsend(slot);
	fuse_uring_slot_to(slot, FUSE_URING_SLOT_COMMIT);
	queue->nr_cmds++;
	if (!slot->registered && !slot->detached)
		fuse_uring_slot_register(slot);
	spin_unlock(&queue->lock);

	/* Just what a write(2) of it does, which may as well find it answered */
	if (interrupt)
		fuse_dev_take(fuse_get_dev(cmd->file), &oh, sizeof(oh));

	fuse_uring_prepare(cmd, slot, issue_flags);
	if (first)
		fuse_uring_update(queue->uring->fc);

	spin_lock(&queue->lock);
	fuse_uring_set_task(slot, io_uring_cmd_get_task(cmd));
	return fuse_uring_cmd_done(cmd, fuse_uring_control_feed(slot, cmd),
				   issue_flags);
}
