// SPDX-License-Identifier: GPL-2.0
/*
 * A server dies and another one takes its place, on the same connection: what
 * the first one had in hand is sent again when the second one asks for it, and
 * nobody who made a request notices more than that it took some time.
 *
 * Somebody has to keep the descriptor of /dev/fuse meanwhile; here it is the
 * test itself, which is the second server, too.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "proto.h"
#include "puppet.h"

#define FILE2		(TEST_MNT "/f2")
#define DEFER	(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)
#define HEADER		((int)sizeof(struct fuse_out_header))
#define DEPTH		4
#define REQUESTS	7

/* What the first server does after FUSE_INIT. */
struct plan {
	__u32 opcode;		/* takes requests of this opcode */
	unsigned int hold;	/* so many, and then does nothing more */
	unsigned int serve_ms;	/* or serves for so long */
	bool exec;		/* at SIGUSR1 it becomes another program */
	bool initialized;	/* it is not the first one */
	bool own_file;		/* has a file of its own mount open */
	bool close_uring;	/* at SIGUSR1 it closes its io_uring, and says so */
	__u64 *id;		/* commit_id of the first one, in shared memory */
};

static int resend(struct puppet *p)
{
	int ret = puppet_notify(p, FUSE_NOTIFY_RESEND, NULL, 0);

	return ret < 0 ? ret : ret == HEADER ? 0 : -EPROTO;
}

static void *open_thread(void *arg)
{
	int *fd = arg;

	__atomic_store_n(fd, open(FILE2, O_RDWR | O_CLOEXEC), __ATOMIC_RELEASE);
	return NULL;
}

/* By another thread, whom this one serves. */
static int open_own_file(struct puppet *p)
{
	static struct puppet_req req;
	pthread_t thread;
	int fd = -2;

	if (pthread_create(&thread, NULL, open_thread, &fd))
		return -EAGAIN;
	while (__atomic_load_n(&fd, __ATOMIC_ACQUIRE) == -2)
		if (puppet_next(p, &req, 1) == PUPPET_REQUEST)
			puppet_answer(p, &req);
	pthread_join(thread, NULL);
	return fd < 0 ? -EIO : 0;
}

static int first_server(struct puppet *p, const struct plan *plan, int ready)
{
	static struct puppet_held held;
	static struct puppet_req req;
	sigset_t set;
	__u64 end;
	int sig;

	/* It may come before it is waited for. */
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (plan->initialized ? puppet_ring(p) || resend(p) : puppet_begin(p))
		return 1;
	if (plan->own_file && open_own_file(p))
		return 5;
	if (write(ready, "i", 1) != 1)
		return 2;
	end = now_ms() + plan->serve_ms;
	while (now_ms() < end)
		if (puppet_next(p, &req, 1) == PUPPET_REQUEST)
			puppet_answer(p, &req);
	if (plan->hold && puppet_hold(p, &held, plan->opcode, plan->hold))
		return 3;
	if (plan->id)
		*plan->id = held.req[0]->commit_id;
	if (plan->hold && write(ready, "h", 1) != 1)
		return 3;
	do {
		sigwait(&set, &sig);
		if (plan->close_uring) {
			puppet_close_uring(p);
			if (write(ready, "c", 1) != 1)
				return 6;
		}
	} while (!plan->exec);
	execl("/bin/sleep", "sleep", "1000", NULL);
	return 4;
}

struct server {
	struct requester process;
	int ready;
};

static int server_start(struct server *s, struct puppet *p,
			const struct plan *plan)
{
	int fds[2], ret = -EIO;
	char c;

	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	fflush(NULL);
	s->process.pid = fork();
	if (s->process.pid < 0)
		return -errno;
	if (!s->process.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(first_server(p, plan, fds[1]));
	}
	close(fds[1]);
	s->ready = fds[0];
	s->process.pidfd = syscall(SYS_pidfd_open, s->process.pid, 0);
	if (s->process.pidfd >= 0 && read(s->ready, &c, 1) == 1)
		ret = 0;
	return ret;
}

/* It has in hand what it was to take. */
static int server_holds(struct server *s)
{
	char c;

	return read(s->ready, &c, 1) == 1 ? 0 : -EIO;
}

/* It lives on, as another program, which has closed the pipe. */
static int server_exec(struct server *s)
{
	char c;

	kill(s->process.pid, SIGUSR1);
	return read(s->ready, &c, 1) ? -EIO : 0;
}

/* It lives on, without its io_uring. */
static int server_closes_uring(struct server *s)
{
	kill(s->process.pid, SIGUSR1);
	return server_holds(s);
}

static int server_kill(struct server *s)
{
	kill(s->process.pid, SIGKILL);
	close(s->ready);
	return requester_join(&s->process);
}

/* io_uring may be busy with the dead server's commands for a moment. */
static int setup_again(struct puppet *p)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	int ret;

	if (p->opt.transport == TRANSPORT_DEV)
		return 0;
	while ((ret = puppet_setup(p)) == -EBUSY && now_ms() < end) {
		/* Or a living one's, whose task work this thread has to do. */
		puppet_enter(p);
		sleep_ms(1);
	}
	return ret;
}

FIXTURE(restart)
{
	struct puppet p;
	struct puppet_held held;
	struct server s;
	struct requester r[REQUESTS];
	/* That were in the hands of the server when it died. */
	unsigned int lost;
};

FIXTURE_VARIANT(restart)
{
	enum test_transport transport;
	unsigned int uring_flags;
	unsigned int control;
};

FIXTURE_VARIANT_ADD(restart, dev) {
	.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(restart, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(restart, ring_control) {
	.transport = TRANSPORT_RING,
	.control = 2,
};

FIXTURE_VARIANT_ADD(restart, ring_defer) {
	.transport = TRANSPORT_RING,
	.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(restart, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_VARIANT_ADD(restart, user_defer) {
	.transport = TRANSPORT_USER,
	.uring_flags = DEFER,
};

static void nothing(int sig)
{
}

FIXTURE_SETUP(restart)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = DEPTH,
		.control = variant->control,
		.payload = 256 << 10,
		.max_write = 128 << 10,
		.init_flags = FUSE_ASYNC_READ,
		.max_readahead = PUPPET_READAHEAD,
	};
	struct sigaction act = { .sa_handler = nothing };

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, sigaction(SIGUSR1, &act, NULL));
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	ASSERT_EQ(0, setup_again(&self->p));
	/* The next ring is another one. */
	self->p.opt.depth = 3;
	self->p.opt.payload = 512 << 10;
	if (sysconf(_SC_NPROCESSORS_CONF) > 1)
		self->p.opt.nr_queues = 2;
}

FIXTURE_TEARDOWN(restart)
{
	int conn = self->p.conn;

	puppet_stop(&self->p);
	EXPECT_TRUE(conn_gone(conn));
}

/* Requests everywhere: in the server's hands, in slots, and waiting. */
static void hand_out_requests(struct __test_metadata *_metadata,
			      struct _test_data_restart *self, bool exec)
{
	struct plan plan = { .opcode = FUSE_GETATTR, .hold = 2, .exec = exec };
	unsigned int i;
	__u64 end;
	int nr;

	ASSERT_EQ(0, server_start(&self->s, &self->p, &plan));
	/* Of the root, which has been looked up. */
	for (i = 0; i < REQUESTS; i++)
		ASSERT_EQ(0, requester_start(&self->r[i], request_stat,
					     TEST_MNT));
	ASSERT_EQ(0, server_holds(&self->s));
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, REQUESTS));
	self->lost = 2;
	if (transport_rings(self->p.opt.transport)) {
		ASSERT_TRUE(ring_requests_become(self->p.conn, REQUESTS));
		/* Slots that are free are filled, unless it has to ask. */
		end = now_ms() + TEST_WAIT_MS;
		do {
			nr = ring_slots(self->p.conn, NULL, 0);
		} while (!(self->p.opt.uring_flags & IORING_SETUP_DEFER_TASKRUN) &&
			 nr < DEPTH && now_ms() < end);
		ASSERT_LE(2, nr);
		self->lost = nr;
		return;
	}
	/* For the answer: who is only about to send ends otherwise. */
	for (i = 0; i < REQUESTS; i++)
		ASSERT_TRUE(requester_sleeps(&self->r[i]));
}

static void lose_requests(struct __test_metadata *_metadata,
			  struct _test_data_restart *self)
{
	hand_out_requests(_metadata, self, false);
	EXPECT_EQ(-SIGKILL, server_kill(&self->s));
}

/* Takes @nr GETATTRs, which are all sent again or all are not. */
static void take(struct __test_metadata *_metadata, struct puppet *p,
		 unsigned int nr, bool again)
{
	static struct puppet_req req;

	while (nr--) {
		ASSERT_EQ(0, puppet_until(p, &req, FUSE_GETATTR));
		EXPECT_EQ(transport_rings(p->opt.transport), req.ring);
		EXPECT_EQ(again, !!(req.in.unique & FUSE_UNIQUE_RESEND));
		ASSERT_EQ(0, puppet_answer(p, &req));
	}
	EXPECT_TRUE(puppet_none(p, FUSE_GETATTR));
}

/* It is all over, and the connection is as good as a new one. */
static void all_well(struct __test_metadata *_metadata,
		     struct _test_data_restart *self)
{
	struct requester r;

	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	EXPECT_EQ(0, puppet_serve(&self->p, &r));
	if (transport_rings(self->p.opt.transport)) {
		EXPECT_TRUE(puppet_all_by_ring(&self->p));
		EXPECT_TRUE(ring_queues_stat_becomes(self->p.conn, "busy", 0));
		EXPECT_EQ(0, ring_slots(self->p.conn, NULL, 0));
	}
}

TEST_F(restart, of_a_killed_server)
{
	unsigned int i;

	lose_requests(_metadata, self);
	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	if (variant->transport == TRANSPORT_RING) {
		EXPECT_EQ(3, ring_stat(self->p.conn, "queue_depth"));
		EXPECT_EQ(self->p.opt.nr_queues,
			  ring_stat(self->p.conn, "queues"));
		EXPECT_EQ(512 << 10, ring_stat(self->p.conn, "payload_size"));
	}
	take(_metadata, &self->p, REQUESTS - self->lost, false);
	ASSERT_EQ(0, resend(&self->p));
	take(_metadata, &self->p, self->lost, true);
	for (i = 0; i < REQUESTS; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
	/* Once is enough. */
	ASSERT_EQ(0, resend(&self->p));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));
	all_well(_metadata, self);
}

/* The message may be written to /dev/fuse as well, and come before slots do. */
TEST_F(restart, resend_by_write)
{
	struct fuse_out_header out = {
		.len = sizeof(out),
		.error = FUSE_NOTIFY_RESEND,
	};
	unsigned int i, again = 0;
	static struct puppet_req req;

	lose_requests(_metadata, self);
	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(HEADER, write(self->p.fd, &out, sizeof(out)));
	ASSERT_EQ(0, puppet_ring(&self->p));
	for (i = 0; i < REQUESTS; i++) {
		ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
		again += !!(req.in.unique & FUSE_UNIQUE_RESEND);
		ASSERT_EQ(0, puppet_answer(&self->p, &req));
	}
	EXPECT_EQ(self->lost, again);
	for (i = 0; i < REQUESTS; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));
	all_well(_metadata, self);
}

/*
 * The process stays, but knows nothing any more of what it has in hand.  With
 * DEFER_TASKRUN, exec has delivered some of that.
 */
TEST_F(restart, of_another_program)
{
	unsigned int i, again = 0;
	static struct puppet_req req;

	hand_out_requests(_metadata, self, true);
	ASSERT_EQ(0, server_exec(&self->s));
	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	ASSERT_EQ(0, resend(&self->p));
	for (i = 0; i < REQUESTS; i++) {
		ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
		again += !!(req.in.unique & FUSE_UNIQUE_RESEND);
		ASSERT_EQ(0, puppet_answer(&self->p, &req));
	}
	EXPECT_LE(self->lost, again);
	for (i = 0; i < REQUESTS; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));
	all_well(_metadata, self);
	EXPECT_EQ(-SIGKILL, server_kill(&self->s));
}

/* The second server dies as the first one did. */
TEST_F(restart, twice)
{
	struct plan plan = {
		.opcode = FUSE_GETATTR,
		.hold = 3,
		.initialized = true,
	};
	unsigned int i, again = 0;
	static struct puppet_req req;

	lose_requests(_metadata, self);
	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, server_start(&self->s, &self->p, &plan));
	ASSERT_EQ(0, server_holds(&self->s));
	EXPECT_EQ(-SIGKILL, server_kill(&self->s));

	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	ASSERT_EQ(0, resend(&self->p));
	for (i = 0; i < REQUESTS; i++) {
		ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
		again += !!(req.in.unique & FUSE_UNIQUE_RESEND);
		ASSERT_EQ(0, puppet_answer(&self->p, &req));
	}
	EXPECT_LE(3, again);
	EXPECT_LE(self->lost, again);
	for (i = 0; i < REQUESTS; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));
	all_well(_metadata, self);
}

/* Who waits can be killed, unless the request was with the server. */
TEST_F(restart, requesters_are_killed)
{
	unsigned int i, ended = 0;
	__u64 end;

	lose_requests(_metadata, self);
	for (i = 0; i < REQUESTS; i++)
		kill(self->r[i].pid, SIGKILL);
	/* The others are told by the second server. */
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, self->lost));
	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));
	ASSERT_EQ(0, resend(&self->p));
	/* They are told, or their requests end as they wait once more. */
	end = now_ms() + TEST_WAIT_MS;
	for (i = 0; i < REQUESTS && now_ms() < end; i++) {
		EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &self->r[i]));
		ended++;
	}
	EXPECT_EQ(REQUESTS, ended);
	all_well(_metadata, self);
}

/* Nobody came to take its place. */
TEST_F(restart, aborted_in_between)
{
	unsigned int i;

	lose_requests(_metadata, self);
	ASSERT_EQ(0, conn_abort(self->p.conn));
	for (i = 0; i < REQUESTS; i++)
		EXPECT_EQ(ECONNABORTED, requester_join(&self->r[i]));
	if (variant->transport == TRANSPORT_RING)
		EXPECT_EQ(-ENOTCONN, setup_again(&self->p));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

/* Or was there, and did not ask. */
TEST_F(restart, aborted_before_resend)
{
	unsigned int i;

	lose_requests(_metadata, self);
	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	take(_metadata, &self->p, REQUESTS - self->lost, false);
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, self->lost));
	ASSERT_EQ(0, conn_abort(self->p.conn));
	for (i = 0; i < REQUESTS; i++)
		EXPECT_NE(REQUESTER_HANGS, requester_join(&self->r[i]));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

/* The second server is told of the interrupt, too. */
TEST_F(restart, interrupted)
{
	struct plan plan = { .opcode = FUSE_GETATTR, .hold = 1 };
	static struct puppet_req intr;

	ASSERT_EQ(0, server_start(&self->s, &self->p, &plan));
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, TEST_MNT));
	ASSERT_EQ(0, server_holds(&self->s));
	kill(self->r[0].pid, SIGUSR1);
	EXPECT_TRUE(requester_sleeps(&self->r[0]));
	EXPECT_EQ(-SIGKILL, server_kill(&self->s));

	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	ASSERT_EQ(0, resend(&self->p));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	EXPECT_NE(0, self->held.req[0]->in.unique & FUSE_UNIQUE_RESEND);
	ASSERT_EQ(0, puppet_until(&self->p, &intr, FUSE_INTERRUPT));
	EXPECT_EQ(self->held.req[0]->in.unique, intr.interrupt.unique);
	EXPECT_EQ(variant->control > 0, intr.ring);
	ASSERT_EQ(0, puppet_answer(&self->p, &intr));
	ASSERT_EQ(0, puppet_reply(&self->p, self->held.req[0], -EINTR, NULL,
				  0));
	EXPECT_EQ(EINTR, puppet_serve(&self->p, &self->r[0]));
	all_well(_metadata, self);
}

/* Data that is read and written in the background, and its accounting. */
TEST_F(restart, background)
{
	struct puppet_io io = { .path = FILE2, .len = 4 * PUPPET_READAHEAD };
	struct plan plan = { .opcode = FUSE_READ, .hold = 1 };
	unsigned int i, again = 0, reads = 0;
	static struct puppet_req req;
	__u64 end = now_ms() + TEST_WAIT_MS;
	bool ended = false;
	int ret = -1;

	ASSERT_EQ(0, server_start(&self->s, &self->p, &plan));
	ASSERT_EQ(0, requester_start(&self->r[0], request_readahead, &io));
	ASSERT_EQ(0, server_holds(&self->s));
	EXPECT_EQ(-SIGKILL, server_kill(&self->s));
	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	ASSERT_EQ(0, resend(&self->p));
	while (now_ms() < end) {
		/* It can be asked only once. */
		ended = ended || requester_ended(&self->r[0], &ret, 0);
		if (ended && !conn_ctl_read(self->p.conn, "waiting"))
			break;
		if (puppet_next(&self->p, &req, 10) != PUPPET_REQUEST)
			continue;
		if (req.in.opcode == FUSE_READ) {
			reads++;
			again += !!(req.in.unique & FUSE_UNIQUE_RESEND);
		}
		ASSERT_EQ(0, puppet_answer(&self->p, &req));
	}
	EXPECT_TRUE(ended);
	EXPECT_EQ(0, ret);
	EXPECT_EQ(4, reads);
	EXPECT_LE(1, again);
	if (transport_rings(variant->transport))
		EXPECT_EQ(0, ring_queues_stat(self->p.conn, "background"));
	/* And once more than any limit of them. */
	for (i = 1; i < 20; i++) {
		io.offset = i * io.len;
		ASSERT_EQ(0, requester_start(&self->r[0], request_readahead,
					     &io));
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	}
	ASSERT_EQ(0, puppet_settle(&self->p));
	all_well(_metadata, self);
}

/* A forget has no answer: the message that died with the server is done. */
TEST_F(restart, forgets)
{
	struct plan plan = { .opcode = FUSE_FORGET, .hold = 1 };
	static struct puppet_req req;
	unsigned int i, round;
	char path[64];

	ASSERT_EQ(0, server_start(&self->s, &self->p, &plan));
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ASSERT_EQ(0, requester_join(&self->r[0]));
	/* The kernel may keep an inode for a second round. */
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, file_write("/proc/sys/vm/drop_caches", "2"));
	ASSERT_EQ(0, server_holds(&self->s));
	EXPECT_EQ(-SIGKILL, server_kill(&self->s));
	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	ASSERT_EQ(0, resend(&self->p));
	/* The next ones come. */
	for (round = 0; round < 3; round++) {
		unsigned int forgets = 0;

		for (i = 10; i < 20; i++) {
			snprintf(path, sizeof(path), TEST_MNT "/f%u", i);
			ASSERT_EQ(0, requester_start(&self->r[0], request_stat,
						     path));
			ASSERT_EQ(0, puppet_serve(&self->p, &self->r[0]));
		}
		for (i = 0; i < 20 && forgets < 10; i++) {
			ASSERT_EQ(0, file_write("/proc/sys/vm/drop_caches",
						"2"));
			while (puppet_next_settled(&self->p, &req) ==
			       PUPPET_REQUEST) {
				forgets += puppet_nr_forgets(&req);
				EXPECT_EQ(variant->control > 0, req.ring);
				ASSERT_EQ(0, puppet_answer(&self->p, &req));
			}
		}
		EXPECT_EQ(10, forgets);
	}
	all_well(_metadata, self);
}

/* What is in the hands of one who lives is not sent again by the ring. */
TEST_F(restart, of_nobody)
{
	static struct puppet_req req;
	unsigned int i;
	__u64 unique;

	self->p.opt.nr_queues = 1;
	ASSERT_EQ(0, puppet_begin(&self->p));
	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, TEST_MNT));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	unique = self->held.req[0]->in.unique;
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, resend(&self->p));
	if (variant->transport == TRANSPORT_DEV) {
		/* Read(2) does not know who has it. */
		ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
		EXPECT_EQ(unique | FUSE_UNIQUE_RESEND, req.in.unique);
		ASSERT_EQ(0, puppet_answer(&self->p, &req));
	} else {
		EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));
		ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	}
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));
}

/*
 * A server cannot end before its file is closed, which takes an answer of the
 * next one: that must get a ring meanwhile.
 */
static void replace_one_that_exits(struct __test_metadata *_metadata,
				   struct _test_data_restart *self,
				   unsigned int hold)
{
	struct plan plan = {
		.opcode = FUSE_GETATTR,
		.hold = hold,
		.own_file = true,
	};
	unsigned int i;

	ASSERT_EQ(0, server_start(&self->s, &self->p, &plan));
	for (i = 0; i < hold; i++)
		ASSERT_EQ(0, requester_start(&self->r[i], request_stat,
					     TEST_MNT));
	if (hold)
		ASSERT_EQ(0, server_holds(&self->s));
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, hold));
	kill(self->s.process.pid, SIGKILL);
	close(self->s.ready);
	/* The FLUSH of its file, which nobody can answer. */
	ASSERT_TRUE(conn_waiting_becomes(self->p.conn, hold + 1));
	EXPECT_FALSE(requester_ended(&self->s.process, NULL, 0));

	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	ASSERT_EQ(0, resend(&self->p));
	EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &self->s.process));
	for (i = 0; i < hold; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
	ASSERT_EQ(0, puppet_settle(&self->p));
	all_well(_metadata, self);
}

TEST_F(restart, of_one_that_exits)
{
	replace_one_that_exits(_metadata, self, 0);
}

TEST_F(restart, of_one_that_exits_with_requests)
{
	replace_one_that_exits(_metadata, self, 2);
}

/*
 * Whether a request may end like that when its server is killed.  What
 * /dev/fuse is copying for the server at that moment ends with EIO.
 */
static bool may_end(enum test_transport transport, int result)
{
	return !result || (result == EIO && transport == TRANSPORT_DEV);
}

/* Servers that come and go under load, each for a short time. */
TEST_F_TIMEOUT(restart, again_and_again, 3 * TEST_TIMEOUT)
{
	static const struct puppet_io io = {
		.path = TEST_MNT "/f3",
		.len = 64 << 10,
		.flags = O_RDONLY | O_DIRECT,
		.check = true,
	};
	__u64 seed = test_seed(), end = now_ms() + 4 * test_ms();
	struct plan plan = { 0 };
	unsigned int i, rounds = 0;
	struct requester reader;
	int result;

	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, requester_start(&self->r[i],
					     request_stats_for_ever, FILE2));
	ASSERT_EQ(0, requester_start(&reader, request_read, &io));
	do {
		if (rounds)
			ASSERT_EQ(0, setup_again(&self->p));
		plan.serve_ms = test_random(&seed) % 100;
		plan.initialized = rounds > 0;
		ASSERT_EQ(0, server_start(&self->s, &self->p, &plan));
		usleep(test_random(&seed) % 100000);
		EXPECT_EQ(-SIGKILL, server_kill(&self->s));
		rounds++;
		if (requester_ended(&reader, &result, 0)) {
			EXPECT_TRUE(may_end(variant->transport, result))
				TH_LOG("reader ended with %d", result);
			ASSERT_EQ(0, requester_start(&reader, request_read,
						     &io));
		}
	} while (now_ms() < end || rounds < 3);
	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	ASSERT_EQ(0, resend(&self->p));
	result = puppet_serve(&self->p, &reader);
	EXPECT_TRUE(may_end(variant->transport, result))
		TH_LOG("reader ended with %d", result);
	for (i = 0; i < 3; i++) {
		if (requester_ended(&self->r[i], &result, 0)) {
			EXPECT_TRUE(result &&
				    may_end(variant->transport, result))
				TH_LOG("requester ended with %d", result);
			continue;
		}
		kill(self->r[i].pid, SIGKILL);
		EXPECT_EQ(-SIGKILL, puppet_serve(&self->p, &self->r[i]));
	}
	ASSERT_EQ(0, puppet_settle(&self->p));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

/* Another ring on the same connection: when it is granted, and what it is. */
FIXTURE(ring)
{
	struct puppet p;
	struct puppet_held held;
	struct server s;
	struct requester r;
};

FIXTURE_VARIANT(ring)
{
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(ring, plain) {
	.uring_flags = 0,
};

FIXTURE_VARIANT_ADD(ring, defer) {
	.uring_flags = DEFER,
};

FIXTURE_SETUP(ring)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 1,
		.payload = 512 << 10,
		.max_write = 256 << 10,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	ASSERT_EQ(0, puppet_setup(&self->p));
}

FIXTURE_TEARDOWN(ring)
{
	puppet_stop(&self->p);
}

static int setup_now(struct puppet *p, unsigned int payload)
{
	struct fuse_uring_setup setup = {
		.size = sizeof(setup),
		.nr_queues = 1,
		.payload_size = payload,
	};

	return ioctl(p->fd, FUSE_DEV_IOC_URING_SETUP, &setup) ? -errno : 0;
}

TEST_F(ring, busy_while_armed_or_held)
{
	struct plan plan = { .opcode = FUSE_GETATTR, .hold = 1 };
	static struct puppet_req req;

	ASSERT_EQ(0, server_start(&self->s, &self->p, &plan));
	EXPECT_EQ(-EBUSY, setup_now(&self->p, 0));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, TEST_MNT));
	ASSERT_EQ(0, server_holds(&self->s));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "parked"));
	EXPECT_EQ(-EBUSY, setup_now(&self->p, 0));
	EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "busy"));
	EXPECT_TRUE(requester_sleeps(&self->r));
	EXPECT_EQ(-SIGKILL, server_kill(&self->s));

	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	EXPECT_EQ(-EBUSY, setup_now(&self->p, 0));
	ASSERT_EQ(0, resend(&self->p));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
	EXPECT_EQ(-EBUSY, setup_now(&self->p, 0));
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* What has been negotiated must fit. */
TEST_F(ring, payload_too_small)
{
	struct plan plan = { .opcode = FUSE_GETATTR, .hold = 1 };
	static struct puppet_req req;
	__u64 end;
	int ret;

	ASSERT_EQ(0, server_start(&self->s, &self->p, &plan));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, TEST_MNT));
	ASSERT_EQ(0, server_holds(&self->s));
	EXPECT_EQ(-SIGKILL, server_kill(&self->s));
	end = now_ms() + TEST_WAIT_MS;
	while ((ret = setup_now(&self->p, FUSE_URING_MIN_PAYLOAD)) == -EBUSY &&
	       now_ms() < end)
		sleep_ms(1);
	EXPECT_EQ(-EMSGSIZE, ret);
	EXPECT_EQ(-EMSGSIZE, setup_now(&self->p, (512 << 10) - getpagesize()));
	/* The old one is still there. */
	EXPECT_EQ(512 << 10, ring_stat(self->p.conn, "payload_size"));
	EXPECT_FALSE(requester_ended(&self->r, NULL, 0));
	self->p.opt.payload = 1 << 20;
	ASSERT_EQ(0, setup_again(&self->p));
	EXPECT_EQ(1 << 20, ring_stat(self->p.conn, "payload_size"));
	ASSERT_EQ(0, puppet_ring(&self->p));
	ASSERT_EQ(0, resend(&self->p));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* Who has mapped the old ring has its memory, and nothing of the new one. */
TEST_F(ring, old_mapping_stays)
{
	struct plan plan = { .opcode = FUSE_GETATTR, .hold = 1 };
	struct fuse_uring_setup old = self->p.setup;
	struct fuse_in_header *in, copy;
	static struct puppet_req req;
	char *map;

	map = mmap(NULL, old.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		   self->p.fd, 0);
	ASSERT_NE(MAP_FAILED, (void *)map);
	in = (void *)(map + old.header_offset);
	ASSERT_EQ(0, server_start(&self->s, &self->p, &plan));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, TEST_MNT));
	ASSERT_EQ(0, server_holds(&self->s));
	copy = *in;
	EXPECT_EQ(FUSE_GETATTR, copy.opcode);
	EXPECT_EQ(-SIGKILL, server_kill(&self->s));

	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	EXPECT_EQ(0, memcmp(in, &copy, sizeof(copy)));
	ASSERT_EQ(0, resend(&self->p));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
	EXPECT_EQ(copy.unique | FUSE_UNIQUE_RESEND, req.in.unique);
	EXPECT_EQ(0, memcmp(in, &copy, sizeof(copy)));
	memset(map, 0xff, old.mmap_size);
	EXPECT_EQ(req.in.unique, ((struct fuse_in_header *)
		  puppet_header(&self->p, req.qid, req.slot)->in_out)->unique);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_EQ((char)0xff, map[old.mmap_size - 1]);
	EXPECT_EQ(0, munmap(map, old.mmap_size));
}

/*
 * The first server is gone, or has closed its io_uring and lives on.  A reply
 * of it is late: its slot's number is one of the next ring's.
 */
static void commit_late(struct __test_metadata *_metadata,
			struct _test_data_ring *self, bool lives)
{
	struct plan plan = {
		.opcode = FUSE_GETATTR,
		.hold = 1,
		.close_uring = lives,
		.id = shared_alloc(sizeof(*plan.id)),
	};
	struct fuse_uring_slot_cmd late = { 0 };
	static struct puppet_req req;
	struct requester other;
	unsigned int i;

	ASSERT_NE(NULL, plan.id);
	ASSERT_EQ(0, server_start(&self->s, &self->p, &plan));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, TEST_MNT));
	ASSERT_EQ(0, server_holds(&self->s));
	late.commit_id = *plan.id;
	ASSERT_NE(0, late.commit_id);
	if (lives)
		ASSERT_EQ(0, server_closes_uring(&self->s));
	if (!lives)
		ASSERT_EQ(-SIGKILL, server_kill(&self->s));

	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	/* Whatever a slot has that counts its requests, it has been there. */
	for (i = 0; i < 5; i++) {
		ASSERT_EQ(0, requester_start(&other, request_stat, TEST_MNT));
		ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
		EXPECT_NE(late.commit_id, req.commit_id);
		/* What would be taken for a reply. */
		puppet_fill_reply(&self->p, &req, -EXDEV, NULL, 0);
		ASSERT_EQ(-ENOENT,
			  puppet_command_now(&self->p,
					     FUSE_URING_REQ_COMMIT_AND_FETCH,
					     &late));
		EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "busy"));
		ASSERT_EQ(0, puppet_answer(&self->p, &req));
		EXPECT_EQ(0, puppet_serve(&self->p, &other));
	}

	ASSERT_EQ(0, resend(&self->p));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
	EXPECT_NE(late.commit_id, req.commit_id);
	EXPECT_NE(0, req.in.unique & FUSE_UNIQUE_RESEND);
	ASSERT_EQ(-ENOENT, puppet_command_now(&self->p,
					      FUSE_URING_REQ_COMMIT_AND_FETCH,
					      &late));
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
	if (lives)
		EXPECT_EQ(-SIGKILL, server_kill(&self->s));
}

TEST_F(ring, late_commit_of_a_dead_server)
{
	commit_late(_metadata, self, false);
}

TEST_F(ring, late_commit_without_io_uring)
{
	commit_late(_metadata, self, true);
}

/* No commit_id is seen twice: in no slot, queue or ring of a connection. */
#define NR_IDS	100

struct ids {
	__u64 id[2 * NR_IDS];
	unsigned int nr;
};

/* Those of @nr requests, from each queue in turn and held in pairs. */
static int collect_ids(struct puppet *p, struct ids *ids, unsigned int nr)
{
	static struct puppet_held held;
	struct requester r[2];
	unsigned int i, j;
	int ret = 0;

	for (i = 0; i < nr && !ret; i += 2) {
		unsigned int qid = i / 2 % p->setup.nr_queues;

		for (j = 0; j < 2 && !ret; j++)
			ret = puppet_requester_at(p, qid, &r[j], request_stat,
						  TEST_MNT);
		if (!ret)
			ret = puppet_hold(p, &held, FUSE_GETATTR, 2);
		for (j = 0; j < 2 && !ret; j++)
			ids->id[ids->nr++] = held.req[j]->commit_id;
		if (!ret)
			ret = puppet_release_all(p, &held);
		for (j = 0; j < 2 && !ret; j++)
			ret = puppet_serve(p, &r[j]);
	}
	return ret;
}

struct ids_of {
	struct puppet *p;
	struct ids *ids;
};

static int ids_process(void *arg)
{
	struct ids_of *of = arg;

	return puppet_begin(of->p) || collect_ids(of->p, of->ids, NR_IDS);
}

static int compare_ids(const void *a, const void *b)
{
	__u64 x = *(const __u64 *)a, y = *(const __u64 *)b;

	return x < y ? -1 : x > y;
}

TEST_F(ring, ids_are_never_seen_twice)
{
	struct ids *ids = shared_alloc(sizeof(*ids));
	struct ids_of of = { &self->p, ids };
	unsigned int i, twice = 0;

	ASSERT_NE(NULL, ids);
	self->p.opt.depth = 3;
	if (sysconf(_SC_NPROCESSORS_CONF) > 1)
		self->p.opt.nr_queues = 2;
	ASSERT_EQ(0, setup_again(&self->p));
	/* It ends, and with it the first ring. */
	ASSERT_EQ(0, process_start(&self->s.process, ids_process, &of));
	ASSERT_EQ(0, requester_join(&self->s.process));
	ASSERT_EQ(NR_IDS, ids->nr);

	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	ASSERT_EQ(0, collect_ids(&self->p, ids, NR_IDS));
	ASSERT_EQ(2 * NR_IDS, ids->nr);
	qsort(ids->id, ids->nr, sizeof(ids->id[0]), compare_ids);
	EXPECT_NE(0, ids->id[0]);
	for (i = 1; i < ids->nr; i++)
		twice += ids->id[i] == ids->id[i - 1];
	EXPECT_EQ(0, twice);
}

/* A server that lives, and makes itself another ring. */
TEST_F(ring, after_detach)
{
	unsigned int depth;

	ASSERT_EQ(0, puppet_begin(&self->p));
	for (depth = 2; depth < 6; depth++) {
		/* Held is not answered. */
		ASSERT_EQ(0, requester_start(&self->r, request_stat, TEST_MNT));
		ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR,
					 1));
		ASSERT_EQ(0, puppet_detach(&self->p, 0));
		EXPECT_EQ(-EBUSY, setup_now(&self->p, 0));
		ASSERT_EQ(0, puppet_release(&self->p, &self->held));
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r));

		puppet_unmap(&self->p);
		self->p.opt.depth = depth;
		ASSERT_EQ(0, setup_again(&self->p));
		EXPECT_EQ(depth, ring_stat(self->p.conn, "queue_depth"));
		puppet_close_uring(&self->p);
		ASSERT_EQ(0, puppet_ring(&self->p));
		ASSERT_EQ(0, requester_start(&self->r, request_stat, TEST_MNT));
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
		EXPECT_EQ(depth, ring_queue_stat(self->p.conn, 0, "parked"));
	}
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

/* What completes with -ECANCELED need not have been told of to its owner. */
TEST_F(ring, before_the_detached_are_told)
{
	self->p.opt.depth = 4;
	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_ring(&self->p));
	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, TEST_MNT));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	/* With DEFER_TASKRUN, nothing from here on does any task work. */
	ASSERT_EQ(0, requester_join(&self->r));
	EXPECT_EQ(0, setup_now(&self->p, 0));
}

/* The server wanted to end cleanly, and dies before it has answered. */
TEST_F(ring, killed_after_detach)
{
	struct plan plan = { .opcode = FUSE_GETATTR, .hold = 1 };
	static struct puppet_req req;

	ASSERT_EQ(0, server_start(&self->s, &self->p, &plan));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, TEST_MNT));
	ASSERT_EQ(0, server_holds(&self->s));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	EXPECT_EQ(-EBUSY, setup_now(&self->p, 0));
	EXPECT_EQ(-SIGKILL, server_kill(&self->s));
	puppet_close_uring(&self->p);

	ASSERT_EQ(0, setup_again(&self->p));
	EXPECT_EQ(1, ring_stat(self->p.conn, "requests_held"));
	ASSERT_EQ(0, puppet_ring(&self->p));
	ASSERT_EQ(0, resend(&self->p));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
	EXPECT_NE(0, req.in.unique & FUSE_UNIQUE_RESEND);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

/* Without slots, requests are sent again before those that are newer. */
TEST_F(ring, resent_to_dev_first)
{
	struct plan plan = { .opcode = FUSE_GETATTR, .hold = 1 };
	static struct puppet_req req;
	struct requester r;

	ASSERT_EQ(0, server_start(&self->s, &self->p, &plan));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, TEST_MNT));
	ASSERT_EQ(0, server_holds(&self->s));
	EXPECT_EQ(-SIGKILL, server_kill(&self->s));
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 2));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, resend(&self->p));
	ASSERT_EQ(PUPPET_REQUEST,
		  puppet_next(&self->p, &req, TEST_WAIT_MS));
	EXPECT_FALSE(req.ring);
	EXPECT_EQ(FUSE_GETATTR, req.in.opcode);
	EXPECT_NE(0, req.in.unique & FUSE_UNIQUE_RESEND);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_EQ(0, puppet_serve(&self->p, &r));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

/* What a reader of /dev/fuse has died with comes to the ring, too. */
TEST_F(ring, resend_from_dev)
{
	static struct puppet_req req;

	ASSERT_EQ(0, puppet_begin(&self->p));
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	ASSERT_EQ(-ECANCELED, puppet_next(&self->p, &req, TEST_WAIT_MS));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, TEST_MNT));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
	ASSERT_FALSE(req.ring);
	/* It is never answered there. */
	ASSERT_EQ(0, puppet_arm(&self->p));
	ASSERT_EQ(0, resend(&self->p));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
	EXPECT_TRUE(req.ring);
	EXPECT_NE(0, req.in.unique & FUSE_UNIQUE_RESEND);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

/* Sent, not delivered, and sent back: who waits for it can be killed. */
TEST_F(ring, killed_after_detach_of_undelivered)
{
	ASSERT_EQ(0, puppet_begin(&self->p));
	/* Nobody enters the kernel to be told of it; with task work, somebody. */
	ASSERT_EQ(0, requester_start(&self->r, request_stat, TEST_MNT));
	ASSERT_TRUE(ring_requests_become(self->p.conn, 1));
	ASSERT_TRUE(requester_sleeps(&self->r));
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	kill(self->r.pid, SIGKILL);
	EXPECT_EQ(-SIGKILL, variant->uring_flags & IORING_SETUP_DEFER_TASKRUN ?
			    requester_join(&self->r) :
			    puppet_serve(&self->p, &self->r));
	EXPECT_TRUE(conn_waiting_becomes(self->p.conn, 0));
}

/* Before the first server has answered FUSE_INIT, or even seen it. */
TEST_F(ring, before_init)
{
	static struct puppet_req req;

	self->p.opt.depth = 2;
	ASSERT_EQ(0, setup_again(&self->p));
	EXPECT_EQ(2, ring_stat(self->p.conn, "queue_depth"));
	ASSERT_EQ(0, puppet_ring(&self->p));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_INIT));
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	EXPECT_EQ(-EBUSY, setup_now(&self->p, 0));
	EXPECT_EQ(0, conn_abort(self->p.conn));
}

/* A thread that dies with a request, while the rest of the server lives. */
struct taker {
	struct puppet p;
	struct puppet_req req;
	int result;
};

static void *taker(void *arg)
{
	struct taker *t = arg;

	t->result = puppet_uring(&t->p);
	if (!t->result)
		t->result = puppet_arm_slots(&t->p, 0, 1, 1);
	if (!t->result)
		t->result = puppet_until(&t->p, &t->req, FUSE_GETATTR);
	return NULL;
}

TEST_F(ring, of_a_thread)
{
	static struct puppet_req req;
	struct fuse_uring_slot_cmd late = { .slot = 1 };
	static struct taker t;
	struct requester other;
	pthread_t thread;
	__u64 end;
	int ret;

	self->p.opt.depth = 2;
	ASSERT_EQ(0, setup_again(&self->p));
	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 0, 1));
	ASSERT_EQ(0, puppet_init(&self->p));

	/* The slot of this thread is taken, so it is the other one's. */
	ASSERT_EQ(0, requester_start(&self->r, request_stat, TEST_MNT));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	t.p = self->p;
	t.p.have_uring = false;
	t.p.dev_ended = true;
	ASSERT_EQ(0, requester_start(&other, request_stat, TEST_MNT));
	ASSERT_EQ(0, pthread_create(&thread, NULL, taker, &t));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	ASSERT_EQ(0, t.result);
	puppet_close_uring(&t.p);

	/* As soon as the kernel knows that it has died. */
	end = now_ms() + TEST_WAIT_MS;
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	do {
		ASSERT_EQ(0, resend(&self->p));
		ret = puppet_next(&self->p, &req, 1);
	} while (ret == PUPPET_TIMEOUT && now_ms() < end);
	ASSERT_EQ(PUPPET_REQUEST, ret);
	EXPECT_EQ(t.req.in.unique | FUSE_UNIQUE_RESEND, req.in.unique);
	EXPECT_EQ(0, req.slot);
	/* What the dead one's reply would have been is late. */
	late.commit_id = t.req.commit_id;
	EXPECT_EQ(-ENOENT, puppet_command_now(&self->p,
					      FUSE_URING_REQ_COMMIT_AND_FETCH,
					      &late));
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, puppet_serve(&self->p, &other));
	ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 1, 1));
	EXPECT_TRUE(ring_queues_stat_becomes(self->p.conn, "parked", 2));
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
}

TEST_HARNESS_MAIN
