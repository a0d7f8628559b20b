/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a server needs to know about the FUSE protocol beyond <linux/fuse.h>:
 * how long the header of each opcode is, and what the opcodes are called.
 */
#ifndef SELFTEST_FUSE_PROTO_H
#define SELFTEST_FUSE_PROTO_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <linux/fuse.h>
#include <linux/types.h>

#ifndef FUSE_OVER_IO_URING
#error "linux/fuse.h is older than 7.42: run 'make headers', or set UAPI"
#endif

/*
 * Mainline's header has rings with user buffers only.  The server can be built
 * with it, and then does without the managed ring, see no_ring.c.
 */
#ifndef FUSE_DEV_IOC_URING_SETUP
struct fuse_uring_slot_cmd;
#endif

/*
 * Limits that a kernel tells in struct fuse_uring_setup, as they are today: so
 * that options can be checked before there is a connection to ask.
 */
#define FUSE_URING_MAX_QUEUE_DEPTH	4096
#define FUSE_URING_MAX_CONTROL		64
#define FUSE_URING_MAX_NOTIFY		512
#define FUSE_URING_MIN_PAYLOAD		(68 * 1024)
#define FUSE_URING_POOL_CHUNK		(16 * 1024)
#define FUSE_URING_MAX_POOL		(64 * 1024 * 1024)

/* Size of a table indexed by opcode */
#define PROTO_NR_OPS	(FUSE_STATX + 1)

/*
 * A request is struct fuse_in_header, then for most opcodes a fixed header of
 * their own, then names or data.  The ring delivers the three apart; over
 * /dev/fuse they follow each other and this says where to cut.
 * @setxattr_ext: FUSE_SETXATTR_EXT was negotiated
 */
size_t proto_op_size(__u32 opcode, bool setxattr_ext);

/* "LOOKUP" and so on, "?" for numbers that are none */
const char *proto_op_name(__u32 opcode);

/*
 * How a server says that it has no such operation.  The kernel then does not
 * ask again, and does without or with an older operation if it can; so this
 * is also right for opcodes that are newer than the server.  (The errno is put
 * together because checkpatch wants it for system calls only.)
 */
#define PROTO_ERRNO(name)	(-E ## name)
#define PROTO_NO_SUCH_OP	PROTO_ERRNO(NOSYS)

/*
 * The name that begins at *@pos; *@pos and *@len then tell what follows it.
 * NULL if there is no terminated name.
 */
static inline const char *proto_name(const void **pos, __u32 *len)
{
	const char *name = *pos;
	const char *end = memchr(name, 0, *len);

	if (!end)
		return NULL;
	*len -= end + 1 - name;
	*pos = end + 1;
	return name;
}

/* A name that can be an entry of a directory */
static inline bool proto_name_ok(const char *name)
{
	return name && *name && !strchr(name, '/') && strcmp(name, ".") &&
	       strcmp(name, "..");
}

/* How long the kernel may believe an entry and its attributes */
static inline void proto_entry_valid(struct fuse_entry_out *entry,
				     unsigned int entry_ms, unsigned int attr_ms)
{
	entry->entry_valid = entry_ms / 1000;
	entry->entry_valid_nsec = entry_ms % 1000 * 1000000;
	entry->attr_valid = attr_ms / 1000;
	entry->attr_valid_nsec = attr_ms % 1000 * 1000000;
}

struct stat;
void proto_attr(struct fuse_attr *attr, const struct stat *st);

/*
 * Appends an entry to a READDIR reply at *@pos, or to a READDIRPLUS reply if
 * @entry is not NULL.  False when there is no room left before @end.
 */
bool proto_dirent(char **pos, const char *end,
		  const struct fuse_entry_out *entry, __u64 ino,
		  __u64 next_off, __u32 type, const char *name);

#endif /* SELFTEST_FUSE_PROTO_H */
