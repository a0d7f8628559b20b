// SPDX-License-Identifier: GPL-2.0
/*
 * A real directory, seen through FUSE.
 *
 * Every node that the kernel knows of is an O_PATH descriptor, so it stays the
 * same file however it is renamed or removed meanwhile, and no path is ever
 * put together.  Names are resolved one at a time and never lead out of the
 * directory, nor into what is mounted below it, which might be this very
 * mount.  Open files are descriptors as well, and the numbers are their fh.
 *
 * Data is read(2) into and written from where the transport has it: over the
 * ring that is the memory shared with the kernel, so there is no copy here.
 *
 * A server that runs as root does what depends on permissions as the
 * requester; supplementary groups are not known.  Locks are between the users
 * of this mount.
 *
 * Nodes and open files can survive their server (pt_keep.c).  That needs root's
 * CAP_DAC_READ_SEARCH and a file system with file handles.  A file that nobody
 * can open again is lost, which is one that was removed while it was open, and
 * so are locks.  A request that comes again, because the server before us had
 * it and has not answered, may have been executed: what it wanted to make is
 * there, and what it wanted to remove is not, and that is success.
 */

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "locks.h"
#include "pt_keep.h"
#include "server.h"
#include "util.h"

#define PT_BUCKETS	16384

struct pt_node {
	struct pt_node *next;
	ino_t ino;
	dev_t dev;
	int fd;			/* O_PATH */
	__u32 index;		/* of its entry, with pt_fs.keep */
	__u64 nlookup;		/* without */
	struct lock_table locks;
};

struct pt_fs {
	struct server_fs fs;
	struct pt_node root;
	bool change_user;	/* we are root */
	bool writeback;
	/* Nodes by inode number, and all their nlookup */
	pthread_mutex_t mutex;
	struct pt_node *buckets[PT_BUCKETS];
	/*
	 * To survive the server, or NULL: nodes by the number of their entry,
	 * and those whose entries are free.  A node's fd is -1 until this
	 * server needs it.
	 */
	struct pt_keep *keep;
	struct pt_node **nodes;
	struct pt_node *free;
};

static struct pt_fs *pt_fs(struct server_req *req)
{
	return req->priv;
}

static struct pt_entry *entry_of(struct pt_fs *pt, const struct pt_node *node)
{
	return &pt->keep->table->entries[node->index];
}

/* NULL when the kernel does not know that node any more */
static struct pt_node *kept_node(struct pt_fs *pt, __u64 nodeid)
{
	struct pt_node *node = (__u32)nodeid < PT_MAX_NODES ?
			       pt->nodes[(__u32)nodeid] : NULL;

	return node && entry_of(pt, node)->gen == nodeid >> 32 ? node : NULL;
}

static struct pt_node *pt_node_of(struct server_req *req, __u64 nodeid)
{
	if (nodeid == FUSE_ROOT_ID)
		return &pt_fs(req)->root;
	if (unlikely(pt_fs(req)->keep))
		return kept_node(pt_fs(req), nodeid);
	/* What the kernel got from lookup_fd() */
	return (struct pt_node *)(uintptr_t)nodeid;
}

static struct pt_node *pt_node(struct server_req *req)
{
	return pt_node_of(req, req->in->nodeid);
}

static void reply_errno(struct server_req *req, int failed)
{
	server_reply_err(req, failed ? -errno : 0);
}

/* The one name an O_PATH descriptor has for calls that want a path */
struct fd_path {
	char text[32];
};

static struct fd_path fd_path(int fd)
{
	struct fd_path path;

	snprintf(path.text, sizeof(path.text), "/proc/self/fd/%d", fd);
	return path;
}

/*
 * Permissions are checked against, and new files belong to, the user of the
 * file system calls of a thread.  Not the effective user: that would be
 * changed for all threads.
 */
static void user_enter(struct server_req *req)
{
	if (pt_fs(req)->change_user) {
		if (req->in->gid)
			setfsgid(req->in->gid);
		if (req->in->uid)
			setfsuid(req->in->uid);
	}
}

static void user_leave(struct server_req *req)
{
	int err = errno;

	if (pt_fs(req)->change_user) {
		if (req->in->uid)
			setfsuid(0);
		if (req->in->gid)
			setfsgid(0);
	}
	errno = err;
}

/* Nodes */

static struct pt_node **bucket(struct pt_fs *pt, ino_t ino)
{
	return &pt->buckets[(ino * 0x9e3779b97f4a7c15ULL >> 40) % PT_BUCKETS];
}

/*
 * With pt_fs.keep: a new node.  NULL when there are too many.  The entry is free
 * as long as nobody refers to it.
 */
static struct pt_node *kept_new(struct pt_fs *pt, int fd, const struct stat *st)
{
	struct pt_table *table = pt->keep->table;
	struct pt_node *node = pt->free;

	if (node) {
		pt->free = node->next;
	} else {
		if (table->top == PT_MAX_NODES)
			return NULL;
		node = calloc(1, sizeof(*node));
		if (!node)
			return NULL;
		node->index = table->top++;
		pt->nodes[node->index] = node;
	}
	if (pt_entry_fill(entry_of(pt, node), fd, st)) {
		node->next = pt->free;
		pt->free = node;
		return NULL;
	}
	return node;
}

static struct pt_node *node_new(struct pt_fs *pt, int fd, const struct stat *st)
{
	struct pt_node *node = pt->keep ? kept_new(pt, fd, st) :
					  calloc(1, sizeof(*node));
	struct pt_node **at = bucket(pt, st->st_ino);

	if (node) {
		node->ino = st->st_ino;
		node->dev = st->st_dev;
		node->fd = fd;
		locks_init(&node->locks);
		node->next = *at;
		*at = node;
	}
	return node;
}

/*
 * Without a descriptor of ours, the number of a node's inode may mean another
 * file meanwhile.
 */
static bool node_is(struct pt_fs *pt, const struct pt_node *node, int fd,
		    const struct stat *st)
{
	return node->ino == st->st_ino && node->dev == st->st_dev &&
	       (node->fd >= 0 || pt_entry_is(entry_of(pt, node), fd));
}

/* One more reference by the kernel; returns the number that it gets */
static __u64 node_ref(struct pt_fs *pt, struct pt_node *node)
{
	if (!pt->keep) {
		node->nlookup++;
		return (uintptr_t)node;
	}
	pt_entry_ref(entry_of(pt, node), 1);
	return (__u64)entry_of(pt, node)->gen << 32 | node->index;
}

/* True when none are left */
static bool node_unref(struct pt_fs *pt, struct pt_node *node, __u64 nr)
{
	if (!pt->keep)
		return !(node->nlookup -= nr);
	pt_entry_unref(entry_of(pt, node), nr);
	return !entry_of(pt, node)->nlookup;
}

/*
 * The node of a file, by an O_PATH descriptor that it keeps or closes, with one
 * more reference by the kernel, told in *entry.  0 or a negative errno.
 */
static int lookup_fd(struct server_req *req, int fd,
		     struct fuse_entry_out *entry)
{
	struct pt_fs *pt = pt_fs(req);
	const struct server_opts *opts = server_options(req->srv);
	struct pt_node *node;
	struct stat st;
	__u64 nodeid;
	int ret;

	if (fstatat(fd, "", &st, AT_EMPTY_PATH)) {
		ret = -errno;
		close(fd);
		return ret;
	}
	pthread_mutex_lock(&pt->mutex);
	for (node = *bucket(pt, st.st_ino); node; node = node->next)
		if (node_is(pt, node, fd, &st))
			break;
	if (!node)
		node = node_new(pt, fd, &st);
	if (node)
		nodeid = node_ref(pt, node);
	if (node && node->fd < 0)
		node->fd = fd;
	else if (!node || node->fd != fd)
		close(fd);
	pthread_mutex_unlock(&pt->mutex);
	if (!node)
		return -ENOMEM;
	*entry = (struct fuse_entry_out){ .nodeid = nodeid };
	proto_entry_valid(entry, opts->entry_valid_ms, opts->attr_valid_ms);
	proto_attr(&entry->attr, &st);
	return 0;
}

static int lookup(struct server_req *req, struct pt_node *dir,
		  const char *name, struct fuse_entry_out *entry)
{
	struct open_how how = {
		.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV,
	};
	int fd;

	if (!proto_name_ok(name))
		return -EINVAL;
	fd = syscall(SYS_openat2, dir->fd, name, &how, sizeof(how));
	return fd < 0 ? -errno : lookup_fd(req, fd, entry);
}

static void forget(struct server_req *req, __u64 nodeid, __u64 nr)
{
	struct pt_fs *pt = pt_fs(req);
	struct pt_node *node = pt_node_of(req, nodeid), **at;

	if (!node || node == &pt->root)
		return;
	pthread_mutex_lock(&pt->mutex);
	if (!node_unref(pt, node, nr)) {
		pthread_mutex_unlock(&pt->mutex);
		return;
	}
	for (at = bucket(pt, node->ino); *at != node; at = &(*at)->next)
		;
	*at = node->next;
	if (node->fd >= 0)
		close(node->fd);
	locks_free(&node->locks);
	if (pt->keep) {
		node->next = pt->free;
		pt->free = node;
		node = NULL;
	}
	pthread_mutex_unlock(&pt->mutex);
	free(node);
}

/* With pt_fs.keep: opens a node that this server has not needed yet */
static int kept_open(struct pt_fs *pt, struct pt_node *node)
{
	int ret = 0;

	if (__atomic_load_n(&node->fd, __ATOMIC_RELAXED) >= 0)
		return 0;
	pthread_mutex_lock(&pt->mutex);
	if (node->fd < 0)
		node->fd = pt_entry_open(pt->keep, entry_of(pt, node));
	if (node->fd < 0)
		ret = -errno;
	pthread_mutex_unlock(&pt->mutex);
	return ret;
}

/* Whether the request may have been executed by a server that has died */
static bool resent(struct server_req *req)
{
	return pt_fs(req)->keep && req->in->unique & FUSE_UNIQUE_RESEND;
}

static void pt_forget(struct server_req *req)
{
	const struct fuse_forget_in *arg = req->op;

	forget(req, req->in->nodeid, arg->nlookup);
	server_reply_none(req);
}

static void pt_batch_forget(struct server_req *req)
{
	const struct fuse_batch_forget_in *arg = req->op;
	const struct fuse_forget_one *one = req->data;
	__u32 i;

	for (i = 0; i < arg->count && i < req->data_len / sizeof(*one); i++)
		forget(req, one[i].nodeid, one[i].nlookup);
	server_reply_none(req);
}

/* The name at the beginning of a request's arguments */
static const char *arg_name(struct server_req *req)
{
	const void *pos = req->data;
	__u32 len = req->data_len;

	return proto_name(&pos, &len);
}

static void reply_entry(struct server_req *req, int ret,
			const struct fuse_entry_out *entry)
{
	if (ret)
		server_reply_err(req, ret);
	else
		server_reply_buf(req, entry, sizeof(*entry));
}

static void pt_lookup(struct server_req *req)
{
	struct fuse_entry_out entry;
	int ret;

	user_enter(req);
	ret = lookup(req, pt_node(req), arg_name(req), &entry);
	user_leave(req);
	reply_entry(req, ret, &entry);
}

/* Attributes */

static void reply_attr(struct server_req *req)
{
	unsigned int ms = server_options(req->srv)->attr_valid_ms;
	struct fuse_attr_out *out = req->out;
	struct stat st;

	if (fstatat(pt_node(req)->fd, "", &st, AT_EMPTY_PATH)) {
		reply_errno(req, 1);
		return;
	}
	out->attr_valid = ms / 1000;
	out->attr_valid_nsec = ms % 1000 * 1000000;
	out->dummy = 0;
	proto_attr(&out->attr, &st);
	server_reply(req, sizeof(*out));
}

static void pt_getattr(struct server_req *req)
{
	reply_attr(req);
}

static struct timespec set_time(__u32 valid, __u32 set, __u32 set_now,
				__u64 sec, __u32 nsec)
{
	struct timespec ts = { .tv_sec = sec, .tv_nsec = nsec };

	if (valid & set_now)
		ts.tv_nsec = UTIME_NOW;
	else if (!(valid & set))
		ts.tv_nsec = UTIME_OMIT;
	return ts;
}

/* The descriptor behind an fh; -1 and errno */
static int file_of(struct server_req *req, __u64 nodeid, __u64 fh, bool write)
{
	struct pt_keep *keep = pt_fs(req)->keep;

	if (!keep || pt_fh_own(keep, fh))
		return fh;
	return pt_file_get(keep, fh, pt_node_of(req, nodeid)->fd, write);
}

static int pt_file(struct server_req *req, __u64 fh)
{
	return file_of(req, req->in->nodeid, fh, true);
}

/* fd: of the open file, or -1 */
static int setattr(struct pt_node *node, const struct fuse_setattr_in *arg,
		   int fd)
{
	struct fd_path path = fd_path(node->fd);
	__u32 valid = arg->valid;

	if (valid & FATTR_MODE && chmod(path.text, arg->mode & 07777))
		return -1;
	if (valid & (FATTR_UID | FATTR_GID) &&
	    fchownat(node->fd, "", valid & FATTR_UID ? arg->uid : (uid_t)-1,
		     valid & FATTR_GID ? arg->gid : (gid_t)-1, AT_EMPTY_PATH))
		return -1;
	if (valid & FATTR_SIZE) {
		/* Who has the file open may do what the file's mode forbids */
		if (valid & FATTR_FH ? ftruncate(fd, arg->size) :
				       truncate(path.text, arg->size))
			return -1;
	}
	if (valid & (FATTR_ATIME | FATTR_MTIME)) {
		struct timespec ts[2] = {
			set_time(valid, FATTR_ATIME, FATTR_ATIME_NOW,
				 arg->atime, arg->atimensec),
			set_time(valid, FATTR_MTIME, FATTR_MTIME_NOW,
				 arg->mtime, arg->mtimensec),
		};

		if (utimensat(node->fd, "", ts, AT_EMPTY_PATH))
			return -1;
	}
	/* FATTR_CTIME: nobody can set that, and it has just changed */
	return 0;
}

static void pt_setattr(struct server_req *req)
{
	const struct fuse_setattr_in *arg = req->op;
	int fd = arg->valid & FATTR_FH ? pt_file(req, arg->fh) : -1;
	int ret;

	user_enter(req);
	ret = setattr(pt_node(req), arg, fd);
	user_leave(req);
	if (ret)
		reply_errno(req, ret);
	else
		reply_attr(req);
}

static void pt_statx(struct server_req *req)
{
	const struct fuse_statx_in *arg = req->op;
	unsigned int ms = server_options(req->srv)->attr_valid_ms;
	struct fuse_statx_out *out = req->out;
	struct statx stx;

	if (statx(pt_node(req)->fd, "", AT_EMPTY_PATH | arg->sx_flags,
		  arg->sx_mask, &stx)) {
		reply_errno(req, 1);
		return;
	}
	*out = (struct fuse_statx_out){
		.attr_valid = ms / 1000,
		.attr_valid_nsec = ms % 1000 * 1000000,
	};
	/* The one is a copy of the other's layout */
	static_assert(sizeof(out->stat) <= sizeof(stx), "struct statx");
	memcpy(&out->stat, &stx, sizeof(out->stat));
	memset(out->stat.__spare2, 0, sizeof(out->stat.__spare2));
	server_reply(req, sizeof(*out));
}

static void pt_access(struct server_req *req)
{
	const struct fuse_access_in *arg = req->op;
	struct fd_path path = fd_path(pt_node(req)->fd);
	int ret;

	user_enter(req);
	ret = syscall(SYS_faccessat2, AT_FDCWD, path.text, arg->mask,
		      AT_EACCESS);
	user_leave(req);
	reply_errno(req, ret);
}

static void pt_statfs(struct server_req *req)
{
	struct fuse_statfs_out *out = req->out;
	struct statvfs st;

	if (fstatvfs(pt_node(req)->fd, &st)) {
		reply_errno(req, 1);
		return;
	}
	*out = (struct fuse_statfs_out){
		.st = {
			.blocks = st.f_blocks,
			.bfree = st.f_bfree,
			.bavail = st.f_bavail,
			.files = st.f_files,
			.ffree = st.f_ffree,
			.bsize = st.f_bsize,
			.namelen = st.f_namemax,
			.frsize = st.f_frsize,
		},
	};
	server_reply(req, sizeof(*out));
}

/* Names */

/* Makes what the request asks for: 0, or -1 and errno */
static int make(struct server_req *req, int dir, const char *name)
{
	const void *pos = name + strlen(name) + 1;
	__u32 len = req->data_len - strlen(name) - 1;
	const char *target;

	switch (req->in->opcode) {
	case FUSE_MKNOD: {
		const struct fuse_mknod_in *arg = req->op;

		/* The kernel's encoding of 32 bits is valid for glibc's 64 */
		return mknodat(dir, name, arg->mode, arg->rdev);
	}
	case FUSE_MKDIR: {
		const struct fuse_mkdir_in *arg = req->op;

		return mkdirat(dir, name, arg->mode);
	}
	case FUSE_SYMLINK:
		target = proto_name(&pos, &len);
		if (target)
			return symlinkat(target, dir, name);
		errno = EINVAL;
		return -1;
	case FUSE_LINK: {
		const struct fuse_link_in *arg = req->op;
		struct fd_path path =
			fd_path(pt_node_of(req, arg->oldnodeid)->fd);

		return linkat(AT_FDCWD, path.text, dir, name,
			      AT_SYMLINK_FOLLOW);
	}
	}
	errno = EINVAL;
	return -1;
}

static void pt_make(struct server_req *req)
{
	struct pt_node *dir = pt_node(req);
	const char *name = arg_name(req);
	struct fuse_entry_out entry;
	int ret = -EINVAL;

	if (proto_name_ok(name)) {
		user_enter(req);
		ret = make(req, dir->fd, name) ? -errno : 0;
		if (ret == -EEXIST && resent(req))
			ret = 0;
		if (!ret)
			ret = lookup(req, dir, name, &entry);
		user_leave(req);
	}
	reply_entry(req, ret, &entry);
}

static void pt_remove(struct server_req *req)
{
	int flags = req->in->opcode == FUSE_RMDIR ? AT_REMOVEDIR : 0;
	const char *name = arg_name(req);
	int ret;

	if (!proto_name_ok(name)) {
		server_reply_err(req, -EINVAL);
		return;
	}
	user_enter(req);
	ret = unlinkat(pt_node(req)->fd, name, flags);
	user_leave(req);
	reply_errno(req, ret && !(errno == ENOENT && resent(req)));
}

static void pt_rename(struct server_req *req)
{
	const struct fuse_rename2_in *arg = req->op;
	bool has_flags = req->in->opcode == FUSE_RENAME2;
	const void *pos = req->data;
	__u32 len = req->data_len;
	const char *old = proto_name(&pos, &len);
	const char *new = old ? proto_name(&pos, &len) : NULL;
	int ret;

	if (!proto_name_ok(old) || !proto_name_ok(new)) {
		server_reply_err(req, -EINVAL);
		return;
	}
	user_enter(req);
	ret = renameat2(pt_node(req)->fd, old,
			pt_node_of(req, arg->newdir)->fd, new,
			has_flags ? arg->flags : 0);
	user_leave(req);
	/* To exchange two names once more is what nothing can be done about */
	reply_errno(req, ret && !(errno == ENOENT && resent(req)));
}

static void pt_readlink(struct server_req *req)
{
	ssize_t len = readlinkat(pt_node(req)->fd, "", req->out, req->out_max);

	if (len < 0)
		reply_errno(req, 1);
	else
		server_reply(req, len);
}

/* Files */

/*
 * Flags for the open(2) here.  Alignment, which O_DIRECT is about, is between
 * the requester and the kernel.  With FUSE_WRITEBACK_CACHE the kernel reads the
 * pages that it writes to, and knows where the end of the file is.  It tells
 * the end with each WRITE otherwise, too, and to append there would make a
 * WRITE that is sent again appear twice.
 */
static int open_flags(struct server_req *req, __u32 flags)
{
	flags &= ~(O_NOFOLLOW | O_DIRECT | O_CREAT | O_EXCL | O_NOCTTY);
	if (pt_fs(req)->writeback && (flags & O_ACCMODE) == O_WRONLY)
		flags = (flags & ~O_ACCMODE) | O_RDWR;
	if (pt_fs(req)->writeback || pt_fs(req)->keep)
		flags &= ~O_APPEND;
	return flags | O_CLOEXEC;
}

static __u64 new_fh(struct server_req *req, int fd)
{
	return pt_fs(req)->keep ? pt_fh(pt_fs(req)->keep, fd) : (__u64)fd;
}

static void reply_open(struct server_req *req, int fd)
{
	struct fuse_open_out *out = req->out;

	if (fd < 0) {
		reply_errno(req, 1);
		return;
	}
	*out = (struct fuse_open_out){ .fh = new_fh(req, fd) };
	server_reply(req, sizeof(*out));
}

static void pt_open(struct server_req *req)
{
	const struct fuse_open_in *arg = req->op;
	struct fd_path path = fd_path(pt_node(req)->fd);
	int fd;

	user_enter(req);
	fd = open(path.text, open_flags(req, arg->flags));
	user_leave(req);
	reply_open(req, fd);
}

static void pt_opendir(struct server_req *req)
{
	int fd;

	user_enter(req);
	fd = openat(pt_node(req)->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	user_leave(req);
	reply_open(req, fd);
}

/*
 * A file is there that CREATE would have made, and may have: the requester's,
 * with that mode.  It may be one that only who creates it can open.
 */
static int open_created(struct server_req *req, const char *name, int flags)
{
	const struct fuse_create_in *arg = req->op;
	int path_fd, fd = -1, err = errno;
	struct stat st;

	path_fd = openat(pt_node(req)->fd, name,
			 O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (path_fd < 0)
		return -1;
	if (!fstat(path_fd, &st) && S_ISREG(st.st_mode) &&
	    st.st_uid == req->in->uid &&
	    (st.st_mode & 07777) == (arg->mode & 07777)) {
		fd = open(fd_path(path_fd).text,
			  flags & ~(O_CREAT | O_EXCL | O_NOFOLLOW));
		err = errno;
	}
	close(path_fd);
	errno = err;
	return fd;
}

/* CREATE, and TMPFILE whose name means nothing */
static void pt_create(struct server_req *req)
{
	const struct fuse_create_in *arg = req->op;
	bool tmp = req->in->opcode == FUSE_TMPFILE;
	const char *name = tmp ? "." : arg_name(req);
	int flags = open_flags(req, arg->flags);
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} out = { 0 };
	int fd, path_fd, ret = 0;

	if (!tmp && !proto_name_ok(name)) {
		server_reply_err(req, -EINVAL);
		return;
	}
	flags |= tmp ? O_TMPFILE : O_CREAT | O_NOFOLLOW;
	/* A file that cannot be linked later would be another kind of file */
	flags |= arg->flags & O_EXCL;
	user_enter(req);
	fd = openat(pt_node(req)->fd, name, flags, arg->mode & 07777);
	user_leave(req);
	if (fd < 0 && !tmp && resent(req) &&
	    (errno == EEXIST || errno == EACCES))
		fd = open_created(req, name, flags);
	if (fd < 0)
		ret = -errno;
	if (!ret) {
		/* The very same file, whatever its name means by now */
		path_fd = open(fd_path(fd).text, O_PATH | O_CLOEXEC);
		ret = path_fd < 0 ? -errno :
				    lookup_fd(req, path_fd, &out.entry);
	}
	if (ret) {
		if (fd >= 0)
			close(fd);
		server_reply_err(req, ret);
		return;
	}
	out.open.fh = new_fh(req, fd);
	server_reply_buf(req, &out, sizeof(out));
}

static void pt_read(struct server_req *req)
{
	const struct fuse_read_in *arg = req->op;
	size_t size = min(arg->size, req->out_max);
	int fd = file_of(req, req->in->nodeid, arg->fh,
			 (arg->flags & O_ACCMODE) != O_RDONLY);
	ssize_t len = pread(fd, req->out, size, arg->offset);

	if (len < 0)
		reply_errno(req, 1);
	else
		server_reply(req, len);
}

static void pt_write(struct server_req *req)
{
	const struct fuse_write_in *arg = req->op;
	struct fuse_write_out *out = req->out;
	size_t size = min(arg->size, req->data_len);
	ssize_t len = pwrite(pt_file(req, arg->fh), req->data, size,
			     arg->offset);

	if (len < 0) {
		reply_errno(req, 1);
		return;
	}
	*out = (struct fuse_write_out){ .size = len };
	server_reply(req, sizeof(*out));
}

static void pt_flush(struct server_req *req)
{
	const struct fuse_flush_in *arg = req->op;
	struct pt_keep *keep = pt_fs(req)->keep;
	int fd = arg->fh;

	locks_drop(&pt_node(req)->locks, arg->lock_owner, false);
	if (keep && !pt_fh_own(keep, arg->fh))
		fd = pt_file_find(keep, arg->fh);
	if (fd < 0) {
		/* Nothing has been done with it since its server died */
		server_reply_err(req, 0);
		return;
	}
	fd = dup(fd);
	/* What close(2) has to complain about, while the file stays open */
	reply_errno(req, fd < 0 || close(fd));
}

static void pt_release(struct server_req *req)
{
	const struct fuse_release_in *arg = req->op;
	struct pt_keep *keep = pt_fs(req)->keep;

	if (arg->release_flags & FUSE_RELEASE_FLOCK_UNLOCK)
		locks_drop(&pt_node(req)->locks, arg->lock_owner, true);
	if (!keep || pt_fh_own(keep, arg->fh))
		close(arg->fh);
	else
		pt_file_close(keep, arg->fh);
	server_reply_err(req, 0);
}

/* Also FSYNCDIR */
static void pt_fsync(struct server_req *req)
{
	const struct fuse_fsync_in *arg = req->op;
	int fd = pt_file(req, arg->fh);

	reply_errno(req, arg->fsync_flags & FUSE_FSYNC_FDATASYNC ?
			 fdatasync(fd) : fsync(fd));
}

static void pt_syncfs(struct server_req *req)
{
	int fd = openat(pt_fs(req)->root.fd, ".", O_RDONLY | O_CLOEXEC);

	/* syncfs(2) does not take an O_PATH descriptor */
	reply_errno(req, fd < 0 || syncfs(fd));
	if (fd >= 0)
		close(fd);
}

static void pt_fallocate(struct server_req *req)
{
	const struct fuse_fallocate_in *arg = req->op;

	reply_errno(req, fallocate(pt_file(req, arg->fh), arg->mode,
				   arg->offset, arg->length));
}

static void pt_lseek(struct server_req *req)
{
	const struct fuse_lseek_in *arg = req->op;
	struct fuse_lseek_out *out = req->out;
	off_t pos = lseek(pt_file(req, arg->fh), arg->offset, arg->whence);

	if (pos < 0) {
		reply_errno(req, 1);
		return;
	}
	out->offset = pos;
	server_reply(req, sizeof(*out));
}

static void pt_copy_file_range(struct server_req *req)
{
	const struct fuse_copy_file_range_in *arg = req->op;
	loff_t off_in = arg->off_in, off_out = arg->off_out;
	struct fuse_write_out *out = req->out;
	/* The answer has 32 bits for the length */
	size_t len = min_t(__u64, arg->len, 1 << 30);
	int fd_in = file_of(req, req->in->nodeid, arg->fh_in, false);
	int fd_out = file_of(req, arg->nodeid_out, arg->fh_out, true);
	ssize_t done = copy_file_range(fd_in, &off_in, fd_out, &off_out, len,
				       arg->flags);

	if (done < 0) {
		reply_errno(req, 1);
		return;
	}
	*out = (struct fuse_write_out){ .size = done };
	server_reply(req, sizeof(*out));
}

/* Only what is known to be harmless, whatever is behind the descriptor */
static void pt_ioctl(struct server_req *req)
{
	const struct fuse_ioctl_in *arg = req->op;
	struct fuse_ioctl_out *out = req->out;
	union {
		unsigned int flags;
		struct fsxattr fsx;
	} buf = { 0 };
	size_t len = 0;

	switch (arg->cmd) {
	case FS_IOC_GETFLAGS:
	case FS_IOC_SETFLAGS:
		/* The number says long, but everybody means int */
		len = sizeof(buf.flags);
		break;
	case FS_IOC_FSGETXATTR:
	case FS_IOC_FSSETXATTR:
		len = sizeof(buf.fsx);
		break;
	}
	if (!len) {
		server_reply_err(req, -ENOTTY);
		return;
	}
	if (_IOC_DIR(arg->cmd) == _IOC_WRITE) {
		if (req->data_len < len) {
			server_reply_err(req, -EINVAL);
			return;
		}
		memcpy(&buf, req->data, len);
	}
	if (ioctl(pt_file(req, arg->fh), arg->cmd, &buf)) {
		reply_errno(req, 1);
		return;
	}
	if (_IOC_DIR(arg->cmd) == _IOC_WRITE || len > arg->out_size)
		len = 0;
	*out = (struct fuse_ioctl_out){ 0 };
	memcpy(out + 1, &buf, len);
	server_reply(req, sizeof(*out) + len);
}

/* What is a file here can always be read and written */
static void pt_poll(struct server_req *req)
{
	const struct fuse_poll_in *arg = req->op;
	struct fuse_poll_out *out = req->out;
	__u32 events = arg->events;

	*out = (struct fuse_poll_out){
		.revents = events & (POLLIN | POLLOUT | POLLRDNORM |
				     POLLWRNORM),
	};
	server_reply(req, sizeof(*out));
}

static void pt_getlk(struct server_req *req)
{
	locks_get(&pt_node(req)->locks, req);
}

static void pt_setlk(struct server_req *req)
{
	locks_set(&pt_node(req)->locks, req);
}

/* Directories */

/* As getdents64(2) has it */
struct pt_dirent {
	__u64 ino;
	__s64 off;
	__u16 reclen;
	__u8 type;
	char name[];
};

/* False when there is no more room */
static bool add_entry(struct server_req *req, char **pos, const char *end,
		      const struct pt_dirent *de)
{
	bool dots = !strcmp(de->name, ".") || !strcmp(de->name, "..");
	/* nodeid 0: an entry that the kernel does not learn of by this */
	struct fuse_entry_out entry = { 0 };

	if (req->in->opcode == FUSE_READDIR)
		return proto_dirent(pos, end, NULL, de->ino, de->off, de->type,
				    de->name);
	if (!dots && lookup(req, pt_node(req), de->name, &entry))
		entry.nodeid = 0;
	if (proto_dirent(pos, end, &entry, de->ino, de->off, de->type,
			 de->name))
		return true;
	if (entry.nodeid)
		forget(req, entry.nodeid, 1);
	return false;
}

static void pt_readdir(struct server_req *req)
{
	const struct fuse_read_in *arg = req->op;
	__u64 buf[512];		/* aligned as struct pt_dirent */
	char *out = req->out, *pos = out;
	const char *end = out + min(arg->size, req->out_max);
	int fd = file_of(req, req->in->nodeid, arg->fh, false);
	const struct pt_dirent *de;
	ssize_t len = 0, at;
	bool room = true;

	if (lseek(fd, arg->offset, SEEK_SET) < 0) {
		reply_errno(req, 1);
		return;
	}
	user_enter(req);
	while (room) {
		len = syscall(SYS_getdents64, fd, buf, sizeof(buf));
		if (len <= 0)
			break;
		for (at = 0; room && at < len; at += de->reclen) {
			de = (const void *)((char *)buf + at);
			room = add_entry(req, &pos, end, de);
		}
	}
	user_leave(req);
	/* An error is for the next time, if there is something to tell now */
	if (len < 0 && pos == out)
		reply_errno(req, 1);
	else
		server_reply(req, pos - out);
}

/* Extended attributes */

static void pt_setxattr(struct server_req *req)
{
	const struct fuse_setxattr_in *arg = req->op;
	struct fd_path path = fd_path(pt_node(req)->fd);
	const void *pos = req->data;
	__u32 len = req->data_len;
	const char *name = proto_name(&pos, &len);
	int ret;

	if (!name || arg->size > len) {
		server_reply_err(req, -EINVAL);
		return;
	}
	user_enter(req);
	ret = setxattr(path.text, name, pos, arg->size, arg->flags);
	user_leave(req);
	reply_errno(req, ret && !(errno == EEXIST && resent(req)));
}

/* GETXATTR and LISTXATTR; a size of 0 asks how much there is */
static void pt_getxattr(struct server_req *req)
{
	const struct fuse_getxattr_in *arg = req->op;
	struct fd_path path = fd_path(pt_node(req)->fd);
	size_t size = min(arg->size, req->out_max);
	struct fuse_getxattr_out *out = req->out;
	char name[XATTR_NAME_MAX + 1];
	bool list = req->in->opcode == FUSE_LISTXATTR;
	const char *arg_text = list ? "" : arg_name(req);
	ssize_t len;

	if (!arg_text || strlen(arg_text) > XATTR_NAME_MAX) {
		server_reply_err(req, -ERANGE);
		return;
	}
	/* The value will be where the name is, over the ring */
	memcpy(name, arg_text, strlen(arg_text) + 1);
	user_enter(req);
	len = list ? listxattr(path.text, req->out, size) :
		     getxattr(path.text, name, req->out, size);
	user_leave(req);
	if (len < 0) {
		reply_errno(req, 1);
	} else if (arg->size) {
		server_reply(req, len);
	} else {
		*out = (struct fuse_getxattr_out){ .size = len };
		server_reply(req, sizeof(*out));
	}
}

static void pt_removexattr(struct server_req *req)
{
	struct fd_path path = fd_path(pt_node(req)->fd);
	const char *name = arg_name(req);
	int ret;

	if (!name) {
		server_reply_err(req, -EINVAL);
		return;
	}
	user_enter(req);
	ret = removexattr(path.text, name);
	user_leave(req);
	reply_errno(req, ret && !(errno == ENODATA && resent(req)));
}

static void pt_init(struct server_fs *fs, struct fuse_init_out *out)
{
	struct pt_fs *pt = fs->priv;

	/* "." and ".." cannot be looked up */
	out->flags &= ~FUSE_EXPORT_SUPPORT;
	pt->writeback = out->flags & FUSE_WRITEBACK_CACHE;
	/* The kernel has applied the requester's */
	umask(0);
}

static const server_op_t pt_ops[PROTO_NR_OPS] = {
	[FUSE_LOOKUP]		= pt_lookup,
	[FUSE_FORGET]		= pt_forget,
	[FUSE_GETATTR]		= pt_getattr,
	[FUSE_SETATTR]		= pt_setattr,
	[FUSE_READLINK]		= pt_readlink,
	[FUSE_SYMLINK]		= pt_make,
	[FUSE_MKNOD]		= pt_make,
	[FUSE_MKDIR]		= pt_make,
	[FUSE_UNLINK]		= pt_remove,
	[FUSE_RMDIR]		= pt_remove,
	[FUSE_RENAME]		= pt_rename,
	[FUSE_LINK]		= pt_make,
	[FUSE_OPEN]		= pt_open,
	[FUSE_READ]		= pt_read,
	[FUSE_WRITE]		= pt_write,
	[FUSE_STATFS]		= pt_statfs,
	[FUSE_RELEASE]		= pt_release,
	[FUSE_FSYNC]		= pt_fsync,
	[FUSE_SETXATTR]		= pt_setxattr,
	[FUSE_GETXATTR]		= pt_getxattr,
	[FUSE_LISTXATTR]	= pt_getxattr,
	[FUSE_REMOVEXATTR]	= pt_removexattr,
	[FUSE_FLUSH]		= pt_flush,
	[FUSE_OPENDIR]		= pt_opendir,
	[FUSE_READDIR]		= pt_readdir,
	[FUSE_RELEASEDIR]	= pt_release,
	[FUSE_FSYNCDIR]		= pt_fsync,
	[FUSE_GETLK]		= pt_getlk,
	[FUSE_SETLK]		= pt_setlk,
	[FUSE_SETLKW]		= pt_setlk,
	[FUSE_ACCESS]		= pt_access,
	[FUSE_CREATE]		= pt_create,
	/* BMAP: blocks of another file system would mean nothing */
	[FUSE_IOCTL]		= pt_ioctl,
	[FUSE_POLL]		= pt_poll,
	[FUSE_NOTIFY_REPLY]	= server_reply_none,
	[FUSE_BATCH_FORGET]	= pt_batch_forget,
	[FUSE_FALLOCATE]	= pt_fallocate,
	[FUSE_READDIRPLUS]	= pt_readdir,
	[FUSE_RENAME2]		= pt_rename,
	[FUSE_LSEEK]		= pt_lseek,
	[FUSE_COPY_FILE_RANGE]	= pt_copy_file_range,
	[FUSE_SYNCFS]		= pt_syncfs,
	[FUSE_TMPFILE]		= pt_create,
	[FUSE_STATX]		= pt_statx,
};

/* For servers that leave their nodes to the next one */

/*
 * Before anything else is done with a request: are its nodes known, and are
 * they open?  The rest of this file need not ask then.
 */
static void pt_kept_op(struct server_req *req)
{
	__u64 nodeids[2] = { req->in->nodeid, FUSE_ROOT_ID };
	__u32 opcode = req->in->opcode;
	const union {
		struct fuse_link_in link;
		struct fuse_rename_in rename;
		struct fuse_rename2_in rename2;
		struct fuse_copy_file_range_in copy;
	} *op = req->op;
	struct pt_node *node;
	bool open = true;
	int i, ret = 0;

	switch (opcode) {
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
		open = false;
		break;
	case FUSE_LINK:
		nodeids[1] = op->link.oldnodeid;
		break;
	case FUSE_RENAME:
		nodeids[1] = op->rename.newdir;
		break;
	case FUSE_RENAME2:
		nodeids[1] = op->rename2.newdir;
		break;
	case FUSE_COPY_FILE_RANGE:
		nodeids[1] = op->copy.nodeid_out;
		break;
	}
	for (i = 0; i < 2 && !ret; i++) {
		node = pt_node_of(req, nodeids[i]);
		ret = !node ? -ESTALE : open ? kept_open(pt_fs(req), node) : 0;
	}
	if (ret)
		server_reply_err(req, ret);
	else
		pt_ops[opcode](req);
}

/* The nodes that earlier servers have left */
static int pt_begin(struct server_fs *fs)
{
	struct pt_fs *pt = fs->priv;
	struct pt_table *table;
	struct pt_node *node;
	struct pt_entry *entry;
	struct pt_node **list;
	__u32 i;

	if (!pt->keep)
		return 0;
	table = pt->keep->table;
	pt->keep->epoch = ++table->epoch;
	for (i = PT_FIRST_NODE; i < table->top; i++) {
		node = calloc(1, sizeof(*node));
		if (!node)
			return -ENOMEM;
		entry = &table->entries[i];
		node->ino = entry->ino;
		node->dev = entry->dev;
		node->fd = -1;
		node->index = i;
		locks_init(&node->locks);
		list = entry->nlookup ? bucket(pt, node->ino) : &pt->free;
		node->next = *list;
		*list = node;
		pt->nodes[i] = node;
	}
	return 0;
}

static bool keep_setup(struct pt_fs *pt, const char *dir)
{
	static server_op_t ops[PROTO_NR_OPS];
	unsigned int i;

	pt->keep = pt_keep_new(dir);
	pt->nodes = calloc(PT_MAX_NODES, sizeof(*pt->nodes));
	for (i = 0; i < PROTO_NR_OPS; i++)
		ops[i] = pt_ops[i] ? pt_kept_op : NULL;
	ops[FUSE_FORGET] = pt_forget;
	ops[FUSE_BATCH_FORGET] = pt_batch_forget;
	pt->fs.ops = ops;
	pt->fs.survives = true;
	return pt->keep && pt->nodes;
}

static void pt_free(struct server_fs *fs)
{
	struct pt_fs *pt = fs->priv;
	struct pt_node *node;
	unsigned int i;

	for (i = 0; i < PT_BUCKETS; i++) {
		while ((node = pt->buckets[i])) {
			pt->buckets[i] = node->next;
			if (node->fd >= 0)
				close(node->fd);
			locks_free(&node->locks);
			free(node);
		}
	}
	while ((node = pt->free)) {
		pt->free = node->next;
		free(node);
	}
	if (pt->keep)
		pt_keep_free(pt->keep);
	free(pt->nodes);
	close(pt->root.fd);
	locks_free(&pt->root.locks);
	pthread_mutex_destroy(&pt->mutex);
	free(pt);
}

struct server_fs *fs_passthrough_new(const char *dir, bool survive)
{
	struct rlimit files;
	struct pt_fs *pt;

	pt = calloc(1, sizeof(*pt));
	if (!pt)
		return NULL;
	pt->root.fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (pt->root.fd < 0) {
		free(pt);
		return NULL;
	}
	/* A descriptor for every file that the kernel keeps in mind */
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	pthread_mutex_init(&pt->mutex, NULL);
	locks_init(&pt->root.locks);
	pt->change_user = !geteuid();
	pt->fs = (struct server_fs){
		.name = "passthrough",
		.ops = pt_ops,
		.priv = pt,
		.begin = pt_begin,
		.init = pt_init,
		.free = pt_free,
	};
	if (survive && !keep_setup(pt, dir)) {
		int err = errno;

		pt_free(&pt->fs);
		errno = err;
		return NULL;
	}
	return &pt->fs;
}
