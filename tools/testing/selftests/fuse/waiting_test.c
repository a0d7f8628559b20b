// SPDX-License-Identifier: GPL-2.0
/*
 * Requests wait in the kernel, killable, until a thread of the server takes
 * them.  So a client never waits for a thread that is stopped, blocked, dead or
 * itself a requester while another one is idle.
 *
 * What /dev/fuse does is the yardstick: each test runs over it, too.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "puppet.h"
#include "server.h"

#define FILE2	(TEST_MNT "/f2")
#define FILE3	(TEST_MNT "/f3")
#define DEFER	(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)
#define HEADER	((int)sizeof(struct fuse_out_header))

struct server_kind {
	enum test_transport transport;
	unsigned int uring_flags;
};

static bool is_ring(const struct server_kind *kind)
{
	return transport_rings(kind->transport);
}

/* Up to the ring's memory, without a slot. */
static int mount_ring(struct puppet *p, const struct puppet_options *opt)
{
	int ret = puppet_open(p, opt);

	if (!ret)
		ret = puppet_mount(p);
	if (!ret && transport_rings(opt->transport))
		ret = puppet_setup(p);
	return ret;
}

/* For servers that are threads of the test: FUSE_INIT is over. */
static int mount_for_threads(struct puppet *p, const struct puppet_options *opt)
{
	int ret = mount_ring(p, opt);

	if (!ret && transport_rings(opt->transport))
		ret = puppet_map(p);
	return ret ? ret : puppet_init(p);
}

/* The same for a fixture with @nr threads; false when it is skipped. */
static bool prepare_threads(struct __test_metadata *_metadata, struct puppet *p,
			    struct puppet_thread **t, unsigned int nr,
			    const struct puppet_options *opt)
{
	const char *why = test_prepare(opt->transport);

	if (why)
		SKIP(return false, "%s", why);
	*t = calloc(nr, sizeof(**t));
	ASSERT_NE(NULL, *t);
	ASSERT_EQ(0, mount_for_threads(p, opt));
	return true;
}

static void end_threads(struct puppet *p, struct puppet_thread *t,
			unsigned int nr)
{
	unsigned int i;

	/* Whoever waits for the server does so no longer. */
	if (p->conn >= 0)
		conn_abort(p->conn);
	for (i = 0; i < nr; i++)
		puppet_thread_free(&t[i]);
	puppet_stop(p);
}

static bool is_allowed(unsigned int cpu)
{
	cpu_set_t all;

	return !sched_getaffinity(0, sizeof(all), &all) && CPU_ISSET(cpu, &all);
}

static int request_stats(const void *path)
{
	unsigned int i;
	int ret = 0;

	/* Few enough for TEST_WAIT_MS on a slow machine */
	for (i = 0; i < 30 && !ret; i++)
		ret = request_stat(path);
	return ret;
}

static bool becomes(const unsigned int *value, unsigned int want)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	while (__atomic_load_n(value, __ATOMIC_ACQUIRE) != want) {
		if (now_ms() >= end)
			return false;
		sleep_ms(1);
	}
	return true;
}

/* Whoever waits for a server that does not come can be killed. */
FIXTURE(killable)
{
	struct puppet p;
	struct puppet_process s;
};

FIXTURE_VARIANT(killable)
{
	struct server_kind kind;
};

FIXTURE_VARIANT_ADD(killable, dev) {
	.kind.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(killable, ring) {
	.kind.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(killable, ring_defer) {
	.kind.transport = TRANSPORT_RING,
	.kind.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(killable, user) {
	.kind.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(killable, user_defer) {
	.kind.transport = TRANSPORT_USER,
	.kind.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(killable, ring_sqpoll) {
	.kind.transport = TRANSPORT_RING,
	.kind.uring_flags = IORING_SETUP_SQPOLL,
};

FIXTURE_VARIANT_ADD(killable, user_sqpoll) {
	.kind.transport = TRANSPORT_USER,
	.kind.uring_flags = IORING_SETUP_SQPOLL,
};

static int setup_killable(struct puppet *p, const struct server_kind *kind)
{
	struct puppet_options opt = {
		.transport = kind->transport,
		.uring_flags = kind->uring_flags,
		.nr_queues = 1,
		.depth = 4,
	};

	return mount_ring(p, &opt);
}

static void teardown_killable(struct __test_metadata *_metadata,
			      struct puppet *p, struct puppet_process *s)
{
	if (p->conn >= 0)
		conn_abort(p->conn);
	EXPECT_NE(REQUESTER_HANGS, puppet_process_kill(s));
	puppet_stop(p);
}

FIXTURE_SETUP(killable)
{
	const char *why = test_prepare(variant->kind.transport);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, setup_killable(&self->p, &variant->kind));
}

FIXTURE_TEARDOWN(killable)
{
	teardown_killable(_metadata, &self->p, &self->s);
}

/* With SQPOLL the reply to FUSE_INIT is on its way for a moment. */
static void begin_life(struct puppet *p)
{
	if (puppet_begin(p) || !conn_waiting_becomes(p->conn, 0))
		_exit(1);
	puppet_process_say('i');
}

/* Until the connection ends, or for a ring until it is killed. */
static int serve_for_ever(struct puppet *p)
{
	static struct puppet_req req;
	int ret;

	do {
		ret = puppet_next(p, &req, 1000);
		if (ret == PUPPET_REQUEST)
			puppet_answer(p, &req);
	} while (ret != -ENODEV);
	return 0;
}

static int life_serves(struct puppet *p, const void *arg)
{
	begin_life(p);
	return serve_for_ever(p);
}

/* A server that serves, up to where nobody waits for it. */
static void start_server(struct __test_metadata *_metadata, struct puppet *p,
			 struct puppet_process *s,
			 int (*life)(struct puppet *p, const void *arg),
			 const void *arg)
{
	ASSERT_EQ(0, puppet_process_start(s, p, life, arg));
	ASSERT_TRUE(puppet_process_says(s, 'i'));
}

/* A client of a server that @others wait for, or that waits for itself. */
static void start_client(struct __test_metadata *_metadata, struct puppet *p,
			 struct requester *r, long others)
{
	ASSERT_EQ(0, requester_start(r, request_stat, TEST_MNT));
	ASSERT_TRUE(conn_waiting_becomes(p->conn, others + 1));
	ASSERT_TRUE(requester_sleeps(r));
}

static void kill_client(struct __test_metadata *_metadata, struct puppet *p,
			struct requester *r, long others)
{
	kill(r->pid, SIGKILL);
	ASSERT_EQ(-SIGKILL, requester_join(r));
	EXPECT_TRUE(conn_waiting_becomes(p->conn, others));
}

/* All threads of the process, the kernel's for SQPOLL included. */
static bool process_stops(pid_t pid)
{
	struct dirent *entry;
	bool all = true;
	char path[64];
	DIR *dir;

	kill(pid, SIGSTOP);
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while ((entry = readdir(dir)))
		if (atoi(entry->d_name))
			all &= process_becomes(atoi(entry->d_name), "T");
	closedir(dir);
	return all;
}

TEST_F(killable, server_is_stopped)
{
	struct requester r;

	start_server(_metadata, &self->p, &self->s, life_serves, NULL);
	ASSERT_TRUE(process_stops(self->s.process.pid));
	start_client(_metadata, &self->p, &r, 0);
	kill_client(_metadata, &self->p, &r, 0);
	/* The server has lost nothing by that. */
	kill(self->s.process.pid, SIGCONT);
	ASSERT_EQ(0, requester_start(&r, request_stats, FILE2));
	EXPECT_EQ(0, requester_join(&r));
}

#define FREEZE_CGROUP	TEST_DIR "/cgroup"

static bool cgroup_freezes(void)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	char buf[128];

	if (file_write(FREEZE_CGROUP "/fuse_waiting/cgroup.freeze", "1"))
		return false;
	do {
		if (file_read(FREEZE_CGROUP "/fuse_waiting/cgroup.events", buf,
			      sizeof(buf)) <= 0)
			return false;
		if (strstr(buf, "frozen 1"))
			return true;
		sleep_ms(1);
	} while (now_ms() < end);
	return false;
}

TEST_F(killable, server_is_frozen)
{
	struct requester r;
	char pid[16];

	ASSERT_EQ(0, mkdir(FREEZE_CGROUP, 0755));
	if (mount("test", FREEZE_CGROUP, "cgroup2", 0, NULL))
		SKIP(return, "kernel without cgroups");
	start_server(_metadata, &self->p, &self->s, life_serves, NULL);
	ASSERT_EQ(0, mkdir(FREEZE_CGROUP "/fuse_waiting", 0755));
	snprintf(pid, sizeof(pid), "%d", self->s.process.pid);
	EXPECT_EQ(0, file_write(FREEZE_CGROUP "/fuse_waiting/cgroup.procs", pid));
	EXPECT_TRUE(cgroup_freezes());
	start_client(_metadata, &self->p, &r, 0);
	kill(r.pid, SIGKILL);
	EXPECT_EQ(-SIGKILL, requester_join(&r));
	EXPECT_EQ(0, file_write(FREEZE_CGROUP "/fuse_waiting/cgroup.freeze", "0"));
	EXPECT_EQ(0, file_write(FREEZE_CGROUP "/cgroup.procs", pid));
	EXPECT_EQ(0, rmdir(FREEZE_CGROUP "/fuse_waiting"));
	/* The server has lost nothing by that. */
	ASSERT_EQ(0, requester_start(&r, request_stats, FILE2));
	EXPECT_EQ(0, requester_join(&r));
}

static bool process_dumps(pid_t pid)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	char path[64], buf[4096];

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	do {
		if (file_read(path, buf, sizeof(buf)) <= 0)
			return false;
		if (strstr(buf, "CoreDumping:\t1"))
			return true;
		sleep_ms(1);
	} while (now_ms() < end);
	return false;
}

#define CORE_PATTERN	"/proc/sys/kernel/core_pattern"

/* Into a pipe that nobody reads, so it does not get far. */
TEST_F(killable, server_dumps_core)
{
	struct requester r;
	char old[256];
	bool dumps;

	start_server(_metadata, &self->p, &self->s, life_serves, NULL);
	if (file_read(CORE_PATTERN, old, sizeof(old)) < 0 ||
	    file_write(CORE_PATTERN, "|/bin/sleep 60"))
		SKIP(return, "kernel without core dumps");
	kill(self->s.process.pid, SIGABRT);
	dumps = process_dumps(self->s.process.pid);
	EXPECT_EQ(0, file_write(CORE_PATTERN, old));
	ASSERT_TRUE(dumps);
	start_client(_metadata, &self->p, &r, 0);
	kill_client(_metadata, &self->p, &r, 0);
}

/* Its requests may wait for a server that somebody starts later. */
TEST_F(killable, server_has_died)
{
	struct requester r;

	start_server(_metadata, &self->p, &self->s, life_serves, NULL);
	ASSERT_EQ(-SIGKILL, puppet_process_kill(&self->s));
	start_client(_metadata, &self->p, &r, 0);
	kill_client(_metadata, &self->p, &r, 0);
}

TEST_F(killable, server_dies_meanwhile)
{
	struct requester r;

	start_server(_metadata, &self->p, &self->s, life_serves, NULL);
	ASSERT_TRUE(process_stops(self->s.process.pid));
	start_client(_metadata, &self->p, &r, 0);
	ASSERT_EQ(-SIGKILL, puppet_process_kill(&self->s));
	EXPECT_FALSE(requester_ended(&r, NULL, 0));
	kill_client(_metadata, &self->p, &r, 0);
}

static int life_own_mount(struct puppet *p, const void *arg)
{
	begin_life(p);
	return -request_stat(TEST_MNT);
}

/* The server's only thread waits for itself. */
TEST_F(killable, server_waits_for_itself)
{
	start_server(_metadata, &self->p, &self->s, life_own_mount, NULL);
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 1));
	ASSERT_TRUE(requester_sleeps(&self->s.process));
	EXPECT_EQ(-SIGKILL, puppet_process_kill(&self->s));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

/*
 * The server's only thread sleeps in a handler.  Not every sleep will do: where
 * task work is done, the thread takes the request all the same.
 */
FIXTURE(handler)
{
	struct puppet p;
	struct puppet_process s;
	struct requester r[2];
};

FIXTURE_VARIANT(handler)
{
	struct server_kind kind;
	bool deep;		/* not even task work gets at it */
};

/* With SQPOLL it is the kernel's thread that takes requests. */
FIXTURE_VARIANT_ADD(handler, dev) {
	.kind.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(handler, dev_deep) {
	.kind.transport = TRANSPORT_DEV,
	.deep = true,
};

FIXTURE_VARIANT_ADD(handler, ring_deep) {
	.kind.transport = TRANSPORT_RING,
	.deep = true,
};

FIXTURE_VARIANT_ADD(handler, ring_defer) {
	.kind.transport = TRANSPORT_RING,
	.kind.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(handler, ring_defer_deep) {
	.kind.transport = TRANSPORT_RING,
	.kind.uring_flags = DEFER,
	.deep = true,
};

FIXTURE_VARIANT_ADD(handler, user_deep) {
	.kind.transport = TRANSPORT_USER,
	.deep = true,
};

FIXTURE_VARIANT_ADD(handler, user_defer) {
	.kind.transport = TRANSPORT_USER,
	.kind.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(handler, user_defer_deep) {
	.kind.transport = TRANSPORT_USER,
	.kind.uring_flags = DEFER,
	.deep = true,
};

FIXTURE_SETUP(handler)
{
	const char *why = test_prepare(variant->kind.transport);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, setup_killable(&self->p, &variant->kind));
}

FIXTURE_TEARDOWN(handler)
{
	teardown_killable(_metadata, &self->p, &self->s);
}

/* Even task work does not get at a thread that waits for a vfork()ed child. */
static void sleep_in_the_kernel(void)
{
	if (!vfork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
}

static int life_handler(struct puppet *p, const void *arg)
{
	static struct puppet_req req;
	const bool *deep = arg;

	begin_life(p);
	if (puppet_until(p, &req, FUSE_GETATTR))
		return 2;
	puppet_process_say('h');
	for (;;) {
		if (*deep)
			sleep_in_the_kernel();
		else
			pause();
	}
}

TEST_F(handler, sleeps)
{
	start_server(_metadata, &self->p, &self->s, life_handler,
		     &variant->deep);
	start_client(_metadata, &self->p, &self->r[0], 0);
	ASSERT_TRUE(puppet_process_says(&self->s, 'h'));
	ASSERT_TRUE(process_becomes(self->s.process.pid,
				    variant->deep ? "D" : "S"));
	start_client(_metadata, &self->p, &self->r[1], 1);
	kill_client(_metadata, &self->p, &self->r[1], 1);
	/* What the server has in its hands is not killed by anything here. */
	EXPECT_FALSE(requester_ended(&self->r[0], NULL, 0));
}

/* A server's thread is a client of its own mount. */
FIXTURE(own)
{
	struct puppet p;
	struct puppet_thread *t;	/* two, of one queue */
};

FIXTURE_VARIANT(own)
{
	struct server_kind kind;
};

FIXTURE_VARIANT_ADD(own, dev) {
	.kind.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(own, ring) {
	.kind.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(own, ring_defer) {
	.kind.transport = TRANSPORT_RING,
	.kind.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(own, user) {
	.kind.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(own, user_defer) {
	.kind.transport = TRANSPORT_USER,
	.kind.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(own, ring_sqpoll) {
	.kind.transport = TRANSPORT_RING,
	.kind.uring_flags = IORING_SETUP_SQPOLL,
};

FIXTURE_VARIANT_ADD(own, user_sqpoll) {
	.kind.transport = TRANSPORT_USER,
	.kind.uring_flags = IORING_SETUP_SQPOLL,
};

FIXTURE_SETUP(own)
{
	struct puppet_options opt = {
		.transport = variant->kind.transport,
		.uring_flags = variant->kind.uring_flags,
		.nr_queues = 1,
		.depth = 4,
	};
	unsigned int i;

	if (!prepare_threads(_metadata, &self->p, &self->t, 2, &opt))
		return;
	for (i = 0; i < 2; i++) {
		self->t[i].slots[0].first = 2 * i;
		self->t[i].slots[0].nr = 2;
	}
}

FIXTURE_TEARDOWN(own)
{
	end_threads(&self->p, self->t, 2);
}

static int stat_own_mount(struct puppet_thread *t)
{
	return request_stat(FILE2);
}

/* Also when it is the one that has committed last. */
TEST_F(own, another_thread_answers)
{
	struct requester r;
	unsigned int i;

	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, puppet_thread_start(&self->t[i], &self->p));
	if (is_ring(&variant->kind))
		ASSERT_TRUE(ring_queue_stat_becomes(self->p.conn, 0, "parked",
						    4));
	for (i = 0; i < 4; i++) {
		/* By either of them. */
		ASSERT_EQ(0, requester_start(&r, request_stats, FILE2));
		ASSERT_EQ(0, requester_join(&r));
		ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 0));
		puppet_thread_run(&self->t[i % 2], stat_own_mount);
		ASSERT_EQ(0, puppet_thread_done(&self->t[i % 2]));
	}
}

/* Serves, and asks in between. */
static int stat_and_serve(struct puppet_thread *t)
{
	struct puppet_req *req = malloc(sizeof(*req));
	int ret = req ? 0 : -ENOMEM;
	unsigned int i;

	for (i = 0; i < 50 && !ret; i++) {
		ret = request_stat(FILE2);
		if (!ret && puppet_next(&t->p, req, 1) == PUPPET_REQUEST)
			ret = puppet_answer(&t->p, req);
	}
	free(req);
	return ret;
}

/* Nor do others wait for a thread that waits. */
TEST_F(own, between_requests)
{
	struct requester r;
	unsigned int i;

	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, puppet_thread_start(&self->t[i], &self->p));
	ASSERT_EQ(0, requester_start(&r, request_stats_for_ever, FILE2));
	for (i = 0; i < 4; i++) {
		puppet_thread_run(&self->t[i % 2], stat_and_serve);
		ASSERT_EQ(0, puppet_thread_done(&self->t[i % 2]));
	}
	kill(r.pid, SIGKILL);
	EXPECT_EQ(-SIGKILL, requester_join(&r));
}

/*
 * Those who wait for a lock hold at most all but one of a queue's slots, so
 * the holder can unlock.
 */
FIXTURE(locks)
{
	struct server_fs *fs;
	pid_t server;
	int conn;
	struct lock_share *share;
	struct requester holder;
	struct requester r[64];
	unsigned int nr;	/* as many as there are slots */
};

FIXTURE_VARIANT(locks)
{
	enum test_transport transport;
	unsigned int depth;
	bool each;		/* a queue for each CPU */
	bool flock;
};

FIXTURE_VARIANT_ADD(locks, dev) {
	.depth = 4,
};

FIXTURE_VARIANT_ADD(locks, dev_flock) {
	.depth = 64,
	.flock = true,
};

FIXTURE_VARIANT_ADD(locks, ring_2) {
	.transport = TRANSPORT_RING,
	.depth = 2,
};

FIXTURE_VARIANT_ADD(locks, ring_4_flock) {
	.transport = TRANSPORT_RING,
	.depth = 4,
	.flock = true,
};

FIXTURE_VARIANT_ADD(locks, ring_64) {
	.transport = TRANSPORT_RING,
	.depth = 64,
};

FIXTURE_VARIANT_ADD(locks, ring_each_2_flock) {
	.transport = TRANSPORT_RING,
	.depth = 2,
	.each = true,
	.flock = true,
};

FIXTURE_VARIANT_ADD(locks, ring_each_4) {
	.transport = TRANSPORT_RING,
	.depth = 4,
	.each = true,
};

FIXTURE_VARIANT_ADD(locks, user_2_flock) {
	.transport = TRANSPORT_USER,
	.depth = 2,
	.flock = true,
};

FIXTURE_VARIANT_ADD(locks, user_4) {
	.transport = TRANSPORT_USER,
	.depth = 4,
};

FIXTURE_VARIANT_ADD(locks, user_64_flock) {
	.transport = TRANSPORT_USER,
	.depth = 64,
	.flock = true,
};

FIXTURE_VARIANT_ADD(locks, user_each_2) {
	.transport = TRANSPORT_USER,
	.depth = 2,
	.each = true,
};

#define LOCK_FILE	(TEST_MNT "/lock")

enum lock_step {
	STEP_LOCKED = 1,
	STEP_STAT,
	STEP_WRITE,
	STEP_UNLOCK,
};

struct lock_share {
	bool flock;
	unsigned int opened;	/* so many waiters have begun */
	unsigned int interrupted;	/* so many have returned with EINTR */
	unsigned int owners;	/* of the lock */
	unsigned int step;	/* the holder is to do this */
	unsigned int done;	/* and has done so much */
};

static void nothing(int sig)
{
}

static int lock_file(const struct lock_share *s, int fd, bool lock)
{
	struct flock lk = {
		.l_type = lock ? F_WRLCK : F_UNLCK,
		.l_whence = SEEK_SET,
	};
	int ret = s->flock ? flock(fd, lock ? LOCK_EX : LOCK_UN) :
			     fcntl(fd, F_SETLKW, &lk);

	return ret ? -errno : 0;
}

static int request_hold_lock(const void *arg)
{
	struct lock_share *s = *(struct lock_share *const *)arg;
	int fd = open(LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0644), ret;
	unsigned int step;
	struct stat st;

	if (fd < 0)
		return -errno;
	ret = lock_file(s, fd, true);
	if (ret)
		return ret;
	for (step = STEP_LOCKED;;) {
		switch (step) {
		case STEP_LOCKED:
			s->owners++;
			break;
		case STEP_STAT:
			ret = stat(LOCK_FILE, &st) ? -errno : 0;
			break;
		case STEP_WRITE:
			ret = pwrite(fd, "x", 1, 0) == 1 ? 0 : -errno;
			break;
		case STEP_UNLOCK:
			s->owners--;
			ret = lock_file(s, fd, false);
			break;
		}
		if (ret)
			return ret;
		__atomic_store_n(&s->done, step, __ATOMIC_RELEASE);
		if (step == STEP_UNLOCK)
			return close(fd) ? -errno : 0;
		while (__atomic_load_n(&s->step, __ATOMIC_ACQUIRE) == step ||
		       !s->step)
			sleep_ms(1);
		step = s->step;
	}
}

static int request_wait_lock(const void *arg)
{
	struct lock_share *s = *(struct lock_share *const *)arg;
	int fd = open(LOCK_FILE, O_RDWR | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	__atomic_fetch_add(&s->opened, 1, __ATOMIC_RELEASE);
	ret = lock_file(s, fd, true);
	if (ret == -EINTR)
		__atomic_fetch_add(&s->interrupted, 1, __ATOMIC_RELEASE);
	if (ret)
		return ret;
	if (__atomic_add_fetch(&s->owners, 1, __ATOMIC_ACQ_REL) != 1)
		return -EPROTO;
	__atomic_sub_fetch(&s->owners, 1, __ATOMIC_ACQ_REL);
	ret = lock_file(s, fd, false);
	if (ret)
		return ret;
	return close(fd) ? -errno : 0;
}

static enum server_transport server_transport(enum test_transport transport)
{
	switch (transport) {
	case TRANSPORT_RING:
		return SERVER_RING;
	case TRANSPORT_USER:
		return SERVER_USER;
	default:
		return SERVER_DEV;
	}
}

FIXTURE_SETUP(locks)
{
	const char *why = test_prepare(variant->transport);
	unsigned int queues = variant->each ? sysconf(_SC_NPROCESSORS_CONF) : 1;
	/* Requesters inherit it: SIGUSR1 interrupts them. */
	struct sigaction act = { .sa_handler = nothing };
	struct server_opts opts = {
		.mountpoint = TEST_MNT,
		.transport = server_transport(variant->transport),
		.nr_queues = queues,
		.queue_depth = variant->depth,
	};
	unsigned int i;

	if (why)
		SKIP(return, "%s", why);
	if (!is_allowed(0))
		SKIP(return, "needs CPU 0");
	self->nr = variant->depth * queues;
	if (self->nr > ARRAY_SIZE(self->r))
		SKIP(return, "too many CPUs");
	self->share = mmap(NULL, sizeof(*self->share), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->share);
	self->share->flock = variant->flock;
	ASSERT_EQ(0, sigaction(SIGUSR1, &act, NULL));
	self->fs = fs_mem_new();
	ASSERT_NE(NULL, self->fs);
	opts.fs = self->fs;
	self->server = server_fork(&opts);
	ASSERT_LT(0, self->server) TH_LOG("%s", server_error());
	self->conn = conn_number(TEST_MNT);
	ASSERT_LE(0, self->conn);

	ASSERT_EQ(0, requester_on(0, &self->holder, request_hold_lock,
				  &self->share));
	ASSERT_TRUE(becomes(&self->share->done, STEP_LOCKED));
	/* One after the other: the last one is the one that has no slot. */
	for (i = 0; i < self->nr; i++) {
		ASSERT_EQ(0, requester_on(0, &self->r[i], request_wait_lock,
					  &self->share));
		ASSERT_TRUE(becomes(&self->share->opened, i + 1));
		ASSERT_TRUE(conn_waiting_becomes(self->conn, i + 1));
		ASSERT_TRUE(requester_sleeps(&self->r[i]));
	}
}

FIXTURE_TEARDOWN(locks)
{
	unsigned int i;

	if (self->conn > 0)
		conn_abort(self->conn);
	if (self->holder.pid > 0)
		kill(self->holder.pid, SIGKILL);
	for (i = 0; i < ARRAY_SIZE(self->r); i++)
		if (self->r[i].pid > 0)
			kill(self->r[i].pid, SIGKILL);
	if (self->server > 0) {
		kill(self->server, SIGKILL);
		EXPECT_EQ(self->server, waitpid(self->server, NULL, 0));
	}
	umount2(TEST_MNT, MNT_DETACH);
	if (self->fs)
		fs_free(self->fs);
}

static void holder_does(struct __test_metadata *_metadata,
			struct _test_data_locks *self, enum lock_step step)
{
	__atomic_store_n(&self->share->step, step, __ATOMIC_RELEASE);
	ASSERT_TRUE(becomes(&self->share->done, step))
		TH_LOG("step %u", step);
}

static void end_client(struct __test_metadata *_metadata, struct requester *r,
		       int result)
{
	ASSERT_EQ(result, requester_join(r));
	r->pid = 0;
}

/* Whoever still waits gets the lock, one after the other. */
static void waiters_end(struct __test_metadata *_metadata,
			struct _test_data_locks *self)
{
	unsigned int i;

	for (i = 0; i < self->nr; i++)
		if (self->r[i].pid)
			end_client(_metadata, &self->r[i], 0);
}

TEST_F(locks, holder_goes_on)
{
	holder_does(_metadata, self, STEP_STAT);
	holder_does(_metadata, self, STEP_WRITE);
	holder_does(_metadata, self, STEP_UNLOCK);
	end_client(_metadata, &self->holder, 0);
	waiters_end(_metadata, self);
}

/* The server has never seen it, and has nothing to do with its end. */
TEST_F(locks, signal_ends_who_has_no_slot)
{
	struct requester *last = &self->r[self->nr - 1];
	bool stop = transport_rings(variant->transport);

	if (stop)
		ASSERT_TRUE(process_stops(self->server));
	kill(last->pid, SIGUSR1);
	ASSERT_TRUE(becomes(&self->share->interrupted, 1));
	/* For the client's end it has to answer FLUSH. */
	if (stop)
		kill(self->server, SIGCONT);
	end_client(_metadata, last, EINTR);
	holder_does(_metadata, self, STEP_UNLOCK);
	end_client(_metadata, &self->holder, 0);
	waiters_end(_metadata, self);
}

TEST_F(locks, signals_end_all)
{
	unsigned int i;

	for (i = 0; i < self->nr; i++)
		kill(self->r[i].pid, SIGUSR1);
	for (i = 0; i < self->nr; i++)
		end_client(_metadata, &self->r[i], EINTR);
	holder_does(_metadata, self, STEP_STAT);
	holder_does(_metadata, self, STEP_UNLOCK);
	end_client(_metadata, &self->holder, 0);
}

/* Its FLUSH and RELEASE cannot be killed, so they must not wait for waiters. */
TEST_F(locks, holder_is_killed)
{
	self->share->owners = 0;
	kill(self->holder.pid, SIGKILL);
	end_client(_metadata, &self->holder, -SIGKILL);
	waiters_end(_metadata, self);
}

TEST_F(locks, waiters_are_killed)
{
	unsigned int i;

	for (i = 0; i < self->nr; i++)
		kill(self->r[i].pid, SIGKILL);
	for (i = 0; i < self->nr; i++)
		end_client(_metadata, &self->r[i], -SIGKILL);
	holder_does(_metadata, self, STEP_STAT);
	holder_does(_metadata, self, STEP_UNLOCK);
	end_client(_metadata, &self->holder, 0);
}

/* A thread that has nothing to do helps those that have. */
#define NR_THREADS	8
#define NEIGHBOURS	16

FIXTURE(idle)
{
	struct puppet p;
	struct puppet_thread *t;
	struct requester reader[NEIGHBOURS];
	struct requester r;
};

FIXTURE_VARIANT(idle)
{
	struct server_kind kind;
};

FIXTURE_VARIANT_ADD(idle, dev) {
	.kind.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(idle, ring) {
	.kind.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(idle, ring_defer) {
	.kind.transport = TRANSPORT_RING,
	.kind.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(idle, user) {
	.kind.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(idle, user_defer) {
	.kind.transport = TRANSPORT_USER,
	.kind.uring_flags = DEFER,
};

FIXTURE_SETUP(idle)
{
	const char *why = test_prepare(variant->kind.transport);

	if (why)
		SKIP(return, "%s", why);
	if (!is_allowed(0) || sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs CPU 0 and another one");
	self->p.conn = -1;
	self->p.fd = -1;
	self->t = calloc(NR_THREADS, sizeof(*self->t));
	ASSERT_NE(NULL, self->t);
}

FIXTURE_TEARDOWN(idle)
{
	end_threads(&self->p, self->t, NR_THREADS);
}

static const struct puppet_io direct_read = {
	.path = FILE2,
	.len = 4096,
	.flags = O_RDONLY | O_DIRECT,
};

static void start_idle(struct __test_metadata *_metadata, struct puppet *p,
		       const struct server_kind *kind, unsigned int nr_queues)
{
	struct puppet_options opt = {
		.transport = kind->transport,
		.uring_flags = kind->uring_flags,
		.nr_queues = nr_queues,
		.depth = NEIGHBOURS,
		.payload = FUSE_URING_MIN_PAYLOAD,
	};

	ASSERT_EQ(0, mount_for_threads(p, &opt));
}

/* Two queues; all slots of the first one, which is CPU 0's, hold a READ. */
static void fill_queue(struct __test_metadata *_metadata,
		       struct _test_data_idle *self,
		       const struct server_kind *kind)
{
	unsigned int i;

	start_idle(_metadata, &self->p, kind, 2);
	self->t[0].slots[0].nr = NEIGHBOURS;
	self->t[0].hold = FUSE_READ;
	self->t[1].slots[0].qid = 1;
	self->t[1].slots[0].nr = NEIGHBOURS;
	ASSERT_EQ(0, puppet_thread_start(&self->t[0], &self->p));
	for (i = 0; i < NEIGHBOURS; i++) {
		ASSERT_EQ(0, requester_on(0, &self->reader[i], request_read,
					  &direct_read));
		ASSERT_TRUE(puppet_thread_holds(&self->t[0], i + 1));
	}
}

static void empty_queue(struct __test_metadata *_metadata,
			struct _test_data_idle *self)
{
	unsigned int i;

	puppet_thread_release(&self->t[0]);
	for (i = 0; i < NEIGHBOURS; i++)
		EXPECT_EQ(0, requester_join(&self->reader[i]));
}

TEST_F(idle, queue_serves_its_neighbour)
{
	fill_queue(_metadata, self, &variant->kind);
	ASSERT_EQ(0, puppet_thread_start(&self->t[1], &self->p));
	ASSERT_EQ(0, requester_on(0, &self->r, request_stats, FILE2));
	ASSERT_EQ(0, requester_join(&self->r));
	EXPECT_EQ(NEIGHBOURS, self->t[0].nr_held);
	empty_queue(_metadata, self);
}

/* It looks for those who wait already. */
TEST_F(idle, queue_finds_who_waits)
{
	fill_queue(_metadata, self, &variant->kind);
	/* Its slots are all there is; over /dev/fuse the reader goes on. */
	ASSERT_EQ(0, requester_on(0, &self->r, request_stats, FILE2));
	if (is_ring(&variant->kind)) {
		ASSERT_TRUE(conn_waiting_becomes(self->p.conn, NEIGHBOURS + 1));
		ASSERT_TRUE(requester_sleeps(&self->r));
	}
	ASSERT_EQ(0, puppet_thread_start(&self->t[1], &self->p));
	ASSERT_EQ(0, requester_join(&self->r));
	empty_queue(_metadata, self);
}

static unsigned int nr_blocked(struct puppet_thread *t)
{
	unsigned int i, nr = 0;

	for (i = 0; i < NR_THREADS; i++)
		nr += __atomic_load_n(&t[i].nr_held, __ATOMIC_ACQUIRE) > 0;
	return nr;
}

static bool blocked_become(struct puppet_thread *t, unsigned int nr)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	while (nr_blocked(t) != nr) {
		if (now_ms() >= end)
			return false;
		sleep_ms(1);
	}
	return true;
}

/* Eight threads with two slots each, of one queue; more and more are blocked. */
TEST_F(idle, threads_stand_in_for_blocked)
{
	unsigned int i;

	start_idle(_metadata, &self->p, &variant->kind, 1);
	for (i = 0; i < NR_THREADS; i++) {
		self->t[i].slots[0].first = 2 * i;
		self->t[i].slots[0].nr = 2;
		self->t[i].hold = FUSE_READ;
		self->t[i].block = true;
		ASSERT_EQ(0, puppet_thread_start(&self->t[i], &self->p));
	}
	for (i = 0; i < NR_THREADS - 1; i++) {
		ASSERT_EQ(0, requester_on(0, &self->reader[i], request_read,
					  &direct_read));
		ASSERT_TRUE(blocked_become(self->t, i + 1));
		ASSERT_EQ(0, requester_on(0, &self->r, request_stats, FILE2));
		ASSERT_EQ(0, requester_join(&self->r));
	}
	for (i = 0; i < NR_THREADS; i++)
		puppet_thread_release(&self->t[i]);
	for (i = 0; i < NR_THREADS - 1; i++)
		EXPECT_EQ(0, requester_join(&self->reader[i]));
}

/* How many requests one thread's asynchronous reads keep under way. */
#define AIO_DEPTH	32
#define AIO_SIZE	(128 * 1024)
#define QUEUE_DEPTH	8

FIXTURE(depth)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r;
};

FIXTURE_VARIANT(depth)
{
	enum test_transport transport;
	unsigned int max_background;
	unsigned int expect;
};

FIXTURE_VARIANT_ADD(depth, dev) {
	.transport = TRANSPORT_DEV,
	.max_background = 12,
	.expect = 12,
};

FIXTURE_VARIANT_ADD(depth, dev_256) {
	.transport = TRANSPORT_DEV,
	.max_background = 256,
	.expect = AIO_DEPTH,
};

/* Of each queue, one slot is kept for writeback and one for whoever waits. */
#define EXPECT_RING	(2 * (QUEUE_DEPTH - 2))

FIXTURE_VARIANT_ADD(depth, ring) {
	.transport = TRANSPORT_RING,
	.max_background = 12,
	.expect = EXPECT_RING,
};

FIXTURE_VARIANT_ADD(depth, ring_256) {
	.transport = TRANSPORT_RING,
	.max_background = 256,
	.expect = EXPECT_RING,
};

FIXTURE_VARIANT_ADD(depth, user) {
	.transport = TRANSPORT_USER,
	.max_background = 12,
	.expect = EXPECT_RING,
};

FIXTURE_VARIANT_ADD(depth, user_256) {
	.transport = TRANSPORT_USER,
	.max_background = 256,
	.expect = EXPECT_RING,
};

FIXTURE_SETUP(depth)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.nr_queues = 2,
		.depth = QUEUE_DEPTH,
		.payload = 2 * AIO_SIZE,
		/* Slots are what requests wait for, not memory. */
		.small = 2 * AIO_SIZE,
		.init_flags = FUSE_ASYNC_READ | FUSE_ASYNC_DIO,
		.max_background = variant->max_background,
		.max_write = AIO_SIZE,
	};
	cpu_set_t cpus;

	if (why)
		SKIP(return, "%s", why);
	if (!is_allowed(0) || !is_allowed(1))
		SKIP(return, "needs CPUs 0 and 1");
	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	CPU_SET(1, &cpus);
	opt.cpus = &cpus;
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
}

FIXTURE_TEARDOWN(depth)
{
	puppet_stop(&self->p);
}

static int request_aio(const void *path)
{
	int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC), err = 0;
	struct iocb iocb[AIO_DEPTH] = { 0 }, *iocbs[AIO_DEPTH];
	struct io_event event;
	aio_context_t ctx = 0;
	unsigned int i;
	char *buf;

	if (fd < 0 || syscall(SYS_io_setup, AIO_DEPTH, &ctx))
		return -errno;
	if (posix_memalign((void **)&buf, 4096, AIO_DEPTH * AIO_SIZE))
		return -ENOMEM;
	for (i = 0; i < AIO_DEPTH; i++) {
		iocb[i].aio_lio_opcode = IOCB_CMD_PREAD;
		iocb[i].aio_fildes = fd;
		iocb[i].aio_buf = (uintptr_t)(buf + i * AIO_SIZE);
		iocb[i].aio_nbytes = AIO_SIZE;
		iocb[i].aio_offset = i * AIO_SIZE;
		iocbs[i] = &iocb[i];
	}
	if (syscall(SYS_io_submit, ctx, AIO_DEPTH, iocbs) != AIO_DEPTH)
		return -EIO;
	for (i = 0; i < AIO_DEPTH; i++) {
		if (syscall(SYS_io_getevents, ctx, 1, 1, &event, NULL) != 1)
			return -EIO;
		if (event.res != AIO_SIZE)
			err = -ENODATA;
	}
	for (i = 0; i < AIO_DEPTH * AIO_SIZE && !err; i++)
		if ((unsigned char)buf[i] != test_byte(2, i))
			err = -EILSEQ;
	return err;
}

TEST_F(depth, is_that_of_dev)
{
	struct requester r;
	int ret;

	ASSERT_EQ(0, requester_on(0, &self->r, request_aio, FILE2));
	ret = puppet_hold(&self->p, &self->held, FUSE_READ, variant->expect);
	EXPECT_EQ(variant->expect, self->held.nr);
	ASSERT_EQ(0, ret);
	/* And yet nobody waits for them. */
	ASSERT_EQ(0, requester_on(0, &r, request_stats, FILE2));
	EXPECT_EQ(0, puppet_serve(&self->p, &r));
	EXPECT_EQ(variant->expect, self->held.nr);
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/*
 * A server gives up its slots with requests in its hands: others are served by
 * whatever is left, and those are sent again when somebody asks for it.
 */
FIXTURE(served)
{
	struct puppet p;
	struct puppet_process s;
	struct puppet_held held;
	struct requester r[2];
};

FIXTURE_VARIANT(served)
{
	struct server_kind kind;
};

FIXTURE_VARIANT_ADD(served, dev) {
	.kind.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(served, ring) {
	.kind.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(served, ring_defer) {
	.kind.transport = TRANSPORT_RING,
	.kind.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(served, user) {
	.kind.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(served, user_defer) {
	.kind.transport = TRANSPORT_USER,
	.kind.uring_flags = DEFER,
};

FIXTURE_SETUP(served)
{
	const char *why = test_prepare(variant->kind.transport);
	struct puppet_options opt = {
		.transport = variant->kind.transport,
		.uring_flags = variant->kind.uring_flags,
		.nr_queues = 2,
		.depth = 3,
	};

	if (why)
		SKIP(return, "%s", why);
	if (!is_allowed(0) || !is_allowed(1))
		SKIP(return, "needs CPUs 0 and 1");
	ASSERT_EQ(0, mount_ring(&self->p, &opt));
}

FIXTURE_TEARDOWN(served)
{
	if (self->p.conn >= 0)
		conn_abort(self->p.conn);
	EXPECT_NE(REQUESTER_HANGS, puppet_process_kill(&self->s));
	puppet_stop(&self->p);
}

/* One of each queue. */
static void send_requests(struct __test_metadata *_metadata,
			  struct _test_data_served *self, bool ring)
{
	unsigned int i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(self->r); i++) {
		ret = ring ? puppet_requester_at(&self->p, i, &self->r[i],
						 request_stat, TEST_MNT) :
			     requester_start(&self->r[i], request_stat,
					     TEST_MNT);
		ASSERT_EQ(0, ret);
	}
}

static int process_resends(struct puppet *p, const void *arg)
{
	struct fuse_out_header out = {
		.len = sizeof(out),
		.error = FUSE_NOTIFY_RESEND,
	};

	return write(p->fd, &out, sizeof(out)) == sizeof(out) ? 0 : errno;
}

/* Another process asks for what this one has in its hands. */
static int resend_by_other(struct puppet *p)
{
	struct puppet_process other;
	int ret = puppet_process_start(&other, p, process_resends, NULL);

	if (ret)
		return ret;
	ret = requester_join(&other.process);
	close(other.ready);
	return ret;
}

static bool was_sent_again(const struct puppet_held *held,
			   const struct puppet_req *req)
{
	unsigned int i;

	for (i = 0; i < held->nr; i++)
		if (req->in.unique ==
		    (held->req[i]->in.unique | FUSE_UNIQUE_RESEND))
			return true;
	return false;
}

/* The test holds a request of each queue, and its ring is gone. */
static void lose_ring(struct __test_metadata *_metadata,
		      struct _test_data_served *self,
		      const struct server_kind *kind)
{
	ASSERT_EQ(0, puppet_begin(&self->p));
	send_requests(_metadata, self, is_ring(kind));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 2));
	puppet_close_uring(&self->p);
}

static void others_are_served(struct __test_metadata *_metadata,
			      struct _test_data_served *self)
{
	struct requester r;

	ASSERT_EQ(0, requester_start(&r, request_stats, FILE2));
	ASSERT_EQ(0, puppet_serve(&self->p, &r));
}

TEST_F(served, after_io_uring_is_closed)
{
	struct puppet_held again = { 0 };
	unsigned int i;

	lose_ring(_metadata, self, &variant->kind);
	others_are_served(_metadata, self);
	ASSERT_EQ(0, resend_by_other(&self->p));
	ASSERT_EQ(0, puppet_hold(&self->p, &again, FUSE_GETATTR, 2));
	for (i = 0; i < 2; i++) {
		EXPECT_FALSE(again.req[i]->ring);
		EXPECT_TRUE(was_sent_again(&self->held, again.req[i]));
	}
	ASSERT_EQ(0, puppet_release_all(&self->p, &again));
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
}

/* The task still has its requests, and may answer them by another io_uring. */
TEST_F(served, by_another_io_uring)
{
	unsigned int i;

	lose_ring(_metadata, self, &variant->kind);
	others_are_served(_metadata, self);
	if (is_ring(&variant->kind))
		ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
	others_are_served(_metadata, self);
}

/* What becomes of a server that has one request of each queue. */
struct fate {
	bool execs;		/* else its first thread ends */
	bool slots_of_other;	/* they are the other thread's */
};

struct fated {
	struct puppet *p;
	struct puppet dev;
	const struct fate *fate;
	sem_t held;
};

static void begin_fated(struct puppet *p)
{
	static struct puppet_held held;

	begin_life(p);
	if (puppet_hold(p, &held, FUSE_GETATTR, 2))
		_exit(2);
	puppet_process_say('h');
}

static void *fated_thread(void *arg)
{
	struct fated *f = arg;

	if (f->fate->slots_of_other)
		begin_fated(f->p);
	else
		while (sem_wait(&f->held))
			;
	if (f->fate->execs) {
		execl("/bin/sleep", "sleep", "1000", NULL);
		_exit(3);
	}
	serve_for_ever(&f->dev);
	return NULL;
}

static int life_fated(struct puppet *p, const void *arg)
{
	static struct fated f;
	pthread_t thread;

	f.p = p;
	f.dev = *p;
	f.dev.buf = malloc(f.dev.buf_size);
	f.fate = arg;
	if (!f.dev.buf || sem_init(&f.held, 0, 0) ||
	    pthread_create(&thread, NULL, fated_thread, &f))
		return 4;
	if (f.fate->slots_of_other)
		for (;;)
			pause();
	begin_fated(p);
	sem_post(&f.held);
	if (f.fate->execs)
		for (;;)
			pause();
	/* This thread alone, and as threads end that are killed. */
	syscall(SYS_exit, 0);
	return 5;
}

/* Up to where the server has its two requests. */
static void start_fated(struct __test_metadata *_metadata,
			struct _test_data_served *self,
			const struct server_kind *kind,
			int (*life)(struct puppet *p, const void *arg),
			const struct fate *fate)
{
	ASSERT_EQ(0, puppet_process_start(&self->s, &self->p, life, fate));
	ASSERT_TRUE(puppet_process_says(&self->s, 'i'));
	send_requests(_metadata, self, is_ring(kind));
	ASSERT_TRUE(puppet_process_says(&self->s, 'h'));
}

/* The other thread reads /dev/fuse, so the test does not. */
TEST_F(served, after_first_thread_ends)
{
	struct fate fate = { 0 };
	struct requester r;
	unsigned int i;

	start_fated(_metadata, self, &variant->kind, life_fated, &fate);
	ASSERT_TRUE(process_becomes(self->s.process.pid, "Z"));
	ASSERT_EQ(0, requester_start(&r, request_stats, FILE2));
	ASSERT_EQ(0, requester_join(&r));
	ASSERT_EQ(0, process_resends(&self->p, NULL));
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, requester_join(&self->r[i]));
}

static void served_by_test(struct __test_metadata *_metadata,
			   struct _test_data_served *self)
{
	unsigned int i;

	ASSERT_TRUE(puppet_process_is_silent(&self->s));
	others_are_served(_metadata, self);
	ASSERT_EQ(0, process_resends(&self->p, NULL));
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
}

/* The threads that do not exec end. */
TEST_F(served, after_other_thread_execs)
{
	struct fate fate = { .execs = true };

	start_fated(_metadata, self, &variant->kind, life_fated, &fate);
	served_by_test(_metadata, self);
}

/* It has the slots, and goes on as the process's first one. */
TEST_F(served, after_serving_thread_execs)
{
	struct fate fate = { .execs = true, .slots_of_other = true };

	start_fated(_metadata, self, &variant->kind, life_fated, &fate);
	served_by_test(_metadata, self);
}

/*
 * The same program again in the same task: it arms one slot that holds nothing,
 * of the first queue.  What it needs is in a file whose descriptor it is
 * given.
 */
#define AGAIN_ENV	"FUSE_TEST_AGAIN"

struct again {
	struct puppet p;
	unsigned int slot;	/* of the first queue, free */
};

static int life_execs_itself(struct puppet *p, const void *arg)
{
	static struct puppet_held held;
	struct again again = { 0 };
	unsigned int i, used = 0;
	char text[16];
	int fd;

	begin_life(p);
	if (puppet_hold(p, &held, FUSE_GETATTR, 2))
		return 2;
	/* Both may have come by the same queue. */
	for (i = 0; i < 2; i++)
		if (held.req[i]->ring && !held.req[i]->qid)
			used |= 1U << held.req[i]->slot;
	while (used & 1U << again.slot)
		again.slot++;
	puppet_process_say('h');
	again.p = *p;
	fd = memfd_create("again", 0);
	if (fcntl(p->fd, F_SETFD, 0) ||
	    write(fd, &again, sizeof(again)) != sizeof(again))
		return 3;
	snprintf(text, sizeof(text), "%d", fd);
	setenv(AGAIN_ENV, text, 1);
	execl("/proc/self/exe", "again", NULL);
	return 4;
}

static void __attribute__((constructor)) main_again(void)
{
	const char *env = getenv(AGAIN_ENV);
	static struct again again;
	struct puppet *p = &again.p;

	if (!env)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (pread(atoi(env), &again, sizeof(again), 0) != sizeof(again))
		_exit(1);
	p->have_uring = false;
	p->kept = NULL;
	p->kept_nr = 0;
	p->kept_first = 0;
	p->kept_size = 0;
	p->buf = malloc(p->buf_size);
	if (!p->buf)
		_exit(2);
	if (transport_rings(p->opt.transport)) {
		if (puppet_map(p) || puppet_uring(p) ||
		    puppet_arm_slots(p, 0, again.slot, 1))
			_exit(3);
	}
	_exit(serve_for_ever(p));
}

TEST_F(served, by_the_next_program)
{
	struct requester r;
	unsigned int i;

	start_fated(_metadata, self, &variant->kind, life_execs_itself, NULL);
	ASSERT_TRUE(puppet_process_is_silent(&self->s));
	if (is_ring(&variant->kind))
		ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "parked", 1));
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, requester_on(i, &r, request_stats, FILE2));
		ASSERT_EQ(0, requester_join(&r));
	}
	ASSERT_EQ(0, process_resends(&self->p, NULL));
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, requester_join(&self->r[i]));
}

/* A request belongs to the CPU that made it, whoever sends it. */
FIXTURE(birthplace)
{
	struct puppet p;
	struct puppet_held held;
};

FIXTURE_VARIANT(birthplace)
{
	struct server_kind kind;
};

FIXTURE_VARIANT_ADD(birthplace, ring) {
	.kind.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(birthplace, ring_defer) {
	.kind.transport = TRANSPORT_RING,
	.kind.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(birthplace, user) {
	.kind.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(birthplace, user_defer) {
	.kind.transport = TRANSPORT_USER,
	.kind.uring_flags = DEFER,
};

FIXTURE_SETUP(birthplace)
{
	const char *why = test_prepare(variant->kind.transport);
	struct puppet_options opt = {
		.transport = variant->kind.transport,
		.uring_flags = variant->kind.uring_flags,
		.nr_queues = 2,
		.depth = 4,
		.payload = 128 << 10,
		.init_flags = FUSE_ASYNC_READ,
		.max_background = 1,
		.max_readahead = PUPPET_READAHEAD,
	};
	cpu_set_t cpus;

	if (why)
		SKIP(return, "%s", why);
	if (!is_allowed(0) || !is_allowed(1))
		SKIP(return, "needs CPUs 0 and 1");
	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	CPU_SET(1, &cpus);
	opt.cpus = &cpus;
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
}

FIXTURE_TEARDOWN(birthplace)
{
	puppet_stop(&self->p);
}

/* The next request is this file's RELEASE, and it was queued on this queue. */
static void release_is_sent_to(struct __test_metadata *_metadata,
			       struct puppet *p, unsigned int qid, __u64 nodeid)
{
	static struct puppet_req req;

	ASSERT_EQ(0, puppet_until(p, &req, FUSE_RELEASE));
	EXPECT_EQ(nodeid, req.in.nodeid);
	EXPECT_EQ(qid, puppet_sent_to(p, &req));
	ASSERT_EQ(0, puppet_answer(p, &req));
}

/*
 * RELEASE goes to the connection's list, which the server's reply flushes, from
 * the server's CPU.  It is queued on its own CPU's queue and counted there, also
 * when a thread of the other one takes it.
 */
TEST_F(birthplace, of_background_requests)
{
	const struct puppet_io ahead = {
		.path = FILE2,
		.len = PUPPET_READAHEAD,
		.flags = O_RDONLY,
	};
	struct puppet *p = &self->p;
	struct requester reader, other;
	unsigned int qid;
	long before[2];
	cpu_set_t all;

	for (qid = 0; qid < 2; qid++)
		before[qid] = ring_queue_stat(p->conn, qid, "async");
	ASSERT_EQ(0, puppet_requester_at(p, 0, &reader, request_readahead,
					 &ahead));
	ASSERT_EQ(0, puppet_hold(p, &self->held, FUSE_READ, 1));
	EXPECT_EQ(0, puppet_serve(p, &reader));
	/* The other CPU's RELEASE waits until that is answered. */
	ASSERT_EQ(0, puppet_requester_at(p, 1, &other, request_open, FILE3));
	EXPECT_EQ(0, puppet_serve(p, &other));
	EXPECT_TRUE(puppet_none(p, FUSE_RELEASE));
	EXPECT_EQ(before[0] + 1, ring_queue_stat(p->conn, 0, "async"));
	EXPECT_EQ(before[1], ring_queue_stat(p->conn, 1, "async"));

	/*
	 * This CPU sends it.  The reply also drops the reader's last reference,
	 * so that this CPU is where the reader's RELEASE is made.
	 */
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(all), &all));
	ASSERT_EQ(0, puppet_bind(p, 0));
	ASSERT_EQ(0, puppet_release(p, &self->held));
	EXPECT_EQ(before[0] + 1, ring_queue_stat(p->conn, 0, "async"));
	EXPECT_EQ(before[1] + 1, ring_queue_stat(p->conn, 1, "async"));

	/* And that one is sent by the other CPU. */
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(all), &all));
	ASSERT_EQ(0, puppet_bind(p, 1));
	release_is_sent_to(_metadata, p, 1, 3);
	EXPECT_EQ(before[0] + 2, ring_queue_stat(p->conn, 0, "async"));
	EXPECT_EQ(before[1] + 1, ring_queue_stat(p->conn, 1, "async"));
	release_is_sent_to(_metadata, p, 0, 2);
	EXPECT_TRUE(conn_waiting_becomes(p->conn, 0));
	EXPECT_EQ(before[0] + 2, ring_queue_stat(p->conn, 0, "async"));
	EXPECT_EQ(before[1] + 1, ring_queue_stat(p->conn, 1, "async"));
	EXPECT_TRUE(puppet_all_by_ring(p));
}

/* Nothing that a server can do keeps others from being served. */
#define NR_STORMS	4
#define NR_DEAD		200

FIXTURE(bounded)
{
	struct puppet p;
	struct puppet_thread *t;	/* the first one serves */
};

FIXTURE_VARIANT(bounded)
{
	struct server_kind kind;
};

FIXTURE_VARIANT_ADD(bounded, dev) {
	.kind.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(bounded, ring) {
	.kind.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(bounded, ring_defer) {
	.kind.transport = TRANSPORT_RING,
	.kind.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(bounded, user) {
	.kind.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(bounded, user_defer) {
	.kind.transport = TRANSPORT_USER,
	.kind.uring_flags = DEFER,
};

static void start_bounded(struct __test_metadata *_metadata, struct puppet *p,
			  struct puppet_thread **t,
			  const struct server_kind *kind)
{
	struct puppet_options opt = {
		.transport = kind->transport,
		.uring_flags = kind->uring_flags,
		.nr_queues = 1,
		.depth = NR_DEAD + 8,
		.payload = FUSE_URING_MIN_PAYLOAD,
	};

	if (!prepare_threads(_metadata, p, t, 1 + NR_STORMS, &opt))
		return;
	(*t)[0].slots[0].first = NR_DEAD;
	(*t)[0].slots[0].nr = 8;
}

FIXTURE_SETUP(bounded)
{
	start_bounded(_metadata, &self->p, &self->t, &variant->kind);
}

static bool storm_over;

FIXTURE_TEARDOWN(bounded)
{
	__atomic_store_n(&storm_over, true, __ATOMIC_RELEASE);
	end_threads(&self->p, self->t, 1 + NR_STORMS);
}

struct inval_inode {
	struct fuse_out_header head;
	struct fuse_notify_inval_inode_out out;
};

static const struct inval_inode of_nobody = {
	.head = {
		.len = sizeof(of_nobody),
		.error = FUSE_NOTIFY_INVAL_INODE,
	},
	.out.ino = 4711,
};

/* One after the other, or as many as an io_uring has room for. */
static int storm(struct puppet_thread *t)
{
	bool ring = t->p.opt.transport == TRANSPORT_RING;
	struct puppet_call *call[32];
	unsigned int i;
	int ret = -ENOENT;

	while (ret == -ENOENT && !__atomic_load_n(&storm_over, __ATOMIC_ACQUIRE)) {
		if (!ring) {
			ret = puppet_message(&t->p, &of_nobody,
					     sizeof(of_nobody));
			continue;
		}
		for (i = 0; i < ARRAY_SIZE(call); i++)
			call[i] = puppet_message_start(&t->p, &of_nobody,
						       sizeof(of_nobody));
		for (i = 0; i < ARRAY_SIZE(call) && ret == -ENOENT; i++)
			ret = puppet_call_end(&t->p, call[i], TEST_WAIT_MS);
	}
	return ret == -ENOENT ? 0 : ret;
}

TEST_F(bounded, notifications_that_fail)
{
	struct fuse_notify_inval_inode_out root = { .ino = FUSE_ROOT_ID };
	struct requester r;
	unsigned int i;

	storm_over = false;
	for (i = 0; i <= NR_STORMS; i++)
		ASSERT_EQ(0, puppet_thread_start(&self->t[i], &self->p));
	if (is_ring(&variant->kind))
		ASSERT_EQ(0, puppet_uring(&self->p));
	/* The others have no slots. */
	for (i = 1; i <= NR_STORMS; i++)
		puppet_thread_run(&self->t[i], storm);
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, requester_start(&r, request_stats, FILE2));
		ASSERT_EQ(0, requester_join(&r));
		ASSERT_EQ(HEADER + (int)sizeof(root),
			  puppet_notify(&self->p, FUSE_NOTIFY_INVAL_INODE,
					&root, sizeof(root)));
	}
	__atomic_store_n(&storm_over, true, __ATOMIC_RELEASE);
	for (i = 1; i <= NR_STORMS; i++)
		EXPECT_EQ(0, puppet_thread_done(&self->t[i]));
}

static void *stat_thread(void *arg)
{
	return (void *)(long)request_stat(TEST_MNT);
}

/* So many at once. */
static int request_parallel(const void *arg)
{
	pthread_t thread[NR_DEAD];
	pthread_attr_t attr;
	unsigned int i;
	void *result;
	int err = 0;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	for (i = 0; i < NR_DEAD; i++)
		if (pthread_create(&thread[i], &attr, stat_thread, NULL))
			return -EAGAIN;
	for (i = 0; i < NR_DEAD; i++) {
		pthread_join(thread[i], &result);
		if (result)
			err = (long)result;
	}
	return err;
}

/* Several threads submit to one io_uring, so it cannot be of one issuer. */
FIXTURE(dead)
{
	struct puppet p;
	struct puppet_thread *t;
};

FIXTURE_VARIANT(dead)
{
	struct server_kind kind;
};

FIXTURE_VARIANT_ADD(dead, dev) {
	.kind.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(dead, ring) {
	.kind.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(dead, user) {
	.kind.transport = TRANSPORT_USER,
};

FIXTURE_SETUP(dead)
{
	start_bounded(_metadata, &self->p, &self->t, &variant->kind);
}

FIXTURE_TEARDOWN(dead)
{
	end_threads(&self->p, self->t, 1 + NR_STORMS);
}

/* Threads of one io_uring, each with a slot that it takes with it. */
static struct mortals {
	struct puppet p;
	pthread_mutex_t mutex;
	sem_t armed, die;
	unsigned int nr;
	int result;
} mortals = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static void *mortal(void *arg)
{
	int ret;

	pthread_mutex_lock(&mortals.mutex);
	ret = puppet_arm_slots(&mortals.p, 0, mortals.nr++, 1);
	if (ret)
		mortals.result = ret;
	pthread_mutex_unlock(&mortals.mutex);
	sem_post(&mortals.armed);
	/* Task work is done here, too. */
	while (sem_wait(&mortals.die))
		;
	return NULL;
}

/* All requests are in the hands of threads that have ended. */
static void lose_many(struct __test_metadata *_metadata, struct puppet *p,
		      struct requester *r)
{
	static struct puppet_req req;
	pthread_t thread[NR_DEAD];
	pthread_attr_t attr;
	unsigned int i;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	mortals.p = *p;
	ASSERT_EQ(0, puppet_uring(&mortals.p));
	ASSERT_EQ(0, sem_init(&mortals.armed, 0, 0));
	ASSERT_EQ(0, sem_init(&mortals.die, 0, 0));
	for (i = 0; i < NR_DEAD; i++)
		ASSERT_EQ(0, pthread_create(&thread[i], &attr, mortal, NULL));
	for (i = 0; i < NR_DEAD; i++)
		while (sem_wait(&mortals.armed))
			;
	ASSERT_EQ(0, mortals.result);
	ASSERT_EQ(0, requester_start(r, request_parallel, NULL));
	for (i = 0; i < NR_DEAD; i++) {
		ASSERT_EQ(PUPPET_REQUEST,
			  puppet_next(&mortals.p, &req, TEST_WAIT_MS));
		ASSERT_EQ(FUSE_GETATTR, req.in.opcode);
	}
	for (i = 0; i < NR_DEAD; i++)
		sem_post(&mortals.die);
	for (i = 0; i < NR_DEAD; i++)
		pthread_join(thread[i], NULL);
}

TEST_F(dead, threads_and_resend)
{
	static struct puppet_req req;
	struct requester r, other;
	unsigned int i;

	if (is_ring(&variant->kind)) {
		lose_many(_metadata, &self->p, &r);
	} else {
		ASSERT_EQ(0, requester_start(&r, request_parallel, NULL));
		for (i = 0; i < NR_DEAD; i++)
			ASSERT_EQ(PUPPET_REQUEST,
				  puppet_next(&self->p, &req, TEST_WAIT_MS));
	}
	for (i = 0; i < 500; i++)
		ASSERT_EQ(0, process_resends(&self->p, NULL));
	ASSERT_EQ(0, puppet_thread_start(&self->t[0], &self->p));
	for (i = 0; i < 500; i++)
		ASSERT_EQ(0, process_resends(&self->p, NULL));
	ASSERT_EQ(0, requester_start(&other, request_stats, FILE2));
	EXPECT_EQ(0, requester_join(&other));
	EXPECT_EQ(0, requester_join(&r));
	if (is_ring(&variant->kind))
		puppet_close_uring(&mortals.p);
}

/* An interrupt comes by a thread that is idle. */
FIXTURE(interrupts)
{
	struct puppet p;
	struct puppet_thread *t;
	struct requester r;
};

FIXTURE_VARIANT(interrupts)
{
	struct server_kind kind;
	bool two_queues;
};

FIXTURE_VARIANT_ADD(interrupts, dev) {
	.kind.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(interrupts, one_queue) {
	.kind.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(interrupts, one_queue_defer) {
	.kind.transport = TRANSPORT_RING,
	.kind.uring_flags = DEFER,
};

/*
 * Without DEFER_TASKRUN the blocked thread runs task work, and takes what
 * prefers its queue.
 */
FIXTURE_VARIANT_ADD(interrupts, two_queues_defer) {
	.kind.transport = TRANSPORT_RING,
	.kind.uring_flags = DEFER,
	.two_queues = true,
};

FIXTURE_SETUP(interrupts)
{
	struct puppet_options opt = {
		.transport = variant->kind.transport,
		.uring_flags = variant->kind.uring_flags,
		.nr_queues = 1 + variant->two_queues,
		.depth = 2,
		.control = 4,
	};
	struct sigaction act = { .sa_handler = nothing };
	unsigned int i;

	if (!is_allowed(0) || sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs CPU 0 and another one");
	ASSERT_EQ(0, sigaction(SIGUSR1, &act, NULL));
	if (!prepare_threads(_metadata, &self->p, &self->t, 2, &opt))
		return;
	/* Two slots for messages each; the first thread alone gets requests. */
	for (i = 0; i < 2; i++) {
		self->t[i].slots[0].qid = variant->two_queues ? i : 0;
		self->t[i].slots[0].first = 2 + 2 * i;
		self->t[i].slots[0].nr = 2;
	}
	self->t[0].slots[1].nr = 2;
	self->t[0].hold = FUSE_GETATTR;
	self->t[0].hold_next = FUSE_GETATTR;
	self->t[0].block = true;
	self->t[1].hold = FUSE_INTERRUPT;
}

FIXTURE_TEARDOWN(interrupts)
{
	end_threads(&self->p, self->t, 2);
}

/* The slot that has the interrupt, once one has; -1 when that takes too long. */
static int interrupt_slot(int conn)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	struct ring_slot slot[8];
	int i, nr;

	do {
		nr = ring_slots(conn, slot, ARRAY_SIZE(slot));
		for (i = 0; i < nr && i < (int)ARRAY_SIZE(slot); i++)
			if (slot[i].opcode == FUSE_INTERRUPT)
				return slot[i].slot;
		sleep_ms(1);
	} while (now_ms() < end);
	return -1;
}

/* Whether the blocked thread has got it, from its task work. */
static bool interrupts_blocked(struct __test_metadata *_metadata,
			       struct _test_data_interrupts *self)
{
	int slot = interrupt_slot(self->p.conn);

	ASSERT_LE(2, slot);
	if (slot >= 4)
		return false;
	puppet_thread_release(&self->t[0]);
	EXPECT_EQ(0, requester_join(&self->r));
	ASSERT_TRUE(becomes(&self->t[0].nr_held, 0));
	ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "control_parked",
					     4));
	return true;
}

TEST_F(interrupts, come_by_idle_thread)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	bool ring = is_ring(&variant->kind);
	bool again = false;

	/* What was armed last is the other thread's. */
	if (ring)
		ASSERT_EQ(0, puppet_thread_start(&self->t[1], &self->p));
	ASSERT_EQ(0, puppet_thread_start(&self->t[0], &self->p));
	if (ring)
		ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn,
						     "control_parked", 4));
	do {
		ASSERT_EQ(0, requester_on(0, &self->r, request_stat, TEST_MNT));
		ASSERT_TRUE(puppet_thread_holds(&self->t[0], 1));
		/* Over /dev/fuse it would have taken the request. */
		if (!ring)
			ASSERT_EQ(0, puppet_thread_start(&self->t[1],
							 &self->p));
		kill(self->r.pid, SIGUSR1);
		/* Again, if the idle one was called and came late. */
		again = ring && interrupts_blocked(_metadata, self);
	} while (again && now_ms() < end);
	ASSERT_FALSE(again);
	ASSERT_TRUE(puppet_thread_holds(&self->t[1], 1));
	EXPECT_EQ(self->t[0].held.req[0]->in.unique,
		  self->t[1].held.req[0]->interrupt.unique);
	puppet_thread_release(&self->t[1]);
	puppet_thread_release(&self->t[0]);
	EXPECT_EQ(0, requester_join(&self->r));
}

TEST_HARNESS_MAIN
