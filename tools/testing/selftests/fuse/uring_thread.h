/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the threads of both kinds of ring have in common: an io_uring each, with
 * commands that complete when there is a request, and answers that come from
 * other threads.
 */
#ifndef SELFTEST_FUSE_URING_THREAD_H
#define SELFTEST_FUSE_URING_THREAD_H

#include <errno.h>
#include <liburing.h>

#include "internal.h"
#include "util.h"

/* The transports embed it in structures of their own. */
struct uring_thread {
	struct server_thread t;
	struct io_uring uring;
	int cmd_fd;			/* /dev/fuse, or its registered index */
	__u8 sqe_flags;

	/* Answers by other threads wait here for this thread to send them */
	struct server_req *answered;
	int wake_fd;
	__u64 wake_buf;
};

/*
 * user_data is a server_req, of which these bits are 0 (no more than two, for
 * machines of 32 bits), or something else of the transport's.
 */
#define UD_KIND		3ULL
#define UD_REQ		0ULL
#define UD_WAKE		2ULL

/* The thread that runs this, if it is of a ring */
extern __thread struct uring_thread *uring_self;

/* The part of a new thread that is the same for all; after that it is srv's */
int uring_thread_add(struct server *srv, struct uring_thread *u,
		     enum server_transport transport);
void uring_thread_free(struct uring_thread *u);

/* In the thread: makes the io_uring, and arms the wake-up */
int uring_begin(struct uring_thread *u, unsigned int entries,
		unsigned int flags);
void uring_end(struct uring_thread *u);

/* From any thread */
void uring_wake(struct uring_thread *u);
void uring_wake_all(struct server *srv);
void uring_answer_elsewhere(struct uring_thread *u, struct server_req *req);

/* UD_WAKE has completed: the answers that wait, a list by reply_next */
struct server_req *uring_answered(struct uring_thread *u);

static inline struct io_uring_sqe *uring_sqe(struct uring_thread *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->uring);

	/* There is room for a command per slot, but others come on top */
	if (unlikely(!sqe)) {
		io_uring_submit(&u->uring);
		sqe = io_uring_get_sqe(&u->uring);
	}
	return sqe;
}

/* A command on /dev/fuse, which is submitted with the next round */
static inline struct io_uring_sqe *uring_cmd(struct uring_thread *u,
					     __u32 cmd_op, const void *cmd,
					     size_t cmd_len, __u64 user_data)
{
	struct io_uring_sqe *sqe = uring_sqe(u);

	*sqe = (struct io_uring_sqe){
		.opcode = IORING_OP_URING_CMD,
		.flags = u->sqe_flags,
		.fd = u->cmd_fd,
		.cmd_op = cmd_op,
		.user_data = user_data,
	};
	/* The area begins at byte 48: the last 16 of 64 bytes, or 80 of 128 */
	memcpy((char *)sqe + offsetof(struct io_uring_sqe, cmd), cmd, cmd_len);
	return sqe;
}

/* Gives what has completed to @completed, which may queue commands */
static inline void uring_reap(struct uring_thread *u,
			      void (*completed)(struct uring_thread *u,
						__u64 user_data, int res))
{
	struct io_uring_cqe *cqe;
	unsigned int head, nr = 0;

	io_uring_for_each_cqe(&u->uring, head, cqe) {
		completed(u, cqe->user_data, cqe->res);
		nr++;
	}
	io_uring_cq_advance(&u->uring, nr);
}

/* Sends the answers of the last round and waits, in one system call */
static inline bool uring_submit_and_wait(struct uring_thread *u)
{
	int ret = io_uring_submit_and_wait(&u->uring, 1);

	if (unlikely(ret < 0 && ret != -EINTR && ret != -EAGAIN &&
		     ret != -EBUSY)) {
		server_fail(u->t.srv, ret, "cannot wait for requests");
		return false;
	}
	return true;
}

/* The thread shall leave, whatever its slots are doing */
static inline bool uring_ends(struct uring_thread *u)
{
	return u->t.srv->over || u->t.srv->stopping;
}

#endif /* SELFTEST_FUSE_URING_THREAD_H */
