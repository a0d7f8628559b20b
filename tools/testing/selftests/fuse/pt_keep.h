/* SPDX-License-Identifier: GPL-2.0 */
/* What fs_passthrough.c leaves to the next server, see pt_keep.c */
#ifndef SELFTEST_FUSE_PT_KEEP_H
#define SELFTEST_FUSE_PT_KEEP_H

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <linux/types.h>

#define PT_MAX_NODES	1048576
#define PT_FIRST_NODE	2	/* 0 is none and 1 is FUSE_ROOT_ID */

/* As struct file_handle has it */
struct pt_handle {
	__u32 bytes;
	__s32 type;
	unsigned char data[MAX_HANDLE_SZ];
};

/* A node that the kernel knows, or a free entry */
struct pt_entry {
	/* References by the kernel, or more.  0: free.  Written last. */
	__u64 nlookup;
	__u64 ino;
	__u64 dev;
	__u32 gen;		/* which use of the entry this is */
	struct pt_handle handle;
};

struct pt_table {
	__u32 epoch;		/* servers so far */
	__u32 top;		/* no entry from this one on was ever used */
	struct pt_entry entries[PT_MAX_NODES];
};

/* What a server has for itself */
struct pt_keep {
	struct pt_table *table;	/* shared */
	int dir_fd;		/* of the file system, not O_PATH */
	__u32 epoch;		/* our own */
	pthread_mutex_t mutex;
	struct pt_file *files;	/* opened by earlier servers */
};

struct pt_keep *pt_keep_new(const char *dir);
void pt_keep_free(struct pt_keep *keep);

/* Entries.  Callers have a lock of their own. */
int pt_entry_fill(struct pt_entry *entry, int fd, const struct stat *st);
void pt_entry_ref(struct pt_entry *entry, __u64 nr);
void pt_entry_unref(struct pt_entry *entry, __u64 nr);
/* Whether a descriptor is of the file that the entry means */
bool pt_entry_is(const struct pt_entry *entry, int fd);
/* O_PATH descriptor of it; -1 and errno */
int pt_entry_open(const struct pt_keep *keep, const struct pt_entry *entry);

/*
 * Files.  Their fh is the descriptor, and the server that it is a descriptor
 * of.
 */
static inline __u64 pt_fh(const struct pt_keep *keep, int fd)
{
	return (__u64)keep->epoch << 32 | (__u32)fd;
}

static inline bool pt_fh_own(const struct pt_keep *keep, __u64 fh)
{
	return fh >> 32 == keep->epoch;
}

/* Descriptor for an earlier server's fh, or -1 when it was not used yet */
int pt_file_find(struct pt_keep *keep, __u64 fh);
/* The same, opens the file at node_fd in that case; -1 and errno */
int pt_file_get(struct pt_keep *keep, __u64 fh, int node_fd, bool write);
void pt_file_close(struct pt_keep *keep, __u64 fh);

#endif /* SELFTEST_FUSE_PT_KEEP_H */
