// SPDX-License-Identifier: GPL-2.0
/*
 * No wrong byte: random operations on files, checked against a copy in
 * memory, in all ways in which data can go in and out.
 *
 * FUSE_TEST_SECONDS says for how long each test goes on, FUSE_TEST_SEED
 * repeats the operations of a run.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "proto.h"
#include "transports.h"

#define FILE_MAX	(3 * 1024 * 1024)
#define FILE_PATH	(TEST_MNT "/file")

FIXTURE(integrity)
{
	struct server_fs *fs;
	pid_t server;
	int conn;
	__u64 seed;
	unsigned char *buf;
};

FIXTURE_VARIANT(integrity)
{
	enum test_transport transport;
	bool writeback;
	unsigned int queues;
	unsigned int depth;
	unsigned int payload;
	unsigned int threads;
	unsigned int max_write;
};

FIXTURE_VARIANT_ADD(integrity, dev) {
	.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(integrity, dev_writeback) {
	.transport = TRANSPORT_DEV,
	.writeback = true,
};

FIXTURE_VARIANT_ADD(integrity, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(integrity, ring_writeback) {
	.transport = TRANSPORT_RING,
	.writeback = true,
};

FIXTURE_VARIANT_ADD(integrity, ring_two_queues) {
	.transport = TRANSPORT_RING,
	.writeback = true,
	.queues = 2,
	.depth = 3,
	.threads = 2,
	.max_write = 132 << 10,
};

/* One slot, of the smallest size that there is. */
FIXTURE_VARIANT_ADD(integrity, ring_smallest) {
	.transport = TRANSPORT_RING,
	.writeback = true,
	.queues = 1,
	.depth = 1,
	.payload = FUSE_URING_MIN_PAYLOAD,
};

FIXTURE_VARIANT_ADD(integrity, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(integrity, user_writeback) {
	.transport = TRANSPORT_USER,
	.writeback = true,
};

FIXTURE_VARIANT_ADD(integrity, user_two_threads) {
	.transport = TRANSPORT_USER,
	.writeback = true,
	.depth = 3,
	.threads = 2,
	.max_write = 132 << 10,
};

/* One slot for all CPUs, of the smallest size that there is. */
FIXTURE_VARIANT_ADD(integrity, user_smallest) {
	.transport = TRANSPORT_USER,
	.writeback = true,
	.queues = 1,
	.depth = 1,
	.payload = 16384,
};

FIXTURE_SETUP(integrity)
{
	const char *why = test_prepare_mainline(variant->transport,
						variant->queues);
	struct server_opts opts = {
		.mountpoint = TEST_MNT,
		.transport = transport_server(variant->transport),
		.nr_queues = variant->queues,
		.queue_depth = variant->depth,
		.payload_size = variant->payload,
		.threads_per_queue = variant->threads,
		.nr_threads = 3,
		.max_write = variant->max_write,
		.init_set = variant->writeback ? FUSE_WRITEBACK_CACHE : 0,
		.mount_opts = "allow_other",
		.entry_valid_ms = 1000,
		.attr_valid_ms = 1000,
	};

	if (why)
		SKIP(return, "%s", why);
	if (variant->queues > sysconf(_SC_NPROCESSORS_CONF))
		SKIP(return, "needs %u CPUs", variant->queues);
	self->fs = fs_mem_new();
	ASSERT_NE(NULL, self->fs);
	opts.fs = self->fs;
	self->server = server_fork(&opts);
	ASSERT_LT(0, self->server) TH_LOG("%s", server_error());
	self->conn = conn_number(TEST_MNT);
	ASSERT_LE(0, self->conn);
	self->seed = test_seed();
	ASSERT_EQ(0, posix_memalign((void **)&self->buf, 4096, FILE_MAX));
}

FIXTURE_TEARDOWN(integrity)
{
	bool stats = transport_rings(variant->transport) && !ring_is_mainline();
	int status = -1;

	if (stats)
		EXPECT_LT(0, ring_stat(self->conn, "requests_ring"));
	/* All that these do fits into a slot, but FUSE_INIT is not sent there. */
	if (stats && variant->transport == TRANSPORT_USER)
		EXPECT_GE(1, ring_stat(self->conn, "requests_dev"));
	if (variant->transport == TRANSPORT_RING) {
		EXPECT_EQ(0, ring_stat(self->conn, "requests_dev"));
		EXPECT_EQ(0, ring_stat(self->conn, "forgets_dev"));
		EXPECT_EQ(0, ring_stat(self->conn, "interrupts_dev"));
		EXPECT_EQ(0, ring_stat(self->conn, "notifications_dev"));
	}
	EXPECT_EQ(0, umount(TEST_MNT));
	EXPECT_EQ(self->server, waitpid(self->server, &status, 0));
	EXPECT_EQ(0, status);
	free(self->buf);
	fs_free(self->fs);
}

/* A file, and what it should be. */
struct shadow {
	int fd;			/* through the page cache */
	int direct;		/* not */
	char *map;
	unsigned char *bytes;
	size_t size;
	unsigned char *buf;
	__u64 seed;
	unsigned int ops;	/* how many of each kind so far */
};

static size_t below(struct shadow *s, size_t limit)
{
	return limit ? test_random(&s->seed) % limit : 0;
}

/*
 * Offsets and lengths around the borders of pages and of requests, where
 * things go wrong, and anywhere else.
 */
static void choose(struct shadow *s, size_t limit, size_t *at, size_t *len)
{
	static const size_t lens[] = { 1, 511, 512, 4095, 4096, 4097, 8192,
				       32768, 65536, 131072, 262143, 1048576,
				       1052672 };
	size_t max = lens[below(s, ARRAY_SIZE(lens))];

	*at = below(s, limit);
	if (below(s, 2))
		*at &= ~4095UL;
	*len = below(s, 2) ? max : below(s, max) + 1;
	if (*at + *len > limit)
		*len = limit - *at;
}

static void scatter(struct shadow *s, size_t len)
{
	__u64 word = 0;
	size_t i;

	for (i = 0; i < len; i++) {
		if (!(i % 8))
			word = test_random(&s->seed);
		s->buf[i] = word >> i % 8 * 8;
	}
}

/* What a file that grows has between its old end and @at. */
static void grow(struct shadow *s, size_t at)
{
	if (at > s->size) {
		memset(s->bytes + s->size, 0, at - s->size);
		s->size = at;
	}
}

static int write_all(int fd, const void *buf, size_t len, off_t at)
{
	size_t sum = 0;

	while (sum < len) {
		ssize_t ret = pwrite(fd, buf + sum, len - sum, at + sum);

		if (ret <= 0)
			return ret ? -errno : -EIO;
		sum += ret;
	}
	return 0;
}

static int read_all(int fd, void *buf, size_t len, off_t at)
{
	size_t sum = 0;

	while (sum < len) {
		ssize_t ret = pread(fd, buf + sum, len - sum, at + sum);

		if (ret <= 0)
			return ret ? -errno : -ENODATA;
		sum += ret;
	}
	return 0;
}

static int op_write(struct shadow *s, int fd)
{
	size_t at, len;
	int ret;

	choose(s, FILE_MAX, &at, &len);
	scatter(s, len);
	ret = write_all(fd, s->buf, len, at);
	grow(s, at);
	memcpy(s->bytes + at, s->buf, len);
	if (at + len > s->size)
		s->size = at + len;
	return ret;
}

static int differs(struct shadow *s, const void *got, size_t at, size_t len)
{
	const unsigned char *bytes = got;
	size_t i;

	if (!memcmp(bytes, s->bytes + at, len))
		return 0;
	for (i = 0; bytes[i] == s->bytes[at + i]; i++)
		;
	fprintf(stderr, "# byte %zu of %zu is %#x, not %#x\n", at + i, s->size,
		bytes[i], s->bytes[at + i]);
	return -EILSEQ;
}

static int op_read(struct shadow *s, int fd)
{
	size_t at, len;
	int ret;

	if (!s->size)
		return 0;
	choose(s, s->size, &at, &len);
	ret = read_all(fd, s->buf, len, at);
	return ret ? ret : differs(s, s->buf, at, len);
}

static int op_map_write(struct shadow *s)
{
	size_t at, len;

	if (!s->size)
		return 0;
	choose(s, s->size, &at, &len);
	scatter(s, len);
	memcpy(s->map + at, s->buf, len);
	memcpy(s->bytes + at, s->buf, len);
	return below(s, 4) ? 0 : msync(s->map, s->size, MS_SYNC) ? -errno : 0;
}

static int op_map_read(struct shadow *s)
{
	size_t at, len;

	if (!s->size)
		return 0;
	choose(s, s->size, &at, &len);
	return differs(s, s->map + at, at, len);
}

static int op_truncate(struct shadow *s)
{
	size_t size = below(s, FILE_MAX);

	if (ftruncate(s->fd, size))
		return -errno;
	grow(s, size);
	s->size = size;
	return 0;
}

static int op_punch(struct shadow *s)
{
	size_t at, len;

	if (!s->size)
		return 0;
	choose(s, s->size, &at, &len);
	if (fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
		      len))
		return -errno;
	memset(s->bytes + at, 0, len);
	return 0;
}

static int op_allocate(struct shadow *s)
{
	size_t at, len;

	choose(s, FILE_MAX, &at, &len);
	if (fallocate(s->fd, 0, at, len))
		return -errno;
	grow(s, at + len);
	return 0;
}

/* To and from a pipe: pages are moved, not copied, where that is possible. */
static int op_splice(struct shadow *s)
{
	size_t at, len, sum = 0;
	int fds[2], ret = 0;

	if (!s->size || pipe(fds))
		return s->size ? -errno : 0;
	choose(s, s->size, &at, &len);
	while (sum < len && !ret) {
		off_t from = at + sum;
		ssize_t got = splice(s->fd, &from, fds[1], NULL, len - sum, 0);

		if (got <= 0)
			ret = got ? -errno : -ENODATA;
		else if (read(fds[0], s->buf + sum, got) != got)
			ret = -EIO;
		else
			sum += got;
	}
	if (!ret)
		ret = differs(s, s->buf, at, len);

	/* One pipe's worth back to somewhere else. */
	if (!ret) {
		len = len > 65536 ? 65536 : len;
		at = below(s, FILE_MAX - len);
		scatter(s, len);
		if (write(fds[1], s->buf, len) != (ssize_t)len)
			ret = -EIO;
		grow(s, at);
		for (sum = 0; sum < len && !ret;) {
			off_t to = at + sum;
			ssize_t put = splice(fds[0], NULL, s->fd, &to,
					     len - sum, 0);

			if (put <= 0)
				ret = put ? -errno : -EIO;
			else
				sum += put;
		}
		memcpy(s->bytes + at, s->buf, len);
		if (at + len > s->size)
			s->size = at + len;
	}
	close(fds[0]);
	close(fds[1]);
	return ret;
}

static int op_copy(struct shadow *s)
{
	size_t from, to, len, done = 0;

	if (!s->size)
		return 0;
	choose(s, s->size, &from, &len);
	to = below(s, FILE_MAX - len);
	if (to < from + len && from < to + len)
		return 0;
	while (done < len) {
		off_t in = from + done, out = to + done;
		ssize_t ret = copy_file_range(s->fd, &in, s->fd, &out,
					      len - done, 0);

		if (ret <= 0)
			return ret ? -errno : -EIO;
		done += ret;
	}
	grow(s, to);
	memcpy(s->bytes + to, s->bytes + from, len);
	if (to + len > s->size)
		s->size = to + len;
	return 0;
}

static int op_forget_pages(struct shadow *s)
{
	if (fsync(s->fd))
		return -errno;
	return -posix_fadvise(s->fd, 0, 0, POSIX_FADV_DONTNEED);
}

static int op_size(struct shadow *s)
{
	struct stat st;

	if (fstat(s->fd, &st))
		return -errno;
	return (size_t)st.st_size == s->size ? 0 : -ESPIPE;
}

enum {
	WITH_CACHE	= 1,
	WITH_DIRECT	= 2,
	WITH_MAP	= 4,
	WITH_SIZES	= 8,
	WITH_SPLICE	= 16,
};

static int one_op(struct shadow *s, unsigned int with)
{
	s->ops++;
	switch (below(s, 14)) {
	case 0:
	case 1:
		return with & WITH_CACHE ? op_write(s, s->fd) : 0;
	case 2:
	case 3:
		return with & WITH_CACHE ? op_read(s, s->fd) : 0;
	case 4:
		return with & WITH_DIRECT ? op_write(s, s->direct) : 0;
	case 5:
		return with & WITH_DIRECT ? op_read(s, s->direct) : 0;
	case 6:
		return with & WITH_MAP ? op_map_write(s) : 0;
	case 7:
		return with & WITH_MAP ? op_map_read(s) : 0;
	case 8:
		return with & WITH_SIZES ? op_truncate(s) : 0;
	case 9:
		return with & WITH_SIZES ? op_punch(s) : 0;
	case 10:
		return with & WITH_SIZES ? op_allocate(s) : op_size(s);
	case 11:
		return with & WITH_SPLICE ? op_splice(s) : 0;
	case 12:
		return with & WITH_SPLICE ? op_copy(s) : op_size(s);
	default:
		return op_forget_pages(s);
	}
}

static int shadow_open(struct shadow *s, const char *path, __u64 seed)
{
	memset(s, 0, sizeof(*s));
	s->seed = seed;
	s->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	s->direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	s->bytes = calloc(1, FILE_MAX);
	if (s->fd < 0 || s->direct < 0 || !s->bytes ||
	    posix_memalign((void **)&s->buf, 4096, FILE_MAX))
		return -errno;
	s->map = mmap(NULL, FILE_MAX, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd,
		      0);
	return s->map == MAP_FAILED ? -errno : 0;
}

/* All of it once more, from the server. */
static int shadow_close(struct shadow *s)
{
	int ret = op_forget_pages(s);

	if (!ret)
		ret = read_all(s->fd, s->buf, s->size, 0);
	if (!ret)
		ret = differs(s, s->buf, 0, s->size);
	if (!ret)
		ret = read_all(s->direct, s->buf, s->size, 0);
	if (!ret)
		ret = differs(s, s->buf, 0, s->size);
	if (!ret)
		ret = op_size(s);
	munmap(s->map, FILE_MAX);
	close(s->fd);
	close(s->direct);
	free(s->bytes);
	free(s->buf);
	return ret;
}

static int play(const char *path, unsigned int with, __u64 seed)
{
	__u64 end = now_ms() + test_ms();
	struct shadow s;
	int ret;

	ret = shadow_open(&s, path, seed);
	while (!ret && now_ms() < end)
		ret = one_op(&s, with);
	if (ret)
		fprintf(stderr, "# operation %u: %d\n", s.ops, ret);
	return ret ? ret : shadow_close(&s);
}

TEST_F(integrity, cached)
{
	EXPECT_EQ(0, play(FILE_PATH, WITH_CACHE, self->seed));
}

TEST_F(integrity, direct)
{
	EXPECT_EQ(0, play(FILE_PATH, WITH_DIRECT, self->seed));
}

TEST_F(integrity, mapped)
{
	EXPECT_EQ(0, play(FILE_PATH, WITH_MAP | WITH_CACHE, self->seed));
}

TEST_F(integrity, everything)
{
	EXPECT_EQ(0, play(FILE_PATH, ~0U, self->seed));
}

/* Each process its own file, all at once. */
struct player {
	char path[64];
	__u64 seed;
};

static int player(const void *arg)
{
	const struct player *p = arg;

	return play(p->path, ~0U, p->seed);
}

TEST_F(integrity, processes)
{
	struct requester r[4];
	struct player p;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(r); i++) {
		snprintf(p.path, sizeof(p.path), TEST_MNT "/player%u", i);
		p.seed = self->seed + i;
		ASSERT_EQ(0, requester_start(&r[i], player, &p));
	}
	for (i = 0; i < ARRAY_SIZE(r); i++) {
		int ret;

		ASSERT_TRUE(requester_ended(&r[i], &ret,
					    test_ms() + TEST_WAIT_MS));
		EXPECT_EQ(0, ret);
	}
}

/* Each process its own pages of one file. */
#define STRIPE	12288

struct stripes {
	unsigned int nr;
	unsigned int me;
	int flags;
};

static int stripe_writer(const void *arg)
{
	__u64 end = now_ms() + test_ms();
	const struct stripes *st = arg;
	static unsigned char buf[STRIPE], got[STRIPE];
	int fd = open(FILE_PATH, O_RDWR | O_CREAT | O_CLOEXEC | st->flags,
		      0600);
	unsigned int round, i;

	if (fd < 0)
		return -errno;
	for (round = 0; now_ms() < end; round++) {
		off_t at = ((off_t)(round % 16) * st->nr + st->me) * STRIPE;

		for (i = 0; i < STRIPE; i++)
			buf[i] = test_byte(st->me + round, i);
		if (write_all(fd, buf, STRIPE, at))
			return -EIO;
		if (round % 3 == 0 &&
		    (fsync(fd) || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)))
			return -EIO;
		if (read_all(fd, got, STRIPE, at))
			return -ENODATA;
		if (memcmp(buf, got, STRIPE))
			return -EILSEQ;
	}
	return 0;
}

TEST_F(integrity, one_file)
{
	struct stripes st = { .nr = 4 };
	struct requester r[4];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(r); i++) {
		st.me = i;
		st.flags = i % 2 ? O_DIRECT : 0;
		ASSERT_EQ(0, requester_start(&r[i], stripe_writer, &st));
	}
	for (i = 0; i < ARRAY_SIZE(r); i++) {
		int ret;

		ASSERT_TRUE(requester_ended(&r[i], &ret,
					    test_ms() + TEST_WAIT_MS));
		EXPECT_EQ(0, ret);
	}
}

/* Records of one writer stay whole and in order among those of others. */
struct record {
	unsigned int writer;
	unsigned int number;
	unsigned char pad[92];
};

#define RECORDS	100

static int appender(const void *arg)
{
	struct record rec = { .writer = *(const unsigned int *)arg };
	int fd = open(FILE_PATH, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC,
		      0600);

	if (fd < 0)
		return -errno;
	for (rec.number = 0; rec.number < RECORDS; rec.number++) {
		memset(rec.pad, rec.number, sizeof(rec.pad));
		if (write(fd, &rec, sizeof(rec)) != sizeof(rec))
			return -EIO;
	}
	return 0;
}

TEST_F(integrity, append)
{
	unsigned int i, j, next[3] = { 0 }, wrong = 0;
	struct requester r[3];
	struct record rec;
	int fd;

	for (i = 0; i < ARRAY_SIZE(r); i++)
		ASSERT_EQ(0, requester_start(&r[i], appender, &i));
	for (i = 0; i < ARRAY_SIZE(r); i++)
		EXPECT_EQ(0, requester_join(&r[i]));
	fd = open(FILE_PATH, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	for (i = 0; i < ARRAY_SIZE(r) * RECORDS; i++) {
		ASSERT_EQ(sizeof(rec), read(fd, &rec, sizeof(rec)));
		ASSERT_GT(ARRAY_SIZE(next), rec.writer);
		wrong += rec.number != next[rec.writer]++;
		for (j = 0; j < sizeof(rec.pad); j++)
			wrong += rec.pad[j] != (unsigned char)rec.number;
	}
	EXPECT_EQ(0, wrong);
	EXPECT_EQ(0, read(fd, &rec, 1));
	close(fd);
}

/* Much at a time, with readahead, in pieces that fit nothing. */
TEST_F(integrity, sequential)
{
	static const size_t pieces[] = { 4096, 5000, 131072, 1000003 };
	size_t max = kernel_debugs() ? FILE_MAX / 2 : FILE_MAX;
	struct shadow s;
	size_t at, len, i;
	int ret = 0;

	ASSERT_EQ(0, shadow_open(&s, FILE_PATH, self->seed));
	scatter(&s, max);
	memcpy(s.bytes, s.buf, max);
	for (i = 0; i < ARRAY_SIZE(pieces) && !ret; i++) {
		for (at = 0; at < max && !ret; at += len) {
			len = pieces[i];
			if (at + len > max)
				len = max - at;
			ret = write_all(s.fd, s.bytes + at, len, at);
		}
		s.size = max;
		if (!ret)
			ret = op_forget_pages(&s);
		for (at = 0; at < max && !ret; at += len) {
			len = pieces[i];
			if (at + len > max)
				len = max - at;
			ret = read_all(s.fd, s.buf, len, at);
			if (!ret)
				ret = differs(&s, s.buf, at, len);
		}
	}
	EXPECT_EQ(0, ret);
	EXPECT_EQ(0, shadow_close(&s));
}

/* From one file to another inside the kernel, and a private mapping. */
TEST_F(integrity, sendfile)
{
	size_t sum = 0;
	struct shadow s;
	char *private;
	int fd;

	ASSERT_EQ(0, shadow_open(&s, FILE_PATH, self->seed));
	scatter(&s, FILE_MAX);
	memcpy(s.bytes, s.buf, FILE_MAX);
	s.size = FILE_MAX;
	ASSERT_EQ(0, write_all(s.fd, s.buf, FILE_MAX, 0));
	ASSERT_EQ(0, op_forget_pages(&s));
	fd = open(TEST_MNT "/sent", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_LE(0, fd);
	while (sum < FILE_MAX) {
		ssize_t len = sendfile(fd, s.fd, NULL, FILE_MAX - sum);

		ASSERT_LT(0, len);
		sum += len;
	}
	ASSERT_EQ(0, fsync(fd));
	ASSERT_EQ(0, posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	private = mmap(NULL, FILE_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd,
		       0);
	ASSERT_NE(MAP_FAILED, (void *)private);
	EXPECT_EQ(0, differs(&s, private, 0, FILE_MAX));
	/* What is written there stays there. */
	memset(private, 0, FILE_MAX);
	ASSERT_EQ(0, read_all(fd, s.buf, FILE_MAX, 0));
	EXPECT_EQ(0, differs(&s, s.buf, 0, FILE_MAX));
	munmap(private, FILE_MAX);
	close(fd);
	EXPECT_EQ(0, shadow_close(&s));
}

TEST_HARNESS_MAIN
