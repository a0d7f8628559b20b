// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel tells about a ring: its file under fusectl, figure by
 * figure, and its trace events.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "puppet.h"

#define FILE2	(TEST_MNT "/f2")
#define TRACEFS	"/sys/kernel/tracing"

FIXTURE(stats)
{
	struct puppet p;
	char path[128];
};

FIXTURE_SETUP(stats)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = 1,
		.depth = 4,
		.background = 1,
		.payload = 128 << 10,
		.init_flags = FUSE_ASYNC_READ,
		.max_readahead = PUPPET_READAHEAD,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	snprintf(self->path, sizeof(self->path), TEST_FUSECTL "/%d/uring",
		 self->p.conn);
}

FIXTURE_TEARDOWN(stats)
{
	puppet_stop(&self->p);
}

static int start(struct puppet *p)
{
	int ret = puppet_setup(p);

	if (!ret)
		ret = puppet_map(p);
	if (!ret)
		ret = puppet_uring(p);
	if (!ret)
		ret = puppet_arm(p);
	return ret ? ret : puppet_init(p);
}

/* It is there as long as the ring is. */
TEST_F(stats, comes_and_goes)
{
	struct stat st;

	EXPECT_EQ(-1, stat(self->path, &st));
	EXPECT_EQ(ENOENT, errno);
	ASSERT_EQ(0, puppet_setup(&self->p));
	EXPECT_EQ(0, stat(self->path, &st));
	puppet_stop(&self->p);
	EXPECT_EQ(-1, stat(self->path, &st));
	EXPECT_EQ(ENOENT, errno);
}

/* For the connection's owner to read, as its neighbours are. */
TEST_F(stats, permissions)
{
	struct stat st, other;
	char path[128];

	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, stat(self->path, &st));
	snprintf(path, sizeof(path), TEST_FUSECTL "/%d/waiting", self->p.conn);
	ASSERT_EQ(0, stat(path, &other));
	EXPECT_EQ(other.st_mode, st.st_mode);
	EXPECT_EQ(S_IFREG | 0400, st.st_mode);
	EXPECT_EQ(other.st_uid, st.st_uid);
	EXPECT_EQ(other.st_gid, st.st_gid);
}

TEST_F(stats, shape)
{
	ASSERT_EQ(0, puppet_setup(&self->p));
	EXPECT_EQ(1, ring_stat(self->p.conn, "queues"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "queues_live"));
	EXPECT_EQ(4, ring_stat(self->p.conn, "queue_depth"));
	EXPECT_EQ(1, ring_stat(self->p.conn, "queue_background"));
	EXPECT_EQ(128 << 10, ring_stat(self->p.conn, "payload_size"));
	EXPECT_EQ(sysconf(_SC_NPROCESSORS_CONF),
		  ring_queue_stat(self->p.conn, 0, "cpus"));
	EXPECT_EQ(self->p.setup.mmap_size / getpagesize(),
		  ring_queue_stat(self->p.conn, 0, "pages"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "live"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "parked"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "busy"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "control_depth"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "control_parked"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "control_busy"));
	EXPECT_EQ(-1, ring_queue_stat(self->p.conn, 1, "live"));

	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm(&self->p));
	EXPECT_EQ(1, ring_stat(self->p.conn, "queues_live"));
	EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "live"));
	/* FUSE_INIT has one of them. */
	EXPECT_EQ(3, ring_queue_stat(self->p.conn, 0, "parked"));
	EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "busy"));
	ASSERT_EQ(0, puppet_init(&self->p));
	EXPECT_EQ(4, ring_queue_stat(self->p.conn, 0, "parked"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "busy"));
	EXPECT_EQ(1, ring_stat(self->p.conn, "requests_ring"));
}

/* One more of everything for each request, and nothing else. */
TEST_F(stats, synchronous)
{
	struct requester r;
	unsigned int i;
	long before;

	ASSERT_EQ(0, start(&self->p));
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_serve(&self->p, &r));
	before = ring_stat(self->p.conn, "requests_ring_sync");
	for (i = 1; i <= 5; i++) {
		ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
		ASSERT_EQ(0, puppet_serve(&self->p, &r));
		EXPECT_EQ(before + i,
			  ring_stat(self->p.conn, "requests_ring_sync"));
		EXPECT_EQ(before + i,
			  ring_queue_stat(self->p.conn, 0, "sync"));
	}
	/* Only FUSE_INIT is in the background. */
	EXPECT_EQ(1, ring_stat(self->p.conn, "requests_ring_async"));
	EXPECT_EQ(before + 6, ring_stat(self->p.conn, "requests_ring"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_ring_noreply"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "interrupts_dev"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "notifications_dev"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "forgets_ring"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "interrupts_ring"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "notifications_ring"));
}

TEST_F(stats, background)
{
	struct puppet_io io = { .path = FILE2, .len = 4 * PUPPET_READAHEAD };
	static struct puppet_held held;
	struct requester r;

	ASSERT_EQ(0, start(&self->p));
	ASSERT_EQ(0, requester_start(&r, request_readahead, &io));
	/* One slot is kept for synchronous requests, and one for writeback. */
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_READ, 2));
	/* The FLUSH of close(2) has come and gone then. */
	ASSERT_EQ(0, puppet_serve(&self->p, &r));
	EXPECT_EQ(2, ring_queue_stat(self->p.conn, 0, "pending"));
	EXPECT_EQ(2, ring_queue_stat(self->p.conn, 0, "background"));
	EXPECT_EQ(2, ring_queue_stat(self->p.conn, 0, "busy"));
	EXPECT_EQ(2, ring_queue_stat(self->p.conn, 0, "parked"));
	EXPECT_LE(2, ring_stat(self->p.conn, "waits"));
	ASSERT_EQ(0, puppet_release_all(&self->p, &held));
	ASSERT_EQ(0, puppet_settle(&self->p));
	/* FUSE_INIT and RELEASE besides the four. */
	EXPECT_EQ(6, ring_stat(self->p.conn, "requests_ring_async"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "background"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pending"));
}

/* What goes by control slots and commands, and nothing of it twice. */
TEST_F(stats, control)
{
	struct fuse_notify_inval_inode_out inval = { .ino = FUSE_ROOT_ID };
	static struct puppet_held held;
	static struct puppet_req req;
	struct requester r;
	int i;

	self->p.opt.control = 3;
	ASSERT_EQ(0, start(&self->p));
	EXPECT_EQ(3, ring_stat(self->p.conn, "control_depth"));
	EXPECT_EQ(3, ring_queue_stat(self->p.conn, 0, "control_parked"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "control_busy"));
	EXPECT_EQ(4, ring_queue_stat(self->p.conn, 0, "parked"));
	EXPECT_EQ(self->p.setup.mmap_size / getpagesize(),
		  ring_queue_stat(self->p.conn, 0, "pages"));

	for (i = 1; i <= 3; i++) {
		ASSERT_LT(0, puppet_notify(&self->p, FUSE_NOTIFY_INVAL_INODE,
					   &inval, sizeof(inval)));
		EXPECT_EQ(i, ring_stat(self->p.conn, "notifications_ring"));
	}

	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_GETATTR, 1));
	kill(r.pid, SIGKILL);
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_INTERRUPT));
	EXPECT_EQ(1, ring_stat(self->p.conn, "interrupts_ring"));
	EXPECT_EQ(2, ring_queue_stat(self->p.conn, 0, "control_parked"));
	EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "control_busy"));
	EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "busy"));
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(3, ring_queue_stat(self->p.conn, 0, "control_parked"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "control_busy"));
	ASSERT_EQ(0, puppet_release(&self->p, &held));
	EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &r));

	EXPECT_EQ(0, ring_stat(self->p.conn, "forgets_ring"));
	ASSERT_EQ(0, puppet_drop_until(&self->p, &req));
	EXPECT_EQ(1, ring_stat(self->p.conn, "forgets_ring"));
	EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "control_busy"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "forgets_pending"));
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "control_busy"));

	EXPECT_EQ(0, ring_stat(self->p.conn, "interrupts_pending"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "forgets_dev"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "interrupts_dev"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "notifications_dev"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
}

/* What still goes over /dev/fuse is counted there. */
TEST_F(stats, device)
{
	struct {
		struct fuse_out_header out;
		struct fuse_notify_inval_inode_out inval;
	} notify = {
		.out = { .len = sizeof(notify),
			 .error = FUSE_NOTIFY_INVAL_INODE },
		.inval = { .ino = FUSE_ROOT_ID },
	};
	static struct puppet_held held;
	static struct puppet_req req;
	struct requester r;

	ASSERT_EQ(0, start(&self->p));
	ASSERT_EQ(sizeof(notify), write(self->p.fd, &notify, sizeof(notify)));
	EXPECT_EQ(1, ring_stat(self->p.conn, "notifications_dev"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "notifications_ring"));

	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_GETATTR, 1));
	kill(r.pid, SIGKILL);
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_INTERRUPT));
	EXPECT_EQ(1, ring_stat(self->p.conn, "interrupts_dev"));
	ASSERT_EQ(0, puppet_release(&self->p, &held));
	EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &r));

	EXPECT_EQ(0, ring_stat(self->p.conn, "forgets_dev"));
	ASSERT_EQ(0, puppet_drop_until(&self->p, &req));
	EXPECT_EQ(1, ring_stat(self->p.conn, "forgets_dev"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
}

/* With user buffers: all that can be the same is the same. */
FIXTURE(user_stats)
{
	struct puppet p;
	struct requester r;
};

FIXTURE_SETUP(user_stats)
{
	const char *why = test_prepare(TRANSPORT_USER);
	struct puppet_options opt = {
		.transport = TRANSPORT_USER,
		.nr_queues = 1,
		.depth = 4,
		.init_flags = FUSE_ASYNC_READ,
		.max_readahead = PUPPET_READAHEAD,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_serve(&self->p, &self->r));
}

FIXTURE_TEARDOWN(user_stats)
{
	puppet_stop(&self->p);
}

TEST_F(user_stats, shape)
{
	char path[128];
	struct stat st;

	EXPECT_EQ(1, ring_stat(self->p.conn, "queues_live"));
	EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "live"));
	EXPECT_EQ(4, ring_queue_stat(self->p.conn, 0, "parked"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "busy"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pending"));
	EXPECT_LE(1 << 20, ring_stat(self->p.conn, "payload_size"));
	snprintf(path, sizeof(path), TEST_FUSECTL "/%d/uring", self->p.conn);
	ASSERT_EQ(0, stat(path, &st));
	EXPECT_EQ(S_IFREG | 0400, st.st_mode);
	puppet_stop(&self->p);
	EXPECT_EQ(-1, stat(path, &st));
}

TEST_F(user_stats, synchronous)
{
	long before = ring_stat(self->p.conn, "requests_ring_sync");
	long all = ring_stat(self->p.conn, "requests_ring");
	struct puppet_held held = { 0 };
	int i;

	for (i = 1; i <= 5; i++) {
		ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
		ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_GETATTR, 1));
		EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "busy"));
		EXPECT_EQ(3, ring_queue_stat(self->p.conn, 0, "parked"));
		ASSERT_EQ(0, puppet_release(&self->p, &held));
		ASSERT_EQ(0, puppet_serve(&self->p, &self->r));
		EXPECT_EQ(before + i,
			  ring_stat(self->p.conn, "requests_ring_sync"));
		EXPECT_EQ(before + i, ring_queue_stat(self->p.conn, 0, "sync"));
	}
	EXPECT_EQ(all + 5, ring_stat(self->p.conn, "requests_ring"));
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

TEST_F(user_stats, background)
{
	struct puppet_io io = { .path = FILE2, .len = 3 * PUPPET_READAHEAD };
	long before = ring_stat(self->p.conn, "requests_ring_async");
	struct puppet_held held = { 0 };

	ASSERT_EQ(0, requester_start(&self->r, request_readahead, &io));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_READ, 1));
	EXPECT_LE(1, ring_queue_stat(self->p.conn, 0, "background"));
	ASSERT_EQ(0, puppet_release(&self->p, &held));
	ASSERT_EQ(0, puppet_serve(&self->p, &self->r));
	ASSERT_EQ(0, puppet_settle(&self->p));
	/* RELEASE besides the three. */
	EXPECT_EQ(before + 4, ring_stat(self->p.conn, "requests_ring_async"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "background"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pending"));
}

/* What never goes by such a ring. */
TEST_F(user_stats, device)
{
	struct fuse_notify_inval_inode_out inval = { .ino = FUSE_ROOT_ID };
	struct puppet_held held = { 0 };
	static struct puppet_req req;

	ASSERT_LT(0, puppet_notify(&self->p, FUSE_NOTIFY_INVAL_INODE, &inval,
				   sizeof(inval)));
	EXPECT_EQ(1, ring_stat(self->p.conn, "notifications_dev"));

	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_GETATTR, 1));
	kill(self->r.pid, SIGKILL);
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_INTERRUPT));
	EXPECT_FALSE(req.ring);
	EXPECT_EQ(1, ring_stat(self->p.conn, "interrupts_dev"));
	ASSERT_EQ(0, puppet_release(&self->p, &held));
	EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &self->r));

	EXPECT_EQ(0, ring_stat(self->p.conn, "forgets_dev"));
	ASSERT_EQ(0, puppet_drop_until(&self->p, &req));
	EXPECT_FALSE(req.ring);
	EXPECT_EQ(1, ring_stat(self->p.conn, "forgets_dev"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "forgets_ring"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "interrupts_ring"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "notifications_ring"));
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

/* A ring that was promised is seen before there is a slot of it. */
TEST(user_stats_of_a_promise)
{
	const char *why = test_prepare(TRANSPORT_USER);
	struct puppet_options opt = {
		.transport = TRANSPORT_USER,
		.nr_queues = 1,
		.depth = 2,
	};
	struct requester r;
	struct puppet p;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&p, &opt));
	ASSERT_EQ(0, puppet_mount(&p));
	ASSERT_EQ(0, puppet_setup(&p));
	EXPECT_EQ(-1, ring_stat(p.conn, "promised"));
	ASSERT_EQ(0, puppet_init(&p));
	EXPECT_EQ(1, ring_stat(p.conn, "promised"));
	EXPECT_EQ(0, ring_stat(p.conn, "queues_live"));
	EXPECT_EQ(-1, ring_queues_stat(p.conn, "live"));

	ASSERT_EQ(0, puppet_ring(&p));
	EXPECT_EQ(1, ring_stat(p.conn, "queues_live"));
	EXPECT_EQ(1, ring_stat(p.conn, "user_buffers"));
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	EXPECT_EQ(0, puppet_serve(&p, &r));
	puppet_stop(&p);
}

/* There is no such file where nothing was promised. */
TEST(user_stats_without_a_promise)
{
	const char *why = test_prepare(TRANSPORT_USER);
	struct puppet_options opt = {
		.transport = TRANSPORT_USER,
		.nr_queues = 1,
		.no_promise = true,
	};
	struct puppet p;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&p, &opt));
	ASSERT_EQ(0, puppet_mount(&p));
	ASSERT_EQ(0, puppet_setup(&p));
	ASSERT_EQ(0, puppet_init(&p));
	EXPECT_EQ(-1, ring_stat(p.conn, "promised"));
	EXPECT_EQ(-1, ring_stat(p.conn, "queues_live"));
	puppet_stop(&p);
}

/* Requests that wait, and slots whose server does not come. */
FIXTURE(waiting)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r[3];
};

FIXTURE_VARIANT(waiting)
{
	enum test_transport transport;
};

FIXTURE_VARIANT_ADD(waiting, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(waiting, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_SETUP(waiting)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		/* The server comes only when the test lets it. */
		.uring_flags = IORING_SETUP_SINGLE_ISSUER |
			       IORING_SETUP_DEFER_TASKRUN,
		.nr_queues = 1,
		.depth = 2,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ASSERT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

FIXTURE_TEARDOWN(waiting)
{
	puppet_stop(&self->p);
}

/* Waits until a figure of queue 0 is more than @value. */
static bool queue_stat_exceeds(struct puppet *p, const char *key, long value)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	do {
		if (ring_queue_stat(p->conn, 0, key) > value)
			return true;
		sleep_ms(1);
	} while (now_ms() < end);
	return false;
}

TEST_F(waiting, pending)
{
	unsigned int i;

	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pending"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pending_ms"));
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, requester_start(&self->r[i], request_stat,
					     FILE2));
		ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR,
					 i + 1));
	}
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pending"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pending_ms"));

	ASSERT_EQ(0, requester_start(&self->r[2], request_stat, FILE2));
	ASSERT_TRUE(ring_queue_stat_becomes(self->p.conn, 0, "pending", 1));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "called"));
	EXPECT_TRUE(queue_stat_exceeds(&self->p, "pending_ms", 50));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[2]));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pending"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pending_ms"));

	/* Who has given up does not count any more. */
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 2));
	ASSERT_EQ(0, requester_start(&self->r[2], request_stat, FILE2));
	ASSERT_TRUE(queue_stat_exceeds(&self->p, "pending_ms", 20));
	kill(self->r[2].pid, SIGKILL);
	EXPECT_EQ(-SIGKILL, requester_join(&self->r[2]));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pending"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pending_ms"));
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[1]));
}

/* The line about a slot that was called, or false. */
static bool called_slot(int conn, unsigned int *slot, unsigned int *age)
{
	static char text[1 << 16];
	unsigned int qid;
	char path[128];
	char *line, *save;

	snprintf(path, sizeof(path), TEST_FUSECTL "/%d/uring", conn);
	if (file_read(path, text, sizeof(text)) < 0)
		return false;
	for (line = strtok_r(text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save))
		if (sscanf(line, "called %u %u age_ms %u", &qid, slot,
			   age) == 3 && !qid)
			return true;
	return false;
}

TEST_F(waiting, called)
{
	unsigned int slot, age = 0, first = 0;
	__u64 end;

	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "called"));
	EXPECT_FALSE(called_slot(self->p.conn, &slot, &age));
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	/* After a tick, another slot may be called for it. */
	ASSERT_TRUE(queue_stat_exceeds(&self->p, "called", 0));
	/* What for is not decided yet: it still waits. */
	EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "pending"));
	EXPECT_EQ(0, ring_slots(self->p.conn, NULL, 0));
	ASSERT_TRUE(called_slot(self->p.conn, &slot, &first));
	EXPECT_GT(2, slot);
	end = now_ms() + TEST_WAIT_MS;
	do {
		ASSERT_TRUE(called_slot(self->p.conn, &slot, &age));
	} while (age <= first + 20 && now_ms() < end);
	EXPECT_LT(first + 20, age);

	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	/* Other calls come to nothing. */
	ASSERT_EQ(0, puppet_enter(&self->p));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "called"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pending"));
	EXPECT_FALSE(called_slot(self->p.conn, &slot, &age));
	EXPECT_EQ(1, ring_slots(self->p.conn, NULL, 0));
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
}

/* Read while it is being used, and while its connection ends. */
TEST_F(stats, any_time)
{
	__u64 end = now_ms() + test_ms();
	static struct puppet_req req;
	struct requester r, reader;
	int fd;

	ASSERT_EQ(0, start(&self->p));
	fd = open(self->path, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, requester_start(&r, request_stats_for_ever, FILE2));
	reader.pid = fork();
	if (!reader.pid)
		for (;;)
			ring_queues_stat(self->p.conn, "parked");
	while (now_ms() < end)
		if (puppet_next(&self->p, &req, 1) == PUPPET_REQUEST)
			puppet_answer(&self->p, &req);
	ASSERT_EQ(0, conn_abort(self->p.conn));
	EXPECT_NE(REQUESTER_HANGS, requester_join(&r));
	puppet_stop(&self->p);
	/* The open file is still good. */
	EXPECT_LT(0, read(fd, req.arg, 4096));
	kill(reader.pid, SIGKILL);
	ASSERT_EQ(reader.pid, waitpid(reader.pid, NULL, 0));
	close(fd);
}

/* Trace events of the ring, one line each. */
struct event {
	char name[32];
	unsigned long long unique;
	unsigned int opcode;
	unsigned int queue;
	int slot;
	unsigned int cpu;
	int error;
};

FIXTURE(trace)
{
	struct puppet p;
	char *text;
	struct event event[64];
	unsigned int nr;
};

#define TRACE_SIZE	(1024 * 1024)

FIXTURE_SETUP(trace)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = 1,
		.depth = 1,
	};
	struct requester r;
	int fd;

	if (why)
		SKIP(return, "%s", why);
	if (access(TRACEFS "/events", F_OK) &&
	    mount("test", TRACEFS, "tracefs", 0, NULL))
		SKIP(return, "kernel without tracefs");
	if (access(TRACEFS "/events/fuse", F_OK))
		SKIP(return, "kernel without trace events");
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_serve(&self->p, &r));
	self->text = malloc(TRACE_SIZE);
	ASSERT_NE(NULL, self->text);
	/* Opened like this, it is emptied. */
	fd = open(TRACEFS "/trace", O_WRONLY | O_TRUNC | O_CLOEXEC);
	ASSERT_LE(0, fd);
	close(fd);
	ASSERT_EQ(0, file_write(TRACEFS "/events/fuse/fuse_uring_queue/enable",
				"1"));
	ASSERT_EQ(0, file_write(TRACEFS "/events/fuse/fuse_uring_send/enable",
				"1"));
	ASSERT_EQ(0, file_write(TRACEFS "/events/fuse/fuse_uring_commit/enable",
				"1"));
	ASSERT_EQ(0, file_write(TRACEFS "/events/fuse/fuse_uring_end/enable",
				"1"));
}

FIXTURE_TEARDOWN(trace)
{
	file_write(TRACEFS "/events/fuse/enable", "0");
	puppet_stop(&self->p);
	free(self->text);
}

/* All events of the requests of an opcode, of this connection only. */
static int collect(struct _test_data_trace *self, unsigned int opcode)
{
	char *line, *save;
	int ret;

	self->nr = 0;
	ret = file_read(TRACEFS "/trace", self->text, TRACE_SIZE);
	if (ret < 0)
		return ret;
	for (line = strtok_r(self->text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		struct event e = { .queue = ~0U };
		unsigned int conn;
		char *at;

		at = strstr(line, "fuse_uring_");
		if (!at || sscanf(at, "fuse_uring_%31[a-z]: connection %u req %llu opcode %u",
				  e.name, &conn, &e.unique, &e.opcode) != 4)
			continue;
		at = strstr(at, " error ");
		if (!at || sscanf(at, " error %d queue %u slot %d cpu %u",
				  &e.error, &e.queue, &e.slot, &e.cpu) != 4)
			return -EBADMSG;
		if (conn == (unsigned int)self->p.conn && e.opcode == opcode &&
		    self->nr < ARRAY_SIZE(self->event))
			self->event[self->nr++] = e;
	}
	return 0;
}

TEST_F(trace, of_one_request)
{
	static const char * const names[] = { "send", "commit", "end" };
	static struct puppet_held held;
	struct requester r;
	unsigned int i;

	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_GETATTR, 1));
	ASSERT_EQ(0, collect(self, FUSE_GETATTR));
	EXPECT_EQ(1, self->nr);
	ASSERT_EQ(0, puppet_reply(&self->p, held.req[0], -EXDEV, NULL, 0));
	EXPECT_EQ(EXDEV, puppet_serve(&self->p, &r));

	ASSERT_EQ(0, collect(self, FUSE_GETATTR));
	ASSERT_EQ(ARRAY_SIZE(names), self->nr);
	for (i = 0; i < ARRAY_SIZE(names); i++) {
		EXPECT_STREQ(names[i], self->event[i].name);
		EXPECT_EQ(held.req[0]->in.unique, self->event[i].unique);
		EXPECT_EQ(0, self->event[i].queue);
		EXPECT_EQ(0, self->event[i].slot);
		EXPECT_GT(sysconf(_SC_NPROCESSORS_CONF), self->event[i].cpu);
	}
	EXPECT_EQ(-EXDEV, self->event[2].error);
}

/* One that finds no slot is queued first, and comes after the other. */
TEST_F(trace, of_one_that_waits)
{
	static const char * const names[] = { "queue", "send", "commit", "end" };
	unsigned long long first, second;
	static struct puppet_held held;
	struct requester r[2];
	unsigned int i, n;

	ASSERT_EQ(0, requester_start(&r[0], request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_GETATTR, 1));
	ASSERT_EQ(0, requester_start(&r[1], request_stat, FILE2));
	ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "pending", 1));
	first = held.req[0]->in.unique;
	ASSERT_EQ(0, puppet_release(&self->p, &held));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_GETATTR, 1));
	second = held.req[0]->in.unique;
	EXPECT_NE(first, second);
	ASSERT_EQ(0, puppet_release(&self->p, &held));
	EXPECT_EQ(0, puppet_serve(&self->p, &r[0]));
	EXPECT_EQ(0, puppet_serve(&self->p, &r[1]));

	ASSERT_EQ(0, collect(self, FUSE_GETATTR));
	EXPECT_EQ(3 + 4, self->nr);
	for (i = n = 0; i < self->nr; i++) {
		if (self->event[i].unique != second)
			continue;
		ASSERT_GT(ARRAY_SIZE(names), n);
		EXPECT_STREQ(names[n], self->event[i].name);
		EXPECT_EQ(n ? 0 : -1, self->event[i].slot);
		EXPECT_EQ(0, self->event[i].queue);
		n++;
	}
	EXPECT_EQ(ARRAY_SIZE(names), n);
}

TEST_F(trace, of_an_abort)
{
	static struct puppet_held held;
	struct requester r;

	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_GETATTR, 1));
	ASSERT_EQ(0, conn_abort(self->p.conn));
	EXPECT_EQ(ECONNABORTED, requester_join(&r));
	ASSERT_EQ(0, collect(self, FUSE_GETATTR));
	ASSERT_EQ(2, self->nr);
	EXPECT_STREQ("send", self->event[0].name);
	EXPECT_STREQ("end", self->event[1].name);
	EXPECT_EQ(-1, self->event[1].slot);
	EXPECT_EQ(-ECONNABORTED, self->event[1].error);
}

TEST_HARNESS_MAIN
