// SPDX-License-Identifier: GPL-2.0
/*
 * Commands of threads that have no io_uring for them: notifications, detaching.
 *
 * Everybody submits to one small io_uring and waits.  Commands complete in any
 * order: a notification about a page waits for whoever has that page locked,
 * and one that wakes up a poll(2) must not wait behind it.  So the mutex is
 * held for submitting but not for waiting, and one of those who wait reaps the
 * completions of all.
 */

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>

#include "internal.h"
#include "util.h"

struct side_ring {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct io_uring uring;
	int fd;				/* /dev/fuse */
	bool made;			/* the io_uring, by the first command */
	bool reaping;
};

/* A command under way */
struct side_cmd {
	int res;
	bool done;
};

struct side_ring *side_ring_new(int fd)
{
	struct side_ring *side = calloc(1, sizeof(*side));

	if (!side)
		return NULL;
	side->fd = fd;
	pthread_mutex_init(&side->lock, NULL);
	pthread_cond_init(&side->cond, NULL);
	return side;
}

void side_ring_free(struct side_ring *side)
{
	if (!side)
		return;
	if (side->made)
		io_uring_queue_exit(&side->uring);
	pthread_cond_destroy(&side->cond);
	pthread_mutex_destroy(&side->lock);
	free(side);
}

static int side_submit(struct side_ring *side, __u32 cmd_op,
		       const struct fuse_uring_slot_cmd *cmd, const void *addr,
		       __u32 len, struct side_cmd *sc)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (!side->made) {
		ret = io_uring_queue_init(64, &side->uring, 0);
		if (ret)
			return ret;
		io_uring_ring_dontfork(&side->uring);
		side->made = true;
	}
	/* There is room: nobody leaves one behind that is not submitted */
	sqe = io_uring_get_sqe(&side->uring);
	*sqe = (struct io_uring_sqe){
		.opcode = IORING_OP_URING_CMD,
		.fd = side->fd,
		.cmd_op = cmd_op,
		.addr = (uintptr_t)addr,
		.len = len,
		.user_data = (uintptr_t)sc,
	};
	memcpy((char *)sqe + offsetof(struct io_uring_sqe, cmd), cmd,
	       sizeof(*cmd));
	do {
		ret = io_uring_submit(&side->uring);
	} while (ret == -EINTR || ret == -EAGAIN || ret == -EBUSY);
	if (ret < 0) {
		/* It goes with the next one, which must not do what it says */
		io_uring_prep_nop(sqe);
		sqe->user_data = 0;
		return ret;
	}
	return 0;
}

/* The lock is held, but not while this waits */
static void side_reap(struct side_ring *side)
{
	struct io_uring_cqe *cqe;
	unsigned int head, nr = 0;
	struct side_cmd *sc;

	side->reaping = true;
	pthread_mutex_unlock(&side->lock);
	io_uring_wait_cqe(&side->uring, &cqe);
	pthread_mutex_lock(&side->lock);
	io_uring_for_each_cqe(&side->uring, head, cqe) {
		sc = (struct side_cmd *)(uintptr_t)cqe->user_data;
		if (sc) {
			sc->res = cqe->res;
			sc->done = true;
		}
		nr++;
	}
	io_uring_cq_advance(&side->uring, nr);
	side->reaping = false;
	pthread_cond_broadcast(&side->cond);
}

int side_ring_cmd(struct side_ring *side, __u32 cmd_op,
		  const struct fuse_uring_slot_cmd *cmd, const void *addr,
		  __u32 len)
{
	struct side_cmd sc = { 0 };
	int ret;

	pthread_mutex_lock(&side->lock);
	ret = side_submit(side, cmd_op, cmd, addr, len, &sc);
	while (!ret && !sc.done) {
		if (side->reaping)
			pthread_cond_wait(&side->cond, &side->lock);
		else
			side_reap(side);
	}
	pthread_mutex_unlock(&side->lock);
	return ret ? ret : sc.res;
}
