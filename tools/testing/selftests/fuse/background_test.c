// SPDX-License-Identifier: GPL-2.0
/*
 * Background requests: readahead, writeback and asynchronous direct I/O hold
 * no more slots than they have credits for, wait for nobody, and give back
 * what they held however they end.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "puppet.h"

#define FILE2		(TEST_MNT "/f2")
#define DEPTH		6
#define CREDITS		2
/* Of the connection, where the ring's credits are not less. */
#define MAX_BACKGROUND	5

FIXTURE(background)
{
	struct puppet p;
	struct puppet_held held;
	struct requester reader;
	unsigned int limit;
};

FIXTURE_VARIANT(background)
{
	enum test_transport transport;
	unsigned int uring_flags;
	unsigned int credits;
};

FIXTURE_VARIANT_ADD(background, dev) {
	.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(background, ring) {
	.transport = TRANSPORT_RING,
	.credits = CREDITS,
};

FIXTURE_VARIANT_ADD(background, ring_defer) {
	.transport = TRANSPORT_RING,
	.uring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
	.credits = CREDITS,
};

/* All slots may be in the background: max_background is what counts. */
FIXTURE_VARIANT_ADD(background, ring_all_credits) {
	.transport = TRANSPORT_RING,
	.credits = DEPTH,
};

/* There is nothing to ask for: half of the slots. */
FIXTURE_VARIANT_ADD(background, user) {
	.transport = TRANSPORT_USER,
	.credits = DEPTH / 2,
};

FIXTURE_SETUP(background)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = DEPTH,
		.background = variant->credits,
		.payload = 1 << 20,
		/* Slots and credits are what requests wait for, not memory. */
		.small = 1 << 20,
		.init_flags = FUSE_ASYNC_READ | FUSE_ASYNC_DIO |
			      FUSE_WRITEBACK_CACHE,
		.max_background = MAX_BACKGROUND,
		.max_readahead = PUPPET_READAHEAD,
		.max_write = 1 << 20,
	};

	if (why)
		SKIP(return, "%s", why);
	/*
	 * Nobody waits for a synchronous request: one slot is reserved for
	 * those, and one for writeback.
	 */
	self->limit = transport_rings(variant->transport) ? DEPTH - 2 :
							    MAX_BACKGROUND;
	if (self->limit > MAX_BACKGROUND)
		self->limit = MAX_BACKGROUND;
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
}

FIXTURE_TEARDOWN(background)
{
	if (transport_rings(variant->transport))
		EXPECT_TRUE(puppet_all_by_ring(&self->p));
	puppet_stop(&self->p);
}

static struct puppet_io ahead = {
	.path = FILE2,
	.flags = O_RDONLY,
	.check = true,
};

static void __attribute__((constructor)) set_sizes(void)
{
	ahead.len = 16 * PUPPET_READAHEAD;
}

/* As many background reads in the test's hands as there can be. */
#define HOLD_ALL()							\
do {									\
	ASSERT_EQ(0, requester_start(&self->reader, request_readahead,	\
				     &ahead));			\
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ,	\
				 self->limit));				\
} while (0)

/* The reader goes on to its end, and has read what it should. */
#define FINISH()							\
do {									\
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));	\
	EXPECT_EQ(0, puppet_serve(&self->p, &self->reader));		\
	ASSERT_EQ(0, requester_start(&self->reader, request_read,	\
				     &ahead));			\
	EXPECT_EQ(0, puppet_serve(&self->p, &self->reader));		\
} while (0)

TEST_F(background, holds_no_more_than_its_share)
{
	HOLD_ALL();
	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	if (transport_rings(variant->transport)) {
		EXPECT_EQ(self->limit,
			  ring_queue_stat(self->p.conn, 0, "background"));
		EXPECT_EQ(self->limit,
			  ring_queue_stat(self->p.conn, 0, "busy"));
	}
	FINISH();
}

TEST_F(background, each_reply_lets_one_in)
{
	unsigned int i;

	HOLD_ALL();
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, puppet_release(&self->p, &self->held));
		ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ,
					 self->limit));
	}
	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	FINISH();
}

TEST_F(background, synchronous_requests_pass)
{
	struct requester r;
	unsigned int i;

	HOLD_ALL();
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
		ASSERT_EQ(0, puppet_serve(&self->p, &r));
	}
	EXPECT_EQ(self->limit, self->held.nr);
	FINISH();
}

/* Takes @nr requests of whatever opcode. */
static int hold_any(struct puppet *p, struct puppet_held *held, unsigned int nr)
{
	int ret;

	while (held->nr < nr) {
		struct puppet_req *req = malloc(sizeof(*req));

		if (!req)
			return -errno;
		ret = puppet_next(p, req, TEST_WAIT_MS);
		if (ret != PUPPET_REQUEST) {
			free(req);
			return ret < 0 ? ret : -ETIMEDOUT;
		}
		held->req[held->nr++] = req;
	}
	return 0;
}

/*
 * While synchronous requests wait, the credits are what setup said: of those,
 * too, one is reserved for writeback.  The others get what background requests
 * give back.
 */
TEST_F(background, leaves_slots_to_synchronous_requests_that_wait)
{
	unsigned int most = variant->credits > 2 ? variant->credits - 1 : 1;
	struct puppet_held sync = { };
	unsigned int i, before = MAX_BACKGROUND - self->limit;
	struct requester r[6];

	if (most > self->limit)
		most = self->limit;

	HOLD_ALL();
	/* /dev/fuse has no slots to wait for. */
	if (!transport_rings(variant->transport)) {
		for (i = 0; i < ARRAY_SIZE(r); i++)
			ASSERT_EQ(0, requester_start(&r[i], request_stat,
						     FILE2));
		ASSERT_EQ(0, puppet_hold(&self->p, &sync, FUSE_GETATTR,
					 ARRAY_SIZE(r)));
		EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
		ASSERT_EQ(0, puppet_release_all(&self->p, &sync));
		for (i = 0; i < ARRAY_SIZE(r); i++)
			EXPECT_EQ(0, puppet_serve(&self->p, &r[i]));
		FINISH();
		return;
	}
	/* The reader waits until it may send more. */
	ASSERT_TRUE(ring_queue_stat_becomes(self->p.conn, 0, "pending", before));
	for (i = 0; i < ARRAY_SIZE(r); i++)
		ASSERT_EQ(0, requester_start(&r[i], request_stat, FILE2));
	ASSERT_EQ(0, hold_any(&self->p, &sync, DEPTH - self->limit));
	for (i = 0; i < sync.nr; i++)
		EXPECT_NE(FUSE_READ, sync.req[i]->in.opcode);
	ASSERT_TRUE(ring_queue_stat_becomes(self->p.conn, 0, "pending",
					    before + ARRAY_SIZE(r) - sync.nr));

	/* One waits even after the last of these. */
	for (i = sync.nr; i < ARRAY_SIZE(r) - 1; i++) {
		struct puppet_held next = { };

		ASSERT_EQ(0, puppet_release(&self->p, &self->held));
		ASSERT_EQ(0, hold_any(&self->p, &next, 1));
		if (next.req[0]->in.opcode == FUSE_READ) {
			EXPECT_GT(most, self->held.nr);
			self->held.req[self->held.nr++] = next.req[0];
		} else {
			sync.req[sync.nr++] = next.req[0];
		}
		EXPECT_EQ(self->held.nr,
			  ring_queue_stat(self->p.conn, 0, "background"));
	}

	/* Nobody waits any more. */
	ASSERT_EQ(0, puppet_release_all(&self->p, &sync));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ,
				 self->limit));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	for (i = 0; i < ARRAY_SIZE(r); i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &r[i]));
	FINISH();
}

/* The other way round: they do not starve in the background either. */
TEST_F(background, passes_synchronous_requests)
{
	struct requester r;

	ASSERT_EQ(0, requester_start(&r, request_stats_for_ever, FILE2));
	ASSERT_EQ(0, requester_start(&self->reader, request_readahead,
				     &ahead));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->reader));
	kill(r.pid, SIGKILL);
	EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &r));
}

TEST_F(background, limit_is_lowered_and_raised)
{
	unsigned int more = variant->credits ? self->limit : MAX_BACKGROUND + 2;
	unsigned int i;

	HOLD_ALL();
	ASSERT_EQ(0, conn_ctl_write(self->p.conn, "max_background", "1"));
	/* What has been sent already is not called back. */
	for (i = 0; i < MAX_BACKGROUND; i++) {
		ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ, 1));
		ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	}
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ, 1));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));

	/* It is looked at when something ends. */
	ASSERT_EQ(0, conn_ctl_write(self->p.conn, "max_background", "7"));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ, more));
	FINISH();
}

/* However a request ends, the next one gets its place. */
TEST_F(background, errors_give_back)
{
	unsigned int i;

	HOLD_ALL();
	for (i = 0; i < 8; i++) {
		ASSERT_EQ(0, puppet_reply(&self->p, self->held.req[0], -EIO,
					  NULL, 0));
		free(self->held.req[0]);
		self->held.nr--;
		memmove(self->held.req, self->held.req + 1,
			self->held.nr * sizeof(self->held.req[0]));
		ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ,
					 self->limit));
	}
	FINISH();
}

TEST_F(background, bad_replies_give_back)
{
	size_t len = PUPPET_READAHEAD + 1;
	static struct puppet_req req;
	char *data = calloc(1, len);
	unsigned int i;

	ASSERT_NE(NULL, data);
	HOLD_ALL();
	for (i = 0; i < 8; i++) {
		struct puppet_req *bad = self->held.req[0];
		int ret = puppet_reply(&self->p, bad, 0, data, len);

		if (variant->transport == TRANSPORT_USER) {
			/* The slot goes on. */
			ASSERT_EQ(0, ret);
		} else if (bad->ring) {
			struct fuse_uring_slot_cmd cmd = { .slot = bad->slot };

			ASSERT_EQ(0, ret);
			do {
				ret = puppet_next(&self->p, &req, TEST_WAIT_MS);
				ASSERT_NE(PUPPET_TIMEOUT, ret);
				if (ret != PUPPET_REQUEST)
					break;
				/* The next one, in another slot. */
				ASSERT_EQ(FUSE_READ, req.in.opcode);
				ASSERT_EQ(0, puppet_answer(&self->p, &req));
			} while (1);
			ASSERT_EQ(-EBADMSG, ret);
			ASSERT_EQ(0, puppet_command(&self->p,
						    FUSE_URING_REQ_FETCH,
						    &cmd));
		} else {
			ASSERT_EQ(-EINVAL, ret);
		}
		free(bad);
		self->held.nr--;
		memmove(self->held.req, self->held.req + 1,
			self->held.nr * sizeof(self->held.req[0]));
		if (puppet_hold(&self->p, &self->held, FUSE_READ, self->limit))
			break;
	}
	EXPECT_LT(0, self->held.nr);
	FINISH();
}

TEST_F(background, abort_ends_all)
{
	struct requester writer;
	struct puppet_io io = { .path = FILE2, .len = 4096, .flags = O_RDWR };
	int ret;

	HOLD_ALL();
	ASSERT_EQ(0, requester_start(&writer, request_write, &io));
	ASSERT_EQ(0, conn_abort(self->p.conn));
	/* fadvise(2) does not tell of it. */
	EXPECT_NE(REQUESTER_HANGS, requester_join(&self->reader));
	ret = requester_join(&writer);
	EXPECT_NE(REQUESTER_HANGS, ret);
	EXPECT_NE(0, ret);
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
	if (transport_rings(variant->transport))
		EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

static int request_write_sync(const void *arg)
{
	const struct puppet_io *io = arg;
	int fd, err = request_write(io);

	if (err)
		return err;
	fd = open(io->path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return fsync(fd) ? -errno : 0;
}

TEST_F(background, writeback)
{
	struct puppet_io io = {
		.path = FILE2,
		.len = 8 << 20,
		.flags = O_RDWR,
	};
	struct requester r;
	unsigned int i, j;

	ASSERT_EQ(0, requester_start(&self->reader, request_write_sync, &io));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_WRITE,
				 self->limit));
	for (i = 0; i < self->held.nr; i++) {
		struct fuse_write_in *in = &self->held.req[i]->write;
		unsigned char *data = (unsigned char *)(in + 1);

		EXPECT_EQ(FUSE_WRITE_CACHE, in->write_flags & FUSE_WRITE_CACHE);
		EXPECT_EQ(sizeof(*in) + in->size, self->held.req[i]->arg_len);
		for (j = 0; j < in->size; j++)
			if (data[j] != test_byte(2, in->offset + j))
				break;
		EXPECT_EQ(in->size, j);
	}
	ASSERT_EQ(0, requester_start(&r, request_stat, TEST_MNT "/f3"));
	ASSERT_EQ(0, puppet_serve(&self->p, &r));
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->reader));
}

/* Eight direct reads at once, from one thread. */
static int request_async_reads(const void *arg)
{
	const struct puppet_io *io = arg;
	int fd = open(io->path, O_RDONLY | O_DIRECT | O_CLOEXEC), i;
	unsigned int done;
	int err = 0;
	struct io_uring uring;
	unsigned char *buf;
	size_t j;

	if (fd < 0 || io_uring_queue_init(8, &uring, 0))
		return -errno;
	if (posix_memalign((void **)&buf, getpagesize(), 8 * io->len))
		return -errno;
	for (i = 0; i < 8; i++)
		io_uring_prep_read(io_uring_get_sqe(&uring), fd,
				   buf + i * io->len, io->len, i * io->len);
	if (io_uring_submit(&uring) != 8)
		return -EIO;
	for (done = 0; done < 8; done++) {
		struct io_uring_cqe *cqe;

		if (io_uring_wait_cqe(&uring, &cqe))
			return -EIO;
		if (cqe->res < 0)
			err = cqe->res;
		else if ((size_t)cqe->res != io->len)
			err = -ENODATA;
		io_uring_cqe_seen(&uring, cqe);
	}
	for (j = 0; j < 8 * io->len && !err; j++)
		if (buf[j] != test_byte(2, j))
			err = -EILSEQ;
	return err;
}

TEST_F(background, direct)
{
	struct puppet_io io = { .path = FILE2, .len = 64 << 10 };
	struct requester r;

	ASSERT_EQ(0, requester_start(&self->reader, request_async_reads, &io));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ,
				 self->limit));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	EXPECT_EQ(0, puppet_serve(&self->p, &r));
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->reader));
}

/*
 * Writeback never waits for readahead: what memory reclaim waits for must not
 * depend on when a server answers that.
 */
FIXTURE(writeback)
{
	struct puppet p;
	struct puppet_held held;
	struct requester reader;
	struct requester writer;
};

FIXTURE_VARIANT(writeback)
{
	enum test_transport transport;
	unsigned int uring_flags;
	/* Background slots: 0 for the default. */
	unsigned int credits;
};

FIXTURE_VARIANT_ADD(writeback, dev) {
	.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(writeback, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(writeback, ring_defer) {
	.transport = TRANSPORT_RING,
	.uring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

FIXTURE_VARIANT_ADD(writeback, ring_all_credits) {
	.transport = TRANSPORT_RING,
	.credits = 8,
};

FIXTURE_VARIANT_ADD(writeback, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_SETUP(writeback)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 8,
		.background = variant->credits,
		.payload = 128 << 10,
		.init_flags = FUSE_ASYNC_READ | FUSE_WRITEBACK_CACHE,
		.max_background = 64,
		.max_readahead = PUPPET_READAHEAD,
		.max_write = 128 << 10,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
}

FIXTURE_TEARDOWN(writeback)
{
	puppet_stop(&self->p);
}

static int request_write_and_fsync(const void *arg)
{
	static char data[128 << 10];
	int fd = open(arg, O_RDWR | O_CLOEXEC), err = 0;

	if (fd < 0)
		return -errno;
	if (pwrite(fd, data, sizeof(data), 0) != sizeof(data) || fsync(fd))
		err = errno ? -errno : -EIO;
	close(fd);
	return err;
}

/* While the test holds what it holds. */
static void write_back(struct __test_metadata *_metadata,
		       struct _test_data_writeback *self)
{
	static struct puppet_req req;

	ASSERT_EQ(0, requester_start(&self->writer, request_write_and_fsync,
				     TEST_MNT "/f3"));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_WRITE));
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->writer));
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->reader));
}

TEST_F(writeback, passes_four_readaheads)
{
	struct puppet_io io = { .path = FILE2, .len = 4 * PUPPET_READAHEAD };

	ASSERT_EQ(0, requester_start(&self->reader, request_readahead, &io));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ, 4));
	write_back(_metadata, self);
}

/* As many as there can be, and others that wait. */
TEST_F(writeback, passes_all_readaheads)
{
	struct puppet_io io = { .path = FILE2, .len = 16 * PUPPET_READAHEAD };
	__u64 end = now_ms() + TEST_WAIT_MS;
	struct puppet_req *req;

	ASSERT_EQ(0, requester_start(&self->reader, request_readahead, &io));
	do {
		long waiting = transport_rings(variant->transport) ?
			       ring_queue_stat(self->p.conn, 0, "pending") : 0;

		if (self->held.nr && self->held.nr + waiting == 16)
			break;
		req = malloc(sizeof(*req));
		ASSERT_NE(NULL, req);
		if (puppet_next(&self->p, req, 2) != PUPPET_REQUEST) {
			free(req);
		} else if (req->in.opcode == FUSE_READ) {
			self->held.req[self->held.nr++] = req;
		} else {
			ASSERT_EQ(0, puppet_answer(&self->p, req));
			free(req);
		}
	} while (now_ms() < end);
	ASSERT_GT(end, now_ms());
	write_back(_metadata, self);
}

/* How many queues a node has, or how many of them hold such requests. */
static unsigned int queues_of_node(struct puppet *p, long node, bool background)
{
	unsigned int qid, nr = 0;

	for (qid = 0; qid < p->setup.nr_queues; qid++)
		nr += ring_queue_stat(p->conn, qid, "node") == node &&
		      (!background ||
		       ring_queue_stat(p->conn, qid, "background"));
	return nr;
}

/* One thread's readahead uses the other queues of its node. */
TEST(background_spills)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.depth = 2,
		.background = 1,
		.payload = 256 << 10,
		.init_flags = FUSE_ASYNC_READ,
		.max_background = 64,
		.max_readahead = PUPPET_READAHEAD,
	};
	static struct puppet_held held;
	unsigned int home, mates;
	struct requester r;
	struct puppet p;
	cpu_set_t one;
	long node;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&p, &opt));
	home = sched_getcpu();
	CPU_ZERO(&one);
	CPU_SET(home, &one);
	/* With a queue per CPU, their numbers are the same. */
	node = ring_queue_stat(p.conn, home, "node");
	mates = queues_of_node(&p, node, false);
	if (mates > 8)
		mates = 8;
	if (mates < 2) {
		puppet_stop(&p);
		SKIP(return, "needs two CPUs of one node");
	}
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(one), &one));
	ASSERT_EQ(0, requester_start(&r, request_readahead, &ahead));
	/* If this thread is late, queues of other nodes help as well. */
	do {
		ASSERT_EQ(0, puppet_hold(&p, &held, FUSE_READ, held.nr + 1));
	} while (queues_of_node(&p, node, true) < mates);
	EXPECT_LT(0, ring_stat(p.conn, "spills"));
	ASSERT_EQ(0, puppet_release_all(&p, &held));
	EXPECT_EQ(0, puppet_serve(&p, &r));
	EXPECT_EQ(0, ring_stat(p.conn, "requests_dev"));
	puppet_stop(&p);
}

TEST_HARNESS_MAIN
