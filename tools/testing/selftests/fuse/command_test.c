// SPDX-License-Identifier: GPL-2.0
/*
 * Commands of the managed ring: each error by its number, followed by proof
 * that the slot is as it was, from all kinds of io_uring.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "puppet.h"

#define FETCH	FUSE_URING_REQ_FETCH
#define COMMIT	FUSE_URING_REQ_COMMIT_AND_FETCH
#define FILE2	(TEST_MNT "/f2")

/* A ring that serves, and a request of stat(2) in the test's hands. */
FIXTURE(command)
{
	struct puppet p;
	struct requester r;
};

FIXTURE_VARIANT(command)
{
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(command, plain) {
	.uring_flags = 0,
};

FIXTURE_VARIANT_ADD(command, sqe128) {
	.uring_flags = IORING_SETUP_SQE128,
};

FIXTURE_VARIANT_ADD(command, defer) {
	.uring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

FIXTURE_VARIANT_ADD(command, sqpoll) {
	.uring_flags = IORING_SETUP_SQPOLL,
};

/* Makes @p hold the GETATTR of a stat(2). */
static int hold(struct puppet *p, struct requester *r, struct puppet_req *req)
{
	int ret = requester_start(r, request_stat, FILE2);

	if (!ret)
		ret = puppet_until(p, req, FUSE_GETATTR);
	if (!ret && !req->ring)
		ret = -EPROTO;
	return ret;
}

static struct fuse_uring_slot_cmd cmd_of(const struct puppet_req *req)
{
	struct fuse_uring_slot_cmd cmd = {
		.commit_id = req->commit_id,
		.qid = req->qid,
		.slot = req->slot,
	};

	return cmd;
}

/* The held request is answered well and the next one, too. */
static int goes_on(struct puppet *p, struct requester *r,
		   struct puppet_req *req)
{
	int ret = puppet_answer(p, req);

	if (!ret)
		ret = puppet_serve(p, r);
	if (!ret)
		ret = requester_start(r, request_stat, FILE2);
	if (!ret)
		ret = puppet_serve(p, r);
	if (!ret && ring_stat(p->conn, "requests_dev"))
		ret = -EPROTO;
	return ret;
}

FIXTURE_SETUP(command)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = 1,
		.depth = 2,
		.uring_flags = variant->uring_flags,
	};
	struct requester r;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	/* Once, so that the file's dentry is known. */
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_serve(&self->p, &r));
}

FIXTURE_TEARDOWN(command)
{
	puppet_stop(&self->p);
}

TEST_F(command, serves)
{
	static struct puppet_req req;

	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	EXPECT_NE(0, req.commit_id);
	EXPECT_EQ(sizeof(struct fuse_getattr_in), req.arg_len);
	EXPECT_EQ(self->p.setup.small_size, req.capacity);
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

/* The number is the use's, not the slot's. */
TEST_F(command, commit_ids_differ)
{
	static struct puppet_req req;
	__u64 seen[16];
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(seen); i++) {
		ASSERT_EQ(0, hold(&self->p, &self->r, &req));
		seen[i] = req.commit_id;
		EXPECT_NE(0, seen[i]);
		for (j = 0; j < i; j++)
			EXPECT_NE(seen[i], seen[j]);
		ASSERT_EQ(0, puppet_answer(&self->p, &req));
		ASSERT_EQ(0, puppet_serve(&self->p, &self->r));
	}
}

TEST_F(command, fetch_while_armed)
{
	struct fuse_uring_slot_cmd cmd = { 0 };
	static struct puppet_req req;

	EXPECT_EQ(-EBUSY, puppet_command_now(&self->p, FETCH, &cmd));
	cmd.slot = 1;
	EXPECT_EQ(-EBUSY, puppet_command_now(&self->p, FETCH, &cmd));
	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

TEST_F(command, fetch_while_held)
{
	struct fuse_uring_slot_cmd cmd = { 0 };
	static struct puppet_req req;

	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	cmd.slot = req.slot;
	EXPECT_EQ(-EBUSY, puppet_command_now(&self->p, FETCH, &cmd));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

TEST_F(command, fetch_no_such_queue)
{
	struct fuse_uring_slot_cmd cmd = { .qid = 1 };
	static struct puppet_req req;

	EXPECT_EQ(-ENXIO, puppet_command_now(&self->p, FETCH, &cmd));
	cmd.qid = 0xffff;
	EXPECT_EQ(-ENXIO, puppet_command_now(&self->p, FETCH, &cmd));
	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

TEST_F(command, fetch_no_such_slot)
{
	struct fuse_uring_slot_cmd cmd = { .slot = 2 };
	static struct puppet_req req;

	EXPECT_EQ(-ENXIO, puppet_command_now(&self->p, FETCH, &cmd));
	cmd.slot = 0xffff;
	EXPECT_EQ(-ENXIO, puppet_command_now(&self->p, FETCH, &cmd));
	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

TEST_F(command, fetch_flags)
{
	struct fuse_uring_slot_cmd cmd = { .flags = 1 };
	static struct puppet_req req;

	EXPECT_EQ(-EOPNOTSUPP, puppet_command_now(&self->p, FETCH, &cmd));
	cmd.flags = 1U << 31;
	/* Whatever else is wrong. */
	cmd.slot = 0xffff;
	EXPECT_EQ(-EOPNOTSUPP, puppet_command_now(&self->p, FETCH, &cmd));
	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

TEST_F(command, fetch_commit_id)
{
	struct fuse_uring_slot_cmd cmd = { .commit_id = 1 };
	static struct puppet_req req;

	EXPECT_EQ(-EINVAL, puppet_command_now(&self->p, FETCH, &cmd));
	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

/* Nothing was taken from the slot since it was armed. */
TEST_F(command, commit_armed_slot)
{
	struct fuse_uring_slot_cmd cmd = { .commit_id = 1 };
	static struct puppet_req req;

	EXPECT_EQ(-ENOENT, puppet_command_now(&self->p, COMMIT, &cmd));
	cmd.commit_id = 0;
	EXPECT_EQ(-ENOENT, puppet_command_now(&self->p, COMMIT, &cmd));
	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

TEST_F(command, commit_wrong_id)
{
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	unsigned int bit;

	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	puppet_fill_reply(&self->p, &req, -EIO, NULL, 0);
	for (bit = 0; bit < 64; bit++) {
		cmd = cmd_of(&req);
		cmd.commit_id ^= 1ULL << bit;
		EXPECT_EQ(-ENOENT, puppet_command_now(&self->p, COMMIT, &cmd));
	}
	cmd.commit_id = 0;
	EXPECT_EQ(-ENOENT, puppet_command_now(&self->p, COMMIT, &cmd));
	EXPECT_FALSE(requester_ended(&self->r, NULL, 0));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

TEST_F(command, commit_wrong_slot)
{
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;

	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	puppet_fill_reply(&self->p, &req, -EIO, NULL, 0);
	cmd = cmd_of(&req);
	cmd.slot ^= 1;
	EXPECT_EQ(-ENOENT, puppet_command_now(&self->p, COMMIT, &cmd));
	cmd.slot = 2;
	EXPECT_EQ(-ENXIO, puppet_command_now(&self->p, COMMIT, &cmd));
	cmd = cmd_of(&req);
	cmd.qid = 1;
	EXPECT_EQ(-ENXIO, puppet_command_now(&self->p, COMMIT, &cmd));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

TEST_F(command, commit_flags)
{
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;

	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	puppet_fill_reply(&self->p, &req, -EIO, NULL, 0);
	cmd = cmd_of(&req);
	cmd.flags = 2;
	EXPECT_EQ(-EOPNOTSUPP, puppet_command_now(&self->p, COMMIT, &cmd));
	cmd.flags = 1U << 31 | FUSE_URING_COMMIT_ONLY;
	/* Whatever else is wrong. */
	cmd.slot = 0xffff;
	EXPECT_EQ(-EOPNOTSUPP, puppet_command_now(&self->p, COMMIT, &cmd));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

TEST_F(command, commit_twice)
{
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	struct puppet *p = &self->p;

	ASSERT_EQ(0, hold(p, &self->r, &req));
	ASSERT_EQ(0, puppet_answer(p, &req));
	ASSERT_EQ(0, puppet_serve(p, &self->r));
	cmd = cmd_of(&req);
	EXPECT_EQ(-ENOENT, puppet_command_now(p, COMMIT, &cmd));
	/* Also when the slot holds the next request. */
	ASSERT_EQ(0, hold(p, &self->r, &req));
	cmd.slot = req.slot;
	EXPECT_EQ(-ENOENT, puppet_command_now(p, COMMIT, &cmd));
	EXPECT_EQ(0, goes_on(p, &self->r, &req));
}

TEST_F(command, commit_large_payload)
{
	__u32 sizes[] = { 0, 0x80000000, ~0U };
	struct fuse_uring_slot_header *head;
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	struct puppet *p = &self->p;
	unsigned int i;

	ASSERT_EQ(0, hold(p, &self->r, &req));
	cmd = cmd_of(&req);
	head = puppet_slot_header(p, req.qid, req.slot);
	sizes[0] = req.capacity + 1;
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		puppet_fill_reply(p, &req, 0, NULL, 0);
		head->payload_sz = sizes[i];
		EXPECT_EQ(-EINVAL, puppet_command_now(p, COMMIT, &cmd));
	}
	EXPECT_EQ(0, goes_on(p, &self->r, &req));
}

TEST_F(command, commit_header_flags)
{
	struct fuse_uring_slot_header *head;
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	struct puppet *p = &self->p;
	unsigned int bit;

	ASSERT_EQ(0, hold(p, &self->r, &req));
	cmd = cmd_of(&req);
	head = puppet_slot_header(p, req.qid, req.slot);
	EXPECT_EQ(0, head->flags);
	for (bit = 0; bit < 64; bit++) {
		puppet_fill_reply(p, &req, -EIO, NULL, 0);
		head->flags = 1ULL << bit;
		EXPECT_EQ(-EINVAL, puppet_command_now(p, COMMIT, &cmd));
	}
	head->flags = 0;
	EXPECT_EQ(0, goes_on(p, &self->r, &req));
}

/* The reply is taken, and the slot is free until it is armed again. */
TEST_F(command, commit_only)
{
	struct fuse_uring_slot_cmd cmd, fetch = { 0 };
	static struct puppet_req req;
	struct puppet *p = &self->p;
	unsigned int i;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, hold(p, &self->r, &req));
		cmd = cmd_of(&req);
		cmd.flags = FUSE_URING_COMMIT_ONLY;
		puppet_fill_reply(p, &req, -EIO, NULL, 0);
		EXPECT_EQ(0, puppet_command_now(p, COMMIT, &cmd));
		EXPECT_EQ(EIO, puppet_serve(p, &self->r));
		EXPECT_EQ(-ENOENT, puppet_command_now(p, COMMIT, &cmd));
		cmd.flags = 0;
		EXPECT_EQ(-ENOENT, puppet_command_now(p, COMMIT, &cmd));
		EXPECT_EQ(1 - i, ring_queue_stat(p->conn, 0, "parked"));
	}
	/* No slot is left: /dev/fuse, as after FUSE_URING_REQ_DETACH. */
	EXPECT_EQ(0, ring_stat(p->conn, "queues_live"));

	for (fetch.slot = 0; fetch.slot < 2; fetch.slot++)
		ASSERT_EQ(0, puppet_command(p, FETCH, &fetch));
	ASSERT_EQ(0, hold(p, &self->r, &req));
	EXPECT_EQ(0, goes_on(p, &self->r, &req));
}

/* Where the payload lies is the kernel's choice: it does not read it back. */
TEST_F(command, payload_offset_is_not_trusted)
{
	struct fuse_uring_slot_header *head;
	struct fuse_attr_out attr = { .attr = {
		.ino = 2, .mode = S_IFREG | 0600, .nlink = 1, .size = 4711 } };
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	struct puppet *p = &self->p;

	ASSERT_EQ(0, hold(p, &self->r, &req));
	cmd = cmd_of(&req);
	puppet_fill_reply(p, &req, 0, &attr, sizeof(attr));
	head = puppet_slot_header(p, req.qid, req.slot);
	head->payload_offset = ~0U;
	head->payload_room = ~0ULL;
	head->commit_id = ~0ULL;
	ASSERT_EQ(0, puppet_command(p, COMMIT, &cmd));
	EXPECT_EQ(0, puppet_serve(p, &self->r));
}

TEST_F(command, error_out_of_range)
{
	static const int errors[] = { 1, 2147483647, -512, -1000,
				      -2147483647 - 1 };
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	struct puppet *p = &self->p;
	unsigned int i;

	ASSERT_EQ(0, hold(p, &self->r, &req));
	cmd = cmd_of(&req);
	for (i = 0; i < ARRAY_SIZE(errors); i++) {
		puppet_fill_reply(p, &req, errors[i], NULL, 0);
		EXPECT_EQ(-EINVAL, puppet_command_now(p, COMMIT, &cmd))
			TH_LOG("error %d", errors[i]);
	}
	EXPECT_EQ(0, goes_on(p, &self->r, &req));
}

TEST_F(command, unique_mismatch)
{
	struct fuse_uring_req_header *head;
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	struct puppet *p = &self->p;
	struct fuse_out_header *out;

	ASSERT_EQ(0, hold(p, &self->r, &req));
	cmd = cmd_of(&req);
	head = puppet_header(p, req.qid, req.slot);
	out = (void *)head->in_out;
	puppet_fill_reply(p, &req, -EIO, NULL, 0);
	out->unique++;
	EXPECT_EQ(-EINVAL, puppet_command_now(p, COMMIT, &cmd));
	out->unique = 0;
	EXPECT_EQ(-EINVAL, puppet_command_now(p, COMMIT, &cmd));
	EXPECT_EQ(0, goes_on(p, &self->r, &req));
}

/* Existing servers leave the length as they like. */
TEST_F(command, reply_length_is_ignored)
{
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	struct puppet *p = &self->p;
	struct fuse_out_header *out;

	ASSERT_EQ(0, hold(p, &self->r, &req));
	cmd = cmd_of(&req);
	puppet_fill_reply(p, &req, -EXDEV, NULL, 0);
	out = (void *)puppet_header(p, req.qid, req.slot)->in_out;
	out->len = ~0U;
	ASSERT_EQ(0, puppet_command(p, COMMIT, &cmd));
	EXPECT_EQ(EXDEV, puppet_serve(p, &self->r));
}

/* And the size, when the reply is an error. */
TEST_F(command, size_of_error_is_ignored)
{
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	struct puppet *p = &self->p;

	ASSERT_EQ(0, hold(p, &self->r, &req));
	cmd = cmd_of(&req);
	puppet_fill_reply(p, &req, -EXDEV, NULL, 0);
	puppet_header(p, req.qid, req.slot)->ring_ent_in_out.payload_sz = ~0U;
	ASSERT_EQ(0, puppet_command(p, COMMIT, &cmd));
	EXPECT_EQ(EXDEV, puppet_serve(p, &self->r));
}

/* The request has ended then, and its slot waits for a new FETCH. */
static void wrong_size(struct __test_metadata *_metadata, struct puppet *p,
		       struct requester *r, unsigned int size)
{
	static char data[4096];
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;

	ASSERT_EQ(0, hold(p, r, &req));
	cmd = cmd_of(&req);
	puppet_fill_reply(p, &req, 0, data, size);
	EXPECT_EQ(-EBADMSG, puppet_command_now(p, COMMIT, &cmd));
	EXPECT_EQ(EIO, puppet_serve(p, r));

	EXPECT_EQ(-ENOENT, puppet_command_now(p, COMMIT, &cmd));
	cmd.commit_id = 0;
	EXPECT_EQ(-ENOENT, puppet_command_now(p, COMMIT, &cmd));
	ASSERT_EQ(0, puppet_command(p, FETCH, &cmd));
	ASSERT_EQ(0, hold(p, r, &req));
	EXPECT_EQ(0, goes_on(p, r, &req));
	EXPECT_TRUE(ring_queues_stat_becomes(p->conn, "parked", 2));
}

TEST_F(command, reply_too_short)
{
	wrong_size(_metadata, &self->p, &self->r,
		   sizeof(struct fuse_attr_out) - 1);
}

TEST_F(command, reply_empty)
{
	wrong_size(_metadata, &self->p, &self->r, 0);
}

TEST_F(command, reply_too_long)
{
	wrong_size(_metadata, &self->p, &self->r,
		   sizeof(struct fuse_attr_out) + 1);
}

/* A read may be answered with less than asked for, but not with more. */
TEST_F(command, read_too_long)
{
	struct puppet_io io = {
		.path = FILE2,
		.flags = O_RDONLY | O_DIRECT,
		.len = 4096,
	};
	static char data[8192];
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	struct puppet *p = &self->p;

	ASSERT_EQ(0, requester_start(&self->r, request_read, &io));
	ASSERT_EQ(0, puppet_until(p, &req, FUSE_READ));
	ASSERT_EQ(4096, req.read.size);
	cmd = cmd_of(&req);
	puppet_fill_reply(p, &req, 0, data, 4097);
	EXPECT_EQ(-EBADMSG, puppet_command_now(p, COMMIT, &cmd));
	EXPECT_EQ(EIO, puppet_serve(p, &self->r));
}

/* Of a direct read that is short, the page cache reads the rest. */
TEST_F(command, read_short)
{
	struct puppet_io io = {
		.path = FILE2,
		.flags = O_RDONLY | O_DIRECT,
		.len = 4096,
		.check = true,
	};
	static struct puppet_req req;
	struct puppet *p = &self->p;

	ASSERT_EQ(0, requester_start(&self->r, request_read, &io));
	ASSERT_EQ(0, puppet_until(p, &req, FUSE_READ));
	ASSERT_EQ(0, puppet_reply(p, &req, 0, NULL, 0));
	ASSERT_EQ(0, puppet_until(p, &req, FUSE_READ));
	ASSERT_EQ(0, puppet_answer(p, &req));
	EXPECT_EQ(0, puppet_serve(p, &self->r));
}

/* Numbers that are nobody's; user_test has those of the other kind of ring. */
TEST_F(command, unknown)
{
	static const __u32 ops[] = { 0, 3, 4, 63, 68, 0xffffffff };
	struct fuse_uring_slot_cmd cmd = { 0 };
	static struct puppet_req req;
	unsigned int i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		ret = puppet_command_now(&self->p, ops[i], &cmd);
		EXPECT_EQ(-EOPNOTSUPP, ret) TH_LOG("command %u", ops[i]);
	}
	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

/* A flag that is not known is as a command that is not, without a ring too. */
TEST(unknown_flags)
{
	static const __u32 ops[] = {
		FETCH, COMMIT, FUSE_URING_REQ_NOTIFY, FUSE_URING_REQ_DETACH
	};
	const char *why = test_prepare(TRANSPORT_RING);
	struct fuse_uring_slot_cmd cmd = { .flags = 1U << 31 };
	struct puppet_options opt = { .transport = TRANSPORT_RING };
	struct puppet p;
	unsigned int i;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&p, &opt));
	ASSERT_EQ(0, puppet_uring(&p));
	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		EXPECT_EQ(-EOPNOTSUPP, puppet_command_now(&p, ops[i], &cmd));
		cmd.flags = 0;
		EXPECT_EQ(-ENOTCONN, puppet_command_now(&p, ops[i], &cmd));
		cmd.flags = 1U << 31;
	}
	ASSERT_EQ(0, puppet_mount(&p));
	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		EXPECT_EQ(-EOPNOTSUPP, puppet_command_now(&p, ops[i], &cmd));
		cmd.flags = 0;
		EXPECT_EQ(-ENXIO, puppet_command_now(&p, ops[i], &cmd));
		cmd.flags = 1U << 31;
	}
	puppet_stop(&p);
}

/* From one of io_uring's own threads. */
TEST_F(command, async)
{
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	struct puppet *p = &self->p;

	ASSERT_EQ(0, hold(p, &self->r, &req));
	cmd = cmd_of(&req);
	puppet_fill_reply(p, &req, -EXDEV, NULL, 0);
	ASSERT_EQ(0, puppet_command_fd(p, p->fd, COMMIT, &cmd, IOSQE_ASYNC));
	EXPECT_EQ(EXDEV, puppet_serve(p, &self->r));
	/* What it armed takes requests. */
	ASSERT_TRUE(ring_queues_stat_becomes(p->conn, "parked", 2));
	ASSERT_EQ(0, hold(p, &self->r, &req));
	EXPECT_EQ(0, goes_on(p, &self->r, &req));
}

TEST_F(command, of_a_clone)
{
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	struct puppet *p = &self->p;
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	__u32 source = p->fd;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, hold(p, &self->r, &req));
	cmd = cmd_of(&req);
	puppet_fill_reply(p, &req, -EXDEV, NULL, 0);
	ASSERT_EQ(0, ioctl(fd, FUSE_DEV_IOC_CLONE, &source));
	ASSERT_EQ(0, puppet_command_fd(p, fd, COMMIT, &cmd, 0));
	EXPECT_EQ(EXDEV, puppet_serve(p, &self->r));
	ASSERT_EQ(0, hold(p, &self->r, &req));
	EXPECT_EQ(0, goes_on(p, &self->r, &req));
	close(fd);
}

TEST_F(command, on_unmounted_descriptor)
{
	struct fuse_uring_slot_cmd cmd = { 0 };
	static struct puppet_req req;
	struct puppet *p = &self->p;
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, puppet_command_fd(p, fd, FETCH, &cmd, 0));
	EXPECT_EQ(-ENOTCONN, puppet_cqe(p, TEST_WAIT_MS));
	close(fd);
	ASSERT_EQ(0, hold(p, &self->r, &req));
	EXPECT_EQ(0, goes_on(p, &self->r, &req));
}

TEST_F(command, after_the_end)
{
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	struct puppet *p = &self->p;
	struct requester r;

	ASSERT_EQ(0, hold(p, &self->r, &req));
	cmd = cmd_of(&req);
	ASSERT_EQ(0, conn_abort(p->conn));
	/* The armed slot's, whose task work may be late. */
	EXPECT_EQ(-ENOTCONN, puppet_cqe(p, TEST_WAIT_MS));
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r));

	EXPECT_EQ(-ENOTCONN, puppet_command_now(p, COMMIT, &cmd));
	cmd.commit_id = 0;
	EXPECT_EQ(-ENOTCONN, puppet_command_now(p, FETCH, &cmd));
	cmd.slot ^= 1;
	EXPECT_EQ(-ENOTCONN, puppet_command_now(p, FETCH, &cmd));
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	EXPECT_EQ(ENOTCONN, requester_join(&r));
}

/* Each queue has its own slots. */
FIXTURE(queues)
{
	struct puppet p;
	struct requester r;
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
	if (sysconf(_SC_NPROCESSORS_CONF) < 2)
		SKIP(return, "needs two CPUs");
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
}

FIXTURE_TEARDOWN(queues)
{
	puppet_stop(&self->p);
}

TEST_F(queues, commit_to_the_wrong_one)
{
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	struct puppet *p = &self->p;

	ASSERT_EQ(0, hold(p, &self->r, &req));
	puppet_fill_reply(p, &req, -EIO, NULL, 0);
	cmd = cmd_of(&req);
	cmd.qid ^= 1;
	EXPECT_EQ(-ENOENT, puppet_command_now(p, COMMIT, &cmd));
	EXPECT_EQ(0, goes_on(p, &self->r, &req));
}

/* A request's name says neither queue nor slot of another one. */
TEST_F(queues, ids_of_the_other)
{
	static struct puppet_req first, second;
	struct fuse_uring_slot_cmd cmd;
	struct puppet *p = &self->p;
	struct requester r;

	ASSERT_EQ(0, hold(p, &self->r, &first));
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	/* The first has the only slot of its queue. */
	ASSERT_EQ(0, puppet_until(p, &second, FUSE_GETATTR));
	ASSERT_NE(first.qid, second.qid);
	cmd = cmd_of(&first);
	cmd.commit_id = second.commit_id;
	EXPECT_EQ(-ENOENT, puppet_command_now(p, COMMIT, &cmd));
	ASSERT_EQ(0, puppet_answer(p, &first));
	ASSERT_EQ(0, puppet_answer(p, &second));
	EXPECT_EQ(0, puppet_serve(p, &self->r));
	EXPECT_EQ(0, puppet_serve(p, &r));
}

/* An io_uring that polls for completions cannot have these. */
TEST(iopoll)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = 1,
		.depth = 1,
		.uring_flags = IORING_SETUP_IOPOLL,
	};
	struct fuse_uring_slot_cmd cmd = { 0 };
	struct puppet p;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&p, &opt));
	ASSERT_EQ(0, puppet_mount(&p));
	ASSERT_EQ(0, puppet_setup(&p));
	ASSERT_EQ(0, puppet_map(&p));
	ASSERT_EQ(0, puppet_uring(&p));
	EXPECT_EQ(-EOPNOTSUPP, puppet_command_now(&p, FETCH, &cmd));

	puppet_close_uring(&p);
	p.opt.uring_flags = 0;
	ASSERT_EQ(0, puppet_uring(&p));
	ASSERT_EQ(0, puppet_arm(&p));
	EXPECT_EQ(0, puppet_init(&p));
	EXPECT_EQ(0, ring_stat(p.conn, "requests_dev"));
	puppet_stop(&p);
}

TEST(without_ring)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = 1,
		.depth = 1,
	};
	struct fuse_uring_slot_cmd cmd = { 0 };
	struct puppet p;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&p, &opt));
	ASSERT_EQ(0, puppet_mount(&p));
	ASSERT_EQ(0, puppet_uring(&p));
	EXPECT_EQ(-ENXIO, puppet_command_now(&p, FETCH, &cmd));
	cmd.commit_id = 1;
	EXPECT_EQ(-ENXIO, puppet_command_now(&p, COMMIT, &cmd));
	/* Over /dev/fuse all is as it was. */
	EXPECT_EQ(0, puppet_init(&p));
	puppet_stop(&p);
}

TEST_HARNESS_MAIN
