// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: commands of the server, and a request's way out of a
 * slot.
 *
 * All of this runs in the task of the server that has submitted the command:
 * in the submission, in task work, or when io_uring cancels what it has not
 * completed.  Once that task is gone, the latter two run in a kworker.
 */
#include "uring_i.h"
#include "fuse_trace.h"

#include <linux/io_uring_types.h>
#include <linux/nospec.h>
#include <linux/sched/signal.h>

/*
 * Task work that is about to complete @cmd: will anybody see that?
 *
 * Not in a kworker, in a task that exits or is being killed, or on a ring
 * that has been closed.
 */
static bool fuse_uring_cmd_is_dead(struct io_uring_cmd *cmd)
{
	struct io_ring_ctx *ctx = cmd_to_io_kiocb(cmd)->ctx;

	return (current->flags & (PF_EXITING | PF_KTHREAD)) ||
		fatal_signal_pending(current) || percpu_ref_is_dying(&ctx->refs);
}

/*
 * The slot holds its request, and the command that says so is about to be
 * completed: the request is in the server's hands.  Unlocks the queue.
 */
static void fuse_uring_deliver(struct fuse_uring_slot *slot)
	__releases(&slot->queue->lock)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_req *req = slot->req;
	bool interrupted = false;
	unsigned int qid, index;

	slot->since = jiffies;
	fuse_uring_slot_to(slot, FUSE_URING_SLOT_BUSY);
	queue->nr_cmds--;
	trace_fuse_uring_send(req, queue->qid, slot->index);
	if (unlikely(!test_bit(FR_ISREPLY, &req->flags))) {
		/* The slot stays with the server until it is committed */
		slot->req = NULL;
		slot->opcode = req->in.h.opcode;
		slot->unique = req->in.h.unique;
		/* From here on nothing may keep the ring */
		qid = queue->qid;
		index = slot->index;
		spin_unlock(&queue->lock);
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
	spin_unlock(&queue->lock);

	if (interrupted) {
		fuse_queue_interrupt(req);
		fuse_put_request(req);
	}
}

/*
 * A request could not be copied in, as memory of the server was not there.  It
 * waits again, the first of its kind, and can have another slot or be killed
 * while the server's task does what it takes to have that memory.  So no
 * request ever depends on how long that takes, or on whether it depends on the
 * request itself.
 *
 * Returns whether another attempt makes sense.  Called with the queue locked.
 */
static bool fuse_uring_fault_in(struct fuse_uring_slot *slot,
				struct fuse_req *req, unsigned int faults)
	__must_hold(&slot->queue->lock)
{
	struct fuse_uring_queue *queue = slot->queue;
	u32 size = req->uring_in_size;
	bool ok;

	fuse_uring_unassign(queue, req);
	fuse_uring_dispatch(queue);
	spin_unlock(&queue->lock);
	ok = faults < FUSE_URING_MAX_FAULTS && fuse_uring_user_fault_in(slot, size);
	spin_lock(&queue->lock);

	return ok;
}

/*
 * A command of the server has a slot, in state FILL, SENT or COMMIT: give it
 * the request that is assigned to the slot already, or the next one that
 * waits, or park it.  Called with the queue locked, unlocks it.
 *
 * Returns what the command is to be completed with, or -EIOCBQUEUED when it is
 * parked.
 */
static int fuse_uring_feed_request(struct fuse_uring_slot *slot,
				   struct io_uring_cmd *cmd)
	__releases(&slot->queue->lock)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_conn *fc = queue->uring->fc;
	unsigned int faults = 0;
	struct fuse_req *req;
	bool update;
	int err;

	for (;;) {
		err = -ECANCELED;
		if (unlikely(queue->stopped || slot->detached))
			break;

		if (!slot->req) {
			if (!fuse_uring_next(slot)) {
				slot->cmd = cmd;
				fuse_uring_slot_to(slot, FUSE_URING_SLOT_READY);
				spin_unlock(&queue->lock);
				return -EIOCBQUEUED;
			}
		}
		req = slot->req;
		if (slot->state != FUSE_URING_SLOT_FILL)
			fuse_uring_slot_to(slot, FUSE_URING_SLOT_FILL);
		spin_unlock(&queue->lock);

		err = fuse_uring_copy_in(slot, req);

		spin_lock(&queue->lock);
		if (likely(!err && !queue->stopped)) {
			fuse_uring_deliver(slot);
			return 0;
		}

		fuse_uring_slot_revoke(slot);
		if (err == -EFAULT && !queue->stopped) {
			if (!fuse_uring_fault_in(slot, req, ++faults))
				break;
			continue;
		}
		WRITE_ONCE(req->uring_queue, NULL);
		if (queue->stopped)
			err = -ECONNABORTED;
		else
			fuse_uring_dispatch(queue);
		spin_unlock(&queue->lock);
		fuse_uring_end(slot, req, err);
		spin_lock(&queue->lock);
	}

	if (queue->stopped)
		err = -ENOTCONN;
	fuse_uring_slot_to(slot, FUSE_URING_SLOT_IDLE);
	queue->nr_cmds--;
	update = fuse_uring_may_have_died(queue);
	spin_unlock(&queue->lock);
	if (update)
		fuse_uring_update(fc);
	return err;
}

static int fuse_uring_feed(struct fuse_uring_slot *slot,
			   struct io_uring_cmd *cmd)
	__releases(&slot->queue->lock)
{
	return unlikely(slot->is_control) ? fuse_uring_control_feed(slot, cmd) :
					    fuse_uring_feed_request(slot, cmd);
}

/**
 * fuse_uring_cmd_done - complete a command that has been prepared, or not yet
 * @cmd: the command
 * @ret: what to complete it with, or -EIOCBQUEUED when it is parked
 * @issue_flags: as io_uring gives them
 *
 * Return: -EIOCBQUEUED.
 */
int fuse_uring_cmd_done(struct io_uring_cmd *cmd, int ret,
			unsigned int issue_flags)
{
	if (ret != -EIOCBQUEUED)
		io_uring_cmd_done(cmd, ret, 0, issue_flags);
	return -EIOCBQUEUED;
}

/**
 * fuse_uring_prepare - let io_uring's cancellation see a command
 * @cmd: the command
 * @slot: its slot
 * @issue_flags: as io_uring gives them
 *
 * While it is in our hands it is in no slot, and is not found there.
 */
void fuse_uring_prepare(struct io_uring_cmd *cmd, struct fuse_uring_slot *slot,
			unsigned int issue_flags)
{
	*fuse_uring_pdu(cmd) = (struct fuse_uring_pdu) { .slot = slot };
	io_uring_cmd_mark_cancelable(cmd, issue_flags);
}

/**
 * fuse_uring_set_task - the slot has a new command
 * @slot: the slot, whose queue is locked
 * @task: the task of that command
 *
 * Control slots do not count for whose queue it is, as no request waits for
 * them, and slots that have been detached do not count any more.
 */
void fuse_uring_set_task(struct fuse_uring_slot *slot,
			 struct task_struct *task)
{
	struct fuse_uring_queue *queue = slot->queue;

	WRITE_ONCE(slot->task, task);
	if (slot->is_control || !slot->registered)
		return;
	if (!queue->server)
		WRITE_ONCE(queue->server, task);
	else if (queue->server != task)
		WRITE_ONCE(queue->server, FUSE_URING_MANY);
}

/**
 * fuse_uring_arm - arm a slot
 * @cmd: the command that does so, of a task that is being watched
 * @slot: the slot, which is IDLE and whose queue is locked, and not stopped
 * @issue_flags: as io_uring gives them
 *
 * Unlocks the queue.
 *
 * Return: -EIOCBQUEUED.
 */
int fuse_uring_arm(struct io_uring_cmd *cmd, struct fuse_uring_slot *slot,
		   unsigned int issue_flags)
	__releases(&slot->queue->lock)
{
	struct fuse_uring_queue *queue = slot->queue;
	bool first = !slot->set->nr_registered;

	fuse_uring_slot_to(slot, FUSE_URING_SLOT_FILL);
	queue->nr_cmds++;
	fuse_uring_set_task(slot, io_uring_cmd_get_task(cmd));
	spin_unlock(&queue->lock);

	fuse_uring_prepare(cmd, slot, issue_flags);
	if (first)
		fuse_uring_update(queue->uring->fc);

	spin_lock(&queue->lock);
	return fuse_uring_cmd_done(cmd, fuse_uring_feed(slot, cmd), issue_flags);
}

/* FUSE_URING_REQ_FETCH: arm a slot */
static int fuse_uring_fetch(struct io_uring_cmd *cmd,
			    struct fuse_uring_slot *slot,
			    unsigned int issue_flags)
{
	struct task_struct *task = io_uring_cmd_get_task(cmd);
	struct fuse_uring_queue *queue = slot->queue;
	int err;

	if (slot->is_control || READ_ONCE(queue->server) != task) {
		err = fuse_uring_watch(queue->uring, task);
		if (err)
			return err;
	}

	spin_lock(&queue->lock);
	err = 0;
	if (queue->stopped)
		err = -ENOTCONN;
	else if (slot->state != FUSE_URING_SLOT_IDLE)
		err = -EBUSY;
	if (err) {
		spin_unlock(&queue->lock);
		return err;
	}

	return fuse_uring_arm(cmd, slot, issue_flags);
}

/*
 * What a slot in the server's hands says of the reply.  Each field is read
 * once, as the server can still write.
 */
static int fuse_uring_read_reply(struct fuse_uring_slot *slot,
				 struct fuse_out_header *oh, u32 *payload_sz)
{
	struct fuse_uring_req_header *hdr = slot->hdr;
	struct fuse_out_header *uoh = (struct fuse_out_header *)hdr->in_out;

	oh->error = READ_ONCE(uoh->error);
	oh->unique = READ_ONCE(uoh->unique);
	*payload_sz = READ_ONCE(hdr->ring_ent_in_out.payload_sz);

	/* It wants no reply */
	if (!slot->req)
		return 0;

	if (oh->unique != slot->req->in.h.unique)
		return -EINVAL;
	if (oh->error <= -512 || oh->error > 0)
		return -EINVAL;
	if (oh->error)
		*payload_sz = 0;
	if (*payload_sz > slot->payload_room)
		return -EINVAL;

	oh->len = sizeof(*oh) + *payload_sz;
	return 0;
}

/**
 * fuse_uring_commit_error - why a slot can not be committed
 * @slot: the slot, whose queue is locked
 */
int fuse_uring_commit_error(struct fuse_uring_slot *slot)
{
	if (slot->queue->stopped)
		return -ENOTCONN;
	if (slot->state == FUSE_URING_SLOT_FILL ||
	    slot->state == FUSE_URING_SLOT_SENT)
		return -EBUSY;
	return -EINVAL;
}

/*
 * A reply could not be copied, as memory of the server was not there: the slot
 * is the server's again, unless the connection has ended.
 */
static bool fuse_uring_uncommit(struct fuse_uring_slot *slot,
				struct fuse_req *req, struct task_struct *task)
{
	struct fuse_uring_queue *queue = slot->queue;
	bool stopped;

	spin_lock(&queue->lock);
	stopped = queue->stopped;
	if (!stopped) {
		slot->req = req;
		slot->since = jiffies;
		fuse_uring_slot_move(slot, FUSE_URING_SLOT_COMMIT,
				     FUSE_URING_SLOT_BUSY);
		/* It is this task's now, and goes with it */
		fuse_uring_set_task(slot, task);
		queue->nr_cmds--;
	}
	spin_unlock(&queue->lock);

	return !stopped;
}

/*
 * Take the reply that a slot in the server's hands holds, and arm the slot
 * again.  Called with the queue locked, unlocks it.
 *
 * A reply that is none ends its request with -EIO.  A slot of ours is disarmed
 * then, and the command told of it; servers with user buffers know no such
 * thing, and the slot goes on.  With user buffers returns -EFAULT, and has
 * changed nothing, when the reply's memory has to be brought in first.
 */
static __always_inline int
fuse_uring_take_reply(struct io_uring_cmd *cmd, struct fuse_uring_slot *slot,
		      const struct fuse_out_header *oh, u32 payload_sz,
		      unsigned int issue_flags, const bool user)
	__releases(&slot->queue->lock)
{
	struct task_struct *task = io_uring_cmd_get_task(cmd);
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_conn *fc = queue->uring->fc;
	struct fuse_req *req;
	bool first, update;
	int err = 0;

	first = !queue->live;
	fuse_uring_slot_move(slot, FUSE_URING_SLOT_BUSY, FUSE_URING_SLOT_COMMIT);
	queue->nr_cmds++;
	/* Adopted by another task than the one that died with it */
	if (unlikely(!slot->registered && !slot->detached))
		fuse_uring_slot_register(slot);
	req = slot->req;
	slot->req = NULL;
	spin_unlock(&queue->lock);

	if (req) {
		req->out.h = *oh;
		if (!oh->error)
			err = fuse_uring_copy_out(slot, req, payload_sz);
		if (user && unlikely(err == -EFAULT) &&
		    fuse_uring_uncommit(slot, req, task)) {
			if (first)
				fuse_uring_update(fc);
			return err;
		}
		clear_bit(FR_SENT, &req->flags);
		/* Its requester may look longer than there is this ring */
		WRITE_ONCE(req->uring_queue, NULL);
		trace_fuse_uring_commit(req, queue->qid, slot->index);
		fuse_uring_end(slot, req, unlikely(err) ? -EIO : oh->error);
		if (user)
			err = 0;
	}

	if (likely(!err))
		fuse_uring_prepare(cmd, slot, issue_flags);
	if (unlikely(first))
		fuse_uring_update(fc);

	spin_lock(&queue->lock);
	/* What is given back may be what others have been waiting for */
	if (slot->background || slot->lot) {
		fuse_uring_slot_revoke(slot);
		fuse_uring_dispatch(queue);
	}
	if (unlikely(err)) {
		fuse_uring_slot_to(slot, FUSE_URING_SLOT_IDLE);
		queue->nr_cmds--;
		fuse_uring_dispatch(queue);
		update = fuse_uring_may_have_died(queue);
		spin_unlock(&queue->lock);
		if (update)
			fuse_uring_update(fc);
		return -EBADMSG;
	}

	fuse_uring_set_task(slot, task);
	/* As fuse_uring_feed_request() would, when there is nothing to do */
	if (likely(!queue->nr_pending && !queue->stopped && !slot->detached)) {
		slot->cmd = cmd;
		fuse_uring_slot_move(slot, FUSE_URING_SLOT_COMMIT,
				     FUSE_URING_SLOT_READY);
		spin_unlock(&queue->lock);
		return -EIOCBQUEUED;
	}
	return fuse_uring_cmd_done(cmd, fuse_uring_feed(slot, cmd), issue_flags);
}

/*
 * FUSE_URING_REQ_COMMIT_AND_FETCH
 *
 * Called within RCU, which is what keeps the ring until the slot is found to
 * be the server's, and leaves it.
 */
static int fuse_uring_commit(struct io_uring_cmd *cmd,
			     struct fuse_uring_slot *slot, u64 commit_id,
			     unsigned int issue_flags)
	__releases(RCU)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_out_header oh;
	u32 payload_sz;
	int err;

	spin_lock(&queue->lock);
	rcu_read_unlock();
	if (unlikely(queue->stopped || slot->state != FUSE_URING_SLOT_BUSY ||
		     slot->commit_id != commit_id))
		err = fuse_uring_commit_error(slot);
	else
		err = fuse_uring_read_reply(slot, &oh, &payload_sz);
	if (unlikely(err)) {
		spin_unlock(&queue->lock);
		return err;
	}

	return fuse_uring_take_reply(cmd, slot, &oh, payload_sz, issue_flags,
				     false);
}

/**
 * fuse_uring_take_user_reply - take a reply that lies in memory of the server
 * @cmd: the command that says so
 * @slot: the slot, BUSY, and its queue locked
 * @oh: the reply's header, which has been checked
 * @payload_sz: bytes in the payload area
 * @issue_flags: as io_uring gives them
 *
 * Unlocks the queue.
 *
 * Return: -EIOCBQUEUED, or -EFAULT when nothing has changed as the reply has to
 * be brought in first.
 */
int fuse_uring_take_user_reply(struct io_uring_cmd *cmd,
			       struct fuse_uring_slot *slot,
			       const struct fuse_out_header *oh,
			       u32 payload_sz, unsigned int issue_flags)
	__releases(&slot->queue->lock)
{
	return fuse_uring_take_reply(cmd, slot, oh, payload_sz, issue_flags,
				     true);
}

/*
 * The slot has let go of the command, see fuse_uring_cancel() for what has
 * been done to its flag.
 */
static void fuse_uring_dropped(struct io_uring_cmd *cmd,
			       unsigned int issue_flags)
{
	cmd->flags |= IORING_URING_CMD_CANCELABLE;
	io_uring_cmd_done(cmd, fuse_uring_pdu(cmd)->ret, 0, issue_flags);
}

/**
 * fuse_uring_sent_work - task work for a command with a request
 * @cmd: the command
 * @issue_flags: as io_uring gives them
 *
 * Runs in the task that has submitted the command, or in a kworker when that
 * task or its ring is gone.  What has not been delivered then goes to another
 * slot.
 */
void fuse_uring_sent_work(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct fuse_uring_slot *slot = fuse_uring_pdu(cmd)->slot;
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_conn *fc = queue->uring->fc;
	struct fuse_req *req;
	bool update;
	int ret = 0;

	spin_lock(&queue->lock);
	if (unlikely(fuse_uring_pdu(cmd)->dropped)) {
		queue->nr_cmds--;
		update = fuse_uring_may_have_died(queue);
		spin_unlock(&queue->lock);
		if (update)
			fuse_uring_update(fc);
		fuse_uring_dropped(cmd, issue_flags);
		return;
	}

	slot->cmd = NULL;
	if (unlikely(fuse_uring_cmd_is_dead(cmd))) {
		req = fuse_uring_slot_revoke(slot);
		if (req)
			WRITE_ONCE(req->uring_queue, NULL);
		fuse_uring_control_unsend(slot);
		fuse_uring_slot_to(slot, FUSE_URING_SLOT_IDLE);
		queue->nr_cmds--;
		fuse_uring_dispatch(queue);
		update = fuse_uring_may_have_died(queue);
		spin_unlock(&queue->lock);

		if (update)
			fuse_uring_update(fc);
		else if (!req)
			fuse_uring_control_again(fc);
		io_uring_cmd_done(cmd, -ENOTCONN, 0, issue_flags);
		if (req)
			fuse_uring_requeue(req);
		return;
	}

	if (slot->filled)
		fuse_uring_deliver(slot);
	else
		ret = fuse_uring_feed(slot, cmd);
	fuse_uring_cmd_done(cmd, ret, issue_flags);
}

/*
 * io_uring cancels the command: its task or its ring goes away.  In the first
 * case the task itself does so, and the command can be completed here.  In the
 * second it is a kworker, which must not complete it for a task that lives.
 *
 * A command that task work is to complete can only be completed by that, and
 * the task work may be on the ring's own list, which is moved to where it will
 * be run only when a round of cancellation has found nothing to cancel.  So
 * that it does come to that, such a command is not cancelable any more.
 */
static void fuse_uring_cancel(struct io_uring_cmd *cmd,
			      unsigned int issue_flags)
{
	struct fuse_uring_pdu *pdu = fuse_uring_pdu(cmd);
	struct fuse_uring_slot *slot = pdu->slot;
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_conn *fc = queue->uring->fc;
	bool own = io_uring_cmd_get_task(cmd) == current;
	bool update, taken = false, unsent = false;
	struct fuse_req *req = NULL;

	spin_lock(&queue->lock);
	if (slot->cmd == cmd) {
		switch (slot->state) {
		case FUSE_URING_SLOT_READY:
			slot->cmd = NULL;
			fuse_uring_slot_to(slot, FUSE_URING_SLOT_IDLE);
			taken = true;
			break;
		case FUSE_URING_SLOT_FILL:
			/* See fuse_uring_fill() */
			slot->cmd = NULL;
			taken = true;
			break;
		default:
			req = fuse_uring_slot_unsend(slot, -ECANCELED);
			if (req)
				WRITE_ONCE(req->uring_queue, NULL);
			unsent = true;
			fuse_uring_dispatch(queue);
			break;
		}
	}
	if (taken && !own) {
		pdu->dropped = true;
		pdu->ret = -ECANCELED;
	} else if (taken) {
		queue->nr_cmds--;
	}
	if (pdu->dropped)
		cmd->flags &= ~IORING_URING_CMD_CANCELABLE;
	update = fuse_uring_may_have_died(queue);
	spin_unlock(&queue->lock);

	if (update)
		fuse_uring_update(fc);
	else if (unsent && !req)
		fuse_uring_control_again(fc);
	if (taken && own)
		io_uring_cmd_done(cmd, -ECANCELED, 0, issue_flags);
	else if (taken)
		io_uring_cmd_complete_in_task(cmd, fuse_uring_sent_work);
	if (req)
		fuse_uring_requeue(req);
}

/* What a command says of the slot that it is about, each field read once */
static void fuse_uring_read_cmd(struct io_uring_cmd *cmd,
				struct fuse_uring_req_cmd *ureq)
{
	const struct fuse_uring_req_cmd *shared = io_uring_sqe_cmd(cmd->sqe);

	ureq->commit_id = READ_ONCE(shared->commit_id);
	ureq->qid = READ_ONCE(shared->qid);
	ureq->slot = READ_ONCE(shared->slot);
	ureq->flags = READ_ONCE(shared->flags);
}

static __always_inline struct fuse_uring_slot *
fuse_uring_find_slot(struct fuse_uring *uring,
		     const struct fuse_uring_req_cmd *ureq)
{
	struct fuse_uring_queue *queue;
	unsigned int nr_slots;

	if (unlikely(!uring))
		return ERR_PTR(-EOPNOTSUPP);
	/* With user buffers there are none */
	nr_slots = fuse_uring_nr_slots(uring);
	if (unlikely(ureq->flags || ureq->qid >= uring->nr_queues ||
		     ureq->slot >= nr_slots))
		return ERR_PTR(uring->user ? -EBUSY : -EINVAL);
	queue = uring->queues[array_index_nospec(ureq->qid, uring->nr_queues)];

	return &queue->slots[array_index_nospec(ureq->slot, nr_slots)];
}

/* The commands other than FUSE_URING_REQ_COMMIT_AND_FETCH */
static int fuse_uring_other_cmd(struct io_uring_cmd *cmd,
				struct fuse_uring *uring,
				const struct fuse_uring_req_cmd *ureq,
				unsigned int issue_flags)
{
	struct fuse_uring_slot *slot = fuse_uring_find_slot(uring, ureq);

	if (IS_ERR(slot))
		return PTR_ERR(slot);

	switch (cmd->cmd_op) {
	case FUSE_URING_REQ_FETCH:
		if (ureq->commit_id)
			return -EINVAL;
		return fuse_uring_fetch(cmd, slot, issue_flags);
	case FUSE_URING_REQ_NOTIFY:
		if (ureq->commit_id || ureq->qid || ureq->slot)
			return -EINVAL;
		return fuse_uring_notify(cmd, uring, issue_flags);
	case FUSE_URING_REQ_DETACH:
		if (ureq->commit_id || ureq->slot)
			return -EINVAL;
		return fuse_uring_queue_detach(slot->queue);
	default:
		return -EOPNOTSUPP;
	}
}

/* Any task may commit, and those that do are watched */
static int fuse_uring_watch_current(struct io_uring_cmd *cmd,
				    struct fuse_conn *fc)
{
	struct fuse_uring *uring = fuse_uring_get(fc);
	int err;

	if (!uring)
		return -EOPNOTSUPP;

	err = fuse_uring_watch(uring, io_uring_cmd_get_task(cmd));
	fuse_uring_put(uring);

	return err;
}

/* There is none, or it will be one with user buffers */
static int fuse_uring_no_ring(struct fuse_conn *fc)
{
	return READ_ONCE(fc->uring_user) ? -EBUSY : -EOPNOTSUPP;
}

/**
 * fuse_uring_cmd - the commands of the ring
 * @cmd: the command.  What it says is in memory that the server can write, and
 *	is there only during this call.
 * @issue_flags: as io_uring gives them
 *
 * Return: -EIOCBQUEUED when the command has been or will be completed, else
 * what it is to be completed with, see FUSE_URING_REQ_FETCH.
 */
int fuse_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct fuse_uring_req_cmd ureq;
	struct fuse_uring *uring = NULL;
	struct fuse_uring_slot *slot;
	bool watched = false;
	struct fuse_dev *fud;
	int ret;

	if (unlikely(issue_flags & IO_URING_F_CANCEL)) {
		if (cmd->cmd_op == FUSE_URING_REQ_NOTIFY)
			fuse_uring_notify_cancel(cmd, issue_flags);
		else
			fuse_uring_cancel(cmd, issue_flags);
		return 0;
	}

	fud = fuse_get_dev(cmd->file);
	if (!fud)
		return -EOPNOTSUPP;

	if (unlikely(cmd->cmd_op == FUSE_IO_URING_CMD_REGISTER ||
		     cmd->cmd_op == FUSE_IO_URING_CMD_COMMIT_AND_FETCH))
		return fuse_uring_user_cmd(cmd, fud, issue_flags);

	fuse_uring_read_cmd(cmd, &ureq);
	if (unlikely(cmd->cmd_op != FUSE_URING_REQ_COMMIT_AND_FETCH)) {
		uring = fuse_uring_get(fud->fc);
		if (!uring)
			return fuse_uring_no_ring(fud->fc);
		ret = fuse_uring_other_cmd(cmd, uring, &ureq, issue_flags);
		fuse_uring_put(uring);
		return ret;
	}

	/*
	 * io-wq does not hold the io_uring's lock, so the command can be seen
	 * by its cancellation after it has left the slot.
	 */
	if (unlikely(issue_flags & IO_URING_F_UNLOCKED)) {
		uring = fuse_uring_get(fud->fc);
		if (!uring)
			return fuse_uring_no_ring(fud->fc);
	}
again:
	rcu_read_lock();
	slot = fuse_uring_find_slot(uring ?: fuse_uring_rcu(fud->fc), &ureq);
	if (IS_ERR(slot)) {
		rcu_read_unlock();
		ret = PTR_ERR(slot);
		if (ret == -EOPNOTSUPP)
			ret = fuse_uring_no_ring(fud->fc);
		goto out;
	}
	if (unlikely(READ_ONCE(slot->task) != io_uring_cmd_get_task(cmd)) &&
	    !watched) {
		rcu_read_unlock();
		ret = fuse_uring_watch_current(cmd, fud->fc);
		if (ret)
			goto out;
		watched = true;
		goto again;
	}

	if (unlikely(slot->is_control))
		ret = fuse_uring_control_commit(cmd, slot, ureq.commit_id,
						issue_flags);
	else
		ret = fuse_uring_commit(cmd, slot, ureq.commit_id, issue_flags);
out:
	if (unlikely(uring))
		fuse_uring_put(uring);
	return ret;
}
