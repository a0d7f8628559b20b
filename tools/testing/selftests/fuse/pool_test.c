// SPDX-License-Identifier: GPL-2.0
/*
 * Payload areas: each slot has a small one of its own, and what does not fit
 * there is in the queue's pool.  Where they lie, that no two of them overlap,
 * that small requests never wait for the pool, and who waits for it how long.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "proto.h"
#include "puppet.h"
#include "util.h"

#define FILE2		(TEST_MNT "/f2")
#define FILE3		(TEST_MNT "/f3")
#define FILE4		(TEST_MNT "/f4")
#define DEFER	(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)

#define COMMIT		FUSE_URING_REQ_COMMIT_AND_FETCH
/* Sizes go with that of a page, which may have 4 to 64 KiB. */
#define SMALL		((unsigned long)getpagesize())
#define PAYLOAD		(4 * PUPPET_READAHEAD)
/* The pool is dealt out in chunks, and has whole pages. */
#define CHUNK		max_t(unsigned long, FUSE_URING_POOL_CHUNK, SMALL)
/* What the largest request can need, and what it gets of the pool. */
#define AREA_OF(payload)	((payload) + SMALL)
#define AREA		AREA_OF(PAYLOAD)
#define BUFFER_OF(payload)	\
	((AREA_OF(payload) + CHUNK - 1) / CHUNK * CHUNK)
#define BUFFER		BUFFER_OF(PAYLOAD)
/* Where FUSE itself ends. */
#define MAX_PAYLOAD	(256 * SMALL)

/* A size that a variant tells, when it is no constant. */
struct size {
	unsigned long buffers;
	unsigned long payloads;
	unsigned long chunks;
	unsigned long pages;
	unsigned long bytes;
};

static unsigned long bytes_of(const struct size *size, unsigned long payload)
{
	return size->buffers * BUFFER_OF(payload) + size->payloads * payload +
	       size->chunks * CHUNK + size->pages * SMALL + size->bytes;
}

/* Nothing more comes: long enough to notice, and never a reason to fail. */

static int setup(int fd, struct fuse_uring_setup *arg)
{
	return ioctl(fd, FUSE_DEV_IOC_URING_SETUP, arg) ? -errno : 0;
}

/* Everything after the setup ioctl. */
static int begin(struct puppet *p)
{
	int ret = puppet_map(p);

	if (!ret)
		ret = puppet_uring(p);
	if (!ret)
		ret = puppet_arm(p);
	return ret ? ret : puppet_init(p);
}

/* The next request; slots that are given back are none of our business. */
static int take(struct puppet *p, struct puppet_req *req, unsigned int ms)
{
	int ret;

	do {
		ret = puppet_next(p, req, ms);
	} while (ret == -ECANCELED);
	return ret;
}

/* The next one of this opcode, while others are answered. */
static int take_until(struct puppet *p, struct puppet_req *req, __u32 opcode)
{
	int ret;

	do {
		ret = puppet_until(p, req, opcode);
	} while (ret == -ECANCELED);
	return ret;
}

/* A small request and one of the largest size are answered. */
static int serves(struct puppet *p)
{
	const struct puppet_io io = {
		.path = FILE2,
		.len = p->setup.payload_size,
		.flags = O_RDONLY | O_DIRECT,
		.check = true,
	};
	struct requester r;
	int ret;

	ret = requester_start(&r, request_stat, FILE2);
	if (!ret)
		ret = puppet_serve(p, &r);
	if (!ret)
		ret = requester_start(&r, request_read, &io);
	if (!ret)
		ret = puppet_serve(p, &r);
	if (!ret && ring_stat(p->conn, "requests_dev"))
		ret = -EPROTO;
	return ret;
}

/* What the mapping of a queue consists of. */
FIXTURE(layout)
{
	struct puppet p;
	unsigned int payload;
};

FIXTURE_VARIANT(layout)
{
	unsigned int depth;
	unsigned int control;
	bool largest;			/* MAX_PAYLOAD, else PAYLOAD */
	struct size small, pool;	/* asked for */
	bool full;
	struct size granted_small;
	struct size granted_pool;
	struct size most;		/* of the mapping */
};

FIXTURE_VARIANT_ADD(layout, defaults) {
	.depth = 8,
	.granted_small = { .pages = 1 },
	.granted_pool = { .buffers = 4 },
};

FIXTURE_VARIANT_ADD(layout, many_large) {
	.depth = 64,
	.largest = true,
	.granted_small = { .pages = 1 },
	.granted_pool = { .buffers = 4 },
	.most = { .pages = 2048 },
};

FIXTURE_VARIANT_ADD(layout, with_control_slots) {
	.depth = 8,
	.control = 3,
	.granted_small = { .pages = 1 },
	.granted_pool = { .buffers = 4 },
};

FIXTURE_VARIANT_ADD(layout, small_is_rounded_up) {
	.depth = 8,
	.small = { .pages = 1, .bytes = 1 },
	.granted_small = { .pages = 2 },
	.granted_pool = { .buffers = 4 },
};

FIXTURE_VARIANT_ADD(layout, one_byte_is_a_page) {
	.depth = 8,
	.small = { .bytes = 1 },
	.granted_small = { .pages = 1 },
	.granted_pool = { .buffers = 4 },
};

FIXTURE_VARIANT_ADD(layout, large_small_ones) {
	.depth = 8,
	.small = { .payloads = 1, .pages = -1UL },
	.granted_small = { .payloads = 1, .pages = -1UL },
	.granted_pool = { .buffers = 4 },
};

FIXTURE_VARIANT_ADD(layout, least_pool) {
	.depth = 8,
	.pool = { .buffers = 3 },
	.granted_small = { .pages = 1 },
	.granted_pool = { .buffers = 3 },
};

FIXTURE_VARIANT_ADD(layout, odd_pool) {
	.depth = 8,
	.pool = { .buffers = 5, .chunks = 1, .bytes = -1UL },
	.granted_small = { .pages = 1 },
	.granted_pool = { .buffers = 5 },
};

FIXTURE_VARIANT_ADD(layout, full_by_small_size) {
	.depth = 8,
	.small = { .payloads = 1 },
	.full = true,
};

FIXTURE_VARIANT_ADD(layout, full_by_small_size_rounded_up) {
	.depth = 8,
	.small = { .payloads = 1, .bytes = -1UL },
	.full = true,
};

FIXTURE_VARIANT_ADD(layout, full_by_largest_small_size) {
	.depth = 8,
	.small = { .pages = 257 },
	.full = true,
};

FIXTURE_VARIANT_ADD(layout, full_whatever_the_pool) {
	.depth = 8,
	.small = { .payloads = 1 },
	.pool = { .bytes = 1 },
	.full = true,
};

FIXTURE_VARIANT_ADD(layout, full_by_pool) {
	.depth = 8,
	.pool = { .buffers = 8 },
	.full = true,
};

FIXTURE_VARIANT_ADD(layout, full_by_small_pool) {
	.depth = 2,
	.pool = { .buffers = 2 },
	.full = true,
};

FIXTURE_VARIANT_ADD(layout, full_by_few_slots) {
	.depth = 4,
	.full = true,
};

FIXTURE_SETUP(layout)
{
	const char *why = test_prepare(TRANSPORT_RING);
	unsigned long payload = variant->largest ? MAX_PAYLOAD : PAYLOAD;
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = 1,
		.depth = variant->depth,
		.control = variant->control,
		.payload = payload,
		.small = bytes_of(&variant->small, payload),
		.pool = bytes_of(&variant->pool, payload),
		.max_write = payload,
	};

	if (why)
		SKIP(return, "%s", why);
	self->payload = payload;
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	ASSERT_EQ(0, puppet_setup(&self->p));
}

FIXTURE_TEARDOWN(layout)
{
	puppet_stop(&self->p);
}

TEST_F(layout, is_what_was_asked_for)
{
	struct fuse_uring_setup *s = &self->p.setup;

	EXPECT_EQ(self->payload, s->payload_size);
	EXPECT_EQ(variant->depth, s->queue_depth);
	if (variant->full) {
		EXPECT_EQ(AREA, s->small_size);
		EXPECT_EQ(0, s->pool_size);
	} else {
		EXPECT_EQ(bytes_of(&variant->granted_small, self->payload),
			  s->small_size);
		EXPECT_EQ(bytes_of(&variant->granted_pool, self->payload),
			  s->pool_size);
	}
	EXPECT_EQ(s->small_size, ring_stat(self->p.conn, "small_size"));
	EXPECT_EQ(s->pool_size, ring_stat(self->p.conn, "pool_size"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pool_used"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pool_requests"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pool_waits"));
}

TEST_F(layout, adds_up)
{
	struct fuse_uring_setup *s = &self->p.setup;
	unsigned int slots = s->queue_depth + s->nr_control, i, j;
	struct {
		__u64 from, to;
	} part[] = {
		{ s->header_offset,
		  s->header_offset + (__u64)slots * s->header_stride },
		{ s->payload_offset,
		  s->payload_offset + (__u64)s->queue_depth * s->small_size },
		{ s->pool_offset, s->pool_offset + s->pool_size },
	};
	__u64 sum = s->nr_control * SMALL;

	EXPECT_EQ(0, s->small_size % getpagesize());
	EXPECT_EQ(0, s->pool_size % CHUNK);
	EXPECT_EQ(0, s->payload_offset % getpagesize());
	EXPECT_EQ(0, s->pool_offset % getpagesize());
	EXPECT_EQ(0, s->mmap_size % getpagesize());
	for (i = 0; i < ARRAY_SIZE(part); i++) {
		if (part[i].from == part[i].to)
			continue;
		sum += part[i].to - part[i].from;
		EXPECT_GE(s->mmap_size, part[i].to);
		for (j = 0; j < i; j++)
			EXPECT_TRUE(part[i].from >= part[j].to ||
				    part[j].from >= part[i].to)
				TH_LOG("parts %u and %u overlap", i, j);
	}
	/* And little more than that. */
	EXPECT_LE(sum, s->mmap_size);
	EXPECT_GE(sum + CHUNK, s->mmap_size);
	if (variant->most.pages)
		EXPECT_GE(bytes_of(&variant->most, self->payload),
			  s->mmap_size);
	EXPECT_EQ(s->mmap_size / getpagesize(),
		  ring_queue_stat(self->p.conn, 0, "pages"));
}

TEST_F(layout, is_used)
{
	ASSERT_EQ(0, begin(&self->p));
	EXPECT_EQ(0, serves(&self->p));
}

/* Refused with this error, and nothing has changed. */
FIXTURE(pool_refused)
{
	struct puppet p;
};

FIXTURE_VARIANT(pool_refused)
{
	unsigned int depth;
	struct size small;
	struct size pool;
	__u64 reserved;
};

FIXTURE_VARIANT_ADD(pool_refused, pool_of_a_byte) {
	.depth = 8,
	.pool = { .bytes = 1 },
};

FIXTURE_VARIANT_ADD(pool_refused, pool_of_one_buffer) {
	.depth = 8,
	.pool = { .buffers = 1 },
};

FIXTURE_VARIANT_ADD(pool_refused, pool_of_almost_three_buffers) {
	.depth = 8,
	.pool = { .buffers = 3, .bytes = -1UL },
};

FIXTURE_VARIANT_ADD(pool_refused, pool_of_almost_all_slots) {
	.depth = 2,
	.pool = { .buffers = 2, .bytes = -1UL },
};

FIXTURE_VARIANT_ADD(pool_refused, pool_too_large) {
	.depth = FUSE_URING_MAX_QUEUE_DEPTH,
	.pool = { .buffers = 2, .chunks = 1, .bytes = FUSE_URING_MAX_POOL },
};

FIXTURE_VARIANT_ADD(pool_refused, small_size_too_large) {
	.depth = 8,
	.small = { .pages = 257, .bytes = 1 },
};

FIXTURE_VARIANT_ADD(pool_refused, small_size_huge) {
	.depth = 8,
	.small = { .bytes = ~0U },
};

/* Full-size buffers are no excuse. */
FIXTURE_VARIANT_ADD(pool_refused, small_size_huge_with_pool) {
	.depth = 8,
	.small = { .bytes = ~0U },
	.pool = { .buffers = 8 },
};

FIXTURE_VARIANT_ADD(pool_refused, reserved_field) {
	.depth = 8,
	.pool = { .buffers = 4 },
	.reserved = 1,
};

FIXTURE_SETUP(pool_refused)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = 1,
		.depth = 7,
		.payload = PAYLOAD,
		.pool = 3 * BUFFER,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
}

FIXTURE_TEARDOWN(pool_refused)
{
	puppet_stop(&self->p);
}

static struct fuse_uring_setup
refused_setup(const struct _fixture_variant_pool_refused *variant)
{
	return (struct fuse_uring_setup){
		.size = sizeof(struct fuse_uring_setup),
		.nr_queues = 1,
		.queue_depth = variant->depth,
		.payload_size = PAYLOAD,
		.small_size = bytes_of(&variant->small, PAYLOAD),
		.pool_size = bytes_of(&variant->pool, PAYLOAD),
		.reserved = { variant->reserved },
	};
}

TEST_F(pool_refused, makes_no_ring)
{
	struct fuse_uring_setup arg = refused_setup(variant);

	EXPECT_EQ(variant->reserved ? -EINVAL : -ERANGE,
		  setup(self->p.fd, &arg));
	EXPECT_EQ(-1, ring_stat(self->p.conn, "requests_ring"));
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, begin(&self->p));
	EXPECT_EQ(0, serves(&self->p));
}

TEST_F(pool_refused, leaves_the_ring_there_is)
{
	struct fuse_uring_setup arg = refused_setup(variant);

	ASSERT_EQ(0, puppet_setup(&self->p));
	EXPECT_EQ(variant->reserved ? -EINVAL : -ERANGE,
		  setup(self->p.fd, &arg));
	EXPECT_EQ(7, ring_stat(self->p.conn, "queue_depth"));
	EXPECT_EQ(self->p.setup.pool_size,
		  ring_stat(self->p.conn, "pool_size"));
	ASSERT_EQ(0, begin(&self->p));
	EXPECT_EQ(0, serves(&self->p));
}

/* Where a request's area lies. */
enum place {
	PLACE_WRONG,
	PLACE_OWN,
	PLACE_POOL,
};

static enum place place_of(struct puppet *p, const struct puppet_req *req)
{
	struct fuse_uring_setup *s = &p->setup;
	__u64 from = req->payload - p->map[req->qid];
	__u64 to = from + req->capacity;
	__u64 own = s->payload_offset + (__u64)req->slot * s->small_size;

	if (!req->ring || !req->capacity)
		return PLACE_WRONG;
	if (from >= own && to <= own + s->small_size)
		return PLACE_OWN;
	if (from >= s->pool_offset && to <= s->pool_offset + s->pool_size)
		return PLACE_POOL;
	return PLACE_WRONG;
}

static size_t sent_size(struct puppet *p, const struct puppet_req *req)
{
	return puppet_header(p, req->qid, req->slot)
		->ring_ent_in_out.payload_sz;
}

/* The longest reply that it can have, 0 for what this test does not use. */
static size_t reply_size(const struct puppet_req *req)
{
	switch (req->in.opcode) {
	case FUSE_READ:
		return req->read.size;
	case FUSE_WRITE:
		return sizeof(struct fuse_write_out);
	case FUSE_LOOKUP:
		return sizeof(struct fuse_entry_out);
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		return sizeof(struct fuse_attr_out);
	case FUSE_OPEN:
		return sizeof(struct fuse_open_out);
	default:
		return 0;
	}
}

static size_t need_of(struct puppet *p, const struct puppet_req *req)
{
	return max(sent_size(p, req), reply_size(req));
}

/* It is where it belongs, and apart from all those that are held. */
static void check_area(struct __test_metadata *_metadata, struct puppet *p,
		       const struct puppet_req *req,
		       const struct puppet_held *held)
{
	bool own = need_of(p, req) <= p->setup.small_size;
	unsigned int i;

	EXPECT_LE(need_of(p, req), req->capacity);
	/* FLUSH and such have no payload at all. */
	if (!req->capacity)
		return;
	EXPECT_EQ(own ? PLACE_OWN : PLACE_POOL, place_of(p, req))
		TH_LOG("opcode %u, %zu bytes: %zu bytes at %#zx",
		       req->in.opcode, need_of(p, req), req->capacity,
		       (size_t)(req->payload - p->map[req->qid]));
	for (i = 0; held && i < held->nr; i++) {
		const struct puppet_req *other = held->req[i];

		if (other == req)
			continue;
		EXPECT_TRUE(req->payload >= other->payload + other->capacity ||
			    other->payload >= req->payload + req->capacity)
			TH_LOG("slots %u and %u overlap", req->slot,
			       other->slot);
	}
}

static void check_held(struct __test_metadata *_metadata, struct puppet *p,
		       const struct puppet_held *held)
{
	unsigned int i;

	for (i = 0; i < held->nr; i++)
		check_area(_metadata, p, held->req[i], held);
}

#define DEPTH		16

FIXTURE(pool)
{
	struct puppet p;
	/* By where they are held: the rest, and what is kept for others. */
	struct puppet_held ahead;
	struct puppet_held sync;
	struct puppet_held back;
	struct requester reader;
	struct requester writer;
	struct requester r[DEPTH];
};

FIXTURE_VARIANT(pool)
{
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(pool, ring) {
	.uring_flags = 0,
};

FIXTURE_VARIANT_ADD(pool, ring_defer) {
	.uring_flags = DEFER,
};

static struct puppet_options pool_options = {
	.transport = TRANSPORT_RING,
	.nr_queues = 1,
	.depth = DEPTH,
	.background = DEPTH,
	/* Without FUSE_ASYNC_DIO direct I/O is synchronous. */
	.init_flags = FUSE_ASYNC_READ | FUSE_WRITEBACK_CACHE,
	.max_background = 64,
};

FIXTURE_SETUP(pool)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = pool_options;

	if (why)
		SKIP(return, "%s", why);
	opt.uring_flags = variant->uring_flags;
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
}

FIXTURE_TEARDOWN(pool)
{
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
	puppet_stop(&self->p);
}

/* Nothing is held, and the pool has got everything back. */
static void all_well(struct __test_metadata *_metadata, struct puppet *p)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	int ret;

	/* RELEASE and such, that nobody waits for. */
	do {
		ret = puppet_settle(p);
	} while ((ret == -ECANCELED || conn_ctl_read(p->conn, "waiting")) &&
		 now_ms() < end);
	EXPECT_EQ(PUPPET_TIMEOUT, ret);
	EXPECT_EQ(0, conn_ctl_read(p->conn, "waiting"));
	EXPECT_TRUE(ring_queues_stat_becomes(p->conn, "pool_used", 0));
	EXPECT_TRUE(ring_queues_stat_becomes(p->conn, "pool_requests", 0));
	EXPECT_TRUE(ring_queues_stat_becomes(p->conn, "busy", 0));
	EXPECT_EQ(0, serves(p));
}

static struct puppet_io ahead = {
	.path = FILE2,
	.flags = O_RDONLY,
	.check = true,
};

static struct puppet_io large_read = {
	.path = FILE4,
	.flags = O_RDONLY | O_DIRECT,
	.check = true,
};

static struct puppet_io small_read = {
	.path = FILE4,
	.flags = O_RDONLY | O_DIRECT,
	.check = true,
};

static struct puppet_io small_write = {
	.path = FILE4,
	.flags = O_RDWR | O_DIRECT,
};

/* Two requests of writeback. */
static struct puppet_io cached_write = {
	.path = FILE3,
	.flags = O_RDWR,
};

static void __attribute__((constructor)) set_sizes(void)
{
	pool_options.payload = PAYLOAD;
	pool_options.pool = 3 * BUFFER;
	pool_options.max_readahead = PUPPET_READAHEAD;
	pool_options.max_write = PAYLOAD;
	ahead.len = 16 * PUPPET_READAHEAD;
	large_read.len = PAYLOAD;
	small_read.len = SMALL;
	small_write.len = SMALL;
	cached_write.len = 2 * PAYLOAD;
}

static int request_write_sync(const void *arg)
{
	const struct puppet_io *io = arg;
	int fd, err = request_write(io);

	if (err)
		return err;
	fd = open(io->path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fsync(fd))
		err = -errno;
	close(fd);
	return err;
}

static int request_readahead_page(const void *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), err;

	if (fd < 0)
		return -errno;
	err = -posix_fadvise(fd, 0, SMALL, POSIX_FADV_WILLNEED);
	close(fd);
	return err;
}

/* More requests have found no room in the pools than before. */
static bool more_wait(int conn, long before)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	do {
		if (ring_queues_stat(conn, "pool_waits") > before)
			return true;
		sleep_ms(1);
	} while (now_ms() < end);
	return false;
}

static bool is_full(struct puppet *p, const struct puppet_held *held,
		    long before, unsigned int all)
{
	return held->nr && ring_queues_stat(p->conn, "pool_waits") > before &&
	       (!all ||
		all == held->nr + ring_queues_stat(p->conn, "pending"));
}

/*
 * Takes requests of this opcode until the next one waits for the pool, and, if
 * @all is not 0, until so many are there, taken or waiting.
 */
static int hold_until_full(struct puppet *p, struct puppet_held *held,
			   __u32 opcode, unsigned int all)
{
	long before = ring_queues_stat(p->conn, "pool_waits");
	__u64 end = now_ms() + TEST_WAIT_MS;
	struct puppet_req *req;
	int ret;

	while (now_ms() < end) {
		/* What is there before it is asked for is not waiting. */
		bool full = is_full(p, held, before, all);

		req = malloc(sizeof(*req));
		if (!req)
			return -errno;
		ret = puppet_next_settled(p, req);
		if (ret == PUPPET_REQUEST && req->in.opcode == opcode &&
		    held->nr < ARRAY_SIZE(held->req)) {
			held->req[held->nr++] = req;
			continue;
		}
		if (ret == PUPPET_REQUEST)
			ret = puppet_answer(p, req);
		else if (ret == PUPPET_TIMEOUT && full &&
			 is_full(p, held, before, all))
			end = 0;
		free(req);
		if (ret < 0 && ret != -ECANCELED)
			return ret;
	}
	return end ? -ETIMEDOUT : 0;
}

/* Readahead holds the rest of the pool, and wants more. */
#define HOLD_REST()							\
do {									\
	ASSERT_EQ(0, requester_start(&self->reader, request_readahead,	\
				     &ahead));				\
	ASSERT_EQ(0, hold_until_full(&self->p, &self->ahead,		\
				     FUSE_READ, 0));			\
} while (0)

/* A synchronous request and one of writeback hold what is kept for them. */
#define HOLD_ALL()							\
do {									\
	HOLD_REST();							\
	ASSERT_EQ(0, requester_start(&self->r[0], request_read,		\
				     &large_read));			\
	ASSERT_EQ(0, puppet_hold(&self->p, &self->sync, FUSE_READ, 1));	\
	ASSERT_EQ(0, requester_start(&self->writer, request_write_sync,	\
				     &cached_write));			\
	ASSERT_EQ(0, puppet_hold(&self->p, &self->back, FUSE_WRITE, 1));\
} while (0)

/* Everything goes on to its end. */
#define FINISH_REST()							\
do {									\
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->ahead));	\
	EXPECT_EQ(0, puppet_serve(&self->p, &self->reader));		\
} while (0)

#define FINISH_ALL()							\
do {									\
	FINISH_REST();							\
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->sync));	\
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->back));	\
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));		\
	EXPECT_EQ(0, puppet_serve(&self->p, &self->writer));		\
	all_well(_metadata, &self->p);					\
} while (0)

/* A request that is small takes nothing of the pool. */
static void try_size(struct __test_metadata *_metadata, struct puppet *p,
		     size_t len, bool write)
{
	struct puppet_io io = {
		.path = FILE2,
		.len = len,
		.flags = O_RDWR | O_DIRECT,
		.check = true,
	};
	static struct puppet_req req;
	struct requester r;
	long used;

	ASSERT_EQ(0, requester_start(&r, write ? request_write : request_read,
				     &io));
	ASSERT_EQ(0, puppet_until(p, &req, write ? FUSE_WRITE : FUSE_READ));
	ASSERT_EQ(len, need_of(p, &req));
	check_area(_metadata, p, &req, NULL);
	used = ring_queue_stat(p->conn, 0, "pool_used");
	if (len <= p->setup.small_size) {
		EXPECT_EQ(0, used);
		EXPECT_EQ(0, ring_queue_stat(p->conn, 0, "pool_requests"));
	} else {
		EXPECT_LE(len, used);
		EXPECT_GT(len + CHUNK, used);
		EXPECT_EQ(1, ring_queue_stat(p->conn, 0, "pool_requests"));
	}
	ASSERT_EQ(0, puppet_answer(p, &req));
	EXPECT_EQ(0, puppet_serve(p, &r));
	EXPECT_EQ(PUPPET_TIMEOUT, puppet_settle(p));
	EXPECT_TRUE(ring_queue_stat_becomes(p->conn, 0, "pool_used", 0));
}

TEST_F(pool, size_decides)
{
	const size_t sizes[] = { 100, SMALL - 1, SMALL, SMALL + 1, CHUNK,
				 CHUNK + 1, PAYLOAD };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		try_size(_metadata, &self->p, sizes[i], false);
		try_size(_metadata, &self->p, sizes[i], true);
	}
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pool_waits"));
	all_well(_metadata, &self->p);
}

/* The same with slots' own areas that are larger. */
TEST_F(pool, size_asked_for_decides)
{
	const size_t sizes[] = { 100, 5 * SMALL, 5 * SMALL + 1, PAYLOAD };
	struct puppet_options opt = pool_options;
	unsigned int i;

	puppet_stop(&self->p);
	opt.uring_flags = variant->uring_flags;
	opt.small = 5 * SMALL;
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		try_size(_metadata, &self->p, sizes[i], false);
		try_size(_metadata, &self->p, sizes[i], true);
	}
	all_well(_metadata, &self->p);
}

/* Names and attributes are small, and so is each of the slots' requests. */
TEST_F(pool, names_and_attributes_are_small)
{
	static const __u32 opcodes[] = { FUSE_LOOKUP, FUSE_GETATTR, FUSE_OPEN };
	static struct puppet_req req;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(opcodes); i++) {
		ASSERT_EQ(0, requester_start(&self->r[0],
					     opcodes[i] == FUSE_OPEN ?
					     request_open : request_stat,
					     opcodes[i] == FUSE_LOOKUP ?
					     TEST_MNT "/f77" : FILE2));
		ASSERT_EQ(0, puppet_until(&self->p, &req, opcodes[i]));
		check_area(_metadata, &self->p, &req, NULL);
		EXPECT_EQ(PLACE_OWN, place_of(&self->p, &req));
		EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pool_used"));
		ASSERT_EQ(0, puppet_answer(&self->p, &req));
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	}
}

TEST_F(pool, slots_in_use_lie_apart)
{
	unsigned int i;

	for (i = 0; i < DEPTH; i++)
		ASSERT_EQ(0, requester_start(&self->r[i], request_stat,
					     TEST_MNT));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->sync, FUSE_GETATTR, DEPTH));
	check_held(_metadata, &self->p, &self->sync);
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->sync));
	for (i = 0; i < DEPTH; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
}

/* What is kept for others is not given to readahead. */
TEST_F(pool, readahead_has_the_rest)
{
	__u64 rest = self->p.setup.pool_size - 2 * BUFFER;

	HOLD_REST();
	check_held(_metadata, &self->p, &self->ahead);
	EXPECT_LE(rest / PUPPET_READAHEAD - 1, self->ahead.nr);
	EXPECT_GE(rest / PUPPET_READAHEAD, self->ahead.nr);
	EXPECT_EQ(self->ahead.nr,
		  ring_queue_stat(self->p.conn, 0, "pool_requests"));
	EXPECT_EQ(self->ahead.nr * PUPPET_READAHEAD,
		  ring_queue_stat(self->p.conn, 0, "pool_used"));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	FINISH_REST();
	all_well(_metadata, &self->p);
}

TEST_F(pool, each_answer_lets_one_in)
{
	unsigned int i, full;

	HOLD_REST();
	full = self->ahead.nr;
	for (i = 0; i < 8; i++) {
		ASSERT_EQ(0, puppet_release(&self->p, &self->ahead));
		ASSERT_EQ(0, puppet_hold(&self->p, &self->ahead, FUSE_READ,
					 full));
		check_held(_metadata, &self->p, &self->ahead);
	}
	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	FINISH_REST();
	all_well(_metadata, &self->p);
}

TEST_F(pool, small_ones_pass_a_full_pool)
{
	unsigned int i;

	HOLD_ALL();
	for (i = 0; i < 5; i++) {
		ASSERT_EQ(0, requester_start(&self->r[1], request_stat,
					     FILE2));
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[1]));
		ASSERT_EQ(0, requester_start(&self->r[1], request_read,
					     &small_read));
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[1]));
		ASSERT_EQ(0, requester_start(&self->r[1], request_write,
					     &small_write));
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[1]));
	}
	FINISH_ALL();
}

/* RELEASE, and readahead of a page. */
TEST_F(pool, small_background_ones_pass_a_full_pool)
{
	static struct puppet_req req;

	HOLD_ALL();
	ASSERT_EQ(0, requester_start(&self->r[1], request_open,
				     TEST_MNT "/f5"));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_RELEASE));
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[1]));

	ASSERT_EQ(0, requester_start(&self->r[1], request_readahead_page,
				     TEST_MNT "/f5"));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_READ));
	EXPECT_EQ(5, req.in.nodeid);
	EXPECT_EQ(SMALL, req.read.size);
	check_area(_metadata, &self->p, &req, NULL);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[1]));
	FINISH_ALL();
}

/* One request of each kind that has something kept for it, and no second. */
TEST_F(pool, others_get_what_is_kept)
{
	struct puppet_req *req;

	HOLD_ALL();
	check_held(_metadata, &self->p, &self->ahead);
	req = self->sync.req[0];
	EXPECT_EQ(4, req->in.nodeid);
	check_area(_metadata, &self->p, req, &self->ahead);
	check_area(_metadata, &self->p, req, &self->back);
	req = self->back.req[0];
	EXPECT_EQ(3, req->in.nodeid);
	EXPECT_EQ(FUSE_WRITE_CACHE, req->write.write_flags & FUSE_WRITE_CACHE);
	EXPECT_EQ(PAYLOAD, req->write.size);
	check_area(_metadata, &self->p, req, &self->ahead);
	EXPECT_EQ(self->ahead.nr + 2,
		  ring_queue_stat(self->p.conn, 0, "pool_requests"));
	FINISH_ALL();
}

TEST_F(pool, writeback_has_one_at_a_time)
{
	static struct puppet_req req;

	HOLD_REST();
	ASSERT_EQ(0, requester_start(&self->writer, request_write_sync,
				     &cached_write));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->back, FUSE_WRITE, 1));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_WRITE));
	ASSERT_EQ(0, puppet_release(&self->p, &self->back));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_WRITE));
	EXPECT_EQ(PAYLOAD, req.write.size);
	check_area(_metadata, &self->p, &req, &self->ahead);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->writer));
	FINISH_REST();
	all_well(_metadata, &self->p);
}

TEST_F(pool, synchronous_ones_wait_for_each_other)
{
	static struct puppet_req req;
	long waits;

	HOLD_REST();
	ASSERT_EQ(0, requester_start(&self->r[0], request_read, &large_read));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->sync, FUSE_READ, 1));
	EXPECT_EQ(4, self->sync.req[0]->in.nodeid);

	waits = ring_queue_stat(self->p.conn, 0, "pool_waits");
	ASSERT_EQ(0, requester_start(&self->r[1], request_read, &large_read));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	EXPECT_TRUE(more_wait(self->p.conn, waits));
	EXPECT_FALSE(requester_ended(&self->r[1], NULL, 0));

	ASSERT_EQ(0, puppet_release(&self->p, &self->sync));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_READ));
	EXPECT_EQ(4, req.in.nodeid);
	check_area(_metadata, &self->p, &req, &self->ahead);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[1]));
	FINISH_REST();
	all_well(_metadata, &self->p);
}

/* A slot is what these wait for. */
TEST_F(pool, small_ones_do_not_count_as_waiting)
{
	unsigned int i;

	for (i = 0; i < DEPTH; i++)
		ASSERT_EQ(0, requester_start(&self->r[i], request_stat,
					     TEST_MNT));
	ASSERT_EQ(0, requester_start(&self->reader, request_stat, TEST_MNT));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->sync, FUSE_GETATTR, DEPTH));
	ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "pending", 1));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pool_waits"));
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->sync));
	for (i = 0; i < DEPTH; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->reader));
}

TEST_F(pool, a_bad_reply_is_refused)
{
	static const __u32 more[] = { 1, 1U << 20, ~0U };
	const struct puppet_io *ios[] = { &small_read, &large_read };
	static struct puppet_req req;
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(ios); i++) {
		struct fuse_uring_slot_header *head;
		struct fuse_uring_slot_cmd cmd;

		ASSERT_EQ(0, requester_start(&self->r[0], request_read,
					     ios[i]));
		ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_READ));
		EXPECT_EQ(i ? PLACE_POOL : PLACE_OWN, place_of(&self->p, &req));
		cmd = (struct fuse_uring_slot_cmd){
			.commit_id = req.commit_id,
			.qid = req.qid,
			.slot = req.slot,
		};
		head = puppet_slot_header(&self->p, req.qid, req.slot);
		for (j = 0; j < ARRAY_SIZE(more); j++) {
			puppet_fill_reply(&self->p, &req, 0, NULL, 0);
			head->payload_sz = more[j] == ~0U ? ~0U :
					  req.capacity + more[j];
			EXPECT_EQ(-EINVAL, puppet_command_now(&self->p, COMMIT,
							      &cmd));
			EXPECT_EQ(i, ring_queue_stat(self->p.conn, 0,
						     "pool_requests"));
		}
		EXPECT_FALSE(requester_ended(&self->r[0], NULL, 0));
		ASSERT_EQ(0, puppet_answer(&self->p, &req));
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	}
	all_well(_metadata, &self->p);
}

/* An error leaves as much behind as a good reply: nothing. */
TEST_F(pool, errors_give_back)
{
	static struct puppet_req req;
	unsigned int i;

	for (i = 0; i < 8; i++) {
		ASSERT_EQ(0, requester_start(&self->r[0], request_read,
					     &large_read));
		ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_READ));
		ASSERT_EQ(0, puppet_reply(&self->p, &req, -EIO, NULL, 0));
		EXPECT_EQ(EIO, puppet_serve(&self->p, &self->r[0]));
	}
	all_well(_metadata, &self->p);
}

TEST_F(pool, killed_while_it_waits)
{
	HOLD_ALL();
	ASSERT_EQ(0, requester_start(&self->r[1], request_read, &large_read));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	EXPECT_FALSE(requester_ended(&self->r[1], NULL, 0));
	kill(self->r[1].pid, SIGKILL);
	/* It needs nobody's answer, but for the end of its open file. */
	EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &self->r[1]));
	EXPECT_EQ(1, self->sync.nr);
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->sync));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	FINISH_ALL();
}

TEST_F(pool, abort_ends_those_that_wait)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	long waited;

	HOLD_ALL();
	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	waited = ring_queues_stat(self->p.conn, "pending");
	ASSERT_EQ(0, requester_start(&self->r[1], request_read, &large_read));
	/* It may sleep for another reason before it waits for this. */
	do {
		EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	} while (ring_queues_stat(self->p.conn, "pending") <= waited &&
		 now_ms() < end);
	ASSERT_EQ(0, conn_abort(self->p.conn));
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r[0]));
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r[1]));
	EXPECT_NE(REQUESTER_HANGS, requester_join(&self->reader));
	EXPECT_NE(REQUESTER_HANGS, requester_join(&self->writer));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
	EXPECT_TRUE(ring_queues_stat_becomes(self->p.conn, "pool_used", 0));
}

/* Data that the kernel was asked for: it is there until it is committed. */
TEST_F(pool, without_a_reply)
{
	struct fuse_notify_retrieve_out out = {
		.notify_unique = 12345,
		.nodeid = 2,
		.size = 2 * CHUNK,
	};
	struct puppet_io io = { .path = FILE2, .len = 2 * CHUNK };
	struct puppet_io beyond = ahead;
	static struct puppet_held held;
	struct puppet_req *req;
	unsigned int i;

	beyond.path = FILE3;
	ASSERT_EQ(0, requester_start(&self->r[0], request_read, &io));
	ASSERT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	ASSERT_EQ(PUPPET_TIMEOUT, puppet_settle(&self->p));
	ASSERT_LT(0, puppet_notify(&self->p, FUSE_NOTIFY_RETRIEVE, &out,
				   sizeof(out)));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_NOTIFY_REPLY, 1));
	req = held.req[0];
	EXPECT_EQ(2 * CHUNK, req->retrieve.size);
	EXPECT_EQ(2 * CHUNK, sent_size(&self->p, req));
	check_area(_metadata, &self->p, req, NULL);
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));

	/* Nobody waits for it, but that part of the pool is not free. */
	ASSERT_EQ(0, requester_start(&self->reader, request_readahead,
				     &beyond));
	ASSERT_EQ(0, hold_until_full(&self->p, &self->ahead, FUSE_READ,
				     0));
	check_area(_metadata, &self->p, req, &self->ahead);
	EXPECT_EQ(self->ahead.nr + 1,
		  ring_queue_stat(self->p.conn, 0, "pool_requests"));
	for (i = 0; i < 2 * CHUNK; i++)
		if ((unsigned char)req->payload[i] != test_byte(2, i))
			break;
	EXPECT_EQ(2 * CHUNK, i);
	ASSERT_EQ(0, puppet_release(&self->p, &held));
	FINISH_REST();
	all_well(_metadata, &self->p);
}

/* Requests of any kind and size, until the time is over. */
struct mixture {
	const char	*path;
	__u64		seed;
};

static int request_mixture(const void *arg)
{
	const size_t lens[] = { 1, 100, SMALL - 1, SMALL, SMALL + 1, CHUNK,
				CHUNK + 1, 50000, 65536, PAYLOAD - 1, PAYLOAD };
	const struct mixture *m = arg;
	__u64 seed = m->seed, end = now_ms() + test_ms();
	bool first = true;
	int err = 0;

	while ((first || now_ms() < end) && !err) {
		struct puppet_io io = {
			.path = m->path,
			.offset = test_random(&seed) % 1000 * SMALL,
			.len = lens[test_random(&seed) % ARRAY_SIZE(lens)],
			.check = true,
		};

		/* At least one that is not small. */
		switch (first ? 5 : test_random(&seed) % 6) {
		case 0:
			err = request_stat(m->path);
			break;
		case 1:
			io.flags = O_RDONLY | O_DIRECT;
			err = request_read(&io);
			break;
		case 2:
			io.flags = O_RDWR | O_DIRECT;
			err = request_write(&io);
			break;
		case 3:
			io.flags = O_RDONLY;
			err = request_read(&io);
			break;
		case 4:
			io.flags = O_RDWR;
			err = request_write_sync(&io);
			break;
		case 5:
			io.len = 4 * PUPPET_READAHEAD;
			err = request_readahead(&io);
			break;
		}
		first = false;
	}
	return err;
}

/* Fills what the request leaves of its area, as a reply could. */
static void scribble(struct puppet *p, const struct puppet_req *req)
{
	size_t sent = sent_size(p, req);

	memset(req->payload + sent, (__u8)(req->commit_id * 16 + req->slot),
	       req->capacity - sent);
}

/* And nobody has touched it since. */
static bool is_untouched(struct puppet *p, const struct puppet_req *req)
{
	__u8 byte = req->commit_id * 16 + req->slot;
	size_t i, sent = sent_size(p, req);

	if (memcmp(req->payload, req->arg + req->arg_len - sent, sent))
		return false;
	for (i = sent; i < req->capacity; i++)
		if ((__u8)req->payload[i] != byte)
			return false;
	return true;
}

/* What is written is what it should be. */
static bool is_right_write(const struct puppet_req *req)
{
	const unsigned char *data = (const void *)(&req->write + 1);
	size_t i;

	for (i = 0; i < req->write.size; i++)
		if (data[i] != test_byte(req->in.nodeid, req->write.offset + i))
			return false;
	return true;
}

TEST_F(pool, any_mixture)
{
	static struct mixture mixtures[6];
	static char paths[ARRAY_SIZE(mixtures)][32];
	unsigned int i, running = ARRAY_SIZE(mixtures), in_pool = 0;
	struct puppet_held *held = &self->ahead;
	__u64 seed = test_seed();
	int ret, result;

	for (i = 0; i < ARRAY_SIZE(mixtures); i++) {
		snprintf(paths[i], sizeof(paths[i]), TEST_MNT "/f%u", i / 2 + 2);
		mixtures[i].path = paths[i];
		mixtures[i].seed = test_random(&seed);
		ASSERT_EQ(0, requester_start(&self->r[i], request_mixture,
					     &mixtures[i]));
	}
	while (running || held->nr) {
		struct puppet_req *req = malloc(sizeof(*req));

		ASSERT_NE(NULL, req);
		/* In no hurry, so that there is something to wait for. */
		ret = take(&self->p, req, held->nr ? 2 : 10);
		if (ret == PUPPET_REQUEST && !req->ring) {
			/* FORGET and such. */
			ASSERT_EQ(0, puppet_answer(&self->p, req));
			free(req);
		} else if (ret == PUPPET_REQUEST) {
			check_area(_metadata, &self->p, req, held);
			if (req->in.opcode == FUSE_WRITE)
				EXPECT_TRUE(is_right_write(req));
			in_pool += place_of(&self->p, req) == PLACE_POOL;
			scribble(&self->p, req);
			held->req[held->nr++] = req;
		} else {
			ASSERT_EQ(PUPPET_TIMEOUT, ret);
			free(req);
		}
		if (held->nr && (ret == PUPPET_TIMEOUT ||
				 test_random(&seed) % 3 == 0)) {
			i = test_random(&seed) % held->nr;
			req = held->req[i];
			held->req[i] = held->req[--held->nr];
			EXPECT_TRUE(is_untouched(&self->p, req))
				TH_LOG("opcode %u, slot %u", req->in.opcode,
				       req->slot);
			ASSERT_EQ(0, puppet_answer(&self->p, req));
			free(req);
		}
		for (i = 0; i < ARRAY_SIZE(mixtures); i++) {
			if (!self->r[i].pid ||
			    !requester_ended(&self->r[i], &result, 0))
				continue;
			EXPECT_EQ(0, result);
			self->r[i].pid = 0;
			running--;
		}
	}
	EXPECT_LT(0, in_pool);
	all_well(_metadata, &self->p);
}

/*
 * Who has requests in the rest of the pool holds three quarters of the slots
 * and no more, however much room there is.
 */
FIXTURE(share)
{
	struct puppet p;
	struct puppet_held held;
	struct requester reader;
	struct requester r;
};

FIXTURE_VARIANT(share)
{
	unsigned int depth;
	unsigned int buffers;
	unsigned int limit;
};

FIXTURE_VARIANT_ADD(share, of_4) {
	.depth = 4,
	.buffers = 3,
	.limit = 2,
};

FIXTURE_VARIANT_ADD(share, of_8) {
	.depth = 8,
	.buffers = 5,
	.limit = 6,
};

FIXTURE_VARIANT_ADD(share, of_16) {
	.depth = 16,
	.buffers = 7,
	.limit = 12,
};

FIXTURE_SETUP(share)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = pool_options;

	if (why)
		SKIP(return, "%s", why);
	opt.depth = variant->depth;
	opt.background = variant->depth;
	opt.pool = variant->buffers * BUFFER;
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	ASSERT_EQ(0, requester_start(&self->reader, request_readahead,
				     &ahead));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ,
				 variant->limit));
}

FIXTURE_TEARDOWN(share)
{
	puppet_stop(&self->p);
}

TEST_F(share, is_no_more)
{
	unsigned int i;

	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	EXPECT_EQ(variant->limit,
		  ring_queue_stat(self->p.conn, 0, "pool_requests"));
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, puppet_release(&self->p, &self->held));
		ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ,
					 variant->limit));
	}
	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->reader));
	all_well(_metadata, &self->p);
}

/* The slots that are left are for these. */
TEST_F(share, leaves_slots_for_small_ones)
{
	unsigned int i;

	for (i = 0; i < 5; i++) {
		ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
		ASSERT_EQ(0, requester_start(&self->r, request_read,
					     &small_read));
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	}
	EXPECT_EQ(variant->limit, self->held.nr);
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->reader));
	all_well(_metadata, &self->p);
}

/*
 * Small requests hold all slots, and there are always more of them.  A large
 * one gets its turn after as many answers as there are lists.
 */
#define TURN_DEPTH	5
#define TURN_SMALL	8
#define TURN_WAIT	(TURN_SMALL + 1 - TURN_DEPTH)
#define TURN_LISTS	5

TEST(pool_is_not_starved)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = pool_options;
	struct requester r[TURN_SMALL], reader;
	static struct puppet_held held;
	bool opened = false, counting = false;
	unsigned int i, answers = 0;
	struct puppet p;
	__u64 end;

	if (why)
		SKIP(return, "%s", why);
	opt.depth = TURN_DEPTH;
	opt.background = TURN_DEPTH;
	ASSERT_EQ(0, puppet_start(&p, &opt));
	for (i = 0; i < TURN_SMALL; i++)
		ASSERT_EQ(0, requester_start(&r[i], request_stats_for_ever,
					     FILE2));
	ASSERT_EQ(0, puppet_hold(&p, &held, FUSE_GETATTR, TURN_DEPTH));
	ASSERT_EQ(0, requester_start(&reader, request_read, &large_read));
	end = now_ms() + TEST_WAIT_MS;
	while (now_ms() < end) {
		struct puppet_req *req;

		if (held.nr < TURN_DEPTH) {
			req = malloc(sizeof(*req));
			ASSERT_NE(NULL, req);
			ASSERT_EQ(PUPPET_REQUEST, take(&p, req, TEST_WAIT_MS));
			held.req[held.nr++] = req;
			if (req->in.opcode == FUSE_READ)
				break;
			continue;
		}
		/* The reader has sent what it was to send. */
		if (opened && !counting) {
			ASSERT_TRUE(ring_queue_stat_becomes(p.conn, 0, "pending",
							    TURN_WAIT));
			counting = true;
		}
		opened |= held.req[0]->in.opcode == FUSE_OPEN;
		answers += counting;
		ASSERT_EQ(0, puppet_release(&p, &held));
	}
	ASSERT_LT(0, held.nr);
	EXPECT_EQ(FUSE_READ, held.req[held.nr - 1]->in.opcode);
	EXPECT_GE(TURN_LISTS, answers);
	ASSERT_EQ(0, puppet_release_all(&p, &held));
	EXPECT_EQ(0, puppet_serve(&p, &reader));
	for (i = 0; i < TURN_SMALL; i++) {
		kill(r[i].pid, SIGKILL);
		EXPECT_EQ(-SIGKILL, puppet_serve(&p, &r[i]));
	}
	EXPECT_EQ(0, ring_stat(p.conn, "requests_dev"));
	puppet_stop(&p);
}

/*
 * Of two queues, the second one's pool is full, and requests wait for it when
 * something happens to it.  The first one's thread has a request in its hands:
 * were it idle, it would take some of those that wait.
 */
#define READERS		6

FIXTURE(two_pools)
{
	struct puppet p;
	struct puppet_held held;
	struct puppet_held busy;
	struct requester stat;
	struct requester r[READERS];
};

FIXTURE_SETUP(two_pools)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = pool_options;

	if (why)
		SKIP(return, "%s", why);
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two CPUs");
	opt.nr_queues = 2;
	opt.depth = 8;
	opt.background = 8;
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm_queue(&self->p, 0));
	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, requester_start(&self->stat, request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->busy, FUSE_GETATTR, 1));
	ASSERT_EQ(0, self->busy.req[0]->qid);
}

FIXTURE_TEARDOWN(two_pools)
{
	puppet_stop(&self->p);
}

static void start_readers(struct __test_metadata *_metadata,
			  struct _test_data_two_pools *self)
{
	unsigned int i;

	for (i = 0; i < READERS; i++)
		ASSERT_EQ(0, puppet_requester_at(&self->p, 1, &self->r[i],
						 request_read, &large_read));
}

static void join_readers(struct __test_metadata *_metadata,
			 struct _test_data_two_pools *self)
{
	unsigned int i;

	for (i = 0; i < READERS; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
}

static void release_stat(struct __test_metadata *_metadata,
			 struct _test_data_two_pools *self)
{
	ASSERT_EQ(0, puppet_release(&self->p, &self->busy));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->stat));
}

/* So many reads come by the queue that is left. */
static void come_by_queue_0(struct __test_metadata *_metadata,
			    struct puppet *p, unsigned int nr, bool again)
{
	static struct puppet_req req;

	while (nr--) {
		ASSERT_EQ(0, take_until(p, &req, FUSE_READ));
		EXPECT_TRUE(req.ring);
		EXPECT_EQ(0, req.qid);
		EXPECT_EQ(again, !!(req.in.unique & FUSE_UNIQUE_RESEND));
		check_area(_metadata, p, &req, NULL);
		ASSERT_EQ(0, puppet_answer(p, &req));
	}
}

TEST_F(two_pools, detached)
{
	unsigned int i;

	ASSERT_EQ(0, puppet_arm_queue(&self->p, 1));
	start_readers(_metadata, self);
	ASSERT_EQ(0, hold_until_full(&self->p, &self->held, FUSE_READ,
				     READERS));
	ASSERT_GT(READERS, self->held.nr);
	for (i = 0; i < self->held.nr; i++)
		EXPECT_EQ(1, self->held.req[i]->qid);
	check_held(_metadata, &self->p, &self->held);

	ASSERT_EQ(0, puppet_detach(&self->p, 1));
	come_by_queue_0(_metadata, &self->p, READERS - self->held.nr, false);
	EXPECT_EQ(self->held.nr,
		  ring_queue_stat(self->p.conn, 1, "pool_requests"));
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	release_stat(_metadata, self);
	join_readers(_metadata, self);
	EXPECT_TRUE(ring_queue_stat_becomes(self->p.conn, 1, "pool_used", 0));
	all_well(_metadata, &self->p);
}

/* A thread of the server, with an io_uring of its own, or a process of it. */
struct mate {
	struct puppet p;
	struct puppet_held held;
	pthread_t thread;
	int result;
	bool armed;
	bool full;
	bool end;
};

static int mate_arm(struct mate *m)
{
	int ret = puppet_uring(&m->p);

	return ret ? ret : puppet_arm_queue(&m->p, 1);
}

static void *mate_thread(void *arg)
{
	struct mate *m = arg;

	m->result = mate_arm(m);
	__atomic_store_n(&m->armed, true, __ATOMIC_RELEASE);
	if (!m->result)
		m->result = hold_until_full(&m->p, &m->held, FUSE_READ,
					    READERS);
	__atomic_store_n(&m->full, true, __ATOMIC_RELEASE);
	/* It just ends, and leaves its io_uring open. */
	return NULL;
}

static void mate_init(struct mate *m, struct puppet *p)
{
	m->p = *p;
	m->p.have_uring = false;
	/* Forgets and interrupts are the other's. */
	m->p.dev_ended = true;
}

/* Held requests of a dead thread are still its process's to answer. */
TEST_F(two_pools, thread_is_dead)
{
	static struct mate m;
	unsigned int nr;

	mate_init(&m, &self->p);
	ASSERT_EQ(0, pthread_create(&m.thread, NULL, mate_thread, &m));
	while (!__atomic_load_n(&m.armed, __ATOMIC_ACQUIRE))
		sleep_ms(1);
	start_readers(_metadata, self);
	/* The thread has the queue's requests, this one all others. */
	while (!__atomic_load_n(&m.full, __ATOMIC_ACQUIRE))
		sleep_ms(1);
	pthread_join(m.thread, NULL);
	ASSERT_EQ(0, m.result);
	nr = m.held.nr;
	ASSERT_GT(READERS, nr);
	check_held(_metadata, &self->p, &m.held);
	come_by_queue_0(_metadata, &self->p, READERS - nr, false);
	EXPECT_EQ(nr, ring_queue_stat(self->p.conn, 1, "pool_requests"));
	while (m.held.nr) {
		ASSERT_EQ(0, puppet_answer(&self->p, m.held.req[0]));
		m.held.req[0] = m.held.req[--m.held.nr];
	}
	release_stat(_metadata, self);
	join_readers(_metadata, self);
	EXPECT_TRUE(ring_queue_stat_becomes(self->p.conn, 1, "pool_used", 0));
}

/* The process tells how many it holds. */
static int mate_process(struct puppet *p, int ready)
{
	static struct mate m;

	mate_init(&m, p);
	m.p.map = NULL;
	if (puppet_map(&m.p) || mate_arm(&m) || write(ready, "a", 1) != 1 ||
	    hold_until_full(&m.p, &m.held, FUSE_READ, READERS) ||
	    write(ready, &m.held.nr, sizeof(m.held.nr)) != sizeof(m.held.nr))
		return 1;
	for (;;)
		pause();
}

/* Start a process that serves queue 1, let it fill the pool; how many it holds */
static unsigned int start_mate(struct __test_metadata *_metadata,
			       struct _test_data_two_pools *self,
			       struct requester *mate)
{
	unsigned int nr = 0;
	int fds[2];
	char c;

	EXPECT_EQ(0, pipe(fds));
	fflush(NULL);
	mate->pid = fork();
	EXPECT_LE(0, mate->pid);
	if (!mate->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(mate_process(&self->p, fds[1]));
	}
	close(fds[1]);
	mate->pidfd = syscall(SYS_pidfd_open, mate->pid, 0);
	EXPECT_LE(0, mate->pidfd);
	EXPECT_EQ(1, read(fds[0], &c, 1));
	start_readers(_metadata, self);
	EXPECT_EQ(sizeof(nr), read(fds[0], &nr, sizeof(nr)));
	EXPECT_GT(READERS, nr);
	close(fds[0]);
	return nr;
}

/* What a dead mate held, which was @nr requests, is sent again. */
static void without_mate(struct __test_metadata *_metadata,
			 struct _test_data_two_pools *self, unsigned int nr)
{
	/* Those that waited come by themselves, the others when asked for. */
	come_by_queue_0(_metadata, &self->p, READERS - nr, false);
	release_stat(_metadata, self);
	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	/* What only a dead process knew of is free again. */
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 1, "pool_requests"));
	ASSERT_LT(0, puppet_notify(&self->p, FUSE_NOTIFY_RESEND, NULL, 0));
	come_by_queue_0(_metadata, &self->p, nr, true);
	join_readers(_metadata, self);
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 1, "pool_used"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
	all_well(_metadata, &self->p);
}

TEST_F(two_pools, process_is_killed)
{
	struct requester mate;
	unsigned int nr;

	nr = start_mate(_metadata, self, &mate);
	kill(mate.pid, SIGKILL);
	ASSERT_EQ(-SIGKILL, requester_join(&mate));
	without_mate(_metadata, self, nr);
}

/* It keeps what it writes to until no thread of it can write any more. */
TEST_F(two_pools, process_dies_slowly)
{
	struct requester mate;
	unsigned int nr;
	int status;

	nr = start_mate(_metadata, self, &mate);
	ASSERT_EQ(0, ptrace(PTRACE_SEIZE, mate.pid, NULL, PTRACE_O_TRACEEXIT));
	kill(mate.pid, SIGKILL);
	ASSERT_EQ(mate.pid, waitpid(mate.pid, &status, 0));
	ASSERT_TRUE(WIFSTOPPED(status));
	ASSERT_EQ(SIGTRAP | PTRACE_EVENT_EXIT << 8, status >> 8);
	EXPECT_EQ(nr, ring_queue_stat(self->p.conn, 1, "pool_requests"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 1, "threads"));

	ASSERT_EQ(0, ptrace(PTRACE_CONT, mate.pid, NULL, 0));
	ASSERT_EQ(-SIGKILL, requester_join(&mate));
	without_mate(_metadata, self, nr);
}

/*
 * Of one queue's two threads, the one that has all of the pool dies.  The other
 * one can answer what it held, so that it keeps its memory until then.
 */
FIXTURE(dead_thread)
{
	struct puppet p;
	struct requester r[READERS];
};

FIXTURE_SETUP(dead_thread)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = pool_options;

	if (why)
		SKIP(return, "%s", why);
	opt.depth = 8;
	opt.background = 8;
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, puppet_map(&self->p));
}

FIXTURE_TEARDOWN(dead_thread)
{
	puppet_stop(&self->p);
}

static void *owner_thread(void *arg)
{
	struct mate *m = arg;

	m->result = puppet_uring(&m->p);
	if (!m->result)
		m->result = puppet_arm_slots(&m->p, 0, 4, 4);
	if (!m->result)
		m->result = puppet_init(&m->p);
	__atomic_store_n(&m->armed, true, __ATOMIC_RELEASE);
	if (!m->result)
		m->result = hold_until_full(&m->p, &m->held, FUSE_READ, 0);
	__atomic_store_n(&m->full, true, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&m->end, __ATOMIC_ACQUIRE))
		sleep_ms(1);
	/* It just ends, and leaves its io_uring open. */
	return NULL;
}

TEST_F(dead_thread, keeps_its_memory)
{
	static struct mate m;
	struct requester r;
	unsigned int i;

	mate_init(&m, &self->p);
	ASSERT_EQ(0, pthread_create(&m.thread, NULL, owner_thread, &m));
	while (!__atomic_load_n(&m.armed, __ATOMIC_ACQUIRE))
		sleep_ms(1);
	for (i = 0; i < READERS; i++)
		ASSERT_EQ(0, requester_start(&self->r[i], request_read,
					     &large_read));
	while (!__atomic_load_n(&m.full, __ATOMIC_ACQUIRE))
		sleep_ms(1);
	ASSERT_EQ(0, m.result);
	ASSERT_LT(0, m.held.nr);
	ASSERT_GT(READERS, m.held.nr);

	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 0, 4));
	__atomic_store_n(&m.end, true, __ATOMIC_RELEASE);
	pthread_join(m.thread, NULL);
	EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "live"));

	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	EXPECT_EQ(m.held.nr,
		  ring_queue_stat(self->p.conn, 0, "pool_requests"));
	EXPECT_EQ(READERS - m.held.nr,
		  ring_queue_stat(self->p.conn, 0, "pending"));
	check_held(_metadata, &self->p, &m.held);

	/* Those that waited for memory get it with each answer. */
	for (i = 0; i < READERS; i++) {
		ASSERT_LT(0, m.held.nr);
		ASSERT_EQ(0, puppet_release(&self->p, &m.held));
		if (i + m.held.nr + 1 < READERS)
			ASSERT_EQ(0, puppet_hold(&self->p, &m.held, FUSE_READ,
						 m.held.nr + 1));
	}
	for (i = 0; i < READERS; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
	EXPECT_TRUE(ring_queue_stat_becomes(self->p.conn, 0, "pool_used", 0));
	ASSERT_EQ(0, requester_start(&r, request_read, &large_read));
	EXPECT_EQ(0, puppet_serve(&self->p, &r));
	puppet_close_uring(&m.p);
	all_well(_metadata, &self->p);
}

/*
 * Readahead has found no room in the pool, so that its turn is next.  When there
 * is room, it has no credit: others need not wait for it.
 */
TEST(pool_turn_without_credit)
{
	const char *why = test_prepare(TRANSPORT_RING);
	const struct puppet_io one_ahead = {
		.path = FILE2,
		.len = PUPPET_READAHEAD,
	};
	static const char *const small[] = {
		TEST_MNT "/f5", TEST_MNT "/f6",
	};
	struct puppet_options opt = pool_options;
	static struct puppet_held large, little;
	struct requester r[3], reader, page[2];
	unsigned int i;
	struct puppet p;
	long before;
	__u64 end;

	if (why)
		SKIP(return, "%s", why);
	opt.background = 2;
	/* What may be sent at all. */
	opt.max_background = 3;
	ASSERT_EQ(0, puppet_start(&p, &opt));

	/* The rest of the pool is a synchronous request's. */
	ASSERT_EQ(0, requester_start(&r[0], request_read, &large_read));
	ASSERT_EQ(0, puppet_hold(&p, &large, FUSE_READ, 1));
	before = ring_queues_stat(p.conn, "pool_waits");
	ASSERT_EQ(0, requester_start(&reader, request_readahead, &one_ahead));
	ASSERT_EQ(0, puppet_serve(&p, &reader));
	ASSERT_TRUE(more_wait(p.conn, before));
	/* Small ones have the credits. */
	for (i = 0; i < ARRAY_SIZE(small); i++)
		ASSERT_EQ(0, requester_start(&page[i], request_readahead_page,
					     small[i]));
	ASSERT_EQ(0, puppet_hold(&p, &little, FUSE_READ, 2));
	for (i = 0; i < ARRAY_SIZE(small); i++)
		ASSERT_EQ(0, puppet_serve(&p, &page[i]));
	ASSERT_EQ(0, puppet_release(&p, &large));
	EXPECT_EQ(0, puppet_serve(&p, &r[0]));

	/* One has what is kept for it, and one what is free. */
	for (i = 1; i < 3; i++)
		ASSERT_EQ(0, requester_start(&r[i], request_read,
					     &large_read));
	end = now_ms() + TEST_WAIT_MS;
	while (large.nr < 2 && now_ms() < end) {
		struct puppet_req *req = malloc(sizeof(*req));

		ASSERT_NE(NULL, req);
		if (take(&p, req, 2) != PUPPET_REQUEST) {
			free(req);
		} else if (req->in.opcode == FUSE_READ &&
			   req->read.size == PAYLOAD) {
			large.req[large.nr++] = req;
		} else {
			ASSERT_EQ(0, puppet_answer(&p, req));
			free(req);
		}
	}
	EXPECT_EQ(2, large.nr);
	ASSERT_EQ(0, puppet_release_all(&p, &large));
	ASSERT_EQ(0, puppet_release_all(&p, &little));
	for (i = 1; i < 3; i++)
		EXPECT_EQ(0, puppet_serve(&p, &r[i]));
	all_well(_metadata, &p);
	puppet_stop(&p);
}

/* With buffers of full size for all slots there is nothing to wait for. */
FIXTURE(full_size)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r[2 * DEPTH];
};

FIXTURE_VARIANT(full_size)
{
	struct size small;
	struct size pool;
};

FIXTURE_VARIANT_ADD(full_size, by_small_size) {
	.small = { .payloads = 1 },
};

FIXTURE_VARIANT_ADD(full_size, by_pool) {
	.pool = { .buffers = DEPTH },
};

FIXTURE_SETUP(full_size)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = pool_options;

	if (why)
		SKIP(return, "%s", why);
	opt.small = bytes_of(&variant->small, PAYLOAD);
	opt.pool = bytes_of(&variant->pool, PAYLOAD);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	ASSERT_EQ(AREA, self->p.setup.small_size);
}

FIXTURE_TEARDOWN(full_size)
{
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pool_used"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pool_requests"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "pool_waits"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
	puppet_stop(&self->p);
}

/* The largest in all slots at once, and more of them. */
TEST_F(full_size, never_waits_for_a_buffer)
{
	unsigned int i;

	for (i = 0; i < 2 * DEPTH; i++)
		ASSERT_EQ(0, requester_start(&self->r[i], request_read,
					     &large_read));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ, DEPTH));
	check_held(_metadata, &self->p, &self->held);
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	for (i = 0; i < 2 * DEPTH; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
}

/*
 * Nor is there a limit for readahead but that of the background: one slot is
 * kept for synchronous requests, and one for writeback.
 */
TEST_F(full_size, background_has_all_slots_but_two)
{
	ASSERT_EQ(0, requester_start(&self->r[0], request_readahead, &ahead));
	/* Its FLUSH needs none of them. */
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ, DEPTH - 2));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_READ));
	check_held(_metadata, &self->p, &self->held);
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
}

TEST_HARNESS_MAIN
