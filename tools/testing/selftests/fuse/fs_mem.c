// SPDX-License-Identifier: GPL-2.0
/*
 * A filesystem in memory that answers every opcode the kernel has for one.
 *
 * - Files are sparse, in pages; what was never written is a hole.
 * - Access times do not change by themselves.
 * - Any file can be polled: it is readable while it is not empty, and always
 *   writable.
 * - See fs_mem.h for ioctls and limits.  The attributes of lsattr and chattr
 *   are kept, but mean nothing.
 * - Permissions are checked by the kernel with -o default_permissions, and
 *   by access(2) only without it.
 *
 * A nodeid is the address of the node, which the kernel got from here and
 * hands back until its FORGET, so there is nothing to search.
 *
 * Lock order: tree, then a node's lock; never two nodes' at a time.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "fs_mem.h"
#include "locks.h"
#include "server.h"
#include "util.h"

#define MEM_PAGE	4096
#define MEM_CHUNK	512		/* pages in a chunk */

struct mem_chunk {
	char *pages[MEM_CHUNK];		/* NULL: hole */
};

struct mem_dirent {
	struct mem_dirent *next;
	struct mem_node *node;
	__u64 off;			/* for READDIR: grows, never reused */
	char name[FS_MEM_NAME_MAX + 1];
};

struct mem_xattr {
	struct mem_xattr *next;
	size_t size;
	char *value;
	char name[];
};

struct mem_poll {
	struct mem_poll *next;
	__u64 fh, kh;
};

struct mem_node {
	/* Under the tree's lock */
	__u64 nlookup;			/* references by the kernel */
	struct mem_node *parent;	/* of a directory */
	struct mem_dirent *entries;	/* of a directory, by off */
	__u64 next_off;
	struct mem_node *prev, *next;	/* all nodes */

	/* Under this lock */
	pthread_rwlock_t lock;
	struct stat st;
	struct timespec btime;
	__u32 flags;			/* FS_IOC_SETFLAGS */
	struct fsxattr fsx;		/* FS_IOC_FSSETXATTR */
	char *target;			/* of a symlink */
	struct mem_chunk **chunks;	/* of a file */
	size_t nr_chunks;
	struct mem_xattr *xattrs;
	struct mem_poll *polls;		/* who waits for data */

	struct lock_table locks;
};

struct mem_fs {
	struct server_fs fs;
	pthread_rwlock_t tree;
	struct mem_node root;
	__u64 last_ino, last_fh;	/* atomic */
};

static struct mem_fs *mem_fs(struct server_req *req)
{
	return req->priv;
}

static struct mem_node *mem_node_of(struct server_req *req, __u64 nodeid)
{
	if (nodeid == FUSE_ROOT_ID)
		return &mem_fs(req)->root;
	return (struct mem_node *)(uintptr_t)nodeid;
}

static struct mem_node *mem_node(struct server_req *req)
{
	return mem_node_of(req, req->in->nodeid);
}

/* Nodes */

static void now(struct timespec *ts)
{
	clock_gettime(CLOCK_REALTIME, ts);
}

/* Data (and so attributes) have changed; under the node's lock */
static void touch(struct mem_node *node)
{
	now(&node->st.st_mtim);
	node->st.st_ctim = node->st.st_mtim;
}

static void touch_dir(struct mem_node *dir)
{
	pthread_rwlock_wrlock(&dir->lock);
	touch(dir);
	pthread_rwlock_unlock(&dir->lock);
}

/* Adds to st_nlink, which ends a file when it was the last and unknown */
static void add_links(struct mem_node *node, int nr)
{
	pthread_rwlock_wrlock(&node->lock);
	node->st.st_nlink += nr;
	now(&node->st.st_ctim);
	pthread_rwlock_unlock(&node->lock);
}

static void node_init(struct mem_fs *mem, struct mem_node *node, mode_t mode,
		      uid_t uid, gid_t gid)
{
	node->st = (struct stat){
		.st_ino = __atomic_add_fetch(&mem->last_ino, 1,
					     __ATOMIC_RELAXED),
		.st_mode = mode,
		.st_nlink = S_ISDIR(mode) ? 2 : 1,
		.st_uid = uid,
		.st_gid = gid,
		.st_blksize = MEM_PAGE,
	};
	touch(node);
	node->st.st_atim = node->st.st_mtim;
	node->btime = node->st.st_mtim;
	/* 1 and 2 are "." and ".." */
	node->next_off = 3;
	pthread_rwlock_init(&node->lock, NULL);
	locks_init(&node->locks);
}

static void truncate_pages(struct mem_node *node, __u64 size);

static void node_clear(struct mem_node *node)
{
	struct mem_xattr *xattr;
	struct mem_poll *poll;

	while ((xattr = node->xattrs)) {
		node->xattrs = xattr->next;
		free(xattr->value);
		free(xattr);
	}
	while ((poll = node->polls)) {
		node->polls = poll->next;
		free(poll);
	}
	truncate_pages(node, 0);
	free(node->chunks);
	free(node->target);
	locks_free(&node->locks);
	pthread_rwlock_destroy(&node->lock);
}

static struct mem_node *node_new(struct server_req *req, mode_t mode)
{
	struct mem_fs *mem = mem_fs(req);
	struct mem_node *node = calloc(1, sizeof(*node));

	if (!node)
		return NULL;
	node_init(mem, node, mode, req->in->uid, req->in->gid);
	node->next = mem->root.next;
	node->prev = &mem->root;
	if (node->next)
		node->next->prev = node;
	mem->root.next = node;
	return node;
}

/* Frees a node that nobody can name any more; under the tree's lock */
static void node_put(struct mem_node *node)
{
	if (node->nlookup || node->st.st_nlink || !node->prev)
		return;
	node->prev->next = node->next;
	if (node->next)
		node->next->prev = node->prev;
	node_clear(node);
	free(node);
}

/* Directories; all under the tree's lock */

static struct mem_dirent **dir_find(struct mem_node *dir, const char *name)
{
	struct mem_dirent **at = &dir->entries;

	while (*at && strcmp((*at)->name, name))
		at = &(*at)->next;
	return at;
}

static int dir_add(struct mem_node *dir, const char *name,
		   struct mem_node *node)
{
	struct mem_dirent **at = dir_find(dir, name), *entry;

	if (*at)
		return -EEXIST;
	if (strlen(name) > FS_MEM_NAME_MAX)
		return -ENAMETOOLONG;
	entry = calloc(1, sizeof(*entry));
	if (!entry)
		return -ENOMEM;
	memcpy(entry->name, name, strlen(name) + 1);
	entry->node = node;
	entry->off = dir->next_off++;
	*at = entry;
	if (S_ISDIR(node->st.st_mode)) {
		node->parent = dir;
		add_links(dir, 1);
	}
	touch_dir(dir);
	return 0;
}

/* Takes an entry out, and says which node it had */
static struct mem_node *dir_del(struct mem_node *dir, struct mem_dirent **at)
{
	struct mem_dirent *entry = *at;
	struct mem_node *node = entry->node;

	*at = entry->next;
	free(entry);
	if (S_ISDIR(node->st.st_mode))
		add_links(dir, -1);
	touch_dir(dir);
	return node;
}

/* The node lost a name: a directory its ".." and "." with it */
static void unlinked(struct mem_node *node)
{
	add_links(node, S_ISDIR(node->st.st_mode) ? -2 : -1);
	node_put(node);
}

/* Data; under the node's lock */

static char *page_get(struct mem_node *node, __u64 nr)
{
	__u64 chunk = nr / MEM_CHUNK;

	if (chunk >= node->nr_chunks || !node->chunks[chunk])
		return NULL;
	return node->chunks[chunk]->pages[nr % MEM_CHUNK];
}

static char *page_make(struct mem_node *node, __u64 nr)
{
	size_t chunk = nr / MEM_CHUNK, want;
	struct mem_chunk **chunks;
	char **page;

	if (chunk >= node->nr_chunks) {
		want = node->nr_chunks * 2 > chunk ? node->nr_chunks * 2 :
						     chunk + 1;
		chunks = realloc(node->chunks, want * sizeof(*chunks));
		if (!chunks)
			return NULL;
		memset(chunks + node->nr_chunks, 0,
		       (want - node->nr_chunks) * sizeof(*chunks));
		node->chunks = chunks;
		node->nr_chunks = want;
	}
	if (!node->chunks[chunk])
		node->chunks[chunk] = calloc(1, sizeof(**chunks));
	if (!node->chunks[chunk])
		return NULL;
	page = &node->chunks[chunk]->pages[nr % MEM_CHUNK];
	if (!*page) {
		*page = calloc(1, MEM_PAGE);
		if (*page)
			node->st.st_blocks += MEM_PAGE / 512;
	}
	return *page;
}

static void page_drop(struct mem_node *node, __u64 nr)
{
	char **page;

	if (!page_get(node, nr))
		return;
	page = &node->chunks[nr / MEM_CHUNK]->pages[nr % MEM_CHUNK];
	free(*page);
	*page = NULL;
	node->st.st_blocks -= MEM_PAGE / 512;
}

/* Makes [start, end) a hole, but for the rest of pages that are cut */
static void punch(struct mem_node *node, __u64 start, __u64 end)
{
	__u64 limit = (__u64)node->nr_chunks * MEM_CHUNK * MEM_PAGE;
	__u64 pos, len;

	if (end > limit)
		end = limit;
	for (pos = start; pos < end; pos += len) {
		char *page = page_get(node, pos / MEM_PAGE);

		/* A chunk that was never there needs no look at its pages */
		if (!node->chunks[pos / MEM_PAGE / MEM_CHUNK]) {
			len = MEM_CHUNK * MEM_PAGE -
			      pos % (MEM_CHUNK * MEM_PAGE);
			continue;
		}
		len = MEM_PAGE - pos % MEM_PAGE;
		if (len > end - pos)
			len = end - pos;
		if (len == MEM_PAGE)
			page_drop(node, pos / MEM_PAGE);
		else if (page)
			memset(page + pos % MEM_PAGE, 0, len);
	}
}

static void truncate_pages(struct mem_node *node, __u64 size)
{
	size_t keep = (size + MEM_CHUNK * MEM_PAGE - 1) / MEM_CHUNK / MEM_PAGE;

	punch(node, size, UINT64_MAX);
	for (; keep < node->nr_chunks; keep++) {
		free(node->chunks[keep]);
		node->chunks[keep] = NULL;
	}
	node->st.st_size = size;
}

static void data_read(struct mem_node *node, char *buf, __u64 pos, size_t len)
{
	size_t part;
	char *page;

	for (; len; len -= part, pos += part, buf += part) {
		part = MEM_PAGE - pos % MEM_PAGE;
		if (part > len)
			part = len;
		page = page_get(node, pos / MEM_PAGE);
		if (page)
			memcpy(buf, page + pos % MEM_PAGE, part);
		else
			memset(buf, 0, part);
	}
}

/* Returns how much was written; less than asked for without memory */
static size_t data_write(struct mem_node *node, const char *buf, __u64 pos,
			 size_t len)
{
	size_t part, done = 0;
	char *page;

	for (; done < len; done += part, pos += part) {
		part = MEM_PAGE - pos % MEM_PAGE;
		if (part > len - done)
			part = len - done;
		page = page_make(node, pos / MEM_PAGE);
		if (!page)
			break;
		memcpy(page + pos % MEM_PAGE, buf + done, part);
	}
	if (done) {
		if (pos > (__u64)node->st.st_size)
			node->st.st_size = pos;
		touch(node);
	}
	return done;
}

/* Those who poll want to know that there is data; without the node's lock */
static void poll_wake(struct server_req *req, struct mem_node *node)
{
	struct fuse_notify_poll_wakeup_out out;
	struct mem_poll *poll, *next;

	if (!__atomic_load_n(&node->polls, __ATOMIC_RELAXED))
		return;
	pthread_rwlock_wrlock(&node->lock);
	poll = node->polls;
	node->polls = NULL;
	pthread_rwlock_unlock(&node->lock);
	for (; poll; poll = next) {
		next = poll->next;
		out.kh = poll->kh;
		server_notify(req->srv, FUSE_NOTIFY_POLL, &out, sizeof(out));
		free(poll);
	}
}

/* Attributes and entries */

static unsigned int attr_ms(struct server_req *req)
{
	return server_options(req->srv)->attr_valid_ms;
}

static void fill_entry(struct server_req *req, struct mem_node *node,
		       struct fuse_entry_out *entry)
{
	*entry = (struct fuse_entry_out){
		.nodeid = node == &mem_fs(req)->root ? FUSE_ROOT_ID :
						       (uintptr_t)node,
		.generation = node->st.st_ino,
	};
	proto_entry_valid(entry, server_options(req->srv)->entry_valid_ms,
			  attr_ms(req));
	pthread_rwlock_rdlock(&node->lock);
	proto_attr(&entry->attr, &node->st);
	pthread_rwlock_unlock(&node->lock);
}

/*
 * The kernel learns of a node, and keeps it until its FORGET.  Look-ups do this
 * at the same time, FORGET never: it has the tree for itself.
 */
static void know(struct mem_node *node)
{
	__atomic_add_fetch(&node->nlookup, 1, __ATOMIC_RELAXED);
}

static void reply_attr(struct server_req *req, struct mem_node *node)
{
	struct fuse_attr_out *out = req->out;

	out->attr_valid = attr_ms(req) / 1000;
	out->attr_valid_nsec = attr_ms(req) % 1000 * 1000000;
	out->dummy = 0;
	pthread_rwlock_rdlock(&node->lock);
	proto_attr(&out->attr, &node->st);
	pthread_rwlock_unlock(&node->lock);
	server_reply(req, sizeof(*out));
}

static void mem_getattr(struct server_req *req)
{
	reply_attr(req, mem_node(req));
}

static void kill_suid(struct mem_node *node)
{
	node->st.st_mode &= ~S_ISUID;
	if (node->st.st_mode & 0010)
		node->st.st_mode &= ~S_ISGID;
}

static void mem_setattr(struct server_req *req)
{
	const struct fuse_setattr_in *arg = req->op;
	struct mem_node *node = mem_node(req);
	struct stat *st = &node->st;
	__u32 valid = arg->valid;

	if (valid & FATTR_SIZE && arg->size > FS_MEM_MAX_SIZE) {
		server_reply_err(req, -EFBIG);
		return;
	}
	pthread_rwlock_wrlock(&node->lock);
	if (valid & FATTR_MODE)
		st->st_mode = (st->st_mode & S_IFMT) | (arg->mode & 07777);
	if (valid & FATTR_UID)
		st->st_uid = arg->uid;
	if (valid & FATTR_GID)
		st->st_gid = arg->gid;
	if (valid & FATTR_SIZE) {
		if (arg->size < (__u64)st->st_size)
			truncate_pages(node, arg->size);
		st->st_size = arg->size;
		touch(node);
	}
	if (valid & FATTR_KILL_SUIDGID)
		kill_suid(node);
	now(&st->st_ctim);
	if (valid & FATTR_ATIME_NOW)
		st->st_atim = st->st_ctim;
	else if (valid & FATTR_ATIME)
		st->st_atim = (struct timespec){ arg->atime, arg->atimensec };
	if (valid & FATTR_MTIME_NOW)
		st->st_mtim = st->st_ctim;
	else if (valid & FATTR_MTIME)
		st->st_mtim = (struct timespec){ arg->mtime, arg->mtimensec };
	if (valid & FATTR_CTIME)
		st->st_ctim = (struct timespec){ arg->ctime, arg->ctimensec };
	pthread_rwlock_unlock(&node->lock);
	if (valid & FATTR_SIZE && arg->size)
		poll_wake(req, node);
	reply_attr(req, node);
}

static struct fuse_sx_time sx_time(const struct timespec *ts)
{
	return (struct fuse_sx_time){
		.tv_sec = ts->tv_sec,
		.tv_nsec = ts->tv_nsec,
	};
}

static void mem_statx(struct server_req *req)
{
	struct mem_node *node = mem_node(req);
	struct fuse_statx_out *out = req->out;
	const struct stat *st = &node->st;

	pthread_rwlock_rdlock(&node->lock);
	*out = (struct fuse_statx_out){
		.attr_valid = attr_ms(req) / 1000,
		.attr_valid_nsec = attr_ms(req) % 1000 * 1000000,
		.stat = {
			.mask = STATX_BASIC_STATS | STATX_BTIME,
			.blksize = st->st_blksize,
			.nlink = st->st_nlink,
			.uid = st->st_uid,
			.gid = st->st_gid,
			.mode = st->st_mode,
			.ino = st->st_ino,
			.size = st->st_size,
			.blocks = st->st_blocks,
			.atime = sx_time(&st->st_atim),
			.btime = sx_time(&node->btime),
			.ctime = sx_time(&st->st_ctim),
			.mtime = sx_time(&st->st_mtim),
			.rdev_major = major(st->st_rdev),
			.rdev_minor = minor(st->st_rdev),
		},
	};
	pthread_rwlock_unlock(&node->lock);
	server_reply(req, sizeof(*out));
}

static void mem_access(struct server_req *req)
{
	const struct fuse_access_in *arg = req->op;
	struct mem_node *node = mem_node(req);
	mode_t mode;

	pthread_rwlock_rdlock(&node->lock);
	mode = node->st.st_mode;
	if (!req->in->uid)
		/* root may execute what somebody may execute */
		mode = mode & 0111 || S_ISDIR(mode) ? 7 : 6;
	else if (req->in->uid == node->st.st_uid)
		mode >>= 6;
	else if (req->in->gid == node->st.st_gid)
		mode >>= 3;
	pthread_rwlock_unlock(&node->lock);
	server_reply_err(req, arg->mask & ~mode & 7 ? -EACCES : 0);
}

static void mem_statfs(struct server_req *req)
{
	struct mem_fs *mem = mem_fs(req);
	struct fuse_statfs_out out = {
		.st = {
			.blocks = FS_MEM_MAX_SIZE / MEM_PAGE,
			.bfree = FS_MEM_MAX_SIZE / MEM_PAGE / 2,
			.bavail = FS_MEM_MAX_SIZE / MEM_PAGE / 2,
			.files = mem->last_ino,
			.ffree = UINT32_MAX,
			.bsize = MEM_PAGE,
			.frsize = MEM_PAGE,
			.namelen = FS_MEM_NAME_MAX,
		},
	};

	server_reply_buf(req, &out, sizeof(out));
}

/* Names */

/*
 * The name at the beginning of a request's arguments.  The kernel looks up "."
 * and ".." for NFS only, and never creates them.
 */
static const char *arg_name(struct server_req *req)
{
	const void *pos = req->data;
	__u32 len = req->data_len;

	return proto_name(&pos, &len);
}

static void mem_lookup(struct server_req *req)
{
	struct mem_fs *mem = mem_fs(req);
	struct mem_node *dir = mem_node(req), *node = NULL;
	const char *name = arg_name(req);
	struct fuse_entry_out entry;
	struct mem_dirent *found;

	if (!name) {
		server_reply_err(req, -EINVAL);
		return;
	}
	pthread_rwlock_rdlock(&mem->tree);
	if (!strcmp(name, ".")) {
		node = dir;
	} else if (!strcmp(name, "..")) {
		node = dir->parent ? dir->parent : dir;
	} else {
		found = *dir_find(dir, name);
		node = found ? found->node : NULL;
	}
	if (node) {
		know(node);
		fill_entry(req, node, &entry);
	}
	pthread_rwlock_unlock(&mem->tree);
	if (node)
		server_reply_buf(req, &entry, sizeof(entry));
	else
		server_reply_err(req, strlen(name) > FS_MEM_NAME_MAX ?
				      -ENAMETOOLONG : -ENOENT);
}

static void forget(struct mem_fs *mem, struct mem_node *node, __u64 nr)
{
	if (node == &mem->root)
		return;
	pthread_rwlock_wrlock(&mem->tree);
	node->nlookup -= nr;
	node_put(node);
	pthread_rwlock_unlock(&mem->tree);
}

static void mem_forget(struct server_req *req)
{
	const struct fuse_forget_in *arg = req->op;

	forget(mem_fs(req), mem_node(req), arg->nlookup);
	server_reply_none(req);
}

static void mem_batch_forget(struct server_req *req)
{
	const struct fuse_batch_forget_in *arg = req->op;
	const struct fuse_forget_one *one = req->data;
	__u32 i;

	for (i = 0; i < arg->count && i < req->data_len / sizeof(*one); i++)
		forget(mem_fs(req), mem_node_of(req, one[i].nodeid),
		       one[i].nlookup);
	server_reply_none(req);
}

/*
 * Makes a node, by name in the request's directory or without one for TMPFILE,
 * and its entry_out.  Takes target, of a symlink.
 */
static int make(struct server_req *req, const char *name, mode_t mode,
		dev_t rdev, char *target, struct fuse_entry_out *entry)
{
	struct mem_fs *mem = mem_fs(req);
	struct mem_node *dir = mem_node(req), *node;
	int ret = 0;

	pthread_rwlock_wrlock(&mem->tree);
	node = node_new(req, mode);
	if (!node) {
		free(target);
		pthread_rwlock_unlock(&mem->tree);
		return -ENOMEM;
	}
	node->st.st_rdev = rdev;
	node->target = target;
	if (target)
		node->st.st_size = strlen(target);
	if (dir->st.st_mode & S_ISGID) {
		node->st.st_gid = dir->st.st_gid;
		if (S_ISDIR(mode))
			node->st.st_mode |= S_ISGID;
	}
	if (!name)
		node->st.st_nlink = 0;
	else if (!dir->st.st_nlink)
		ret = -ENOENT;
	else
		ret = proto_name_ok(name) ? dir_add(dir, name, node) : -EINVAL;
	if (ret) {
		node->st.st_nlink = 0;
		node_put(node);
	} else {
		know(node);
		fill_entry(req, node, entry);
	}
	pthread_rwlock_unlock(&mem->tree);
	return ret;
}

static void make_reply(struct server_req *req, mode_t mode, dev_t rdev,
		       const char *name, char *target)
{
	struct fuse_entry_out entry;
	int ret = make(req, name ? name : "", mode, rdev, target, &entry);

	if (ret)
		server_reply_err(req, ret);
	else
		server_reply_buf(req, &entry, sizeof(entry));
}

static void mem_mknod(struct server_req *req)
{
	const struct fuse_mknod_in *arg = req->op;
	__u32 dev = arg->rdev;

	make_reply(req, arg->mode,
		   makedev(dev >> 8 & 0xfff, (dev & 0xff) | (dev >> 12 & 0xfff00)),
		   arg_name(req), NULL);
}

static void mem_mkdir(struct server_req *req)
{
	const struct fuse_mkdir_in *arg = req->op;

	make_reply(req, S_IFDIR | (arg->mode & 07777), 0, arg_name(req), NULL);
}

static void mem_symlink(struct server_req *req)
{
	const void *pos = req->data;
	__u32 len = req->data_len;
	const char *name = proto_name(&pos, &len);
	const char *target = name ? proto_name(&pos, &len) : NULL;
	char *copy = target ? strdup(target) : NULL;

	if (copy)
		make_reply(req, S_IFLNK | 0777, 0, name, copy);
	else
		server_reply_err(req, target ? -ENOMEM : -EINVAL);
}

static void mem_readlink(struct server_req *req)
{
	struct mem_node *node = mem_node(req);

	/* Set before anybody knew of the node, and never changed */
	if (node->target)
		server_reply_buf(req, node->target, strlen(node->target));
	else
		server_reply_err(req, -EINVAL);
}

static void fill_open(struct server_req *req, struct fuse_open_out *open)
{
	*open = (struct fuse_open_out){
		.fh = __atomic_add_fetch(&mem_fs(req)->last_fh, 1,
					 __ATOMIC_RELAXED),
	};
}

static void create(struct server_req *req, const char *name)
{
	const struct fuse_create_in *arg = req->op;
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} out;
	int ret;

	ret = make(req, name, S_IFREG | (arg->mode & 07777), 0, NULL,
		   &out.entry);
	if (ret) {
		server_reply_err(req, ret);
		return;
	}
	fill_open(req, &out.open);
	server_reply_buf(req, &out, sizeof(out));
}

static void mem_create(struct server_req *req)
{
	const char *name = arg_name(req);

	create(req, name ? name : "");
}

static void mem_tmpfile(struct server_req *req)
{
	create(req, NULL);
}

static void mem_link(struct server_req *req)
{
	const struct fuse_link_in *arg = req->op;
	struct mem_node *node = mem_node_of(req, arg->oldnodeid);
	struct mem_node *dir = mem_node(req);
	struct mem_fs *mem = mem_fs(req);
	const char *name = arg_name(req);
	struct fuse_entry_out entry;
	int ret;

	pthread_rwlock_wrlock(&mem->tree);
	ret = proto_name_ok(name) ? dir_add(dir, name, node) : -EINVAL;
	if (!ret) {
		add_links(node, 1);
		know(node);
		fill_entry(req, node, &entry);
	}
	pthread_rwlock_unlock(&mem->tree);
	if (ret)
		server_reply_err(req, ret);
	else
		server_reply_buf(req, &entry, sizeof(entry));
}

/* May this entry go?  dir says what it is expected to be. */
static int may_remove(struct mem_dirent *entry, bool dir)
{
	if (!entry)
		return -ENOENT;
	if (S_ISDIR(entry->node->st.st_mode) != dir)
		return dir ? -ENOTDIR : -EISDIR;
	return entry->node->entries ? -ENOTEMPTY : 0;
}

static void mem_remove(struct server_req *req)
{
	struct mem_fs *mem = mem_fs(req);
	struct mem_node *dir = mem_node(req);
	const char *name = arg_name(req);
	struct mem_dirent **at;
	int ret;

	pthread_rwlock_wrlock(&mem->tree);
	at = dir_find(dir, name ? name : "");
	ret = may_remove(*at, req->in->opcode == FUSE_RMDIR);
	if (!ret)
		unlinked(dir_del(dir, at));
	pthread_rwlock_unlock(&mem->tree);
	server_reply_err(req, ret);
}

/* Two entries trade their nodes, and directories their parents */
static void exchange(struct mem_node *dir, struct mem_dirent *from,
		     struct mem_node *newdir, struct mem_dirent *to)
{
	struct mem_node *node = from->node, *other = to->node;
	int was = S_ISDIR(node->st.st_mode), is = S_ISDIR(other->st.st_mode);

	from->node = other;
	to->node = node;
	if (is)
		other->parent = dir;
	if (was)
		node->parent = newdir;
	add_links(dir, is - was);
	add_links(newdir, was - is);
	add_links(node, 0);
	add_links(other, 0);
	touch_dir(dir);
	touch_dir(newdir);
}

static int do_rename(struct server_req *req, struct mem_node *newdir,
		     const char *old, const char *new, __u32 flags)
{
	struct mem_node *dir = mem_node(req), *node, *whiteout = NULL;
	struct mem_dirent **from, **to;
	int ret;

	if (!proto_name_ok(old) || !proto_name_ok(new) ||
	    flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT))
		return -EINVAL;
	if (strlen(new) > FS_MEM_NAME_MAX)
		return -ENAMETOOLONG;
	from = dir_find(dir, old);
	if (!*from)
		return -ENOENT;
	node = (*from)->node;
	to = dir_find(newdir, new);
	if (flags & RENAME_EXCHANGE) {
		if (!*to)
			return -ENOENT;
		exchange(dir, *from, newdir, *to);
		return 0;
	}
	if (*to && flags & RENAME_NOREPLACE)
		return -EEXIST;
	if (*to && (*to)->node == node)
		return 0;
	if (*to) {
		ret = may_remove(*to, S_ISDIR(node->st.st_mode));
		if (ret)
			return ret;
	}
	if (flags & RENAME_WHITEOUT) {
		whiteout = node_new(req, S_IFCHR);
		if (!whiteout)
			return -ENOMEM;
	}

	/* Entries come and go, so look for the old one again each time */
	if (*to)
		unlinked(dir_del(newdir, to));
	ret = dir_add(newdir, new, node);
	if (!ret) {
		/*
		 * Within one directory the new entry is last in the list, and
		 * another name, so the old one is still the first match.
		 */
		dir_del(dir, dir_find(dir, old));
		add_links(node, 0);
		if (whiteout)
			ret = dir_add(dir, old, whiteout);
	}
	if (ret && whiteout) {
		whiteout->st.st_nlink = 0;
		node_put(whiteout);
	}
	return ret;
}

static void mem_rename(struct server_req *req)
{
	const struct fuse_rename2_in *arg = req->op;
	bool has_flags = req->in->opcode == FUSE_RENAME2;
	struct mem_fs *mem = mem_fs(req);
	const void *pos = req->data;
	__u32 len = req->data_len;
	const char *old = proto_name(&pos, &len);
	const char *new = old ? proto_name(&pos, &len) : NULL;
	int ret;

	pthread_rwlock_wrlock(&mem->tree);
	ret = do_rename(req, mem_node_of(req, arg->newdir), old, new,
			has_flags ? arg->flags : 0);
	pthread_rwlock_unlock(&mem->tree);
	server_reply_err(req, ret);
}

/* Reading directories */

static void mem_opendir(struct server_req *req)
{
	struct fuse_open_out *open = req->out;

	fill_open(req, open);
	server_reply(req, sizeof(*open));
}

static void mem_readdir(struct server_req *req)
{
	const struct fuse_read_in *arg = req->op;
	bool plus = req->in->opcode == FUSE_READDIRPLUS;
	struct mem_node *dir = mem_node(req), *parent;
	struct mem_fs *mem = mem_fs(req);
	struct fuse_entry_out entry = { 0 };
	char *out = req->out, *pos = out;
	const char *end = out + min(arg->size, req->out_max);
	struct mem_dirent *de;
	__u64 off = arg->offset;
	bool room = true;

	/* nodeid 0: an entry that the kernel does not learn of by this */
	pthread_rwlock_rdlock(&mem->tree);
	parent = dir->parent ? dir->parent : dir;
	if (room && off < 1)
		room = proto_dirent(&pos, end, plus ? &entry : NULL,
				    dir->st.st_ino, 1, S_IFDIR >> 12, ".");
	if (room && off < 2)
		room = proto_dirent(&pos, end, plus ? &entry : NULL,
				    parent->st.st_ino, 2, S_IFDIR >> 12, "..");
	for (de = dir->entries; room && de; de = de->next) {
		if (de->off < 3 || de->off <= off)
			continue;
		if (plus)
			fill_entry(req, de->node, &entry);
		room = proto_dirent(&pos, end, plus ? &entry : NULL,
				    de->node->st.st_ino, de->off,
				    (de->node->st.st_mode & S_IFMT) >> 12,
				    de->name);
		if (room && plus)
			know(de->node);
	}
	pthread_rwlock_unlock(&mem->tree);
	server_reply(req, pos - out);
}

/* Files */

static void mem_open(struct server_req *req)
{
	const struct fuse_open_in *arg = req->op;
	struct mem_node *node = mem_node(req);
	struct fuse_open_out *open = req->out;

	if (arg->flags & O_TRUNC) {
		pthread_rwlock_wrlock(&node->lock);
		truncate_pages(node, 0);
		if (arg->open_flags & FUSE_OPEN_KILL_SUIDGID)
			kill_suid(node);
		touch(node);
		pthread_rwlock_unlock(&node->lock);
	}
	fill_open(req, open);
	server_reply(req, sizeof(*open));
}

static void mem_read(struct server_req *req)
{
	const struct fuse_read_in *arg = req->op;
	struct mem_node *node = mem_node(req);
	size_t len = 0;

	pthread_rwlock_rdlock(&node->lock);
	if (arg->offset < (__u64)node->st.st_size)
		len = node->st.st_size - arg->offset;
	if (len > arg->size)
		len = arg->size;
	if (len > req->out_max)
		len = req->out_max;
	data_read(node, req->out, arg->offset, len);
	pthread_rwlock_unlock(&node->lock);
	server_reply(req, len);
}

static void mem_write(struct server_req *req)
{
	const struct fuse_write_in *arg = req->op;
	struct mem_node *node = mem_node(req);
	struct fuse_write_out *out = req->out;
	__u32 size = arg->size;
	size_t done;

	if (size > req->data_len) {
		server_reply_err(req, -EINVAL);
		return;
	}
	if (arg->offset > FS_MEM_MAX_SIZE ||
	    size > FS_MEM_MAX_SIZE - arg->offset) {
		server_reply_err(req, -EFBIG);
		return;
	}
	pthread_rwlock_wrlock(&node->lock);
	done = data_write(node, req->data, arg->offset, size);
	if (arg->write_flags & FUSE_WRITE_KILL_SUIDGID)
		kill_suid(node);
	pthread_rwlock_unlock(&node->lock);
	if (size && !done) {
		server_reply_err(req, -ENOSPC);
		return;
	}
	poll_wake(req, node);
	*out = (struct fuse_write_out){ .size = done };
	server_reply(req, sizeof(*out));
}

static void mem_flush(struct server_req *req)
{
	const struct fuse_flush_in *arg = req->op;

	locks_drop(&mem_node(req)->locks, arg->lock_owner, false);
	server_reply_err(req, 0);
}

static void mem_release(struct server_req *req)
{
	const struct fuse_release_in *arg = req->op;
	struct mem_node *node = mem_node(req);
	struct mem_poll **at, *poll;

	if (arg->release_flags & FUSE_RELEASE_FLOCK_UNLOCK)
		locks_drop(&node->locks, arg->lock_owner, true);
	pthread_rwlock_wrlock(&node->lock);
	for (at = &node->polls; (poll = *at);) {
		if (poll->fh == arg->fh) {
			*at = poll->next;
			free(poll);
		} else {
			at = &poll->next;
		}
	}
	pthread_rwlock_unlock(&node->lock);
	server_reply_err(req, 0);
}

static void mem_ok(struct server_req *req)
{
	server_reply_err(req, 0);
}

static void mem_fallocate(struct server_req *req)
{
	const struct fuse_fallocate_in *arg = req->op;
	__u64 start = arg->offset, end = start + arg->length, nr;
	bool zero = arg->mode & FALLOC_FL_ZERO_RANGE;
	bool hole = arg->mode & FALLOC_FL_PUNCH_HOLE;
	struct mem_node *node = mem_node(req);
	int ret = 0;

	if (arg->mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE |
			  FALLOC_FL_ZERO_RANGE) || (zero && hole))
		ret = -EOPNOTSUPP;
	else if (end < start || end > FS_MEM_MAX_SIZE)
		ret = -EFBIG;
	else if (!hole && arg->length > FS_MEM_MAX_ALLOC)
		ret = -ENOSPC;
	if (ret) {
		server_reply_err(req, ret);
		return;
	}
	pthread_rwlock_wrlock(&node->lock);
	if (zero || hole)
		punch(node, start, end);
	for (nr = start / MEM_PAGE; !hole && nr * MEM_PAGE < end; nr++)
		if (!page_make(node, nr))
			ret = -ENOSPC;
	if (!ret && !(arg->mode & FALLOC_FL_KEEP_SIZE) &&
	    end > (__u64)node->st.st_size)
		node->st.st_size = end;
	touch(node);
	pthread_rwlock_unlock(&node->lock);
	server_reply_err(req, ret);
}

static void mem_lseek(struct server_req *req)
{
	const struct fuse_lseek_in *arg = req->op;
	struct mem_node *node = mem_node(req);
	struct fuse_lseek_out *out = req->out;
	bool data = arg->whence == SEEK_DATA;
	__u64 pos = arg->offset, size;

	if (arg->whence != SEEK_DATA && arg->whence != SEEK_HOLE) {
		server_reply_err(req, -EINVAL);
		return;
	}
	pthread_rwlock_rdlock(&node->lock);
	size = node->st.st_size;
	while (pos < size && !!page_get(node, pos / MEM_PAGE) != data)
		pos = (pos / MEM_PAGE + 1) * MEM_PAGE;
	pthread_rwlock_unlock(&node->lock);
	if (arg->offset >= size || (data && pos >= size)) {
		server_reply_err(req, -ENXIO);
		return;
	}
	/* The end of a file is a hole */
	out->offset = min(pos, size);
	server_reply(req, sizeof(*out));
}

static void mem_copy_file_range(struct server_req *req)
{
	const struct fuse_copy_file_range_in *arg = req->op;
	struct mem_node *in = mem_node(req);
	struct mem_node *dst = mem_node_of(req, arg->nodeid_out);
	struct fuse_write_out *out = req->out;
	char buf[16 * MEM_PAGE];
	__u64 done = 0, limit = arg->len;
	size_t len, wrote;

	/* The answer has 32 bits for the length */
	if (limit > 1 << 30)
		limit = 1 << 30;
	if (arg->off_out > FS_MEM_MAX_SIZE ||
	    limit > FS_MEM_MAX_SIZE - arg->off_out) {
		server_reply_err(req, -EFBIG);
		return;
	}
	while (done < limit) {
		__u64 from = arg->off_in + done;

		len = min(limit - done, sizeof(buf));
		pthread_rwlock_rdlock(&in->lock);
		if (from >= (__u64)in->st.st_size)
			len = 0;
		else if (len > in->st.st_size - from)
			len = in->st.st_size - from;
		data_read(in, buf, from, len);
		pthread_rwlock_unlock(&in->lock);

		pthread_rwlock_wrlock(&dst->lock);
		wrote = data_write(dst, buf, arg->off_out + done, len);
		pthread_rwlock_unlock(&dst->lock);
		done += wrote;
		if (!wrote)
			break;
	}
	*out = (struct fuse_write_out){ .size = done };
	server_reply(req, sizeof(*out));
}

/* The kernel asks this of filesystems on a block device (fuseblk) only */
static void mem_bmap(struct server_req *req)
{
	const struct fuse_bmap_in *arg = req->op;
	struct fuse_bmap_out *out = req->out;

	out->block = arg->block;
	server_reply(req, sizeof(*out));
}

static void mem_poll(struct server_req *req)
{
	const struct fuse_poll_in *arg = req->op;
	struct mem_node *node = mem_node(req);
	struct fuse_poll_out out = { .revents = POLLOUT };
	struct mem_poll *poll;
	int ret = 0;

	pthread_rwlock_wrlock(&node->lock);
	if (node->st.st_size) {
		out.revents |= POLLIN;
	} else if (arg->flags & FUSE_POLL_SCHEDULE_NOTIFY) {
		for (poll = node->polls; poll; poll = poll->next)
			if (poll->kh == arg->kh)
				break;
		if (!poll) {
			poll = malloc(sizeof(*poll));
			if (poll) {
				poll->fh = arg->fh;
				poll->kh = arg->kh;
				poll->next = node->polls;
				node->polls = poll;
			} else {
				ret = -ENOMEM;
			}
		}
	}
	pthread_rwlock_unlock(&node->lock);
	if (ret)
		server_reply_err(req, ret);
	else
		server_reply_buf(req, &out, sizeof(out));
}

/* Attributes that the kernel gets and sets by ioctl: which, and how long */
static void *fileattr(struct mem_node *node, __u32 cmd, __u32 *size)
{
	switch (cmd) {
	case FS_IOC_GETFLAGS:
	case FS_IOC_SETFLAGS:
		/* The number says long, but everybody means int */
		*size = sizeof(node->flags);
		return &node->flags;
	case FS_IOC_FSGETXATTR:
	case FS_IOC_FSSETXATTR:
		*size = sizeof(node->fsx);
		return &node->fsx;
	default:
		*size = 0;
		return NULL;
	}
}

static void mem_ioctl(struct server_req *req)
{
	const struct fuse_ioctl_in *arg = req->op;
	__u32 cmd = arg->cmd, n = _IOC_SIZE(arg->cmd), attr_size, i;
	struct mem_node *node = mem_node(req);
	struct fuse_ioctl_out *out = req->out;
	unsigned char *bytes = (unsigned char *)(out + 1);
	const unsigned char *in = (const void *)req->data;
	__u32 in_size = min(arg->in_size, req->data_len);
	void *attr = fileattr(node, arg->cmd, &attr_size);
	size_t len = 0;
	int result = 0;

	if (sizeof(*out) + arg->out_size > req->out_max) {
		server_reply_err(req, -EINVAL);
		return;
	}
	if (cmd == FS_MEM_IOC_XOR(n) && in_size == n && arg->out_size == n) {
		/*
		 * Over the ring the data that came in is where the answer's
		 * header will be.
		 */
		memmove(bytes, in, n);
		for (i = 0; i < n; i++)
			bytes[i] ^= 0x5a;
		len = n;
		result = n;
	} else if (cmd == FS_MEM_IOC_SUM(n) && in_size == n) {
		for (i = 0; i < n; i++)
			result += in[i];
	} else if (cmd == FS_MEM_IOC_COUNT(n) && arg->out_size == n) {
		for (i = 0; i < n; i++)
			bytes[i] = i * 7 + n;
		len = n;
	} else if (attr && _IOC_DIR(cmd) == _IOC_READ &&
		   arg->out_size >= attr_size) {
		pthread_rwlock_rdlock(&node->lock);
		memcpy(bytes, attr, attr_size);
		pthread_rwlock_unlock(&node->lock);
		memset(bytes + attr_size, 0, arg->out_size - attr_size);
		len = arg->out_size;
	} else if (attr && _IOC_DIR(cmd) == _IOC_WRITE &&
		   in_size >= attr_size) {
		pthread_rwlock_wrlock(&node->lock);
		memcpy(attr, in, attr_size);
		now(&node->st.st_ctim);
		pthread_rwlock_unlock(&node->lock);
	} else {
		server_reply_err(req, -ENOTTY);
		return;
	}
	*out = (struct fuse_ioctl_out){ .result = result };
	server_reply(req, sizeof(*out) + len);
}

/* Locks */

static void mem_getlk(struct server_req *req)
{
	locks_get(&mem_node(req)->locks, req);
}

static void mem_setlk(struct server_req *req)
{
	locks_set(&mem_node(req)->locks, req);
}

/* Extended attributes */

static struct mem_xattr **xattr_find(struct mem_node *node, const char *name)
{
	struct mem_xattr **at = &node->xattrs;

	while (*at && strcmp((*at)->name, name))
		at = &(*at)->next;
	return at;
}

static int xattr_set(struct mem_node *node, const char *name,
		     const void *value, size_t size, __u32 flags)
{
	struct mem_xattr **at = xattr_find(node, name), *xattr = *at;
	char *copy;

	if (flags & XATTR_CREATE && xattr)
		return -EEXIST;
	if (flags & XATTR_REPLACE && !xattr)
		return -ENODATA;
	copy = malloc(size + 1);
	if (!copy)
		return -ENOMEM;
	if (!xattr) {
		xattr = calloc(1, sizeof(*xattr) + strlen(name) + 1);
		if (!xattr) {
			free(copy);
			return -ENOMEM;
		}
		memcpy(xattr->name, name, strlen(name) + 1);
		*at = xattr;
	}
	memcpy(copy, value, size);
	free(xattr->value);
	xattr->value = copy;
	xattr->size = size;
	now(&node->st.st_ctim);
	return 0;
}

static void mem_setxattr(struct server_req *req)
{
	const struct fuse_setxattr_in *arg = req->op;
	struct mem_node *node = mem_node(req);
	const void *pos = req->data;
	__u32 len = req->data_len;
	const char *name = proto_name(&pos, &len);
	int ret;

	if (!name || arg->size > len) {
		server_reply_err(req, -EINVAL);
		return;
	}
	pthread_rwlock_wrlock(&node->lock);
	ret = xattr_set(node, name, pos, arg->size, arg->flags);
	pthread_rwlock_unlock(&node->lock);
	server_reply_err(req, ret);
}

/* A size of 0 asks how much there is */
static void reply_sized(struct server_req *req, size_t len, int ret)
{
	const struct fuse_getxattr_in *arg = req->op;
	struct fuse_getxattr_out *out = req->out;

	if (ret) {
		server_reply_err(req, ret);
	} else if (arg->size) {
		server_reply(req, len);
	} else {
		*out = (struct fuse_getxattr_out){ .size = len };
		server_reply(req, sizeof(*out));
	}
}

static void mem_getxattr(struct server_req *req)
{
	const struct fuse_getxattr_in *arg = req->op;
	struct mem_node *node = mem_node(req);
	const char *name = arg_name(req);
	struct mem_xattr *xattr;
	size_t len = 0;
	int ret = 0;

	pthread_rwlock_rdlock(&node->lock);
	xattr = *xattr_find(node, name ? name : "");
	if (xattr)
		len = xattr->size;
	if (!xattr)
		ret = -ENODATA;
	else if (arg->size && (len > arg->size || len > req->out_max))
		ret = -ERANGE;
	else if (arg->size)
		memcpy(req->out, xattr->value, len);
	pthread_rwlock_unlock(&node->lock);
	reply_sized(req, len, ret);
}

static void mem_listxattr(struct server_req *req)
{
	const struct fuse_getxattr_in *arg = req->op;
	struct mem_node *node = mem_node(req);
	struct mem_xattr *xattr;
	size_t len = 0, part;
	char *out = req->out;
	int ret = 0;

	pthread_rwlock_rdlock(&node->lock);
	for (xattr = node->xattrs; xattr && !ret; xattr = xattr->next) {
		part = strlen(xattr->name) + 1;
		if (arg->size && (len + part > arg->size ||
				  len + part > req->out_max))
			ret = -ERANGE;
		else if (arg->size)
			memcpy(out + len, xattr->name, part);
		len += part;
	}
	pthread_rwlock_unlock(&node->lock);
	reply_sized(req, len, ret);
}

static void mem_removexattr(struct server_req *req)
{
	struct mem_node *node = mem_node(req);
	const char *name = arg_name(req);
	struct mem_xattr **at, *xattr;

	pthread_rwlock_wrlock(&node->lock);
	at = xattr_find(node, name ? name : "");
	xattr = *at;
	if (xattr) {
		*at = xattr->next;
		now(&node->st.st_ctim);
	}
	pthread_rwlock_unlock(&node->lock);
	server_reply_err(req, xattr ? 0 : -ENODATA);
	if (xattr) {
		free(xattr->value);
		free(xattr);
	}
}

static const server_op_t mem_ops[PROTO_NR_OPS] = {
	[FUSE_LOOKUP]		= mem_lookup,
	[FUSE_FORGET]		= mem_forget,
	[FUSE_GETATTR]		= mem_getattr,
	[FUSE_SETATTR]		= mem_setattr,
	[FUSE_READLINK]		= mem_readlink,
	[FUSE_SYMLINK]		= mem_symlink,
	[FUSE_MKNOD]		= mem_mknod,
	[FUSE_MKDIR]		= mem_mkdir,
	[FUSE_UNLINK]		= mem_remove,
	[FUSE_RMDIR]		= mem_remove,
	[FUSE_RENAME]		= mem_rename,
	[FUSE_LINK]		= mem_link,
	[FUSE_OPEN]		= mem_open,
	[FUSE_READ]		= mem_read,
	[FUSE_WRITE]		= mem_write,
	[FUSE_STATFS]		= mem_statfs,
	[FUSE_RELEASE]		= mem_release,
	[FUSE_FSYNC]		= mem_ok,
	[FUSE_SETXATTR]		= mem_setxattr,
	[FUSE_GETXATTR]		= mem_getxattr,
	[FUSE_LISTXATTR]	= mem_listxattr,
	[FUSE_REMOVEXATTR]	= mem_removexattr,
	[FUSE_FLUSH]		= mem_flush,
	[FUSE_OPENDIR]		= mem_opendir,
	[FUSE_READDIR]		= mem_readdir,
	[FUSE_RELEASEDIR]	= mem_release,
	[FUSE_FSYNCDIR]		= mem_ok,
	[FUSE_GETLK]		= mem_getlk,
	[FUSE_SETLK]		= mem_setlk,
	[FUSE_SETLKW]		= mem_setlk,
	[FUSE_ACCESS]		= mem_access,
	[FUSE_CREATE]		= mem_create,
	[FUSE_BMAP]		= mem_bmap,
	[FUSE_DESTROY]		= mem_ok,
	[FUSE_IOCTL]		= mem_ioctl,
	[FUSE_POLL]		= mem_poll,
	[FUSE_NOTIFY_REPLY]	= server_reply_none,
	[FUSE_BATCH_FORGET]	= mem_batch_forget,
	[FUSE_FALLOCATE]	= mem_fallocate,
	[FUSE_READDIRPLUS]	= mem_readdir,
	[FUSE_RENAME2]		= mem_rename,
	[FUSE_LSEEK]		= mem_lseek,
	[FUSE_COPY_FILE_RANGE]	= mem_copy_file_range,
	[FUSE_SYNCFS]		= mem_ok,
	[FUSE_TMPFILE]		= mem_tmpfile,
	[FUSE_STATX]		= mem_statx,
};

static void mem_free(struct server_fs *fs)
{
	struct mem_fs *mem = fs->priv;
	struct mem_node *node, *next;
	struct mem_dirent *entry;

	for (node = &mem->root; node; node = next) {
		next = node->next;
		while ((entry = node->entries)) {
			node->entries = entry->next;
			free(entry);
		}
		node_clear(node);
		if (node != &mem->root)
			free(node);
	}
	pthread_rwlock_destroy(&mem->tree);
	free(mem);
}

struct server_fs *fs_mem_new(void)
{
	struct mem_fs *mem = calloc(1, sizeof(*mem));

	if (!mem)
		return NULL;
	mem->fs = (struct server_fs){
		.name = "mem",
		.ops = mem_ops,
		.priv = mem,
		.free = mem_free,
	};
	pthread_rwlock_init(&mem->tree, NULL);
	node_init(mem, &mem->root, S_IFDIR | 0755, getuid(), getgid());
	return &mem->fs;
}
