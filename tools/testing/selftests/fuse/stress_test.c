// SPDX-License-Identifier: GPL-2.0
/*
 * Servers that do everything at once, wrongly, or die in the middle of it, and
 * what is left of them afterwards.
 *
 * FUSE_TEST_SECONDS says for how long each test goes on, FUSE_TEST_CYCLES how
 * many connections are made and killed, FUSE_TEST_SEED repeats random choices.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "meminfo.h"
#include "puppet.h"

#define FILE2	(TEST_MNT "/f2")

/* Requests of all kinds until something fails. */
static int request_anything(const void *arg)
{
	static const struct puppet_io write = {
		.path = FILE2,
		.len = 20000,
		.flags = O_RDWR,
	};
	static const struct puppet_io read = {
		.path = FILE2,
		.len = 70000,
		.flags = O_RDONLY | O_DIRECT,
	};
	const struct puppet_io ahead = {
		.path = TEST_MNT "/f3",
		.len = 4 * PUPPET_READAHEAD,
		.flags = O_RDONLY,
	};
	__u64 end = now_ms() + test_ms();

	/* What comes back is not the question here, but that it does. */
	do {
		request_stat(FILE2);
		request_write(&write);
		request_read(&read);
		request_readahead(&ahead);
		request_stat(TEST_MNT "/none");
	} while (now_ms() < end);
	return 0;
}

/* A server that changes what the kernel reads, at all times. */
FIXTURE(hostile)
{
	struct puppet p;
	struct requester r[3];
	pthread_t thread;
};

FIXTURE_VARIANT(hostile)
{
	enum test_transport transport;
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(hostile, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(hostile, ring_defer) {
	.transport = TRANSPORT_RING,
	.uring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

FIXTURE_VARIANT_ADD(hostile, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(hostile, user_defer) {
	.transport = TRANSPORT_USER,
	.uring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

static struct {
	struct puppet *p;
	__u64 seed;
	bool end;
} scribble;

static void *scribbler(void *arg)
{
	struct fuse_uring_setup *s = &scribble.p->setup;
	__u64 headers = (__u64)s->queue_depth * s->header_stride;

	while (!__atomic_load_n(&scribble.end, __ATOMIC_RELAXED)) {
		__u64 at = test_random(&scribble.seed);
		__u64 *word;

		/* Headers, where it hurts, and anything else. */
		if (at % 4)
			at = s->header_offset + at / 4 % headers;
		else
			at = at / 4 % s->mmap_size;
		word = (void *)(scribble.p->map[0] + (at & ~7ULL));
		__atomic_store_n(word, test_random(&scribble.seed) >>
				 test_random(&scribble.seed) % 64,
				 __ATOMIC_RELAXED);
	}
	return NULL;
}

FIXTURE_SETUP(hostile)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 4,
		.init_flags = FUSE_ASYNC_READ,
		.max_readahead = PUPPET_READAHEAD,
	};
	unsigned int i;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	for (i = 0; i < ARRAY_SIZE(self->r); i++)
		ASSERT_EQ(0, requester_start(&self->r[i], request_anything,
					     NULL));
	scribble.p = &self->p;
	scribble.seed = test_seed();
	scribble.end = false;
	ASSERT_EQ(0, pthread_create(&self->thread, NULL, scribbler, NULL));
}

FIXTURE_TEARDOWN(hostile)
{
	unsigned int i;

	__atomic_store_n(&scribble.end, true, __ATOMIC_RELAXED);
	pthread_join(self->thread, NULL);
	ASSERT_EQ(0, conn_abort(self->p.conn));
	for (i = 0; i < ARRAY_SIZE(self->r); i++)
		EXPECT_NE(REQUESTER_HANGS, requester_join(&self->r[i]));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
	puppet_stop(&self->p);
}

/*
 * One more slot for the kernel, in memory that others have as well.  The iovecs
 * are not in the scribbler's reach, for the kernel would write where they say.
 */
static int register_again(struct puppet *p, unsigned int slot)
{
	struct fuse_uring_cmd_req cmd = { 0 };
	struct iovec iov[2] = {
		{ puppet_header(p, 0, slot),
		  sizeof(struct fuse_uring_req_header) },
		{ puppet_payload(p, 0, slot), p->setup.payload_size },
	};

	return puppet_user_command(p, FUSE_IO_URING_CMD_REGISTER, &cmd, slot,
				   iov, 2);
}

/* Commits what was told of a slot, or arms it. */
static int commit_any(struct puppet *p, unsigned int slot, __u64 commit_id)
{
	struct fuse_uring_cmd_req user = { .commit_id = commit_id };
	struct fuse_uring_slot_cmd cmd = {
		.commit_id = commit_id,
		.slot = slot,
	};

	if (p->opt.transport == TRANSPORT_RING)
		return puppet_command(p, commit_id ?
				      FUSE_URING_REQ_COMMIT_AND_FETCH :
				      FUSE_URING_REQ_FETCH, &cmd);
	if (!commit_id)
		return register_again(p, slot);
	return puppet_user_command(p, FUSE_IO_URING_CMD_COMMIT_AND_FETCH, &user,
				   slot, NULL, 0);
}

/* Commits what it can, with what the scribbler made of it. */
TEST_F(hostile, header_changes)
{
	__u64 ids[4] = { 0 }, end = now_ms() + test_ms();
	static struct puppet_req req;
	struct puppet *p = &self->p;
	unsigned int slot = 0, committed = 0;
	int ret;

	while (now_ms() < end) {
		ret = puppet_next(p, &req, 1);
		if (ret == PUPPET_REQUEST && !req.ring)
			continue;
		if (ret == PUPPET_REQUEST || ret == -EPROTO) {
			/* Read once, and kept: this may be wrong already. */
			ids[req.slot] = puppet_header(p, 0, req.slot)
						->ring_ent_in_out.commit_id;
			if (ret == PUPPET_REQUEST)
				puppet_fill_reply(p, &req, 0, NULL, 0);
		}
		slot = (slot + 1) % ARRAY_SIZE(ids);
		ASSERT_EQ(0, commit_any(p, slot, ids[slot]));
		ids[slot] = 0;
		committed++;
	}
	EXPECT_LT(0, committed);
}

static int any_command(struct puppet *p, __u64 dice, __u64 *seed)
{
	struct fuse_uring_slot_cmd cmd = {
		.commit_id = dice % 3 ? test_random(seed) % 64 : 0,
		.qid = dice >> 8 & 0xf ? 0 : dice >> 16,
		.slot = dice >> 32 & 7,
		.flags = dice >> 40 & 0xf ? 0 : dice >> 48,
	};

	return puppet_command_fd(p, p->fd, dice >> 50 & 7 ?
				 FUSE_URING_REQ_FETCH + (dice >> 53 & 1) :
				 dice >> 54, &cmd,
				 dice >> 56 & 15 ? 0 : IOSQE_ASYNC);
}

/* What the kernel writes to must be this test's all the same. */
static int any_user_command(struct puppet *p, __u64 dice, __u64 *seed)
{
	struct fuse_uring_cmd_req cmd = {
		.commit_id = test_random(seed) >> test_random(seed) % 64,
		.qid = dice >> 8 & 0xf ? 0 : dice >> 16,
		.flags = test_random(seed),
	};
	__u32 op = dice >> 50 & 7 ? FUSE_IO_URING_CMD_COMMIT_AND_FETCH :
				    dice >> 54;

	if (op == FUSE_IO_URING_CMD_REGISTER || !(dice >> 24 & 63))
		return register_again(p, dice >> 32 & 3);
	return puppet_user_command(p, op, &cmd, dice >> 32 & 3,
				   (void *)(uintptr_t)test_random(seed),
				   test_random(seed));
}

/* Random commands besides. */
TEST_F(hostile, any_command)
{
	__u64 seed = test_seed(), end = now_ms() + test_ms();
	static struct puppet_req req;
	struct puppet *p = &self->p;
	int ret;

	while (now_ms() < end) {
		__u64 dice = test_random(&seed);

		ret = puppet_next(p, &req, 1);
		if (ret == PUPPET_REQUEST && req.ring && dice >> 60)
			ret = puppet_answer(p, &req);
		ret = variant->transport == TRANSPORT_USER ?
		      any_user_command(p, dice, &seed) :
		      any_command(p, dice, &seed);
		ASSERT_EQ(0, ret);
	}
}

/* A server in a process of its own, which is killed when the time has come. */
static int victim(const struct puppet_options *opt, int ready)
{
	static struct puppet_req req;
	static struct puppet p;
	int ret = puppet_start(&p, opt);

	if (ret)
		ret = ret < 0 ? ret : -EIO;
	else
		ret = p.conn;
	if (write(ready, &ret, sizeof(ret)) != sizeof(ret) || ret < 0)
		return 1;
	while (ret >= 0) {
		ret = puppet_next(&p, &req, 1000);
		if (ret == PUPPET_REQUEST)
			ret = puppet_answer(&p, &req);
	}
	return 0;
}

static int victim_start(const struct puppet_options *opt, pid_t *pid)
{
	int fds[2], ret = -EIO;

	if (pipe(fds))
		return -errno;
	fflush(NULL);
	*pid = fork();
	if (!*pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(fds[0]);
		_exit(victim(opt, fds[1]));
	}
	close(fds[1]);
	if (read(fds[0], &ret, sizeof(ret)) != sizeof(ret))
		ret = -EIO;
	close(fds[0]);
	return ret;
}

static int count_dir(const char *path)
{
	DIR *dir = opendir(path);
	int n = 0;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

/* Tasks of this program, those that are gone and not waited for included. */
static int count_tasks(void)
{
	char path[64], mine[32] = "", comm[32];
	struct dirent *entry;
	DIR *dir = opendir("/proc");
	int n = 0;

	file_read("/proc/self/comm", mine, sizeof(mine));
	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%lu/comm",
			 strtoul(entry->d_name, NULL, 10));
		n += file_read(path, comm, sizeof(comm)) > 0 &&
		     !strcmp(comm, mine);
	}
	if (dir)
		closedir(dir);
	return n;
}

/* Requests in existence, where slabs are not merged; else -1. */
static long slab_requests(void)
{
	char line[512];
	long value = -1;
	FILE *f;

	if (kernel_debugs())
		return -1;
	f = fopen("/proc/slabinfo", "re");
	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "fuse_request %ld", &value);
	if (f)
		fclose(f);
	return value;
}

static int unmount_gone(int conn)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	while (umount(TEST_MNT)) {
		if (errno != EBUSY || now_ms() > end)
			return -errno;
		sleep_ms(1);
	}
	return conn_gone(conn) ? 0 : -ETIMEDOUT;
}

FIXTURE(cycles)
{
};

FIXTURE_VARIANT(cycles)
{
	struct puppet_options opt;
	unsigned int cycles;
};

FIXTURE_VARIANT_ADD(cycles, dev) {
	.opt = { .transport = TRANSPORT_DEV },
	.cycles = 25,
};

FIXTURE_VARIANT_ADD(cycles, ring) {
	.opt = { .transport = TRANSPORT_RING, .nr_queues = 2, .depth = 4 },
	.cycles = 100,
};

FIXTURE_VARIANT_ADD(cycles, ring_defer) {
	.cycles = 25,
	.opt = { .transport = TRANSPORT_RING, .nr_queues = 1, .depth = 2,
		 .uring_flags = IORING_SETUP_SINGLE_ISSUER |
				IORING_SETUP_DEFER_TASKRUN },
};

FIXTURE_VARIANT_ADD(cycles, user) {
	.opt = { .transport = TRANSPORT_USER, .nr_queues = 2, .depth = 4 },
	.cycles = 25,
};

FIXTURE_VARIANT_ADD(cycles, user_defer) {
	.cycles = 25,
	.opt = { .transport = TRANSPORT_USER, .nr_queues = 1, .depth = 2,
		 .uring_flags = IORING_SETUP_SINGLE_ISSUER |
				IORING_SETUP_DEFER_TASKRUN },
};

FIXTURE_SETUP(cycles)
{
	const char *why = test_prepare(variant->opt.transport);

	if (why)
		SKIP(return, "%s", why);
	if (variant->opt.nr_queues > sysconf(_SC_NPROCESSORS_CONF))
		SKIP(return, "needs %u CPUs", variant->opt.nr_queues);
}

FIXTURE_TEARDOWN(cycles)
{
}

/*
 * What else goes on meanwhile: a fraction of that, as measured.  Now and then it
 * is more, but a leak is there each time.
 */
#define MEM_NOISE_KIB	(2 * 1024)
#define MEM_TRIES	3

/* Mount, load, SIGKILL: nothing stays behind. */
TEST_F_TIMEOUT(cycles, leave_nothing, 5 * TEST_TIMEOUT)
{
	const char *env = getenv("FUSE_TEST_CYCLES");
	unsigned int i, j, cycles = env ? atoi(env) : variant->cycles;
	unsigned int warm = cycles / 5;
	int tasks = 0, conns = 0, conn;
	long vmalloc = 0, percpu = 0, requests = 0, available = 0;
	struct requester r[3];
	unsigned int tries = MEM_TRIES;
	pid_t pid = -1;
	__u64 end;

again:
	for (i = 0; i < cycles; i++) {
		if (i == warm) {
			tasks = count_tasks();
			conns = count_dir(TEST_FUSECTL);
			vmalloc = mem_kib("VmallocUsed:");
			percpu = mem_kib("Percpu:");
			available = available_kib();
			requests = slab_requests();
		}
		conn = victim_start(&variant->opt, &pid);
		ASSERT_LE(0, conn);
		for (j = 0; j < ARRAY_SIZE(r); j++)
			ASSERT_EQ(0, requester_start(&r[j],
						     request_stats_for_ever,
						     FILE2));
		sleep_ms(i % 8);
		ASSERT_EQ(0, kill(pid, SIGKILL));
		ASSERT_EQ(pid, waitpid(pid, NULL, 0));
		for (j = 0; j < ARRAY_SIZE(r); j++) {
			int ret = requester_join(&r[j]);

			EXPECT_TRUE(ret == ENOTCONN || ret == ECONNABORTED)
				TH_LOG("cycle %u: %d", i, ret);
		}
		ASSERT_EQ(0, unmount_gone(conn));
		/* It takes its time, and is seen to live. */
		if (i % 10 == 9)
			TH_LOG("%u of %u cycles", i + 1, cycles);
	}

	/* Freed memory may be on its way still. */
	end = now_ms() + TEST_WAIT_MS;
	while (now_ms() < end &&
	       (mem_kib("VmallocUsed:") > vmalloc + 512 ||
		mem_kib("Percpu:") > percpu + 256 ||
		slab_requests() > requests + 64 ||
		(!kernel_debugs() &&
		 available_kib() < available - MEM_NOISE_KIB)))
		sleep_ms(10);
	if (!kernel_debugs() && available_kib() < available - MEM_NOISE_KIB &&
	    --tries) {
		TH_LOG("%ld KiB less, once more", available - available_kib());
		goto again;
	}
	EXPECT_EQ(tasks, count_tasks());
	EXPECT_EQ(conns, count_dir(TEST_FUSECTL));
	/* A queue's memory is some 300 KiB at the least, and mapped. */
	EXPECT_GE(vmalloc + 512, mem_kib("VmallocUsed:"));
	EXPECT_GE(percpu + 256, mem_kib("Percpu:"));
	if (requests >= 0)
		EXPECT_GE(requests + 64, slab_requests());
	if (!kernel_debugs())
		EXPECT_LE(available - MEM_NOISE_KIB, available_kib());
}

/* The end comes while slots are being armed. */
TEST_F(cycles, end_while_arming)
{
	__u64 end = now_ms() + test_ms();
	unsigned int i = 0;
	struct requester r;
	pid_t pid, killer;
	int conn, status;

	while (now_ms() < end) {
		struct puppet_options opt = variant->opt;

		opt.depth = opt.depth ? 32 : 0;
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			_exit(victim(&opt, open("/dev/null", O_WRONLY)));
		}
		while ((conn = conn_number(TEST_MNT)) < 0)
			;
		ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
		killer = fork();
		ASSERT_LE(0, killer);
		if (!killer) {
			usleep(test_random(&(__u64){ i + 1 }) % 3000);
			_exit(conn_abort(conn) != 0);
		}
		ASSERT_EQ(killer, waitpid(killer, &status, 0));
		EXPECT_EQ(0, status);
		EXPECT_NE(REQUESTER_HANGS, requester_join(&r));
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, NULL, 0));
		ASSERT_EQ(0, unmount_gone(conn));
		i++;
	}
	EXPECT_LT(0, i);
}

/* The io_uring goes and comes back, again and again, under load. */
FIXTURE(restart)
{
	struct puppet p;
};

FIXTURE_VARIANT(restart)
{
	enum test_transport transport;
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(restart, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(restart, ring_defer) {
	.transport = TRANSPORT_RING,
	.uring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

FIXTURE_VARIANT_ADD(restart, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(restart, user_defer) {
	.transport = TRANSPORT_USER,
	.uring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

FIXTURE_SETUP(restart)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 4,
		.init_flags = FUSE_ASYNC_READ,
		.max_readahead = PUPPET_READAHEAD,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
}

FIXTURE_TEARDOWN(restart)
{
	puppet_stop(&self->p);
}

/* Takes the request that the header of a slot says it has. */
static void take_header(struct puppet *p, struct puppet_req *req,
			unsigned int slot)
{
	struct fuse_uring_req_header *head = puppet_header(p, 0, slot);

	req->ring = true;
	req->qid = 0;
	req->slot = slot;
	req->commit_id = head->ring_ent_in_out.commit_id;
	memcpy(&req->in, head->in_out, sizeof(req->in));
}

/*
 * Slots that were told of requests before their io_uring was closed hold them
 * still.  A managed one is known by its refusal to be armed.
 */
static int rearm_managed(struct puppet *p, struct puppet_req *req)
{
	unsigned int i;
	int ret = puppet_arm(p);

	for (i = 0; i < p->setup.queue_depth && !ret; i++) {
		ret = puppet_next(p, req, 0);
		if (ret == PUPPET_REQUEST) {
			ret = puppet_answer(p, req);
		} else if (ret == -EBUSY) {
			take_header(p, req, req->slot);
			ret = puppet_reply(p, req, -EIO, NULL, 0);
		} else {
			ret = 0;
		}
	}
	return ret;
}

/*
 * With user buffers, the header may have such a request, or one that has been
 * taken back.  A commit tells: it arms the slot or fails.
 */
static int rearm_user(struct puppet *p, struct puppet_req *req)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < p->setup.queue_depth && !ret; i++) {
		take_header(p, req, i);
		req->payload = puppet_payload(p, 0, i);
		req->capacity = p->setup.payload_size;
		ret = puppet_reply(p, req, -EIO, NULL, 0);
	}
	while (!ret) {
		ret = puppet_next(p, req, 0);
		if (ret == PUPPET_TIMEOUT)
			break;
		if (ret == PUPPET_REQUEST)
			ret = puppet_answer(p, req);
		else if (ret == -ENOENT)
			ret = puppet_register(p, 0, req->slot);
	}
	return ret;
}

TEST_F(restart, of_io_uring)
{
	__u64 seed = test_seed(), end = now_ms() + test_ms();
	static struct puppet_req req;
	struct puppet *p = &self->p;
	unsigned int i, rounds = 0;
	struct requester r[3];
	int ret;

	for (i = 0; i < ARRAY_SIZE(r); i++)
		ASSERT_EQ(0, requester_start(&r[i], request_anything, NULL));
	while (now_ms() < end) {
		for (i = test_random(&seed) % 50; i; i--) {
			ret = puppet_next(p, &req, 5);
			if (ret == PUPPET_REQUEST)
				ASSERT_EQ(0, puppet_answer(p, &req));
		}
		puppet_close_uring(p);
		/* What it had in slots and had not told comes again. */
		ASSERT_EQ(0, puppet_uring(p));
		ret = variant->transport == TRANSPORT_USER ?
		      rearm_user(p, &req) : rearm_managed(p, &req);
		ASSERT_EQ(0, ret);
		rounds++;
	}
	EXPECT_LT(0, rounds);
	for (i = 0; i < ARRAY_SIZE(r); i++)
		EXPECT_EQ(0, puppet_serve(p, &r[i]));
	/* The last requester's RELEASE, which it has not waited for */
	ASSERT_EQ(0, puppet_drain(p, 100));
	EXPECT_TRUE(conn_waiting_becomes(p->conn, 0));
}

TEST_HARNESS_MAIN
