// SPDX-License-Identifier: GPL-2.0
/*
 * Whole servers under programs that go on: killed and started again by their
 * holder, and moved from the ring to /dev/fuse and back.  Whatever happens to
 * the server, the programs see no error, and the data is right.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "transports.h"
#include "util.h"

#define BACK		(TEST_DIR "/back")
#define NR_PROGRAMS	4
#define FILE_BYTES	(256 * 1024)
#define CHUNK		(24 * 1024)

static int fill(int fd, __u64 seed, bool check)
{
	static unsigned char buf[CHUNK], got[CHUNK];
	size_t pos, len, i;

	for (pos = 0; pos < FILE_BYTES; pos += len) {
		len = min_t(size_t, FILE_BYTES - pos, CHUNK);
		for (i = 0; i < len; i++)
			buf[i] = test_byte(seed, pos + i);
		if (!check) {
			if (pwrite(fd, buf, len, pos) != (ssize_t)len)
				return -errno;
			continue;
		}
		if (pread(fd, got, len, pos) != (ssize_t)len)
			return errno ? -errno : -EIO;
		if (memcmp(buf, got, len))
			return -EILSEQ;
	}
	return 0;
}

/* One file from its making to its end, by way of everything in between. */
static int one_round(unsigned int nr, unsigned int round, const char **what)
{
	char dir[64], tmp[96], path[96];
	struct stat st;
	int fd, ret;

	snprintf(dir, sizeof(dir), TEST_MNT "/d%u-%u", nr, round);
	snprintf(tmp, sizeof(tmp), "%s/tmp", dir);
	snprintf(path, sizeof(path), "%s/file", dir);

	*what = "mkdir";
	if (mkdir(dir, 0755))
		return -errno;
	*what = "create";
	fd = open(tmp, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	*what = "write";
	ret = fill(fd, nr * 1000 + round, false);
	*what = ret ? *what : "fsync";
	if (!ret && fsync(fd))
		ret = -errno;
	*what = ret ? *what : "rename";
	if (!ret && rename(tmp, path))
		ret = -errno;
	/* The file is still open, and goes by its new name as well. */
	*what = ret ? *what : "read by the old descriptor";
	if (!ret)
		ret = fill(fd, nr * 1000 + round, true);
	close(fd);
	if (ret)
		return ret;

	*what = "open";
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	close(fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	*what = "read";
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	ret = fill(fd, nr * 1000 + round, true);
	*what = ret ? *what : "stat";
	if (!ret && (fstat(fd, &st) || st.st_size != FILE_BYTES))
		ret = errno ? -errno : -EIO;
	close(fd);
	if (ret)
		return ret;

	*what = "unlink";
	if (unlink(path))
		return -errno;
	*what = "rmdir";
	return rmdir(dir) ? -errno : 0;
}

/* Shared with the programs. */
struct shared {
	bool stop;
	unsigned int rounds[NR_PROGRAMS];
};

struct program {
	unsigned int nr;
	struct shared *sh;
};

static bool stopped(const struct shared *sh)
{
	return __atomic_load_n(&sh->stop, __ATOMIC_RELAXED);
}

static int run_program(const void *arg)
{
	const struct program *prog = arg;
	const char *what = "";
	unsigned int round;
	int ret = 0;

	for (round = 0; !ret && !stopped(prog->sh); round++) {
		errno = 0;
		ret = one_round(prog->nr, round, &what);
		if (!ret)
			__atomic_add_fetch(&prog->sh->rounds[prog->nr], 1,
					   __ATOMIC_RELAXED);
	}
	if (ret)
		fprintf(stderr, "# program %u round %u: %s: %s\n", prog->nr,
			round, what, strerror(-ret));
	return ret;
}

static struct shared *shared_new(void)
{
	struct shared *sh;

	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE,
		  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return sh == MAP_FAILED ? NULL : sh;
}

static unsigned int rounds_of(const struct shared *sh)
{
	unsigned int i, sum = 0;

	for (i = 0; i < NR_PROGRAMS; i++)
		sum += __atomic_load_n(&sh->rounds[i], __ATOMIC_RELAXED);
	return sum;
}

FIXTURE(keep)
{
	struct server_keep *keep;
	struct server_fs *fs;
	struct server_opts opts;
	struct shared *sh;
	struct requester r[NR_PROGRAMS];
	struct program prog[NR_PROGRAMS];
};

FIXTURE_VARIANT(keep)
{
	enum test_transport transport;
	bool writeback;
	bool no_control;
};

FIXTURE_VARIANT_ADD(keep, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(keep, ring_writeback) {
	.transport = TRANSPORT_RING,
	.writeback = true,
};

FIXTURE_VARIANT_ADD(keep, ring_no_control) {
	.transport = TRANSPORT_RING,
	.no_control = true,
};

FIXTURE_VARIANT_ADD(keep, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(keep, user_writeback) {
	.transport = TRANSPORT_USER,
	.writeback = true,
};

FIXTURE_SETUP(keep)
{
	const char *why = test_prepare(variant->transport);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, mkdir(BACK, 0755));
	self->sh = shared_new();
	ASSERT_NE(NULL, self->sh);
	self->fs = fs_passthrough_new(BACK, true);
	ASSERT_NE(NULL, self->fs);
	self->keep = server_keep_new();
	ASSERT_NE(NULL, self->keep);
	self->opts = (struct server_opts){
		.mountpoint = TEST_MNT,
		.fs = self->fs,
		.transport = transport_server(variant->transport),
		.keep = self->keep,
		.no_control = variant->no_control,
		.init_set = variant->writeback ? FUSE_WRITEBACK_CACHE : 0,
		.entry_valid_ms = 10,
		.attr_valid_ms = 10,
	};
}

FIXTURE_TEARDOWN(keep)
{
}

static bool served_becomes(const struct server_keep *keep, unsigned int nr)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	while (server_keep_served(keep) < nr && now_ms() < end)
		sleep_ms(1);
	return server_keep_served(keep) >= nr;
}

/* For as long as programs need to get something done, or TEST_WAIT_MS. */
static bool rounds_become(const struct shared *sh, unsigned int nr)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	while (rounds_of(sh) < nr && now_ms() < end)
		sleep_ms(1);
	return rounds_of(sh) >= nr;
}

/* A round that has begun after this was called: of one program it is two. */
static bool whole_round(const struct shared *sh)
{
	return rounds_become(sh, rounds_of(sh) + NR_PROGRAMS + 1);
}

TEST_F_TIMEOUT(keep, killed_under_load, 2 * TEST_TIMEOUT)
{
	__u64 rnd = test_seed(), end;
	unsigned int i, kills = 0, rounds;
	pid_t holder, pid;
	int conn, status;

	holder = server_fork(&self->opts);
	ASSERT_LT(0, holder)
		TH_LOG("%s", server_error());
	conn = conn_number(TEST_MNT);
	ASSERT_LT(0, conn);
	for (i = 0; i < NR_PROGRAMS; i++) {
		self->prog[i] = (struct program){
			.nr = i,
			.sh = self->sh,
		};
		ASSERT_EQ(0, requester_start(&self->r[i], run_program,
					     &self->prog[i]));
	}

	end = now_ms() + 6 * test_ms();
	while (now_ms() < end || kills < 5) {
		sleep_ms(test_random(&rnd) % 60);
		ASSERT_TRUE(served_becomes(self->keep, kills + 1));
		/* While it works: not one that has only just begun. */
		if (kills % 2)
			ASSERT_TRUE(rounds_become(self->sh,
						  rounds_of(self->sh) + 1));
		pid = server_keep_pid(self->keep);
		ASSERT_LT(0, pid);
		ASSERT_EQ(0, kill(pid, SIGKILL));
		kills++;
	}
	ASSERT_TRUE(served_becomes(self->keep, kills + 1));
	rounds = rounds_of(self->sh);
	EXPECT_TRUE(rounds_become(self->sh, rounds + NR_PROGRAMS));
	__atomic_store_n(&self->sh->stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < NR_PROGRAMS; i++)
		EXPECT_EQ(0, requester_join(&self->r[i]));
	TH_LOG("%u kills, %u rounds", kills, rounds_of(self->sh));

	/* Else there is a thread that reads /dev/fuse, also before it is armed. */
	if (!variant->no_control && variant->transport == TRANSPORT_RING) {
		EXPECT_EQ(0, ring_stat(conn, "requests_dev"));
		EXPECT_EQ(0, ring_stat(conn, "forgets_dev"));
		EXPECT_EQ(0, ring_stat(conn, "interrupts_dev"));
		EXPECT_EQ(0, ring_stat(conn, "notifications_dev"));
	}
	EXPECT_LT(0, ring_stat(conn, "requests_ring"));
	EXPECT_EQ(0, ring_stat(conn, "requests_held"));

	ASSERT_EQ(0, kill(holder, SIGTERM));
	ASSERT_EQ(holder, waitpid(holder, &status, 0));
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_TRUE(conn_gone(conn));
	/* All that was made has been removed again, below the mount too. */
	EXPECT_EQ(0, rmdir(BACK));
}

/* The same programs, and a server that changes its transport all the time. */
FIXTURE(move)
{
	struct server_fs *fs;
	struct server *srv;
	struct shared *sh;
	struct requester r[NR_PROGRAMS];
	struct program prog[NR_PROGRAMS];
};

FIXTURE_VARIANT(move)
{
	unsigned int threads_per_queue;
	bool no_control;
};

FIXTURE_VARIANT_ADD(move, plain) {
};

FIXTURE_VARIANT_ADD(move, threads) {
	.threads_per_queue = 2,
};

FIXTURE_VARIANT_ADD(move, no_control) {
	.no_control = true,
};

FIXTURE_SETUP(move)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct server_opts opts = {
		.mountpoint = TEST_MNT,
		.transport = SERVER_RING,
		.threads_per_queue = variant->threads_per_queue,
		.no_control = variant->no_control,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, mkdir(BACK, 0755));
	self->sh = shared_new();
	ASSERT_NE(NULL, self->sh);
	self->fs = fs_passthrough_new(BACK, false);
	ASSERT_NE(NULL, self->fs);
	opts.fs = self->fs;
	self->srv = server_start(&opts);
	ASSERT_NE(NULL, self->srv)
		TH_LOG("%s", server_error());
}

FIXTURE_TEARDOWN(move)
{
	if (self->srv)
		EXPECT_EQ(0, server_stop(self->srv));
	fs_free(self->fs);
}

TEST_F_TIMEOUT(move, under_load, 2 * TEST_TIMEOUT)
{
	int conn = conn_number(TEST_MNT);
	unsigned int i, moves = 0;
	__u64 end;

	for (i = 0; i < NR_PROGRAMS; i++) {
		self->prog[i] = (struct program){
			.nr = i,
			.sh = self->sh,
		};
		ASSERT_EQ(0, requester_start(&self->r[i], run_program,
					     &self->prog[i]));
	}
	end = now_ms() + 4 * test_ms();
	while (now_ms() < end || moves < 4) {
		long dev = ring_stat(conn, "requests_dev");
		long ring = ring_stat(conn, "requests_ring");

		ASSERT_EQ(0, server_detach(self->srv));
		ASSERT_TRUE(whole_round(self->sh));
		EXPECT_EQ(0, ring_stat(conn, "queues_live"));
		EXPECT_LT(dev, ring_stat(conn, "requests_dev"));
		ASSERT_EQ(0, server_attach(self->srv));
		ASSERT_TRUE(whole_round(self->sh));
		EXPECT_LT(0, ring_stat(conn, "queues_live"));
		EXPECT_LT(ring, ring_stat(conn, "requests_ring"));
		moves++;
	}
	__atomic_store_n(&self->sh->stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < NR_PROGRAMS; i++)
		EXPECT_EQ(0, requester_join(&self->r[i]));
	TH_LOG("%u moves, %u rounds", moves, rounds_of(self->sh));
}

TEST_HARNESS_MAIN
