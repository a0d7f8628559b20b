/* SPDX-License-Identifier: GPL-2.0 */
/* What server.c and the transports have for each other. */
#ifndef SELFTEST_FUSE_INTERNAL_H
#define SELFTEST_FUSE_INTERNAL_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "server.h"

#define unlikely(x)	__builtin_expect(!!(x), 0)

/*
 * A thread that takes requests from a transport.  The transports embed it in
 * structures of their own.
 */
struct server_thread {
	struct server *srv;
	enum server_transport transport;
	void (*run)(struct server_thread *t);
	/* Sends the answer off: len bytes lie at req->out */
	void (*reply)(struct server_req *req, int err, size_t len);
	/* The request outlives its handler */
	void (*defer)(struct server_req *req);
	/* Gives back a deferred request that will never be answered */
	void (*forget)(struct server_req *req);
	void (*free)(struct server_thread *t);

	cpu_set_t *cpus;		/* where to run, NULL: anywhere */
	size_t cpus_size;
	pthread_t id;
	atomic_bool started, ended;
	struct server_thread *next;
	__u64 count[PROTO_NR_OPS];	/* written by this thread only */
};

struct server {
	/* Set up by server_start() */
	struct server_opts opts;
	server_op_t ops[PROTO_NR_OPS];
	int fd;				/* /dev/fuse */
	char *mountpoint;		/* absolute */
	struct server_thread *threads;
	struct ring *ring;		/* transport_ring.c, or NULL */
	__u32 payload_max;		/* largest READ or WRITE */

	/* Set by FUSE_INIT, which comes before everything else */
	struct fuse_init_in init_in;
	struct fuse_init_out init_out;
	bool setxattr_ext;

	/* Coming up and going down */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool init_done;
	int error;			/* why it did not come up */
	unsigned int nr_live;		/* threads that still run */
	int ended_fd;			/* eventfd: nr_live is 0 again */
	atomic_bool stopping;		/* threads shall leave */

	/* Requests without a handler, and interrupts that came too early */
	pthread_mutex_t defer_lock;
	struct server_req *deferred;
	__u64 early[64];
	unsigned int early_pos;
};

/* server.c */
void server_dispatch(struct server_req *req);
void server_add_thread(struct server *srv, struct server_thread *t);
int server_start_thread(struct server_thread *t);
/* A thread cannot begin: server_start() fails with this, errno-style */
void server_fail(struct server *srv, int err, const char *what);
int server_set_error(int err, const char *what);
int server_refuse(const char *what);

/* transport_dev.c */
int dev_setup(struct server *srv);
/* The thread that takes from /dev/fuse what a ring cannot carry */
int dev_start_reader(struct server *srv);

/* transport_ring.c */
int ring_setup(struct server *srv);
void ring_free(struct server *srv);
const struct fuse_uring_setup *ring_granted(struct server *srv);

#endif /* SELFTEST_FUSE_INTERNAL_H */
