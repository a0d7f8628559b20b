// SPDX-License-Identifier: GPL-2.0
/*
 * A server of 32 bits: mounts, makes either kind of ring, and moves data by each
 * of its queues.  Requesters are of 32 bits, too, which does not matter.
 *
 * Beside this, user_test and command_test are run as programs of 32 bits.
 */

#define _GNU_SOURCE
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "puppet.h"

#define FILE2	(TEST_MNT "/f2")
/* Of a read(2) or write(2), and what of it a request has. */
#define BYTES		(1024 * 1024)
#define REQUEST_BYTES	(256 * 1024)

FIXTURE(compat)
{
	struct puppet p;
	struct requester r;
	unsigned int nr_queues;
};

FIXTURE_VARIANT(compat)
{
	enum test_transport transport;
	unsigned int control;
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(compat, dev) {
	.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(compat, ring) {
	.transport = TRANSPORT_RING,
	.control = 2,
};

FIXTURE_VARIANT_ADD(compat, ring_defer) {
	.transport = TRANSPORT_RING,
	.uring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

FIXTURE_VARIANT_ADD(compat, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(compat, user_defer) {
	.transport = TRANSPORT_USER,
	.uring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

FIXTURE_SETUP(compat)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.uring_flags = variant->uring_flags,
		.control = variant->control,
		.depth = 2,
		.init_flags = FUSE_ASYNC_READ,
		.max_write = REQUEST_BYTES,
		.max_readahead = PUPPET_READAHEAD,
	};

	static_assert(sizeof(void *) == 4, "no program of 32 bits");
	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	self->nr_queues = transport_rings(variant->transport) ?
			  self->p.setup.nr_queues : 1;
}

FIXTURE_TEARDOWN(compat)
{
	if (transport_rings(variant->transport)) {
		EXPECT_TRUE(puppet_all_by_ring(&self->p));
		EXPECT_LT(0, ring_stat(self->p.conn, "requests_ring"));
	}
	puppet_stop(&self->p);
}

/* Data of requests, checked as it comes. */
static int serve_writes(struct puppet *p, struct requester *r, __u64 *bytes)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	static struct puppet_req req;
	const unsigned char *data;
	unsigned int i;
	int ret;

	while (now_ms() < end) {
		if (requester_ended(r, &ret, 0))
			return ret;
		ret = puppet_next(p, &req, 2);
		if (ret != PUPPET_REQUEST)
			continue;
		data = (const unsigned char *)(&req.write + 1);
		for (i = 0; req.in.opcode == FUSE_WRITE && i < req.write.size; i++)
			if (data[i] != test_byte(req.in.nodeid,
						 req.write.offset + i))
				return -EILSEQ;
		*bytes += i;
		ret = puppet_answer(p, &req);
		if (ret)
			return ret;
	}
	return REQUESTER_HANGS;
}

/* A requester on a CPU whose requests go to queue @qid. */
static int start_at(struct puppet *p, unsigned int qid, struct requester *r,
		    int (*fn)(const void *arg), const void *arg)
{
	if (transport_rings(p->opt.transport))
		return puppet_requester_at(p, qid, r, fn, arg);
	return requester_start(r, fn, arg);
}

TEST_F(compat, direct_writes)
{
	struct puppet_io io = {
		.path = FILE2,
		/* 32 bits do not hold this. */
		.offset = 1ULL << 33,
		.len = BYTES,
		.flags = O_WRONLY | O_DIRECT,
	};
	unsigned int qid;

	for (qid = 0; qid < self->nr_queues; qid++) {
		__u64 bytes = 0;

		ASSERT_EQ(0, start_at(&self->p, qid, &self->r, request_write,
				      &io));
		EXPECT_EQ(0, serve_writes(&self->p, &self->r, &bytes));
		EXPECT_EQ(BYTES, bytes);
	}
}

TEST_F(compat, direct_reads)
{
	struct puppet_io io = {
		.path = FILE2,
		/* Within the file, as it is. */
		.offset = PUPPET_FILE_SIZE - BYTES,
		.len = BYTES,
		.flags = O_RDONLY | O_DIRECT,
		.check = true,
	};
	unsigned int qid;

	for (qid = 0; qid < self->nr_queues; qid++) {
		ASSERT_EQ(0, start_at(&self->p, qid, &self->r, request_read,
				      &io));
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	}
}

TEST_F(compat, buffered_reads)
{
	struct puppet_io io = {
		.path = FILE2,
		.len = BYTES,
		.flags = O_RDONLY,
		.check = true,
	};

	ASSERT_EQ(0, requester_start(&self->r, request_read, &io));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* A notification, and an interrupt, by whichever way. */
TEST_F(compat, control)
{
	struct fuse_notify_inval_inode_out inval = { .ino = FUSE_ROOT_ID };
	struct puppet_held held = { 0 };
	static struct puppet_req req;

	EXPECT_EQ((int)(sizeof(struct fuse_out_header) + sizeof(inval)),
		  puppet_notify(&self->p, FUSE_NOTIFY_INVAL_INODE, &inval,
				sizeof(inval)));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_GETATTR, 1));
	kill(self->r.pid, SIGKILL);
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_INTERRUPT));
	EXPECT_EQ(held.req[0]->in.unique, req.interrupt.unique);
	EXPECT_EQ(variant->control > 0, req.ring);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	ASSERT_EQ(0, puppet_release_all(&self->p, &held));
	EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &self->r));
}

/* Dies with requests in its hands. */
TEST_F(compat, end)
{
	struct puppet_held held = { 0 };

	ASSERT_EQ(0, requester_start(&self->r, request_stat, TEST_MNT));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_GETATTR, 1));
	ASSERT_EQ(0, conn_abort(self->p.conn));
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

TEST_HARNESS_MAIN
