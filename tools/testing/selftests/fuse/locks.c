// SPDX-License-Identifier: GPL-2.0
/*
 * File locks, fcntl's and flock's, between all users of a mount.
 *
 * A SETLKW that must wait is deferred: its request keeps waiting, over the
 * ring in its slot, and is answered by whichever thread takes the lock away
 * that it waits for.  The example for everything that cannot be answered at
 * once: note who may answer when, and that nothing is answered under a mutex
 * that the cancel function takes.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "locks.h"

struct lock {
	struct lock *next;
	struct fuse_file_lock lk;
	__u64 owner;
	bool flock;
};

struct lock_waiter {
	struct lock_waiter *next;
	struct lock_table *table;
	struct server_req *req;
	struct fuse_lk_in arg;
	bool queued;		/* in the table: the next unlock answers it */
	bool cancelled;		/* before it was queued */
};

void locks_init(struct lock_table *table)
{
	pthread_mutex_init(&table->mutex, NULL);
	table->held = NULL;
	table->waiters = NULL;
}

void locks_free(struct lock_table *table)
{
	struct lock_waiter *waiter;
	struct lock *lock;

	while ((lock = table->held)) {
		table->held = lock->next;
		free(lock);
	}
	while ((waiter = table->waiters)) {
		table->waiters = waiter->next;
		free(waiter);
	}
	pthread_mutex_destroy(&table->mutex);
}

static bool overlap(const struct fuse_file_lock *a,
		    const struct fuse_file_lock *b)
{
	return a->start <= b->end && b->start <= a->end;
}

static struct lock *find_conflict(struct lock_table *table,
				  const struct fuse_lk_in *arg)
{
	bool flock = arg->lk_flags & FUSE_LK_FLOCK;
	struct lock *lock;

	for (lock = table->held; lock; lock = lock->next)
		if (lock->flock == flock && lock->owner != arg->owner &&
		    overlap(&lock->lk, &arg->lk) &&
		    (lock->lk.type == F_WRLCK || arg->lk.type == F_WRLCK))
			return lock;
	return NULL;
}

/* Takes the range out of what the owner has; spare becomes a second half */
static void cut(struct lock_table *table, const struct fuse_lk_in *arg,
		struct lock **spare)
{
	bool flock = arg->lk_flags & FUSE_LK_FLOCK;
	struct lock **at = &table->held, *lock, *rest;

	while ((lock = *at)) {
		if (lock->flock != flock || lock->owner != arg->owner ||
		    !overlap(&lock->lk, &arg->lk)) {
			at = &lock->next;
		} else if (lock->lk.start < arg->lk.start &&
			   lock->lk.end > arg->lk.end) {
			rest = *spare;
			*spare = NULL;
			*rest = *lock;
			rest->lk.start = arg->lk.end + 1;
			lock->lk.end = arg->lk.start - 1;
			lock->next = rest;
			return;
		} else if (lock->lk.start < arg->lk.start) {
			lock->lk.end = arg->lk.start - 1;
			at = &lock->next;
		} else if (lock->lk.end > arg->lk.end) {
			lock->lk.start = arg->lk.end + 1;
			at = &lock->next;
		} else {
			*at = lock->next;
			free(lock);
		}
	}
}

/* 0, -EAGAIN for a conflict, or -ENOLCK */
static int apply(struct lock_table *table, const struct fuse_lk_in *arg)
{
	struct lock *spare, *new = NULL;

	if (arg->lk.type != F_UNLCK && find_conflict(table, arg))
		return -EAGAIN;

	spare = malloc(sizeof(*spare));
	if (arg->lk.type != F_UNLCK)
		new = malloc(sizeof(*new));
	if (!spare || (arg->lk.type != F_UNLCK && !new)) {
		free(spare);
		free(new);
		return -ENOLCK;
	}
	cut(table, arg, &spare);
	free(spare);
	if (new) {
		new->lk = arg->lk;
		new->owner = arg->owner;
		new->flock = arg->lk_flags & FUSE_LK_FLOCK;
		new->next = table->held;
		table->held = new;
	}
	return 0;
}

/* Takes the waiters that have their lock now out of the table */
static struct lock_waiter *grant(struct lock_table *table)
{
	struct lock_waiter **at = &table->waiters, *waiter, *granted = NULL;

	while ((waiter = *at)) {
		if (apply(table, &waiter->arg)) {
			at = &waiter->next;
			continue;
		}
		*at = waiter->next;
		waiter->queued = false;
		waiter->next = granted;
		granted = waiter;
	}
	return granted;
}

/* Not under the mutex, see server_defer() */
static void answer(struct lock_waiter *granted)
{
	struct lock_waiter *waiter;

	while ((waiter = granted)) {
		granted = waiter->next;
		server_reply_err(waiter->req, 0);
		/* cancel() may look at it until the request is answered */
		free(waiter);
	}
}

static bool cancel(struct server_req *req)
{
	struct lock_waiter *waiter = req->cancel_arg, **at;
	struct lock_table *table = waiter->table;
	bool queued;

	pthread_mutex_lock(&table->mutex);
	queued = waiter->queued;
	if (queued) {
		for (at = &table->waiters; *at != waiter; at = &(*at)->next)
			;
		*at = waiter->next;
	} else {
		/* Granted, or about to be queued by a thread that sees this */
		waiter->cancelled = true;
	}
	pthread_mutex_unlock(&table->mutex);
	if (queued)
		free(waiter);
	return queued;
}

static void wait_for_lock(struct lock_table *table, struct server_req *req)
{
	const struct fuse_lk_in *arg = req->op;
	struct lock_waiter *waiter, **at, *granted = NULL;
	int ret;

	waiter = calloc(1, sizeof(*waiter));
	if (!waiter) {
		server_reply_err(req, -ENOLCK);
		return;
	}
	waiter->table = table;
	waiter->req = req;
	waiter->arg = *arg;
	req->cancel_arg = waiter;
	if (!server_defer(req, cancel)) {
		free(waiter);
		server_reply_err(req, -EINTR);
		return;
	}

	pthread_mutex_lock(&table->mutex);
	ret = waiter->cancelled ? -EINTR : apply(table, arg);
	if (ret == -EAGAIN) {
		/* First come, first served */
		for (at = &table->waiters; *at; at = &(*at)->next)
			;
		*at = waiter;
		waiter->queued = true;
	} else if (!ret) {
		granted = grant(table);
	}
	pthread_mutex_unlock(&table->mutex);
	if (ret != -EAGAIN) {
		server_reply_err(req, ret);
		free(waiter);
	}
	answer(granted);
}

void locks_set(struct lock_table *table, struct server_req *req)
{
	const struct fuse_lk_in *arg = req->op;
	struct lock_waiter *granted = NULL;
	int ret;

	pthread_mutex_lock(&table->mutex);
	ret = apply(table, arg);
	if (!ret)
		granted = grant(table);
	pthread_mutex_unlock(&table->mutex);

	if (ret == -EAGAIN && req->in->opcode == FUSE_SETLKW)
		wait_for_lock(table, req);
	else
		server_reply_err(req, ret);
	answer(granted);
}

void locks_get(struct lock_table *table, struct server_req *req)
{
	const struct fuse_lk_in *arg = req->op;
	struct fuse_lk_out out = { .lk = { .type = F_UNLCK } };
	struct lock *lock;

	pthread_mutex_lock(&table->mutex);
	lock = find_conflict(table, arg);
	if (lock)
		out.lk = lock->lk;
	pthread_mutex_unlock(&table->mutex);
	server_reply_buf(req, &out, sizeof(out));
}

void locks_drop(struct lock_table *table, __u64 owner, bool flock)
{
	struct fuse_lk_in all = {
		.owner = owner,
		.lk = { .start = 0, .end = INT64_MAX, .type = F_UNLCK },
		.lk_flags = flock ? FUSE_LK_FLOCK : 0,
	};
	struct lock_waiter *granted;
	struct lock *spare = NULL;

	pthread_mutex_lock(&table->mutex);
	/* The whole range leaves no second half */
	cut(table, &all, &spare);
	granted = grant(table);
	pthread_mutex_unlock(&table->mutex);
	answer(granted);
}
