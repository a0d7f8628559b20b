// SPDX-License-Identifier: GPL-2.0
/*
 * What is special about a ring whose slots are memory of the server: how it
 * begins, every error of its commands, memory that is not there when the kernel
 * wants it, and what servers for mainline get away with.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "proto.h"
#include "puppet.h"
#include "util.h"

#define FILE2		(TEST_MNT "/f2")
#define REGISTER	FUSE_IO_URING_CMD_REGISTER
#define COMMIT		FUSE_IO_URING_CMD_COMMIT_AND_FETCH
#define DEFER	(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)

/* Nothing more comes: long enough to notice, and never a reason to fail. */

/* A good answer to the GETATTR of FILE2. */
static const struct fuse_attr_out good_attr = {
	.attr = { .ino = PUPPET_FILE, .mode = S_IFREG | 0666, .nlink = 1 },
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

/* One more request is made and answered, and came in a slot. */
static int one_more(struct puppet *p)
{
	static struct puppet_req req;
	struct requester r;
	int ret = hold(p, &r, &req);

	if (!ret)
		ret = puppet_answer(p, &req);
	return ret ? ret : puppet_serve(p, &r);
}

/* The held request is answered well and the next one, too. */
static int goes_on(struct puppet *p, struct requester *r,
		   struct puppet_req *req)
{
	int ret = puppet_answer(p, req);

	if (!ret)
		ret = puppet_serve(p, r);
	if (!ret)
		ret = one_more(p);
	return !ret && !puppet_all_by_ring(p) ? -EPROTO : ret;
}

/* A command that ends at once: its result. */
static int command_now(struct puppet *p, __u32 cmd_op, __u16 qid,
		       __u64 commit_id, const void *addr, __u32 len)
{
	struct fuse_uring_cmd_req cmd = { .qid = qid, .commit_id = commit_id };
	/* Known as that of a slot that there is not. */
	int ret = puppet_user_command(p, cmd_op, &cmd, 99, addr, len);

	return ret ? ret : puppet_cqe(p, TEST_WAIT_MS);
}

/* The memory of a slot as REGISTER wants it. */
static void slot_iov(struct puppet *p, unsigned int slot, struct iovec iov[2])
{
	iov[0].iov_base = puppet_header(p, 0, slot);
	iov[0].iov_len = sizeof(struct fuse_uring_req_header);
	iov[1].iov_base = puppet_payload(p, 0, slot);
	iov[1].iov_len = p->setup.payload_size;
}

static int register_now(struct puppet *p, __u16 qid)
{
	struct iovec iov[2];

	slot_iov(p, 0, iov);
	return command_now(p, REGISTER, qid, 0, iov, 2);
}

/* The same with an io_uring of its own, whose SQEs are of 64 bytes. */
static int small_sqes(struct puppet *q, const struct puppet *p)
{
	*q = *p;
	q->kept = NULL;
	q->kept_nr = 0;
	q->kept_size = 0;
	q->opt.uring_flags &= ~DEFER;
	return io_uring_queue_init(8, &q->uring, 0);
}

/* As far as FUSE_INIT, which has not come yet. */
FIXTURE(begin)
{
	struct puppet p;
	struct requester r;
};

FIXTURE_VARIANT(begin)
{
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(begin, plain) {
	.uring_flags = 0,
};

FIXTURE_VARIANT_ADD(begin, defer) {
	.uring_flags = DEFER,
};

FIXTURE_SETUP(begin)
{
	const char *why = test_prepare(TRANSPORT_USER);
	struct puppet_options opt = {
		.transport = TRANSPORT_USER,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 2,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));
}

FIXTURE_TEARDOWN(begin)
{
	puppet_stop(&self->p);
}

TEST_F(begin, init_offers)
{
	ASSERT_EQ(0, puppet_init(&self->p));
	EXPECT_NE(0, self->p.init_in.flags & FUSE_INIT_EXT);
	EXPECT_NE(0, self->p.init_in.flags2 & (FUSE_OVER_IO_URING >> 32));
	EXPECT_LE(42, self->p.init_in.minor);
}

/* The same to both commands, and also when INIT has been read. */
TEST_F(begin, before_init)
{
	static struct puppet_req req;

	EXPECT_EQ(-EAGAIN, register_now(&self->p, 0));
	EXPECT_EQ(-EAGAIN, command_now(&self->p, COMMIT, 0, 1, NULL, 0));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_INIT));
	EXPECT_EQ(-EAGAIN, register_now(&self->p, 0));
	EXPECT_EQ(-EAGAIN, command_now(&self->p, COMMIT, 0, req.in.unique,
				       NULL, 0));
}

/* What was too early does not count as a failure. */
TEST_F(begin, too_early_and_again)
{
	EXPECT_EQ(-EAGAIN, register_now(&self->p, 0));
	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, puppet_arm(&self->p));
	ASSERT_EQ(0, one_more(&self->p));
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

TEST_F(begin, not_promised)
{
	self->p.opt.no_promise = true;
	ASSERT_EQ(0, puppet_init(&self->p));
	EXPECT_EQ(-EOPNOTSUPP, register_now(&self->p, 0));
	EXPECT_EQ(-EOPNOTSUPP, command_now(&self->p, COMMIT, 0, 1, NULL, 0));
	/* Nobody waits for what was not promised. */
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* Nobody waits for the first slot: until then, requests go over /dev/fuse. */
TEST_F(begin, served_before_the_first_slot)
{
	static struct puppet_req req;
	unsigned int i;

	/* One was there before the promise was. */
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 2));
	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_LOOKUP));
	EXPECT_FALSE(req.ring);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	}

	ASSERT_EQ(0, puppet_arm(&self->p));
	EXPECT_EQ(0, one_more(&self->p));
}

static bool dev_has_request(struct puppet *p, unsigned int ms)
{
	struct pollfd pfd = { .fd = p->fd, .events = POLLIN };

	return poll(&pfd, 1, ms) == 1 && pfd.revents & POLLIN;
}

/* What still waits there goes to the ring. */
TEST_F(begin, first_slot_gets_what_waits)
{
	static struct puppet_req req;

	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_TRUE(dev_has_request(&self->p, TEST_WAIT_MS));
	ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 0, 1));
	EXPECT_FALSE(dev_has_request(&self->p, 0));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_LOOKUP));
	EXPECT_TRUE(req.ring);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

/* What has been read there is answered there. */
TEST_F(begin, read_before_the_first_slot)
{
	static struct puppet_req req;

	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_LOOKUP));
	ASSERT_FALSE(req.ring);
	ASSERT_EQ(0, puppet_arm(&self->p));
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_EQ(0, one_more(&self->p));
}

/* Who waits there can be killed. */
TEST_F(begin, killed_while_waiting)
{
	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 1));
	ASSERT_TRUE(requester_sleeps(&self->r));
	kill(self->r.pid, SIGKILL);
	EXPECT_EQ(-SIGKILL, requester_join(&self->r));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
	ASSERT_EQ(0, puppet_arm(&self->p));
	EXPECT_EQ(0, one_more(&self->p));
}

/* A first slot that is not to be had changes nothing. */
TEST_F(begin, first_registration_fails)
{
	static struct puppet_req req;

	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 1));
	EXPECT_EQ(-EINVAL, command_now(&self->p, REGISTER, 0, 0, NULL, 1));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_LOOKUP));
	EXPECT_FALSE(req.ring);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* Also when it never gets as far as to what it says. */
TEST_F(begin, first_registration_in_a_small_sqe)
{
	struct puppet q;

	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 1));
	ASSERT_EQ(0, small_sqes(&q, &self->p));
	EXPECT_EQ(-EINVAL, command_now(&q, REGISTER, 0, 0, NULL, 2));
	puppet_close_uring(&q);
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* A later one is the business of nobody but itself. */
TEST_F(begin, later_registration_fails)
{
	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 0, 1));
	EXPECT_EQ(-EINVAL, command_now(&self->p, REGISTER, 0, 0, NULL, 1));
	EXPECT_EQ(0, one_more(&self->p));
	ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 1, 1));
	EXPECT_EQ(0, one_more(&self->p));
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

/* The switch is asked at FUSE_INIT, and not later. */
TEST_F(begin, switched_off_later)
{
	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, ring_switch(false));
	ASSERT_EQ(0, puppet_arm(&self->p));
	EXPECT_EQ(0, one_more(&self->p));
}

/* A descriptor that is not mounted, and a reply before there is a slot. */
TEST_F(begin, no_ring_yet)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC), own = self->p.fd;

	ASSERT_LE(0, fd);
	self->p.fd = fd;
	EXPECT_EQ(-ENOTCONN, register_now(&self->p, 0));
	EXPECT_EQ(-ENOTCONN, command_now(&self->p, COMMIT, 0, 1, NULL, 0));
	self->p.fd = own;
	close(fd);
	ASSERT_EQ(0, puppet_init(&self->p));
	EXPECT_EQ(-ENOTCONN, command_now(&self->p, COMMIT, 0, 1, NULL, 0));
	ASSERT_EQ(0, puppet_arm(&self->p));
	EXPECT_EQ(0, one_more(&self->p));
}

/* One queue is enough, wherever requests come from. */
TEST_F(begin, one_queue)
{
	cpu_set_t all, one;
	struct requester r;
	int cpu;

	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, puppet_arm(&self->p));
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(all), &all));
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		ASSERT_EQ(0, sched_setaffinity(0, sizeof(one), &one));
		ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
		ASSERT_EQ(0, sched_setaffinity(0, sizeof(all), &all));
		EXPECT_EQ(0, puppet_serve(&self->p, &r));
	}
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

TEST(switched_off)
{
	const char *why = test_prepare(TRANSPORT_USER);
	struct puppet_options opt = {
		.transport = TRANSPORT_USER,
		.nr_queues = 1,
	};
	struct requester r;
	struct puppet p;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, ring_switch(false));
	ASSERT_EQ(0, puppet_open(&p, &opt));
	ASSERT_EQ(0, puppet_mount(&p));
	ASSERT_EQ(0, puppet_setup(&p));
	ASSERT_EQ(0, puppet_map(&p));
	ASSERT_EQ(0, puppet_uring(&p));
	/* It says yes all the same. */
	ASSERT_EQ(0, puppet_init(&p));
	EXPECT_EQ(0, p.init_in.flags2 & (FUSE_OVER_IO_URING >> 32));
	EXPECT_EQ(-EOPNOTSUPP, register_now(&p, 0));
	ASSERT_EQ(0, ring_switch(true));
	EXPECT_EQ(-EOPNOTSUPP, register_now(&p, 0));
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	EXPECT_EQ(0, puppet_serve(&p, &r));
	puppet_stop(&p);
}

/* A ring that works, of one queue with two slots. */
FIXTURE(user)
{
	struct puppet p;
	struct requester r;
};

FIXTURE_VARIANT(user)
{
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(user, plain) {
	.uring_flags = 0,
};

FIXTURE_VARIANT_ADD(user, defer) {
	.uring_flags = DEFER,
};

FIXTURE_SETUP(user)
{
	const char *why = test_prepare(TRANSPORT_USER);
	struct puppet_options opt = {
		.transport = TRANSPORT_USER,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 2,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	/* So that the file's dentry is known. */
	ASSERT_EQ(0, one_more(&self->p));
}

FIXTURE_TEARDOWN(user)
{
	puppet_stop(&self->p);
}

TEST_F(user, header)
{
	const struct fuse_uring_req_header *head;
	static struct puppet_req req;

	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	head = puppet_header(&self->p, req.qid, req.slot);
	EXPECT_EQ(req.in.unique, req.commit_id);
	EXPECT_EQ(0, head->ring_ent_in_out.flags);
	EXPECT_EQ(0, head->ring_ent_in_out.payload_sz);
	EXPECT_EQ(sizeof(struct fuse_getattr_in), req.arg_len);
	EXPECT_EQ(sizeof(req.in) + req.arg_len, req.in.len);
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));

	/* A name is payload. */
	ASSERT_EQ(0, requester_start(&self->r, request_stat, TEST_MNT "/f33"));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_LOOKUP));
	head = puppet_header(&self->p, req.qid, req.slot);
	EXPECT_EQ(4, head->ring_ent_in_out.payload_sz);
	EXPECT_STREQ("f33", puppet_payload(&self->p, req.qid, req.slot));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

TEST_F(user, small_sqes)
{
	struct iovec iov[2];
	struct puppet q;

	ASSERT_EQ(0, small_sqes(&q, &self->p));
	slot_iov(&q, 0, iov);
	EXPECT_EQ(-EINVAL, command_now(&q, REGISTER, 0, 0, iov, 2));
	EXPECT_EQ(-EINVAL, command_now(&q, COMMIT, 0, 1, NULL, 0));
	puppet_close_uring(&q);
	EXPECT_EQ(0, one_more(&self->p));
}

TEST_F(user, number_of_iovecs)
{
	static const __u32 wrong[] = { 0, 1, 3, 1024, 0x80000002, ~0U };
	struct iovec iov[3];
	unsigned int i;

	slot_iov(&self->p, 0, iov);
	iov[2] = iov[1];
	for (i = 0; i < ARRAY_SIZE(wrong); i++)
		EXPECT_EQ(-EINVAL, command_now(&self->p, REGISTER, 0, 0, iov,
					       wrong[i]))
			TH_LOG("%u", wrong[i]);
	EXPECT_EQ(0, one_more(&self->p));
}

TEST_F(user, size_of_iovecs)
{
	const size_t header = sizeof(struct fuse_uring_req_header);
	const size_t payload = self->p.setup.payload_size;
	const struct {
		size_t header, payload;
	} wrong[] = {
		{ 0, payload },
		{ header - 1, payload },
		{ sizeof(struct fuse_in_header), payload },
		{ header, 0 },
		{ header, payload - 1 },
		{ header, 8191 },
		{ payload, header },
	};
	struct iovec iov[2];
	unsigned int i;

	slot_iov(&self->p, 0, iov);
	for (i = 0; i < ARRAY_SIZE(wrong); i++) {
		iov[0].iov_len = wrong[i].header;
		iov[1].iov_len = wrong[i].payload;
		EXPECT_EQ(-EINVAL, command_now(&self->p, REGISTER, 0, 0, iov, 2))
			TH_LOG("%zu %zu", wrong[i].header, wrong[i].payload);
	}
	EXPECT_EQ(0, one_more(&self->p));
}

TEST_F(user, address_of_iovecs)
{
	void *gone = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec *iov = gone;

	ASSERT_NE(MAP_FAILED, gone);
	slot_iov(&self->p, 0, iov);
	ASSERT_EQ(0, munmap(gone, getpagesize()));
	EXPECT_EQ(-EFAULT, command_now(&self->p, REGISTER, 0, 0, gone, 2));
	EXPECT_EQ(-EFAULT, command_now(&self->p, REGISTER, 0, 0, NULL, 2));
	EXPECT_EQ(-EFAULT, command_now(&self->p, REGISTER, 0, 0,
				       (void *)-4096L, 2));
	EXPECT_EQ(0, one_more(&self->p));
}

TEST_F(user, no_such_queue)
{
	static struct puppet_req req;
	int first = sysconf(_SC_NPROCESSORS_CONF);

	EXPECT_EQ(-EINVAL, register_now(&self->p, first));
	EXPECT_EQ(-EINVAL, register_now(&self->p, 0xffff));
	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	EXPECT_EQ(-EINVAL, command_now(&self->p, COMMIT, first, req.commit_id,
				       NULL, 0));
	EXPECT_EQ(-EINVAL, command_now(&self->p, COMMIT, 0xffff, req.commit_id,
				       NULL, 0));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

TEST_F(user, too_many_slots)
{
	struct fuse_uring_cmd_req cmd = { 0 };
	unsigned int i, nr = FUSE_URING_MAX_QUEUE_DEPTH;
	struct iovec iov[2];
	int ret = 0;

	/* All of them the same memory, and none gets a request. */
	slot_iov(&self->p, 0, iov);
	for (i = self->p.setup.queue_depth; i < nr && !ret; i++)
		ret = puppet_user_command(&self->p, REGISTER, &cmd, 0, iov, 2);
	ASSERT_EQ(0, ret);
	ASSERT_EQ(-ETIMEDOUT, puppet_cqe(&self->p, 0));
	EXPECT_EQ(-ENOSPC, register_now(&self->p, 0));
}

TEST_F(user, unknown_commit_id)
{
	static struct puppet_req req;
	unsigned int bit;

	EXPECT_EQ(-ENOENT, command_now(&self->p, COMMIT, 0, 1, NULL, 0));
	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	puppet_fill_reply(&self->p, &req, -EXDEV, NULL, 0);
	for (bit = 0; bit < 64; bit++)
		EXPECT_EQ(-ENOENT, command_now(&self->p, COMMIT, 0,
					       req.commit_id ^ (1ULL << bit),
					       NULL, 0))
			TH_LOG("bit %u", bit);
	EXPECT_EQ(-ENOENT, command_now(&self->p, COMMIT, 0, 0, NULL, 0));
	EXPECT_EQ(-ENOENT, command_now(&self->p, COMMIT, 0, ~0ULL, NULL, 0));
	EXPECT_FALSE(requester_ended(&self->r, NULL, 0));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

/* Also when the slot holds the next request. */
TEST_F(user, commit_twice)
{
	static struct puppet_req req, next;

	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_EQ(-ENOENT, command_now(&self->p, COMMIT, 0, req.commit_id,
				       NULL, 0));
	ASSERT_EQ(0, hold(&self->p, &self->r, &next));
	EXPECT_EQ(-ENOENT, command_now(&self->p, COMMIT, 0, req.commit_id,
				       NULL, 0));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &next));
}

/* A request that came over /dev/fuse has no slot. */
TEST_F(user, commit_of_a_read)
{
	static struct puppet_held held;
	static struct puppet_req intr;

	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_GETATTR, 1));
	kill(self->r.pid, SIGKILL);
	ASSERT_EQ(0, puppet_until(&self->p, &intr, FUSE_INTERRUPT));
	EXPECT_FALSE(intr.ring);
	EXPECT_EQ(-ENOENT, command_now(&self->p, COMMIT, 0, intr.in.unique,
				       NULL, 0));
	ASSERT_EQ(0, puppet_release_all(&self->p, &held));
	EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &self->r));
	EXPECT_EQ(0, one_more(&self->p));
}

/* And one that came in a slot is not answered by write(2). */
TEST_F(user, write_of_a_slot)
{
	struct fuse_out_header out = { .len = sizeof(out), .error = -EXDEV };
	static struct puppet_req req;

	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	out.unique = req.in.unique;
	EXPECT_EQ(-1, write(self->p.fd, &out, sizeof(out)));
	EXPECT_EQ(ENOENT, errno);
	EXPECT_FALSE(requester_ended(&self->r, NULL, 0));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

/* The other queue's requests are not this one's. */
TEST_F(user, commit_to_the_wrong_queue)
{
	static struct puppet_req req;
	struct puppet *p = &self->p;
	struct iovec iov[2];
	struct fuse_uring_cmd_req cmd = { .qid = 1 };

	if (sysconf(_SC_NPROCESSORS_CONF) < 2)
		SKIP(return, "needs two CPUs");
	ASSERT_EQ(0, hold(p, &self->r, &req));
	/* The memory of a slot that is there, as nothing is to come. */
	slot_iov(p, !req.slot, iov);
	ASSERT_EQ(0, puppet_user_command(p, REGISTER, &cmd, !req.slot, iov, 2));
	puppet_fill_reply(p, &req, -EXDEV, NULL, 0);
	EXPECT_EQ(-ENOENT, command_now(p, COMMIT, 1, req.commit_id, NULL, 0));
	EXPECT_FALSE(requester_ended(&self->r, NULL, 0));
	ASSERT_EQ(0, puppet_commit(p, &req));
	EXPECT_EQ(EXDEV, puppet_serve(p, &self->r));
}

/* Numbers of the managed ring, and its setup. */
TEST_F(user, managed)
{
	struct fuse_uring_setup setup = { .size = sizeof(setup) };
	struct fuse_uring_slot_cmd cmd = { 0 };
	static struct puppet_req req;
	__u32 op;

	for (op = FUSE_URING_REQ_FETCH; op <= FUSE_URING_REQ_DETACH; op++)
		EXPECT_EQ(-EBUSY, puppet_command_now(&self->p, op, &cmd))
			TH_LOG("command %u", op);
	EXPECT_EQ(-1, ioctl(self->p.fd, FUSE_DEV_IOC_URING_SETUP, &setup));
	EXPECT_EQ(EBUSY, errno);
	setup = (struct fuse_uring_setup){ .size = sizeof(setup) };
	EXPECT_EQ(-1, ioctl(self->p.fd, FUSE_DEV_IOC_URING_INFO, &setup));
	EXPECT_EQ(ENXIO, errno);
	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	cmd.commit_id = req.commit_id;
	EXPECT_EQ(-EBUSY, puppet_command_now(&self->p,
					     FUSE_URING_REQ_COMMIT_AND_FETCH,
					     &cmd));
	EXPECT_EQ(0, goes_on(&self->p, &self->r, &req));
}

/* Numbers that neither ring has. */
TEST_F(user, unknown_command)
{
	static const __u32 ops[] = { 0, 3, 63, 127, 0xffff };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ops); i++)
		EXPECT_EQ(-EINVAL, command_now(&self->p, ops[i], 0, 0, NULL, 0))
			TH_LOG("command %u", ops[i]);
}

/* What nobody needs to set is not looked at. */
TEST_F(user, fields_that_do_not_matter)
{
	struct fuse_uring_cmd_req cmd = {
		.flags = ~0ULL,
		.padding = { 1, 2, 3, 4, 5, 6 },
	};
	struct fuse_uring_ent_in_out *ent;
	static struct puppet_req req;
	struct fuse_out_header *out;
	struct puppet *p = &self->p;
	struct iovec iov[2];
	unsigned int i;

	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, hold(p, &self->r, &req));
		puppet_fill_reply(p, &req, -EXDEV, NULL, 0);
		out = (void *)puppet_header(p, 0, req.slot)->in_out;
		out->len = i % 2 ? ~0U : 1;
		ent = &puppet_header(p, 0, req.slot)->ring_ent_in_out;
		/* It is an error: no payload, whatever this says. */
		ent->payload_sz = i % 2 ? ~0U : p->setup.payload_size;
		ent->flags = ~0ULL;
		ent->commit_id = ~0ULL;
		ent->padding = ~0U;
		ent->reserved = ~0ULL;
		cmd.commit_id = req.commit_id;
		/* Only REGISTER has these two. */
		ASSERT_EQ(0, puppet_user_command(p, COMMIT, &cmd, req.slot,
						 (void *)-4096L, 7));
		EXPECT_EQ(EXDEV, puppet_serve(p, &self->r));
	}
	/* And it has no request yet. */
	cmd.commit_id = 12345;
	slot_iov(p, 0, iov);
	ASSERT_EQ(0, puppet_user_command(p, REGISTER, &cmd, 0, iov, 2));
	EXPECT_EQ(-ETIMEDOUT, puppet_cqe(p, 0));
	EXPECT_TRUE(puppet_all_by_ring(p));
}

/* A reply that is none: its request ends, and its slot gets the next one. */
TEST_F(user, bad_replies)
{
	static const struct {
		__s32 error;
		__u32 size;
		__u64 unique;		/* what is added to the right one */
	} bad[] = {
		{ 0, sizeof(struct fuse_attr_out), 1 },
		{ 0, sizeof(struct fuse_attr_out), 1ULL << 62 },
		{ -EXDEV, 0, 2 },
		{ 1, 0, 0 },
		{ EXDEV, 0, 0 },
		{ 2147483647, 0, 0 },
		{ -512, 0, 0 },
		{ -2147483647 - 1, 0, 0 },
		{ 0, 0, 0 },
		{ 0, sizeof(struct fuse_attr_out) - 1, 0 },
		{ 0, sizeof(struct fuse_attr_out) + 1, 0 },
		{ 0, 1 << 20, 0 },
		{ 0, (1 << 20) + 1, 0 },
		{ 0, 0x80000000, 0 },
		{ 0, 0xffffffff, 0 },
	};
	struct puppet *p = &self->p;
	static struct puppet_req req;
	struct fuse_out_header *out;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		ASSERT_EQ(0, hold(p, &self->r, &req));
		puppet_fill_reply(p, &req, bad[i].error, &good_attr,
				  sizeof(good_attr));
		out = (void *)puppet_header(p, 0, req.slot)->in_out;
		out->unique += bad[i].unique;
		puppet_header(p, 0, req.slot)->ring_ent_in_out.payload_sz =
			bad[i].size;
		ASSERT_EQ(0, puppet_commit(p, &req));
		EXPECT_EQ(EIO, puppet_serve(p, &self->r))
			TH_LOG("reply %u", i);
	}
	/* It was not for the attributes. */
	ASSERT_EQ(0, hold(p, &self->r, &req));
	puppet_fill_reply(p, &req, 0, &good_attr, sizeof(good_attr));
	ASSERT_EQ(0, puppet_commit(p, &req));
	EXPECT_EQ(0, puppet_serve(p, &self->r));
	/* Both slots are there still. */
	EXPECT_TRUE(ring_queues_stat_becomes(p->conn, "parked", 2));
	EXPECT_EQ(0, one_more(p));
	EXPECT_TRUE(puppet_all_by_ring(p));
}

/* By another descriptor of the connection. */
TEST_F(user, of_a_clone)
{
	struct fuse_uring_cmd_req cmd = { 0 };
	static struct puppet_req req;
	struct puppet *p = &self->p;
	__u32 source = p->fd;
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC), mounted = p->fd;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ioctl(fd, FUSE_DEV_IOC_CLONE, &source));
	ASSERT_EQ(0, hold(p, &self->r, &req));
	puppet_fill_reply(p, &req, -EXDEV, NULL, 0);
	cmd.commit_id = req.commit_id;
	p->fd = fd;
	ASSERT_EQ(0, puppet_user_command(p, COMMIT, &cmd, req.slot, NULL, 0));
	p->fd = mounted;
	EXPECT_EQ(EXDEV, puppet_serve(p, &self->r));
	EXPECT_EQ(0, one_more(p));
	close(fd);
}

/* The server's task goes on with the command, when it is in io_uring */
static bool parked_becomes(struct puppet *p, unsigned int nr)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	while (ring_queues_stat(p->conn, "parked") != nr && now_ms() < end) {
		if (puppet_enter(p))
			return false;
		sleep_ms(1);
	}
	return ring_queues_stat(p->conn, "parked") == nr;
}

/* From one of io_uring's own threads, which has the same memory. */
TEST_F(user, async)
{
	static struct puppet_req req;

	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	self->p.opt.sqe_flags = IOSQE_ASYNC;
	ASSERT_EQ(0, puppet_reply(&self->p, &req, -EXDEV, NULL, 0));
	EXPECT_EQ(EXDEV, puppet_serve(&self->p, &self->r));
	/* What it armed takes requests, and so does what this arms. */
	ASSERT_TRUE(parked_becomes(&self->p, 2));
	ASSERT_EQ(0, puppet_register(&self->p, 0, 0));
	ASSERT_TRUE(parked_becomes(&self->p, 3));
	self->p.opt.sqe_flags = 0;
	EXPECT_EQ(0, one_more(&self->p));
	EXPECT_EQ(0, one_more(&self->p));
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

TEST_F(user, after_the_end)
{
	static struct puppet_req req;

	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	ASSERT_EQ(0, conn_abort(self->p.conn));
	/* The other slot's. */
	EXPECT_EQ(-ENOTCONN, puppet_cqe(&self->p, TEST_WAIT_MS));
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r));
	EXPECT_EQ(-ENOTCONN, command_now(&self->p, COMMIT, 0, req.commit_id,
					 NULL, 0));
	EXPECT_EQ(-ENOTCONN, register_now(&self->p, 0));
}

/* The numbers of a ring with user buffers mean nothing on a managed one. */
TEST(on_a_managed_ring)
{
	const char *why = test_prepare(TRANSPORT_USER);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.uring_flags = IORING_SETUP_SQE128,
		.nr_queues = 1,
		.depth = 1,
		/* Nor does this. */
		.init_flags = FUSE_OVER_IO_URING,
	};
	static char payload[1 << 20];
	struct fuse_uring_req_header header;
	struct iovec iov[2] = {
		{ &header, sizeof(header) },
		{ payload, sizeof(payload) },
	};
	static struct puppet_req req;
	struct requester r;
	struct puppet p;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&p, &opt));
	EXPECT_EQ(-EBUSY, command_now(&p, REGISTER, 0, 0, iov, 2));
	EXPECT_EQ(-EBUSY, command_now(&p, COMMIT, 0, 1, NULL, 0));
	ASSERT_EQ(0, hold(&p, &r, &req));
	EXPECT_EQ(-EBUSY, command_now(&p, COMMIT, 0, req.commit_id, NULL, 0));
	EXPECT_EQ(0, goes_on(&p, &r, &req));
	puppet_stop(&p);
}

/*
 * What does not fit into the smallest payload area goes over /dev/fuse, and so
 * does what may have an answer that does not.
 */
#define VALUE_SIZE	65536

static int request_setxattr(const void *path)
{
	static char value[VALUE_SIZE];

	return setxattr(path, "user.x", value, sizeof(value), 0) ? -errno : 0;
}

static int request_getxattr(const void *path)
{
	static char value[VALUE_SIZE];
	ssize_t ret = getxattr(path, "user.x", value, sizeof(value));

	return ret < 0 ? -errno : ret == sizeof(value) ? 0 : -ENODATA;
}

static int request_small_xattr(const void *path)
{
	return setxattr(path, "user.x", "value", 5, 0) ? -errno : 0;
}

TEST(small_payload)
{
	const char *why = test_prepare(TRANSPORT_USER);
	struct puppet_options opt = {
		.transport = TRANSPORT_USER,
		.nr_queues = 1,
		.depth = 2,
		/* A page at least. */
		.payload = max(8192, getpagesize()),
		.max_write = 4096,
	};
	static char value[VALUE_SIZE];
	static struct puppet_req req;
	struct requester r;
	struct puppet p;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&p, &opt));
	ASSERT_EQ(0, one_more(&p));

	ASSERT_EQ(0, requester_start(&r, request_setxattr, FILE2));
	ASSERT_EQ(0, puppet_until(&p, &req, FUSE_SETXATTR));
	EXPECT_FALSE(req.ring);
	EXPECT_LT(VALUE_SIZE, req.arg_len);
	ASSERT_EQ(0, puppet_reply(&p, &req, 0, NULL, 0));
	EXPECT_EQ(0, puppet_serve(&p, &r));

	ASSERT_EQ(0, requester_start(&r, request_getxattr, FILE2));
	ASSERT_EQ(0, puppet_until(&p, &req, FUSE_GETXATTR));
	EXPECT_EQ(sizeof(value) <= opt.payload, req.ring);
	ASSERT_EQ(0, puppet_reply(&p, &req, 0, value, sizeof(value)));
	EXPECT_EQ(0, puppet_serve(&p, &r));

	ASSERT_EQ(0, requester_start(&r, request_small_xattr, FILE2));
	ASSERT_EQ(0, puppet_until(&p, &req, FUSE_SETXATTR));
	EXPECT_TRUE(req.ring);
	ASSERT_EQ(0, puppet_reply(&p, &req, 0, NULL, 0));
	EXPECT_EQ(0, puppet_serve(&p, &r));
	puppet_stop(&p);
}

/*
 * Slots that another thread or process answers than the one that was told, by
 * an io_uring of its own, on either kind of ring.
 */
FIXTURE(elsewhere)
{
	struct puppet p;
	struct requester r;
};

FIXTURE_VARIANT(elsewhere)
{
	enum test_transport transport;
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(elsewhere, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(elsewhere, ring_defer) {
	.transport = TRANSPORT_RING,
	.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(elsewhere, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(elsewhere, user_defer) {
	.transport = TRANSPORT_USER,
	.uring_flags = DEFER,
};

FIXTURE_SETUP(elsewhere)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 1,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	ASSERT_EQ(0, one_more(&self->p));
}

FIXTURE_TEARDOWN(elsewhere)
{
	puppet_stop(&self->p);
}

/* The same server, with an io_uring that is still to be made. */
static void other_puppet(struct puppet *q, const struct puppet *p)
{
	*q = *p;
	q->have_uring = false;
	q->kept = NULL;
	q->kept_nr = 0;
	q->kept_size = 0;
	/* Forgets and interrupts are left to the first one. */
	q->dev_ended = true;
}

struct answerer {
	struct puppet p;
	struct puppet_req req;
	int result;
	bool end;
};

/* Answers the first one's request, and what then comes to the slot. */
static void *answerer(void *arg)
{
	struct answerer *a = arg;

	a->result = puppet_uring(&a->p);
	if (!a->result)
		a->result = puppet_answer(&a->p, &a->req);
	while (!a->result && !__atomic_load_n(&a->end, __ATOMIC_RELAXED))
		a->result = puppet_drain(&a->p, 5);
	return NULL;
}

TEST_F(elsewhere, thread)
{
	static struct answerer a;
	pthread_t thread;
	int i;

	ASSERT_EQ(0, hold(&self->p, &self->r, &a.req));
	other_puppet(&a.p, &self->p);
	a.end = false;
	ASSERT_EQ(0, pthread_create(&thread, NULL, answerer, &a));
	EXPECT_EQ(0, requester_join(&self->r));
	/* The only slot there is now is the other thread's. */
	for (i = 0; i < 5; i++) {
		ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
		EXPECT_EQ(0, requester_join(&self->r));
	}
	EXPECT_EQ(-ETIMEDOUT, puppet_cqe(&self->p, 0));
	__atomic_store_n(&a.end, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, a.result);
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
	puppet_close_uring(&a.p);
}

/* A managed ring's memory is not inherited, so the child maps it again. */
static int child_memory(struct puppet *p, struct puppet_req *req)
{
	const char *old = p->map[req->qid];
	int ret;

	if (p->opt.transport == TRANSPORT_USER)
		return 0;
	ret = puppet_map(p);
	if (!ret)
		req->payload = p->map[req->qid] + (req->payload - old);
	return ret;
}

static int answer_in_child(struct puppet *p, struct puppet_req *req)
{
	struct puppet q;
	int ret;

	other_puppet(&q, p);
	ret = child_memory(&q, req);
	if (!ret)
		ret = puppet_uring(&q);
	if (!ret)
		ret = puppet_answer(&q, req);
	while (!ret)
		ret = puppet_drain(&q, 5);
	return ret;
}

TEST_F(elsewhere, process)
{
	static struct puppet_req req;
	pid_t pid;
	int i;

	ASSERT_EQ(0, hold(&self->p, &self->r, &req));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(-answer_in_child(&self->p, &req));
	}
	EXPECT_EQ(0, requester_join(&self->r));
	for (i = 0; i < 5; i++) {
		ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
		EXPECT_EQ(0, requester_join(&self->r));
	}
	EXPECT_EQ(-ETIMEDOUT, puppet_cqe(&self->p, 0));

	/* With the process, its slot goes; the memory is free for another. */
	kill(pid, SIGKILL);
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "live", 0));
	ASSERT_EQ(0, puppet_arm(&self->p));
	EXPECT_EQ(0, one_more(&self->p));
}

/* Memory that cannot be used. */
FIXTURE(memory)
{
	struct puppet p;
	struct requester r;
};

FIXTURE_VARIANT(memory)
{
	bool header;		/* else the payload area */
	bool gone;		/* else there, but not to be written */
	int prot;
};

FIXTURE_VARIANT_ADD(memory, header_gone) {
	.header = true,
	.gone = true,
};

FIXTURE_VARIANT_ADD(memory, header_protected) {
	.header = true,
	.prot = PROT_NONE,
};

FIXTURE_VARIANT_ADD(memory, header_read_only) {
	.header = true,
	.prot = PROT_READ,
};

FIXTURE_VARIANT_ADD(memory, payload_gone) {
	.gone = true,
};

FIXTURE_VARIANT_ADD(memory, payload_protected) {
	.prot = PROT_NONE,
};

FIXTURE_VARIANT_ADD(memory, payload_read_only) {
	.prot = PROT_READ,
};

FIXTURE_SETUP(memory)
{
	const char *why = test_prepare(TRANSPORT_USER);
	struct puppet_options opt = {
		.transport = TRANSPORT_USER,
		.nr_queues = 1,
		.depth = 2,
		/* Two lookups at a time. */
		.init_flags = FUSE_PARALLEL_DIROPS,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 0, 1));
	ASSERT_EQ(0, one_more(&self->p));
}

FIXTURE_TEARDOWN(memory)
{
	puppet_stop(&self->p);
}

static void *slot_memory(struct puppet *p, bool header, unsigned int slot,
			 size_t *len)
{
	*len = header ? p->setup.header_stride : p->setup.payload_size;
	return header ? (void *)puppet_header(p, 0, slot) :
			(void *)puppet_payload(p, 0, slot);
}

/* Takes the memory of slot 0 away, as the variant has it. */
static int take_away(struct puppet *p, bool header, bool gone, int prot)
{
	size_t len;
	void *mem = slot_memory(p, header, 0, &len);

	return (gone ? munmap(mem, len) : mprotect(mem, len, prot)) ? -errno : 0;
}

static int give_back(struct puppet *p, bool header)
{
	size_t len;
	void *mem = slot_memory(p, header, 0, &len);

	return mmap(mem, len, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED |
		    MAP_ANONYMOUS, -1, 0) == mem ? 0 : -errno;
}

/* A request with a name, which is payload, that was not looked up before. */
static int start_lookup(struct requester *r)
{
	static unsigned int nr = 100;
	char path[64];

	snprintf(path, sizeof(path), TEST_MNT "/f%u", nr++);
	return requester_start(r, request_stat, path);
}

/*
 * Serves until the requester ends, and counts the commands that fail with
 * -EFAULT.  Any other error is returned.
 */
static int serve_faults(struct puppet *p, struct requester *r,
			unsigned int *faults)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	static struct puppet_req req;
	int ret;

	while (now_ms() < end) {
		if (requester_ended(r, &ret, 0))
			return ret;
		ret = puppet_next(p, &req, 2);
		if (ret == -EFAULT)
			++*faults;
		else if (ret < 0)
			return ret;
		else if (ret == PUPPET_REQUEST)
			ret = puppet_answer(p, &req);
		if (ret < 0 && ret != -EFAULT)
			return ret;
	}
	return REQUESTER_HANGS;
}

/* The last slot goes with its memory: the request comes over /dev/fuse. */
TEST_F(memory, before_delivery_to_the_only_slot)
{
	unsigned int faults = 0;
	long dev = ring_stat(self->p.conn, "requests_dev");

	ASSERT_EQ(0, take_away(&self->p, variant->header, variant->gone,
			       variant->prot));
	ASSERT_EQ(0, start_lookup(&self->r));
	EXPECT_EQ(0, serve_faults(&self->p, &self->r, &faults));
	EXPECT_EQ(1, faults);
	EXPECT_LT(dev, ring_stat(self->p.conn, "requests_dev"));
	EXPECT_EQ(0, ring_queues_stat(self->p.conn, "live"));

	/* It can come back. */
	ASSERT_EQ(0, give_back(&self->p, variant->header));
	ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 0, 1));
	EXPECT_EQ(0, one_more(&self->p));
}

/* Another slot takes over. */
TEST_F(memory, before_delivery_to_one_of_two)
{
	struct puppet_held held = { };
	struct puppet_req *req;
	unsigned int i, faults = 0;
	struct requester other;
	__u64 end;
	int ret;

	ASSERT_EQ(0, take_away(&self->p, variant->header, variant->gone,
			       variant->prot));
	ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 1, 1));
	/* Which slot is used first is the kernel's choice. */
	ASSERT_EQ(0, start_lookup(&self->r));
	ASSERT_EQ(0, start_lookup(&other));
	for (end = now_ms() + TEST_WAIT_MS;
	     (!faults || !held.nr) && now_ms() < end;) {
		req = malloc(sizeof(*req));
		ASSERT_NE(NULL, req);
		ret = puppet_next(&self->p, req, 2);
		if (ret == PUPPET_REQUEST) {
			EXPECT_EQ(1, req->slot);
			held.req[held.nr++] = req;
			continue;
		}
		free(req);
		if (ret == PUPPET_TIMEOUT)
			continue;
		ASSERT_EQ(-EFAULT, ret);
		faults++;
	}
	EXPECT_EQ(1, faults);
	ASSERT_EQ(1, held.nr);
	ASSERT_EQ(0, puppet_release_all(&self->p, &held));
	ASSERT_EQ(0, serve_faults(&self->p, &self->r, &faults));
	ASSERT_EQ(0, serve_faults(&self->p, &other, &faults));
	for (i = 0; i < 5; i++) {
		ASSERT_EQ(0, start_lookup(&self->r));
		ASSERT_EQ(0, serve_faults(&self->p, &self->r, &faults));
	}
	EXPECT_EQ(1, faults);
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

/* An address is an address, and nothing is there. */
TEST_F(user, payload_at_zero)
{
	static struct fuse_uring_req_header hdr;
	struct fuse_uring_cmd_req cmd = { };
	struct iovec iov[2] = {
		{ .iov_base = &hdr, .iov_len = sizeof(hdr) },
		{ .iov_len = self->p.setup.payload_size },
	};
	unsigned int i, faults = 0;

	/* Only the payload area is to be missing. */
	memset(&hdr, 1, sizeof(hdr));
	ASSERT_EQ(0, puppet_user_command(&self->p, REGISTER, &cmd, 99, iov, 2));
	for (i = 0; i < 20 && !faults; i++) {
		ASSERT_EQ(0, start_lookup(&self->r));
		ASSERT_EQ(0, serve_faults(&self->p, &self->r, &faults));
	}
	EXPECT_EQ(1, faults);
	EXPECT_EQ(0, one_more(&self->p));
}

#define BAD_ENTRIES	6

static int request_list(const void *path)
{
	DIR *dir = opendir(path);

	if (!dir)
		return -errno;
	while (readdir(dir))
		;
	return closedir(dir) ? -errno : 0;
}

/* Names that the kernel cannot look up by what comes with them. */
static int reply_bad_entries(struct puppet *p, const struct puppet_req *req)
{
	struct {
		struct fuse_entry_out entry;
		struct fuse_dirent dirent;
		char name[8];
	} list[BAD_ENTRIES] = { };
	unsigned int i;

	if (req->read.offset)
		return puppet_reply(p, req, 0, NULL, 0);
	for (i = 0; i < BAD_ENTRIES; i++) {
		list[i].entry.nodeid = 1000 + i;
		list[i].dirent.ino = 1000 + i;
		list[i].dirent.off = i + 1;
		list[i].dirent.namelen = snprintf(list[i].name,
						  sizeof(list[i].name), "b%u", i);
	}
	return puppet_reply(p, req, 0, list, sizeof(list));
}

/*
 * The kernel gives such inodes back by requests that want no reply: these come
 * over /dev/fuse, and cost no slot.
 */
TEST(gives_back_what_it_cannot_use)
{
	struct puppet_options opt = {
		.transport = TRANSPORT_USER,
		.nr_queues = 1,
		.depth = 2,
		.init_flags = FUSE_DO_READDIRPLUS,
	};
	const char *why = test_prepare(TRANSPORT_USER);
	unsigned int i, forgets = 0;
	static struct puppet_req req;
	static struct puppet p;
	struct requester r;
	int ret;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&p, &opt));
	ASSERT_EQ(0, requester_start(&r, request_list, TEST_MNT));
	while (!requester_ended(&r, &ret, 0)) {
		ret = puppet_next(&p, &req, 2);
		ASSERT_LE(0, ret);
		if (ret != PUPPET_REQUEST)
			continue;
		if (req.in.opcode == FUSE_FORGET) {
			EXPECT_FALSE(req.ring);
			forgets++;
		}
		ret = req.in.opcode == FUSE_READDIRPLUS ?
		      reply_bad_entries(&p, &req) : puppet_answer(&p, &req);
		ASSERT_EQ(0, ret);
	}
	EXPECT_EQ(0, ret);
	EXPECT_EQ(BAD_ENTRIES, forgets);
	for (i = 0; i < 2 * opt.depth; i++)
		EXPECT_EQ(0, one_more(&p));
	puppet_stop(&p);
}

/* A GETATTR in slot 0, of which the reply is there and the memory is not. */
static int commit_without(struct puppet *p, struct requester *r, int error,
			  bool header, bool gone, int prot)
{
	static struct puppet_req req;
	int ret = hold(p, r, &req);

	if (ret || req.slot)
		return ret ? ret : -EPROTO;
	puppet_fill_reply(p, &req, error, &good_attr, sizeof(good_attr));
	ret = take_away(p, header, gone, prot);
	return ret ? ret : puppet_commit(p, &req);
}

/* A reply that cannot be read is none. */
TEST_F(memory, before_commit)
{
	bool readable = !variant->gone && variant->prot == PROT_READ;
	unsigned int faults = 0;

	ASSERT_EQ(0, commit_without(&self->p, &self->r, 0, variant->header,
				    variant->gone, variant->prot));
	EXPECT_EQ(readable ? 0 : EIO, requester_join(&self->r));

	/* The slot goes on or goes, and can be there again. */
	ASSERT_EQ(0, give_back(&self->p, variant->header));
	ASSERT_EQ(0, start_lookup(&self->r));
	EXPECT_EQ(0, serve_faults(&self->p, &self->r, &faults));
	EXPECT_GE(readable ? 0 : 1, faults);
	if (faults)
		ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 0, 1));
	EXPECT_EQ(0, one_more(&self->p));
}

/* An error needs no payload. */
TEST_F(memory, before_commit_of_an_error)
{
	bool readable = !variant->gone && variant->prot == PROT_READ;

	ASSERT_EQ(0, commit_without(&self->p, &self->r, -EXDEV,
				    variant->header, variant->gone,
				    variant->prot));
	EXPECT_EQ(variant->header && !readable ? EIO : EXDEV,
		  requester_join(&self->r));
}

/* Memory that is not there yet, or any more, but comes when it is used. */
FIXTURE(pages)
{
	struct puppet p;
	struct requester r;
	char *mem;
	size_t size;
	int fd;
};

FIXTURE_VARIANT(pages)
{
	bool file;
	int flags;
};

FIXTURE_VARIANT_ADD(pages, private) {
	.flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
};

FIXTURE_VARIANT_ADD(pages, shared) {
	.flags = MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE,
};

FIXTURE_VARIANT_ADD(pages, file) {
	.file = true,
	.flags = MAP_SHARED,
};

FIXTURE_VARIANT_ADD(pages, private_file) {
	.file = true,
	.flags = MAP_PRIVATE,
};

FIXTURE_SETUP(pages)
{
	const char *why = test_prepare(TRANSPORT_USER);
	struct puppet_options opt = {
		.transport = TRANSPORT_USER,
		.nr_queues = 1,
		.depth = 1,
		.init_flags = FUSE_ASYNC_READ,
		.max_write = 256 << 10,
	};
	struct fuse_uring_cmd_req cmd = { 0 };
	struct puppet *p = &self->p;
	struct iovec iov[2];

	if (why)
		SKIP(return, "%s", why);
	self->fd = -1;
	ASSERT_EQ(0, puppet_open(p, &opt));
	ASSERT_EQ(0, puppet_mount(p));
	ASSERT_EQ(0, puppet_setup(p));
	ASSERT_EQ(0, puppet_init(p));
	ASSERT_EQ(0, puppet_map(p));
	ASSERT_EQ(0, puppet_uring(p));
	if (variant->file) {
		self->fd = open(TEST_DIR "/memory", O_RDWR | O_CREAT | O_CLOEXEC,
				0600);
		ASSERT_LE(0, self->fd);
		ASSERT_EQ(0, ftruncate(self->fd, p->setup.mmap_size));
	}
	/* In the place of the puppet's own. */
	self->mem = p->map[0];
	self->size = p->setup.mmap_size;
	ASSERT_EQ(self->mem, mmap(self->mem, self->size, PROT_READ | PROT_WRITE,
				  variant->flags | MAP_FIXED, self->fd, 0));
	slot_iov(p, 0, iov);
	ASSERT_EQ(0, puppet_user_command(p, REGISTER, &cmd, 0, iov, 2));
}

FIXTURE_TEARDOWN(pages)
{
	puppet_stop(&self->p);
	if (self->fd >= 0)
		close(self->fd);
}

static const struct puppet_io direct_read = {
	.path = FILE2,
	.len = 256 << 10,
	.flags = O_RDONLY | O_DIRECT,
	.check = true,
};

static const struct puppet_io direct_write = {
	.path = FILE2,
	.len = 256 << 10,
	.flags = O_WRONLY | O_DIRECT,
};

/*
 * Until the requester has ended and its file is released.  That is a request
 * for which it does not wait, and which must not be in the slot any more when
 * the slot's memory is thrown away.
 */
static int serve_file(struct puppet *p, struct requester *r)
{
	static struct puppet_req req;
	int ret = puppet_until(p, &req, FUSE_RELEASE);

	if (!ret)
		ret = puppet_answer(p, &req);
	return ret ? ret : puppet_serve(p, r);
}

/* A WRITE in hand, whose data must be what the requester has written. */
static int check_write(struct puppet *p, struct requester *r)
{
	static struct puppet_req req;
	const unsigned char *data;
	unsigned int i;
	int ret;

	ret = requester_start(r, request_write, &direct_write);
	if (!ret)
		ret = puppet_until(p, &req, FUSE_WRITE);
	if (ret)
		return ret;
	data = (const unsigned char *)(&req.write + 1);
	for (i = 0; i < req.write.size; i++)
		if (data[i] != test_byte(PUPPET_FILE, req.write.offset + i))
			return -EILSEQ;
	ret = puppet_answer(p, &req);
	return ret ? ret : serve_file(p, r);
}

TEST_F(pages, not_there_yet)
{
	ASSERT_EQ(0, check_write(&self->p, &self->r));
	ASSERT_EQ(0, requester_start(&self->r, request_read, &direct_read));
	EXPECT_EQ(0, serve_file(&self->p, &self->r));
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

TEST_F(pages, dropped_in_between)
{
	int i;

	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, check_write(&self->p, &self->r));
		ASSERT_EQ(0, madvise(self->mem, self->size, MADV_DONTNEED));
		ASSERT_EQ(0, requester_start(&self->r, request_read,
					     &direct_read));
		EXPECT_EQ(0, serve_file(&self->p, &self->r));
		/* Without swap it does nothing. */
		madvise(self->mem, self->size, MADV_PAGEOUT);
	}
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

/* A child's copy makes pages read-only, until they are written. */
TEST_F(pages, copied_by_fork)
{
	pid_t pid;
	int i;

	ASSERT_EQ(0, check_write(&self->p, &self->r));
	for (i = 0; i < 3; i++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
		EXPECT_EQ(0, check_write(&self->p, &self->r));
		ASSERT_EQ(0, requester_start(&self->r, request_read,
					     &direct_read));
		EXPECT_EQ(0, serve_file(&self->p, &self->r));
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	}
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

TEST_HARNESS_MAIN
