// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: notifications as commands.
 *
 * A notification may wait for a page or a directory that is locked by a
 * request, which waits for the thread that sent the notification.  So the
 * message is copied, and a worker of the connection handles it.  io-wq would
 * not do: an exiting server waits for its workers, and only its end may end the
 * request.
 *
 * Messages about one inode stay in order.  One that waits delays no other
 * inode's.
 */
#include "dev_uring_i.h"
#include "fuse_trace.h"

#include <linux/cred.h>
#include <linux/hash.h>
#include <linux/memcontrol.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/unaligned.h>
#include <linux/workqueue.h>

/* Room besides the data of a FUSE_NOTIFY_STORE, in bytes */
#define FUSE_URING_NOTIFY_SLACK		4096

/* Limit pending bytes to this many messages of maximum size */
#define FUSE_URING_NOTIFY_LONGEST	8

/* Hash table of notifications by inode */
#define FUSE_URING_NOTIFY_BITS		5

/* Workers of a connection.  They are not accounted to its server. */
#define FUSE_URING_NOTIFY_WORKERS	32

/* Notifications of a connection */
struct fuse_uring_notifier {
	refcount_t ref;		/* rings of the connection */
	struct fuse_conn *fc;	/* outlives the notifier */
	/* Handles notifications, and ends requests whose end may sleep */
	struct workqueue_struct *wq;
	struct workqueue_struct *end_wq;
	spinlock_t lock;	/* protects what follows */
	/* For each inode the notification that is being handled */
	struct hlist_head heads[BIT(FUSE_URING_NOTIFY_BITS)];
	unsigned int nr;	/* notifications */
	size_t bytes;		/* of their messages */
	bool ended;		/* so has the connection */
};

struct fuse_uring_notification {
	struct fuse_uring_notifier *nt;
	u64 nodeid;
	struct hlist_node node;	/* in nt->heads while it is handled */
	struct list_head followers;	/* the next ones about this inode */
	struct list_head entry;	/* on the followers of another one */
	struct work_struct work;
	struct io_uring_cmd *cmd;	/* NULL when it was cancelled */
	const struct cred *cred;	/* of the sender */
	struct mem_cgroup *memcg;	/* charged for new page cache */
	u32 len;		/* of the message, bytes */
	struct fuse_out_header oh;
	u8 payload[];
};

/* Private data of the command */
struct fuse_uring_notify_pdu {
	struct fuse_uring_notifier *nt;
	struct fuse_uring_notification *notification;	/* until done */
	int ret;
	bool done;		/* task work completes it with @ret */
};

static struct fuse_uring_notify_pdu *
fuse_uring_notify_pdu(struct io_uring_cmd *cmd)
{
	return io_uring_cmd_to_pdu(cmd, struct fuse_uring_notify_pdu);
}

static void fuse_uring_notify_done(struct io_uring_cmd *cmd,
				   unsigned int issue_flags)
{
	/* See fuse_uring_cancel() */
	cmd->flags |= IORING_URING_CMD_CANCELABLE;
	io_uring_cmd_done(cmd, fuse_uring_notify_pdu(cmd)->ret, 0, issue_flags);
}

/* Complete the command by task work.  Called under nt->lock. */
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
 * Handle a notification as if the server had written it.  Returns as write(2).
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

static struct hlist_head *fuse_uring_notify_list(struct fuse_uring_notifier *nt,
						 u64 nodeid)
{
	return &nt->heads[hash_64(nodeid, FUSE_URING_NOTIFY_BITS)];
}

static void fuse_uring_notify_start(struct fuse_uring_notification *n)
{
	hlist_add_head(&n->node, fuse_uring_notify_list(n->nt, n->nodeid));
	queue_work(n->nt->wq, &n->work);
}

/* Start it, or queue it behind others about the inode.  Under nt->lock. */
static void fuse_uring_notify_add(struct fuse_uring_notification *n)
{
	struct fuse_uring_notification *head;

	hlist_for_each_entry(head, fuse_uring_notify_list(n->nt, n->nodeid),
			     node) {
		if (head->nodeid == n->nodeid) {
			list_add_tail(&n->entry, &head->followers);
			return;
		}
	}
	fuse_uring_notify_start(n);
}

static void fuse_uring_notify_work(struct work_struct *work)
{
	struct fuse_uring_notification *next, *n;
	struct fuse_uring_notifier *nt;
	int ret = -ENOTCONN;

	n = container_of(work, struct fuse_uring_notification, work);
	nt = n->nt;
	if (!READ_ONCE(nt->ended))
		ret = fuse_uring_notify_handle(nt, n);

	spin_lock(&nt->lock);
	fuse_uring_notify_complete(n, ret);
	fuse_uring_notify_forget(nt, n);
	hlist_del(&n->node);
	next = list_first_entry_or_null(&n->followers,
					struct fuse_uring_notification, entry);
	if (next) {
		list_del_init(&next->entry);
		list_splice(&n->followers, &next->followers);
		fuse_uring_notify_start(next);
	}
	spin_unlock(&nt->lock);
	fuse_uring_notify_free(n);
}

struct fuse_uring_notifier *fuse_uring_notifier_alloc(struct fuse_conn *fc)
{
	struct fuse_uring_notifier *nt;

	nt = kzalloc(sizeof(*nt), GFP_KERNEL_ACCOUNT);
	if (!nt)
		return NULL;

	refcount_set(&nt->ref, 1);
	nt->fc = fc;
	spin_lock_init(&nt->lock);
	/* So many inodes may have notifications that wait and delay no other */
	nt->wq = alloc_workqueue("fuse-notify/%u", WQ_UNBOUND,
				 FUSE_URING_NOTIFY_WORKERS, MINOR(fc->dev));
	/* What notifications wait for may be the end of a request */
	nt->end_wq = alloc_workqueue("fuse-end/%u", WQ_UNBOUND,
				     FUSE_URING_NOTIFY_WORKERS, MINOR(fc->dev));
	if (!nt->wq || !nt->end_wq) {
		if (nt->wq)
			destroy_workqueue(nt->wq);
		if (nt->end_wq)
			destroy_workqueue(nt->end_wq);
		kfree(nt);
		return NULL;
	}

	return nt;
}

/* Run work that may sleep in the connection's own workers */
void fuse_uring_notifier_queue(struct fuse_uring_notifier *nt,
			       struct work_struct *work)
{
	queue_work(nt->end_wq, work);
}

struct fuse_uring_notifier *
fuse_uring_notifier_get(struct fuse_uring_notifier *nt)
{
	refcount_inc(&nt->ref);
	return nt;
}

/* No command uses the notifier when the connection's last ring is freed */
void fuse_uring_notifier_put(struct fuse_uring_notifier *nt)
{
	if (!nt || !refcount_dec_and_test(&nt->ref))
		return;

	destroy_workqueue(nt->wq);
	destroy_workqueue(nt->end_wq);
	/* Else fuse_uring_release() frees it */
	if (nt != nt->fc->uring_notifier)
		kfree(nt);
}

/* Drop what waits.  What is being handled ends, as all requests end. */
void fuse_uring_notifier_abort(struct fuse_uring_notifier *nt)
{
	struct fuse_uring_notification *head, *n, *next;
	LIST_HEAD(waiting);
	unsigned int i;

	spin_lock(&nt->lock);
	WRITE_ONCE(nt->ended, true);
	for (i = 0; i < ARRAY_SIZE(nt->heads); i++)
		hlist_for_each_entry(head, &nt->heads[i], node)
			list_splice_tail_init(&head->followers, &waiting);
	list_for_each_entry(n, &waiting, entry) {
		fuse_uring_notify_complete(n, -ENOTCONN);
		fuse_uring_notify_forget(nt, n);
	}
	spin_unlock(&nt->lock);

	list_for_each_entry_safe(n, next, &waiting, entry)
		fuse_uring_notify_free(n);
}

/* The inode of a message, 0 if there is none */
static u64 fuse_uring_notify_nodeid(const struct fuse_uring_notification *n)
{
	/* It is the first field in all other messages */
	unsigned int offset = n->oh.error == FUSE_NOTIFY_RETRIEVE ?
		offsetof(struct fuse_notify_retrieve_out, nodeid) : 0;

	if (n->len - sizeof(n->oh) < offset + sizeof(u64))
		return 0;

	return get_unaligned((u64 *)(n->payload + offset));
}

/* Copy and check a message */
static struct fuse_uring_notification *
fuse_uring_notify_copy(struct fuse_uring_notifier *nt, void __user *msg,
		       u32 len)
{
	struct fuse_uring_notification *n;

	n = kvmalloc(struct_size(n, payload, len - sizeof(n->oh)),
		     GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!n)
		return ERR_PTR(-ENOMEM);

	n->nt = nt;
	INIT_LIST_HEAD(&n->followers);
	INIT_LIST_HEAD(&n->entry);
	INIT_WORK(&n->work, fuse_uring_notify_work);
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
	n->nodeid = fuse_uring_notify_nodeid(n);

	return n;
}

/* Why no more messages can wait.  Called under nt->lock. */
static int fuse_uring_notify_error(const struct fuse_uring_notifier *nt,
				   u32 len, u32 max)
{
	if (nt->ended)
		return -ENOTCONN;
	if (nt->nr >= FUSE_URING_MAX_NOTIFY ||
	    nt->bytes + len > (size_t)max * FUSE_URING_NOTIFY_LONGEST)
		return -ENOBUFS;
	return 0;
}

/* FUSE_URING_REQ_NOTIFY.  Returns as fuse_uring_cmd(). */
int fuse_uring_notify(struct io_uring_cmd *cmd, struct fuse_uring *uring,
		      unsigned int issue_flags)
{
	struct fuse_uring_notify_pdu *pdu = fuse_uring_notify_pdu(cmd);
	struct fuse_uring_notifier *nt = uring->notifier;
	u32 max = uring->payload_size + FUSE_URING_NOTIFY_SLACK;
	struct fuse_uring_notification *n;
	void __user *msg = u64_to_user_ptr(READ_ONCE(cmd->sqe->addr));
	u32 len = READ_ONCE(cmd->sqe->len);
	int ret;

	if (len < sizeof(n->oh))
		return -EINVAL;
	if (len > max)
		return -EMSGSIZE;

	n = fuse_uring_notify_copy(nt, msg, len);
	if (IS_ERR(n))
		return PTR_ERR(n);
	/* These two never wait */
	if (n->oh.error == FUSE_NOTIFY_POLL ||
	    n->oh.error == FUSE_NOTIFY_RESEND) {
		atomic64_inc(&nt->fc->uring_notifications);
		ret = fuse_uring_notify_handle(nt, n);
		fuse_uring_notify_free(n);
		return ret;
	}

	*pdu = (struct fuse_uring_notify_pdu) { .nt = nt };
	io_uring_cmd_mark_cancelable(cmd, issue_flags);

	spin_lock(&nt->lock);
	ret = fuse_uring_notify_error(nt, len, max);
	if (!ret) {
		nt->nr++;
		nt->bytes += len;
		n->cmd = cmd;
		pdu->notification = n;
		fuse_uring_notify_add(n);
	}
	spin_unlock(&nt->lock);

	if (ret) {
		fuse_uring_notify_free(n);
		return fuse_uring_cmd_done(cmd, ret, issue_flags);
	}
	atomic64_inc(&nt->fc->uring_notifications);

	return -EIOCBQUEUED;
}

/* A worker that handles it goes on without the command */
void fuse_uring_notify_cancel(struct io_uring_cmd *cmd)
{
	struct fuse_uring_notify_pdu *pdu = fuse_uring_notify_pdu(cmd);
	struct fuse_uring_notification *n, *waiting = NULL;
	struct fuse_uring_notifier *nt = pdu->nt;

	spin_lock(&nt->lock);
	n = pdu->notification;
	if (n && !list_empty(&n->entry)) {
		list_del_init(&n->entry);
		fuse_uring_notify_forget(nt, n);
		waiting = n;
	}
	if (n)
		fuse_uring_notify_complete(n, -ECANCELED);
	/* See fuse_uring_cancel() */
	if (pdu->done)
		cmd->flags &= ~IORING_URING_CMD_CANCELABLE;
	spin_unlock(&nt->lock);

	fuse_uring_notify_free(waiting);
}
