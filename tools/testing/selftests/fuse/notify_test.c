// SPDX-License-Identifier: GPL-2.0
/*
 * Notifications: by write(2) on /dev/fuse and by commands of the ring, with the
 * same effects and the same errors.  Those of the ring wait for nobody.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <linux/futex.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "proto.h"
#include "puppet.h"

#define FILE2		(TEST_MNT "/f2")
#define FILE3		(TEST_MNT "/f3")
#define PAGE		4096
#define DEFER	(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)

#define HEADER		((int)sizeof(struct fuse_out_header))
#define WHOLE(payload)	(HEADER + (int)sizeof(payload))
#define INVAL_WHOLE	WHOLE(struct fuse_notify_inval_inode_out)

/* A node id that no file has. */
#define NOBODY		4711

/*
 * A requester that keeps its file open, since open(2) would empty the page
 * cache: it reads a page of FILE2 each time it is told to go.
 */
static struct {
	int go;			/* how often it is to read, -1 to end */
	int done;		/* how often it has */
	unsigned long page;	/* which page */
	unsigned char data[PAGE];
} *reader;

static int read_pages(const void *arg)
{
	int fd = open(FILE2, O_RDONLY | O_CLOEXEC), go;

	if (fd < 0)
		return -errno;
	for (;;) {
		go = __atomic_load_n(&reader->go, __ATOMIC_ACQUIRE);
		if (go < 0)
			return 0;
		if (go == reader->done) {
			syscall(SYS_futex, &reader->go, FUTEX_WAIT, go, NULL,
				NULL, 0);
			continue;
		}
		if (pread(fd, reader->data, PAGE, reader->page * PAGE) != PAGE)
			return errno ? -errno : -ENODATA;
		__atomic_add_fetch(&reader->done, 1, __ATOMIC_RELEASE);
	}
}

static int reader_start(struct requester *r)
{
	reader = mmap(NULL, sizeof(*reader), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (reader == MAP_FAILED)
		return -errno;
	return requester_start(r, read_pages, NULL);
}

static void reader_go(unsigned long page)
{
	reader->page = page;
	__atomic_add_fetch(&reader->go, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &reader->go, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static bool reader_idle(void)
{
	return __atomic_load_n(&reader->done, __ATOMIC_ACQUIRE) == reader->go;
}

static int reader_end(struct puppet *p, struct requester *r)
{
	__atomic_store_n(&reader->go, -1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &reader->go, FUTEX_WAKE, 1, NULL, NULL, 0);
	return puppet_serve(p, r);
}

/* The connection has ended; with the page gone, it may have tried once more. */
static bool reader_failed(struct requester *r)
{
	int ret = requester_join(r);

	return ret == ECONNABORTED || ret == ENOTCONN;
}

/*
 * How many READ requests it takes until it has read what it was to, or a
 * negative errno.  One whose page is taken away as it gets it tries again.
 */
static int reads_until_idle(struct puppet *p)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	static struct puppet_req req;
	int ret, nr = 0;

	while (!reader_idle()) {
		if (now_ms() >= end)
			return -ETIMEDOUT;
		ret = puppet_next(p, &req, 2);
		if (ret != PUPPET_REQUEST)
			continue;
		nr += req.in.opcode == FUSE_READ;
		ret = puppet_answer(p, &req);
		if (ret)
			return ret;
	}
	return nr;
}

/* Has it read; how many READ requests that took, or a negative errno. */
static int reads_of(struct puppet *p, unsigned long page)
{
	reader_go(page);
	return reads_until_idle(p);
}

/* It has read what the server would have answered. */
static bool reader_has_file(unsigned long page)
{
	unsigned int i;

	for (i = 0; i < PAGE; i++)
		if (reader->data[i] !=
		    test_byte(PUPPET_FILE, page * PAGE + i))
			return false;
	return true;
}

static bool reader_has_byte(unsigned char byte)
{
	unsigned int i;

	for (i = 0; i < PAGE; i++)
		if (reader->data[i] != byte)
			return false;
	return true;
}

/* stat(2) of a path; how many LOOKUPs that took, or a negative errno. */
static int lookups_of(struct puppet *p, const char *path)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	static struct puppet_req req;
	struct requester r;
	int ret, nr = 0;

	ret = requester_start(&r, request_stat, path);
	if (ret)
		return ret;
	while (!requester_ended(&r, &ret, 0)) {
		if (now_ms() >= end)
			return -ETIMEDOUT;
		if (puppet_next(p, &req, 2) != PUPPET_REQUEST)
			continue;
		nr += req.in.opcode == FUSE_LOOKUP;
		ret = puppet_answer(p, &req);
		if (ret)
			return ret;
	}
	return ret ? -ret : nr;
}

/* Messages. */
struct entry_msg {
	struct fuse_notify_inval_entry_out out;
	char name[2048];
};

struct delete_msg {
	struct fuse_notify_delete_out out;
	char name[2048];
};

struct store_msg {
	struct fuse_notify_store_out out;
	char data[1 << 20];
};

static struct fuse_notify_inval_inode_out inval_inode_of(__u64 ino)
{
	return (struct fuse_notify_inval_inode_out){ .ino = ino };
}

static int inval_inode(struct puppet *p, __u64 ino)
{
	struct fuse_notify_inval_inode_out out = inval_inode_of(ino);

	return puppet_notify(p, FUSE_NOTIFY_INVAL_INODE, &out, sizeof(out));
}

static size_t fill_entry(struct entry_msg *msg, __u64 parent, const char *name,
			 __u32 flags)
{
	memset(msg, 0, sizeof(*msg));
	msg->out.parent = parent;
	msg->out.namelen = strlen(name);
	msg->out.flags = flags;
	memcpy(msg->name, name, strlen(name));
	return sizeof(msg->out) + strlen(name) + 1;
}

static int inval_entry(struct puppet *p, __u64 parent, const char *name,
		       __u32 flags)
{
	struct entry_msg msg;
	size_t len = fill_entry(&msg, parent, name, flags);

	return puppet_notify(p, FUSE_NOTIFY_INVAL_ENTRY, &msg, len);
}

static size_t fill_delete(struct delete_msg *msg, __u64 parent, __u64 child,
			  const char *name)
{
	memset(msg, 0, sizeof(*msg));
	msg->out.parent = parent;
	msg->out.child = child;
	msg->out.namelen = strlen(name);
	memcpy(msg->name, name, strlen(name));
	return sizeof(msg->out) + strlen(name) + 1;
}

static int delete_entry(struct puppet *p, __u64 parent, __u64 child,
			const char *name)
{
	struct delete_msg msg;
	size_t len = fill_delete(&msg, parent, child, name);

	return puppet_notify(p, FUSE_NOTIFY_DELETE, &msg, len);
}

static size_t fill_store(struct store_msg *msg, __u64 nodeid, __u64 offset,
			 unsigned char byte, size_t len)
{
	msg->out = (struct fuse_notify_store_out){
		.nodeid = nodeid,
		.offset = offset,
		.size = len,
	};
	memset(msg->data, byte, len);
	return sizeof(msg->out) + len;
}

static int store(struct puppet *p, __u64 nodeid, __u64 offset,
		 unsigned char byte, size_t len)
{
	static struct store_msg msg;

	return puppet_notify(p, FUSE_NOTIFY_STORE, &msg,
			     fill_store(&msg, nodeid, offset, byte, len));
}

static int retrieve(struct puppet *p, __u64 nodeid, __u64 offset, __u32 size,
		    __u64 unique)
{
	struct fuse_notify_retrieve_out out = {
		.notify_unique = unique,
		.nodeid = nodeid,
		.offset = offset,
		.size = size,
	};

	return puppet_notify(p, FUSE_NOTIFY_RETRIEVE, &out, sizeof(out));
}

FIXTURE(notify)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r;
};

FIXTURE_VARIANT(notify)
{
	enum test_transport transport;
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(notify, dev) {
	.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(notify, ring) {
	.transport = TRANSPORT_RING,
};

FIXTURE_VARIANT_ADD(notify, ring_defer) {
	.transport = TRANSPORT_RING,
	.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(notify, user) {
	.transport = TRANSPORT_USER,
};

FIXTURE_SETUP(notify)
{
	const char *why = test_prepare(variant->transport);
	struct puppet_options opt = {
		.transport = variant->transport,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 2,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
}

FIXTURE_TEARDOWN(notify)
{
	if (variant->transport == TRANSPORT_RING) {
		EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
		EXPECT_EQ(0, ring_stat(self->p.conn, "notifications_dev"));
		EXPECT_LT(0, ring_stat(self->p.conn, "notifications_ring"));
	}
	if (variant->transport == TRANSPORT_USER) {
		EXPECT_EQ(0, ring_stat(self->p.conn, "notifications_ring"));
		EXPECT_LT(0, ring_stat(self->p.conn, "notifications_dev"));
	}
	puppet_stop(&self->p);
}

TEST_F(notify, inval_inode)
{
	struct fuse_notify_inval_inode_out out = { .ino = PUPPET_FILE };

	ASSERT_EQ(0, reader_start(&self->r));
	EXPECT_EQ(1, reads_of(&self->p, 0));
	EXPECT_EQ(1, reads_of(&self->p, 1));
	EXPECT_EQ(0, reads_of(&self->p, 0));
	EXPECT_EQ(WHOLE(out), inval_inode(&self->p, PUPPET_FILE));
	EXPECT_EQ(1, reads_of(&self->p, 0));
	EXPECT_EQ(1, reads_of(&self->p, 1));
	EXPECT_TRUE(reader_has_file(1));

	/* One of the two pages. */
	out.off = PAGE;
	out.len = PAGE;
	EXPECT_EQ(WHOLE(out), puppet_notify(&self->p, FUSE_NOTIFY_INVAL_INODE,
					    &out, sizeof(out)));
	EXPECT_EQ(0, reads_of(&self->p, 0));
	EXPECT_EQ(1, reads_of(&self->p, 1));

	/* None of them: attributes only. */
	out.off = -1;
	out.len = 0;
	EXPECT_EQ(WHOLE(out), puppet_notify(&self->p, FUSE_NOTIFY_INVAL_INODE,
					    &out, sizeof(out)));
	EXPECT_EQ(0, reads_of(&self->p, 0));
	EXPECT_EQ(0, reads_of(&self->p, 1));
	EXPECT_EQ(0, reader_end(&self->p, &self->r));
}

TEST_F(notify, inval_entry)
{
	int whole = HEADER + sizeof(struct fuse_notify_inval_entry_out) + 3;

	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
	EXPECT_EQ(0, lookups_of(&self->p, FILE2));
	EXPECT_EQ(whole, inval_entry(&self->p, FUSE_ROOT_ID, "f2", 0));
	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
	EXPECT_EQ(whole, inval_entry(&self->p, FUSE_ROOT_ID, "f2",
				     FUSE_EXPIRE_ONLY));
	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
	EXPECT_EQ(0, lookups_of(&self->p, FILE2));
	/* It is in no cache. */
	EXPECT_EQ(-ENOENT, inval_entry(&self->p, FUSE_ROOT_ID, "f3", 0));
	/* It is no directory. */
	EXPECT_EQ(-ENOTDIR, inval_entry(&self->p, PUPPET_FILE, "f2", 0));
}

TEST_F(notify, delete)
{
	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
	/* Another file has that name. */
	EXPECT_EQ(-ENOENT, delete_entry(&self->p, FUSE_ROOT_ID, NOBODY, "f2"));
	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
	EXPECT_EQ(HEADER + (int)sizeof(struct fuse_notify_delete_out) + 3,
		  delete_entry(&self->p, FUSE_ROOT_ID, PUPPET_FILE, "f2"));
	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
	EXPECT_EQ(-ENOENT, delete_entry(&self->p, FUSE_ROOT_ID, 3, "f3"));
	EXPECT_EQ(-ENOTDIR, delete_entry(&self->p, PUPPET_FILE, 3, "f3"));
}

TEST_F(notify, store)
{
	int whole = HEADER + sizeof(struct fuse_notify_store_out);
	unsigned int i;

	ASSERT_EQ(0, reader_start(&self->r));
	EXPECT_EQ(1, reads_of(&self->p, 0));
	EXPECT_TRUE(reader_has_file(0));
	EXPECT_EQ(whole + PAGE, store(&self->p, PUPPET_FILE, 0, 'S', PAGE));
	EXPECT_EQ(0, reads_of(&self->p, 0));
	EXPECT_TRUE(reader_has_byte('S'));
	/* A part of a page. */
	EXPECT_EQ(whole + 100, store(&self->p, PUPPET_FILE, 50, 'T', 100));
	EXPECT_EQ(0, reads_of(&self->p, 0));
	for (i = 0; i < PAGE; i++)
		if (reader->data[i] != (i >= 50 && i < 150 ? 'T' : 'S'))
			break;
	EXPECT_EQ(PAGE, i);
	/* Pages that are not there yet. */
	EXPECT_EQ(whole + 15 * PAGE,
		  store(&self->p, PUPPET_FILE, 5 * PAGE, 'U', 15 * PAGE));
	for (i = 5; i < 20; i++) {
		EXPECT_EQ(0, reads_of(&self->p, i));
		EXPECT_TRUE(reader_has_byte('U'));
	}
	EXPECT_EQ(1, reads_of(&self->p, 20));
	EXPECT_TRUE(reader_has_file(20));
	EXPECT_EQ(whole, store(&self->p, PUPPET_FILE, 0, 0, 0));
	EXPECT_EQ(0, reader_end(&self->p, &self->r));
}

/* The data of one page that is cached, of the two that are asked for. */
TEST_F(notify, retrieve)
{
	static struct puppet_req req;
	unsigned int i, len = PAGE - 100;

	ASSERT_EQ(0, reader_start(&self->r));
	EXPECT_EQ(1, reads_of(&self->p, 0));
	EXPECT_EQ(WHOLE(struct fuse_notify_retrieve_out),
		  retrieve(&self->p, PUPPET_FILE, 100, 5000, 12345));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_NOTIFY_REPLY));
	EXPECT_EQ(variant->transport == TRANSPORT_RING, req.ring);
	EXPECT_EQ(12345, req.in.unique);
	EXPECT_EQ(PUPPET_FILE, req.in.nodeid);
	EXPECT_EQ(100, req.retrieve.offset);
	EXPECT_EQ(len, req.retrieve.size);
	ASSERT_EQ(sizeof(req.retrieve) + len, req.arg_len);
	for (i = 0; i < len; i++)
		if ((unsigned char)req.retrieved[i] !=
		    test_byte(PUPPET_FILE, 100 + i))
			break;
	EXPECT_EQ(len, i);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));

	/* Nothing is cached there. */
	EXPECT_EQ(WHOLE(struct fuse_notify_retrieve_out),
		  retrieve(&self->p, PUPPET_FILE, 9 * PAGE, 5000, 54321));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_NOTIFY_REPLY));
	EXPECT_EQ(54321, req.in.unique);
	EXPECT_EQ(0, req.retrieve.size);
	EXPECT_EQ(sizeof(req.retrieve), req.arg_len);
	ASSERT_EQ(0, puppet_answer(&self->p, &req));
	EXPECT_EQ(0, reader_end(&self->p, &self->r));
	if (variant->transport == TRANSPORT_RING)
		EXPECT_EQ(2, ring_stat(self->p.conn, "requests_ring_noreply"));
}

static int request_poll(const void *path)
{
	struct pollfd pfd = { .events = POLLIN };
	int ret;

	pfd.fd = open(path, O_RDONLY | O_CLOEXEC);
	if (pfd.fd < 0)
		return -errno;
	ret = poll(&pfd, 1, TEST_WAIT_MS);
	return ret < 0 ? -errno : ret == 1 && pfd.revents == POLLIN ? 0 :
		-ETIMEDOUT;
}

TEST_F(notify, poll)
{
	struct fuse_notify_poll_wakeup_out wakeup = { .kh = ~0ULL };
	struct fuse_poll_out none = { 0 }, in = { .revents = POLLIN };
	static struct puppet_req req;
	struct fuse_poll_in *arg = (void *)req.arg;

	ASSERT_EQ(0, requester_start(&self->r, request_poll, FILE2));
	do {
		ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_POLL));
		wakeup.kh = arg->kh;
		ASSERT_EQ(0, puppet_reply(&self->p, &req, 0, &none,
					  sizeof(none)));
	} while (!(arg->flags & FUSE_POLL_SCHEDULE_NOTIFY));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_POLL));
	/* Another file's. */
	wakeup.kh ^= 0x5555;
	EXPECT_EQ(WHOLE(wakeup), puppet_notify(&self->p, FUSE_NOTIFY_POLL,
					       &wakeup, sizeof(wakeup)));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_POLL));
	wakeup.kh ^= 0x5555;
	EXPECT_EQ(WHOLE(wakeup), puppet_notify(&self->p, FUSE_NOTIFY_POLL,
					       &wakeup, sizeof(wakeup)));
	ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_POLL));
	ASSERT_EQ(0, puppet_reply(&self->p, &req, 0, &in, sizeof(in)));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
}

/* Of nothing; restart_test has the rest. */
TEST_F(notify, resend)
{
	EXPECT_EQ(HEADER, puppet_notify(&self->p, FUSE_NOTIFY_RESEND, NULL, 0));
	/* What follows is not looked at. */
	EXPECT_EQ(HEADER + 5, puppet_notify(&self->p, FUSE_NOTIFY_RESEND,
					    "12345", 5));
	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
}

TEST_F(notify, unknown_node)
{
	EXPECT_EQ(-ENOENT, inval_inode(&self->p, NOBODY));
	EXPECT_EQ(-ENOENT, inval_entry(&self->p, NOBODY, "f2", 0));
	EXPECT_EQ(-ENOENT, delete_entry(&self->p, NOBODY, PUPPET_FILE, "f2"));
	EXPECT_EQ(-ENOENT, store(&self->p, NOBODY, 0, 'X', 100));
	EXPECT_EQ(-ENOENT, retrieve(&self->p, NOBODY, 0, 100, 1));
	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
}

TEST_F(notify, unknown_code)
{
	static const int codes[] = { 0, FUSE_NOTIFY_CODE_MAX, 1000, -1, -11,
				     2147483647, -2147483647 - 1 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(codes); i++) {
		EXPECT_EQ(-EINVAL, puppet_notify(&self->p, codes[i], NULL, 0))
			TH_LOG("code %d", codes[i]);
		EXPECT_EQ(-EINVAL, puppet_notify(&self->p, codes[i],
						 "01234567", 8));
	}
	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
}

/* These have one size, and nothing else is taken for it. */
TEST_F(notify, wrong_size)
{
	static const struct {
		int code;
		size_t size;
	} fixed[] = {
		{ FUSE_NOTIFY_POLL,
		  sizeof(struct fuse_notify_poll_wakeup_out) },
		{ FUSE_NOTIFY_INVAL_INODE,
		  sizeof(struct fuse_notify_inval_inode_out) },
		{ FUSE_NOTIFY_RETRIEVE,
		  sizeof(struct fuse_notify_retrieve_out) },
	};
	static const char zeroes[8192];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(fixed); i++) {
		size_t sizes[] = { 0, 1, fixed[i].size - 1, fixed[i].size + 1,
				   2 * fixed[i].size, sizeof(zeroes) };
		unsigned int j;

		for (j = 0; j < ARRAY_SIZE(sizes); j++) {
			size_t size = sizes[j];

			EXPECT_EQ(-EINVAL, puppet_notify(&self->p,
							 fixed[i].code, zeroes,
							 size))
				TH_LOG("code %d size %zu", fixed[i].code, size);
		}
	}
	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
}

/* Names: their length must be what is left, with a byte for the end. */
TEST_F(notify, wrong_name)
{
	struct entry_msg entry;
	struct delete_msg del;
	size_t len;

	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
	len = fill_entry(&entry, FUSE_ROOT_ID, "f2", 0);
	EXPECT_EQ(-EINVAL, puppet_notify(&self->p, FUSE_NOTIFY_INVAL_ENTRY,
					 &entry, sizeof(entry.out) - 1));
	EXPECT_EQ(-EINVAL, puppet_notify(&self->p, FUSE_NOTIFY_INVAL_ENTRY,
					 &entry, len - 1));
	EXPECT_EQ(-EINVAL, puppet_notify(&self->p, FUSE_NOTIFY_INVAL_ENTRY,
					 &entry, len + 1));
	entry.out.namelen = 1025;
	EXPECT_EQ(-ENAMETOOLONG, puppet_notify(&self->p,
					       FUSE_NOTIFY_INVAL_ENTRY, &entry,
					       sizeof(entry.out) + 1026));
	entry.out.namelen = ~0U;
	EXPECT_EQ(-ENAMETOOLONG, puppet_notify(&self->p,
					       FUSE_NOTIFY_INVAL_ENTRY, &entry,
					       len));
	EXPECT_EQ(0, lookups_of(&self->p, FILE2));
	/* Of the byte for the end only that it is there. */
	len = fill_entry(&entry, FUSE_ROOT_ID, "f2x", 0) - 1;
	entry.out.namelen = 2;
	EXPECT_EQ(HEADER + (int)len,
		  puppet_notify(&self->p, FUSE_NOTIFY_INVAL_ENTRY, &entry,
				len));
	EXPECT_EQ(1, lookups_of(&self->p, FILE2));

	len = fill_delete(&del, FUSE_ROOT_ID, PUPPET_FILE, "f2");
	EXPECT_EQ(-EINVAL, puppet_notify(&self->p, FUSE_NOTIFY_DELETE, &del,
					 sizeof(del.out) - 1));
	EXPECT_EQ(-EINVAL, puppet_notify(&self->p, FUSE_NOTIFY_DELETE, &del,
					 len - 1));
	EXPECT_EQ(-EINVAL, puppet_notify(&self->p, FUSE_NOTIFY_DELETE, &del,
					 len + 1));
	del.out.namelen = 1025;
	EXPECT_EQ(-ENAMETOOLONG, puppet_notify(&self->p, FUSE_NOTIFY_DELETE,
					       &del, sizeof(del.out) + 1026));
	EXPECT_EQ(0, lookups_of(&self->p, FILE2));
}

TEST_F(notify, wrong_size_of_store)
{
	static struct store_msg msg;
	size_t len = fill_store(&msg, PUPPET_FILE, 0, 'X', 100);

	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
	EXPECT_EQ(-EINVAL, puppet_notify(&self->p, FUSE_NOTIFY_STORE, &msg, 0));
	EXPECT_EQ(-EINVAL, puppet_notify(&self->p, FUSE_NOTIFY_STORE, &msg,
					 sizeof(msg.out) - 1));
	EXPECT_EQ(-EINVAL, puppet_notify(&self->p, FUSE_NOTIFY_STORE, &msg,
					 sizeof(msg.out)));
	EXPECT_EQ(-EINVAL, puppet_notify(&self->p, FUSE_NOTIFY_STORE, &msg,
					 len - 1));
	EXPECT_EQ(-EINVAL, puppet_notify(&self->p, FUSE_NOTIFY_STORE, &msg,
					 len + 1));
	msg.out.size = ~0U;
	EXPECT_EQ(-EINVAL, puppet_notify(&self->p, FUSE_NOTIFY_STORE, &msg,
					 len));
}

TEST_F(notify, wrong_header)
{
	struct {
		struct fuse_out_header out;
		struct fuse_notify_inval_inode_out inval;
	} msg = {
		.out = { .error = FUSE_NOTIFY_INVAL_INODE },
		.inval = { .ino = FUSE_ROOT_ID },
	};
	unsigned int len;

	for (len = 0; len < sizeof(msg.out); len++) {
		msg.out.len = len;
		EXPECT_EQ(-EINVAL, puppet_message(&self->p, &msg, len))
			TH_LOG("length %u", len);
	}
	msg.out.len = sizeof(msg) - 1;
	EXPECT_EQ(-EINVAL, puppet_message(&self->p, &msg, sizeof(msg)));
	msg.out.len = sizeof(msg) + 1;
	EXPECT_EQ(-EINVAL, puppet_message(&self->p, &msg, sizeof(msg)));
	msg.out.len = 0;
	EXPECT_EQ(-EINVAL, puppet_message(&self->p, &msg, sizeof(msg)));
	msg.out.len = sizeof(msg);
	/* With write(2), that is a reply. */
	msg.out.unique = 2;
	msg.out.error = 0;
	EXPECT_EQ(variant->transport == TRANSPORT_RING ? -EINVAL : -ENOENT,
		  puppet_message(&self->p, &msg, sizeof(msg)));
	msg.out.unique = 0;
	msg.out.error = FUSE_NOTIFY_INVAL_INODE;
	EXPECT_EQ((int)sizeof(msg), puppet_message(&self->p, &msg, sizeof(msg)));
}

/* A READ of page 0 of FILE2 in hand: that page is locked. */
static int lock_page(struct puppet *p, struct puppet_held *held,
		     struct requester *r)
{
	int ret = reader_start(r);

	if (ret)
		return ret;
	reader_go(0);
	return puppet_hold(p, held, FUSE_READ, 1);
}

/* The same, and the one that waits for the page. */
static struct puppet_call *inval_locked(struct puppet *p)
{
	struct fuse_notify_inval_inode_out out = inval_inode_of(PUPPET_FILE);

	return puppet_notify_start(p, FUSE_NOTIFY_INVAL_INODE, &out,
				   sizeof(out));
}

TEST_F(notify, waits_for_a_page)
{
	struct puppet_call *call;

	ASSERT_EQ(0, lock_page(&self->p, &self->held, &self->r));
	call = inval_locked(&self->p);
	ASSERT_NE(NULL, call);
	ASSERT_TRUE(puppet_call_waits(&self->p, call));
	/* Others do not. */
	EXPECT_EQ(1, lookups_of(&self->p, FILE3));
	EXPECT_EQ(0, lookups_of(&self->p, FILE3));
	ASSERT_EQ(-ETIMEDOUT, puppet_call_end(&self->p, call, 0));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(INVAL_WHOLE,
		  puppet_call_end(&self->p, call, TEST_WAIT_MS));
	EXPECT_EQ(0, reader_end(&self->p, &self->r));
}

/* One about a file whose page is locked holds up none about others. */
TEST_F(notify, other_inodes_pass)
{
	struct puppet_call *call;
	__u64 ino;

	EXPECT_EQ(1, lookups_of(&self->p, FILE3));
	ASSERT_EQ(0, lock_page(&self->p, &self->held, &self->r));
	call = inval_locked(&self->p);
	ASSERT_NE(NULL, call);
	EXPECT_EQ(INVAL_WHOLE, inval_inode(&self->p, FUSE_ROOT_ID));
	EXPECT_EQ(INVAL_WHOLE, inval_inode(&self->p, 3));
	/* Nor those about files that there are not, however many. */
	for (ino = NOBODY; ino < NOBODY + 64; ino++)
		if (inval_inode(&self->p, ino) != -ENOENT)
			break;
	EXPECT_EQ(NOBODY + 64, ino);
	ASSERT_EQ(-ETIMEDOUT, puppet_call_end(&self->p, call, 0));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(INVAL_WHOLE,
		  puppet_call_end(&self->p, call, TEST_WAIT_MS));
	EXPECT_EQ(0, reader_end(&self->p, &self->r));
}

TEST_F(notify, waits_for_a_directory)
{
	struct entry_msg msg;
	size_t len = fill_entry(&msg, FUSE_ROOT_ID, "f2", 0);
	struct puppet_call *call;

	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
	ASSERT_EQ(0, requester_start(&self->r, request_stat, FILE3));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_LOOKUP, 1));
	call = puppet_notify_start(&self->p, FUSE_NOTIFY_INVAL_ENTRY, &msg,
				   len);
	ASSERT_NE(NULL, call);
	ASSERT_TRUE(puppet_call_waits(&self->p, call));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_EQ(HEADER + (int)len,
		  puppet_call_end(&self->p, call, TEST_WAIT_MS));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r));
	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
}

/* The connection ends: so does the wait. */
TEST_F(notify, abort)
{
	struct puppet_call *call;
	int ret;

	ASSERT_EQ(0, lock_page(&self->p, &self->held, &self->r));
	call = inval_locked(&self->p);
	ASSERT_NE(NULL, call);
	ASSERT_TRUE(puppet_call_waits(&self->p, call));
	ASSERT_EQ(0, conn_abort(self->p.conn));
	ret = puppet_call_end(&self->p, call, TEST_WAIT_MS);
	EXPECT_TRUE(ret == INVAL_WHOLE ||
		    ret == -ENOTCONN) TH_LOG("%d", ret);
	EXPECT_TRUE(reader_failed(&self->r));
}

/* What only a command can do, or do wrong. */
FIXTURE(command)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r;
};

FIXTURE_VARIANT(command)
{
	unsigned int uring_flags;
};

FIXTURE_VARIANT_ADD(command, ring) {
	.uring_flags = 0,
};

FIXTURE_VARIANT_ADD(command, ring_defer) {
	.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(command, ring_sqe128) {
	.uring_flags = IORING_SETUP_SQE128,
};

FIXTURE_SETUP(command)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 2,
		.payload = FUSE_URING_MIN_PAYLOAD,
	};

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
}

FIXTURE_TEARDOWN(command)
{
	puppet_stop(&self->p);
}

/* STORE at page 1 of FILE2, begun and not ended. */
static struct puppet_call *store_start(struct puppet *p, unsigned char byte)
{
	static struct store_msg msg;

	return puppet_notify_start(p, FUSE_NOTIFY_STORE, &msg,
				   fill_store(&msg, PUPPET_FILE, PAGE, byte,
					      PAGE));
}

/* One after the other: the last one's data are there. */
TEST_F(command, in_order)
{
	struct puppet_call *first, *call[26];
	unsigned int i;

	ASSERT_EQ(0, lock_page(&self->p, &self->held, &self->r));
	first = inval_locked(&self->p);
	for (i = 0; i < ARRAY_SIZE(call); i++)
		call[i] = store_start(&self->p, 'A' + i);
	EXPECT_TRUE(puppet_call_waits(&self->p, first));
	EXPECT_EQ(-ETIMEDOUT, puppet_call_end(&self->p, call[0], 0));
	EXPECT_EQ(-ETIMEDOUT, puppet_call_end(&self->p, call[25], 0));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_LT(0, puppet_call_end(&self->p, call[25], TEST_WAIT_MS));
	/* The others have been done before. */
	EXPECT_LT(0, puppet_call_end(&self->p, first, 0));
	for (i = 0; i < 25; i++)
		EXPECT_LT(0, puppet_call_end(&self->p, call[i], 0));
	EXPECT_GE(1, reads_until_idle(&self->p));
	EXPECT_EQ(0, reads_of(&self->p, 1));
	EXPECT_TRUE(reader_has_byte('Z'));
	EXPECT_EQ(0, reader_end(&self->p, &self->r));
	EXPECT_EQ(27, ring_stat(self->p.conn, "notifications_ring"));
}

/* Of two files, each one's are done in order, and neither waits for the other. */
TEST_F(command, in_order_of_each_inode)
{
	struct puppet_call *locked[3], *other[3];
	static struct store_msg msg;
	unsigned int i;
	size_t len;

	EXPECT_EQ(1, lookups_of(&self->p, FILE3));
	ASSERT_EQ(0, lock_page(&self->p, &self->held, &self->r));
	locked[0] = inval_locked(&self->p);
	for (i = 0; i < 3; i++) {
		if (i)
			locked[i] = store_start(&self->p, 'A' + i);
		len = fill_store(&msg, 3, 0, 'a' + i, PAGE);
		other[i] = puppet_notify_start(&self->p, FUSE_NOTIFY_STORE,
					       &msg, len);
	}
	EXPECT_LT(0, puppet_call_end(&self->p, other[2], TEST_WAIT_MS));
	EXPECT_LT(0, puppet_call_end(&self->p, other[0], 0));
	EXPECT_LT(0, puppet_call_end(&self->p, other[1], 0));
	EXPECT_EQ(-ETIMEDOUT, puppet_call_end(&self->p, locked[2], 0));

	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_LT(0, puppet_call_end(&self->p, locked[2], TEST_WAIT_MS));
	EXPECT_LT(0, puppet_call_end(&self->p, locked[0], 0));
	EXPECT_LT(0, puppet_call_end(&self->p, locked[1], 0));
	EXPECT_GE(1, reads_until_idle(&self->p));
	EXPECT_EQ(0, reads_of(&self->p, 1));
	EXPECT_TRUE(reader_has_byte('C'));
	EXPECT_EQ(0, reader_end(&self->p, &self->r));
}

/* These two cannot wait for anything, and pass the others. */
TEST_F(command, at_once)
{
	struct fuse_notify_poll_wakeup_out wakeup = { .kh = 1 };
	struct puppet_call *call;

	ASSERT_EQ(0, lock_page(&self->p, &self->held, &self->r));
	call = inval_locked(&self->p);
	EXPECT_EQ(WHOLE(wakeup), puppet_notify(&self->p, FUSE_NOTIFY_POLL,
					       &wakeup, sizeof(wakeup)));
	EXPECT_EQ(HEADER, puppet_notify(&self->p, FUSE_NOTIFY_RESEND, NULL, 0));
	EXPECT_EQ(-ETIMEDOUT, puppet_call_end(&self->p, call, 0));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_LT(0, puppet_call_end(&self->p, call, TEST_WAIT_MS));
	EXPECT_EQ(0, reader_end(&self->p, &self->r));
}

/* When the submission returns, the kernel has its own copy. */
TEST_F(command, copied_when_submitted)
{
	static struct {
		struct fuse_out_header out;
		struct store_msg store;
	} msg;
	struct puppet_call *call[2];
	size_t len = fill_store(&msg.store, PUPPET_FILE, PAGE, 'C', PAGE);

	msg.out.len = sizeof(msg.out) + len;
	msg.out.error = FUSE_NOTIFY_STORE;
	ASSERT_EQ(0, lock_page(&self->p, &self->held, &self->r));
	call[0] = inval_locked(&self->p);
	call[1] = puppet_message_start(&self->p, &msg, msg.out.len);
	memset(&msg, 0xff, sizeof(msg));
	ASSERT_TRUE(puppet_call_waits(&self->p, call[0]));
	ASSERT_EQ(-ETIMEDOUT, puppet_call_end(&self->p, call[1], 0));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_LT(0, puppet_call_end(&self->p, call[0], TEST_WAIT_MS));
	EXPECT_EQ(HEADER + (int)len,
		  puppet_call_end(&self->p, call[1], TEST_WAIT_MS));
	EXPECT_GE(1, reads_until_idle(&self->p));
	EXPECT_EQ(0, reads_of(&self->p, 1));
	EXPECT_TRUE(reader_has_byte('C'));
	EXPECT_EQ(0, reader_end(&self->p, &self->r));
}

TEST_F(command, longest)
{
	size_t max = self->p.setup.payload_size + 4096;
	static struct {
		struct fuse_out_header out;
		struct store_msg store;
	} msg;

	ASSERT_GT(sizeof(msg), max);
	fill_store(&msg.store, NOBODY, 0, 'L',
		   max - sizeof(msg.out) - sizeof(msg.store.out));
	msg.out.len = max;
	msg.out.error = FUSE_NOTIFY_STORE;
	EXPECT_EQ(-ENOENT, puppet_message(&self->p, &msg, max));
	msg.out.len = max + 1;
	msg.store.out.size++;
	EXPECT_EQ(-EMSGSIZE, puppet_message(&self->p, &msg, max + 1));
	EXPECT_EQ(-EMSGSIZE, puppet_message(&self->p, &msg, 1 << 20));
	EXPECT_EQ(-EMSGSIZE, puppet_message(&self->p, &msg, ~0U));
	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
}

TEST_F(command, bad_address)
{
	char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct fuse_out_header *out;

	ASSERT_NE(MAP_FAILED, (void *)page);
	ASSERT_EQ(0, munmap(page + PAGE, PAGE));
	EXPECT_EQ(-EFAULT, puppet_message(&self->p, NULL, sizeof(*out)));
	EXPECT_EQ(-EFAULT, puppet_message(&self->p, (void *)-4096UL,
					  sizeof(*out)));
	EXPECT_EQ(-EFAULT, puppet_message(&self->p, page + PAGE - 1,
					  sizeof(*out)));
	/* The header is there, and what it announces is not. */
	out = (void *)(page + PAGE) - sizeof(*out);
	out->len = sizeof(*out) + 8;
	out->error = FUSE_NOTIFY_POLL;
	EXPECT_EQ(-EFAULT, puppet_message(&self->p, out, out->len));
	out->len = sizeof(*out);
	out->error = FUSE_NOTIFY_RESEND;
	EXPECT_EQ(HEADER, puppet_message(&self->p, out, out->len));
}

static int notify_with(struct puppet *p, struct fuse_uring_slot_cmd cmd)
{
	struct fuse_out_header out = {
		.len = sizeof(out),
		.error = FUSE_NOTIFY_RESEND,
	};

	return puppet_call_end(p, puppet_call_start(p, FUSE_URING_REQ_NOTIFY,
						    &cmd, &out, sizeof(out)),
			       TEST_WAIT_MS);
}

#define NOTIFY_WITH(...) \
	notify_with(&self->p, (struct fuse_uring_slot_cmd){ __VA_ARGS__ })

TEST_F(command, command_area)
{
	EXPECT_EQ(HEADER, NOTIFY_WITH(.qid = 0));
	EXPECT_EQ(-EINVAL, NOTIFY_WITH(.qid = 1));
	EXPECT_EQ(-EINVAL, NOTIFY_WITH(.qid = 0xffff));
	EXPECT_EQ(-EINVAL, NOTIFY_WITH(.slot = 1));
	EXPECT_EQ(-EINVAL, NOTIFY_WITH(.commit_id = 1));
	EXPECT_EQ(-EINVAL, NOTIFY_WITH(.commit_id = 1ULL << 63));
	EXPECT_EQ(-EOPNOTSUPP, NOTIFY_WITH(.flags = 1));
	EXPECT_EQ(-EOPNOTSUPP, NOTIFY_WITH(.flags = 1U << 31));
	EXPECT_EQ(1, lookups_of(&self->p, FILE2));
}

TEST_F(command, after_the_end)
{
	ASSERT_EQ(0, conn_abort(self->p.conn));
	EXPECT_EQ(-ENOTCONN, puppet_notify(&self->p, FUSE_NOTIFY_RESEND, NULL,
					   0));
	EXPECT_EQ(-ENOTCONN, inval_inode(&self->p, FUSE_ROOT_ID));
}

TEST(notify_without_ring)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = { .transport = TRANSPORT_RING };
	struct puppet p;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&p, &opt));
	ASSERT_EQ(0, puppet_mount(&p));
	ASSERT_EQ(0, puppet_uring(&p));
	EXPECT_EQ(-ENXIO, puppet_notify(&p, FUSE_NOTIFY_RESEND, NULL, 0));
	EXPECT_EQ(0, puppet_init(&p));
	/* A ring is enough, without a slot that is armed. */
	ASSERT_EQ(0, puppet_setup(&p));
	EXPECT_EQ(HEADER, puppet_notify(&p, FUSE_NOTIFY_RESEND, NULL, 0));
	EXPECT_EQ(INVAL_WHOLE,
		  inval_inode(&p, FUSE_ROOT_ID));
	puppet_stop(&p);
}

/* So many wait at a time, the one that holds them up included. */
TEST_F(command, too_many)
{
	struct puppet_call *call[FUSE_URING_MAX_NOTIFY + 1];
	unsigned int i, nr;
	int ret = 0;

	ASSERT_EQ(0, lock_page(&self->p, &self->held, &self->r));
	for (nr = 0; nr < ARRAY_SIZE(call); nr++) {
		call[nr] = inval_locked(&self->p);
		ASSERT_NE(NULL, call[nr]);
		ret = puppet_call_end(&self->p, call[nr], 0);
		if (ret != -ETIMEDOUT)
			break;
	}
	EXPECT_EQ(-ENOBUFS, ret);
	EXPECT_EQ(FUSE_URING_MAX_NOTIFY, nr);
	/* Requests are served all the same. */
	EXPECT_EQ(1, lookups_of(&self->p, FILE3));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	/* The page is taken away again and again: each may wait for a READ. */
	EXPECT_LE(0, reads_until_idle(&self->p));
	for (i = 0; i < nr; i++)
		EXPECT_EQ(INVAL_WHOLE,
			  puppet_call_end(&self->p, call[i], TEST_WAIT_MS));
	/* And there is room again. */
	EXPECT_EQ(INVAL_WHOLE,
		  inval_inode(&self->p, PUPPET_FILE));
	EXPECT_EQ(0, reader_end(&self->p, &self->r));
}

TEST_F(command, too_much)
{
	size_t max = self->p.setup.payload_size + 4096;
	size_t data = max - HEADER - sizeof(struct fuse_notify_store_out);
	static struct store_msg msg;
	struct puppet_call *call[9];
	unsigned int i, nr;
	int ret = 0;

	ASSERT_EQ(0, lock_page(&self->p, &self->held, &self->r));
	fill_store(&msg, PUPPET_FILE, 0, 'M', data);
	for (nr = 0; nr < ARRAY_SIZE(call); nr++) {
		call[nr] = puppet_notify_start(&self->p, FUSE_NOTIFY_STORE,
					       &msg, sizeof(msg.out) + data);
		ASSERT_NE(NULL, call[nr]);
		ret = puppet_call_end(&self->p, call[nr], 0);
		if (ret != -ETIMEDOUT)
			break;
	}
	EXPECT_EQ(-ENOBUFS, ret);
	EXPECT_EQ(8, nr);
	EXPECT_EQ(-ENOBUFS, inval_inode(&self->p, FUSE_ROOT_ID));
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_LE(0, reads_until_idle(&self->p));
	for (i = 0; i < nr; i++)
		EXPECT_EQ((int)max, puppet_call_end(&self->p, call[i],
						    TEST_WAIT_MS));
	EXPECT_EQ(INVAL_WHOLE,
		  inval_inode(&self->p, FUSE_ROOT_ID));
	EXPECT_EQ(0, reader_end(&self->p, &self->r));
}

/* With its io_uring goes what has not been begun. */
TEST_F(command, io_uring_closed)
{
	ASSERT_EQ(0, lock_page(&self->p, &self->held, &self->r));
	ASSERT_NE(NULL, inval_locked(&self->p));
	ASSERT_NE(NULL, store_start(&self->p, 'X'));
	puppet_close_uring(&self->p);
	ASSERT_TRUE(ring_queues_stat_becomes(self->p.conn, "parked", 0));
	ASSERT_EQ(0, puppet_uring(&self->p));
	/* The server goes on, on another one. */
	ASSERT_EQ(0, puppet_release(&self->p, &self->held));
	EXPECT_GE(1, reads_until_idle(&self->p));
	EXPECT_EQ(1, reads_of(&self->p, 1));
	EXPECT_TRUE(reader_has_file(1));
	EXPECT_LT(0, inval_inode(&self->p, PUPPET_FILE));
	EXPECT_EQ(1, reads_of(&self->p, 1));
	EXPECT_EQ(0, reader_end(&self->p, &self->r));
}

/* The connection ends: what waits behind another one is not done. */
TEST_F(command, abort_of_several)
{
	struct puppet_call *call[2];

	ASSERT_EQ(0, lock_page(&self->p, &self->held, &self->r));
	call[0] = inval_locked(&self->p);
	ASSERT_TRUE(puppet_call_waits(&self->p, call[0]));
	call[1] = store_start(&self->p, 'X');
	ASSERT_EQ(-ETIMEDOUT, puppet_call_end(&self->p, call[1], 0));
	ASSERT_EQ(0, conn_abort(self->p.conn));
	EXPECT_EQ(-ENOTCONN, puppet_call_end(&self->p, call[1], TEST_WAIT_MS));
	EXPECT_NE(-ETIMEDOUT, puppet_call_end(&self->p, call[0], TEST_WAIT_MS));
	EXPECT_TRUE(reader_failed(&self->r));
}

/*
 * A server in a process of its own, whose notification waits for a READ that
 * it has in hand itself.
 */
static int stuck_server(struct puppet *p, int ready)
{
	static struct puppet_held held;
	struct puppet_call *call;
	int ret = puppet_hold(p, &held, FUSE_READ, 1);

	if (ret)
		return 1;
	call = inval_locked(p);
	if (!puppet_call_waits(p, call))
		return 2;
	if (!store_start(p, 'X') || write(ready, "x", 1) != 1)
		return 3;
	for (;;)
		puppet_drain(p, 1000);
}

FIXTURE(killed)
{
	struct puppet p;
	struct requester r, server;
	int conn;
};

FIXTURE_VARIANT(killed)
{
	unsigned int uring_flags;
	bool heir;		/* the test keeps /dev/fuse */
};

FIXTURE_VARIANT_ADD(killed, ring) {
	.uring_flags = 0,
};

FIXTURE_VARIANT_ADD(killed, ring_defer) {
	.uring_flags = DEFER,
};

FIXTURE_VARIANT_ADD(killed, heir) {
	.heir = true,
};

FIXTURE_VARIANT_ADD(killed, heir_defer) {
	.uring_flags = DEFER,
	.heir = true,
};

FIXTURE_SETUP(killed)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.uring_flags = variant->uring_flags,
		.nr_queues = 1,
		.depth = 2,
	};
	int fds[2];
	char c;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	self->conn = self->p.conn;
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, pipe(fds));
	fflush(NULL);
	self->server.pid = fork();
	ASSERT_LE(0, self->server.pid);
	if (!self->server.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (puppet_map(&self->p) || puppet_uring(&self->p) ||
		    puppet_arm(&self->p) || puppet_init(&self->p))
			_exit(4);
		_exit(stuck_server(&self->p, fds[1]));
	}
	self->server.pidfd = syscall(SYS_pidfd_open, self->server.pid, 0);
	ASSERT_LE(0, self->server.pidfd);
	close(fds[1]);
	if (!variant->heir)
		puppet_close_dev(&self->p);
	ASSERT_EQ(0, reader_start(&self->r));
	reader_go(0);
	ASSERT_EQ(1, read(fds[0], &c, 1));
}

FIXTURE_TEARDOWN(killed)
{
	puppet_stop(&self->p);
	EXPECT_TRUE(conn_gone(self->conn));
}

/* Nobody hangs: not the server, and not who waits for it. */
TEST_F(killed, ends)
{
	ASSERT_EQ(0, kill(self->server.pid, SIGKILL));
	EXPECT_EQ(-SIGKILL, requester_join(&self->server));
	if (variant->heir) {
		EXPECT_TRUE(requester_sleeps(&self->r));
		ASSERT_EQ(0, conn_abort(self->conn));
	}
	EXPECT_TRUE(reader_failed(&self->r));
}

/* Or another server answers. */
TEST_F(killed, another_goes_on)
{
	static struct puppet_held held;
	__u64 end;
	int ret;

	ASSERT_EQ(0, kill(self->server.pid, SIGKILL));
	EXPECT_EQ(-SIGKILL, requester_join(&self->server));
	if (!variant->heir) {
		EXPECT_TRUE(reader_failed(&self->r));
		return;
	}
	end = now_ms() + TEST_WAIT_MS;
	while ((ret = puppet_setup(&self->p)) == -EBUSY && now_ms() < end)
		sleep_ms(1);
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm(&self->p));
	ASSERT_EQ(HEADER, puppet_notify(&self->p, FUSE_NOTIFY_RESEND, NULL, 0));
	ASSERT_EQ(0, puppet_hold(&self->p, &held, FUSE_READ, 1));
	EXPECT_NE(0, held.req[0]->in.unique & FUSE_UNIQUE_RESEND);
	ASSERT_EQ(0, puppet_release(&self->p, &held));
	/* What the dead one had not begun is not done. */
	EXPECT_LT(0, inval_inode(&self->p, FUSE_ROOT_ID));
	EXPECT_GE(1, reads_until_idle(&self->p));
	EXPECT_EQ(1, reads_of(&self->p, 1));
	EXPECT_TRUE(reader_has_file(1));
	EXPECT_EQ(0, reader_end(&self->p, &self->r));
}

TEST_HARNESS_MAIN
