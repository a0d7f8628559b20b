// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE_URING_REQ_DETACH: queues are withdrawn and armed again while the
 * connection goes on, and nobody who makes requests notices.  And what can be
 * seen of a server that has stopped to answer.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "puppet.h"

#define FILE2		(TEST_MNT "/f2")
#define DEFER	(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)
#define FETCH	FUSE_URING_REQ_FETCH
#define COMMIT	FUSE_URING_REQ_COMMIT_AND_FETCH
#define DEPTH		2

FIXTURE(detach)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r[3];
};

FIXTURE_VARIANT(detach)
{
	unsigned int uring_flags;
	unsigned int control;
};

FIXTURE_VARIANT_ADD(detach, ring) {
	.uring_flags = 0,
};

FIXTURE_VARIANT_ADD(detach, ring_defer) {
	.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(detach, ring_control) {
	.control = 2,
};

FIXTURE_SETUP(detach)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = DEPTH,
		.control = variant->control,
		.init_flags = FUSE_ASYNC_READ,
		.max_readahead = PUPPET_READAHEAD,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ASSERT_EQ(0, puppet_serve(&self->p, &self->r[0]));
}

FIXTURE_TEARDOWN(detach)
{
	puppet_stop(&self->p);
}

static struct fuse_uring_slot_cmd cmd_of(const struct puppet_req *req)
{
	return (struct fuse_uring_slot_cmd){
		.commit_id = req->commit_id,
		.qid = req->qid,
		.slot = req->slot,
	};
}

/* So many commands end with -ECANCELED. */
static void expect_canceled(struct __test_metadata *_metadata,
			    struct puppet *p, unsigned int nr)
{
	while (nr--)
		ASSERT_EQ(-ECANCELED, puppet_cqe(p, TEST_WAIT_MS));
	EXPECT_EQ(-ETIMEDOUT, puppet_cqe(p, 0));
}

#define EXPECT_CANCELED(nr)	expect_canceled(_metadata, &self->p, nr)

/* One more request is answered, and by which way it came. */
static int serves_by(struct puppet *p, bool ring)
{
	struct requester r;
	static struct puppet_req req;
	int ret = requester_start(&r, request_stat, FILE2);

	if (!ret)
		ret = puppet_until(p, &req, FUSE_GETATTR);
	if (!ret && req.ring != ring)
		ret = -EPROTO;
	if (!ret)
		ret = puppet_answer(p, &req);
	return ret ? ret : puppet_serve(p, &r);
}

TEST_F(detach, parked)
{
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	EXPECT_CANCELED(DEPTH + variant->control);
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "parked"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "control_parked"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "queues_live"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
	EXPECT_EQ(0, serves_by(&self->p, false));
	EXPECT_LT(0, ring_stat(self->p.conn, "requests_dev"));

	ASSERT_EQ(0, puppet_arm(&self->p));
	EXPECT_EQ(0, serves_by(&self->p, true));
	EXPECT_EQ(1, ring_stat(self->p.conn, "queues_live"));
}

TEST_F(detach, twice)
{
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	EXPECT_CANCELED(DEPTH + variant->control);
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	EXPECT_CANCELED(0);
	EXPECT_EQ(0, serves_by(&self->p, false));
	ASSERT_EQ(0, puppet_arm(&self->p));
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	EXPECT_CANCELED(DEPTH + variant->control);
}

/* What the server has in hand it answers, and then the slot is free. */
TEST_F(detach, held)
{
	struct fuse_uring_slot_cmd cmd;
	struct puppet_req *req;

	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	req = self->held.req[0];
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	EXPECT_CANCELED(DEPTH - 1 + variant->control);
	EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "busy"));
	EXPECT_TRUE(requester_sleeps(&self->r[0]));
	/* Others do not wait for it. */
	EXPECT_EQ(0, serves_by(&self->p, false));

	cmd = cmd_of(req);
	cmd.commit_id++;
	EXPECT_EQ(-ENOENT, puppet_command_now(&self->p, COMMIT, &cmd));
	cmd.commit_id = 0;
	EXPECT_EQ(-EBUSY, puppet_command_now(&self->p, FETCH, &cmd));
	ASSERT_EQ(0, puppet_reply(&self->p, req, -EXDEV, NULL, 0));
	EXPECT_CANCELED(1);
	EXPECT_EQ(EXDEV, requester_join(&self->r[0]));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "busy"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "parked"));

	/* One after the other, and the queue is served by those there are. */
	ASSERT_EQ(0, puppet_command(&self->p, FETCH, &cmd));
	EXPECT_EQ(0, serves_by(&self->p, true));
	EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "parked"));
	cmd.slot ^= 1;
	ASSERT_EQ(0, puppet_command(&self->p, FETCH, &cmd));
	EXPECT_EQ(0, serves_by(&self->p, true));
	EXPECT_EQ(2, ring_queue_stat(self->p.conn, 0, "parked"));
}

/* A slot that is armed again is not detached by what was before. */
TEST_F(detach, held_and_others_armed_again)
{
	struct fuse_uring_slot_cmd cmd;
	struct puppet_req *req;

	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	req = self->held.req[0];
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	EXPECT_CANCELED(DEPTH - 1 + variant->control);
	cmd = cmd_of(req);
	cmd.commit_id = 0;
	cmd.slot ^= 1;
	ASSERT_EQ(0, puppet_command(&self->p, FETCH, &cmd));
	EXPECT_EQ(0, serves_by(&self->p, true));
	ASSERT_EQ(0, puppet_reply(&self->p, req, -EXDEV, NULL, 0));
	EXPECT_CANCELED(1);
	EXPECT_EQ(EXDEV, requester_join(&self->r[0]));
	EXPECT_EQ(0, serves_by(&self->p, true));
}

/* What waits for a slot does not wait for this queue's any more. */
TEST_F(detach, pending)
{
	unsigned int i;

	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, requester_start(&self->r[i], request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, DEPTH));
	ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "pending", 1));
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	EXPECT_CANCELED(variant->control);
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pending"));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR,
				 DEPTH + 1));
	EXPECT_FALSE(self->held.req[DEPTH]->ring);
	EXPECT_EQ(0, self->held.req[DEPTH]->in.unique & FUSE_UNIQUE_RESEND);
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_CANCELED(DEPTH);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
}

/* What lies in a slot that the server has not been told of goes elsewhere. */
TEST_F(detach, on_its_way)
{
	unsigned int i, told = 0, canceled = 0;
	static struct puppet_req req;
	__u64 end;
	int ret;

	for (i = 0; i < DEPTH; i++)
		ASSERT_EQ(0, requester_start(&self->r[i], request_stat, FILE2));
	/* In a slot, or waiting until the server's task comes for it. */
	ASSERT_TRUE(ring_requests_become(self->p.conn, DEPTH));
	ASSERT_EQ(0, puppet_detach(&self->p, 0));

	end = now_ms() + TEST_WAIT_MS;
	while ((told < DEPTH || canceled < DEPTH + variant->control) &&
	       now_ms() < end) {
		ret = puppet_next(&self->p, &req, 10);
		if (ret == PUPPET_REQUEST) {
			told += req.in.opcode == FUSE_GETATTR;
			if (variant->uring_flags & IORING_SETUP_DEFER_TASKRUN)
				EXPECT_FALSE(req.ring);
			ASSERT_EQ(0, puppet_answer(&self->p, &req));
		} else if (ret) {
			ASSERT_EQ(-ECANCELED, ret);
			canceled++;
		}
	}
	EXPECT_EQ(DEPTH, told);
	EXPECT_EQ(DEPTH + variant->control, canceled);
	for (i = 0; i < DEPTH; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));
}

/* Background requests, and their credit. */
TEST_F(detach, background)
{
	struct puppet_io io = { .path = FILE2, .len = 4 * PUPPET_READAHEAD };
	struct requester r;
	unsigned int round;
	int ret;

	for (round = 0; round < 2; round++) {
		io.offset = round * io.len;
		ASSERT_EQ(0, requester_start(&r, request_readahead, &io));
		ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ, 1));
		ASSERT_EQ(0, puppet_detach(&self->p, 0));
		ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
		ASSERT_EQ(0, puppet_serve(&self->p, &r));
		do {
			ret = puppet_settle(&self->p);
		} while (ret == -ECANCELED);
		EXPECT_EQ(PUPPET_TIMEOUT, ret);
		ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 0));
		EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "background"));
		EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "busy"));
		ASSERT_EQ(0, puppet_arm(&self->p));
	}
	EXPECT_EQ(0, serves_by(&self->p, true));
}

static int detach_with(struct puppet *p, struct fuse_uring_slot_cmd cmd)
{
	return puppet_call_end(p, puppet_call_start(p, FUSE_URING_REQ_DETACH,
						    &cmd, NULL, 0),
			       TEST_WAIT_MS);
}

#define DETACH_WITH(...) \
	detach_with(&self->p, (struct fuse_uring_slot_cmd){ __VA_ARGS__ })

TEST_F(detach, refused)
{
	EXPECT_EQ(-ENXIO, DETACH_WITH(.qid = 1));
	EXPECT_EQ(-ENXIO, DETACH_WITH(.qid = 0xffff));
	EXPECT_EQ(-EINVAL, DETACH_WITH(.slot = 1));
	EXPECT_EQ(-EINVAL, DETACH_WITH(.slot = 0xffff));
	EXPECT_EQ(-EINVAL, DETACH_WITH(.commit_id = 1));
	EXPECT_EQ(-EINVAL, DETACH_WITH(.commit_id = 1ULL << 63));
	EXPECT_EQ(-EOPNOTSUPP, DETACH_WITH(.flags = 1));
	EXPECT_EQ(-EOPNOTSUPP, DETACH_WITH(.flags = 1U << 31));
	EXPECT_EQ(DEPTH, ring_queue_stat(self->p.conn, 0, "parked"));
	EXPECT_EQ(0, serves_by(&self->p, true));

	ASSERT_EQ(0, conn_abort(self->p.conn));
	EXPECT_EQ(-ENOTCONN, DETACH_WITH(.qid = 0));
}

TEST(detach_without_ring)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = 1,
		.depth = 1,
	};
	struct puppet p;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&p, &opt));
	ASSERT_EQ(0, puppet_mount(&p));
	ASSERT_EQ(0, puppet_uring(&p));
	EXPECT_EQ(-ENXIO, puppet_detach(&p, 0));
	EXPECT_EQ(0, puppet_init(&p));
	/* Before anything is armed there is nothing to withdraw. */
	ASSERT_EQ(0, puppet_setup(&p));
	EXPECT_EQ(0, puppet_detach(&p, 0));
	puppet_stop(&p);
}

/*
 * From the ring to /dev/fuse and back, as fast as it goes: no requester is
 * told of an error, and each way is taken.
 */
TEST_F(detach, again_and_again)
{
	static const struct puppet_io io = {
		.path = TEST_MNT "/f3",
		.len = 64 << 10,
		.flags = O_RDONLY | O_DIRECT,
		.check = true,
	};
	unsigned int i, canceled, slots = DEPTH + variant->control;
	__u64 seed = test_seed(), end = now_ms() + test_ms();
	static struct puppet_req req;
	unsigned int rounds = 0;
	struct requester reader;
	int ret, result;

	for (i = 0; i < ARRAY_SIZE(self->r); i++)
		ASSERT_EQ(0, requester_start(&self->r[i],
					     request_stats_for_ever, FILE2));
	ASSERT_EQ(0, requester_start(&reader, request_read, &io));
	while (now_ms() < end || rounds < 2) {
		for (i = test_random(&seed) % 20; i; i--) {
			ret = puppet_next(&self->p, &req, 5);
			if (ret == PUPPET_REQUEST)
				ret = puppet_answer(&self->p, &req);
			ASSERT_EQ(0, ret);
		}
		ASSERT_EQ(0, puppet_detach(&self->p, 0));
		/* Those of slots that have something in them come later. */
		for (canceled = i = 0; canceled < slots || i; ) {
			ret = puppet_next(&self->p, &req, TEST_WAIT_MS);
			if (ret == PUPPET_REQUEST) {
				if (!req.ring && i)
					i--;
				ASSERT_EQ(0, puppet_answer(&self->p, &req));
				continue;
			}
			ASSERT_EQ(-ECANCELED, ret);
			if (++canceled == slots)
				i = 1 + test_random(&seed) % 10;
		}
		ASSERT_EQ(0, puppet_arm(&self->p));
		rounds++;
		if (requester_ended(&reader, &result, 0)) {
			EXPECT_EQ(0, result);
			ASSERT_EQ(0, requester_start(&reader, request_read,
						     &io));
		}
	}
	EXPECT_LT(0, ring_stat(self->p.conn, "requests_dev"));
	EXPECT_EQ(0, puppet_serve(&self->p, &reader));
	for (i = 0; i < ARRAY_SIZE(self->r); i++) {
		EXPECT_FALSE(requester_ended(&self->r[i], &result, 0))
			TH_LOG("requester ended with %d", result);
		kill(self->r[i].pid, SIGKILL);
		EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &self->r[i]));
	}
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

/* Of two queues one stays. */
FIXTURE(queues)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r[4];
};

FIXTURE_SETUP(queues)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = 2,
		.depth = 1,
	};

	if (why)
		SKIP(return, "%s", why);
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two CPUs");
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ASSERT_EQ(0, puppet_serve(&self->p, &self->r[0]));
}

FIXTURE_TEARDOWN(queues)
{
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
	puppet_stop(&self->p);
}

/* To which queue a request of the CPUs of @qid is sent. */
static int came_by(struct puppet *p, unsigned int qid)
{
	static struct puppet_req req;
	struct requester r;
	int ret = puppet_requester_at(p, qid, &r, request_stat, FILE2);

	if (!ret)
		ret = puppet_until(p, &req, FUSE_GETATTR);
	if (!ret)
		ret = puppet_answer(p, &req);
	if (!ret)
		ret = puppet_serve(p, &r);
	return ret ? ret : puppet_sent_to(p, &req);
}

TEST_F(queues, the_other_one_serves)
{
	EXPECT_EQ(0, came_by(&self->p, 0));
	EXPECT_EQ(1, came_by(&self->p, 1));
	ASSERT_EQ(0, puppet_detach(&self->p, 1));
	ASSERT_EQ(-ECANCELED, puppet_cqe(&self->p, TEST_WAIT_MS));
	EXPECT_EQ(1, ring_stat(self->p.conn, "queues_live"));
	EXPECT_EQ(0, came_by(&self->p, 0));
	EXPECT_EQ(0, came_by(&self->p, 1));
	ASSERT_EQ(0, puppet_arm_queue(&self->p, 1));
	EXPECT_EQ(0, came_by(&self->p, 0));
	EXPECT_EQ(1, came_by(&self->p, 1));
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	ASSERT_EQ(-ECANCELED, puppet_cqe(&self->p, TEST_WAIT_MS));
	EXPECT_EQ(1, came_by(&self->p, 0));
}

/* And gets what waits for the one that is detached, when it has room. */
TEST_F(queues, takes_what_waits)
{
	struct puppet_req *req;
	unsigned int i;

	/* One request of each queue is held, so that others wait. */
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, puppet_requester_at(&self->p, i > 0, &self->r[i],
						 request_stat, FILE2));
		if (i < 2)
			ASSERT_EQ(0, puppet_hold(&self->p, &self->held,
						 FUSE_GETATTR, i + 1));
	}
	ASSERT_NE(self->held.req[0]->qid, self->held.req[1]->qid);
	ASSERT_TRUE(ring_queue_stat_becomes(self->p.conn, 1, "pending", 2));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));
	ASSERT_EQ(0, puppet_detach(&self->p, 1));
	ASSERT_TRUE(ring_queue_stat_becomes(self->p.conn, 0, "pending", 2));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));
	for (i = 2; i < 4; i++) {
		/* The one that is in the other queue's slot comes first. */
		if (self->held.req[0]->qid) {
			req = self->held.req[0];
			self->held.req[0] = self->held.req[1];
			self->held.req[1] = req;
		}
		ASSERT_EQ(0, puppet_release(&self->p, &self->held));
		ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR,
					 2));
		EXPECT_EQ(0, self->held.req[1]->qid);
	}
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	for (i = 0; i < 4; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
}

#define LATE_MS		5000

/* A server that has stopped to answer, as its administrator sees it. */
FIXTURE(stuck)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r[2];
};

FIXTURE_SETUP(stuck)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = 1,
		.depth = DEPTH,
		.control = 2,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ASSERT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	/* Of all slots the server is done with there is nothing to be seen. */
	ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "parked", DEPTH));
	ASSERT_EQ(0, ring_slots(self->p.conn, NULL, 0));
}

FIXTURE_TEARDOWN(stuck)
{
	puppet_stop(&self->p);
}

TEST_F(stuck, is_seen)
{
	struct ring_slot slot[4];
	struct puppet_req *req;
	unsigned long age;
	__u64 since;

	since = now_ms();
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	req = self->held.req[0];
	ASSERT_EQ(1, ring_slots(self->p.conn, slot, 4));
	EXPECT_EQ(req->qid, slot[0].qid);
	EXPECT_EQ(req->slot, slot[0].slot);
	EXPECT_EQ(FUSE_GETATTR, slot[0].opcode);
	EXPECT_EQ(req->in.unique, slot[0].unique);
	/* The kernel counts ticks, which may come late. */
	EXPECT_GE(now_ms() - since + LATE_MS, slot[0].age_ms);
	age = slot[0].age_ms;
	do {
		sleep_ms(10);
		ASSERT_EQ(1, ring_slots(self->p.conn, slot, 4));
	} while (slot[0].age_ms < age + 200 && now_ms() - since < TEST_WAIT_MS);
	EXPECT_LE(age + 200, slot[0].age_ms);
	EXPECT_GE(now_ms() - since + LATE_MS, slot[0].age_ms);

	ASSERT_EQ(0, requester_start(&self->r[1], request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 2));
	ASSERT_EQ(2, ring_slots(self->p.conn, slot, 4));
	EXPECT_NE(slot[0].slot, slot[1].slot);
	EXPECT_NE(slot[0].unique, slot[1].unique);

	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[1]));
	EXPECT_EQ(0, ring_slots(self->p.conn, slot, 4));
}

TEST_F(stuck, with_a_control_slot)
{
	static struct puppet_req intr;
	struct ring_slot slot[4];
	unsigned int i;

	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	kill(self->r[0].pid, SIGKILL);
	ASSERT_EQ(0, puppet_until(&self->p, &intr, FUSE_INTERRUPT));
	ASSERT_EQ(2, ring_slots(self->p.conn, slot, 4));
	i = slot[0].opcode == FUSE_INTERRUPT ? 0 : 1;
	EXPECT_EQ(FUSE_INTERRUPT, slot[i].opcode);
	EXPECT_EQ(intr.slot, slot[i].slot);
	EXPECT_LE(DEPTH, slot[i].slot);
	EXPECT_EQ(FUSE_GETATTR, slot[!i].opcode);
	ASSERT_EQ(0, puppet_answer(&self->p, &intr));
	ASSERT_EQ(1, ring_slots(self->p.conn, slot, 4));
	EXPECT_EQ(FUSE_GETATTR, slot[0].opcode);
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &self->r[0]));
	EXPECT_EQ(0, ring_slots(self->p.conn, slot, 4));
}

TEST_F(stuck, is_ended_by_an_abort)
{
	unsigned int i;

	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, requester_start(&self->r[i], request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 2));
	ASSERT_EQ(2, ring_slots(self->p.conn, NULL, 0));
	ASSERT_EQ(0, conn_abort(self->p.conn));
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r[0]));
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r[1]));
	EXPECT_GE(0, ring_slots(self->p.conn, NULL, 0));
}

TEST_HARNESS_MAIN
