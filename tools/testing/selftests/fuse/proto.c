// SPDX-License-Identifier: GPL-2.0
/* Tables and encodings of the FUSE protocol, see proto.h */

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "proto.h"

static const struct {
	const char *name;
	size_t op_size;
} ops[PROTO_NR_OPS] = {
	[FUSE_LOOKUP]		= { "LOOKUP", 0 },
	[FUSE_FORGET]		= { "FORGET", sizeof(struct fuse_forget_in) },
	[FUSE_GETATTR]		= { "GETATTR", sizeof(struct fuse_getattr_in) },
	[FUSE_SETATTR]		= { "SETATTR", sizeof(struct fuse_setattr_in) },
	[FUSE_READLINK]		= { "READLINK", 0 },
	[FUSE_SYMLINK]		= { "SYMLINK", 0 },
	[FUSE_MKNOD]		= { "MKNOD", sizeof(struct fuse_mknod_in) },
	[FUSE_MKDIR]		= { "MKDIR", sizeof(struct fuse_mkdir_in) },
	[FUSE_UNLINK]		= { "UNLINK", 0 },
	[FUSE_RMDIR]		= { "RMDIR", 0 },
	[FUSE_RENAME]		= { "RENAME", sizeof(struct fuse_rename_in) },
	[FUSE_LINK]		= { "LINK", sizeof(struct fuse_link_in) },
	[FUSE_OPEN]		= { "OPEN", sizeof(struct fuse_open_in) },
	[FUSE_READ]		= { "READ", sizeof(struct fuse_read_in) },
	[FUSE_WRITE]		= { "WRITE", sizeof(struct fuse_write_in) },
	[FUSE_STATFS]		= { "STATFS", 0 },
	[FUSE_RELEASE]		= { "RELEASE", sizeof(struct fuse_release_in) },
	[FUSE_FSYNC]		= { "FSYNC", sizeof(struct fuse_fsync_in) },
	[FUSE_SETXATTR]		= { "SETXATTR", sizeof(struct fuse_setxattr_in) },
	[FUSE_GETXATTR]		= { "GETXATTR", sizeof(struct fuse_getxattr_in) },
	[FUSE_LISTXATTR]	= { "LISTXATTR", sizeof(struct fuse_getxattr_in) },
	[FUSE_REMOVEXATTR]	= { "REMOVEXATTR", 0 },
	[FUSE_FLUSH]		= { "FLUSH", sizeof(struct fuse_flush_in) },
	[FUSE_INIT]		= { "INIT", sizeof(struct fuse_init_in) },
	[FUSE_OPENDIR]		= { "OPENDIR", sizeof(struct fuse_open_in) },
	[FUSE_READDIR]		= { "READDIR", sizeof(struct fuse_read_in) },
	[FUSE_RELEASEDIR]	= { "RELEASEDIR", sizeof(struct fuse_release_in) },
	[FUSE_FSYNCDIR]		= { "FSYNCDIR", sizeof(struct fuse_fsync_in) },
	[FUSE_GETLK]		= { "GETLK", sizeof(struct fuse_lk_in) },
	[FUSE_SETLK]		= { "SETLK", sizeof(struct fuse_lk_in) },
	[FUSE_SETLKW]		= { "SETLKW", sizeof(struct fuse_lk_in) },
	[FUSE_ACCESS]		= { "ACCESS", sizeof(struct fuse_access_in) },
	[FUSE_CREATE]		= { "CREATE", sizeof(struct fuse_create_in) },
	[FUSE_INTERRUPT]	= { "INTERRUPT", sizeof(struct fuse_interrupt_in) },
	[FUSE_BMAP]		= { "BMAP", sizeof(struct fuse_bmap_in) },
	[FUSE_DESTROY]		= { "DESTROY", 0 },
	[FUSE_IOCTL]		= { "IOCTL", sizeof(struct fuse_ioctl_in) },
	[FUSE_POLL]		= { "POLL", sizeof(struct fuse_poll_in) },
	[FUSE_NOTIFY_REPLY]	= { "NOTIFY_REPLY",
				    sizeof(struct fuse_notify_retrieve_in) },
	[FUSE_BATCH_FORGET]	= { "BATCH_FORGET",
				    sizeof(struct fuse_batch_forget_in) },
	[FUSE_FALLOCATE]	= { "FALLOCATE", sizeof(struct fuse_fallocate_in) },
	[FUSE_READDIRPLUS]	= { "READDIRPLUS", sizeof(struct fuse_read_in) },
	[FUSE_RENAME2]		= { "RENAME2", sizeof(struct fuse_rename2_in) },
	[FUSE_LSEEK]		= { "LSEEK", sizeof(struct fuse_lseek_in) },
	[FUSE_COPY_FILE_RANGE]	= { "COPY_FILE_RANGE",
				    sizeof(struct fuse_copy_file_range_in) },
	[FUSE_SETUPMAPPING]	= { "SETUPMAPPING",
				    sizeof(struct fuse_setupmapping_in) },
	[FUSE_REMOVEMAPPING]	= { "REMOVEMAPPING", 0 },
	[FUSE_SYNCFS]		= { "SYNCFS", sizeof(struct fuse_syncfs_in) },
	/* the same header as CREATE, and a name that means nothing */
	[FUSE_TMPFILE]		= { "TMPFILE", sizeof(struct fuse_create_in) },
	[FUSE_STATX]		= { "STATX", sizeof(struct fuse_statx_in) },
};

size_t proto_op_size(__u32 opcode, bool setxattr_ext)
{
	if (opcode >= PROTO_NR_OPS)
		return 0;
	if (opcode == FUSE_SETXATTR && !setxattr_ext)
		return FUSE_COMPAT_SETXATTR_IN_SIZE;
	return ops[opcode].op_size;
}

const char *proto_op_name(__u32 opcode)
{
	if (opcode >= PROTO_NR_OPS || !ops[opcode].name)
		return "?";
	return ops[opcode].name;
}

void proto_attr(struct fuse_attr *attr, const struct stat *st)
{
	*attr = (struct fuse_attr){
		.ino = st->st_ino,
		.size = st->st_size,
		.blocks = st->st_blocks,
		.atime = st->st_atim.tv_sec,
		.mtime = st->st_mtim.tv_sec,
		.ctime = st->st_ctim.tv_sec,
		.atimensec = st->st_atim.tv_nsec,
		.mtimensec = st->st_mtim.tv_nsec,
		.ctimensec = st->st_ctim.tv_nsec,
		.mode = st->st_mode,
		.nlink = st->st_nlink,
		.uid = st->st_uid,
		.gid = st->st_gid,
		/* the kernel's 32-bit encoding of device numbers */
		.rdev = (minor(st->st_rdev) & 0xff) | major(st->st_rdev) << 8 |
			(minor(st->st_rdev) & ~0xffU) << 12,
		.blksize = st->st_blksize,
	};
}

bool proto_dirent(char **pos, const char *end,
		  const struct fuse_entry_out *entry, __u64 ino,
		  __u64 next_off, __u32 type, const char *name)
{
	size_t namelen = strlen(name), head, size;
	struct fuse_dirent *dirent;

	head = entry ? sizeof(*entry) : 0;
	size = FUSE_DIRENT_ALIGN(head + FUSE_NAME_OFFSET + namelen);
	if (size > (size_t)(end - *pos))
		return false;

	if (entry)
		memcpy(*pos, entry, sizeof(*entry));
	dirent = (struct fuse_dirent *)(*pos + head);
	dirent->ino = ino;
	dirent->off = next_off;
	dirent->namelen = namelen;
	dirent->type = type;
	memcpy(dirent->name, name, namelen);
	/* padding goes to the kernel as well: no old bytes in it */
	memset(dirent->name + namelen, 0, *pos + size - dirent->name - namelen);
	*pos += size;
	return true;
}
