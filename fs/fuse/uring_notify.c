// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: notifications as commands.
 *
 * A notification may have to wait for a page or a directory that a request has
 * locked, and that for the very thread that sends it.  So its message is copied
 * when it is submitted, and a worker of the connection's own does what it says.
 * Not one of io-wq, which a server waits for when it exits: the notification
 * may wait for a request that only the end of that server can end.
 */
#include "uring_i.h"
#include "fuse_trace.h"

#include <linux/cred.h>
#include <linux/memcontrol.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

/* Besides the data of a FUSE_NOTIFY_STORE */
#define FUSE_URING_NOTIFY_SLACK		4096

/* Of the longest messages, so many may wait */
#define FUSE_URING_NOTIFY_LONGEST	8

/**
 * struct fuse_uring_notifier - notifications of a connection
 * @ref: held by each ring of the connection
 * @fc: the connection, which lives longer
 * @wq: handles one after the other
 * @work: takes them from @waiting
 * @lock: protects what follows
 * @waiting: those that are not yet being handled
 * @nr: how many there are, the one that is being handled included
 * @bytes: their memory
 * @ended: the connection has ended, no more
 * @count: all that ever were
 */
struct fuse_uring_notifier {
	refcount_t ref;
	struct fuse_conn *fc;
	struct workqueue_struct *wq;
	struct work_struct work;
	spinlock_t lock;	/* protects what follows */
	struct list_head waiting;
	unsigned int nr;
	size_t bytes;
	bool ended;
	u64 count;
};

/**
 * struct fuse_uring_notification - one notification
 * @entry: on the list of those that wait
 * @cmd: the command to complete, NULL when it was cancelled
 * @cred: who sent it, and as whom it is handled
 * @memcg: what is charged for pages that it adds to the page cache
 * @len: of the message
 * @oh: its header, as it was checked
 * @payload: the rest of the message
 */
struct fuse_uring_notification {
	struct list_head entry;
	struct io_uring_cmd *cmd;
	const struct cred *cred;
	struct mem_cgroup *memcg;
	u32 len;
	struct fuse_out_header oh;
	u8 payload[];
};

/*
 * What its command carries
 *
 * @nt: the notifier
 * @notification: until it is done or cancelled, NULL before and afterwards
 * @done: task work is under way to complete the command, with @ret
 */
struct fuse_uring_notify_pdu {
	struct fuse_uring_notifier *nt;
	struct fuse_uring_notification *notification;
	int ret;
	bool done;
};

static struct fuse_uring_notify_pdu *fuse_uring_notify_pdu(struct io_uring_cmd *cmd)
{
	return io_uring_cmd_to_pdu(cmd, struct fuse_uring_notify_pdu);
}

/* In the task of the command, or in a kworker when that is gone */
static void fuse_uring_notify_done(struct io_uring_cmd *cmd,
				   unsigned int issue_flags)
{
	/* See fuse_uring_cancel() */
	cmd->flags |= IORING_URING_CMD_CANCELABLE;
	io_uring_cmd_done(cmd, fuse_uring_notify_pdu(cmd)->ret, 0, issue_flags);
}

/* Let go of a command, and have it completed.  Called under nt->lock. */
static void fuse_uring_notify_complete(struct fuse_uring_notification *n,
				       int ret)
{
	struct io_uring_cmd *cmd = n->cmd;
	struct fuse_uring_notify_pdu *pdu;

	if (!cmd)
		return;

	pdu = fuse_uring_notify_pdu(cmd);
	pdu->notification = NULL;
	pdu->ret = ret;
	pdu->done = true;
	n->cmd = NULL;
	io_uring_cmd_complete_in_task(cmd, fuse_uring_notify_done);
}

/* Called under nt->lock */
static void fuse_uring_notify_forget(struct fuse_uring_notifier *nt,
				     struct fuse_uring_notification *n)
{
	nt->nr--;
	nt->bytes -= n->len;
}

static void fuse_uring_notify_free(struct fuse_uring_notification *n)
{
	if (!n)
		return;

	put_cred(n->cred);
	mem_cgroup_put(n->memcg);
	kvfree(n);
}

/*
 * Do what a notification says, as if its server did it by write(2).  Its length,
 * or an error, as of that.
 */
static int fuse_uring_notify_handle(struct fuse_uring_notifier *nt,
				    struct fuse_uring_notification *n)
{
	struct mem_cgroup *old_memcg = set_active_memcg(n->memcg);
	const struct cred *old_cred = override_creds(n->cred);
	int err;

	err = fuse_dev_notify(nt->fc, n->oh.error, n->payload,
			      n->len - sizeof(n->oh));
	revert_creds(old_cred);
	set_active_memcg(old_memcg);
	trace_fuse_uring_notify(nt->fc, n->oh.error, n->len, err);

	return err ?: n->len;
}

static void fuse_uring_notify_work(struct work_struct *work)
{
	struct fuse_uring_notifier *nt = container_of(work, typeof(*nt), work);
	struct fuse_uring_notification *n;
	int ret;

	spin_lock(&nt->lock);
	while (!list_empty(&nt->waiting)) {
		n = list_first_entry(&nt->waiting, typeof(*n), entry);
		list_del_init(&n->entry);
		spin_unlock(&nt->lock);

		ret = fuse_uring_notify_handle(nt, n);

		spin_lock(&nt->lock);
		fuse_uring_notify_complete(n, ret);
		fuse_uring_notify_forget(nt, n);
		spin_unlock(&nt->lock);
		fuse_uring_notify_free(n);
		spin_lock(&nt->lock);
	}
	spin_unlock(&nt->lock);
}

/**
 * fuse_uring_notifier_alloc - get ready for the notifications of a connection
 * @fc: the connection
 *
 * Return: the notifier with a reference, NULL when there is no memory.
 */
struct fuse_uring_notifier *fuse_uring_notifier_alloc(struct fuse_conn *fc)
{
	struct fuse_uring_notifier *nt;

	nt = kzalloc(sizeof(*nt), GFP_KERNEL_ACCOUNT);
	if (!nt)
		return NULL;

	refcount_set(&nt->ref, 1);
	nt->fc = fc;
	spin_lock_init(&nt->lock);
	INIT_LIST_HEAD(&nt->waiting);
	INIT_WORK(&nt->work, fuse_uring_notify_work);
	/* Others' notifications must not wait for those of this server */
	nt->wq = alloc_ordered_workqueue("fuse-notify/%u", 0, MINOR(fc->dev));
	if (!nt->wq) {
		kfree(nt);
		return NULL;
	}

	return nt;
}

struct fuse_uring_notifier *
fuse_uring_notifier_get(struct fuse_uring_notifier *nt)
{
	refcount_inc(&nt->ref);
	return nt;
}

/*
 * The last reference is that of the connection's last ring.  With that, no
 * command refers to it any more.
 */
void fuse_uring_notifier_put(struct fuse_uring_notifier *nt)
{
	if (!nt || !refcount_dec_and_test(&nt->ref))
		return;

	destroy_workqueue(nt->wq);
	kfree(nt);
}

/**
 * fuse_uring_notifier_abort - the connection has ended
 * @nt: its notifier
 *
 * What waits will not be done.  What is being done ends by itself, as all
 * requests do that it may wait for.
 */
void fuse_uring_notifier_abort(struct fuse_uring_notifier *nt)
{
	struct fuse_uring_notification *n, *next;
	LIST_HEAD(waiting);

	spin_lock(&nt->lock);
	nt->ended = true;
	list_splice_init(&nt->waiting, &waiting);
	list_for_each_entry(n, &waiting, entry) {
		fuse_uring_notify_complete(n, -ENOTCONN);
		fuse_uring_notify_forget(nt, n);
	}
	spin_unlock(&nt->lock);

	list_for_each_entry_safe(n, next, &waiting, entry)
		fuse_uring_notify_free(n);
}

/* How many notifications the server has sent by commands */
u64 fuse_uring_notifier_count(struct fuse_uring_notifier *nt)
{
	u64 count;

	spin_lock(&nt->lock);
	count = nt->count;
	spin_unlock(&nt->lock);

	return count;
}

/* The message, which is the server's to change until it has been copied */
static struct fuse_uring_notification *
fuse_uring_notify_copy(void __user *msg, u32 len)
{
	struct fuse_uring_notification *n;

	n = kvmalloc(struct_size(n, payload, len - sizeof(n->oh)),
		     GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!n)
		return ERR_PTR(-ENOMEM);

	INIT_LIST_HEAD(&n->entry);
	n->cmd = NULL;
	n->cred = get_current_cred();
	n->memcg = get_mem_cgroup_from_mm(current->mm);
	n->len = len;
	if (copy_from_user(&n->oh, msg, sizeof(n->oh)) ||
	    copy_from_user(n->payload, msg + sizeof(n->oh),
			   len - sizeof(n->oh))) {
		fuse_uring_notify_free(n);
		return ERR_PTR(-EFAULT);
	}
	if (n->oh.len != len || n->oh.unique) {
		fuse_uring_notify_free(n);
		return ERR_PTR(-EINVAL);
	}

	return n;
}

/* Room for one more message */
static int fuse_uring_notify_reserve(struct fuse_uring_notifier *nt, u32 len,
				     u32 max)
{
	int err = 0;

	spin_lock(&nt->lock);
	if (nt->ended) {
		err = -ENOTCONN;
	} else if (nt->nr >= FUSE_URING_MAX_NOTIFY ||
		   nt->bytes + len > (size_t)max * FUSE_URING_NOTIFY_LONGEST) {
		err = -ENOBUFS;
	} else {
		nt->nr++;
		nt->bytes += len;
		nt->count++;
	}
	spin_unlock(&nt->lock);

	return err;
}

/**
 * fuse_uring_notify - FUSE_URING_REQ_NOTIFY
 * @cmd: the command
 * @uring: the ring
 * @issue_flags: as io_uring gives them
 *
 * Return: as fuse_uring_cmd().
 */
int fuse_uring_notify(struct io_uring_cmd *cmd, struct fuse_uring *uring,
		      unsigned int issue_flags)
{
	struct fuse_uring_notify_pdu *pdu = fuse_uring_notify_pdu(cmd);
	struct fuse_uring_notifier *nt = uring->notifier;
	u32 max = uring->payload_size + FUSE_URING_NOTIFY_SLACK;
	struct fuse_uring_notification *n;
	void __user *msg = u64_to_user_ptr(READ_ONCE(cmd->sqe->addr));
	u32 len = READ_ONCE(cmd->sqe->len);
	bool ended;
	int ret;

	if (len < sizeof(n->oh))
		return -EINVAL;
	if (len > max)
		return -EMSGSIZE;

	ret = fuse_uring_notify_reserve(nt, len, max);
	if (ret)
		return ret;

	n = fuse_uring_notify_copy(msg, len);
	if (IS_ERR(n) || n->oh.error == FUSE_NOTIFY_POLL ||
	    n->oh.error == FUSE_NOTIFY_RESEND) {
		/* These two never wait */
		ret = IS_ERR(n) ? PTR_ERR(n) : fuse_uring_notify_handle(nt, n);
		spin_lock(&nt->lock);
		nt->nr--;
		nt->bytes -= len;
		if (IS_ERR(n))
			nt->count--;
		spin_unlock(&nt->lock);
		if (!IS_ERR(n))
			fuse_uring_notify_free(n);
		return ret;
	}

	*pdu = (struct fuse_uring_notify_pdu) { .nt = nt };
	io_uring_cmd_mark_cancelable(cmd, issue_flags);

	spin_lock(&nt->lock);
	ended = nt->ended;
	if (!ended) {
		n->cmd = cmd;
		pdu->notification = n;
		list_add_tail(&n->entry, &nt->waiting);
	} else {
		fuse_uring_notify_forget(nt, n);
	}
	spin_unlock(&nt->lock);

	if (ended) {
		fuse_uring_notify_free(n);
		return fuse_uring_cmd_done(cmd, -ENOTCONN, issue_flags);
	}
	queue_work(nt->wq, &nt->work);

	return -EIOCBQUEUED;
}

/**
 * fuse_uring_notify_cancel - io_uring cancels a FUSE_URING_REQ_NOTIFY
 * @cmd: the command
 * @issue_flags: as io_uring gives them
 *
 * What is being done goes on without a command to complete.  As for who may
 * complete it, see fuse_uring_cancel().
 */
void fuse_uring_notify_cancel(struct io_uring_cmd *cmd,
			      unsigned int issue_flags)
{
	struct fuse_uring_notify_pdu *pdu = fuse_uring_notify_pdu(cmd);
	bool own = io_uring_cmd_get_task(cmd) == current;
	struct fuse_uring_notification *n, *waiting = NULL;
	struct fuse_uring_notifier *nt = pdu->nt;

	spin_lock(&nt->lock);
	n = pdu->notification;
	if (n) {
		if (!list_empty(&n->entry)) {
			list_del(&n->entry);
			fuse_uring_notify_forget(nt, n);
			waiting = n;
		}
		if (own) {
			pdu->notification = NULL;
			n->cmd = NULL;
		} else {
			fuse_uring_notify_complete(n, -ECANCELED);
		}
	}
	if (pdu->done)
		cmd->flags &= ~IORING_URING_CMD_CANCELABLE;
	spin_unlock(&nt->lock);

	fuse_uring_notify_free(waiting);
	if (n && own)
		io_uring_cmd_done(cmd, -ECANCELED, 0, issue_flags);
}
