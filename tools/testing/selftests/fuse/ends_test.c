// SPDX-License-Identifier: GPL-2.0
/*
 * What happens in the server's thread when a reply ends a request: it must not
 * wait there for something that the same thread has to bring.  And how the
 * commands of a process end that has died before the io_uring it shares.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/loop.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "puppet.h"

#define FILE2		(TEST_MNT "/f2")
#define FILE3		(TEST_MNT "/f3")
#define NODE2		2
#define NODE3		3
#define PAGE		((size_t)getpagesize())

/* What client, server and test tell each other. */
struct told {
	int	serving;
	int	go;		/* the server answers what it holds */
	int	closed;		/* the client has closed its files */
	int	holds_read;
	int	holds_write;
	int	stores;		/* the client's child is about to store */
	pid_t	storer;
	int	committed;	/* that reply did not hang */
	int	holds_release;
	int	released;	/* how many RELEASEs have come */
	int	destroyed;
	int	released_before;	/* so many before DESTROY */
};

static struct told *told;

/* Asynchronous reads by libaio's system calls, of which glibc has none. */
static int aio_read(aio_context_t ctx, int fd, void *buf, size_t len,
		    off_t offset)
{
	struct iocb cb = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = fd,
		.aio_buf = (uintptr_t)buf,
		.aio_nbytes = len,
		.aio_offset = offset,
	}, *list = &cb;

	return syscall(SYS_io_submit, ctx, 1, &list) == 1 ? 0 : -errno;
}

/* Waits for @nr reads, each of @len bytes. */
static int aio_wait(aio_context_t ctx, int nr, size_t len)
{
	struct io_event event;

	while (nr--) {
		if (syscall(SYS_io_getevents, ctx, 1, 1, &event, NULL) != 1)
			return -errno;
		if (event.res < 0)
			return event.res;
		if ((size_t)event.res != len)
			return -ENODATA;
	}
	return 0;
}

/*
 * A direct read goes to a page of another file that is mapped.  Such a page is
 * marked dirty when the read ends, which takes the page's lock; and that is
 * held by who stores to the page while it is being written back.  A reply by
 * write(2) on /dev/fuse hangs there on the base, so it is no variant.
 */
FIXTURE(mapped_page)
{
	struct puppet p;
	struct requester server;
	struct requester client;
};

FIXTURE_VARIANT(mapped_page)
{
	enum test_transport transport;
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(mapped_page, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(mapped_page, ring_defer) {
	.transport = TRANSPORT_RING,
	.uring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

FIXTURE_VARIANT_ADD(mapped_page, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_SETUP(mapped_page)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 8,
		.payload = 128 << 10,
		.init_flags = FUSE_ASYNC_READ | FUSE_ASYNC_DIO |
			      FUSE_WRITEBACK_CACHE,
	};

	if (why)
		SKIP(return, "%s", why);
	told = shared_alloc(sizeof(*told));
	ASSERT_NE(NULL, told);
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	if (transport_rings(variant->transport))
		ASSERT_EQ(0, puppet_setup(&self->p));
}

FIXTURE_TEARDOWN(mapped_page)
{
	/* Also what hangs ends by that. */
	conn_abort(self->p.conn);
	kill(self->server.pid, SIGKILL);
	EXPECT_EQ(-SIGKILL, requester_join(&self->server));
	puppet_stop(&self->p);
}

/* The only thread: commits the read before the write, when told to. */
static int mapped_page_server(void *arg)
{
	static struct puppet_req req, rd, wr;
	struct puppet *p = arg;

	if (puppet_begin(p))
		return 1;
	flag_set(&told->serving);
	for (;;) {
		if (told->holds_read && told->holds_write &&
		    !told->committed && flag_is_set(&told->go)) {
			if (puppet_answer(p, &rd))
				return 2;
			flag_set(&told->committed);
			if (puppet_answer(p, &wr))
				return 3;
		}
		if (puppet_next(p, &req, 2) != PUPPET_REQUEST)
			continue;
		if (req.in.opcode == FUSE_READ && req.in.nodeid == NODE3) {
			rd = req;
			flag_set(&told->holds_read);
		} else if (req.in.opcode == FUSE_WRITE && told->holds_read &&
			   !told->holds_write) {
			/* The kernel may write the page by itself before */
			wr = req;
			flag_set(&told->holds_write);
		} else if (puppet_answer(p, &req)) {
			return 4;
		}
	}
}

static int mapped_page_client(const void *arg)
{
	int from = open(FILE3, O_RDONLY | O_DIRECT | O_CLOEXEC);
	int to = open(FILE2, O_RDWR | O_CLOEXEC);
	aio_context_t ctx = 0;
	char *page;
	int status, err;
	pid_t pid;

	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, to, 0);
	if (from < 0 || to < 0 || page == MAP_FAILED ||
	    syscall(SYS_io_setup, 1, &ctx))
		return -errno;
	__atomic_store_n(page, 1, __ATOMIC_RELAXED);
	err = aio_read(ctx, from, page, PAGE, 0);
	if (err)
		return err;
	if (!flag_becomes_set(&told->holds_read))
		return -ETIMEDOUT;
	if (sync_file_range(to, 0, PAGE, SYNC_FILE_RANGE_WRITE))
		return -errno;
	if (!flag_becomes_set(&told->holds_write))
		return -ETIMEDOUT;
	pid = fork();
	if (!pid) {
		told->storer = getpid();
		flag_set(&told->stores);
		__atomic_store_n(page, 2, __ATOMIC_RELAXED);
		_exit(0);
	}
	err = aio_wait(ctx, 1, PAGE);
	if (waitpid(pid, &status, 0) != pid || status)
		return -ECHILD;
	return err;
}

TEST_F(mapped_page, read_is_committed_first)
{
	int ret = REQUESTER_HANGS;
	bool stores;

	ASSERT_EQ(0, process_start(&self->server, mapped_page_server,
				   &self->p));
	ASSERT_TRUE(flag_becomes_set(&told->serving));
	ASSERT_EQ(0, requester_start(&self->client, mapped_page_client, NULL));
	stores = flag_becomes_set(&told->stores);
	if (!stores && !requester_ended(&self->client, &ret, 0))
		requester_hangs(&self->client, self->p.conn);
	ASSERT_TRUE(stores) TH_LOG("read held: %d, write held: %d, client: %d",
				   told->holds_read, told->holds_write, ret);
	/* It has the page's lock and waits for the end of writeback. */
	ASSERT_TRUE(process_becomes(told->storer, "D"));
	flag_set(&told->go);
	EXPECT_TRUE(flag_becomes_set(&told->committed));
	if (!flag_is_set(&told->committed))
		conn_abort(self->p.conn);
	EXPECT_EQ(0, requester_join(&self->client));
}

/*
 * Mounted as fuseblk, where close(2) waits for RELEASE, but not over a ring.  The
 * base has the fault that is tested for, and goes on to have it over /dev/fuse,
 * so that is no variant.
 */
#define NR_READS	16
#define NR_FILES	4

FIXTURE(block)
{
	struct puppet p;
	struct requester server;
	struct requester client;
	struct requester umounter;
	char dev[32];
	int loop;
};

FIXTURE_VARIANT(block)
{
	enum test_transport transport;
	unsigned int uring_flags;
	unsigned int depth;
	unsigned int background;
};

FIXTURE_VARIANT_ADD(block, ring) {
	.transport = TRANSPORT_RING,
	.depth = 2 * NR_READS,
	.background = 2 * NR_READS,
};

FIXTURE_VARIANT_ADD(block, ring_defer) {
	.transport = TRANSPORT_RING,
	.uring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
	.depth = 2 * NR_READS,
	.background = 2 * NR_READS,
};

/* Only one at a time is with the server. */
FIXTURE_VARIANT_ADD(block, ring_one_credit) {
	.transport = TRANSPORT_RING,
	.depth = 2,
	.background = 1,
};

FIXTURE_VARIANT_ADD(block, user) {
	.transport = TRANSPORT_USER,
	.depth = 2 * NR_READS,
};

FIXTURE_VARIANT_ADD(block, user_one_credit) {
	.transport = TRANSPORT_USER,
	.depth = 2,
};

/* A block device that goes with its last user; NULL, or why there is none. */
static const char *loop_make(char *path, size_t size, int *loop)
{
	static const char backing[] = TEST_DIR "/disk";
	struct loop_config config = {
		.info = { .lo_flags = LO_FLAGS_AUTOCLEAR },
	};
	int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC), fd, nr, rw;

	if (ctl < 0)
		return "kernel without CONFIG_BLK_DEV_LOOP";
	nr = ioctl(ctl, LOOP_CTL_GET_FREE);
	close(ctl);
	snprintf(path, size, "/dev/loop%d", nr);
	rw = open(path, O_RDWR | O_CLOEXEC);
	fd = open(backing, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (nr < 0 || rw < 0 || fd < 0)
		return "no free loop device";
	config.fd = fd;
	if (ftruncate(fd, 1 << 20) || ioctl(rw, LOOP_CONFIGURE, &config))
		return "no loop device of a file";
	/* Kernels may refuse to mount what somebody else may write. */
	*loop = open(path, O_RDONLY | O_CLOEXEC);
	close(rw);
	close(fd);
	return NULL;
}

FIXTURE_SETUP(block)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = variant->depth,
		.background = variant->background,
		.payload = 128 << 10,
		.init_flags = FUSE_ASYNC_READ | FUSE_ASYNC_DIO,
		.max_readahead = PUPPET_READAHEAD,
		.max_background = 64,
	};

	self->p.fd = -1;
	self->p.conn = -1;
	if (!why)
		why = loop_make(self->dev, sizeof(self->dev), &self->loop);
	if (why)
		SKIP(return, "%s", why);
	told = shared_alloc(sizeof(*told));
	ASSERT_NE(NULL, told);
	opt.blkdev = self->dev;
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	if (transport_rings(variant->transport))
		ASSERT_EQ(0, puppet_setup(&self->p));
	/* Only the mount uses it. */
	ASSERT_EQ(0, close(self->loop));
}

FIXTURE_TEARDOWN(block)
{
	if (self->server.pid > 0) {
		conn_abort(self->p.conn);
		kill(self->server.pid, SIGKILL);
		EXPECT_EQ(-SIGKILL, requester_join(&self->server));
	}
	puppet_stop(&self->p);
}

/*
 * The only thread: holds READs until it is told to go on.  Of RELEASEs, it may
 * be told to hold the first one until DESTROY is to be expected.
 */
static int block_server(void *arg)
{
	static struct puppet_held held;
	static struct puppet_req req, release;
	struct puppet *p = arg;

	if (puppet_begin(p))
		return 1;
	flag_set(&told->serving);
	for (;;) {
		if (flag_is_set(&told->go) && puppet_release_all(p, &held))
			return 2;
		if (told->holds_release == 2 && flag_is_set(&told->committed)) {
			told->holds_release = 3;
			if (puppet_answer(p, &release))
				return 3;
		}
		if (puppet_next(p, &req, 2) != PUPPET_REQUEST)
			continue;
		switch (req.in.opcode) {
		case FUSE_READ:
			if (flag_is_set(&told->go))
				break;
			held.req[held.nr] = malloc(sizeof(req));
			if (!held.req[held.nr])
				return 4;
			*held.req[held.nr++] = req;
			flag_set(&told->holds_read);
			continue;
		case FUSE_RELEASE:
			told->released++;
			if (told->holds_release != 1)
				break;
			release = req;
			told->holds_release = 2;
			continue;
		case FUSE_DESTROY:
			told->released_before = told->released;
			if (puppet_answer(p, &req))
				return 5;
			flag_set(&told->destroyed);
			continue;
		}
		if (puppet_answer(p, &req))
			return 6;
	}
}

static int block_start(struct requester *server, struct puppet *p)
{
	int ret = process_start(server, block_server, p);

	return ret ? ret : flag_becomes_set(&told->serving) ? 0 : -ETIMEDOUT;
}

/* Reads are under way when the file is closed. */
static int read_and_close(const void *arg)
{
	int fd = open(FILE2, O_RDONLY | O_DIRECT | O_CLOEXEC), i, err = 0;
	aio_context_t ctx = 0;
	char *buf;

	buf = mmap(NULL, NR_READS * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fd < 0 || buf == MAP_FAILED ||
	    syscall(SYS_io_setup, NR_READS, &ctx))
		return -errno;
	for (i = 0; i < NR_READS && !err; i++)
		err = aio_read(ctx, fd, buf + i * PAGE, PAGE, i * PAGE);
	if (err)
		return err;
	if (close(fd))
		return -errno;
	flag_set(&told->closed);
	return aio_wait(ctx, NR_READS, PAGE);
}

static int request_umount(const void *arg)
{
	return umount2(TEST_MNT, 0) ? -errno : 0;
}

/* The last reply drops the last reference of the file. */
TEST_F(block, read_ends_after_close)
{
	ASSERT_EQ(0, block_start(&self->server, &self->p));
	ASSERT_EQ(0, requester_start(&self->client, read_and_close, NULL));
	ASSERT_TRUE(flag_becomes_set(&told->closed));
	EXPECT_EQ(0, told->released);
	flag_set(&told->go);
	EXPECT_EQ(0, requester_join(&self->client));
	EXPECT_TRUE(flag_becomes_set(&told->released));
	ASSERT_EQ(1, told->released);

	ASSERT_EQ(0, requester_start(&self->umounter, request_umount, NULL));
	EXPECT_EQ(0, requester_join(&self->umounter));
	EXPECT_TRUE(flag_becomes_set(&told->destroyed));
}

/* Readahead is under way when the files are closed. */
static int readahead_and_close(const void *arg)
{
	struct puppet_io io = { .len = PUPPET_READAHEAD };
	char path[64];
	int i, err = 0;

	for (i = 0; i < NR_FILES && !err; i++) {
		snprintf(path, sizeof(path), TEST_MNT "/f%d", NODE2 + i);
		io.path = path;
		err = request_readahead(&io);
	}
	flag_set(&told->closed);
	return err;
}

/* Nobody waits for these RELEASEs, and all but one wait for a credit. */
TEST_F(block, destroy_is_last)
{
	__u64 end;

	told->holds_release = 1;
	ASSERT_EQ(0, block_start(&self->server, &self->p));
	ASSERT_EQ(0, requester_start(&self->client, readahead_and_close,
				     NULL));
	ASSERT_TRUE(flag_becomes_set(&told->closed));
	EXPECT_EQ(0, requester_join(&self->client));
	EXPECT_EQ(0, told->released);
	ASSERT_EQ(0, conn_ctl_write(self->p.conn, "max_background", "1"));
	flag_set(&told->go);
	/* One is in the server's hands, the others wait. */
	end = now_ms() + TEST_WAIT_MS;
	while (told->holds_release != 2 && now_ms() < end)
		sleep_ms(1);
	ASSERT_EQ(2, told->holds_release);
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, NR_FILES));

	ASSERT_EQ(0, requester_start(&self->umounter, request_umount, NULL));
	ASSERT_TRUE(requester_sleeps(&self->umounter));
	flag_set(&told->committed);
	EXPECT_EQ(0, requester_join(&self->umounter));
	EXPECT_TRUE(flag_becomes_set(&told->destroyed));
	EXPECT_EQ(NR_FILES, told->released_before);
}

/* An io_uring of which another process has armed some slots, and dies. */
FIXTURE(shared_uring)
{
	struct puppet p;
	struct requester r[2];
	struct requester child;
};

FIXTURE_SETUP(shared_uring)
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
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 0, 1));
	ASSERT_EQ(0, puppet_init(&self->p));
}

FIXTURE_TEARDOWN(shared_uring)
{
	puppet_stop(&self->p);
}

/* puppet_uring() has hidden it from children. */
static int uring_dofork(struct io_uring *uring)
{
	size_t sqes = uring->sq.ring_entries * sizeof(struct io_uring_sqe);

	return madvise(uring->sq.sqes, sqes, MADV_DOFORK) ||
	       madvise(uring->sq.ring_ptr, uring->sq.ring_sz, MADV_DOFORK) ||
	       (uring->cq.ring_ptr != uring->sq.ring_ptr &&
		madvise(uring->cq.ring_ptr, uring->cq.ring_sz, MADV_DOFORK)) ?
	       -errno : 0;
}

static int arm_and_die(void *arg)
{
	return puppet_arm_slots(arg, 0, 1, 3) ? 1 : 0;
}

/*
 * Who goes on with the io_uring can tell that from the connection's end.  The
 * kernel notices when it wants to call one of the dead, which is when the only
 * slot of the living is held.
 */
TEST_F(shared_uring, slots_of_the_dead)
{
	struct puppet *shared = shared_alloc(sizeof(*shared));
	static struct puppet_req req, held;
	unsigned int i, seen = 0;
	int ret;

	ASSERT_NE(NULL, shared);
	*shared = self->p;
	ASSERT_EQ(0, uring_dofork(&self->p.uring));
	ASSERT_EQ(0, process_start(&self->child, arm_and_die, shared));
	ASSERT_EQ(0, requester_join(&self->child));
	/* How far the submission queue has got. */
	self->p.uring.sq = shared->uring.sq;
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, requester_start(&self->r[i], request_stat,
					     TEST_MNT));
	for (i = 0; i < 4; i++) {
		ret = puppet_next(&self->p, &req, TEST_WAIT_MS);
		EXPECT_EQ(0, req.qid);
		if (ret == PUPPET_REQUEST) {
			EXPECT_EQ(FUSE_GETATTR, req.in.opcode);
			held = req;
		} else {
			EXPECT_EQ(-ECANCELED, ret);
		}
		seen |= 1U << req.slot;
	}
	EXPECT_EQ(0xf, seen);
	ASSERT_EQ(0, held.slot);
	ASSERT_TRUE(ring_queue_stat_becomes(self->p.conn, 0, "pending", 1));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));

	/* They can be armed again, and are used. */
	ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 1, 3));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
	EXPECT_NE(0, req.slot);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	ASSERT_EQ(0, puppet_answer(&self->p, &held));
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
	ASSERT_TRUE(ring_queue_stat_becomes(self->p.conn, 0, "parked", 4));
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	}
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
	ASSERT_EQ(0, conn_abort(self->p.conn));
	for (i = 0; i < 4; i++)
		EXPECT_EQ(-ENOTCONN, puppet_next(&self->p, &req,
						 TEST_WAIT_MS));
}

TEST_HARNESS_MAIN
