// SPDX-License-Identifier: GPL-2.0
/*
 * A filesystem that does next to nothing, to measure everything else with.
 *
 * It has one file, "null", as long as asked for.  What is written to it is
 * gone, and what is read from it is what happens to be in the transport's
 * memory, zeroes at first: the server does not touch data, as one that lets a
 * device do it.  Other files can be created and removed, but are forgotten at
 * once.  No handler takes a lock or allocates memory.
 *
 * What little state there is can be shared with another process, so a server
 * can take over from one that has died.
 */

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server.h"

#define NULL_NODE	2
#define NULL_VALID_MS	1000

struct null_fs {
	struct server_fs fs;
	__u64 size;
	__u32 uid, gid;
	__u64 last_node;
};

static void null_attr(struct server_req *req, __u64 node,
		      struct fuse_attr *attr)
{
	struct null_fs *null = req->priv;

	*attr = (struct fuse_attr){
		.ino = node,
		.size = node == NULL_NODE ? null->size : 0,
		.mode = node == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0644,
		.nlink = 1,
		.uid = null->uid,
		.gid = null->gid,
		.blksize = 4096,
	};
}

static void null_getattr(struct server_req *req)
{
	struct fuse_attr_out *out = req->out;

	out->attr_valid = NULL_VALID_MS / 1000;
	out->attr_valid_nsec = 0;
	out->dummy = 0;
	null_attr(req, req->in->nodeid, &out->attr);
	server_reply(req, sizeof(*out));
}

static void null_setattr(struct server_req *req)
{
	const struct fuse_setattr_in *arg = req->op;
	struct null_fs *null = req->priv;

	if (arg->valid & FATTR_SIZE && req->in->nodeid == NULL_NODE)
		null->size = arg->size;
	null_getattr(req);
}

static void null_statx(struct server_req *req)
{
	struct fuse_statx_out *out = req->out;
	struct fuse_attr attr;

	null_attr(req, req->in->nodeid, &attr);
	*out = (struct fuse_statx_out){
		.attr_valid = NULL_VALID_MS / 1000,
		.stat = {
			.mask = STATX_BASIC_STATS,
			.blksize = attr.blksize,
			.nlink = attr.nlink,
			.uid = attr.uid,
			.gid = attr.gid,
			.mode = attr.mode,
			.ino = attr.ino,
			.size = attr.size,
		},
	};
	server_reply(req, sizeof(*out));
}

static void null_entry(struct server_req *req, __u64 node,
		       struct fuse_entry_out *entry)
{
	*entry = (struct fuse_entry_out){ .nodeid = node };
	proto_entry_valid(entry, NULL_VALID_MS, NULL_VALID_MS);
	null_attr(req, node, &entry->attr);
}

static void null_lookup(struct server_req *req)
{
	const void *pos = req->data;
	__u32 len = req->data_len;
	const char *name = proto_name(&pos, &len);

	if (!name || strcmp(name, "null")) {
		server_reply_err(req, -ENOENT);
		return;
	}
	null_entry(req, NULL_NODE, req->out);
	server_reply(req, sizeof(struct fuse_entry_out));
}

static void null_create(struct server_req *req)
{
	struct null_fs *null = req->priv;
	struct fuse_entry_out *entry = req->out;
	struct fuse_open_out *open = (struct fuse_open_out *)(entry + 1);

	null_entry(req, __atomic_add_fetch(&null->last_node, 1,
					   __ATOMIC_RELAXED), entry);
	*open = (struct fuse_open_out){ 0 };
	server_reply(req, sizeof(*entry) + sizeof(*open));
}

static void null_open(struct server_req *req)
{
	struct fuse_open_out *out = req->out;

	/* the content never changes, so let the page cache keep it */
	*out = (struct fuse_open_out){ .open_flags = FOPEN_KEEP_CACHE };
	server_reply(req, sizeof(*out));
}

static void null_read(struct server_req *req)
{
	const struct fuse_read_in *arg = req->op;
	struct null_fs *null = req->priv;
	size_t len = 0;

	if (req->in->nodeid == NULL_NODE && arg->offset < null->size)
		len = null->size - arg->offset;
	if (len > arg->size)
		len = arg->size;
	server_reply(req, len);
}

static void null_write(struct server_req *req)
{
	const struct fuse_write_in *arg = req->op;
	struct fuse_write_out *out = req->out;

	*out = (struct fuse_write_out){ .size = arg->size };
	server_reply(req, sizeof(*out));
}

static void null_readdir(struct server_req *req)
{
	static const char * const names[] = { ".", "..", "null" };
	const struct fuse_read_in *arg = req->op;
	char *out = req->out, *pos = out;
	__u64 off;

	for (off = arg->offset; off < 3; off++)
		if (!proto_dirent(&pos, out + arg->size, NULL,
				  off < 2 ? FUSE_ROOT_ID : NULL_NODE, off + 1,
				  (off < 2 ? S_IFDIR : S_IFREG) >> 12,
				  names[off]))
			break;
	server_reply(req, pos - out);
}

static void null_statfs(struct server_req *req)
{
	struct fuse_statfs_out *out = req->out;

	*out = (struct fuse_statfs_out){
		.st = { .bsize = 4096, .frsize = 4096, .namelen = 255 },
	};
	server_reply(req, sizeof(*out));
}

static void null_ok(struct server_req *req)
{
	server_reply_err(req, 0);
}

static void null_init(struct server_fs *fs, struct fuse_init_out *out)
{
	(void)fs;
	/* READDIRPLUS and locks of its own would need state */
	out->flags &= ~(FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO |
			FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS);
}

static const server_op_t null_ops[PROTO_NR_OPS] = {
	[FUSE_LOOKUP]		= null_lookup,
	[FUSE_FORGET]		= server_reply_none,
	[FUSE_BATCH_FORGET]	= server_reply_none,
	[FUSE_GETATTR]		= null_getattr,
	[FUSE_SETATTR]		= null_setattr,
	[FUSE_STATX]		= null_statx,
	[FUSE_CREATE]		= null_create,
	[FUSE_UNLINK]		= null_ok,
	[FUSE_OPEN]		= null_open,
	[FUSE_READ]		= null_read,
	[FUSE_WRITE]		= null_write,
	[FUSE_FLUSH]		= null_ok,
	[FUSE_FSYNC]		= null_ok,
	[FUSE_RELEASE]		= null_ok,
	[FUSE_OPENDIR]		= null_open,
	[FUSE_READDIR]		= null_readdir,
	[FUSE_RELEASEDIR]	= null_ok,
	[FUSE_ACCESS]		= null_ok,
	[FUSE_STATFS]		= null_statfs,
};

static void null_free(struct server_fs *fs)
{
	munmap(fs->priv, sizeof(struct null_fs));
}

struct server_fs *fs_null_new(__u64 size)
{
	struct null_fs *null = mmap(NULL, sizeof(*null), PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (null == MAP_FAILED)
		return NULL;
	null->fs = (struct server_fs){
		.name = "null",
		.ops = null_ops,
		.priv = null,
		.survives = true,
		.init = null_init,
		.free = null_free,
	};
	null->size = size;
	null->uid = getuid();
	null->gid = getgid();
	null->last_node = NULL_NODE;
	return &null->fs;
}
