// SPDX-License-Identifier: GPL-2.0
/*
 * How a connection ends: at every stage of its life, in every way.  Each
 * request is answered, nobody hangs, and a new connection works.
 *
 * The test that freezes all tasks of the machine, as suspend does, is opt-in:
 * set FUSE_TEST_DISRUPTIVE=1.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "puppet.h"

#define FILE2	(TEST_MNT "/f2")
#define DEFER	(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)

/* How far the server has come when the end begins. */
enum stage {
	STAGE_MOUNTED,		/* FUSE_INIT waits on /dev/fuse */
	STAGE_SETUP,		/* the ring has been made */
	STAGE_IN_INIT,		/* one slot is armed, and holds FUSE_INIT */
	STAGE_IDLE,		/* all is well, all slots are armed */
	STAGE_HOLDING,		/* takes requests, answers none */
	STAGE_DEAF,		/* does not enter the kernel: requests lie in */
				/* slots that it has not been told of */
	STAGE_SERVING,		/* busy */
	STAGE_PROMISED,		/* a ring with user buffers, which is to come */
};

struct life {
	enum test_transport transport;
	enum stage stage;
	unsigned int uring_flags;
};

/* A server in a process of its own. */
struct daemon {
	struct requester process;
	int conn;
};

static struct {
	struct life life;
	int ready;
} daemon_args;

static int serve_for_ever(struct puppet *p, bool answer)
{
	static struct puppet_req req;
	int ret;

	for (;;) {
		ret = puppet_next(p, &req, 1000);
		if (ret == PUPPET_REQUEST && answer)
			puppet_answer(p, &req);
		if (ret < 0 && ret != -EINTR && ret != -ENOENT)
			return 0;
	}
}

static int daemon_life(struct puppet *p, const struct life *life)
{
	struct puppet_options opt = {
		.transport = life->transport,
		.uring_flags = life->uring_flags,
		.nr_queues = 1,
		.depth = 2,
		.init_flags = FUSE_ASYNC_READ,
		.max_readahead = PUPPET_READAHEAD,
	};
	struct fuse_uring_slot_cmd cmd = { 0 };
	static struct puppet_req req;
	int ret;

	ret = puppet_open(p, &opt);
	if (!ret)
		ret = puppet_mount(p);
	if (ret || life->stage == STAGE_MOUNTED)
		return ret;
	if (life->transport == TRANSPORT_USER) {
		ret = puppet_setup(p);
		if (!ret)
			ret = life->stage == STAGE_IN_INIT ?
			      puppet_until(p, &req, FUSE_INIT) : puppet_init(p);
		if (ret || life->stage == STAGE_IN_INIT ||
		    life->stage == STAGE_PROMISED)
			return ret;
		return puppet_ring(p);
	}
	if (life->transport == TRANSPORT_RING) {
		ret = puppet_setup(p);
		if (ret || life->stage == STAGE_SETUP)
			return ret;
		ret = puppet_map(p);
		if (!ret)
			ret = puppet_uring(p);
		if (ret)
			return ret;
		if (life->stage == STAGE_IN_INIT) {
			ret = puppet_command(p, FUSE_URING_REQ_FETCH, &cmd);
			return ret ? ret : puppet_until(p, &req, FUSE_INIT);
		}
		ret = puppet_arm(p);
	}
	if (!ret && life->stage == STAGE_IN_INIT)
		return puppet_until(p, &req, FUSE_INIT);
	return ret ? ret : puppet_init(p);
}

static void exec_handler(int sig)
{
	/* It prints its usage, and ends. */
	close(1);
	close(2);
	execl("/proc/self/exe", "exec", "-h", NULL);
	_exit(1);
}

/* The process of a server.  It has its descriptors from daemon_args. */
static int daemon_main(void)
{
	static struct puppet p;
	int ret;

	signal(SIGUSR1, exec_handler);
	ret = daemon_life(&p, &daemon_args.life);
	if (!ret)
		ret = p.conn;
	if (write(daemon_args.ready, &ret, sizeof(ret)) != sizeof(ret) ||
	    ret < 0)
		return 1;
	switch (daemon_args.life.stage) {
	case STAGE_IDLE:
	case STAGE_HOLDING:
		return serve_for_ever(&p, false);
	case STAGE_SERVING:
		return serve_for_ever(&p, true);
	default:
		for (;;)
			pause();
	}
}

static int daemon_start(struct daemon *d, const struct life *life)
{
	int fds[2], ret = -EIO;

	if (pipe(fds))
		return -errno;
	daemon_args.life = *life;
	daemon_args.ready = fds[1];
	fflush(NULL);
	d->process.pid = fork();
	if (!d->process.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(daemon_main());
	}
	close(fds[1]);
	d->process.pidfd = syscall(SYS_pidfd_open, d->process.pid, 0);
	if (read(fds[0], &ret, sizeof(ret)) != sizeof(ret))
		ret = -EIO;
	close(fds[0]);
	d->conn = ret;
	return ret < 0 ? ret : 0;
}

static int daemon_kill(struct daemon *d)
{
	kill(d->process.pid, SIGKILL);
	return requester_join(&d->process);
}

/* Unmounts what nobody uses any more, and waits until it is gone. */
static int unmount(int conn)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	int ret;

	do {
		ret = umount(TEST_MNT) ? -errno : 0;
		if (ret == -EBUSY)
			sleep_ms(1);
	} while (ret == -EBUSY && now_ms() < end);
	if (!ret && !conn_gone(conn))
		ret = -ETIMEDOUT;
	return ret;
}

FIXTURE(end)
{
	struct daemon d;
	struct requester r[4];
	struct requester reader;
	bool requests;
	bool before_init;
};

FIXTURE_VARIANT(end)
{
	struct life life;
};

FIXTURE_VARIANT_ADD(end, dev_mounted) {
	.life.transport = TRANSPORT_DEV,
	.life.stage = STAGE_MOUNTED,
};

FIXTURE_VARIANT_ADD(end, dev_in_init) {
	.life.transport = TRANSPORT_DEV,
	.life.stage = STAGE_IN_INIT,
};

FIXTURE_VARIANT_ADD(end, dev_holding) {
	.life.transport = TRANSPORT_DEV,
	.life.stage = STAGE_HOLDING,
};

FIXTURE_VARIANT_ADD(end, dev_serving) {
	.life.transport = TRANSPORT_DEV,
	.life.stage = STAGE_SERVING,
};

FIXTURE_VARIANT_ADD(end, ring_mounted) {
	.life.transport = TRANSPORT_RING,
	.life.stage = STAGE_MOUNTED,
};

FIXTURE_VARIANT_ADD(end, ring_setup) {
	.life.transport = TRANSPORT_RING,
	.life.stage = STAGE_SETUP,
};

FIXTURE_VARIANT_ADD(end, ring_in_init) {
	.life.transport = TRANSPORT_RING,
	.life.stage = STAGE_IN_INIT,
};

FIXTURE_VARIANT_ADD(end, ring_idle) {
	.life.transport = TRANSPORT_RING,
	.life.stage = STAGE_IDLE,
};

FIXTURE_VARIANT_ADD(end, ring_holding) {
	.life.transport = TRANSPORT_RING,
	.life.stage = STAGE_HOLDING,
};

FIXTURE_VARIANT_ADD(end, ring_serving) {
	.life.transport = TRANSPORT_RING,
	.life.stage = STAGE_SERVING,
};

FIXTURE_VARIANT_ADD(end, ring_defer_holding) {
	.life.transport = TRANSPORT_RING,
	.life.stage = STAGE_HOLDING,
	.life.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(end, ring_defer_deaf) {
	.life.transport = TRANSPORT_RING,
	.life.stage = STAGE_DEAF,
	.life.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(end, ring_defer_serving) {
	.life.transport = TRANSPORT_RING,
	.life.stage = STAGE_SERVING,
	.life.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(end, ring_sqpoll_serving) {
	.life.transport = TRANSPORT_RING,
	.life.stage = STAGE_SERVING,
	.life.uring_flags = IORING_SETUP_SQPOLL,
};

FIXTURE_VARIANT_ADD(end, user_in_init) {
	.life.transport = TRANSPORT_USER,
	.life.stage = STAGE_IN_INIT,
};

FIXTURE_VARIANT_ADD(end, user_promised) {
	.life.transport = TRANSPORT_USER,
	.life.stage = STAGE_PROMISED,
};

FIXTURE_VARIANT_ADD(end, user_idle) {
	.life.transport = TRANSPORT_USER,
	.life.stage = STAGE_IDLE,
};

FIXTURE_VARIANT_ADD(end, user_holding) {
	.life.transport = TRANSPORT_USER,
	.life.stage = STAGE_HOLDING,
};

FIXTURE_VARIANT_ADD(end, user_serving) {
	.life.transport = TRANSPORT_USER,
	.life.stage = STAGE_SERVING,
};

FIXTURE_VARIANT_ADD(end, user_defer_holding) {
	.life.transport = TRANSPORT_USER,
	.life.stage = STAGE_HOLDING,
	.life.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(end, user_defer_deaf) {
	.life.transport = TRANSPORT_USER,
	.life.stage = STAGE_DEAF,
	.life.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(end, user_defer_serving) {
	.life.transport = TRANSPORT_USER,
	.life.stage = STAGE_SERVING,
	.life.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(end, user_sqpoll_serving) {
	.life.transport = TRANSPORT_USER,
	.life.stage = STAGE_SERVING,
	.life.uring_flags = IORING_SETUP_SQPOLL,
};

FIXTURE_SETUP(end)
{
	const char *why = test_prepare(variant->life.transport);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, daemon_start(&self->d, &variant->life));
}

/* That the next connection is a good one, the next test shows. */
FIXTURE_TEARDOWN(end)
{
}

/* Requests of all kinds, and all of them under way. */
static void make_requests(struct __test_metadata *_metadata,
			  struct _test_data_end *self, enum stage stage)
{
	const struct puppet_io io = {
		.path = FILE2,
		.len = 4 * PUPPET_READAHEAD,
	};
	unsigned int i;

	if (stage == STAGE_IDLE)
		return;
	/* A directory looks one name up at a time, so it is stat(2) of it. */
	for (i = 0; i < ARRAY_SIZE(self->r); i++)
		ASSERT_EQ(0, requester_start(&self->r[i],
					     stage == STAGE_SERVING ?
					     request_stats_for_ever :
					     request_stat,
					     stage == STAGE_SERVING ?
					     FILE2 : TEST_MNT));
	ASSERT_EQ(0, requester_start(&self->reader, request_readahead, &io));
	self->requests = true;
	self->before_init = stage < STAGE_IDLE;
	if (stage == STAGE_SERVING)
		sleep_ms(50);
	else
		/* FUSE_INIT is one of them until it has been answered. */
		ASSERT_TRUE(conn_waiting_becomes(self->d.conn,
						 stage < STAGE_IDLE ? 6 : 5));
}

/* Every requester comes back, and is told. */
static void check_requests(struct __test_metadata *_metadata,
			   struct _test_data_end *self)
{
	unsigned int i;
	int ret;

	for (i = 0; self->requests && i < ARRAY_SIZE(self->r); i++) {
		ret = requester_join(&self->r[i]);
		/* The last one is what a failed FUSE_INIT leaves. */
		EXPECT_TRUE(ret == ENOTCONN || ret == ECONNABORTED ||
			    (ret == ECONNREFUSED && self->before_init))
			TH_LOG("requester %u: %d", i, ret);
	}
	if (self->requests)
		EXPECT_NE(REQUESTER_HANGS, requester_join(&self->reader));
}

TEST_F(end, abort)
{
	make_requests(_metadata, self, variant->life.stage);
	ASSERT_EQ(0, conn_abort(self->d.conn));
	check_requests(_metadata, self);
	EXPECT_TRUE(conn_waiting_becomes(self->d.conn, 0));
	EXPECT_NE(REQUESTER_HANGS, daemon_kill(&self->d));
	EXPECT_EQ(0, unmount(self->d.conn));
}

/* The end does not wait for the server to run. */
TEST_F(end, abort_while_stopped)
{
	make_requests(_metadata, self, variant->life.stage);
	ASSERT_EQ(0, kill(self->d.process.pid, SIGSTOP));
	ASSERT_EQ(0, conn_abort(self->d.conn));
	check_requests(_metadata, self);
	EXPECT_EQ(0, unmount(self->d.conn));
	ASSERT_EQ(0, kill(self->d.process.pid, SIGCONT));
	EXPECT_NE(REQUESTER_HANGS, daemon_kill(&self->d));
}

TEST_F(end, kill)
{
	make_requests(_metadata, self, variant->life.stage);
	if (self->requests && variant->life.stage != STAGE_SERVING) {
		EXPECT_EQ(-1, umount(TEST_MNT));
		EXPECT_EQ(EBUSY, errno);
	}
	EXPECT_EQ(-SIGKILL, daemon_kill(&self->d));
	check_requests(_metadata, self);
	EXPECT_TRUE(conn_waiting_becomes(self->d.conn, 0));
	EXPECT_EQ(0, unmount(self->d.conn));
}

TEST_F(end, exec)
{
	make_requests(_metadata, self, variant->life.stage);
	ASSERT_EQ(0, kill(self->d.process.pid, SIGUSR1));
	EXPECT_NE(REQUESTER_HANGS, requester_join(&self->d.process));
	check_requests(_metadata, self);
	EXPECT_EQ(0, unmount(self->d.conn));
}

/*
 * Those that go on for ever, after their paths have ceased to lead into the
 * mount: they end, with whatever the empty directory below tells them.
 */
static void join_requests(struct __test_metadata *_metadata,
			  struct _test_data_end *self)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(self->r); i++)
		EXPECT_NE(REQUESTER_HANGS, requester_join(&self->r[i]));
	EXPECT_NE(REQUESTER_HANGS, requester_join(&self->reader));
}

TEST_F(end, forced_unmount)
{
	int ret;

	make_requests(_metadata, self, variant->life.stage);
	ret = umount2(TEST_MNT, MNT_FORCE) ? -errno : 0;
	if (!ret && variant->life.stage == STAGE_SERVING)
		join_requests(_metadata, self);
	else
		check_requests(_metadata, self);
	if (ret) {
		/* The requesters were still in it. */
		EXPECT_EQ(-EBUSY, ret);
		EXPECT_EQ(0, unmount(self->d.conn));
	} else {
		EXPECT_TRUE(conn_gone(self->d.conn));
	}
	EXPECT_NE(REQUESTER_HANGS, daemon_kill(&self->d));
}

TEST_F(end, lazy_unmount)
{
	make_requests(_metadata, self, variant->life.stage);
	ASSERT_EQ(0, umount2(TEST_MNT, MNT_DETACH));
	/* Who is in it stays in it until the server goes. */
	if (self->requests && variant->life.stage != STAGE_SERVING)
		EXPECT_LT(0, conn_ctl_read(self->d.conn, "waiting"));
	EXPECT_NE(REQUESTER_HANGS, daemon_kill(&self->d));
	if (variant->life.stage == STAGE_SERVING)
		join_requests(_metadata, self);
	else
		check_requests(_metadata, self);
	EXPECT_TRUE(conn_gone(self->d.conn));
}

TEST_F(end, unmount)
{
	EXPECT_EQ(0, unmount(self->d.conn));
	EXPECT_NE(REQUESTER_HANGS, daemon_kill(&self->d));
}

/* Who has been killed goes, and does not disturb the rest. */
TEST_F(end, requesters_first)
{
	unsigned int i;

	make_requests(_metadata, self, variant->life.stage);
	for (i = 0; self->requests && i < ARRAY_SIZE(self->r); i++)
		kill(self->r[i].pid, SIGKILL);
	if (self->requests)
		kill(self->reader.pid, SIGKILL);
	EXPECT_NE(REQUESTER_HANGS, daemon_kill(&self->d));
	for (i = 0; self->requests && i < ARRAY_SIZE(self->r); i++)
		EXPECT_EQ(-SIGKILL, requester_join(&self->r[i]));
	if (self->requests)
		EXPECT_NE(REQUESTER_HANGS, requester_join(&self->reader));
	EXPECT_EQ(0, unmount(self->d.conn));
}

/* A server that is frozen has not ended, and goes on where it was. */
FIXTURE(freeze)
{
	struct daemon d;
	struct requester r[4];
};

FIXTURE_VARIANT(freeze)
{
	struct life life;
};

FIXTURE_VARIANT_ADD(freeze, dev) {
	.life.transport = TRANSPORT_DEV,
	.life.stage = STAGE_SERVING,
};

FIXTURE_VARIANT_ADD(freeze, ring) {
	.life.transport = TRANSPORT_RING,
	.life.stage = STAGE_SERVING,
};

FIXTURE_VARIANT_ADD(freeze, ring_defer) {
	.life.transport = TRANSPORT_RING,
	.life.stage = STAGE_SERVING,
	.life.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(freeze, ring_sqpoll) {
	.life.transport = TRANSPORT_RING,
	.life.stage = STAGE_SERVING,
	.life.uring_flags = IORING_SETUP_SQPOLL,
};

FIXTURE_VARIANT_ADD(freeze, user) {
	.life.transport = TRANSPORT_USER,
	.life.stage = STAGE_SERVING,
};

FIXTURE_VARIANT_ADD(freeze, user_defer) {
	.life.transport = TRANSPORT_USER,
	.life.stage = STAGE_SERVING,
	.life.uring_flags = DEFER,
};

#define PM_TEST		"/sys/power/pm_test"
#define PM_TEST_DELAY	"/sys/module/suspend/parameters/pm_test_delay"

/*
 * How suspend is tested is the machine's setting.  A test that is killed has no
 * teardown, so the program restores it as well.
 */
static pid_t main_pid;
static char pm_test[32] = "none", pm_test_delay[32];

static void __attribute__((constructor)) pm_test_save(void)
{
	char text[256], *at, *end;

	main_pid = getpid();
	file_read(PM_TEST_DELAY, pm_test_delay, sizeof(pm_test_delay));
	/* Such as "[none] core processors platform devices freezer". */
	if (file_read(PM_TEST, text, sizeof(text)) <= 0)
		return;
	at = strchr(text, '[');
	end = at ? strchr(at, ']') : NULL;
	if (end)
		snprintf(pm_test, sizeof(pm_test), "%.*s", (int)(end - at - 1),
			 at + 1);
}

static void pm_test_restore(void)
{
	if (!test_disrupts() || access(PM_TEST, W_OK))
		return;
	file_write(PM_TEST, pm_test);
	file_write(PM_TEST_DELAY, pm_test_delay);
}

static void __attribute__((destructor)) pm_test_restore_at_exit(void)
{
	if (getpid() == main_pid)
		pm_test_restore();
}

FIXTURE_SETUP(freeze)
{
	const char *why = test_prepare(variant->life.transport);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, daemon_start(&self->d, &variant->life));
}

FIXTURE_TEARDOWN(freeze)
{
	pm_test_restore();
	EXPECT_EQ(-SIGKILL, daemon_kill(&self->d));
	EXPECT_EQ(0, unmount(self->d.conn));
}

/*
 * As suspend does: all tasks are frozen, and thawed again.  None waits for the
 * server in the meantime, for that is what no FUSE filesystem survives well.
 */
TEST_F(freeze, all_tasks)
{
	struct requester r;
	unsigned int i;

	if (!test_disrupts())
		SKIP(return, "%s", TEST_DISRUPTS_NOT);
	if (file_write(PM_TEST, "freezer"))
		SKIP(return, "kernel without CONFIG_PM_DEBUG");
	ASSERT_EQ(0, file_write(PM_TEST_DELAY, "1"));
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
		EXPECT_EQ(0, requester_join(&r));
		EXPECT_EQ(0, file_write("/sys/power/state", "freeze"));
	}
	pm_test_restore();
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	EXPECT_EQ(0, requester_join(&r));
}

#define FREEZE_CGROUP	TEST_DIR "/cgroup"

/* As container managers do: the server alone, in the middle of its work. */
TEST_F(freeze, server)
{
	char pid[16], buf[128];
	struct requester r;
	unsigned int i;
	__u64 end;

	ASSERT_EQ(0, mkdir(FREEZE_CGROUP, 0755));
	if (mount("test", FREEZE_CGROUP, "cgroup2", 0, NULL))
		SKIP(return, "kernel without cgroups");
	ASSERT_EQ(0, mkdir(FREEZE_CGROUP "/fuse_freeze", 0755));
	snprintf(pid, sizeof(pid), "%d", self->d.process.pid);
	ASSERT_EQ(0, file_write(FREEZE_CGROUP "/fuse_freeze/cgroup.procs", pid));

	/* With the name known, each of them has a request of its own. */
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	EXPECT_EQ(0, requester_join(&r));
	for (i = 0; i < ARRAY_SIZE(self->r); i++)
		ASSERT_EQ(0, requester_start(&self->r[i], request_stats_for_ever,
					     FILE2));
	for (i = 0; i < 3; i++) {
		sleep_ms(20);
		ASSERT_EQ(0, file_write(FREEZE_CGROUP "/fuse_freeze/cgroup.freeze",
					"1"));
		end = now_ms() + TEST_WAIT_MS;
		do {
			sleep_ms(1);
			ASSERT_LT(0, file_read(FREEZE_CGROUP
					       "/fuse_freeze/cgroup.events",
					       buf, sizeof(buf)));
		} while (!strstr(buf, "frozen 1") && now_ms() < end);
		EXPECT_NE(NULL, strstr(buf, "frozen 1"));
		/* All of them wait now, and none has been told anything. */
		EXPECT_TRUE(conn_waiting_becomes(self->d.conn,
						 ARRAY_SIZE(self->r)));
		sleep_ms(20);
		EXPECT_EQ((long)ARRAY_SIZE(self->r),
			  conn_ctl_read(self->d.conn, "waiting"));
		ASSERT_EQ(0, file_write(FREEZE_CGROUP "/fuse_freeze/cgroup.freeze",
					"0"));
	}

	/* None of them has failed. */
	for (i = 0; i < ARRAY_SIZE(self->r); i++) {
		EXPECT_FALSE(requester_ended(&self->r[i], NULL, 0));
		kill(self->r[i].pid, SIGKILL);
		EXPECT_EQ(-SIGKILL, requester_join(&self->r[i]));
	}
	ASSERT_EQ(0, file_write(FREEZE_CGROUP "/cgroup.procs", pid));
	EXPECT_EQ(0, rmdir(FREEZE_CGROUP "/fuse_freeze"));
}

/* The order in which the parts of a server go. */
FIXTURE(parts)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r[2];
};

FIXTURE_VARIANT(parts)
{
	enum test_transport transport;
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(parts, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(parts, ring_defer) {
	.transport = TRANSPORT_RING,
	.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(parts, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(parts, user_defer) {
	.transport = TRANSPORT_USER,
	.uring_flags = DEFER,
};

FIXTURE_SETUP(parts)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 1,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ASSERT_EQ(0, puppet_serve(&self->p, &self->r[0]));

	/* One in hand, and one that waits for the slot. */
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	ASSERT_EQ(0, requester_start(&self->r[1], request_stat, FILE2));
	ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "pending", 1));
}

FIXTURE_TEARDOWN(parts)
{
	puppet_stop(&self->p);
}

/* A request in hand is not the io_uring's: another one takes it over. */
TEST_F(parts, another_io_uring_goes_on)
{
	puppet_close_uring(&self->p);
	EXPECT_TRUE(requester_sleeps(&self->r[0]));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[1]));
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

TEST_F(parts, io_uring_first)
{
	puppet_close_uring(&self->p);
	puppet_close_dev(&self->p);
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r[0]));
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r[1]));
}

TEST_F(parts, device_first)
{
	puppet_close_dev(&self->p);
	puppet_close_uring(&self->p);
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r[0]));
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r[1]));
}

/* An armed slot holds the device open, as any request of io_uring does. */
TEST_F(parts, device_first_while_armed)
{
	int ret;

	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[1]));
	ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "parked", 1));
	puppet_close_dev(&self->p);
	EXPECT_EQ(1, ring_queues_stat(self->p.conn, "parked"));
	puppet_close_uring(&self->p);
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ret = requester_join(&self->r[0]);
	EXPECT_TRUE(ret == ENOTCONN || ret == ECONNABORTED) TH_LOG("%d", ret);
}

TEST_F(parts, mapping_first)
{
	puppet_unmap(&self->p);
	puppet_close_dev(&self->p);
	puppet_close_uring(&self->p);
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r[0]));
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r[1]));
}

/* With the last armed slot, what waits goes to /dev/fuse. */
TEST_F(parts, last_slot_goes)
{
	long before;

	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[1]));
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
	puppet_close_uring(&self->p);
	EXPECT_TRUE(ring_queues_stat_becomes(self->p.conn, "live", 0));

	before = ring_stat(self->p.conn, "requests_dev");
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	EXPECT_LT(before, ring_stat(self->p.conn, "requests_dev"));
}

/* And comes back with the first slot that is armed, if it still waits. */
TEST_F(parts, first_slot_comes)
{
	long before;

	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[1]));
	puppet_close_uring(&self->p);
	ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "live", 0));

	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 1));
	before = ring_stat(self->p.conn, "requests_ring");
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm(&self->p));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	EXPECT_LT(before, ring_stat(self->p.conn, "requests_ring"));
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

/* The connection is as long as its last descriptor. */
TEST_F(parts, clone_goes_on)
{
	__u32 source = self->p.fd;
	int fd, ret;

	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ioctl(fd, FUSE_DEV_IOC_CLONE, &source));
	close(self->p.fd);
	self->p.fd = fd;
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[1]));
	EXPECT_TRUE(puppet_all_by_ring(&self->p));

	puppet_close_uring(&self->p);
	puppet_close_dev(&self->p);
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ret = requester_join(&self->r[0]);
	EXPECT_TRUE(ret == ENOTCONN || ret == ECONNABORTED) TH_LOG("%d", ret);
}

FIXTURE(inherited)
{
};

FIXTURE_VARIANT(inherited)
{
	enum test_transport transport;
};

FIXTURE_VARIANT_ADD(inherited, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(inherited, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_SETUP(inherited)
{
	const char *why = test_prepare(variant->transport);

	if (why)
		SKIP(return, "%s", why);
}

FIXTURE_TEARDOWN(inherited)
{
}

/*
 * A child that has inherited all descriptors keeps the connection, but not
 * the slots, when its parent dies.
 */
TEST_F(inherited, descriptors)
{
	struct puppet_options opt = {
		.transport = variant->transport,
		.nr_queues = 1,
		.depth = 2,
	};
	struct requester r, heir = { 0 };
	int fds[2], conn;
	pid_t pid, pids[2];

	ASSERT_EQ(0, pipe(fds));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		static struct puppet p;

		if (puppet_start(&p, &opt))
			_exit(1);
		pids[1] = p.conn;
		pids[0] = fork();
		if (!pids[0]) {
			/* Its io_uring is not usable, and is not asked. */
			p.have_uring = false;
			pause();
			_exit(0);
		}
		if (write(fds[1], pids, sizeof(pids)) != sizeof(pids))
			_exit(1);
		_exit(serve_for_ever(&p, true));
	}
	ASSERT_EQ(sizeof(pids), read(fds[0], pids, sizeof(pids)));
	heir.pid = pids[0];
	conn = pids[1];
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	EXPECT_EQ(0, requester_join(&r));

	kill(pid, SIGKILL);
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	EXPECT_TRUE(ring_queues_stat_becomes(conn, "live", 0));
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	EXPECT_TRUE(conn_waiting_becomes(conn, 1));
	/* For the answer, and not only about to send: that ends otherwise. */
	EXPECT_TRUE(requester_sleeps(&r));
	kill(heir.pid, SIGKILL);
	EXPECT_EQ(ECONNABORTED, requester_join(&r));
	EXPECT_EQ(0, unmount(conn));
}

/* Two queues, each with a thread of its own. */
FIXTURE(threads)
{
	struct puppet p;
};

FIXTURE_VARIANT(threads)
{
	enum test_transport transport;
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(threads, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(threads, ring_defer) {
	.transport = TRANSPORT_RING,
	.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(threads, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(threads, user_defer) {
	.transport = TRANSPORT_USER,
	.uring_flags = DEFER,
};

FIXTURE_SETUP(threads)
{
	const char *why = test_prepare(variant->transport);
	bool init_first = variant->transport == TRANSPORT_USER;
	struct puppet_options opt = {
		.transport = variant->transport,
		.uring_flags = variant->uring_flags,
		.nr_queues = 2,
		.depth = 2,
	};
	struct requester r;

	if (why)
		SKIP(return, "%s", why);
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two CPUs");
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	ASSERT_EQ(0, puppet_setup(&self->p));
	if (init_first)
		ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm_queue(&self->p, 0));
	if (!init_first)
		ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_serve(&self->p, &r));
}

FIXTURE_TEARDOWN(threads)
{
	puppet_stop(&self->p);
}

/* The thread of queue 1. */
static int server_thread_start(struct puppet_thread *t, struct puppet *p)
{
	t->slots[0].qid = 1;
	t->slots[0].nr = p->setup.queue_depth + p->setup.nr_control;
	return puppet_thread_start(t, p);
}

/*
 * Up to where this thread has a request in hand, by one of its slots: there are
 * no others while it is sent.
 */
static void give_request(struct __test_metadata *_metadata, struct puppet *p,
			 struct puppet_thread *t, struct requester *r)
{
	ASSERT_EQ(0, server_thread_start(t, p));
	puppet_close_uring(p);
	ASSERT_TRUE(ring_queue_stat_becomes(p->conn, 0, "live", 0));
	ASSERT_EQ(0, requester_start(r, request_stat, FILE2));
	ASSERT_TRUE(puppet_thread_holds(t, 1));
	ASSERT_EQ(0, puppet_uring(p));
	ASSERT_EQ(0, puppet_arm_queue(p, 0));
}

/* Its CPUs' requests are served by the queue that is left. */
TEST_F(threads, one_ends)
{
	static struct puppet_thread t;
	struct requester r;
	long before;

	ASSERT_EQ(0, server_thread_start(&t, &self->p));
	puppet_thread_end(&t);
	before = ring_queue_stat(self->p.conn, 0, "requests");
	ASSERT_EQ(0, puppet_requester_at(&self->p, 1, &r, request_stat, FILE2));
	EXPECT_EQ(0, puppet_serve(&self->p, &r));
	EXPECT_LT(before, ring_queue_stat(self->p.conn, 0, "requests"));
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
	puppet_thread_free(&t);
}

/* What it had in hand stays in its slot, and may be answered by another. */
TEST_F(threads, one_ends_with_a_request)
{
	static struct puppet_thread t = { .hold = FUSE_GETATTR };
	struct requester r, other;

	give_request(_metadata, &self->p, &t, &r);
	puppet_thread_end(&t);
	EXPECT_EQ(1, t.held.req[0]->qid);
	ASSERT_EQ(0, puppet_requester_at(&self->p, 1, &other, request_stat, FILE2));
	EXPECT_EQ(0, puppet_serve(&self->p, &other));

	EXPECT_FALSE(requester_ended(&r, NULL, 0));
	ASSERT_EQ(0, puppet_answer(&self->p, t.held.req[0]));
	EXPECT_EQ(0, puppet_serve(&self->p, &r));
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
	puppet_thread_free(&t);
}

TEST_F(threads, one_ends_and_the_rest_aborts)
{
	static struct puppet_thread t = { .hold = FUSE_GETATTR };
	struct requester r, other;

	give_request(_metadata, &self->p, &t, &r);
	puppet_thread_end(&t);
	ASSERT_EQ(0, puppet_requester_at(&self->p, 1, &other, request_stat, FILE2));
	/* Both wait for answers, and are not only about to send. */
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 2));
	ASSERT_TRUE(requester_sleeps(&other));
	ASSERT_EQ(0, conn_abort(self->p.conn));
	EXPECT_EQ(ECONNABORTED, requester_join(&r));
	EXPECT_EQ(ECONNABORTED, requester_join(&other));
	puppet_thread_free(&t);
}

/* With the io_uring of a thread, its slots go at once. */
TEST_F(threads, io_uring_of_one_ends)
{
	static struct puppet_thread t;
	struct requester r;

	ASSERT_EQ(0, server_thread_start(&t, &self->p));
	puppet_thread_end(&t);
	puppet_thread_free(&t);
	EXPECT_TRUE(ring_queues_stat_becomes(self->p.conn, "live", 1));
	ASSERT_EQ(0, puppet_requester_at(&self->p, 1, &r, request_stat, FILE2));
	EXPECT_EQ(0, puppet_serve(&self->p, &r));
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
}

/*
 * A server that asks its own filesystem: its request goes to a queue that it
 * does not serve itself.
 */
TEST_F(threads, server_as_requester)
{
	static struct puppet_thread t;
	unsigned int i;

	ASSERT_EQ(0, server_thread_start(&t, &self->p));
	ASSERT_EQ(0, puppet_bind(&self->p, 0));
	for (i = 0; i < 10; i++)
		EXPECT_EQ(0, request_stat(FILE2));
	puppet_thread_end(&t);
	EXPECT_TRUE(puppet_all_by_ring(&self->p));
	puppet_thread_free(&t);
}

/* Requests that were there before the ring was. */
FIXTURE(early)
{
	struct puppet p;
	struct requester r;
};

FIXTURE_SETUP(early)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = 1,
		.depth = 1,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
}

FIXTURE_TEARDOWN(early)
{
	puppet_stop(&self->p);
}

TEST_F(early, before_setup)
{
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	/* FUSE_INIT is the other. */
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 2));
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm(&self->p));
	ASSERT_EQ(0, puppet_init(&self->p));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
}

TEST_F(early, before_armed)
{
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, 1));
	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm(&self->p));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_EQ(1, ring_stat(self->p.conn, "requests_dev"));
	EXPECT_LT(0, ring_stat(self->p.conn, "requests_ring"));
}

/* One that /dev/fuse has handed out is answered there. */
TEST_F(early, read_before_armed)
{
	static struct puppet_req req;

	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_LOOKUP));
	ASSERT_FALSE(req.ring);
	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm(&self->p));
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
	EXPECT_TRUE(req.ring);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* INIT refused: nobody waits for it for ever. */
TEST_F(early, init_fails)
{
	static struct puppet_req req;

	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm(&self->p));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_INIT));
	ASSERT_EQ(0, puppet_reply(&self->p, &req, -EPROTO, NULL, 0));
	EXPECT_EQ(ECONNREFUSED, requester_join(&self->r));
}

TEST_HARNESS_MAIN
