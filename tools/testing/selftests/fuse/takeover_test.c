// SPDX-License-Identifier: GPL-2.0
/*
 * A whole server that is killed again and again, and started again by the
 * process that holds its connection: files are as they were written, and no
 * system call fails.
 *
 * FUSE_TEST_KILLS says how often.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "transports.h"

#define SOURCE		TEST_DIR "/source"
#define WRITERS		3
#define BLOCK		16384
#define BLOCKS		64

/* Shared with the writers. */
static struct {
	int stop;
	unsigned int rounds[WRITERS];
} *shared;

FIXTURE(takeover)
{
	struct server_keep *keep;
	struct requester holder, writer[WRITERS];
	int conn;
};

FIXTURE_VARIANT(takeover)
{
	enum test_transport transport;
	unsigned int threads_per_queue;
	bool no_control;
};

FIXTURE_VARIANT_ADD(takeover, ring) {
	.transport = TRANSPORT_RING,
	.threads_per_queue = 1,
};

FIXTURE_VARIANT_ADD(takeover, ring_two_threads) {
	.transport = TRANSPORT_RING,
	.threads_per_queue = 2,
};

FIXTURE_VARIANT_ADD(takeover, ring_no_control) {
	.transport = TRANSPORT_RING,
	.threads_per_queue = 1,
	.no_control = true,
};

FIXTURE_VARIANT_ADD(takeover, user) {
	.transport = TRANSPORT_USER,
	.threads_per_queue = 1,
};

FIXTURE_VARIANT_ADD(takeover, user_two_threads) {
	.transport = TRANSPORT_USER,
	.threads_per_queue = 2,
};

FIXTURE_SETUP(takeover)
{
	const char *why = test_prepare(variant->transport);
	struct server_opts opts = {
		.mountpoint = TEST_MNT,
		.transport = transport_server(variant->transport),
		.threads_per_queue = variant->threads_per_queue,
		.no_control = variant->no_control,
	};

	if (why)
		SKIP(return, "%s", why);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)shared);
	ASSERT_EQ(0, mkdir(SOURCE, 0755));
	self->keep = server_keep_new();
	ASSERT_NE(NULL, self->keep);
	opts.keep = self->keep;
	opts.fs = fs_passthrough_new(SOURCE, true);
	ASSERT_NE(NULL, opts.fs);
	self->holder.pid = server_fork(&opts);
	ASSERT_LT(0, self->holder.pid) TH_LOG("%s", server_error());
	self->holder.pidfd = syscall(SYS_pidfd_open, self->holder.pid, 0);
	ASSERT_LE(0, self->holder.pidfd);
	self->conn = conn_number(TEST_MNT);
	ASSERT_LE(0, self->conn);
}

FIXTURE_TEARDOWN(takeover)
{
	umount2(TEST_MNT, MNT_DETACH);
	kill(self->holder.pid, SIGTERM);
	server_keep_free(self->keep);
}

static void block_path(char *path, size_t size, const char *dir,
		       unsigned int writer)
{
	snprintf(path, size, "%s/w%u", dir, writer);
}

/* What a block has after having been written @round times. */
static void block_fill(unsigned char *data, unsigned int writer,
		       unsigned int block, unsigned int round)
{
	unsigned int i;

	for (i = 0; i < BLOCK; i++)
		data[i] = test_byte(writer * 1000 + round, block * BLOCK + i);
}

/* Opened each time, so that nothing comes from a cache. */
static int block_check(const char *path, unsigned int writer,
		       unsigned int block, unsigned int round)
{
	static unsigned char want[BLOCK], have[BLOCK];
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return -errno;
	if (pread(fd, have, BLOCK, (off_t)block * BLOCK) != BLOCK)
		ret = errno ? -errno : -ENODATA;
	if (close(fd) && !ret)
		ret = -errno;
	block_fill(want, writer, block, round);
	return !ret && memcmp(want, have, BLOCK) ? -EILSEQ : ret;
}

static int write_blocks(const void *arg)
{
	unsigned int writer = *(const unsigned int *)arg, round = 0, block;
	static unsigned char data[BLOCK];
	__u64 seed = writer + 1;
	struct stat st;
	char path[64];
	int fd, ret;

	block_path(path, sizeof(path), TEST_MNT, writer);
	while (!__atomic_load_n(&shared->stop, __ATOMIC_RELAXED)) {
		round++;
		for (block = 0; block < BLOCKS; block++) {
			fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
			if (fd < 0)
				return -errno;
			block_fill(data, writer, block, round);
			errno = 0;
			if (pwrite(fd, data, BLOCK, (off_t)block * BLOCK) !=
			    BLOCK)
				return errno ? -errno : -EIO;
			if (block % 16 == 0 && fsync(fd))
				return -errno;
			if (fstat(fd, &st) || close(fd))
				return -errno;
			/* One that was written in this round. */
			ret = block_check(path, writer, test_random(&seed) %
					  (block + 1), round);
			if (ret)
				return ret;
		}
		shared->rounds[writer] = round;
	}
	return 0;
}

static bool served_becomes(const struct server_keep *keep, unsigned int nr)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	while (server_keep_served(keep) < nr && now_ms() < end)
		sleep_ms(1);
	return server_keep_served(keep) >= nr;
}

static unsigned int kills(void)
{
	const char *env = getenv("FUSE_TEST_KILLS");

	if (env && atoi(env) > 0)
		return atoi(env);
	return kernel_debugs() ? 5 : 25;
}

TEST_F_TIMEOUT(takeover, under_load, 3 * TEST_TIMEOUT)
{
	unsigned int i, block, nr = kills();
	__u64 seed = test_seed();
	char path[64];
	int result;
	pid_t pid;

	for (i = 0; i < WRITERS; i++)
		ASSERT_EQ(0, requester_start(&self->writer[i], write_blocks,
					     &i));
	for (i = 0; i < nr; i++) {
		unsigned int served = server_keep_served(self->keep);

		ASSERT_LT(0, served);
		usleep(test_random(&seed) % 100000);
		pid = server_keep_pid(self->keep);
		ASSERT_LT(0, pid);
		ASSERT_EQ(0, kill(pid, SIGKILL));
		ASSERT_TRUE(served_becomes(self->keep, served + 1));
	}
	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELAXED);
	for (i = 0; i < WRITERS; i++) {
		/* A round can be long. */
		EXPECT_TRUE(requester_ended(&self->writer[i], &result,
					    5 * TEST_WAIT_MS));
		EXPECT_EQ(0, result);
		EXPECT_LT(0, shared->rounds[i]);
	}
	EXPECT_LT(0, ring_stat(self->conn, "requests_ring"));
	/* With user buffers, what waits may be read before a slot is there. */
	if (variant->transport == TRANSPORT_RING)
		EXPECT_EQ(0, ring_stat(self->conn, "requests_dev"));
	if (variant->transport == TRANSPORT_RING && !variant->no_control) {
		EXPECT_EQ(0, ring_stat(self->conn, "forgets_dev"));
		EXPECT_EQ(0, ring_stat(self->conn, "interrupts_dev"));
	}
	EXPECT_TRUE(conn_waiting_becomes(self->conn, 0));

	/* Seen through the filesystem, and below it. */
	for (i = 0; i < WRITERS; i++) {
		for (block = 0; block < BLOCKS; block++) {
			block_path(path, sizeof(path), TEST_MNT, i);
			EXPECT_EQ(0, block_check(path, i, block,
						 shared->rounds[i]));
			block_path(path, sizeof(path), SOURCE, i);
			EXPECT_EQ(0, block_check(path, i, block,
						 shared->rounds[i]));
		}
	}
	EXPECT_EQ(0, umount(TEST_MNT));
	EXPECT_EQ(0, requester_join(&self->holder));
	EXPECT_TRUE(conn_gone(self->conn));
}

/* Nobody is left to start it again. */
TEST_F(takeover, holder_is_killed)
{
	unsigned int i;
	int ret;

	for (i = 0; i < WRITERS; i++)
		ASSERT_EQ(0, requester_start(&self->writer[i], write_blocks,
					     &i));
	sleep_ms(50);
	ASSERT_EQ(0, kill(self->holder.pid, SIGKILL));
	EXPECT_EQ(-SIGKILL, requester_join(&self->holder));
	for (i = 0; i < WRITERS; i++) {
		ret = requester_join(&self->writer[i]);
		EXPECT_TRUE(ret == ENOTCONN || ret == ECONNABORTED)
			TH_LOG("%d", ret);
	}
	EXPECT_EQ(0, umount2(TEST_MNT, MNT_DETACH));
	EXPECT_TRUE(conn_gone(self->conn));
}

/* And asked to end, it ends. */
TEST_F(takeover, holder_is_terminated)
{
	struct stat st;

	ASSERT_EQ(0, stat(TEST_MNT, &st));
	ASSERT_EQ(0, kill(self->holder.pid, SIGTERM));
	EXPECT_EQ(0, requester_join(&self->holder));
	EXPECT_TRUE(conn_gone(self->conn));
}

TEST_HARNESS_MAIN
