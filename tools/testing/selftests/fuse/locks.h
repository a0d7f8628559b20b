/* SPDX-License-Identifier: GPL-2.0 */
/* File locks for filesystems that keep them in the server, see locks.c */
#ifndef SELFTEST_FUSE_LOCKS_H
#define SELFTEST_FUSE_LOCKS_H

#include <pthread.h>

#include "server.h"

/* The locks of one file; all zeroes is a table without locks */
struct lock_table {
	pthread_mutex_t mutex;
	struct lock *held;
	struct lock_waiter *waiters;
};

void locks_init(struct lock_table *table);
void locks_free(struct lock_table *table);

/* Answer FUSE_GETLK, FUSE_SETLK and FUSE_SETLKW */
void locks_get(struct lock_table *table, struct server_req *req);
void locks_set(struct lock_table *table, struct server_req *req);

/*
 * For FUSE_FLUSH and FUSE_RELEASE: an owner has closed the file.  The kernel
 * sends no unlock of its own for that.
 */
void locks_drop(struct lock_table *table, __u64 owner, bool flock);

#endif /* SELFTEST_FUSE_LOCKS_H */
