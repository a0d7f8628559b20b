// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: slots in the server's memory (user buffers).
 *
 * The protocol of Linux 6.14: the command of a slot brings the addresses of a
 * header and a payload area.  No request waits while these are faulted in.
 */
#include "dev_uring_slot.h"

#include <linux/compat.h>
#include <linux/nospec.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/uio.h>

/* A header and a payload area */
#define FUSE_URING_NR_AREAS	2

/*
 * Read the reply in a held slot, each field once.  A malformed or unreadable
 * reply becomes -EIO, as the server is not told of it.  Returns -EFAULT for
 * memory to be faulted in.
 */
static int fuse_uring_read_user_reply(struct fuse_uring_slot *slot,
				      bool unreadable, int *error,
				      u32 *payload_sz)
{
	struct fuse_uring_req_header __user *hdr = slot->user_hdr;
	struct fuse_out_header __user *oh = (void __user *)hdr->in_out;
	int err = -EFAULT;
	u64 unique;

	if (unreadable)
		goto malformed;
	pagefault_disable();
	if (!user_read_access_begin(hdr, sizeof(*hdr)))
		goto out;
	unsafe_get_user(*error, &oh->error, fault);
	unsafe_get_user(unique, &oh->unique, fault);
	unsafe_get_user(*payload_sz, &hdr->ring_ent_in_out.payload_sz, fault);
	err = 0;
fault:
	user_read_access_end();
out:
	pagefault_enable();
	if (err)
		return err;

	if (unique != slot->req->in.h.unique || *error <= -512 || *error > 0 ||
	    (!*error && *payload_sz > slot->payload_room)) {
malformed:
		*error = -EIO;
	}
	if (*error)
		*payload_sz = 0;

	return 0;
}

/* Find the slot to be committed.  Called under queue->lock. */
static struct fuse_uring_slot *
fuse_uring_commit_slot(struct fuse_uring_queue *queue, u64 commit_id)
{
	struct fuse_uring_slot *slot;

	if (queue->stopped)
		return ERR_PTR(fuse_uring_gone(queue->uring->fc, true));

	hlist_for_each_entry(slot, fuse_uring_commit_list(queue, commit_id),
			     by_commit_id) {
		if (slot->commit_id != commit_id)
			continue;
		if ((slot->state == FUSE_URING_SLOT_HELD ||
		     slot->state == FUSE_URING_SLOT_ORPHAN) && slot->req)
			return slot;
		if (slot->state == FUSE_URING_SLOT_COPY ||
		    slot->state == FUSE_URING_SLOT_COMMIT)
			return ERR_PTR(-EBUSY);
	}

	return ERR_PTR(-ENOENT);
}

/* Memory of a reply that has to be faulted in */
struct fuse_uring_reply_area {
	struct fuse_uring_req_header __user *hdr;
	void __user *payload;
	u32 payload_sz;
};

/*
 * Returns -EFAULT if memory has to be faulted in, -EAGAIN if the thread is not
 * known to the queue and @new is not usable.
 */
static int fuse_uring_try_user_commit(struct io_uring_cmd *cmd,
				      struct fuse_conn *fc, u16 qid,
				      u64 commit_id, bool bad,
				      struct fuse_uring_thread **new,
				      struct fuse_uring_reply_area *area,
				      unsigned int issue_flags)
{
	struct fuse_uring_thread *thread = NULL;
	struct fuse_uring_queue *queue;
	struct fuse_uring_slot *slot;
	struct fuse_uring *uring;
	int err, error;

	rcu_read_lock();
	uring = fuse_uring_rcu(fc);
	if (unlikely(!uring)) {
		rcu_read_unlock();
		return fuse_uring_gone(fc, true);
	}
	queue = uring->queues[array_index_nospec(qid, uring->nr_queues)];
	spin_lock(&queue->lock);
	rcu_read_unlock();

	slot = fuse_uring_commit_slot(queue, commit_id);
	err = PTR_ERR_OR_ZERO(slot);
	if (likely(!err)) {
		area->hdr = slot->user_hdr;
		area->payload = slot->user_payload;
		area->payload_sz = 0;
		err = fuse_uring_read_user_reply(slot, bad, &error,
						 &area->payload_sz);
	}
	if (likely(!err)) {
		thread = slot->thread;
		if (unlikely(!thread || !fuse_uring_thread_is(thread, cmd)))
			thread = fuse_uring_thread_find(queue, cmd, new);
		if (unlikely(!thread))
			err = -EAGAIN;
	}
	if (unlikely(err)) {
		fuse_uring_unlock(queue);
		return err;
	}

	return fuse_uring_commit(cmd, slot, thread, error, area->payload_sz,
				 issue_flags);
}

/*
 * FUSE_IO_URING_CMD_COMMIT_AND_FETCH.  The request stays in flight while memory
 * is faulted in, and fails if that can not be read.
 */
static int fuse_uring_user_commit(struct io_uring_cmd *cmd,
				  struct fuse_conn *fc, u16 qid, u64 commit_id,
				  unsigned int issue_flags)
{
	struct fuse_uring_thread *new = NULL;
	struct fuse_uring_reply_area area;
	unsigned int faults = 0;
	bool bad = false;
	int err;

	for (;;) {
		err = fuse_uring_try_user_commit(cmd, fc, qid, commit_id, bad,
						 &new, &area, issue_flags);
		if (unlikely(err == -EAGAIN)) {
			fuse_uring_thread_free(new);
			new = fuse_uring_new_thread(cmd, fc, qid);
			if (IS_ERR(new))
				return PTR_ERR(new);
			continue;
		}
		if (likely(err != -EFAULT))
			break;

		bad = fault_in_readable((char __user *)area.hdr,
					sizeof(*area.hdr)) ||
			fault_in_readable(area.payload, area.payload_sz) ||
			++faults == FUSE_URING_MAX_FAULTS;
		/* Not a malformed reply: a killed task can not fault in */
		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}
	}
	fuse_uring_thread_free(new);

	return err;
}

/* Read the addresses of the areas */
static int fuse_uring_get_areas(struct io_uring_cmd *cmd, struct iovec *iov,
				unsigned int issue_flags)
{
	const void __user *addr = u64_to_user_ptr(READ_ONCE(cmd->sqe->addr));

	if (READ_ONCE(cmd->sqe->len) != FUSE_URING_NR_AREAS)
		return -EINVAL;

#ifdef CONFIG_COMPAT
	if (issue_flags & IO_URING_F_COMPAT) {
		struct compat_iovec ciov[FUSE_URING_NR_AREAS];
		unsigned int i;

		if (copy_from_user(ciov, addr, sizeof(ciov)))
			return -EFAULT;
		for (i = 0; i < FUSE_URING_NR_AREAS; i++) {
			iov[i].iov_base = compat_ptr(ciov[i].iov_base);
			iov[i].iov_len = ciov[i].iov_len;
		}
		return 0;
	}
#endif
	if (copy_from_user(iov, addr, FUSE_URING_NR_AREAS * sizeof(*iov)))
		return -EFAULT;

	return 0;
}

static int fuse_uring_add_slot(struct io_uring_cmd *cmd,
			       struct fuse_uring_queue *queue,
			       const struct iovec *iov,
			       unsigned int issue_flags)
{
	struct fuse_uring_thread *thread, *new;
	struct fuse_uring_slot *slot, *spare;
	int err = 0;

	spare = kzalloc_node(sizeof(*spare), GFP_KERNEL_ACCOUNT, queue->node);
	if (!spare)
		return -ENOMEM;
	new = fuse_uring_thread_alloc(queue, cmd);
	if (!new) {
		kfree(spare);
		return -ENOMEM;
	}

	spin_lock(&queue->lock);
	slot = fuse_uring_queue_claim(queue, spare);
	if (!slot)
		err = -ENOSPC;
	else if (queue->stopped)
		err = fuse_uring_gone(queue->uring->fc, true);
	if (err) {
		fuse_uring_unlock(queue);
	} else {
		slot->user_hdr = iov[0].iov_base;
		slot->user_payload = iov[1].iov_base;
		slot->payload_room = min_t(size_t, iov[1].iov_len, MAX_RW_COUNT);
		thread = fuse_uring_thread_find(queue, cmd, &new);
		err = fuse_uring_arm(cmd, slot, thread, issue_flags);
	}
	fuse_uring_thread_free(new);

	return err;
}

/* FUSE_IO_URING_CMD_REGISTER */
static int fuse_uring_register(struct io_uring_cmd *cmd,
			       struct fuse_uring_queue *queue,
			       unsigned int issue_flags)
{
	struct iovec iov[FUSE_URING_NR_AREAS];
	int err;

	err = fuse_uring_get_areas(cmd, iov, issue_flags);
	if (err)
		return err;
	if (iov[0].iov_len < sizeof(struct fuse_uring_req_header) ||
	    iov[1].iov_len < queue->uring->payload_size)
		return -EINVAL;
	if (!access_ok(iov[0].iov_base, iov[0].iov_len) ||
	    !access_ok(iov[1].iov_base, iov[1].iov_len))
		return -EFAULT;

	return fuse_uring_add_slot(cmd, queue, iov, issue_flags);
}

/* Whether the connection accepts these commands */
static int fuse_uring_check_user(struct fuse_conn *fc, unsigned int issue_flags)
{
	if (!(issue_flags & IO_URING_F_SQE128))
		return -EINVAL;
	if (!READ_ONCE(fc->connected))
		return fuse_uring_gone(fc, true);
	/* Pairs with fuse_uring_promise() */
	if (smp_load_acquire(&fc->uring_user))
		return 0;
	if (fuse_uring_exists(fc))
		return -EBUSY;

	return READ_ONCE(fc->initialized) ? -EOPNOTSUPP : -EAGAIN;
}

/* The commands of a ring with user buffers.  Returns as fuse_uring_cmd(). */
int fuse_uring_user_cmd(struct io_uring_cmd *cmd, struct fuse_dev *fud,
			unsigned int issue_flags)
{
	const struct fuse_uring_cmd_req *ureq;
	struct fuse_conn *fc = fud->fc;
	struct fuse_uring *uring;
	u64 commit_id;
	u16 qid;
	int err;

	err = fuse_uring_check_user(fc, issue_flags);
	/* Returned, it would make io_uring retry in a worker */
	if (err == -EAGAIN)
		return fuse_uring_cmd_done(cmd, err, issue_flags);
	if (err)
		return err;

	ureq = io_uring_sqe_cmd(cmd->sqe);
	qid = READ_ONCE(ureq->qid);
	commit_id = READ_ONCE(ureq->commit_id);
	if (qid >= nr_cpu_ids)
		return -EINVAL;
	if (cmd->cmd_op == FUSE_IO_URING_CMD_COMMIT_AND_FETCH)
		return fuse_uring_user_commit(cmd, fc, qid, commit_id,
					      issue_flags);

	uring = fuse_uring_user_make(fc);
	if (IS_ERR(uring))
		return PTR_ERR(uring);
	qid = array_index_nospec(qid, uring->nr_queues);
	err = fuse_uring_register(cmd, uring->queues[qid], issue_flags);
	fuse_uring_put(uring);

	return err;
}
