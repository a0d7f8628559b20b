// SPDX-License-Identifier: GPL-2.0
/*
 * FORGET and INTERRUPT over whatever they come by: /dev/fuse, or control slots
 * of the ring.  None is lost, none is told twice, and nobody waits for them.
 *
 * FUSE_TEST_FILES says how many files the large tests have.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "puppet.h"

#define FILE2		(TEST_MNT "/f2")
#define DEFER	(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)
#define FETCH	FUSE_URING_REQ_FETCH
#define COMMIT	FUSE_URING_REQ_COMMIT_AND_FETCH

/* As many as a page has room for. */
#define BATCH		256

/*
 * The files of a directory listing with attributes, which counts as a lookup
 * of each name.  Node ids follow each other, and have several names each.
 */
#define FIRST_NODEID	100

static struct {
	unsigned int files;
	unsigned int names;		/* of each file */
	__u32 *forgot;			/* lookups taken back, by file */
	__u64 looked_up;
	__u64 forgotten;
	unsigned int messages;
} ledger;

static int ledger_open(unsigned int files, unsigned int names)
{
	free(ledger.forgot);
	memset(&ledger, 0, sizeof(ledger));
	ledger.files = files;
	ledger.names = names;
	ledger.forgot = calloc(files, sizeof(*ledger.forgot));
	return ledger.forgot ? 0 : -ENOMEM;
}

/* Each file has been forgotten as often as it was looked up. */
static bool ledger_balanced(void)
{
	unsigned int i;

	for (i = 0; i < ledger.files; i++) {
		if (ledger.forgot[i] == ledger.names)
			continue;
		fprintf(stderr, "# file %u: %u of %u lookups forgotten\n", i,
			ledger.forgot[i], ledger.names);
		return false;
	}
	return ledger.looked_up == (__u64)ledger.files * ledger.names;
}

static int take_forgets(const struct puppet_req *req)
{
	unsigned int i, nr = puppet_nr_forgets(req);
	size_t len = sizeof(req->forget);

	if (req->in.opcode == FUSE_BATCH_FORGET)
		len = sizeof(req->batch_forget) + nr * sizeof(req->forgets[0]);
	if (!nr || req->arg_len != len)
		return -EPROTO;
	for (i = 0; i < nr; i++) {
		struct fuse_forget_one one = puppet_forget(req, i);

		if (!one.nlookup)
			return -EPROTO;
		/* FILE2 is in no listing. */
		if (one.nodeid == PUPPET_FILE)
			continue;
		if (one.nodeid < FIRST_NODEID ||
		    one.nodeid - FIRST_NODEID >= ledger.files)
			return -EPROTO;
		ledger.forgot[one.nodeid - FIRST_NODEID] += one.nlookup;
		ledger.forgotten += one.nlookup;
	}
	ledger.messages++;
	return 0;
}

static int answer_listing(struct puppet *p, const struct puppet_req *req)
{
	__u64 at, nr = (__u64)ledger.files * ledger.names;
	static char buf[1 << 16];
	size_t len = 0, room = req->read.size;

	if (room > sizeof(buf))
		room = sizeof(buf);
	for (at = req->read.offset; at < nr; at++) {
		struct fuse_direntplus *entry = (void *)(buf + len);
		__u64 nodeid = FIRST_NODEID + at / ledger.names;
		char name[64];
		size_t size;

		snprintf(name, sizeof(name), "n%llu.%llu",
			 (unsigned long long)nodeid,
			 (unsigned long long)(at % ledger.names));
		size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS +
					 strlen(name));
		if (len + size > room)
			break;
		memset(entry, 0, size);
		entry->entry_out = (struct fuse_entry_out){
			.nodeid = nodeid,
			.entry_valid = 3600,
			.attr_valid = 3600,
			.attr = { .ino = nodeid, .mode = S_IFREG | 0666,
				  .nlink = ledger.names },
		};
		entry->dirent.ino = nodeid;
		entry->dirent.off = at + 1;
		entry->dirent.type = DT_REG;
		entry->dirent.namelen = strlen(name);
		memcpy(entry->dirent.name, name, strlen(name));
		len += size;
		ledger.looked_up++;
	}
	return puppet_reply(p, req, 0, buf, len);
}

static int handle(struct puppet *p, const struct puppet_req *req)
{
	int ret;

	if (puppet_nr_forgets(req)) {
		ret = take_forgets(req);
		if (ret)
			return ret;
	}
	if (req->in.opcode == FUSE_READDIRPLUS)
		return answer_listing(p, req);
	return puppet_answer(p, req);
}

/* puppet_serve() with the ledger. */
static int serve(struct puppet *p, struct requester *r)
{
	__u64 end = now_ms() + 10 * TEST_WAIT_MS;
	static struct puppet_req req;
	int ret;

	while (now_ms() < end) {
		if (requester_ended(r, &ret, 0))
			return ret;
		while ((ret = puppet_next(p, &req, 2)) == PUPPET_REQUEST) {
			ret = handle(p, &req);
			if (ret)
				break;
		}
		if (ret != PUPPET_TIMEOUT)
			return ret;
	}
	return REQUESTER_HANGS;
}

/* puppet_settle() with the ledger. */
static int drain(struct puppet *p)
{
	static struct puppet_req req;
	int ret;

	while ((ret = puppet_next_settled(p, &req)) == PUPPET_REQUEST) {
		ret = handle(p, &req);
		if (ret)
			break;
	}
	return ret;
}

static int request_listing(const void *arg)
{
	DIR *dir = opendir(TEST_MNT);
	unsigned long long nr = 0;

	if (!dir)
		return -errno;
	errno = 0;
	while (readdir(dir))
		nr++;
	closedir(dir);
	if (errno)
		return -errno;
	return nr == (__u64)ledger.files * ledger.names ? 0 : -ENODATA;
}

/* Inodes that nobody uses are dropped. */
static int request_drop(const void *arg)
{
	return file_write("/proc/sys/vm/drop_caches", "2");
}

static int list(struct puppet *p)
{
	struct requester r;
	int ret = requester_start(&r, request_listing, NULL);

	if (!ret)
		ret = serve(p, &r);
	/* Nobody waits for the directory to be released. */
	return ret ? ret : drain(p);
}

/* The kernel keeps some inodes for a second round. */
static int drop(struct puppet *p)
{
	__u64 end = now_ms() + 5 * TEST_WAIT_MS;
	struct requester r;
	int ret = 0;

	while (!ret && ledger.forgotten < ledger.looked_up && now_ms() < end) {
		ret = requester_start(&r, request_drop, NULL);
		if (!ret)
			ret = serve(p, &r);
		if (!ret)
			ret = drain(p);
	}
	if (!ret && ledger.forgotten < ledger.looked_up)
		ret = -ETIMEDOUT;
	return ret;
}

static unsigned int many_files(void)
{
	const char *env = getenv("FUSE_TEST_FILES");

	if (env && atoi(env) > 0)
		return atoi(env);
	return kernel_debugs() ? 20000 : 500000;
}

FIXTURE(control)
{
	struct puppet p;
	struct requester r;
};

FIXTURE_VARIANT(control)
{
	enum test_transport transport;
	unsigned int uring_flags;
	unsigned int control;
};

FIXTURE_VARIANT_ADD(control, dev) {
	.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(control, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(control, ring_control) {
	.transport = TRANSPORT_RING,
	.control = 2,
};

FIXTURE_VARIANT_ADD(control, ring_control_defer) {
	.transport = TRANSPORT_RING,
	.control = 2,
	.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(control, user) {
	.transport = TRANSPORT_USER,
};

static void nothing(int sig)
{
}

FIXTURE_SETUP(control)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 2,
		.control = variant->control,
		.init_flags = FUSE_DO_READDIRPLUS,
	};
	struct sigaction act = { .sa_handler = nothing };

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, sigaction(SIGUSR1, &act, NULL));
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
}

FIXTURE_TEARDOWN(control)
{
	if (transport_rings(variant->transport)) {
		EXPECT_TRUE(puppet_all_by_ring(&self->p));
		/* All one way, or all the other. */
		EXPECT_EQ(0, ring_stat(self->p.conn, variant->control ?
				       "forgets_dev" : "forgets_ring"));
		EXPECT_EQ(0, ring_stat(self->p.conn, variant->control ?
				       "interrupts_dev" : "interrupts_ring"));
	}
	puppet_stop(&self->p);
}

TEST_F(control, one_file)
{
	static struct puppet_req req;

	ASSERT_EQ(0, ledger_open(1, 3));
	ASSERT_EQ(0, list(&self->p));
	ASSERT_EQ(0, puppet_drop_until(&self->p, &req));
	EXPECT_EQ(FUSE_FORGET, req.in.opcode);
	EXPECT_EQ(FIRST_NODEID, req.in.nodeid);
	EXPECT_EQ(3, req.forget.nlookup);
	EXPECT_EQ(variant->control > 0, req.ring);
	if (req.ring)
		EXPECT_LE(2, req.slot);
	ASSERT_EQ(0, handle(&self->p, &req));
	EXPECT_EQ(PUPPET_TIMEOUT, drain(&self->p));
	EXPECT_TRUE(ledger_balanced());
}

TEST_F(control, some_files)
{
	unsigned int i;

	ASSERT_EQ(0, ledger_open(700, 2));
	for (i = 0; i < 3; i++) {
		ledger.looked_up = 0;
		ledger.forgotten = 0;
		memset(ledger.forgot, 0, 700 * sizeof(*ledger.forgot));
		ASSERT_EQ(0, list(&self->p));
		EXPECT_EQ(1400, ledger.looked_up);
		ASSERT_EQ(0, drop(&self->p));
		EXPECT_EQ(PUPPET_TIMEOUT, drain(&self->p));
		EXPECT_TRUE(ledger_balanced());
	}
	if (transport_rings(variant->transport)) {
		EXPECT_EQ(ledger.messages,
			  ring_stat(self->p.conn, variant->control ?
				    "forgets_ring" : "forgets_dev"));
		EXPECT_EQ(0, ring_stat(self->p.conn, "forgets_pending"));
	}
}

/* A forget that the server has not done with keeps nobody waiting. */
TEST_F(control, while_a_forget_is_held)
{
	static struct puppet_req intr, forget;
	static struct puppet_held get;
	struct requester r;
	unsigned int i;

	ASSERT_EQ(0, ledger_open(1, 1));
	ASSERT_EQ(0, list(&self->p));
	ASSERT_EQ(0, puppet_drop_until(&self->p, &forget));
	for (i = 0; i < 5; i++) {
		ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
		ASSERT_EQ(0, puppet_hold(&self->p, &get, FUSE_GETATTR, 1));
		kill(r.pid, SIGUSR1);
		ASSERT_EQ(0, puppet_until(&self->p, &intr, FUSE_INTERRUPT));
		EXPECT_EQ(get.req[0]->in.unique, intr.interrupt.unique);
		EXPECT_EQ(variant->control > 0, intr.ring);
		ASSERT_EQ(0, puppet_answer(&self->p, &intr));
		ASSERT_EQ(0, puppet_release(&self->p, &get));
		EXPECT_EQ(0, puppet_serve(&self->p, &r));
	}
	ASSERT_EQ(0, take_forgets(&forget));
	ASSERT_EQ(0, puppet_answer(&self->p, &forget));
	/* f2 is not in the ledger. */
	EXPECT_TRUE(ledger_balanced());
}

/* What memory the kernel has for this and should have back. */
struct memory {
	long slab;
	long unreclaimable;
};

static struct memory memory(void)
{
	return (struct memory){
		.slab = mem_kib("Slab:"),
		.unreclaimable = mem_kib("SUnreclaim:"),
	};
}

/* A tenth of what was needed, and a little for others, may stay for a while. */
static bool memory_is_back(const struct memory *before,
			   const struct memory *peak)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	struct memory now;

	do {
		now = memory();
		if (now.slab < before->slab + 8192 +
			       (peak->slab - before->slab) / 10 &&
		    now.unreclaimable < before->unreclaimable + 8192)
			return true;
		sleep_ms(10);
	} while (now_ms() < end);
	fprintf(stderr, "# slab %ld, %ld, %ld KiB, unreclaimable %ld, %ld KiB\n",
		before->slab, peak->slab, now.slab, before->unreclaimable,
		now.unreclaimable);
	return false;
}

TEST_F_TIMEOUT(control, many_files, 5 * TEST_TIMEOUT)
{
	struct memory before, peak;
	__u64 start;

	/* The other ones are there to compare with. */
	ASSERT_EQ(0, ledger_open(many_files() /
				 (variant->control && !variant->uring_flags ?
				  1 : 10), 1));
	before = memory();
	start = now_ms();
	ASSERT_EQ(0, list(&self->p));
	ASSERT_EQ(ledger.files, ledger.looked_up);
	TH_LOG("%u files listed in %llu ms", ledger.files, now_ms() - start);
	peak = memory();
	start = now_ms();
	ASSERT_EQ(0, drop(&self->p));
	TH_LOG("dropped in %llu ms with %u messages", now_ms() - start,
	       ledger.messages);
	EXPECT_EQ(PUPPET_TIMEOUT, drain(&self->p));
	EXPECT_TRUE(ledger_balanced());
	if (!kernel_debugs())
		EXPECT_TRUE(memory_is_back(&before, &peak));
}

/* Control slots alone. */
FIXTURE(slots)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r;
};

FIXTURE_VARIANT(slots)
{
	unsigned int uring_flags;
	unsigned int control;
};

FIXTURE_VARIANT_ADD(slots, two) {
	.control = 2,
};

FIXTURE_VARIANT_ADD(slots, five) {
	.control = 5,
};

FIXTURE_VARIANT_ADD(slots, two_defer) {
	.control = 2,
	.uring_flags = DEFER,
};

FIXTURE_SETUP(slots)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 2,
		.control = variant->control,
		.init_flags = FUSE_DO_READDIRPLUS,
	};
	struct sigaction act = { .sa_handler = nothing };

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, sigaction(SIGUSR1, &act, NULL));
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(variant->control, self->p.setup.nr_control);
	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 0, 2));
	/* Nothing is taken from /dev/fuse unless a test says so. */
	self->p.dev_ended = true;
	ASSERT_EQ(0, puppet_init(&self->p));
}

FIXTURE_TEARDOWN(slots)
{
	puppet_stop(&self->p);
}

static int arm_control(struct puppet *p)
{
	return puppet_arm_slots(p, 0, p->setup.queue_depth,
				p->setup.nr_control);
}

static struct fuse_uring_slot_cmd cmd_of(const struct puppet_req *req)
{
	return (struct fuse_uring_slot_cmd){
		.commit_id = req->commit_id,
		.qid = req->qid,
		.slot = req->slot,
	};
}

/* Drops inodes until the kernel has @nr forgets to tell, some of them told. */
static int drop_until_pending(struct puppet *p, unsigned int nr)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	do {
		if (request_drop(NULL))
			return -errno;
		if (ring_stat(p->conn, "forgets_pending") + ledger.forgotten ==
		    nr)
			return 0;
	} while (now_ms() < end);
	return -ETIMEDOUT;
}

/* The next message about forgets. */
static int next_forgets(struct puppet *p, struct puppet_req *req)
{
	int ret;

	for (;;) {
		ret = puppet_next(p, req, TEST_WAIT_MS);
		if (ret != PUPPET_REQUEST)
			return ret ? ret : -ETIMEDOUT;
		if (puppet_nr_forgets(req))
			return take_forgets(req);
		ret = puppet_answer(p, req);
		if (ret)
			return ret;
	}
}

/*
 * Forgets that come while the server has one in hand wait, and then come as
 * many at a time as there is room for, one message after the other.
 */
TEST_F(slots, batches)
{
	static struct puppet_req req;
	unsigned int nr, left, batches = 0;

	ASSERT_EQ(0, arm_control(&self->p));
	ASSERT_EQ(0, ledger_open(1000, 1));
	ASSERT_EQ(0, list(&self->p));
	ASSERT_EQ(0, requester_start(&self->r, request_drop, NULL));
	ASSERT_EQ(0, next_forgets(&self->p, &req));
	ASSERT_EQ(0, requester_join(&self->r));
	ASSERT_EQ(0, drop_until_pending(&self->p, 1000));

	for (;;) {
		nr = puppet_nr_forgets(&req);
		EXPECT_TRUE(req.ring);
		EXPECT_LE(2, req.slot);
		EXPECT_GE(BATCH, nr);
		batches++;
		left = 1000 - ledger.forgotten;
		EXPECT_EQ(left, ring_stat(self->p.conn, "forgets_pending"));
		EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "control_busy"));
		/* Not a second one, however many slots are free. */
		EXPECT_TRUE(puppet_none(&self->p, FUSE_BATCH_FORGET));
		EXPECT_EQ(0, puppet_answer(&self->p, &req));
		if (!left)
			break;
		ASSERT_EQ(0, next_forgets(&self->p, &req));
		/* All that there is room for, at once. */
		EXPECT_EQ(left < BATCH ? left : BATCH, puppet_nr_forgets(&req));
		EXPECT_EQ(left == 1 ? FUSE_FORGET : FUSE_BATCH_FORGET,
			  req.in.opcode);
	}
	EXPECT_TRUE(ledger_balanced());
	EXPECT_LE(4, batches);
	EXPECT_EQ(batches, ring_stat(self->p.conn, "forgets_ring"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "forgets_dev"));
	EXPECT_TRUE(ring_queues_stat_becomes(self->p.conn, "control_busy", 0));
}

/* All of them, while the server leaves the first one alone. */
TEST_F_TIMEOUT(slots, many_files_while_one_is_held, 5 * TEST_TIMEOUT)
{
	static struct puppet_req req;
	struct memory before, peak;
	unsigned int files = many_files() / 10;

	ASSERT_EQ(0, arm_control(&self->p));
	ASSERT_EQ(0, ledger_open(files, 1));
	before = memory();
	ASSERT_EQ(0, list(&self->p));
	peak = memory();
	ASSERT_EQ(0, requester_start(&self->r, request_drop, NULL));
	ASSERT_EQ(0, next_forgets(&self->p, &req));
	/* Who drops inodes does not wait for the server. */
	ASSERT_EQ(0, requester_join(&self->r));
	ASSERT_EQ(0, drop_until_pending(&self->p, files));
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(PUPPET_TIMEOUT, drain(&self->p));
	EXPECT_TRUE(ledger_balanced());
	if (!kernel_debugs())
		EXPECT_TRUE(memory_is_back(&before, &peak));
}

/* One GETATTR of FILE2 in hand. */
static int hold_one(struct puppet *p, struct puppet_held *held,
		    struct requester *r)
{
	int ret = requester_start(r, request_stat, FILE2);

	return ret ? ret : puppet_hold(p, held, FUSE_GETATTR, held->nr + 1);
}

/* While a forget is held, interrupts come: one slot is kept for them. */
TEST_F(slots, interrupts_pass_forgets)
{
	static struct puppet_req forget, intr;
	unsigned int i;

	ASSERT_EQ(0, arm_control(&self->p));
	ASSERT_EQ(0, ledger_open(600, 1));
	ASSERT_EQ(0, list(&self->p));
	ASSERT_EQ(0, hold_one(&self->p, &self->held, &self->r));
	ASSERT_EQ(0, request_drop(NULL));
	ASSERT_EQ(0, next_forgets(&self->p, &forget));
	kill(self->r.pid, SIGUSR1);
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, puppet_until(&self->p, &intr, FUSE_INTERRUPT));
		EXPECT_TRUE(intr.ring);
		EXPECT_NE(forget.slot, intr.slot);
		EXPECT_EQ(self->held.req[0]->in.unique, intr.interrupt.unique);
		EXPECT_EQ(intr.interrupt.unique | 1, intr.in.unique);
		EXPECT_EQ(sizeof(struct fuse_interrupt_in), intr.arg_len);
		ASSERT_EQ(0, puppet_reply(&self->p, &intr, -EAGAIN, NULL, 0));
	}
	EXPECT_EQ(0, ring_stat(self->p.conn, "interrupts_dev"));
	EXPECT_LE(20, ring_stat(self->p.conn, "interrupts_ring"));
	ASSERT_EQ(0, puppet_answer(&self->p, &forget));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, serve(&self->p, &self->r));
	ASSERT_EQ(0, drop(&self->p));
	EXPECT_TRUE(ledger_balanced());
}

/* What waits on the lists of /dev/fuse comes with the first control slot. */
TEST_F(slots, armed_later)
{
	struct pollfd pfd = { .fd = self->p.fd, .events = POLLIN };
	static struct puppet_req intr;
	unsigned int i;

	ASSERT_EQ(0, ledger_open(100, 1));
	ASSERT_EQ(0, list(&self->p));
	ASSERT_EQ(0, hold_one(&self->p, &self->held, &self->r));
	kill(self->r.pid, SIGUSR1);
	/* They would come by read(2). */
	ASSERT_EQ(1, poll(&pfd, 1, TEST_WAIT_MS));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, request_drop(NULL));
	EXPECT_EQ(PUPPET_TIMEOUT, drain(&self->p));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "control_parked"));

	ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 2, 1));
	/* First of all. */
	ASSERT_EQ(1, puppet_next(&self->p, &intr, TEST_WAIT_MS));
	ASSERT_EQ(FUSE_INTERRUPT, intr.in.opcode);
	EXPECT_EQ(self->held.req[0]->in.unique, intr.interrupt.unique);
	ASSERT_EQ(0, puppet_arm_slots(&self->p, 0, 3,
				      self->p.setup.nr_control - 1));
	ASSERT_EQ(0, puppet_answer(&self->p, &intr));
	ASSERT_EQ(0, drop(&self->p));
	EXPECT_TRUE(ledger_balanced());
	EXPECT_EQ(0, ring_stat(self->p.conn, "forgets_dev"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "interrupts_dev"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "interrupts_pending"));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* With the last control slot they go back to /dev/fuse, and come again. */
static void back_to_dev(struct __test_metadata *_metadata,
			struct _test_data_slots *self)
{
	static struct puppet_req req;

	EXPECT_TRUE(ring_queues_stat_becomes(self->p.conn, "control_parked", 0));
	self->p.dev_ended = false;
	ASSERT_EQ(0, ledger_open(300, 1));
	ASSERT_EQ(0, list(&self->p));
	ASSERT_EQ(0, request_drop(NULL));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_BATCH_FORGET));
	EXPECT_FALSE(req.ring);
	ASSERT_EQ(0, take_forgets(&req));
	ASSERT_EQ(0, drop(&self->p));
	EXPECT_TRUE(ledger_balanced());
	EXPECT_EQ(0, ring_stat(self->p.conn, "forgets_ring"));
	EXPECT_LT(0, ring_stat(self->p.conn, "forgets_dev"));

	ASSERT_EQ(0, hold_one(&self->p, &self->held, &self->r));
	kill(self->r.pid, SIGUSR1);
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_INTERRUPT));
	EXPECT_FALSE(req.ring);
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));

	/* From now on over the ring. */
	if (!self->p.have_uring)
		ASSERT_EQ(0, puppet_uring(&self->p));
	self->p.dev_ended = true;
	ASSERT_EQ(0, puppet_arm(&self->p));
	ASSERT_EQ(0, ledger_open(300, 1));
	ASSERT_EQ(0, list(&self->p));
	ASSERT_EQ(0, drop(&self->p));
	EXPECT_TRUE(ledger_balanced());
	EXPECT_LT(0, ring_stat(self->p.conn, "forgets_ring"));
}

TEST_F(slots, last_one_detached)
{
	unsigned int i;

	ASSERT_EQ(0, arm_control(&self->p));
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	for (i = 0; i < 2 + variant->control; i++)
		EXPECT_EQ(-ECANCELED, puppet_cqe(&self->p, TEST_WAIT_MS));
	back_to_dev(_metadata, self);
}

TEST_F(slots, last_one_closed)
{
	ASSERT_EQ(0, arm_control(&self->p));
	puppet_close_uring(&self->p);
	ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "live", 0));
	back_to_dev(_metadata, self);
}

/*
 * The server lives, so its slot is still in its hands: what waits behind the
 * message in it goes on when that is committed, by another io_uring.
 */
TEST_F(slots, closed_while_forgets_wait)
{
	static struct puppet_req req;

	ASSERT_EQ(0, arm_control(&self->p));
	ASSERT_EQ(0, ledger_open(700, 1));
	ASSERT_EQ(0, list(&self->p));
	ASSERT_EQ(0, request_drop(NULL));
	ASSERT_EQ(0, next_forgets(&self->p, &req));
	ASSERT_EQ(0, drop_until_pending(&self->p, 700));
	puppet_close_uring(&self->p);
	ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "live", 0));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(PUPPET_TIMEOUT, drain(&self->p));
	EXPECT_TRUE(ledger_balanced());
	EXPECT_EQ(0, ring_stat(self->p.conn, "forgets_dev"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "forgets_pending"));
}

/* They come over another io_uring. */
TEST_F(slots, closed_before_it_is_told)
{
	ASSERT_EQ(0, arm_control(&self->p));
	ASSERT_EQ(0, ledger_open(700, 1));
	ASSERT_EQ(0, list(&self->p));
	/* With deferred task work, not before the server asks. */
	ASSERT_EQ(0, request_drop(NULL));
	if (variant->uring_flags & IORING_SETUP_DEFER_TASKRUN) {
		puppet_close_uring(&self->p);
		ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "live", 0));
		ASSERT_EQ(0, puppet_uring(&self->p));
		ASSERT_EQ(0, puppet_arm(&self->p));
	}
	ASSERT_EQ(0, drop(&self->p));
	EXPECT_TRUE(ledger_balanced());
}

/* Not for anything else, however long it has to wait. */
TEST_F(slots, carry_nothing_else)
{
	struct requester r[3];
	unsigned int i;

	ASSERT_EQ(0, arm_control(&self->p));
	for (i = 0; i < ARRAY_SIZE(r); i++)
		ASSERT_EQ(0, requester_start(&r[i], request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 2));
	ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "pending", 1));
	EXPECT_EQ(variant->control,
		  ring_queue_stat(self->p.conn, 0, "control_parked"));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, 0, "parked"));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));
	EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "pending"));
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	for (i = 0; i < ARRAY_SIZE(r); i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &r[i]));
}

/* They alone do not make a queue that requests go to. */
TEST_F(slots, without_ordinary_ones)
{
	static struct puppet_req req;

	puppet_close_uring(&self->p);
	ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "live", 0));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, arm_control(&self->p));
	self->p.dev_ended = false;
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	EXPECT_FALSE(self->held.req[0]->ring);
	EXPECT_EQ(0, ring_stat(self->p.conn, "queues_live"));
	kill(self->r.pid, SIGUSR1);
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_INTERRUPT));
	EXPECT_TRUE(req.ring);
	EXPECT_EQ(self->held.req[0]->in.unique, req.interrupt.unique);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_LT(0, ring_stat(self->p.conn, "requests_dev"));
}

/* A forget of FILE2 in hand. */
static int hold_forget(struct puppet *p, struct puppet_req *req)
{
	struct requester r;
	int ret = requester_start(&r, request_stat, FILE2);

	if (!ret)
		ret = puppet_serve(p, &r);
	if (!ret)
		ret = puppet_drop_until(p, req);
	if (ret)
		return ret;
	return req->in.opcode == FUSE_FORGET && req->ring &&
	       req->in.nodeid == PUPPET_FILE ? 0 : -EPROTO;
}

/* The slot is as it was and takes its reply; then it takes forgets again. */
static int goes_on(struct puppet *p, struct puppet_req *req)
{
	int ret = puppet_answer(p, req);

	if (!ret && !ring_queues_stat_becomes(p->conn, "control_busy", 0))
		ret = -EBUSY;
	if (!ret)
		ret = hold_forget(p, req);
	return ret ? ret : puppet_answer(p, req);
}

TEST_F(slots, fetch)
{
	struct fuse_uring_slot_cmd cmd = { .slot = 2 };
	static struct puppet_req req;

	ASSERT_EQ(0, arm_control(&self->p));
	EXPECT_EQ(-EBUSY, puppet_command_now(&self->p, FETCH, &cmd));
	cmd.slot = 2 + variant->control;
	EXPECT_EQ(-ENXIO, puppet_command_now(&self->p, FETCH, &cmd));
	ASSERT_EQ(0, hold_forget(&self->p, &req));
	cmd.slot = req.slot;
	EXPECT_EQ(-EBUSY, puppet_command_now(&self->p, FETCH, &cmd));
	EXPECT_EQ(0, goes_on(&self->p, &req));
}

TEST_F(slots, commit_wrong_id)
{
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	unsigned int bit;

	ASSERT_EQ(0, arm_control(&self->p));
	cmd = (struct fuse_uring_slot_cmd){ .slot = 2, .commit_id = 1 };
	EXPECT_EQ(-ENOENT, puppet_command_now(&self->p, COMMIT, &cmd));
	ASSERT_EQ(0, hold_forget(&self->p, &req));
	EXPECT_NE(0, req.commit_id);
	puppet_fill_reply(&self->p, &req, 0, NULL, 0);
	for (bit = 0; bit < 64; bit++) {
		cmd = cmd_of(&req);
		cmd.commit_id ^= 1ULL << bit;
		EXPECT_EQ(-ENOENT, puppet_command_now(&self->p, COMMIT, &cmd));
	}
	cmd = cmd_of(&req);
	cmd.slot = 2 + (req.slot - 2 + 1) % variant->control;
	EXPECT_EQ(-ENOENT, puppet_command_now(&self->p, COMMIT, &cmd));
	cmd.slot = 0;
	EXPECT_EQ(-ENOENT, puppet_command_now(&self->p, COMMIT, &cmd));
	EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "control_busy"));
	EXPECT_EQ(0, goes_on(&self->p, &req));
}

TEST_F(slots, commit_twice)
{
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;

	ASSERT_EQ(0, arm_control(&self->p));
	ASSERT_EQ(0, hold_forget(&self->p, &req));
	cmd = cmd_of(&req);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(-ENOENT, puppet_command_now(&self->p, COMMIT, &cmd));
	EXPECT_TRUE(ring_queues_stat_becomes(self->p.conn, "control_parked",
					     variant->control));
}

/* There is nothing that such a reply could carry: the size is not looked at. */
TEST_F(slots, payload_size_is_ignored)
{
	static const __u32 sizes[] = { 1, 4096, ~0U };
	struct fuse_uring_slot_cmd cmd;
	static struct puppet_req req;
	unsigned int i;

	ASSERT_EQ(0, arm_control(&self->p));
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		ASSERT_EQ(0, hold_forget(&self->p, &req));
		cmd = cmd_of(&req);
		puppet_fill_reply(&self->p, &req, 0, NULL, 0);
		puppet_header(&self->p, req.qid, req.slot)
			->ring_ent_in_out.payload_sz = sizes[i];
		ASSERT_EQ(0, puppet_command(&self->p, COMMIT, &cmd));
		EXPECT_TRUE(ring_queues_stat_becomes(self->p.conn,
						     "control_busy", 0));
	}
}

/* A forget has no answer: what it says does not matter. */
TEST_F(slots, error_of_a_forget_is_ignored)
{
	static struct puppet_req req;

	ASSERT_EQ(0, arm_control(&self->p));
	ASSERT_EQ(0, hold_forget(&self->p, &req));
	req.in.unique ^= 0x5555;
	ASSERT_EQ(0, puppet_reply(&self->p, &req, -EAGAIN, NULL, 0));
	EXPECT_TRUE(ring_queues_stat_becomes(self->p.conn, "control_parked",
					     variant->control));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_FORGET));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE2));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

TEST_F(slots, interrupt_of_another_unique)
{
	struct fuse_uring_slot_cmd cmd;
	struct fuse_out_header *out;
	static struct puppet_req req;

	ASSERT_EQ(0, arm_control(&self->p));
	ASSERT_EQ(0, hold_one(&self->p, &self->held, &self->r));
	kill(self->r.pid, SIGUSR1);
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_INTERRUPT));
	cmd = cmd_of(&req);
	puppet_fill_reply(&self->p, &req, 0, NULL, 0);
	out = (void *)puppet_header(&self->p, req.qid, req.slot)->in_out;
	out->unique = req.interrupt.unique;
	EXPECT_EQ(-EINVAL, puppet_command_now(&self->p, COMMIT, &cmd));
	out->unique = 0;
	EXPECT_EQ(-EINVAL, puppet_command_now(&self->p, COMMIT, &cmd));
	out->unique = req.in.unique + 2;
	EXPECT_EQ(-EINVAL, puppet_command_now(&self->p, COMMIT, &cmd));
	EXPECT_EQ(1, ring_queue_stat(self->p.conn, 0, "control_busy"));

	/* As if nothing had been. */
	ASSERT_EQ(0, puppet_reply(&self->p, &req, -EAGAIN, NULL, 0));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_INTERRUPT));
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* The connection ends with forgets and interrupts everywhere. */
TEST_F(slots, abort)
{
	static struct puppet_req forget, intr;
	struct fuse_uring_slot_cmd cmd;

	ASSERT_EQ(0, arm_control(&self->p));
	ASSERT_EQ(0, ledger_open(600, 1));
	ASSERT_EQ(0, list(&self->p));
	ASSERT_EQ(0, hold_one(&self->p, &self->held, &self->r));
	ASSERT_EQ(0, request_drop(NULL));
	ASSERT_EQ(0, next_forgets(&self->p, &forget));
	kill(self->r.pid, SIGUSR1);
	ASSERT_EQ(0, puppet_until(&self->p, &intr, FUSE_INTERRUPT));
	ASSERT_EQ(0, conn_abort(self->p.conn));
	EXPECT_EQ(ECONNABORTED, requester_join(&self->r));
	/* The one ordinary slot that was armed, and control slots. */
	EXPECT_EQ(-ENOTCONN, puppet_cqe(&self->p, TEST_WAIT_MS));
	cmd = cmd_of(&forget);
	puppet_fill_reply(&self->p, &forget, 0, NULL, 0);
	ASSERT_EQ(0, puppet_command(&self->p, COMMIT, &cmd));
	cmd = cmd_of(&intr);
	puppet_fill_reply(&self->p, &intr, 0, NULL, 0);
	ASSERT_EQ(0, puppet_command(&self->p, COMMIT, &cmd));
	EXPECT_EQ(-ENOTCONN, puppet_cqe(&self->p, TEST_WAIT_MS));
	EXPECT_EQ(-ENOTCONN, puppet_cqe(&self->p, TEST_WAIT_MS));
}

/* Forgets are made all the time; the server detaches, and comes again. */
static int request_forgets_for_ever(const void *stop)
{
	int ret = 0;

	while (!ret && !flag_is_set(*(int *const *)stop)) {
		ret = request_stat(TEST_MNT "/f3");
		if (!ret)
			ret = request_stat(TEST_MNT "/f4");
		if (!ret)
			ret = request_drop(NULL);
	}
	return ret;
}

static int count_lookups(struct puppet *p, struct puppet_req *req,
			 __u64 *lookups, __u64 *forgets)
{
	unsigned int i;

	if (req->in.opcode == FUSE_LOOKUP)
		++*lookups;
	for (i = 0; i < puppet_nr_forgets(req); i++)
		*forgets += puppet_forget(req, i).nlookup;
	return puppet_answer(p, req);
}

TEST_F(slots, come_and_go)
{
	__u64 seed = test_seed(), end = now_ms() + test_ms();
	int ret, *stop = shared_alloc(sizeof(*stop));
	__u64 lookups = 0, forgets = 0;
	unsigned int i, rounds = 0;
	static struct puppet_req req;

	ASSERT_NE(NULL, stop);
	self->p.dev_ended = false;
	ASSERT_EQ(0, arm_control(&self->p));
	ASSERT_EQ(0, requester_start(&self->r, request_forgets_for_ever,
				     &stop));
	do {
		for (i = test_random(&seed) % 20; i; i--) {
			ret = puppet_next(&self->p, &req, 2);
			if (ret == PUPPET_REQUEST)
				ASSERT_EQ(0, count_lookups(&self->p, &req,
							   &lookups,
							   &forgets));
		}
		ASSERT_EQ(0, puppet_detach(&self->p, 0));
		while ((ret = puppet_next(&self->p, &req, 0)))
			if (ret == PUPPET_REQUEST)
				ASSERT_EQ(0, count_lookups(&self->p, &req,
							   &lookups,
							   &forgets));
		ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn,
						     "control_parked", 0));
		ASSERT_EQ(0, puppet_arm(&self->p));
		if (++rounds > 1 && now_ms() >= end)
			flag_set(stop);
	} while (!requester_ended(&self->r, &ret, 0));
	EXPECT_EQ(0, ret);
	/* The last ones. */
	for (i = 0; i < 100 && forgets < lookups; i++) {
		ASSERT_EQ(0, request_drop(NULL));
		while ((ret = puppet_next(&self->p, &req, 10)))
			if (ret == PUPPET_REQUEST)
				ASSERT_EQ(0, count_lookups(&self->p, &req,
							   &lookups,
							   &forgets));
	}
	EXPECT_EQ(lookups, forgets);
}

/* Two queues with control slots of their own. */
FIXTURE(queues)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r[3];
};

FIXTURE_SETUP(queues)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = 2,
		.depth = 4,
		.control = 2,
		.init_flags = FUSE_DO_READDIRPLUS,
	};
	struct sigaction act = { .sa_handler = nothing };
	struct requester r;

	if (why)
		SKIP(return, "%s", why);
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two CPUs");
	ASSERT_EQ(0, sigaction(SIGUSR1, &act, NULL));
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	ASSERT_EQ(0, requester_start(&r, request_stat, FILE2));
	ASSERT_EQ(0, puppet_serve(&self->p, &r));
}

FIXTURE_TEARDOWN(queues)
{
	EXPECT_EQ(0, ring_stat(self->p.conn, "forgets_dev"));
	EXPECT_EQ(0, ring_stat(self->p.conn, "interrupts_dev"));
	puppet_stop(&self->p);
}

/* Who works at the request is told that nobody waits for it. */
TEST_F(queues, interrupt_goes_where_the_request_went)
{
	static struct puppet_req intr;
	unsigned int i, qid;

	for (i = 0; i < 8; i++) {
		qid = i / 2 % 2;
		ASSERT_EQ(0, puppet_requester_at(&self->p, qid, &self->r[0],
						 request_stat, FILE2));
		ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR,
					 1));
		EXPECT_EQ(qid, puppet_sent_to(&self->p, self->held.req[0]));
		kill(self->r[0].pid, SIGUSR1);
		ASSERT_EQ(0, puppet_until(&self->p, &intr, FUSE_INTERRUPT));
		EXPECT_TRUE(intr.ring);
		/* Where the request is now: it may have been moved. */
		EXPECT_EQ(self->held.req[0]->qid, intr.qid);
		ASSERT_EQ(0, puppet_answer(&self->p, &intr));
		ASSERT_EQ(0, puppet_release(&self->p, &self->held));
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
	}
}

/* Rather than not at all, by the other queue. */
TEST_F(queues, interrupt_finds_a_free_slot)
{
	static struct puppet_held intr;
	unsigned int i;

	/* Queue 1 gets them all, as there is no other. */
	ASSERT_EQ(0, puppet_detach(&self->p, 0));
	for (i = 0; i < self->p.opt.depth + self->p.opt.control; i++)
		ASSERT_EQ(-ECANCELED, puppet_cqe(&self->p, TEST_WAIT_MS));
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, requester_start(&self->r[i], request_stat, FILE2));
		ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR,
					 i + 1));
		EXPECT_EQ(1, self->held.req[i]->qid);
	}
	ASSERT_EQ(0, puppet_arm_queue(&self->p, 0));
	for (i = 0; i < 3; i++) {
		kill(self->r[i].pid, SIGUSR1);
		ASSERT_EQ(0, puppet_hold(&self->p, &intr, FUSE_INTERRUPT,
					 i + 1));
		EXPECT_EQ(self->held.req[i]->in.unique,
			  intr.req[i]->interrupt.unique);
		EXPECT_EQ(i < 2, intr.req[i]->qid);
	}
	ASSERT_EQ(0, puppet_release_all(&self->p, &intr));
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
}

/* The queue of the request has no control slots any more. */
TEST_F(queues, interrupt_after_detach)
{
	static struct puppet_req intr;
	unsigned int qid;

	ASSERT_EQ(0, requester_start(&self->r[0], request_stat, FILE2));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR, 1));
	qid = self->held.req[0]->qid;
	ASSERT_EQ(0, puppet_detach(&self->p, qid));
	kill(self->r[0].pid, SIGUSR1);
	do {
		int ret = puppet_next(&self->p, &intr, TEST_WAIT_MS);

		ASSERT_TRUE(ret == PUPPET_REQUEST || ret == -ECANCELED);
		if (ret != PUPPET_REQUEST)
			intr.in.opcode = 0;
	} while (intr.in.opcode != FUSE_INTERRUPT);
	EXPECT_TRUE(intr.ring);
	EXPECT_EQ(!qid, intr.qid);
	EXPECT_EQ(self->held.req[0]->in.unique, intr.interrupt.unique);
	ASSERT_EQ(0, puppet_answer(&self->p, &intr));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
}

/* At most one message of forgets for each queue, and none is lost. */
TEST_F(queues, forgets)
{
	static struct puppet_req req;
	struct puppet_req *held[2] = { NULL };
	unsigned int i;
	__u64 end;
	int ret;

	ASSERT_EQ(0, puppet_settle(&self->p));
	ASSERT_EQ(0, ledger_open(3000, 1));
	ASSERT_EQ(0, list(&self->p));
	end = now_ms() + TEST_WAIT_MS;
	ASSERT_EQ(0, request_drop(NULL));
	while (ledger.forgotten < ledger.looked_up && now_ms() < end) {
		ret = puppet_next_settled(&self->p, &req);
		if (ret == PUPPET_REQUEST && puppet_nr_forgets(&req)) {
			EXPECT_EQ(NULL, held[req.qid]);
			ASSERT_EQ(0, take_forgets(&req));
			held[req.qid] = malloc(sizeof(req));
			ASSERT_NE(NULL, held[req.qid]);
			memcpy(held[req.qid], &req, sizeof(req));
			continue;
		}
		/* No more come until these are answered. */
		ASSERT_EQ(PUPPET_TIMEOUT, ret);
		for (i = 0; i < 2; i++) {
			if (held[i])
				ASSERT_EQ(0, puppet_answer(&self->p, held[i]));
			free(held[i]);
			held[i] = NULL;
		}
		if (!ring_stat(self->p.conn, "forgets_pending"))
			ASSERT_EQ(0, request_drop(NULL));
	}
	EXPECT_TRUE(ledger_balanced());
}

TEST_HARNESS_MAIN
