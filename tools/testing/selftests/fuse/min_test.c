// SPDX-License-Identifier: GPL-2.0
/*
 * The example of the document, fuse_ring_min, as a user has it: a program that
 * is started, whose filesystem is used, and that ends when that is unmounted.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "common.h"

#define FILE1	(TEST_MNT "/one")
#define BYTES	(3 << 20)

FIXTURE(min)
{
	struct requester server;
	int conn;
};

static int run_server(void *arg)
{
	char path[PATH_MAX], *end;
	ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 20);

	(void)arg;
	if (len < 0)
		return 125;
	path[len] = '\0';
	end = strrchr(path, '/');
	memcpy(end + 1, "fuse_ring_min", sizeof("fuse_ring_min"));
	execl(path, path, TEST_MNT, NULL);
	return 126;
}

/* Once there is a connection that answers. */
static bool is_mounted(struct requester *server)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	struct stat st;

	while (now_ms() < end && !requester_ended(server, NULL, 1))
		if (conn_number(TEST_MNT) >= 0 && !stat(TEST_MNT, &st))
			return true;
	return false;
}

FIXTURE_SETUP(min)
{
	const char *why = test_prepare(TRANSPORT_RING);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, process_start(&self->server, run_server, NULL));
	ASSERT_TRUE(is_mounted(&self->server));
	self->conn = conn_number(TEST_MNT);
	ASSERT_LE(0, self->conn);
}

FIXTURE_TEARDOWN(min)
{
	EXPECT_EQ(0, umount(TEST_MNT));
	EXPECT_EQ(0, requester_join(&self->server));
	EXPECT_TRUE(conn_gone(self->conn));
}

static unsigned char byte_at(size_t i)
{
	return i * 7 + i / 4096;
}

TEST_F(min, data_stays)
{
	unsigned char *data = malloc(BYTES), *map;
	struct stat st;
	size_t i;
	int fd;

	ASSERT_NE(NULL, data);
	for (i = 0; i < BYTES; i++)
		data[i] = byte_at(i);
	fd = open(FILE1, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	ASSERT_LE(0, fd);
	ASSERT_EQ(BYTES, pwrite(fd, data, BYTES, 0));
	ASSERT_EQ(4, pwrite(fd, "tail", 4, 2 * BYTES));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, file_write("/proc/sys/vm/drop_caches", "3"));

	ASSERT_EQ(0, stat(FILE1, &st));
	EXPECT_EQ(2 * BYTES + 4, st.st_size);
	fd = open(FILE1, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	memset(data, 0, BYTES);
	ASSERT_EQ(BYTES, pread(fd, data, BYTES, 0));
	for (i = 0; i < BYTES && data[i] == byte_at(i); i++)
		;
	EXPECT_EQ(BYTES, i);
	map = mmap(NULL, 2 * BYTES + 4, PROT_READ, MAP_PRIVATE, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	for (i = BYTES; i < 2 * BYTES && !map[i]; i++)
		;
	EXPECT_EQ(2 * BYTES, i);
	EXPECT_EQ(0, memcmp(map + 2 * BYTES, "tail", 4));
	munmap(map, 2 * BYTES + 4);

	/* What was cut off does not come back. */
	ASSERT_EQ(0, ftruncate(fd, 100));
	ASSERT_EQ(0, ftruncate(fd, 200));
	ASSERT_EQ(200, pread(fd, data, BYTES, 0));
	EXPECT_EQ(byte_at(99), data[99]);
	for (i = 100; i < 200 && !data[i]; i++)
		;
	EXPECT_EQ(200, i);
	EXPECT_EQ(-1, ftruncate(fd, 1ULL << 40));
	EXPECT_EQ(EFBIG, errno);
	close(fd);
	free(data);
	EXPECT_EQ(0, ring_stat(self->conn, "requests_dev"));
	EXPECT_LT(0, ring_stat(self->conn, "requests_ring"));
}

/* More names than one READDIR has room for. */
TEST_F(min, directory)
{
	unsigned int i, nr = 0;
	struct dirent *entry;
	char path[64];
	DIR *dir;
	int fd;

	for (i = 0; i < 300; i++) {
		snprintf(path, sizeof(path), TEST_MNT "/file%u", i);
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		ASSERT_LE(0, fd);
		close(fd);
	}
	EXPECT_EQ(-1, open(path, O_WRONLY | O_CREAT | O_EXCL, 0644));
	EXPECT_EQ(EEXIST, errno);
	dir = opendir(TEST_MNT);
	ASSERT_NE(NULL, dir);
	while ((entry = readdir(dir))) {
		snprintf(path, sizeof(path), "file%u", nr);
		EXPECT_STREQ(path, entry->d_name);
		nr++;
	}
	closedir(dir);
	EXPECT_EQ(300, nr);
	EXPECT_EQ(-1, access(TEST_MNT "/none", F_OK));
	EXPECT_EQ(ENOENT, errno);
	/* Forgets come by control slots, in which they end. */
	ASSERT_EQ(0, file_write("/proc/sys/vm/drop_caches", "2"));
	EXPECT_TRUE(ring_stat_becomes(self->conn, "forgets_pending", 0));
	EXPECT_EQ(0, ring_stat(self->conn, "forgets_dev"));
	EXPECT_EQ(0, access(TEST_MNT "/file17", F_OK));
}

TEST_HARNESS_MAIN
