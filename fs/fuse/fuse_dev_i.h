/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What /dev/fuse shares with other ways of talking to the server.
 */
#ifndef _FS_FUSE_DEV_I_H
#define _FS_FUSE_DEV_I_H

#include "fuse_i.h"

#include <linux/fs.h>

/* Ordinary requests have even IDs, while interrupts IDs are odd */
#define FUSE_INT_REQ_BIT	BIT_ULL(0)
#define FUSE_REQ_ID_STEP	BIT_ULL(1)

struct iov_iter;
struct pipe_buffer;
struct pipe_inode_info;

/*
 * Where a copy between a request and the server's memory stands.
 *
 * @write is set when the request is copied out to the server, clear when its
 * reply is copied in.
 */
struct fuse_copy_state {
	int write;
	struct fuse_req *req;
	union {
		struct iov_iter *iter;
		void *kaddr;
		void __user *uaddr;
	};
	struct pipe_buffer *pipebufs;
	struct pipe_buffer *currbuf;
	struct pipe_inode_info *pipe;
	unsigned long nr_segs;
	struct page *pg;
	unsigned int len;
	unsigned int offset;
	unsigned int move_pages:1;
	unsigned int kernel:1;	/* to or from @kaddr */
	unsigned int user:1;	/* to or from @uaddr */
	unsigned int faulted:1;
};

static inline bool fuse_copy_is_kernel(const struct fuse_copy_state *cs)
{
	return IS_ENABLED(CONFIG_FUSE_IO_URING) && cs->kernel;
}

static inline bool fuse_copy_is_user(const struct fuse_copy_state *cs)
{
	return IS_ENABLED(CONFIG_FUSE_IO_URING) && cs->user;
}

static inline struct fuse_dev *fuse_get_dev(struct file *file)
{
	/*
	 * Lockless access is OK, because file->private data is set
	 * once during mount and is valid until the file is released.
	 */
	return READ_ONCE(file->private_data);
}

static inline void __fuse_get_request(struct fuse_req *req)
{
	refcount_inc(&req->count);
}

void fuse_put_request(struct fuse_req *req);
bool fuse_dev_try_queue_req(struct fuse_iqueue *fiq, struct fuse_req *req);
int fuse_queue_interrupt(struct fuse_req *req);
int fuse_dev_notify(struct fuse_conn *fc, enum fuse_notify_code code,
		    void *payload, unsigned int size);

ssize_t fuse_dev_take(struct fuse_dev *fud, const void *msg, size_t len);

void fuse_copy_init_kaddr(struct fuse_copy_state *cs, int write,
			  struct fuse_req *req, void *kaddr, unsigned int len);
void fuse_copy_init_uaddr(struct fuse_copy_state *cs, int write,
			  struct fuse_req *req, void __user *uaddr,
			  unsigned int len);
int fuse_copy_args(struct fuse_copy_state *cs, unsigned int numargs,
		   unsigned int argpages, struct fuse_arg *args, int zeroing);
int fuse_copy_out_args(struct fuse_copy_state *cs, struct fuse_args *args,
		       unsigned int nbytes);

#endif /* _FS_FUSE_DEV_I_H */
