// SPDX-License-Identifier: GPL-2.0
/*
 * The mapping of a queue: which mmap(2) calls are refused with what, what the
 * mapping is and what may be done with it, and that it holds memory but not
 * the connection.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <liburing.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/uio.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "puppet.h"

FIXTURE(mapping)
{
	struct puppet p;
	size_t size;
	char *map;
};

FIXTURE_SETUP(mapping)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = 1,
		.depth = 4,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, puppet_map(&self->p));
	self->map = self->p.map[0];
	self->size = self->p.setup.mmap_size;
}

FIXTURE_TEARDOWN(mapping)
{
	puppet_stop(&self->p);
}

static int map_error(struct puppet *p, size_t size, int prot, int flags,
		     __u64 offset)
{
	void *map = mmap(NULL, size, prot, flags, p->fd, offset);

	if (map == MAP_FAILED)
		return -errno;
	munmap(map, size);
	return 0;
}

/* The ring goes on after whatever was refused. */
static int ring_works(struct puppet *p)
{
	struct requester r;
	int ret = 0;

	if (!p->have_uring)
		ret = puppet_uring(p);
	if (!ret)
		ret = puppet_arm(p);
	if (!ret)
		ret = puppet_init(p);
	if (!ret)
		ret = requester_start(&r, request_stat, TEST_MNT "/f2");
	if (!ret)
		ret = puppet_serve(p, &r);
	if (!ret && ring_stat(p->conn, "requests_dev") != 0)
		ret = -EPROTO;
	return ret;
}

#define RW	(PROT_READ | PROT_WRITE)

TEST_F(mapping, again)
{
	EXPECT_EQ(0, map_error(&self->p, self->size, RW, MAP_SHARED, 0));
	EXPECT_EQ(0, map_error(&self->p, self->size, PROT_READ, MAP_SHARED, 0));
	EXPECT_EQ(0, map_error(&self->p, self->size, RW, MAP_SHARED_VALIDATE,
			       0));
	EXPECT_EQ(0, ring_works(&self->p));
}

TEST_F(mapping, private)
{
	EXPECT_EQ(-EINVAL, map_error(&self->p, self->size, RW, MAP_PRIVATE, 0));
	EXPECT_EQ(-EINVAL, map_error(&self->p, self->size, PROT_READ,
				     MAP_PRIVATE, 0));
	EXPECT_EQ(0, ring_works(&self->p));
}

TEST_F(mapping, executable)
{
	int ret = map_error(&self->p, self->size, RW | PROT_EXEC, MAP_SHARED,
			    0);

	EXPECT_TRUE(ret == -EPERM || ret == -EACCES || ret == -EINVAL)
		TH_LOG("got %d", ret);
	EXPECT_EQ(0, ring_works(&self->p));
}

TEST_F(mapping, made_executable)
{
	EXPECT_EQ(-1, mprotect(self->map, self->size, RW | PROT_EXEC));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(0, ring_works(&self->p));
}

TEST_F(mapping, wrong_length)
{
	size_t page = getpagesize();

	EXPECT_EQ(-EINVAL, map_error(&self->p, self->size - page, RW,
				     MAP_SHARED, 0));
	EXPECT_EQ(-EINVAL, map_error(&self->p, self->size + page, RW,
				     MAP_SHARED, 0));
	EXPECT_EQ(-EINVAL, map_error(&self->p, page, RW, MAP_SHARED, 0));
	EXPECT_EQ(0, ring_works(&self->p));
}

TEST_F(mapping, wrong_offset)
{
	__u64 stride = self->p.setup.queue_stride;
	unsigned int i;
	__u64 wrong[] = {
		getpagesize(),
		stride - getpagesize(),
		stride,
		stride + getpagesize(),
		stride << 16,
		stride << 20,
		1ULL << 44,
		1ULL << 62,
		(1ULL << 63) - self->size,
	};

	for (i = 0; i < ARRAY_SIZE(wrong); i++) {
		int ret = map_error(&self->p, self->size, RW, MAP_SHARED,
				    wrong[i]);

		/* Past what a file offset can be, mmap(2) itself says so. */
		EXPECT_TRUE(ret == -EINVAL ||
			    (ret == -EOVERFLOW && wrong[i] > 1ULL << 44))
			TH_LOG("offset %#llx: %d", wrong[i], ret);
	}
	EXPECT_EQ(0, ring_works(&self->p));
}

/* A connection without a ring has nothing to map, as before. */
TEST(mapping_without_ring)
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
	EXPECT_EQ(-ENODEV, map_error(&p, getpagesize(), RW, MAP_SHARED, 0));
	ASSERT_EQ(0, puppet_mount(&p));
	EXPECT_EQ(-ENODEV, map_error(&p, getpagesize(), RW, MAP_SHARED, 0));
	ASSERT_EQ(0, puppet_setup(&p));
	ASSERT_EQ(0, puppet_map(&p));
	EXPECT_EQ(0, ring_works(&p));
	puppet_stop(&p);
}

TEST_F(mapping, not_expanded)
{
	void *map = mremap(self->map, self->size, 2 * self->size,
			   MREMAP_MAYMOVE);

	EXPECT_EQ(MAP_FAILED, map);
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(0, ring_works(&self->p));
}

/* The old length 0 asks for a second mapping of shared memory. */
TEST_F(mapping, not_duplicated)
{
	void *map = mremap(self->map, 0, self->size, MREMAP_MAYMOVE);

	EXPECT_EQ(MAP_FAILED, map);
	EXPECT_EQ(0, ring_works(&self->p));
}

static bool is_mapped(void *at)
{
	unsigned char vec;

	return !mincore(at, getpagesize(), &vec) || errno != ENOMEM;
}

TEST_F(mapping, not_inherited)
{
	int status;
	pid_t pid;

	EXPECT_TRUE(is_mapped(self->map));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(is_mapped(self->map));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, ring_works(&self->p));
}

TEST_F(mapping, not_dumped)
{
	EXPECT_EQ(-1, madvise(self->map, self->size, MADV_DODUMP));
	EXPECT_EQ(EINVAL, errno);
}

static bool smaps_flags(void *at, char *flags)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512];
	bool found = false;
	void *start;

	flags[0] = 0;
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%p-%*x ", &start) == 1 && strchr(line, '-') &&
		    strchr(line, '-') < strchr(line, ' '))
			found = start == at;
		if (found && !strncmp(line, "VmFlags:", 8)) {
			memcpy(flags, line + 8, sizeof(line) - 8);
			break;
		}
	}
	if (f)
		fclose(f);
	return flags[0];
}

TEST_F(mapping, flags)
{
	char flags[512];

	if (access("/proc/self/smaps", R_OK))
		SKIP(return, "kernel without CONFIG_PROC_PAGE_MONITOR");
	ASSERT_TRUE(smaps_flags(self->map, flags));
	EXPECT_NE(NULL, strstr(flags, " sh")) TH_LOG("%s", flags);
	EXPECT_NE(NULL, strstr(flags, " dc")) TH_LOG("%s", flags);
	EXPECT_NE(NULL, strstr(flags, " de")) TH_LOG("%s", flags);
	EXPECT_NE(NULL, strstr(flags, " dd")) TH_LOG("%s", flags);
	EXPECT_EQ(NULL, strstr(flags, " ex")) TH_LOG("%s", flags);
	EXPECT_EQ(NULL, strstr(flags, " mx")) TH_LOG("%s", flags);
	/* Real pages, not a window on physical memory. */
	EXPECT_EQ(NULL, strstr(flags, " io")) TH_LOG("%s", flags);
	EXPECT_EQ(NULL, strstr(flags, " pf")) TH_LOG("%s", flags);
}

TEST_F(mapping, is_zeroed)
{
	size_t i;

	for (i = 0; i < self->size; i++)
		if (self->map[i])
			break;
	EXPECT_EQ(self->size, i);
}

/* All of it is memory, and it is the same in all mappings. */
TEST_F(mapping, is_shared_memory)
{
	__u64 *a = (void *)self->map, *b;
	size_t i, wrong = 0;

	b = mmap(NULL, self->size, PROT_READ, MAP_SHARED, self->p.fd, 0);
	ASSERT_NE(MAP_FAILED, (void *)b);
	for (i = 0; i < self->size / 8; i++)
		a[i] = ~i;
	for (i = 0; i < self->size / 8; i++)
		wrong += b[i] != ~i;
	EXPECT_EQ(0, wrong);
	munmap(b, self->size);
	EXPECT_EQ(0, ring_works(&self->p));
}

TEST(mapping_of_each_queue)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.depth = 1,
	};
	struct puppet p;
	unsigned int qid;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&p, &opt));
	ASSERT_EQ(0, puppet_mount(&p));
	ASSERT_EQ(0, puppet_setup(&p));
	ASSERT_EQ(0, puppet_map(&p));
	for (qid = 0; qid < p.setup.nr_queues; qid++)
		memset(p.map[qid], qid + 1, p.setup.mmap_size);
	for (qid = 0; qid < p.setup.nr_queues; qid++) {
		EXPECT_EQ((char)(qid + 1), p.map[qid][0]);
		EXPECT_EQ((char)(qid + 1), p.map[qid][p.setup.mmap_size - 1]);
	}
	EXPECT_EQ(0, ring_works(&p));
	puppet_stop(&p);
}

/* get_user_pages() works on it: what direct I/O and pipes use. */
TEST_F(mapping, as_a_buffer)
{
	struct iovec iov = { self->map + self->p.setup.payload_offset, 4096 };
	char buf[4096];
	int fds[2];

	memset(iov.iov_base, 0x5a, iov.iov_len);
	ASSERT_EQ(0, pipe(fds));
	ASSERT_EQ(4096, vmsplice(fds[1], &iov, 1, 0));
	ASSERT_EQ(4096, read(fds[0], buf, sizeof(buf)));
	EXPECT_EQ(0, memcmp(buf, iov.iov_base, sizeof(buf)));
	close(fds[0]);
	close(fds[1]);
	EXPECT_EQ(0, ring_works(&self->p));
}

/* A page in a pipe outlives both the mapping and the ring. */
TEST_F(mapping, as_a_buffer_that_stays)
{
	struct iovec iov = { self->map + self->p.setup.payload_offset, 4096 };
	char buf[4096];
	int fds[2], i;

	memset(iov.iov_base, 0x5a, iov.iov_len);
	ASSERT_EQ(0, pipe(fds));
	ASSERT_EQ(4096, vmsplice(fds[1], &iov, 1, 0));
	puppet_stop(&self->p);
	ASSERT_EQ(4096, read(fds[0], buf, sizeof(buf)));
	for (i = 0; i < 4096; i++)
		if (buf[i] != 0x5a)
			break;
	EXPECT_EQ(4096, i);
}

TEST_F(mapping, as_a_registered_buffer)
{
	size_t at = self->p.setup.payload_offset;
	struct iovec iov = { self->map + at, self->size - at };
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	char buf[8192];
	int fd, i;

	for (i = 0; i < 8192; i++)
		buf[i] = test_byte(7, i);
	fd = open(TEST_DIR "/file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_LE(0, fd);
	ASSERT_EQ(8192, write(fd, buf, sizeof(buf)));

	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, io_uring_register_buffers(&self->p.uring, &iov, 1));
	sqe = io_uring_get_sqe(&self->p.uring);
	io_uring_prep_read_fixed(sqe, fd, iov.iov_base, 8192, 0, 0);
	ASSERT_EQ(1, io_uring_submit(&self->p.uring));
	ASSERT_EQ(0, io_uring_wait_cqe(&self->p.uring, &cqe));
	EXPECT_EQ(8192, cqe->res);
	io_uring_cqe_seen(&self->p.uring, cqe);
	EXPECT_EQ(0, memcmp(buf, iov.iov_base, sizeof(buf)));
	EXPECT_EQ(0, ring_works(&self->p));
	close(fd);
}

/* The descriptor alone decides about the connection. */
TEST_F(mapping, does_not_hold_the_connection)
{
	struct requester r;
	int ret;

	ASSERT_EQ(0, ring_works(&self->p));
	puppet_close_uring(&self->p);
	puppet_close_dev(&self->p);
	ASSERT_EQ(0, requester_start(&r, request_stat, TEST_MNT "/f2"));
	/* It may have come while the end was under way. */
	ret = requester_join(&r);
	EXPECT_TRUE(ret == ENOTCONN || ret == ECONNABORTED) TH_LOG("%d", ret);
	EXPECT_TRUE(is_mapped(self->map));
}

TEST_F(mapping, stays_after_the_connection)
{
	size_t i;

	ASSERT_EQ(0, ring_works(&self->p));
	ASSERT_EQ(0, conn_abort(self->p.conn));
	puppet_close_uring(&self->p);
	puppet_close_dev(&self->p);
	ASSERT_EQ(0, umount(TEST_MNT));
	self->p.conn = -1;
	for (i = 0; i < self->size; i += 512) {
		__atomic_store_n(&self->map[i], 1, __ATOMIC_RELAXED);
		EXPECT_EQ(1, __atomic_load_n(&self->map[i], __ATOMIC_RELAXED));
	}
}

/* It may go first, too: the kernel has the memory still. */
TEST_F(mapping, goes_before_the_connection)
{
	struct requester r;

	ASSERT_EQ(0, ring_works(&self->p));
	EXPECT_EQ(0, puppet_settle(&self->p));
	ASSERT_EQ(0, munmap(self->map, self->size));
	self->p.map[0] = NULL;

	ASSERT_EQ(0, requester_start(&r, request_stat, TEST_MNT "/f2"));
	ASSERT_TRUE(ring_requests_become(self->p.conn, 1));

	/* A new mapping is as good. */
	self->p.map[0] = mmap(NULL, self->size, RW, MAP_SHARED, self->p.fd, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->p.map[0]);
	EXPECT_EQ(0, puppet_serve(&self->p, &r));
}

/* A part of it may go, and comes back only as a whole. */
TEST_F(mapping, is_cut)
{
	size_t page = getpagesize();

	ASSERT_EQ(0, munmap(self->map, page));
	EXPECT_EQ(-EINVAL, map_error(&self->p, page, RW, MAP_SHARED, 0));
	ASSERT_EQ(0, munmap(self->map + page, self->size - page));
	self->p.map[0] = mmap(NULL, self->size, RW, MAP_SHARED, self->p.fd, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->p.map[0]);
	EXPECT_EQ(0, ring_works(&self->p));
}

/* Mapped by many at once while the connection ends. */
TEST_F(mapping, races_the_end)
{
	unsigned int i, *n;
	int status;
	pid_t pid;

	ASSERT_EQ(0, ring_works(&self->p));
	n = mmap(NULL, sizeof(*n), RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)n);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		__u64 end = now_ms() + 200;

		while (now_ms() < end) {
			char *map = mmap(NULL, self->size, RW, MAP_SHARED,
					 self->p.fd, 0);

			if (map == MAP_FAILED)
				continue;
			for (i = 0; i < self->size; i += 4096)
				__atomic_add_fetch(&map[i], 1, __ATOMIC_RELAXED);
			munmap(map, self->size);
			__atomic_add_fetch(n, 1, __ATOMIC_RELAXED);
		}
		_exit(0);
	}
	while (!__atomic_load_n(n, __ATOMIC_RELAXED))
		sleep_ms(1);
	ASSERT_EQ(0, conn_abort(self->p.conn));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

TEST_HARNESS_MAIN
