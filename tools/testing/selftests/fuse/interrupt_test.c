// SPDX-License-Identifier: GPL-2.0
/*
 * Requesters that do not want to wait any longer: killed or interrupted
 * before their request is with the server, while it is, and while its reply
 * is on the way.
 *
 * FUSE_TEST_RACES says how many races each test of these runs.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "proto.h"
#include "puppet.h"

#define FILE2		(TEST_MNT "/f2")

FIXTURE(interrupt)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r, other;
	bool to_dev;		/* requests are to come over /dev/fuse */
};

FIXTURE_VARIANT(interrupt)
{
	enum test_transport transport;
	unsigned int uring_flags;
	unsigned int control;
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

FIXTURE_VARIANT_ADD(interrupt, ring_control) {
	.transport = TRANSPORT_RING,
	.control = 2,
};

FIXTURE_VARIANT_ADD(interrupt, ring_control_defer) {
	.transport = TRANSPORT_RING,
	.uring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
	.control = 2,
};

FIXTURE_VARIANT_ADD(interrupt, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(interrupt, user_defer) {
	.transport = TRANSPORT_USER,
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
		.control = variant->control,
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
	EXPECT_EQ(transport_rings(variant->transport),
		  self->held.req[0]->ring);
}

FIXTURE_TEARDOWN(interrupt)
{
	if (transport_rings(variant->transport)) {
		if (!self->to_dev)
			EXPECT_TRUE(puppet_all_by_ring(&self->p));
		EXPECT_EQ(0, ring_stat(self->p.conn, variant->control ?
				       "interrupts_dev" : "interrupts_ring"));
	}
	puppet_stop(&self->p);
}

/* Interrupts come over /dev/fuse, unless there are control slots. */
static struct puppet_req *expect_interrupt(struct __test_metadata *_metadata,
					   struct puppet *p,
					   const struct puppet_req *req)
{
	static struct puppet_req intr;

	ASSERT_EQ(0, puppet_until(p, &intr, FUSE_INTERRUPT));
	EXPECT_EQ(req->in.unique, intr.interrupt.unique);
	EXPECT_EQ(req->in.unique | 1, intr.in.unique);
	EXPECT_EQ(sizeof(intr.interrupt), intr.arg_len);
	EXPECT_EQ(p->setup.nr_control > 0, intr.ring);
	return &intr;
}

#define EXPECT_INTERRUPT(req)	expect_interrupt(_metadata, &self->p, req)

static int reply_interrupt(struct puppet *p, const struct puppet_req *intr,
			   int error)
{
	return puppet_reply(p, intr, error, NULL, 0);
}

TEST_F(interrupt, while_served)
{
	struct puppet_req *intr;

	kill(self->r.pid, SIGUSR1);
	intr = EXPECT_INTERRUPT(self->held.req[0]);
	ASSERT_EQ(0, puppet_answer(&self->p, intr));
	EXPECT_TRUE(requester_sleeps(&self->r));
	ASSERT_EQ(0, puppet_reply(&self->p, self->held.req[0], -EINTR, NULL,
				  0));
	EXPECT_EQ(EINTR, puppet_serve(&self->p, &self->r));
}

/* The server may as well finish it. */
TEST_F(interrupt, ignored)
{
	struct puppet_req *intr;

	kill(self->r.pid, SIGUSR1);
	intr = EXPECT_INTERRUPT(self->held.req[0]);
	ASSERT_EQ(0, puppet_answer(&self->p, intr));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* One signal, one interrupt. */
TEST_F(interrupt, once)
{
	struct puppet_req *intr;

	kill(self->r.pid, SIGUSR1);
	intr = EXPECT_INTERRUPT(self->held.req[0]);
	ASSERT_EQ(0, puppet_answer(&self->p, intr));
	kill(self->r.pid, SIGUSR1);
	EXPECT_TRUE(puppet_none(&self->p, FUSE_INTERRUPT));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* The server did not know the request yet: it is told again. */
TEST_F(interrupt, told_again)
{
	struct puppet_req *intr;
	unsigned int i;

	kill(self->r.pid, SIGUSR1);
	for (i = 0; i < 3; i++) {
		intr = EXPECT_INTERRUPT(self->held.req[0]);
		ASSERT_EQ(0, reply_interrupt(&self->p, intr, -EAGAIN));
	}
	intr = EXPECT_INTERRUPT(self->held.req[0]);
	ASSERT_EQ(0, puppet_answer(&self->p, intr));
	ASSERT_EQ(0, puppet_reply(&self->p, self->held.req[0], -EINTR, NULL,
				  0));
	EXPECT_EQ(EINTR, puppet_serve(&self->p, &self->r));
}

/* Not when the request has been answered in the meantime. */
TEST_F(interrupt, told_again_too_late)
{
	struct puppet_req *intr;

	kill(self->r.pid, SIGUSR1);
	intr = EXPECT_INTERRUPT(self->held.req[0]);
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	/* Over the ring it is the control slot that is answered. */
	EXPECT_EQ(variant->control ? 0 : -ENOENT,
		  reply_interrupt(&self->p, intr, -EAGAIN));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_INTERRUPT));
}

/* A server that knows no interrupts gets no more of them. */
TEST_F(interrupt, unknown_to_the_server)
{
	struct puppet_req *intr;

	kill(self->r.pid, SIGUSR1);
	intr = EXPECT_INTERRUPT(self->held.req[0]);
	ASSERT_EQ(0, reply_interrupt(&self->p, intr, PROTO_NO_SUCH_OP));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));

	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	kill(self->r.pid, SIGUSR1);
	EXPECT_TRUE(puppet_none(&self->p, FUSE_INTERRUPT));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* Who is killed waits for a request that the server has. */
TEST_F(interrupt, killed_while_served)
{
	struct puppet_req *intr;

	kill(self->r.pid, SIGKILL);
	intr = EXPECT_INTERRUPT(self->held.req[0]);
	ASSERT_EQ(0, puppet_answer(&self->p, intr));
	EXPECT_TRUE(requester_sleeps(&self->r));
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
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

/* A signal does not take it back, and is told as soon as the server has it. */
TEST_F(interrupt, before)
{
	struct puppet_held held = { 0 };
	struct puppet_req *intr;

	ASSERT_EQ(0, requester_start(&self->other, request_stat, FILE2));
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 2));
	kill(self->other.pid, SIGUSR1);
	EXPECT_TRUE(requester_sleeps(&self->other));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_GETATTR, 1));
	intr = EXPECT_INTERRUPT(held.req[0]);
	ASSERT_EQ(0, puppet_answer(&self->p, intr));
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
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* The connection ends while an interrupt waits for being read. */
TEST_F(interrupt, and_abort)
{
	kill(self->r.pid, SIGUSR1);
	/* Again, so it has told of the signal. */
	ASSERT_TRUE(requester_sleeps(&self->r));
	ASSERT_EQ(0, conn_abort(self->p.conn));
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r));
}

/*
 * Signals at any time: before the request is copied, in the slot, in the
 * server's hands, while its reply is copied.
 */
TEST_F(interrupt, at_any_time)
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
TEST_F(interrupt, killed_at_any_time)
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

/* How many times a test lets things meet. */
static unsigned int races(unsigned int nr)
{
	const char *env = getenv("FUSE_TEST_RACES");

	if (env && atoi(env) > 0)
		return atoi(env);
	return kernel_debugs() ? nr / 10 : nr;
}

struct killer {
	pid_t pid;
	__u64 seed;
};

static int interrupt_for_ever(const void *arg)
{
	const struct killer *killer = arg;
	__u64 seed = killer->seed;

	while (!kill(killer->pid, SIGUSR1))
		usleep(test_random(&seed) % 500);
	return 0;
}

static int interrupter_start(struct requester *killer, pid_t pid, __u64 seed)
{
	struct killer arg = { .pid = pid, .seed = seed };

	return requester_start(killer, interrupt_for_ever, &arg);
}

/* Some time, most often none. */
static void spin(__u64 *seed)
{
	__u64 dice = test_random(seed);

	if (dice % 4 == 0)
		usleep(dice / 4 % 400);
}

/*
 * Interrupts against replies: each names a request that the server has seen,
 * and each request is answered once.
 */
TEST_F_TIMEOUT(interrupt, races_commit, 3 * TEST_TIMEOUT)
{
	unsigned int nr = races(500), met = 0, i;
	static struct puppet_req req, get;
	__u64 seen[64] = { 0 }, at = 0;
	__u64 end, seed = test_seed();
	struct requester killer;
	bool held = false;
	int ret;

	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	ASSERT_EQ(0, requester_start(&self->r, stat_until_killed, FILE2));
	ASSERT_EQ(0, interrupter_start(&killer, self->r.pid,
				       test_random(&seed)));
	end = now_ms() + 2 * TEST_TIMEOUT * 1000;
	while (met < nr && now_ms() < end) {
		ret = puppet_next(&self->p, &req, held ? test_random(&seed) % 3 :
				  TEST_WAIT_MS);
		if (ret == PUPPET_TIMEOUT) {
			ASSERT_TRUE(held);
			ret = test_random(&seed) % 2 ?
			      puppet_reply(&self->p, &get, -EINTR, NULL, 0) :
			      puppet_answer(&self->p, &get);
			/* Once in a while it has just been interrupted. */
			ASSERT_EQ(0, ret);
			held = false;
			continue;
		}
		ASSERT_EQ(PUPPET_REQUEST, ret);
		if (req.in.opcode == FUSE_GETATTR) {
			ASSERT_FALSE(held);
			memcpy(&get, &req, offsetof(struct puppet_req, arg) +
			       req.arg_len);
			held = true;
			seen[at++ % ARRAY_SIZE(seen)] = req.in.unique;
			spin(&seed);
			continue;
		}
		if (req.in.opcode != FUSE_INTERRUPT) {
			ASSERT_EQ(0, puppet_answer(&self->p, &req));
			continue;
		}
		for (i = 0; i < ARRAY_SIZE(seen); i++)
			if (seen[i] == req.interrupt.unique)
				break;
		/* What comes by two ways may come in any order. */
		if (req.ring || variant->transport == TRANSPORT_DEV)
			ASSERT_GT(ARRAY_SIZE(seen), i);
		met++;
		spin(&seed);
		ret = reply_interrupt(&self->p, &req, i < ARRAY_SIZE(seen) &&
				      test_random(&seed) % 3 ? 0 : -EAGAIN);
		/* Over /dev/fuse it names the request, which may be gone. */
		if (ret != -ENOENT || req.ring)
			ASSERT_EQ(0, ret);
		spin(&seed);
	}
	EXPECT_EQ(nr, met);
	kill(killer.pid, SIGKILL);
	EXPECT_EQ(-SIGKILL, requester_join(&killer));
	kill(self->r.pid, SIGKILL);
	if (held)
		ASSERT_EQ(0, puppet_answer(&self->p, &get));
	EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &self->r));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

/* A thread of the server that takes one request with it. */
struct taker {
	struct puppet p;
	struct puppet_req req;
	int result;
};

static void *taker(void *arg)
{
	struct taker *t = arg;

	t->result = puppet_uring(&t->p);
	if (!t->result)
		t->result = puppet_arm_slots(&t->p, 0, 0, 1);
	if (!t->result)
		t->result = puppet_until(&t->p, &t->req, FUSE_GETATTR);
	return NULL;
}

/* A request that nobody will answer. */
static int lose_request(struct puppet *p, struct taker *t)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	pthread_t thread;

	if (p->opt.transport == TRANSPORT_DEV)
		return puppet_until(p, &t->req, FUSE_GETATTR);
	/* The last one's slot is given back when io_uring is through. */
	do {
		t->p = *p;
		t->p.kept = NULL;
		t->p.kept_nr = 0;
		t->p.kept_size = 0;
		t->p.have_uring = false;
		/* The other thread reads it. */
		t->p.dev_ended = true;
		if (pthread_create(&thread, NULL, taker, t))
			return -EAGAIN;
		pthread_join(thread, NULL);
		puppet_close_uring(&t->p);
	} while (t->result == -EBUSY && now_ms() < end);
	return t->result;
}

/* Interrupts against requests that are sent again. */
TEST_F_TIMEOUT(interrupt, races_resend, 3 * TEST_TIMEOUT)
{
	unsigned int nr = races(150), i;
	__u64 end, seed = test_seed();
	static struct puppet_req req;
	struct requester killer;
	static struct taker t;
	int ret;

	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	if (transport_rings(variant->transport)) {
		/* From now on threads come and go with the ordinary slot. */
		self->to_dev = true;
		puppet_close_uring(&self->p);
		ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "live", 0));
		ASSERT_EQ(0, puppet_uring(&self->p));
		ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 1,
					      self->p.setup.nr_control));
	}
	ASSERT_EQ(0, requester_start(&self->r, stat_until_killed, FILE2));
	ASSERT_EQ(0, interrupter_start(&killer, self->r.pid,
				       test_random(&seed)));
	end = now_ms() + 2 * TEST_TIMEOUT * 1000;
	for (i = 0; i < nr && now_ms() < end; i++) {
		ASSERT_EQ(0, lose_request(&self->p, &t));
		spin(&seed);
		ASSERT_LT(0, puppet_notify(&self->p, FUSE_NOTIFY_RESEND, NULL,
					   0));
		spin(&seed);
		ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
		ASSERT_EQ(t.req.in.unique | FUSE_UNIQUE_RESEND, req.in.unique);
		spin(&seed);
		ret = test_random(&seed) % 2 ?
		      puppet_reply(&self->p, &req, -EINTR, NULL, 0) :
		      puppet_answer(&self->p, &req);
		ASSERT_EQ(0, ret);
	}
	EXPECT_EQ(nr, i);
	kill(killer.pid, SIGKILL);
	EXPECT_EQ(-SIGKILL, requester_join(&killer));
	kill(self->r.pid, SIGKILL);
	EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &self->r));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

static int abort_later(const void *arg)
{
	const struct killer *killer = arg;
	__u64 seed = killer->seed;

	usleep(test_random(&seed) % 3000);
	return conn_abort(killer->pid);
}

/* Interrupts against the end of the connection. */
TEST_F_TIMEOUT(interrupt, races_abort, 3 * TEST_TIMEOUT)
{
	struct puppet_options opt = self->p.opt;
	__u64 end, seed = test_seed();
	unsigned int nr = races(50), i;
	static struct puppet_req req;
	struct requester killer[2];
	int ret, result;

	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	end = now_ms() + 2 * TEST_TIMEOUT * 1000;
	for (i = 0; i < nr && now_ms() < end; i++) {
		struct killer arg = { .seed = test_random(&seed) };

		puppet_stop(&self->p);
		ASSERT_EQ(0, puppet_start(&self->p, &opt));
		arg.pid = self->p.conn;
		ASSERT_EQ(0, requester_start(&self->r, stat_until_killed,
					     TEST_MNT));
		ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
		ASSERT_EQ(0, interrupter_start(&killer[0], self->r.pid,
					       arg.seed));
		ASSERT_EQ(0, puppet_answer(&self->p, &req));
		ASSERT_EQ(0, requester_start(&killer[1], abort_later, &arg));
		/* Nothing is wrong with what it sees until the end comes. */
		do {
			ret = puppet_next(&self->p, &req, TEST_WAIT_MS);
			if (ret != PUPPET_REQUEST)
				break;
			if (req.in.opcode == FUSE_INTERRUPT) {
				ret = reply_interrupt(&self->p, &req,
						      test_random(&seed) % 2 ?
						      -EAGAIN : 0);
			} else {
				spin(&seed);
				ret = puppet_answer(&self->p, &req);
			}
		} while (!ret || ret == -ENOENT);
		EXPECT_TRUE(ret == -ENOTCONN || ret == -ENODEV ||
			    ret == -ECONNABORTED) TH_LOG("%d", ret);
		EXPECT_EQ(0, requester_join(&killer[1]));
		result = requester_join(&self->r);
		EXPECT_TRUE(result == ENOTCONN || result == ECONNABORTED)
			TH_LOG("%d", result);
		EXPECT_EQ(0, requester_join(&killer[0]));
	}
	EXPECT_EQ(nr, i);
}

TEST_HARNESS_MAIN
