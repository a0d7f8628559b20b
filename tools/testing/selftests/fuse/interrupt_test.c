// SPDX-License-Identifier: GPL-2.0
/*
 * Requesters that do not want to wait any longer: killed or interrupted
 * before their request is with the server, while it is, and while its reply
 * is on the way.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "proto.h"
#include "puppet.h"

#define FILE2		(TEST_MNT "/f2")
#define QUIET_MS	50

FIXTURE(interrupt)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r, other;
};

FIXTURE_VARIANT(interrupt)
{
	enum test_transport transport;
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(interrupt, dev) {
	.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(interrupt, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(interrupt, ring_defer) {
	.transport = TRANSPORT_RING,
	.uring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

static void nothing(int sig)
{
}

static int stat_until_killed(const void *path)
{
	struct stat st;

	while (!stat(path, &st) || errno == EINTR)
		;
	return -errno;
}

FIXTURE_SETUP(interrupt)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 1,
	};
	/* Requesters inherit it: SIGUSR1 interrupts them. */
	struct sigaction act = { .sa_handler = nothing };

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, sigaction(SIGUSR1, &act, NULL));
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_serve(&self->p, &self->r));

	/* One is with the server. */
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	EXPECT_EQ(variant->transport == TRANSPORT_RING,
		  self->held.req[0]->ring);
}

FIXTURE_TEARDOWN(interrupt)
{
	if (variant->transport == TRANSPORT_RING)
		EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
	puppet_stop(&self->p);
}

/* Interrupts come over /dev/fuse.  Returns the message's own id. */
static __u64 expect_interrupt(struct __test_metadata *_metadata,
			      struct puppet *p, const struct puppet_req *req)
{
	static struct puppet_req intr;

	ASSERT_EQ(0, puppet_until(p, &intr, FUSE_INTERRUPT));
	EXPECT_EQ(req->in.unique, intr.interrupt.unique);
	EXPECT_FALSE(intr.ring);
	return intr.in.unique;
}

#define EXPECT_INTERRUPT(req)	expect_interrupt(_metadata, &self->p, req)

static int reply_interrupt(struct puppet *p, __u64 unique, int error)
{
	static struct puppet_req req;

	req.in.unique = unique;
	return puppet_reply(p, &req, error, NULL, 0);
}

TEST_F(interrupt, while_served)
{
	kill(self->r.pid, SIGUSR1);
	EXPECT_INTERRUPT(self->held.req[0]);
	EXPECT_FALSE(requester_ended(&self->r, NULL, QUIET_MS));
	ASSERT_EQ(0, puppet_reply(&self->p, self->held.req[0], -EINTR, NULL,
				  0));
	EXPECT_EQ(EINTR, puppet_serve(&self->p, &self->r));
}

/* The server may as well finish it. */
TEST_F(interrupt, ignored)
{
	kill(self->r.pid, SIGUSR1);
	EXPECT_INTERRUPT(self->held.req[0]);
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* One signal, one interrupt. */
TEST_F(interrupt, once)
{
	kill(self->r.pid, SIGUSR1);
	EXPECT_INTERRUPT(self->held.req[0]);
	kill(self->r.pid, SIGUSR1);
	EXPECT_TRUE(puppet_none(&self->p, FUSE_INTERRUPT, QUIET_MS));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* The server did not know the request yet: it is told again. */
TEST_F(interrupt, told_again)
{
	__u64 intr_unique;
	unsigned int i;

	kill(self->r.pid, SIGUSR1);
	for (i = 0; i < 3; i++) {
		intr_unique = EXPECT_INTERRUPT(self->held.req[0]);
		ASSERT_EQ(0, reply_interrupt(&self->p, intr_unique, -EAGAIN));
	}
	EXPECT_INTERRUPT(self->held.req[0]);
	ASSERT_EQ(0, puppet_reply(&self->p, self->held.req[0], -EINTR, NULL,
				  0));
	EXPECT_EQ(EINTR, puppet_serve(&self->p, &self->r));
}

/* Not when the request has been answered in the meantime. */
TEST_F(interrupt, told_again_too_late)
{
	__u64 intr_unique;

	kill(self->r.pid, SIGUSR1);
	intr_unique = EXPECT_INTERRUPT(self->held.req[0]);
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_EQ(-ENOENT, reply_interrupt(&self->p, intr_unique, -EAGAIN));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_INTERRUPT, QUIET_MS));
}

/* A server that knows no interrupts gets no more of them. */
TEST_F(interrupt, unknown_to_the_server)
{
	__u64 intr_unique;

	kill(self->r.pid, SIGUSR1);
	intr_unique = EXPECT_INTERRUPT(self->held.req[0]);
	ASSERT_EQ(0, reply_interrupt(&self->p, intr_unique, PROTO_NO_SUCH_OP));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));

	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	kill(self->r.pid, SIGUSR1);
	EXPECT_TRUE(puppet_none(&self->p, FUSE_INTERRUPT, QUIET_MS));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* Who is killed waits for a request that the server has. */
TEST_F(interrupt, killed_while_served)
{
	kill(self->r.pid, SIGKILL);
	EXPECT_INTERRUPT(self->held.req[0]);
	EXPECT_FALSE(requester_ended(&self->r, NULL, QUIET_MS));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &self->r));
}

/* But not for one that it has not: that is never seen by the server. */
TEST_F(interrupt, killed_before)
{
	ASSERT_EQ(0, requester_start(&self->other, request_stat, FILE2));
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 2));
	kill(self->other.pid, SIGKILL);
	EXPECT_EQ(-SIGKILL, requester_join(&self->other));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 1));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR, QUIET_MS));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

/* A signal does not take it back, and is told as soon as the server has it. */
TEST_F(interrupt, before)
{
	struct puppet_held held = { 0 };

	ASSERT_EQ(0, requester_start(&self->other, request_stat, FILE2));
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 2));
	kill(self->other.pid, SIGUSR1);
	EXPECT_FALSE(requester_ended(&self->other, NULL, QUIET_MS));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_GETATTR, 1));
	EXPECT_INTERRUPT(held.req[0]);
	ASSERT_EQ(0, puppet_reply(&self->p, held.req[0], -EINTR, NULL, 0));
	EXPECT_EQ(EINTR, puppet_serve(&self->p, &self->other));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

TEST_F(interrupt, then_killed_before)
{
	ASSERT_EQ(0, requester_start(&self->other, request_stat, FILE2));
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 2));
	kill(self->other.pid, SIGUSR1);
	kill(self->other.pid, SIGKILL);
	EXPECT_EQ(-SIGKILL, requester_join(&self->other));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR, QUIET_MS));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* The connection ends while an interrupt waits for being read. */
TEST_F(interrupt, and_abort)
{
	kill(self->r.pid, SIGUSR1);
	sleep_ms(10);
	ASSERT_EQ(0, conn_abort(self->p.conn));
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r));
}

/*
 * Signals at any time: before the request is copied, in the slot, in the
 * server's hands, while its reply is copied.
 */
TEST_F_TIMEOUT(interrupt, at_any_time, TEST_TIMEOUT)
{
	__u64 seed = test_seed(), end = now_ms() + test_ms();
	static struct puppet_req req;
	struct requester r[3];
	unsigned int i;
	int ret;

	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	for (i = 0; i < ARRAY_SIZE(r); i++)
		ASSERT_EQ(0, requester_start(&r[i], stat_until_killed, FILE2));
	while (now_ms() < end) {
		if (test_random(&seed) % 2)
			kill(r[test_random(&seed) % ARRAY_SIZE(r)].pid,
			     SIGUSR1);
		if (puppet_next(&self->p, &req, 10) != PUPPET_REQUEST)
			continue;
		ret = req.in.opcode == FUSE_GETATTR && i++ % 4 == 0 ?
		      puppet_reply(&self->p, &req, -EINTR, NULL, 0) :
		      puppet_answer(&self->p, &req);
		ASSERT_EQ(0, ret);
	}
	for (i = 0; i < ARRAY_SIZE(r); i++)
		kill(r[i].pid, SIGKILL);
	for (i = 0; i < ARRAY_SIZE(r); i++)
		EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &r[i]));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

/* The same with requesters that are killed, and others that come instead. */
TEST_F_TIMEOUT(interrupt, killed_at_any_time, TEST_TIMEOUT)
{
	__u64 seed = test_seed(), end = now_ms() + test_ms();
	static struct puppet_req req;
	struct requester r[4];
	unsigned int i;

	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	for (i = 0; i < ARRAY_SIZE(r); i++)
		ASSERT_EQ(0, requester_start(&r[i], request_stats_for_ever,
					     FILE2));
	while (now_ms() < end) {
		unsigned int serve = test_random(&seed) % 16;

		i = test_random(&seed) % ARRAY_SIZE(r);
		while (serve--)
			if (puppet_next(&self->p, &req, 10) == PUPPET_REQUEST)
				ASSERT_EQ(0, puppet_answer(&self->p, &req));
		kill(r[i].pid, SIGKILL);
		ASSERT_EQ(-SIGKILL, puppet_serve(&self->p, &r[i]));
		ASSERT_EQ(0, requester_start(&r[i], request_stats_for_ever,
					     FILE2));
	}
	for (i = 0; i < ARRAY_SIZE(r); i++)
		kill(r[i].pid, SIGKILL);
	for (i = 0; i < ARRAY_SIZE(r); i++)
		EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &r[i]));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

TEST_HARNESS_MAIN
