/* SPDX-License-Identifier: GPL-2.0 */
/*
 * FUSE over io_uring: what the rest of fs/fuse calls.
 */
#ifndef _FS_FUSE_URING_H
#define _FS_FUSE_URING_H

#include "fuse_i.h"

struct io_uring_cmd;

/* Messages that are counted when a connection with a ring uses /dev/fuse */
enum fuse_uring_dev_message {
	FUSE_URING_DEV_REQUEST,
	FUSE_URING_DEV_FORGET,
	FUSE_URING_DEV_INTERRUPT,
	FUSE_URING_DEV_NOTIFICATION,
	FUSE_URING_DEV_NR,
};

extern const struct file_operations fuse_uring_stats_ops;

#ifdef CONFIG_FUSE_IO_URING

bool fuse_uring_takes(struct fuse_iqueue *fiq, struct fuse_req *req);
void fuse_uring_queue_req(struct fuse_iqueue *fiq, struct fuse_req *req);
bool fuse_uring_remove_pending(struct fuse_req *req, bool *removed);
struct fuse_req *fuse_uring_find_interrupted(struct fuse_conn *fc, u64 unique);
void fuse_uring_abort(struct fuse_conn *fc);
void fuse_uring_resend(struct fuse_conn *fc);
void fuse_uring_init_limits(struct fuse_mount *fm);
bool fuse_uring_offered(struct fuse_conn *fc);
void fuse_uring_check_init(struct fuse_conn *fc, struct file *file,
			   struct fuse_init_out *out);
bool fuse_uring_expect(struct fuse_conn *fc);
void fuse_uring_count_dev(struct fuse_conn *fc, enum fuse_uring_dev_message msg);
void fuse_uring_messages_recheck(struct fuse_conn *fc);

long fuse_uring_ioctl(struct file *file, unsigned int cmd, void __user *argp);
int fuse_uring_mmap(struct file *file, struct vm_area_struct *vma);
int fuse_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags);

/* Whether the connection has a ring, used or not */
static inline bool fuse_uring_exists(struct fuse_conn *fc)
{
	return rcu_access_pointer(fc->uring);
}

/* A forget or an interrupt has been queued for /dev/fuse */
static inline void fuse_uring_message_queued(struct fuse_iqueue *fiq)
{
	struct fuse_conn *fc = container_of(fiq, struct fuse_conn, iq);

	if (fuse_uring_exists(fc))
		fuse_uring_messages_recheck(fc);
}

/* Whether a request waits, or has waited, on a queue and not on /dev/fuse */
static inline bool fuse_uring_has(struct fuse_req *req)
{
	return READ_ONCE(req->uring_queue);
}

/* A request comes to /dev/fuse, from a queue or new.  Under fiq->lock. */
static inline void fuse_uring_leave(struct fuse_req *req)
{
	if (req->uring_queue) {
		WRITE_ONCE(req->uring_queue, NULL);
		set_bit(FR_PENDING, &req->flags);
	}
}

#else /* CONFIG_FUSE_IO_URING */

#define fuse_uring_mmap		NULL
#define fuse_uring_cmd		NULL

static inline bool fuse_uring_takes(struct fuse_iqueue *fiq,
				    struct fuse_req *req)
{
	return false;
}

static inline void fuse_uring_queue_req(struct fuse_iqueue *fiq,
					struct fuse_req *req)
{
}

static inline bool fuse_uring_remove_pending(struct fuse_req *req,
					     bool *removed)
{
	return false;
}

static inline struct fuse_req *
fuse_uring_find_interrupted(struct fuse_conn *fc, u64 unique)
{
	return NULL;
}

static inline void fuse_uring_abort(struct fuse_conn *fc)
{
}

static inline void fuse_uring_message_queued(struct fuse_iqueue *fiq)
{
}

static inline void fuse_uring_resend(struct fuse_conn *fc)
{
}

static inline void fuse_uring_init_limits(struct fuse_mount *fm)
{
}

static inline bool fuse_uring_offered(struct fuse_conn *fc)
{
	return false;
}

static inline void fuse_uring_check_init(struct fuse_conn *fc,
					 struct file *file,
					 struct fuse_init_out *out)
{
}

static inline bool fuse_uring_expect(struct fuse_conn *fc)
{
	return false;
}

static inline void fuse_uring_count_dev(struct fuse_conn *fc,
					enum fuse_uring_dev_message msg)
{
}

static inline long fuse_uring_ioctl(struct file *file, unsigned int cmd,
				    void __user *argp)
{
	return -ENOTTY;
}

static inline bool fuse_uring_exists(struct fuse_conn *fc)
{
	return false;
}

static inline bool fuse_uring_has(struct fuse_req *req)
{
	return false;
}

static inline void fuse_uring_leave(struct fuse_req *req)
{
}

#endif /* CONFIG_FUSE_IO_URING */

#endif /* _FS_FUSE_URING_H */
