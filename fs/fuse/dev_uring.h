/* SPDX-License-Identifier: GPL-2.0 */
/*
 * FUSE over io_uring: what the rest of fs/fuse calls.
 */
#ifndef _FS_FUSE_DEV_URING_H
#define _FS_FUSE_DEV_URING_H

#include "fuse_i.h"

struct io_uring_cmd;

extern const struct file_operations fuse_uring_stats_ops;

#ifdef CONFIG_FUSE_IO_URING

bool fuse_uring_takes(struct fuse_iqueue *fiq, struct fuse_req *req);
void fuse_uring_send(struct fuse_iqueue *fiq, struct fuse_req *req);
bool fuse_uring_queue_forget(struct fuse_iqueue *fiq,
			     struct fuse_forget_link *link);
bool fuse_uring_queue_interrupt(struct fuse_iqueue *fiq, struct fuse_req *req);
bool fuse_uring_remove_pending(struct fuse_req *req, bool *removed);
struct fuse_req *fuse_uring_find_interrupted(struct fuse_conn *fc, u64 unique);
void fuse_uring_update(struct fuse_conn *fc);
void fuse_uring_abort(struct fuse_conn *fc);
void fuse_uring_release(struct fuse_conn *fc);
void fuse_uring_resend(struct fuse_conn *fc);
void fuse_uring_init_limits(struct fuse_mount *fm);
bool fuse_uring_offered(struct fuse_conn *fc);
void fuse_uring_promise(struct fuse_conn *fc);
void fuse_uring_count_dev(struct fuse_conn *fc, enum fuse_uring_dev_message msg);
int fuse_uring_init(void);
void fuse_uring_exit(void);

long fuse_uring_ioctl(struct file *file, unsigned int cmd, void __user *argp);
int fuse_uring_mmap(struct file *file, struct vm_area_struct *vma);
int fuse_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags);

static inline bool fuse_uring_exists(struct fuse_conn *fc)
{
	return rcu_access_pointer(fc->uring);
}

/* Whether there is a ring, or the server has promised to use one */
static inline bool fuse_uring_expected(struct fuse_conn *fc)
{
	return fuse_uring_exists(fc) || READ_ONCE(fc->uring_user);
}

/* Whether a request waits, or has waited, on a queue of the ring */
static inline bool fuse_uring_has(struct fuse_req *req)
{
	return READ_ONCE(req->uring_queue);
}

/* A background request that memory reclaim may wait for */
static inline bool fuse_uring_is_writeback(const struct fuse_req *req)
{
	const struct fuse_write_in *in = req->args->in_args[0].value;

	return req->args->opcode == FUSE_WRITE &&
		in->write_flags & FUSE_WRITE_CACHE;
}

/*
 * Background requests that the connection keeps back, under fc->bg_lock.  Over
 * a ring writeback passes the others when none is active.
 */
static inline void fuse_uring_writeback_queued(struct fuse_conn *fc,
					       const struct fuse_req *req)
{
	if (fuse_uring_is_writeback(req))
		fc->uring_writeback_queued++;
}

static inline void fuse_uring_writeback_sent(struct fuse_conn *fc,
					     const struct fuse_req *req)
{
	if (fuse_uring_is_writeback(req)) {
		fc->uring_writeback_queued--;
		fc->uring_writeback_active++;
	}
}

static inline void fuse_uring_writeback_ended(struct fuse_conn *fc,
					      const struct fuse_req *req)
{
	if (fuse_uring_is_writeback(req))
		fc->uring_writeback_active--;
}

/* The request to send although max_background is reached, or NULL */
static inline struct fuse_req *
fuse_uring_passing_writeback(struct fuse_conn *fc)
{
	struct fuse_req *req;

	if (likely(!fc->uring_writeback_queued) ||
	    fc->uring_writeback_active || !fuse_uring_exists(fc))
		return NULL;

	list_for_each_entry(req, &fc->bg_queue, list)
		if (fuse_uring_is_writeback(req))
			return req;

	return NULL;
}

static inline void fuse_uring_set_cpu(struct fuse_req *req)
{
	req->uring_cpu = raw_smp_processor_id();
}

/*
 * The server may answer only after other requests: F_SETLKW waits for an unlock
 */
static inline bool fuse_uring_is_open_ended(const struct fuse_req *req)
{
	const struct fuse_lk_in *in = req->args->in_args[0].value;

	return req->args->opcode == FUSE_SETLKW && in->lk.type != F_UNLCK;
}

/* Whether a request that the server had waits again */
static inline bool fuse_uring_came_back(struct fuse_req *req)
{
	return fuse_uring_has(req) && test_bit(FR_PENDING, &req->flags);
}

/* A signal ends it while it is pending: the server has not seen it */
static inline bool fuse_uring_is_waiter(struct fuse_req *req)
{
	return fuse_uring_has(req) && fuse_uring_is_open_ended(req) &&
		!(req->in.h.unique & FUSE_UNIQUE_RESEND);
}

#else /* CONFIG_FUSE_IO_URING */

#define fuse_uring_mmap		NULL
#define fuse_uring_cmd		NULL

static inline bool fuse_uring_takes(struct fuse_iqueue *fiq,
				    struct fuse_req *req)
{ return false; }
static inline void fuse_uring_send(struct fuse_iqueue *fiq,
				   struct fuse_req *req)
{ }
static inline bool fuse_uring_queue_forget(struct fuse_iqueue *fiq,
					   struct fuse_forget_link *link)
{ return false; }
static inline bool fuse_uring_queue_interrupt(struct fuse_iqueue *fiq,
					      struct fuse_req *req)
{ return false; }
static inline bool fuse_uring_remove_pending(struct fuse_req *req,
					     bool *removed)
{ return false; }
static inline struct fuse_req *
fuse_uring_find_interrupted(struct fuse_conn *fc, u64 unique)
{ return NULL; }
static inline void fuse_uring_update(struct fuse_conn *fc) { }
static inline void fuse_uring_abort(struct fuse_conn *fc) { }
static inline void fuse_uring_release(struct fuse_conn *fc) { }
static inline void fuse_uring_resend(struct fuse_conn *fc) { }
static inline void fuse_uring_init_limits(struct fuse_mount *fm) { }
static inline bool fuse_uring_offered(struct fuse_conn *fc) { return false; }
static inline void fuse_uring_promise(struct fuse_conn *fc) { }
static inline int fuse_uring_init(void) { return 0; }
static inline void fuse_uring_exit(void) { }
static inline void fuse_uring_count_dev(struct fuse_conn *fc,
					enum fuse_uring_dev_message msg)
{ }
static inline long fuse_uring_ioctl(struct file *file, unsigned int cmd,
				    void __user *argp)
{ return -ENOTTY; }
static inline bool fuse_uring_exists(struct fuse_conn *fc) { return false; }
static inline bool fuse_uring_has(struct fuse_req *req) { return false; }
static inline bool fuse_uring_expected(struct fuse_conn *fc) { return false; }
static inline void fuse_uring_set_cpu(struct fuse_req *req) { }
static inline bool fuse_uring_came_back(struct fuse_req *req) { return false; }
static inline bool fuse_uring_is_waiter(struct fuse_req *req) { return false; }
static inline void fuse_uring_writeback_queued(struct fuse_conn *fc,
					       const struct fuse_req *req)
{ }
static inline void fuse_uring_writeback_sent(struct fuse_conn *fc,
					     const struct fuse_req *req)
{ }
static inline void fuse_uring_writeback_ended(struct fuse_conn *fc,
					      const struct fuse_req *req)
{ }
static inline struct fuse_req *
fuse_uring_passing_writeback(struct fuse_conn *fc)
{ return NULL; }

#endif /* CONFIG_FUSE_IO_URING */

#endif /* _FS_FUSE_DEV_URING_H */
