// SPDX-License-Identifier: GPL-2.0
/* CUSE shares code with FUSE, has no ring, and works as it did. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <liburing.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include "../kselftest_harness.h"
#include "common.h"

#define DEVICE		"fuse_test"
#define MAX_IO		65536
#define IOC_ADD		_IOWR('t', 1, unsigned int)

static int reply(int fd, const struct fuse_in_header *in, int error,
		 const void *data, size_t len)
{
	struct fuse_out_header out = {
		.len = sizeof(out) + len,
		.error = error,
		.unique = in->unique,
	};
	struct iovec iov[2] = {
		{ &out, sizeof(out) },
		{ (void *)data, len },
	};

	return writev(fd, iov, 2) < 0;
}

static int reply_init(int fd, const struct fuse_in_header *in)
{
	struct {
		struct cuse_init_out out;
		char info[sizeof("DEVNAME=" DEVICE)];
	} init = {
		.out = {
			.major = FUSE_KERNEL_VERSION,
			.minor = FUSE_KERNEL_MINOR_VERSION,
			.max_read = MAX_IO,
			.max_write = MAX_IO,
		},
		.info = "DEVNAME=" DEVICE,
	};

	return reply(fd, in, 0, &init,
		     offsetof(typeof(init), info) + sizeof(init.info));
}

/* A device of test bytes, which checks what is written to it. */
static int answer(int fd, const struct fuse_in_header *in)
{
	static unsigned char data[MAX_IO];
	const struct fuse_read_in *read = (const void *)(in + 1);
	const struct fuse_write_in *write = (const void *)(in + 1);
	const struct fuse_ioctl_in *ioctl = (const void *)(in + 1);
	struct {
		struct fuse_ioctl_out out;
		unsigned int value;
	} add = { 0 };
	struct fuse_open_out open = { 0 };
	struct fuse_write_out written = { 0 };
	unsigned int i;

	switch (in->opcode) {
	case CUSE_INIT:
		return reply_init(fd, in);
	case FUSE_OPEN:
		return reply(fd, in, 0, &open, sizeof(open));
	case FUSE_READ:
		for (i = 0; i < read->size && i < MAX_IO; i++)
			data[i] = test_byte(5, read->offset + i);
		return reply(fd, in, 0, data, i);
	case FUSE_WRITE:
		for (i = 0; i < write->size; i++)
			if (((unsigned char *)(write + 1))[i] !=
			    test_byte(5, write->offset + i))
				return reply(fd, in, -EILSEQ, NULL, 0);
		written.size = write->size;
		return reply(fd, in, 0, &written, sizeof(written));
	case FUSE_IOCTL:
		if (ioctl->cmd != IOC_ADD)
			return reply(fd, in, -ENOTTY, NULL, 0);
		add.value = *(const unsigned int *)(ioctl + 1) + 1;
		add.out.result = 7;
		return reply(fd, in, 0, &add, sizeof(add));
	case FUSE_INTERRUPT:
		return 0;
	default:
		return reply(fd, in, 0, NULL, 0);
	}
}

static int serve(int fd)
{
	static __u64 buf[(MAX_IO + 8192) / 8];

	for (;;) {
		if (read(fd, buf, sizeof(buf)) < 0)
			return errno != ENODEV;
		if (answer(fd, (const void *)buf))
			return 1;
	}
}

FIXTURE(cuse)
{
	int channel;
	pid_t server;
	int fd;
};

FIXTURE_VARIANT(cuse)
{
	bool ring;
};

FIXTURE_VARIANT_ADD(cuse, off) {
	.ring = false,
};

FIXTURE_VARIANT_ADD(cuse, on) {
	.ring = true,
};

FIXTURE_SETUP(cuse)
{
	const char *why = test_prepare(variant->ring ? TRANSPORT_RING :
						       TRANSPORT_DEV);
	__u64 end = now_ms() + TEST_WAIT_MS;

	if (why)
		SKIP(return, "%s", why);
	self->channel = open("/dev/cuse", O_RDWR | O_CLOEXEC);
	if (self->channel < 0)
		SKIP(return, "kernel without CONFIG_CUSE");
	self->server = fork();
	ASSERT_LE(0, self->server);
	if (!self->server) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(serve(self->channel));
	}
	do {
		self->fd = open("/dev/" DEVICE, O_RDWR | O_CLOEXEC);
		sleep_ms(1);
	} while (self->fd < 0 && now_ms() < end);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(cuse)
{
	close(self->fd);
	close(self->channel);
	kill(self->server, SIGKILL);
	EXPECT_EQ(self->server, waitpid(self->server, NULL, 0));
}

static void works(struct __test_metadata *_metadata, int fd)
{
	static unsigned char buf[MAX_IO];
	unsigned int value = 41, i;

	for (i = 0; i < MAX_IO; i++)
		buf[i] = test_byte(5, i);
	EXPECT_EQ(MAX_IO, pwrite(fd, buf, MAX_IO, 0));
	memset(buf, 0, sizeof(buf));
	/* A CUSE device has no positions. */
	EXPECT_EQ(MAX_IO, pread(fd, buf, MAX_IO, 4096));
	for (i = 0; i < MAX_IO; i++)
		if (buf[i] != test_byte(5, i))
			break;
	EXPECT_EQ(MAX_IO, i);
	EXPECT_EQ(7, ioctl(fd, IOC_ADD, &value));
	EXPECT_EQ(42, value);
	EXPECT_EQ(-1, ioctl(fd, _IO('t', 2)));
	EXPECT_EQ(ENOTTY, errno);
}

TEST_F(cuse, works)
{
	works(_metadata, self->fd);
}

TEST_F(cuse, has_no_mapping)
{
	EXPECT_EQ(MAP_FAILED, mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE,
				   MAP_SHARED, self->channel, 0));
	EXPECT_EQ(ENODEV, errno);
	works(_metadata, self->fd);
}

TEST_F(cuse, has_no_setup)
{
	struct fuse_uring_setup setup = { .size = sizeof(setup) };
	struct fuse_uring_queue_info info = { .size = sizeof(info) };

	EXPECT_EQ(-1, ioctl(self->channel, FUSE_DEV_IOC_URING_SETUP, &setup));
	EXPECT_EQ(ENOTTY, errno);
	EXPECT_EQ(-1, ioctl(self->channel, FUSE_DEV_IOC_URING_QUEUE_INFO,
			    &info));
	EXPECT_EQ(ENOTTY, errno);
	works(_metadata, self->fd);
}

TEST_F(cuse, has_no_commands)
{
	struct fuse_uring_slot_cmd cmd = { 0 };
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct io_uring uring;
	unsigned int i;

	ASSERT_EQ(0, io_uring_queue_init(4, &uring, 0));
	for (i = 0; i < 2; i++) {
		sqe = io_uring_get_sqe(&uring);
		memset(sqe, 0, sizeof(*sqe));
		sqe->opcode = IORING_OP_URING_CMD;
		sqe->fd = self->channel;
		sqe->cmd_op = FUSE_URING_REQ_FETCH + i;
		memcpy(sqe->cmd, &cmd, sizeof(cmd));
		ASSERT_EQ(1, io_uring_submit(&uring));
		ASSERT_EQ(0, io_uring_wait_cqe(&uring, &cqe));
		EXPECT_EQ(-EOPNOTSUPP, cqe->res);
		io_uring_cqe_seen(&uring, cqe);
	}
	io_uring_queue_exit(&uring);
	works(_metadata, self->fd);
}

TEST_F(cuse, ends)
{
	char c;

	kill(self->server, SIGKILL);
	ASSERT_EQ(0, waitid(P_PID, self->server, NULL, WEXITED | WNOWAIT));
	ASSERT_EQ(0, close(self->channel));
	self->channel = -1;
	EXPECT_EQ(-1, pread(self->fd, &c, 1, 0));
	EXPECT_EQ(ENOTCONN, errno);
}

TEST_HARNESS_MAIN
