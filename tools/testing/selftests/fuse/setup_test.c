// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE_DEV_IOC_URING_SETUP and FUSE_DEV_IOC_URING_QUEUE_INFO: what they grant,
 * every error by its number, and that a refused call changes nothing.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "proto.h"
#include "puppet.h"
#include "util.h"

static const struct puppet_options small_ring = {
	.transport = TRANSPORT_RING,
	.nr_queues = 1,
	.depth = 2,
};

static int setup(int fd, struct fuse_uring_setup *arg)
{
	return ioctl(fd, FUSE_DEV_IOC_URING_SETUP, arg) ? -errno : 0;
}

static int info(int fd, struct fuse_uring_setup *arg)
{
	return ioctl(fd, FUSE_DEV_IOC_URING_INFO, arg) ? -errno : 0;
}

static int queue_info(int fd, struct fuse_uring_queue_info *arg)
{
	return ioctl(fd, FUSE_DEV_IOC_URING_QUEUE_INFO, arg) ? -errno : 0;
}

/* All steps after the setup ioctl, and a request that goes over the ring. */
static int use_ring(struct puppet *p)
{
	struct requester r;
	int ret;

	ret = puppet_map(p);
	if (!ret)
		ret = puppet_uring(p);
	if (!ret)
		ret = puppet_arm(p);
	if (!ret)
		ret = puppet_init(p);
	if (!ret)
		ret = requester_start(&r, request_stat, TEST_MNT "/f2");
	if (!ret)
		ret = puppet_serve(p, &r);
	if (!ret && (ring_stat(p->conn, "requests_dev") != 0 ||
		     ring_stat(p->conn, "requests_ring") <= 0))
		ret = -EPROTO;
	return ret;
}

static long possible_cpus(void)
{
	return sysconf(_SC_NPROCESSORS_CONF);
}

FIXTURE(setup)
{
	struct puppet p;
};

FIXTURE_SETUP(setup)
{
	const char *why = test_prepare(TRANSPORT_RING);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&self->p, &small_ring));
	ASSERT_EQ(0, puppet_mount(&self->p));
}

FIXTURE_TEARDOWN(setup)
{
	puppet_stop(&self->p);
}

TEST_F(setup, works)
{
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, use_ring(&self->p));
}

TEST_F(setup, switched_off)
{
	ASSERT_EQ(0, ring_switch(false));
	EXPECT_EQ(-EOPNOTSUPP, puppet_setup(&self->p));
	EXPECT_EQ(-1, ring_stat(self->p.conn, "requests_ring"));
	ASSERT_EQ(0, ring_switch(true));

	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, use_ring(&self->p));
}

/* The switch is about new rings only. */
TEST_F(setup, switched_off_later)
{
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, ring_switch(false));
	EXPECT_EQ(0, use_ring(&self->p));
}

TEST_F(setup, before_mount)
{
	puppet_stop(&self->p);
	ASSERT_EQ(0, puppet_open(&self->p, &small_ring));
	EXPECT_EQ(-ENOTCONN, puppet_setup(&self->p));

	ASSERT_EQ(0, puppet_mount(&self->p));
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, use_ring(&self->p));
}

TEST_F(setup, after_abort)
{
	ASSERT_EQ(0, conn_abort(self->p.conn));
	EXPECT_EQ(-ENOTCONN, puppet_setup(&self->p));
	EXPECT_EQ(-1, ring_stat(self->p.conn, "requests_ring"));
}

TEST_F(setup, twice)
{
	struct fuse_uring_setup again = { .size = sizeof(again) };

	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, use_ring(&self->p));
	EXPECT_EQ(-EBUSY, setup(self->p.fd, &again));
	EXPECT_EQ(2, ring_stat(self->p.conn, "queue_depth"));
}

/* One that nobody has used makes room for another one. */
TEST_F(setup, twice_before_use)
{
	struct fuse_uring_setup first = {
		.size = sizeof(first),
		.nr_queues = 1,
		.queue_depth = 7,
	};

	ASSERT_EQ(0, setup(self->p.fd, &first));
	EXPECT_EQ(7, ring_stat(self->p.conn, "queue_depth"));
	ASSERT_EQ(0, puppet_setup(&self->p));
	EXPECT_EQ(2, ring_stat(self->p.conn, "queue_depth"));
	ASSERT_EQ(0, use_ring(&self->p));
}

TEST_F(setup, on_another_file)
{
	struct fuse_uring_setup arg = { .size = sizeof(arg) };
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	ASSERT_LE(0, fd);
	EXPECT_EQ(-ENOTTY, setup(fd, &arg));
	close(fd);
}

TEST_F(setup, bad_address)
{
	EXPECT_EQ(-EFAULT, setup(self->p.fd, NULL));
	EXPECT_EQ(-EFAULT, setup(self->p.fd, (void *)-4096UL));

	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, use_ring(&self->p));
}

/* The answer cannot be written: nothing may be left behind. */
TEST_F(setup, read_only_address)
{
	struct fuse_uring_setup *arg;

	arg = mmap(NULL, sizeof(*arg), PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, arg);
	arg->size = sizeof(*arg);
	ASSERT_EQ(0, mprotect(arg, sizeof(*arg), PROT_READ));
	EXPECT_EQ(-EFAULT, setup(self->p.fd, arg));

	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, use_ring(&self->p));
}

TEST_F(setup, defaults)
{
	struct fuse_uring_setup arg = { .size = sizeof(arg) };

	ASSERT_EQ(0, setup(self->p.fd, &arg));
	EXPECT_EQ(sizeof(arg), arg.size);
	EXPECT_EQ(possible_cpus(), arg.nr_queues);
	EXPECT_EQ(8, arg.queue_depth);
	EXPECT_EQ(4, arg.nr_background);
	EXPECT_LE(FUSE_URING_MIN_PAYLOAD, arg.payload_size);
	EXPECT_EQ(0, arg.payload_size % getpagesize());
	EXPECT_EQ(0, arg.nr_control);
	EXPECT_EQ(FUSE_URING_FEAT_INIT | FUSE_URING_FEAT_NOTIFY |
		  FUSE_URING_FEAT_DETACH | FUSE_URING_FEAT_RESTART,
		  arg.features);
}

/* Limits are the kernel's: what the tests and the server assume is tested. */
static void check_limits(struct __test_metadata *_metadata,
			 const struct fuse_uring_setup *s)
{
	EXPECT_EQ(FUSE_URING_MAX_QUEUE_DEPTH, s->max_queue_depth);
	EXPECT_EQ(FUSE_URING_MAX_CONTROL, s->max_control);
	EXPECT_EQ(FUSE_URING_MAX_NOTIFY, s->max_notify);
	EXPECT_EQ(FUSE_URING_MIN_PAYLOAD, s->min_payload);
	EXPECT_LE(1 << 20, s->max_payload);
	EXPECT_EQ(FUSE_URING_MAX_POOL, s->max_pool);
	EXPECT_EQ(max_t(unsigned int, FUSE_URING_POOL_CHUNK, getpagesize()),
		  s->pool_chunk);
}

/* It answers what a setup would, as often as one likes, and makes no ring. */
TEST_F(setup, query)
{
	struct fuse_uring_setup *s = &self->p.setup, arg;
	unsigned int i;

	for (i = 0; i < 2; i++) {
		arg = (struct fuse_uring_setup){
			.size = sizeof(arg),
			.flags = FUSE_URING_SETUP_QUERY,
			.nr_queues = 1,
			.queue_depth = 2,
		};
		ASSERT_EQ(0, setup(self->p.fd, &arg));
		check_limits(_metadata, &arg);
		EXPECT_EQ(-1, ring_stat(self->p.conn, "requests_ring"));
	}
	ASSERT_EQ(0, puppet_setup(&self->p));
	EXPECT_EQ(FUSE_URING_SETUP_QUERY, arg.flags);
	arg.flags = s->flags;
	EXPECT_EQ(0, memcmp(s, &arg, sizeof(arg)));
	/* Also while there is a ring, and that is used. */
	ASSERT_EQ(0, use_ring(&self->p));
	arg = (struct fuse_uring_setup){
		.size = sizeof(arg),
		.flags = FUSE_URING_SETUP_QUERY,
		.nr_queues = 1,
		.queue_depth = 3,
	};
	ASSERT_EQ(0, setup(self->p.fd, &arg));
	EXPECT_EQ(3, arg.queue_depth);
	EXPECT_EQ(2, ring_stat(self->p.conn, "queue_depth"));
}

/* A server that takes the ring over is told what its setup has granted. */
TEST_F(setup, info)
{
	struct fuse_uring_setup *s = &self->p.setup, arg;
	static const unsigned int not_zero[] = {
		offsetof(struct fuse_uring_setup, nr_queues),
		offsetof(struct fuse_uring_setup, cpus),
		offsetof(struct fuse_uring_setup, mmap_size),
		offsetof(struct fuse_uring_setup, reserved),
	};
	unsigned int i;

	arg = (struct fuse_uring_setup){ .size = sizeof(arg) };
	EXPECT_EQ(-ENXIO, info(self->p.fd, &arg));
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, info(self->p.fd, &arg));
	EXPECT_EQ(0, memcmp(s, &arg, sizeof(arg)));
	check_limits(_metadata, &arg);

	arg = (struct fuse_uring_setup){ .size = sizeof(arg), .flags = 1 };
	EXPECT_EQ(-EOPNOTSUPP, info(self->p.fd, &arg));
	arg = (struct fuse_uring_setup){ .size = sizeof(arg) - 1 };
	EXPECT_EQ(-EINVAL, info(self->p.fd, &arg));
	for (i = 0; i < ARRAY_SIZE(not_zero); i++) {
		arg = (struct fuse_uring_setup){ .size = sizeof(arg) };
		((__u8 *)&arg)[not_zero[i]] = 1;
		EXPECT_EQ(-EINVAL, info(self->p.fd, &arg));
	}
	EXPECT_EQ(-EFAULT, info(self->p.fd, NULL));
	ASSERT_EQ(0, use_ring(&self->p));
}

/* One queue's headers and at least one payload lie inside the mapping. */
TEST_F(setup, layout)
{
	struct fuse_uring_setup *s = &self->p.setup;
	__u64 headers;

	ASSERT_EQ(0, puppet_setup(&self->p));
	EXPECT_EQ(1, s->nr_queues);
	EXPECT_EQ(2, s->queue_depth);
	EXPECT_LE(sizeof(struct fuse_uring_slot_header), s->header_stride);
	EXPECT_EQ(0, s->header_stride % 8);
	EXPECT_EQ(0, s->header_offset % 8);
	EXPECT_EQ(0, s->payload_offset % getpagesize());
	EXPECT_EQ(0, s->mmap_size % getpagesize());
	EXPECT_EQ(0, s->queue_stride % getpagesize());
	EXPECT_LE(s->mmap_size, s->queue_stride);
	EXPECT_GT(1ULL << 43, s->nr_queues * s->queue_stride);
	headers = (__u64)s->queue_depth * s->header_stride;
	EXPECT_LE(s->header_offset + headers, s->mmap_size);
	EXPECT_LE(s->payload_offset + s->payload_size, s->mmap_size);
	/* Headers and payloads do not overlap. */
	EXPECT_TRUE(s->header_offset + headers <= s->payload_offset ||
		    s->payload_offset + s->payload_size <= s->header_offset);
}

TEST_F(setup, payload_is_rounded_up)
{
	self->p.opt.payload = FUSE_URING_MIN_PAYLOAD + 1;
	ASSERT_EQ(0, puppet_setup(&self->p));
	EXPECT_EQ(0, self->p.setup.payload_size % getpagesize());
	EXPECT_EQ((FUSE_URING_MIN_PAYLOAD + getpagesize()) / getpagesize(),
		  self->p.setup.payload_size / getpagesize());
	ASSERT_EQ(0, use_ring(&self->p));
}

TEST_F(setup, control_slots)
{
	static const unsigned int want[] = { 0, 1, 2, 3, 63, 64 };
	unsigned int i, granted;
	__u64 size = 0;

	for (i = 0; i < ARRAY_SIZE(want); i++) {
		struct fuse_uring_setup arg = {
			.size = sizeof(arg),
			.nr_queues = 1,
			.queue_depth = 2,
			.payload_size = FUSE_URING_MIN_PAYLOAD,
			.nr_control = want[i],
		};

		ASSERT_EQ(0, setup(self->p.fd, &arg));
		/* One alone could not carry both forgets and interrupts. */
		granted = want[i] == 1 ? 2 : want[i];
		EXPECT_EQ(granted, arg.nr_control);
		EXPECT_EQ(2, arg.queue_depth);
		EXPECT_EQ(granted, ring_stat(self->p.conn, "control_depth"));
		EXPECT_LE(size + (want[i] == 3 || want[i] == 63 ?
				  getpagesize() : 0), arg.mmap_size);
		size = arg.mmap_size;
		EXPECT_LE(arg.header_offset +
			  (2ULL + granted) * arg.header_stride,
			  arg.payload_offset);
	}
}

/* The areas of three slots in use, one of them a control slot, lie apart. */
TEST_F(setup, control_layout)
{
	struct fuse_uring_setup *s = &self->p.setup;
	static struct puppet_held held;
	struct requester r[2];
	size_t headers;
	unsigned int i, j;

	self->p.opt.control = 2;
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(2, s->nr_control);
	ASSERT_EQ(0, use_ring(&self->p));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, requester_start(&r[i], request_stat,
					     TEST_MNT "/f2"));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_GETATTR, 2));
	kill(r[0].pid, SIGKILL);
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_INTERRUPT, 3));
	EXPECT_TRUE(held.req[2]->slot == 2 || held.req[2]->slot == 3);
	headers = s->header_offset + 4 * s->header_stride;
	for (i = 0; i < 3; i++) {
		size_t from = held.req[i]->payload - self->p.map[0];
		size_t to = from + held.req[i]->capacity;

		EXPECT_GE(s->mmap_size, to);
		if (!held.req[i]->capacity)
			continue;
		EXPECT_LE(headers, from);
		for (j = 0; j < i; j++)
			EXPECT_TRUE(held.req[j]->payload >=
				    self->p.map[0] + to ||
				    held.req[j]->payload +
				    held.req[j]->capacity <=
				    self->p.map[0] + from);
	}
	ASSERT_EQ(0, puppet_release_all(&self->p, &held));
	EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &r[0]));
	EXPECT_EQ(0, puppet_serve(&self->p, &r[1]));
}

/* A newer program on this kernel: what it does not use may be longer. */
TEST_F(setup, larger_and_zero)
{
	struct {
		struct fuse_uring_setup arg;
		char more[64];
	} big = { .arg = { .size = sizeof(big), .nr_queues = 1 } };

	ASSERT_EQ(0, setup(self->p.fd, &big.arg));
	EXPECT_EQ(sizeof(big.arg), big.arg.size);
}

TEST_F(setup, larger_and_not_zero)
{
	struct {
		struct fuse_uring_setup arg;
		char more[64];
	} big = { .arg = { .size = sizeof(big), .nr_queues = 1 } };

	big.more[63] = 1;
	EXPECT_EQ(-E2BIG, setup(self->p.fd, &big.arg));

	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, use_ring(&self->p));
}

TEST_F(setup, larger_than_its_memory)
{
	char *end = mmap(NULL, 2 * getpagesize(), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct fuse_uring_setup *arg;

	ASSERT_NE(MAP_FAILED, (void *)end);
	end += getpagesize();
	ASSERT_EQ(0, munmap(end, getpagesize()));
	arg = (void *)(end - sizeof(*arg));
	arg->size = sizeof(*arg) + 8;
	EXPECT_EQ(-EFAULT, setup(self->p.fd, arg));

	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, use_ring(&self->p));
}

/* Made after FUSE_INIT: the ring must hold what has been negotiated. */
TEST_F(setup, payload_below_negotiated)
{
	struct fuse_uring_setup arg = {
		.size = sizeof(arg),
		.nr_queues = 1,
		.payload_size = FUSE_URING_MIN_PAYLOAD,
	};

	self->p.opt.max_write = 256 << 10;
	ASSERT_EQ(0, puppet_init(&self->p));
	EXPECT_EQ(-EMSGSIZE, setup(self->p.fd, &arg));
	EXPECT_EQ(-1, ring_stat(self->p.conn, "requests_ring"));
}

TEST_F(setup, after_init)
{
	struct fuse_uring_setup *s = &self->p.setup;
	struct requester r;

	self->p.opt.max_write = 256 << 10;
	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, puppet_setup(&self->p));
	EXPECT_LE(256 << 10, s->payload_size);
	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));

	/* Nothing is armed yet, so the connection is as it was. */
	ASSERT_EQ(0, requester_start(&r, request_stat, TEST_MNT "/f2"));
	EXPECT_EQ(0, puppet_serve(&self->p, &r));
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_ring"));

	ASSERT_EQ(0, puppet_arm(&self->p));
	ASSERT_EQ(0, requester_start(&r, request_stat, TEST_MNT "/f2"));
	EXPECT_EQ(0, puppet_serve(&self->p, &r));
	EXPECT_LT(0, ring_stat(self->p.conn, "requests_ring"));
}

/* FUSE_INIT offers no more than a slot can carry. */
TEST_F(setup, init_is_limited)
{
	struct puppet_io io = {
		.path = TEST_MNT "/f2",
		.flags = O_WRONLY | O_DIRECT,
		.len = 512 << 10,
	};
	static struct puppet_req req;
	struct requester r;

	self->p.opt.payload = 128 << 10;
	self->p.opt.max_write = 1 << 20;
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, use_ring(&self->p));
	EXPECT_GE(self->p.setup.payload_size, self->p.init_in.max_readahead);

	ASSERT_EQ(0, requester_start(&r, request_write, &io));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_WRITE));
	EXPECT_EQ(128 << 10, req.write.size);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &r));
}

/* One wrong value each. */
FIXTURE(setup_refuses)
{
	struct puppet p;
};

FIXTURE_VARIANT(setup_refuses)
{
	struct fuse_uring_setup arg;
	bool too_many_queues;
	int error;
};

FIXTURE_VARIANT_ADD(setup_refuses, flags_first) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.flags = 2,
	},
	.error = -EOPNOTSUPP,
};

FIXTURE_VARIANT_ADD(setup_refuses, flags_last) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.flags = 1U << 31,
	},
	.error = -EOPNOTSUPP,
};

FIXTURE_VARIANT_ADD(setup_refuses, depth_over_maximum) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.queue_depth = FUSE_URING_MAX_QUEUE_DEPTH + 1,
	},
	.error = -ERANGE,
};

FIXTURE_VARIANT_ADD(setup_refuses, depth_huge) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.queue_depth = ~0U,
	},
	.error = -ERANGE,
};

FIXTURE_VARIANT_ADD(setup_refuses, background_over_depth) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.queue_depth = 4,
		.nr_background = 5,
	},
	.error = -ERANGE,
};

FIXTURE_VARIANT_ADD(setup_refuses, background_over_default_depth) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.nr_background = 9,
	},
	.error = -ERANGE,
};

FIXTURE_VARIANT_ADD(setup_refuses, background_huge) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.nr_background = ~0U,
	},
	.error = -ERANGE,
};

FIXTURE_VARIANT_ADD(setup_refuses, control_over_maximum) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.nr_control = FUSE_URING_MAX_CONTROL + 1,
	},
	.error = -ERANGE,
};

FIXTURE_VARIANT_ADD(setup_refuses, control_huge) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.nr_control = ~0U,
	},
	.error = -ERANGE,
};

FIXTURE_VARIANT_ADD(setup_refuses, payload_under_minimum) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.payload_size = FUSE_URING_MIN_PAYLOAD - 1,
	},
	.error = -ERANGE,
};

FIXTURE_VARIANT_ADD(setup_refuses, payload_over_maximum) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.payload_size = ~0U,
	},
	.error = -ERANGE,
};

FIXTURE_VARIANT_ADD(setup_refuses, mappings_too_large) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.queue_depth = FUSE_URING_MAX_QUEUE_DEPTH,
		.payload_size = 1 << 20,
		.small_size = 1 << 20,
	},
	.error = -EFBIG,
};

FIXTURE_VARIANT_ADD(setup_refuses, payload_one) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.payload_size = 1,
	},
	.error = -ERANGE,
};

FIXTURE_VARIANT_ADD(setup_refuses, queues_huge) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.nr_queues = ~0U,
	},
	.error = -ENXIO,
};

FIXTURE_VARIANT_ADD(setup_refuses, header_stride) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.header_stride = 1,
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, features) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.features = 1,
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, mmap_size) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.mmap_size = 1,
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, queue_stride) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.queue_stride = 1,
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, header_offset) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.header_offset = 1,
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, payload_offset) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.payload_offset = 1,
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, pool_offset) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.pool_offset = 1,
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, max_queue_depth) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.max_queue_depth = 1,
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, max_control) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.max_control = 1,
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, max_notify) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.max_notify = 1,
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, pool_chunk) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.pool_chunk = 1,
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, min_payload) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.min_payload = 1,
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, max_payload) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.max_payload = 1,
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, max_pool) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.max_pool = 1,
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, reserved_first) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.reserved = { 1 },
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, reserved_last) {
	.arg = {
		.size = sizeof(struct fuse_uring_setup),
		.reserved = { 0, 0, 0, 1ULL << 63 },
	},
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, queues_over_cpus) {
	.arg = { .size = sizeof(struct fuse_uring_setup) },
	.too_many_queues = true,
	.error = -ENXIO,
};

FIXTURE_VARIANT_ADD(setup_refuses, size_zero) {
	.error = -EINVAL,
};

FIXTURE_VARIANT_ADD(setup_refuses, size_short) {
	.arg = { .size = sizeof(struct fuse_uring_setup) - 1 },
	.error = -EINVAL,
};

FIXTURE_SETUP(setup_refuses)
{
	const char *why = test_prepare(TRANSPORT_RING);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&self->p, &small_ring));
	ASSERT_EQ(0, puppet_mount(&self->p));
}

FIXTURE_TEARDOWN(setup_refuses)
{
	puppet_stop(&self->p);
}

TEST_F(setup_refuses, and_changes_nothing)
{
	struct fuse_uring_setup arg = variant->arg;

	if (variant->too_many_queues)
		arg.nr_queues = possible_cpus() + 1;
	EXPECT_EQ(variant->error, setup(self->p.fd, &arg));
	if (arg.size) {
		arg = variant->arg;
		if (variant->too_many_queues)
			arg.nr_queues = possible_cpus() + 1;
		arg.flags |= FUSE_URING_SETUP_QUERY;
		EXPECT_EQ(variant->error, setup(self->p.fd, &arg));
	}
	EXPECT_EQ(-1, ring_stat(self->p.conn, "requests_ring"));

	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, use_ring(&self->p));
}

/* The largest of everything that is allowed. */
TEST(setup_largest_depth)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = small_ring;
	struct puppet p;

	if (why)
		SKIP(return, "%s", why);
	opt.depth = 256;
	opt.background = 256;
	opt.payload = FUSE_URING_MIN_PAYLOAD;
	ASSERT_EQ(0, puppet_open(&p, &opt));
	ASSERT_EQ(0, puppet_mount(&p));
	ASSERT_EQ(0, puppet_setup(&p));
	EXPECT_EQ(256, p.setup.queue_depth);
	EXPECT_EQ(256, p.setup.nr_background);
	EXPECT_EQ(0, use_ring(&p));
	EXPECT_EQ(0, puppet_settle(&p));
	EXPECT_EQ(256, ring_queues_stat(p.conn, "parked"));
	puppet_stop(&p);
}

/* An unprivileged mounter is held to RLIMIT_MEMLOCK. */
FIXTURE(setup_unprivileged)
{
	rlim_t limit;
};

FIXTURE_SETUP(setup_unprivileged)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct rlimit rlimit = { 0, RLIM_INFINITY };
	char map[64];
	int pipes[2][2];
	pid_t pid;
	char c;

	if (why)
		SKIP(return, "%s", why);
	if (access("/proc/self/ns/user", F_OK))
		SKIP(return, "kernel without CONFIG_USER_NS");
	/* In a user namespace, mounts are of descriptors opened there. */
	ASSERT_EQ(0, mknod(TEST_DIR "/fuse", S_IFCHR | 0666, makedev(10, 229)));
	ASSERT_EQ(0, chmod(TEST_DIR "/fuse", 0666));
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &rlimit));

	/* The maps are written by a privileged process. */
	ASSERT_EQ(0, pipe(pipes[0]));
	ASSERT_EQ(0, pipe(pipes[1]));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (read(pipes[0][0], &c, 1) != 1)
			_exit(1);
		snprintf(map, sizeof(map), "/proc/%d/uid_map", getppid());
		if (file_write(map, "0 1000 1"))
			_exit(2);
		snprintf(map, sizeof(map), "/proc/%d/gid_map", getppid());
		if (file_write(map, "0 1000 1"))
			_exit(3);
		_exit(write(pipes[1][1], "x", 1) != 1);
	}
	ASSERT_EQ(0, setresgid(1000, 1000, 1000));
	ASSERT_EQ(0, setresuid(1000, 1000, 1000));
	/* Changing ids makes /proc/self somebody else's. */
	ASSERT_EQ(0, prctl(PR_SET_DUMPABLE, 1));
	ASSERT_EQ(0, unshare(CLONE_NEWUSER | CLONE_NEWNS));
	ASSERT_EQ(1, write(pipes[0][1], "x", 1));
	ASSERT_EQ(1, read(pipes[1][0], &c, 1));
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	ASSERT_EQ(0, geteuid());
}

FIXTURE_TEARDOWN(setup_unprivileged)
{
}

static int unprivileged_mount(struct puppet *p)
{
	struct puppet_options opt = small_ring;
	int ret;

	opt.device = TEST_DIR "/fuse";
	ret = puppet_open(p, &opt);
	return ret ? ret : puppet_mount(p);
}

TEST_F(setup_unprivileged, over_memlock)
{
	struct rlimit rlimit = { 64 << 10, RLIM_INFINITY };
	struct puppet p;

	ASSERT_EQ(0, unprivileged_mount(&p));
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &rlimit));
	EXPECT_EQ(-ENOBUFS, puppet_setup(&p));
	EXPECT_EQ(-1, ring_stat(p.conn, "requests_ring"));

	rlimit.rlim_cur = RLIM_INFINITY;
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &rlimit));
	ASSERT_EQ(0, puppet_setup(&p));
	EXPECT_EQ(0, use_ring(&p));
	puppet_stop(&p);
}

/* A ring of the kernel's choice takes half of what its user may lock. */
static void check_defaults(struct __test_metadata *_metadata, struct puppet *p,
			   rlim_t room)
{
	const struct fuse_uring_setup *s = &p->setup;

	EXPECT_LE(1, s->nr_queues);
	EXPECT_LE(1, s->queue_depth);
	EXPECT_LE(FUSE_URING_MIN_PAYLOAD, s->payload_size);
	EXPECT_GE(room, s->nr_queues * s->mmap_size);
	if (s->nr_queues > 1)
		EXPECT_GE(room / 2, s->nr_queues * s->mmap_size);
	EXPECT_EQ(0, use_ring(p));
}

TEST_F(setup_unprivileged, defaults)
{
	static const rlim_t limits[] = {
		96 << 10, 256 << 10, 1 << 20, 8 << 20, 64 << 20,
	};
	struct rlimit rlimit = { .rlim_max = RLIM_INFINITY };
	unsigned int i, payload = 0;
	struct puppet p;
	__u64 end;
	int ret;

	/* Pages are the unit, and there are large ones. */
	for (i = getpagesize() > 4096 ? 3 : 0; i < ARRAY_SIZE(limits); i++) {
		rlimit.rlim_cur = limits[i];
		ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &rlimit));
		end = now_ms() + TEST_WAIT_MS;
		/* The ring before this one may take a moment to go. */
		do {
			ASSERT_EQ(0, unprivileged_mount(&p));
			p.opt.nr_queues = 0;
			p.opt.depth = 0;
			ret = puppet_setup(&p);
			if (ret)
				puppet_stop(&p);
		} while (ret == -ENOBUFS && now_ms() < end);
		ASSERT_EQ(0, ret) TH_LOG("%lu bytes", (long)limits[i]);
		check_defaults(_metadata, &p, limits[i]);
		/* More never makes less of it. */
		EXPECT_LE(payload, p.setup.payload_size);
		payload = p.setup.payload_size;
		puppet_stop(&p);
	}
}

/* The same user mounts again and again, and nothing that he has ends. */
TEST_F(setup_unprivileged, defaults_of_several_mounts)
{
	struct rlimit rlimit = { 8 << 20, RLIM_INFINITY };
	static struct puppet p[4];
	unsigned int i;

	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &rlimit));
	ASSERT_EQ(0, unprivileged_mount(&p[0]));
	p[0].opt.nr_queues = 0;
	p[0].opt.depth = 0;
	ASSERT_EQ(0, puppet_setup(&p[0]));
	check_defaults(_metadata, &p[0], rlimit.rlim_cur);
	for (i = 1; i < ARRAY_SIZE(p); i++) {
		struct fuse_uring_setup arg = { .size = sizeof(arg) };

		ASSERT_EQ(0, unprivileged_mount(&p[i]));
		ASSERT_EQ(0, setup(p[i].fd, &arg)) TH_LOG("mount %u", i);
		EXPECT_LE(1, arg.nr_queues);
	}
	for (i = 0; i < ARRAY_SIZE(p); i++)
		puppet_stop(&p[i]);
}

/* A server that is started again gets what it had, as the old ring goes. */
TEST_F(setup_unprivileged, defaults_again)
{
	struct rlimit rlimit = { 8 << 20, RLIM_INFINITY };
	struct fuse_uring_setup arg;
	struct puppet p;
	unsigned int i;

	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &rlimit));
	ASSERT_EQ(0, unprivileged_mount(&p));
	p.opt.nr_queues = 0;
	p.opt.depth = 0;
	ASSERT_EQ(0, puppet_setup(&p));
	for (i = 0; i < 3; i++) {
		arg = (struct fuse_uring_setup){ .size = sizeof(arg) };
		ASSERT_EQ(0, setup(p.fd, &arg));
		EXPECT_EQ(p.setup.nr_queues, arg.nr_queues);
		EXPECT_EQ(p.setup.payload_size, arg.payload_size);
	}
	p.setup = arg;
	EXPECT_EQ(0, use_ring(&p));
	puppet_stop(&p);
}

/* The worker that does so is nobody in this namespace, but its server is. */
TEST_F(setup_unprivileged, retrieves_by_command)
{
	struct fuse_notify_retrieve_out out = {
		.notify_unique = 12345,
		.nodeid = PUPPET_FILE,
		.size = 100,
	};
	struct rlimit rlimit = { RLIM_INFINITY, RLIM_INFINITY };
	static struct puppet_req req;
	struct puppet p;

	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &rlimit));
	ASSERT_EQ(0, unprivileged_mount(&p));
	ASSERT_EQ(0, puppet_setup(&p));
	ASSERT_EQ(0, use_ring(&p));
	EXPECT_EQ(sizeof(struct fuse_out_header) + sizeof(out),
		  puppet_notify(&p, FUSE_NOTIFY_RETRIEVE, &out, sizeof(out)));
	ASSERT_EQ(0, puppet_until(&p, &req, FUSE_NOTIFY_REPLY));
	EXPECT_EQ(12345, req.in.unique);
	ASSERT_EQ(0, puppet_answer(&p, &req));
	puppet_stop(&p);
}

/* What one ring takes is missing for the next, and comes back. */
TEST_F(setup_unprivileged, memlock_is_returned)
{
	struct rlimit rlimit = { RLIM_INFINITY, RLIM_INFINITY };
	struct puppet first, second;
	__u64 end;
	int ret;

	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &rlimit));
	ASSERT_EQ(0, unprivileged_mount(&first));
	ASSERT_EQ(0, puppet_setup(&first));
	rlimit.rlim_cur = first.setup.mmap_size + first.setup.mmap_size / 2;
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &rlimit));

	ASSERT_EQ(0, unprivileged_mount(&second));
	second.opt.payload = first.setup.payload_size;
	EXPECT_EQ(-ENOBUFS, puppet_setup(&second));
	puppet_stop(&second);
	puppet_stop(&first);

	/* The connection goes with its last user, who may be late. */
	ASSERT_EQ(0, unprivileged_mount(&second));
	second.opt.payload = first.setup.payload_size;
	end = now_ms() + TEST_WAIT_MS;
	do {
		ret = puppet_setup(&second);
	} while (ret == -ENOBUFS && now_ms() < end);
	EXPECT_EQ(0, ret);
	puppet_stop(&second);
}

/* A server, and who else has mapped its queue. */
struct lost_server {
	struct puppet p;
	int ready;		/* both tell when they are */
	int go_on[2];		/* a pipe that is closed for that */
};

static int lost_server(void *arg)
{
	struct lost_server *s = arg;

	if (use_ring(&s->p) || write(s->ready, "r", 1) != 1)
		return 1;
	for (;;)
		pause();
}

/* Keeps nothing of the server's but the mapping. */
static int lost_mapping(void *arg)
{
	struct lost_server *s = arg;
	__u64 i;
	char c;

	close(s->go_on[1]);
	if (puppet_map(&s->p))
		return 1;
	memset(s->p.map[0], 'm', s->p.setup.mmap_size);
	puppet_close_dev(&s->p);
	if (write(s->ready, "m", 1) != 1)
		return 2;
	/* The end of file. */
	if (read(s->go_on[0], &c, 1))
		return 3;
	for (i = 0; i < s->p.setup.mmap_size; i++)
		if (s->p.map[0][i] != 'm')
			return 4;
	return 0;
}

/*
 * Another mount's ring, which is all that the limit has room for.  Memory may be
 * taken when a queue is mapped.
 */
static int another_ring(struct puppet *p, const struct puppet *like)
{
	int ret = unprivileged_mount(p);

	p->opt.payload = like->setup.payload_size;
	if (!ret)
		ret = puppet_setup(p);
	if (!ret)
		ret = puppet_map(p);
	return ret;
}

/* Waits, as the io_uring of a dead process goes a little later. */
static int another_ring_becomes(struct puppet *p, const struct puppet *like,
				int unlike)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	int ret;

	while ((ret = another_ring(p, like)) == unlike && now_ms() < end)
		puppet_stop(p);
	return ret;
}

static void memlock_for_one(struct __test_metadata *_metadata,
			    struct puppet *first)
{
	struct rlimit rlimit = { RLIM_INFINITY, RLIM_INFINITY };

	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &rlimit));
	ASSERT_EQ(0, unprivileged_mount(first));
	ASSERT_EQ(0, puppet_setup(first));
	rlimit.rlim_cur = first->setup.mmap_size + first->setup.mmap_size / 2;
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &rlimit));
}

/* A mount whose server has crashed keeps nothing of the ring. */
TEST_F(setup_unprivileged, memlock_of_a_dead_server)
{
	static struct lost_server s;
	struct requester server;
	struct puppet second;
	int fds[2];
	char c;

	memlock_for_one(_metadata, &s.p);
	ASSERT_EQ(0, pipe2(fds, O_CLOEXEC));
	s.ready = fds[1];
	ASSERT_EQ(0, process_start(&server, lost_server, &s));
	ASSERT_EQ(1, read(fds[0], &c, 1));
	puppet_close_dev(&s.p);
	EXPECT_EQ(-ENOBUFS, another_ring(&second, &s.p));
	puppet_stop(&second);

	kill(server.pid, SIGKILL);
	ASSERT_EQ(-SIGKILL, requester_join(&server));
	EXPECT_EQ(0, another_ring_becomes(&second, &s.p, -ENOBUFS));
	puppet_stop(&second);
	puppet_stop(&s.p);
}

/* Unless somebody has it mapped. */
TEST_F(setup_unprivileged, memlock_of_a_mapping_that_stays)
{
	struct requester server, mapping;
	static struct lost_server s;
	struct puppet second;
	struct requester r;
	int fds[2];
	char c;

	memlock_for_one(_metadata, &s.p);
	ASSERT_EQ(0, pipe2(fds, O_CLOEXEC));
	s.ready = fds[1];
	ASSERT_EQ(0, process_start(&server, lost_server, &s));
	ASSERT_EQ(1, read(fds[0], &c, 1));
	ASSERT_EQ(0, pipe2(s.go_on, O_CLOEXEC));
	ASSERT_EQ(0, process_start(&mapping, lost_mapping, &s));
	ASSERT_EQ(1, read(fds[0], &c, 1));
	puppet_close_dev(&s.p);
	kill(server.pid, SIGKILL);
	ASSERT_EQ(-SIGKILL, requester_join(&server));
	/* The end of the connection ends this, before it begins or after. */
	ASSERT_EQ(0, requester_start(&r, request_stat, TEST_MNT));
	EXPECT_LT(0, requester_join(&r));
	EXPECT_EQ(-ENOBUFS, another_ring(&second, &s.p));
	puppet_stop(&second);

	close(s.go_on[1]);
	EXPECT_EQ(0, requester_join(&mapping));
	EXPECT_EQ(0, another_ring_becomes(&second, &s.p, -ENOBUFS));
	puppet_stop(&second);
	puppet_stop(&s.p);
}

/* Memory of the ring is the memory cgroup's. */
#define CGROUP	TEST_DIR "/cgroup"

FIXTURE(setup_memcg)
{
	struct puppet p;
	bool made;
};

FIXTURE_SETUP(setup_memcg)
{
	const char *why = test_prepare(TRANSPORT_RING);
	char controllers[256];

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, mkdir(CGROUP, 0755));
	if (mount("test", CGROUP, "cgroup2", 0, NULL))
		SKIP(return, "kernel without cgroups");
	ASSERT_LE(0, file_read(CGROUP "/cgroup.controllers", controllers,
			       sizeof(controllers)));
	if (!strstr(controllers, "memory"))
		SKIP(return, "kernel without CONFIG_MEMCG");
	ASSERT_EQ(0, file_write(CGROUP "/cgroup.subtree_control", "+memory"));
	self->made = !mkdir(CGROUP "/fuse_test", 0755);
	ASSERT_TRUE(self->made || errno == EEXIST);
	ASSERT_EQ(0, file_write(CGROUP "/fuse_test/memory.max", "max"));
	ASSERT_EQ(0, file_write(CGROUP "/fuse_test/cgroup.procs", "0"));
	ASSERT_EQ(0, puppet_open(&self->p, &small_ring));
	ASSERT_EQ(0, puppet_mount(&self->p));
}

FIXTURE_TEARDOWN(setup_memcg)
{
	puppet_stop(&self->p);
	file_write(CGROUP "/cgroup.procs", "0");
	rmdir(CGROUP "/fuse_test");
}

TEST_F(setup_memcg, is_charged)
{
	long before, after;

	self->p.opt.depth = 64;
	self->p.opt.background = 32;
	self->p.opt.payload = 256 * getpagesize();
	before = file_number(CGROUP "/fuse_test/memory.current");
	ASSERT_LE(0, before);
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_LT(1024 * getpagesize(), self->p.setup.mmap_size);
	after = file_number(CGROUP "/fuse_test/memory.current");
	/* Each CPU may have charged 64 pages before: not exact, but near. */
	EXPECT_LE(self->p.setup.mmap_size / 4 * 3, after - before);
	EXPECT_EQ(0, use_ring(&self->p));
}

/* Bytes that the kernel has allocated for the group, without those of users. */
static long cgroup_kernel_bytes(void)
{
	char text[4096], *at;

	if (file_read(CGROUP "/fuse_test/memory.stat", text, sizeof(text)) < 0)
		return -1;
	at = strstr(text, "\nkernel ");
	return at ? atol(at + strlen("\nkernel ")) : -1;
}

/* The mount is still there, the ring is not. */
TEST_F(setup_memcg, is_no_more_when_the_server_is_dead)
{
	static struct lost_server s;
	struct requester server;
	long before, after, size;
	int fds[2];
	__u64 end;
	char c;

	self->p.opt.depth = 64;
	self->p.opt.background = 32;
	self->p.opt.payload = 1 << 20;
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_LT(4 << 20, self->p.setup.mmap_size);
	ASSERT_EQ(0, pipe2(fds, O_CLOEXEC));
	s.p = self->p;
	s.ready = fds[1];
	ASSERT_EQ(0, process_start(&server, lost_server, &s));
	ASSERT_EQ(1, read(fds[0], &c, 1));
	size = self->p.setup.mmap_size;
	before = cgroup_kernel_bytes();
	ASSERT_LE(size, before);

	puppet_close_dev(&self->p);
	kill(server.pid, SIGKILL);
	ASSERT_EQ(-SIGKILL, requester_join(&server));
	end = now_ms() + TEST_WAIT_MS;
	do {
		sleep_ms(1);
		after = cgroup_kernel_bytes();
		ASSERT_LE(0, after);
	} while (before - after < size / 4 * 3 && now_ms() < end);
	EXPECT_LE(size / 4 * 3, before - after);
}

TEST_F(setup_memcg, over_the_limit)
{
	char limit[32];

	self->p.opt.depth = 64;
	self->p.opt.background = 32;
	self->p.opt.payload = 256 * getpagesize();
	snprintf(limit, sizeof(limit), "%ld",
		 file_number(CGROUP "/fuse_test/memory.current") +
		 512 * getpagesize());
	ASSERT_EQ(0, file_write(CGROUP "/fuse_test/memory.max", limit));
	EXPECT_EQ(-ENOMEM, puppet_setup(&self->p));
	EXPECT_EQ(-1, ring_stat(self->p.conn, "requests_ring"));

	ASSERT_EQ(0, file_write(CGROUP "/fuse_test/memory.max", "max"));
	ASSERT_EQ(0, puppet_setup(&self->p));
	EXPECT_EQ(0, use_ring(&self->p));
}

/*
 * The kernel reads a file for itself, all of it at once: a module, or what is
 * to be a kernel.  It is neither, which is found out when it has been read.
 */
FIXTURE(kernel_read)
{
	struct puppet p;
	struct requester r;
};

FIXTURE_VARIANT(kernel_read)
{
	enum test_transport transport;
	unsigned int payload;
};

FIXTURE_VARIANT_ADD(kernel_read, dev) {
	.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(kernel_read, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(kernel_read, ring_smallest_payload) {
	.transport = TRANSPORT_RING,
	.payload = FUSE_URING_MIN_PAYLOAD,
};

FIXTURE_VARIANT_ADD(kernel_read, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_SETUP(kernel_read)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.nr_queues = 1,
		.depth = 2,
		.payload = variant->payload,
		.file_size = 2 << 20,
		.open_flags = FOPEN_DIRECT_IO,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
}

FIXTURE_TEARDOWN(kernel_read)
{
	puppet_stop(&self->p);
}

static int read_module(int fd)
{
	return syscall(SYS_finit_module, fd, "", 0);
}

static int read_kernel(int fd)
{
	return syscall(SYS_kexec_file_load, fd, -1, 0UL, NULL,
		       KEXEC_FILE_NO_INITRAMFS);
}

static int (*kernel_read)(int fd);

static int request_kernel_read(const void *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = kernel_read(fd) ? -errno : 0;
	close(fd);
	return ret;
}

TEST_F(kernel_read, of_two_mebibytes)
{
	int ret;

	if (read_module(-1) && errno == EBADF)
		kernel_read = read_module;
	else if (read_kernel(-1) && errno == EBADF)
		kernel_read = read_kernel;
	else
		SKIP(return, "neither CONFIG_MODULES nor CONFIG_KEXEC_FILE");
	ASSERT_EQ(0, requester_start(&self->r, request_kernel_read,
				     TEST_MNT "/f2"));
	ret = puppet_serve(&self->p, &self->r);
	/* It was read, and is no image: arm64 and s390x have a word of their own for that. */
	if (kernel_read == read_kernel && ret == EINVAL)
		ret = ENOEXEC;
	EXPECT_EQ(ENOEXEC, ret);
	if (variant->transport == TRANSPORT_RING)
		EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
}

/* What the kernel says about queues, for different numbers of them. */
FIXTURE(queue_info)
{
	struct puppet p;
	unsigned long *cpus;	/* as for sched_getaffinity(2) */
	unsigned int len;
};

FIXTURE_VARIANT(queue_info)
{
	unsigned int nr_queues;
};

FIXTURE_VARIANT_ADD(queue_info, one) {
	.nr_queues = 1,
};

FIXTURE_VARIANT_ADD(queue_info, two) {
	.nr_queues = 2,
};

FIXTURE_VARIANT_ADD(queue_info, three) {
	.nr_queues = 3,
};

FIXTURE_VARIANT_ADD(queue_info, all) {
	.nr_queues = 0,
};

FIXTURE_SETUP(queue_info)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = variant->nr_queues,
		.depth = 1,
	};

	if (why)
		SKIP(return, "%s", why);
	if (variant->nr_queues > possible_cpus())
		SKIP(return, "needs %u CPUs", variant->nr_queues);
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	ASSERT_EQ(0, puppet_setup(&self->p));
	self->len = 1024;
	self->cpus = calloc(1, self->len);
	ASSERT_NE(NULL, self->cpus);
}

FIXTURE_TEARDOWN(queue_info)
{
	free(self->cpus);
	puppet_stop(&self->p);
}

static struct fuse_uring_queue_info info_of(unsigned int qid)
{
	struct fuse_uring_queue_info info = {
		.size = sizeof(info),
		.qid = qid,
	};

	return info;
}

#define LONG_BITS	(8 * sizeof(long))

static bool mask_has(const unsigned long *mask, unsigned int cpu)
{
	return mask[cpu / LONG_BITS] >> cpu % LONG_BITS & 1;
}

/* Bytes of a mask of all CPUs. */
static unsigned int mask_size(void)
{
	return (possible_cpus() + LONG_BITS - 1) / LONG_BITS * sizeof(long);
}

/* The node of a CPU as sysfs has it, -1 when the kernel knows no nodes. */
static int cpu_node(unsigned int cpu)
{
	struct dirent *entry;
	char path[64];
	int node = -1;
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u", cpu);
	dir = opendir(path);
	while (dir && (entry = readdir(dir)))
		if (sscanf(entry->d_name, "node%d", &node) == 1)
			break;
	if (dir)
		closedir(dir);
	return node;
}

TEST_F(queue_info, cpus_are_divided)
{
	unsigned long *seen = calloc(1, self->len);
	unsigned int qid, cpu, sum = 0, nr;

	ASSERT_NE(NULL, seen);
	for (qid = 0; qid < self->p.setup.nr_queues; qid++) {
		struct fuse_uring_queue_info info = info_of(qid);

		/* What the call does not fill must be zeroes, too. */
		memset(self->cpus, 0xff, self->len);
		info.cpus = (uintptr_t)self->cpus;
		info.cpus_len = self->len;
		ASSERT_EQ(0, queue_info(self->p.fd, &info));
		EXPECT_EQ(sizeof(info), info.size);
		EXPECT_EQ(mask_size(), info.cpus_len);
		for (nr = 0, cpu = 0; cpu < self->len * 8; cpu++) {
			if (!mask_has(self->cpus, cpu))
				continue;
			nr++;
			EXPECT_GT(possible_cpus(), cpu);
			EXPECT_FALSE(mask_has(seen, cpu));
			seen[cpu / LONG_BITS] |= 1UL << cpu % LONG_BITS;
		}
		EXPECT_EQ(nr, info.nr_cpus);
		EXPECT_LT(0, nr);
		sum += nr;
	}
	EXPECT_EQ(possible_cpus(), sum);
	free(seen);
}

/* With as many queues as nodes, no queue mixes nodes. */
TEST_F(queue_info, nodes_are_right)
{
	unsigned int qid, cpu, nodes = 0;
	bool mixed = false;
	int node;

	for (cpu = 0; cpu < possible_cpus(); cpu++) {
		node = cpu_node(cpu);
		if (node >= (int)nodes)
			nodes = node + 1;
	}
	for (qid = 0; qid < self->p.setup.nr_queues; qid++) {
		struct fuse_uring_queue_info info = info_of(qid);

		info.cpus = (uintptr_t)self->cpus;
		info.cpus_len = self->len;
		ASSERT_EQ(0, queue_info(self->p.fd, &info));
		for (cpu = 0; cpu < possible_cpus(); cpu++) {
			if (!mask_has(self->cpus, cpu))
				continue;
			node = cpu_node(cpu);
			if (node >= 0 && node != info.node)
				mixed = true;
		}
	}
	if (self->p.setup.nr_queues >= nodes)
		EXPECT_FALSE(mixed);
}

/* The queue that has this CPU, or -1. */
static int queue_of(struct _test_data_queue_info *self, unsigned int cpu)
{
	unsigned int qid;

	for (qid = 0; qid < self->p.setup.nr_queues; qid++) {
		struct fuse_uring_queue_info info = info_of(qid);

		info.cpus = (uintptr_t)self->cpus;
		info.cpus_len = self->len;
		if (queue_info(self->p.fd, &info))
			return -1;
		if (mask_has(self->cpus, cpu))
			return qid;
	}
	return -1;
}

/*
 * A request is sent to the queue that this call tells for its CPU.  By which
 * one it comes is another matter: the server may be late.
 */
TEST_F(queue_info, is_where_requests_go)
{
	static struct puppet_req req;
	struct requester r;
	unsigned int cpu;
	cpu_set_t all;
	long sync;
	int qid;

	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm(&self->p));
	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(all), &all));
	for (cpu = 0; cpu < possible_cpus() && cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		qid = queue_of(self, cpu);
		ASSERT_LE(0, qid);
		sync = ring_queue_stat(self->p.conn, qid, "sync");
		ASSERT_EQ(0, requester_on(cpu, &r, request_stat, TEST_MNT));
		ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
		EXPECT_TRUE(req.ring);
		EXPECT_EQ(qid, puppet_sent_to(&self->p, &req));
		EXPECT_EQ(sync + 1,
			  ring_queue_stat(self->p.conn, qid, "sync"));
		ASSERT_EQ(0, puppet_answer(&self->p, &req));
		EXPECT_EQ(0, puppet_serve(&self->p, &r));
	}
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
}

TEST_F(queue_info, without_the_array)
{
	struct fuse_uring_queue_info info = info_of(0);

	ASSERT_EQ(0, queue_info(self->p.fd, &info));
	EXPECT_EQ(mask_size(), info.cpus_len);
	EXPECT_LT(0, info.nr_cpus);
}

TEST_F(queue_info, no_such_queue)
{
	struct fuse_uring_queue_info info = info_of(self->p.setup.nr_queues);

	EXPECT_EQ(-ENXIO, queue_info(self->p.fd, &info));
	info = info_of(~0U);
	EXPECT_EQ(-ENXIO, queue_info(self->p.fd, &info));
}

TEST_F(queue_info, unknown_flags)
{
	struct fuse_uring_queue_info info = info_of(0);

	info.flags = 1;
	EXPECT_EQ(-EOPNOTSUPP, queue_info(self->p.fd, &info));
}

TEST_F(queue_info, reserved)
{
	struct fuse_uring_queue_info info = info_of(0);

	info.reserved[3] = 1;
	EXPECT_EQ(-EINVAL, queue_info(self->p.fd, &info));
	/* And what is an answer only. */
	info = info_of(0);
	info.node = -1;
	EXPECT_EQ(-EINVAL, queue_info(self->p.fd, &info));
	info = info_of(0);
	info.nr_cpus = 1;
	EXPECT_EQ(-EINVAL, queue_info(self->p.fd, &info));
}

TEST_F(queue_info, short_size)
{
	struct fuse_uring_queue_info info = info_of(0);

	info.size = sizeof(info) - 1;
	EXPECT_EQ(-EINVAL, queue_info(self->p.fd, &info));
	info.size = 0;
	EXPECT_EQ(-EINVAL, queue_info(self->p.fd, &info));
}

TEST_F(queue_info, larger_and_zero)
{
	struct {
		struct fuse_uring_queue_info info;
		char more[16];
	} big = { .info = info_of(0) };

	big.info.size = sizeof(big);
	EXPECT_EQ(0, queue_info(self->p.fd, &big.info));
	EXPECT_EQ(sizeof(big.info), big.info.size);
}

TEST_F(queue_info, larger_and_not_zero)
{
	struct {
		struct fuse_uring_queue_info info;
		char more[16];
	} big = { .info = info_of(0) };

	big.info.size = sizeof(big);
	big.more[0] = 1;
	EXPECT_EQ(-E2BIG, queue_info(self->p.fd, &big.info));
}

/* Of the array's length, down to the byte. */
TEST_F(queue_info, length_of_array)
{
	unsigned int need = mask_size(), len;
	struct fuse_uring_queue_info info;

	for (len = 1; len < need; len++) {
		info = info_of(0);
		info.cpus = (uintptr_t)self->cpus;
		info.cpus_len = len;
		EXPECT_EQ(-ENOSPC, queue_info(self->p.fd, &info));
		EXPECT_EQ(need, info.cpus_len);
	}
	memset(self->cpus, 0x5a, self->len);
	info = info_of(0);
	info.cpus = (uintptr_t)self->cpus;
	info.cpus_len = need;
	EXPECT_EQ(0, queue_info(self->p.fd, &info));
	EXPECT_EQ(need, info.cpus_len);
	EXPECT_EQ(0x5a, ((__u8 *)self->cpus)[need]);
}

TEST_F(queue_info, bad_address)
{
	struct fuse_uring_queue_info info = info_of(0);

	EXPECT_EQ(-EFAULT, queue_info(self->p.fd, NULL));
	info.cpus = -4096UL;
	info.cpus_len = self->len;
	EXPECT_EQ(-EFAULT, queue_info(self->p.fd, &info));
}

TEST(queue_info_without_ring)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct fuse_uring_queue_info info = info_of(0);
	struct puppet p;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&p, &small_ring));
	ASSERT_EQ(0, puppet_mount(&p));
	EXPECT_EQ(-ENXIO, queue_info(p.fd, &info));
	ASSERT_EQ(0, puppet_setup(&p));
	info = info_of(0);
	EXPECT_EQ(0, queue_info(p.fd, &info));
	puppet_stop(&p);
}

TEST_HARNESS_MAIN
