// SPDX-License-Identifier: GPL-2.0
/*
 * Every opcode of the protocol, over each transport: what the filesystem
 * below does comes out of the system calls above, and the server has seen it
 * on the transport that is under test.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/xattr.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "fs_mem.h"
#include "transports.h"

/*
 * What becomes of an opcode.  The compiler refuses this switch when the header
 * has an opcode that is not in it: then a test is to be written.
 */
enum opcode_kind {
	OP_TESTED,		/* all_are_sent sees it */
	OP_TESTED_CONTROL,	/* the same, in control slots or over /dev/fuse */
	OP_TESTED_MANAGED,	/* the same, over /dev/fuse with user buffers */
	OP_FUSEBLK,		/* sent for block devices only */
	OP_VIRTIOFS,		/* sent by virtiofs only */
	OP_CUSE,		/* see cuse_test.c */
	OP_NONE,		/* no opcode */
};

#pragma GCC diagnostic push
#pragma GCC diagnostic error "-Wswitch"
#pragma GCC diagnostic error "-Wswitch-enum"
static enum opcode_kind opcode_kind(enum fuse_opcode opcode)
{
	switch (opcode) {
	case FUSE_LOOKUP:
	case FUSE_GETATTR:
	case FUSE_SETATTR:
	case FUSE_READLINK:
	case FUSE_SYMLINK:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_RENAME:
	case FUSE_LINK:
	case FUSE_OPEN:
	case FUSE_READ:
	case FUSE_WRITE:
	case FUSE_STATFS:
	case FUSE_RELEASE:
	case FUSE_FSYNC:
	case FUSE_SETXATTR:
	case FUSE_GETXATTR:
	case FUSE_LISTXATTR:
	case FUSE_REMOVEXATTR:
	case FUSE_FLUSH:
	case FUSE_OPENDIR:
	case FUSE_READDIR:
	case FUSE_RELEASEDIR:
	case FUSE_FSYNCDIR:
	case FUSE_GETLK:
	case FUSE_SETLK:
	case FUSE_SETLKW:
	case FUSE_ACCESS:
	case FUSE_CREATE:
	case FUSE_IOCTL:
	case FUSE_POLL:
	case FUSE_FALLOCATE:
	case FUSE_READDIRPLUS:
	case FUSE_RENAME2:
	case FUSE_LSEEK:
	case FUSE_COPY_FILE_RANGE:
	case FUSE_TMPFILE:
	case FUSE_STATX:
		return OP_TESTED;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		return OP_TESTED_CONTROL;
	case FUSE_INIT:
	case FUSE_NOTIFY_REPLY:
		return OP_TESTED_MANAGED;
	case FUSE_BMAP:
	case FUSE_DESTROY:
		return OP_FUSEBLK;
	case FUSE_SYNCFS:
	case FUSE_SETUPMAPPING:
	case FUSE_REMOVEMAPPING:
		return OP_VIRTIOFS;
	case CUSE_INIT:
		return OP_CUSE;
	case CUSE_INIT_BSWAP_RESERVED:
	case FUSE_INIT_BSWAP_RESERVED:
		return OP_NONE;
	}
	return OP_NONE;
}

#pragma GCC diagnostic pop

#define NR_OPCODES	64

/* What the server's process tells the test's. */
struct seen {
	unsigned int count[SERVER_TRANSPORTS][NR_OPCODES];
	unsigned int largest[NR_OPCODES];	/* READ and WRITE */
	__u64 nodeid;			/* of the last WRITE */
	unsigned int retrieved;			/* bytes in NOTIFY_REPLY */
};

FIXTURE(opcode)
{
	struct seen *seen;
	int ctl;		/* asks the server to notify */
	int conn;
	pid_t pid;
	unsigned int max_write;
	enum server_transport by;
	bool control;		/* the ring has control slots */
};

FIXTURE_VARIANT(opcode)
{
	enum test_transport transport;
	unsigned int queues;
	unsigned int depth;
	bool no_control;
};

FIXTURE_VARIANT_ADD(opcode, dev) {
	.transport = TRANSPORT_DEV,
};

FIXTURE_VARIANT_ADD(opcode, ring) {
	.transport = TRANSPORT_RING,
};

/* As few as can be: who waits for a lock has a slot. */
FIXTURE_VARIANT_ADD(opcode, ring_two_slots) {
	.transport = TRANSPORT_RING,
	.queues = 1,
	.depth = 2,
};

FIXTURE_VARIANT_ADD(opcode, ring_no_control) {
	.transport = TRANSPORT_RING,
	.no_control = true,
};

FIXTURE_VARIANT_ADD(opcode, user) {
	.transport = TRANSPORT_USER,
};

/* Of one queue for all CPUs, too. */
FIXTURE_VARIANT_ADD(opcode, user_two_slots) {
	.transport = TRANSPORT_USER,
	.queues = 1,
	.depth = 2,
};

struct order {
	int code;
	size_t len;
	char payload[64];
};

static bool look(struct server_req *req, void *arg)
{
	struct seen *seen = arg;
	unsigned int opcode = req->in->opcode;
	const struct fuse_read_in *read = req->op;
	const struct fuse_write_in *write = req->op;
	unsigned int size = 0;

	if (opcode >= NR_OPCODES)
		return false;
	/* Nobody waits for that one, so what is seen goes before its count */
	if (opcode == FUSE_NOTIFY_REPLY)
		seen->retrieved = req->data_len;
	__atomic_add_fetch(&seen->count[server_req_by(req)][opcode], 1,
			   __ATOMIC_SEQ_CST);
	switch (opcode) {
	case FUSE_FORGET:
		/* Slow, so that the next ones come together for once. */
		if (!seen->count[SERVER_DEV][FUSE_BATCH_FORGET] &&
		    !seen->count[SERVER_RING][FUSE_BATCH_FORGET])
			sleep_ms(20);
		break;
	case FUSE_READ:
		size = read->size;
		break;
	case FUSE_WRITE:
		size = write->size;
		seen->nodeid = req->in->nodeid;
		break;
	}
	if (size > seen->largest[opcode])
		seen->largest[opcode] = size;
	return false;
}

static int serve(struct server_opts *opts, int ctl)
{
	struct server *srv = server_start(opts);
	struct order order;
	int ret[2];

	if (!srv) {
		fprintf(stderr, "# %s\n", server_error());
		return 1;
	}
	ret[0] = conn_number(TEST_MNT);
	ret[1] = server_init_out(srv)->max_write;
	if (write(ctl, ret, sizeof(ret)) != sizeof(ret))
		return 1;
	while (read(ctl, &order, sizeof(order)) == sizeof(order)) {
		ret[0] = server_notify(srv, order.code, order.payload,
				       order.len);
		if (write(ctl, ret, sizeof(ret)) != sizeof(ret))
			return 1;
	}
	return server_stop(srv) ? 1 : 0;
}

#define PATH(name)	(TEST_MNT "/" name)

FIXTURE_SETUP(opcode)
{
	const char *why = test_prepare_mainline(variant->transport,
						variant->queues);
	int fds[2], told[2];

	if (why)
		SKIP(return, "%s", why);
	self->by = transport_server(variant->transport);
	self->control = self->by == SERVER_RING && !variant->no_control;
	self->seen = mmap(NULL, sizeof(*self->seen), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->seen);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds));
	self->pid = fork();
	ASSERT_LE(0, self->pid);
	if (!self->pid) {
		struct server_opts opts = {
			.mountpoint = TEST_MNT,
			.fs = fs_mem_new(),
			.transport = self->by,
			.hook = look,
			.hook_arg = self->seen,
			.nr_queues = variant->queues,
			.queue_depth = variant->depth,
			.no_control = variant->no_control,
			.nr_threads = 2,
			.no_bind = true,
			.mount_opts = "allow_other",
		};

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(fds[0]);
		_exit(serve(&opts, fds[1]));
	}
	close(fds[1]);
	self->ctl = fds[0];
	ASSERT_EQ(sizeof(told), read(self->ctl, told, sizeof(told)));
	self->conn = told[0];
	self->max_write = told[1];
	umask(0);
}

/* How requests of this opcode are to come. */
static enum server_transport way(struct _test_data_opcode *self,
				 unsigned int opcode)
{
	switch (opcode_kind(opcode)) {
	case OP_TESTED_CONTROL:
		return self->control ? SERVER_RING : SERVER_DEV;
	case OP_TESTED_MANAGED:
		return self->by == SERVER_RING ? SERVER_RING : SERVER_DEV;
	default:
		return self->by;
	}
}

static unsigned int sent(struct _test_data_opcode *self, unsigned int opcode)
{
	return __atomic_load_n(&self->seen->count[way(self, opcode)][opcode],
			       __ATOMIC_SEQ_CST);
}

FIXTURE_TEARDOWN(opcode)
{
	struct requester r = { .pid = self->pid };
	int status = -1;

	/* The kernel's own figures agree. */
	if (self->by == SERVER_RING) {
		EXPECT_EQ(0, ring_stat(self->conn, "requests_dev"));
		EXPECT_EQ(0, ring_stat(self->conn, "notifications_dev"));
	}
	if (self->by == SERVER_USER && !ring_is_mainline())
		EXPECT_GE(sent(self, FUSE_INIT) + sent(self, FUSE_NOTIFY_REPLY),
			  ring_stat(self->conn, "requests_dev"));
	if (self->by != SERVER_DEV && !ring_is_mainline())
		EXPECT_LT(0, ring_stat(self->conn, "requests_ring"));
	if (self->control) {
		EXPECT_EQ(0, ring_stat(self->conn, "forgets_dev"));
		EXPECT_EQ(0, ring_stat(self->conn, "interrupts_dev"));
	}
	close(self->ctl);
	EXPECT_EQ(r.pid, waitpid(r.pid, &status, 0));
	EXPECT_EQ(0, status);
	munmap(self->seen, sizeof(*self->seen));
}

/* For what nobody waits for. */
static bool sent_soon(struct _test_data_opcode *self, unsigned int opcode)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	while (!sent(self, opcode) && now_ms() < end)
		sleep_ms(1);
	return sent(self, opcode);
}

#define SENT(opcode)	EXPECT_LT(0, sent(self, opcode))

static void fill(unsigned char *buf, size_t len, unsigned int seed)
{
	size_t i;

	for (i = 0; i < len; i++)
		buf[i] = test_byte(seed, i);
}

static int make_file(const char *path, size_t len)
{
	unsigned char *buf = malloc(len + 1);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0 || !buf)
		return -errno;
	fill(buf, len, 1);
	if (write(fd, buf, len) != (ssize_t)len) {
		close(fd);
		fd = -errno;
	}
	free(buf);
	return fd;
}

static void do_attributes(struct __test_metadata *_metadata,
			  struct _test_data_opcode *self)
{
	struct timespec times[2] = { { 1000, 5 }, { 2000, 7 } };
	struct statx stx;
	struct stat st;
	int fd = make_file(PATH("attr"), 100);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fchmod(fd, 0640));
	ASSERT_EQ(0, fchown(fd, 12, 34));
	ASSERT_EQ(0, ftruncate(fd, 5000));
	ASSERT_EQ(0, futimens(fd, times));
	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(S_IFREG | 0640, st.st_mode);
	EXPECT_EQ(12, st.st_uid);
	EXPECT_EQ(34, st.st_gid);
	EXPECT_EQ(5000, st.st_size);
	EXPECT_EQ(2000, st.st_mtim.tv_sec);
	EXPECT_EQ(7, st.st_mtim.tv_nsec);
	ASSERT_EQ(0, statx(fd, "", AT_EMPTY_PATH,
			   STATX_BASIC_STATS | STATX_BTIME, &stx));
	EXPECT_EQ(5000, stx.stx_size);
	EXPECT_EQ(0, access(PATH("attr"), R_OK | W_OK));
	close(fd);
	EXPECT_EQ(-1, stat(PATH("none"), &st));
	EXPECT_EQ(ENOENT, errno);
	SENT(FUSE_LOOKUP);
	SENT(FUSE_GETATTR);
	SENT(FUSE_SETATTR);
	SENT(FUSE_STATX);
	SENT(FUSE_ACCESS);
}

TEST_F(opcode, attributes)
{
	do_attributes(_metadata, self);
}

static void do_names(struct __test_metadata *_metadata,
		     struct _test_data_opcode *self)
{
	char name[300], path[sizeof(TEST_MNT) + 1100];
	struct stat st;
	int fd;

	memset(name, 'n', sizeof(name));
	name[255] = 0;
	snprintf(path, sizeof(path), TEST_MNT "/%s", name);
	ASSERT_EQ(0, mkdir(path, 0751));
	ASSERT_EQ(0, stat(path, &st));
	EXPECT_EQ(S_IFDIR | 0751, st.st_mode);
	ASSERT_EQ(0, rmdir(path));
	EXPECT_EQ(-1, stat(path, &st));
	EXPECT_EQ(ENOENT, errno);
	strcat(path, "n");
	EXPECT_EQ(-1, mkdir(path, 0751));
	EXPECT_EQ(ENAMETOOLONG, errno);

	ASSERT_EQ(0, mknod(PATH("fifo"), S_IFIFO | 0604, 0));
	ASSERT_EQ(0, stat(PATH("fifo"), &st));
	EXPECT_EQ(S_IFIFO | 0604, st.st_mode);
	ASSERT_EQ(0, link(PATH("fifo"), PATH("fifo2")));
	ASSERT_EQ(0, stat(PATH("fifo2"), &st));
	EXPECT_EQ(2, st.st_nlink);
	ASSERT_EQ(0, rename(PATH("fifo2"), PATH("fifo3")));
	EXPECT_EQ(-1, stat(PATH("fifo2"), &st));
	EXPECT_EQ(-1, renameat2(AT_FDCWD, PATH("fifo3"), AT_FDCWD, PATH("fifo"),
				RENAME_NOREPLACE));
	EXPECT_EQ(EEXIST, errno);
	ASSERT_EQ(0, mknod(PATH("file"), S_IFREG | 0600, 0));
	ASSERT_EQ(0, renameat2(AT_FDCWD, PATH("file"), AT_FDCWD, PATH("fifo"),
			       RENAME_EXCHANGE));
	ASSERT_EQ(0, stat(PATH("file"), &st));
	EXPECT_EQ(S_IFIFO | 0604, st.st_mode);
	ASSERT_EQ(0, unlink(PATH("file")));
	ASSERT_EQ(0, unlink(PATH("fifo")));
	ASSERT_EQ(0, unlink(PATH("fifo3")));

	fd = open(PATH("created"), O_RDWR | O_CREAT | O_EXCL, 0600);
	ASSERT_LE(0, fd);
	close(fd);
	fd = open(PATH("created"), O_RDWR | O_CREAT | O_EXCL, 0600);
	EXPECT_EQ(-1, fd);
	EXPECT_EQ(EEXIST, errno);
	ASSERT_EQ(0, unlink(PATH("created")));
	SENT(FUSE_MKDIR);
	SENT(FUSE_RMDIR);
	SENT(FUSE_MKNOD);
	SENT(FUSE_LINK);
	SENT(FUSE_RENAME);
	SENT(FUSE_RENAME2);
	SENT(FUSE_UNLINK);
	SENT(FUSE_CREATE);
}

TEST_F(opcode, names)
{
	do_names(_metadata, self);
}

/* Two names of the largest size in one request. */
TEST_F(opcode, longest_rename)
{
	char from[sizeof(TEST_MNT) + 256], to[sizeof(TEST_MNT) + 256];
	struct stat st;

	memset(from, 'a', sizeof(from) - 1);
	memset(to, 'b', sizeof(to) - 1);
	memcpy(from, TEST_MNT "/", sizeof(TEST_MNT));
	memcpy(to, TEST_MNT "/", sizeof(TEST_MNT));
	from[sizeof(from) - 1] = 0;
	to[sizeof(to) - 1] = 0;
	ASSERT_EQ(0, mkdir(from, 0700));
	ASSERT_EQ(0, rename(from, to));
	EXPECT_EQ(-1, stat(from, &st));
	EXPECT_EQ(0, stat(to, &st));
	ASSERT_EQ(0, renameat2(AT_FDCWD, to, AT_FDCWD, from, RENAME_NOREPLACE));
	EXPECT_EQ(0, stat(from, &st));
}

static void do_symlinks(struct __test_metadata *_metadata,
			struct _test_data_opcode *self)
{
	static char target[4096], got[8192];
	size_t sizes[] = { 1, 100, 4095 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		memset(target, 'a' + i, sizes[i]);
		target[sizes[i]] = 0;
		ASSERT_EQ(0, symlink(target, PATH("link")));
		ASSERT_EQ(sizes[i], readlink(PATH("link"), got, sizeof(got)));
		EXPECT_EQ(0, memcmp(target, got, sizes[i]));
		ASSERT_EQ(0, unlink(PATH("link")));
	}
	SENT(FUSE_SYMLINK);
	SENT(FUSE_READLINK);
}

TEST_F(opcode, symlinks)
{
	do_symlinks(_metadata, self);
}

/* Direct, so that the sizes are the requests'. */
static void do_data(struct __test_metadata *_metadata,
		    struct _test_data_opcode *self)
{
	size_t max = self->max_write, len = max + 8192;
	unsigned char *out, *in;
	int fd;

	fd = open(PATH("data"), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, posix_memalign((void **)&out, getpagesize(), len));
	ASSERT_EQ(0, posix_memalign((void **)&in, getpagesize(), len));
	fill(out, len, 3);

	ASSERT_EQ(max, pwrite(fd, out, max, 0));
	EXPECT_EQ(max, self->seen->largest[FUSE_WRITE]);
	memset(in, 0, len);
	ASSERT_EQ(max, pread(fd, in, max, 0));
	EXPECT_EQ(max, self->seen->largest[FUSE_READ]);
	EXPECT_EQ(0, memcmp(out, in, max));

	/* More than one request can carry. */
	ASSERT_EQ(len, pwrite(fd, out, len, 4096));
	memset(in, 0, len);
	ASSERT_EQ(len, pread(fd, in, len, 4096));
	EXPECT_EQ(0, memcmp(out, in, len));
	EXPECT_EQ(max, self->seen->largest[FUSE_WRITE]);
	EXPECT_EQ(max, self->seen->largest[FUSE_READ]);

	/* Behind the end, and across it. */
	EXPECT_EQ(0, pread(fd, in, 4096, len + 4096));
	EXPECT_EQ(4096, pread(fd, in, 8192, len));
	EXPECT_EQ(0, fsync(fd));
	EXPECT_EQ(0, close(fd));
	free(in);
	free(out);
	fd = open(PATH("data"), O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	close(fd);
	SENT(FUSE_WRITE);
	SENT(FUSE_READ);
	SENT(FUSE_FSYNC);
	SENT(FUSE_FLUSH);
	SENT(FUSE_OPEN);
	EXPECT_TRUE(sent_soon(self, FUSE_RELEASE));
}

TEST_F(opcode, file_data)
{
	do_data(_metadata, self);
}

static void do_space(struct __test_metadata *_metadata,
		     struct _test_data_opcode *self)
{
	struct statfs fs;
	char buf[4096];
	int fd, to;

	ASSERT_EQ(0, statfs(TEST_MNT, &fs));
	EXPECT_LE(255, fs.f_namelen);
	fd = make_file(PATH("space"), 8192);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fallocate(fd, 0, 0, 1 << 20));
	EXPECT_EQ(1 << 20, lseek(fd, 0, SEEK_END));
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       0, 4096));
	ASSERT_EQ(4096, pread(fd, buf, 4096, 0));
	EXPECT_EQ(0, buf[0]);
	EXPECT_EQ(4096, lseek(fd, 0, SEEK_DATA));
	EXPECT_EQ(0, lseek(fd, 0, SEEK_HOLE));

	to = open(PATH("copy"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_LE(0, to);
	ASSERT_EQ(4096, copy_file_range(fd, (off_t[]){ 4096 }, to,
					(off_t[]){ 100 }, 4096, 0));
	ASSERT_EQ(4096, pread(to, buf, 4096, 100));
	EXPECT_EQ((char)test_byte(1, 4096), buf[0]);
	EXPECT_EQ((char)test_byte(1, 8191), buf[4095]);
	close(fd);
	close(to);
	fd = open(TEST_MNT, O_RDWR | O_TMPFILE, 0600);
	ASSERT_LE(0, fd);
	EXPECT_EQ(3, write(fd, "abc", 3));
	EXPECT_EQ(3, pread(fd, buf, 10, 0));
	close(fd);
	SENT(FUSE_STATFS);
	SENT(FUSE_FALLOCATE);
	SENT(FUSE_LSEEK);
	SENT(FUSE_COPY_FILE_RANGE);
	SENT(FUSE_TMPFILE);
}

TEST_F(opcode, space)
{
	do_space(_metadata, self);
}

static void do_xattrs(struct __test_metadata *_metadata,
		      struct _test_data_opcode *self)
{
	static const size_t sizes[] = { 0, 1, 4096, 65535, 65536 };
	static unsigned char value[65537], got[65536];
	char name[300] = "user.";
	unsigned int i;
	int fd = make_file(PATH("xattr"), 0);

	ASSERT_LE(0, fd);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		fill(value, sizes[i], i);
		ASSERT_EQ(0, fsetxattr(fd, "user.test", value, sizes[i], 0));
		EXPECT_EQ(sizes[i], fgetxattr(fd, "user.test", NULL, 0));
		ASSERT_EQ(sizes[i], fgetxattr(fd, "user.test", got,
					      sizeof(got)));
		EXPECT_EQ(0, memcmp(value, got, sizes[i]));
	}
	EXPECT_EQ(-1, fgetxattr(fd, "user.test", got, 65535));
	EXPECT_EQ(ERANGE, errno);
	EXPECT_EQ(-1, fsetxattr(fd, "user.test", value, 65537, 0));
	EXPECT_EQ(E2BIG, errno);

	/* The longest name and the largest value together. */
	memset(name + 5, 'x', 250);
	ASSERT_EQ(0, fsetxattr(fd, name, value, 65536, 0));
	ASSERT_EQ(65536, fgetxattr(fd, name, got, sizeof(got)));
	EXPECT_EQ(0, memcmp(value, got, 65536));

	EXPECT_EQ(-1, fsetxattr(fd, "user.test", value, 1, XATTR_CREATE));
	EXPECT_EQ(EEXIST, errno);
	ASSERT_EQ(sizeof("user.test") + strlen(name) + 1,
		  flistxattr(fd, (char *)got, sizeof(got)));
	ASSERT_EQ(0, fremovexattr(fd, name));
	ASSERT_EQ(0, fremovexattr(fd, "user.test"));
	EXPECT_EQ(-1, fgetxattr(fd, "user.test", NULL, 0));
	EXPECT_EQ(ENODATA, errno);
	EXPECT_EQ(0, flistxattr(fd, NULL, 0));
	close(fd);
	SENT(FUSE_SETXATTR);
	SENT(FUSE_GETXATTR);
	SENT(FUSE_LISTXATTR);
	SENT(FUSE_REMOVEXATTR);
}

TEST_F(opcode, xattrs)
{
	do_xattrs(_metadata, self);
}

#define NR_ENTRIES	500

static void do_directory(struct __test_metadata *_metadata,
			 struct _test_data_opcode *self)
{
	static unsigned char seen[NR_ENTRIES];
	unsigned int i, wrong = 0, rounds;
	struct dirent *entry;
	char path[64];
	DIR *dir;
	int fd;

	ASSERT_EQ(0, mkdir(PATH("dir"), 0700));
	for (i = 0; i < NR_ENTRIES; i++) {
		snprintf(path, sizeof(path), PATH("dir/entry%u"), i);
		wrong += mknod(path, S_IFREG | 0600, 0) != 0;
	}
	EXPECT_EQ(0, wrong);
	for (rounds = 0; rounds < 2; rounds++) {
		dir = opendir(PATH("dir"));
		ASSERT_NE(NULL, dir);
		memset(seen, 0, sizeof(seen));
		while ((entry = readdir(dir))) {
			if (sscanf(entry->d_name, "entry%u", &i) == 1 &&
			    i < NR_ENTRIES)
				seen[i]++;
			else if (strcmp(entry->d_name, ".") &&
				 strcmp(entry->d_name, ".."))
				wrong++;
		}
		EXPECT_EQ(0, fsync(dirfd(dir)));
		closedir(dir);
		for (i = 0; i < NR_ENTRIES; i++)
			wrong += seen[i] != 1;
		EXPECT_EQ(0, wrong);
	}
	for (i = 0; i < NR_ENTRIES; i += 7) {
		snprintf(path, sizeof(path), PATH("dir/entry%u"), i);
		wrong += unlink(path) != 0;
	}
	fd = open(PATH("dir"), O_RDONLY | O_DIRECTORY);
	ASSERT_LE(0, fd);
	close(fd);
	EXPECT_EQ(-1, rmdir(PATH("dir")));
	EXPECT_EQ(ENOTEMPTY, errno);
	EXPECT_EQ(0, wrong);
	SENT(FUSE_OPENDIR);
	SENT(FUSE_READDIR);
	SENT(FUSE_READDIRPLUS);
	SENT(FUSE_FSYNCDIR);
	EXPECT_TRUE(sent_soon(self, FUSE_RELEASEDIR));
}

TEST_F(opcode, directory)
{
	do_directory(_metadata, self);
}

static int take_lock(const void *path)
{
	struct flock lock = { .l_type = F_WRLCK, .l_len = 100 };
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return fcntl(fd, F_SETLKW, &lock) ? -errno : 0;
}

static void do_locks(struct __test_metadata *_metadata,
		     struct _test_data_opcode *self)
{
	struct flock lock = { .l_type = F_WRLCK, .l_len = 100 };
	int fd = make_file(PATH("lock"), 1), fd2;
	struct requester r;
	unsigned int before = sent(self, FUSE_SETLKW);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fcntl(fd, F_SETLK, &lock));
	/* Somebody else waits for it. */
	ASSERT_EQ(0, requester_start(&r, take_lock, PATH("lock")));
	while (sent(self, FUSE_SETLKW) == before)
		sleep_ms(1);
	EXPECT_TRUE(requester_sleeps(&r));
	lock.l_type = F_UNLCK;
	ASSERT_EQ(0, fcntl(fd, F_SETLK, &lock));
	EXPECT_EQ(0, requester_join(&r));
	lock.l_type = F_RDLCK;
	ASSERT_EQ(0, fcntl(fd, F_GETLK, &lock));
	EXPECT_EQ(F_UNLCK, lock.l_type);

	ASSERT_EQ(0, flock(fd, LOCK_EX));
	fd2 = open(PATH("lock"), O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd2);
	EXPECT_EQ(-1, flock(fd2, LOCK_EX | LOCK_NB));
	EXPECT_EQ(EWOULDBLOCK, errno);
	ASSERT_EQ(0, flock(fd, LOCK_UN));
	EXPECT_EQ(0, flock(fd2, LOCK_EX | LOCK_NB));
	close(fd2);
	close(fd);
	SENT(FUSE_SETLK);
	SENT(FUSE_SETLKW);
	SENT(FUSE_GETLK);
}

TEST_F(opcode, locks)
{
	do_locks(_metadata, self);
}

static void nothing(int sig)
{
}

static int wait_for_lock(const void *path)
{
	struct sigaction act = { .sa_handler = nothing };

	/* No SA_RESTART. */
	sigaction(SIGUSR1, &act, NULL);
	return take_lock(path);
}

static void do_interrupt(struct __test_metadata *_metadata,
			 struct _test_data_opcode *self)
{
	struct flock lock = { .l_type = F_WRLCK, .l_len = 100 };
	unsigned int before = sent(self, FUSE_SETLKW);
	int fd = make_file(PATH("interrupt"), 1);
	struct requester r;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fcntl(fd, F_SETLK, &lock));
	ASSERT_EQ(0, requester_start(&r, wait_for_lock, PATH("interrupt")));
	while (sent(self, FUSE_SETLKW) == before)
		sleep_ms(1);
	kill(r.pid, SIGUSR1);
	EXPECT_EQ(EINTR, requester_join(&r));
	close(fd);
	EXPECT_TRUE(sent_soon(self, FUSE_INTERRUPT));
}

TEST_F(opcode, interrupt)
{
	do_interrupt(_metadata, self);
}

static void do_ioctls(struct __test_metadata *_metadata,
		      struct _test_data_opcode *self)
{
	static const unsigned int sizes[] = { 1, 100, 4095, 4096, 4097, 16383 };
	static unsigned char buf[16384];
	unsigned int i, j, wrong, sum;
	int fd = make_file(PATH("ioctl"), 1), dir;

	ASSERT_LE(0, fd);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		fill(buf, sizes[i], 9);
		buf[sizes[i]] = 0x77;
		EXPECT_EQ(sizes[i], ioctl(fd, FS_MEM_IOC_XOR(sizes[i]), buf));
		for (wrong = 0, j = 0; j < sizes[i]; j++)
			wrong += buf[j] != (test_byte(9, j) ^ 0x5a);
		EXPECT_EQ(0, wrong);
		EXPECT_EQ(0x77, buf[sizes[i]]);

		fill(buf, sizes[i], 9);
		for (sum = 0, j = 0; j < sizes[i]; j++)
			sum += buf[j];
		EXPECT_EQ(sum, ioctl(fd, FS_MEM_IOC_SUM(sizes[i]), buf));

		EXPECT_EQ(0, ioctl(fd, FS_MEM_IOC_COUNT(sizes[i]), buf));
		for (wrong = 0, j = 0; j < sizes[i]; j++)
			wrong += buf[j] != (unsigned char)(j * 7 + sizes[i]);
		EXPECT_EQ(0, wrong);
	}
	EXPECT_EQ(-1, ioctl(fd, _IO('m', 77), 0));
	EXPECT_EQ(ENOTTY, errno);
	EXPECT_EQ(-1, ioctl(fd, FS_MEM_IOC_XOR(100), NULL));
	EXPECT_EQ(EFAULT, errno);
	close(fd);

	dir = open(TEST_MNT, O_RDONLY | O_DIRECTORY);
	ASSERT_LE(0, dir);
	fill(buf, 100, 9);
	EXPECT_EQ(100, ioctl(dir, FS_MEM_IOC_XOR(100), buf));
	close(dir);
	SENT(FUSE_IOCTL);
}

TEST_F(opcode, ioctls)
{
	do_ioctls(_metadata, self);
}

static int append_byte(const void *path)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return write(fd, "x", 1) == 1 ? 0 : -errno;
}

static void do_poll(struct __test_metadata *_metadata,
		    struct _test_data_opcode *self)
{
	int fd = make_file(PATH("poll"), 0);
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	struct requester r;

	ASSERT_LE(0, fd);
	EXPECT_EQ(0, poll(&pfd, 1, 0));
	SENT(FUSE_POLL);
	ASSERT_EQ(0, requester_start(&r, append_byte, PATH("poll")));
	/* Woken by the notification. */
	EXPECT_EQ(1, poll(&pfd, 1, TEST_WAIT_MS));
	EXPECT_EQ(POLLIN, pfd.revents & POLLIN);
	EXPECT_EQ(0, requester_join(&r));
	close(fd);
}

TEST_F(opcode, poll)
{
	do_poll(_metadata, self);
}

static int notify(struct _test_data_opcode *self, int code,
		  const void *payload, size_t len)
{
	struct order order = { .code = code, .len = len };
	int ret[2];

	memcpy(order.payload, payload, len);
	if (write(self->ctl, &order, sizeof(order)) != sizeof(order) ||
	    read(self->ctl, ret, sizeof(ret)) != sizeof(ret))
		return -EIO;
	return ret[0];
}

/* The server asks for what the kernel has cached. */
static void do_retrieve(struct __test_metadata *_metadata,
			struct _test_data_opcode *self)
{
	struct fuse_notify_retrieve_out out = {
		.notify_unique = 4711,
		.size = 12288,
	};
	unsigned char buf[12288];
	int fd = make_file(PATH("retrieve"), sizeof(buf));

	ASSERT_LE(0, fd);
	ASSERT_EQ(sizeof(buf), pread(fd, buf, sizeof(buf), 0));
	out.nodeid = self->seen->nodeid;
	ASSERT_EQ(0, notify(self, FUSE_NOTIFY_RETRIEVE, &out, sizeof(out)));
	EXPECT_TRUE(sent_soon(self, FUSE_NOTIFY_REPLY));
	EXPECT_EQ(sizeof(buf), self->seen->retrieved);
	close(fd);
}

/* Mainline sends it through a slot, with all of it in the payload area. */
static bool retrieve_is_other(struct _test_data_opcode *self)
{
	return self->by == SERVER_USER && ring_is_mainline();
}

TEST_F(opcode, retrieve)
{
	if (retrieve_is_other(self))
		SKIP(return, "not by /dev/fuse on this kernel");
	do_retrieve(_metadata, self);
}

static void do_forget(struct __test_metadata *_metadata,
		      struct _test_data_opcode *self)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	unsigned int i;
	char path[64];
	int fd;

	/* A single one, until one comes alone. */
	while (!sent(self, FUSE_FORGET) && now_ms() < end) {
		fd = make_file(PATH("forget"), 0);
		ASSERT_LE(0, fd);
		close(fd);
		ASSERT_EQ(0, unlink(PATH("forget")));
		sleep_ms(5);
	}
	EXPECT_TRUE(sent(self, FUSE_FORGET));
	/* And many at a time. */
	while (!sent(self, FUSE_BATCH_FORGET) && now_ms() < end) {
		for (i = 0; i < 100; i++) {
			snprintf(path, sizeof(path), PATH("forget%u"), i);
			mknod(path, S_IFREG | 0600, 0);
		}
		ASSERT_EQ(0, file_write("/proc/sys/vm/drop_caches", "2"));
	}
	EXPECT_TRUE(sent(self, FUSE_BATCH_FORGET));
}

TEST_F(opcode, forget)
{
	do_forget(_metadata, self);
}

/* And the other way round: all that is said to be tested is. */
TEST_F_TIMEOUT(opcode, all_are_sent, 2 * TEST_TIMEOUT)
{
	unsigned int opcode;

	do_attributes(_metadata, self);
	do_names(_metadata, self);
	do_symlinks(_metadata, self);
	do_data(_metadata, self);
	do_space(_metadata, self);
	do_xattrs(_metadata, self);
	do_directory(_metadata, self);
	do_locks(_metadata, self);
	do_interrupt(_metadata, self);
	do_ioctls(_metadata, self);
	do_poll(_metadata, self);
	if (!retrieve_is_other(self))
		do_retrieve(_metadata, self);
	do_forget(_metadata, self);

	for (opcode = 0; opcode < NR_OPCODES; opcode++) {
		unsigned int by, all = 0;

		if (opcode == FUSE_NOTIFY_REPLY && retrieve_is_other(self))
			continue;
		for (by = 0; by < SERVER_TRANSPORTS; by++)
			all += self->seen->count[by][opcode];
		switch (opcode_kind(opcode)) {
		case OP_TESTED:
		case OP_TESTED_CONTROL:
		case OP_TESTED_MANAGED:
			EXPECT_LT(0, all)
				TH_LOG("opcode %u was not sent", opcode);
			EXPECT_EQ(all, sent(self, opcode))
				TH_LOG("opcode %u went astray", opcode);
			break;
		default:
			EXPECT_EQ(0, all)
				TH_LOG("opcode %u was sent", opcode);
			break;
		}
	}
}

TEST_HARNESS_MAIN
