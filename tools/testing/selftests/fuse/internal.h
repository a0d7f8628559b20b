/* SPDX-License-Identifier: GPL-2.0 */
/* What server.c and the transports have for each other. */
#ifndef SELFTEST_FUSE_INTERNAL_H
#define SELFTEST_FUSE_INTERNAL_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

#include "server.h"

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
	struct server_thread *threads;	/* under lock once they run */
	struct ring *ring;		/* transport_ring.c, or NULL */
	struct side_ring *side;		/* side_ring.c, with a ring only */
	__u32 payload_max;		/* largest READ or WRITE */
	bool has_readers;		/* of /dev/fuse, for everything */

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
	atomic_bool over;		/* the connection has ended */

	/* Rings: threads that have not armed their slots yet */
	unsigned int nr_starting;
	int refused;			/* why not all slots could be */

	/* Requests without a handler, and interrupts that came too early */
	pthread_mutex_t defer_lock;
	struct server_req *deferred;
	__u64 early[64];
	unsigned int early_pos;
};

/*
 * What a server leaves to the next one, in memory that both share with their
 * holder, process.c.  One at a time writes: the one before is dead.
 */
struct server_keep {
	/* Written by the holder */
	pid_t pid;			/* of the server, 0: there is none */
	unsigned int starts;		/* servers so far */
	/* Written by the server */
	unsigned int served;		/* of these, how many got to serve */
	bool reported;			/* server_fork() has its answer */
	__u32 payload_size;		/* that the ring's setup granted */
	bool inited;			/* FUSE_INIT has been answered, with: */
	struct fuse_init_in init_in;
	struct fuse_init_out init_out;
};

#define SERVER_ERROR_LEN	256

/* server.c */
/* server_start(), on a descriptor that is mounted already unless it is -1 */
struct server *server_begin(const struct server_opts *opts, int dev_fd);
/*
 * server_wait() that a signal of the (blocked) set ends, too: false then, true
 * when the filesystem has been unmounted
 */
bool server_wait_signal(struct server *srv, const sigset_t *set);
void server_dispatch(struct server_req *req);
void server_add_thread(struct server *srv, struct server_thread *t);
int server_start_thread(struct server_thread *t);
/* A thread cannot begin: server_start() fails with this, errno-style */
void server_fail(struct server *srv, int err, const char *what);
int server_set_error(int err, const char *what);
int server_refuse(const char *what);
bool server_fall_back(struct server *srv, int err);
/* From a thread that has armed its slots, or could not */
void server_thread_ready(struct server *srv);
/* A notification as the kernel wants it; NULL when there is no memory */
struct fuse_out_header *server_notify_msg(int code, const void *payload,
					  size_t len);

/* transport_dev.c */
int dev_setup(struct server *srv);
/* The thread that takes from /dev/fuse what a ring cannot carry */
int dev_add_reader(struct server *srv);
int dev_start_reader(struct server *srv);
/* The threads that take everything from there while no ring does */
int dev_start_readers(struct server *srv);

/* uring_thread.c */
/* Somebody has found that the connection has ended */
void uring_over(struct server *srv);

/* transport_user.c */
int user_setup(struct server *srv);
/* FUSE_INIT has been answered: registers the slots, or falls back */
int user_start(struct server *srv);

/* uring_thread.c */
/* Whether this process can have an io_uring: 0 or a negative errno */
int uring_probe(void);

/* transport_ring.c */
int ring_setup(struct server *srv);
void ring_free(struct server *srv);
const struct fuse_uring_setup *ring_granted(struct server *srv);
/* FORGET and INTERRUPT come over /dev/fuse still */
bool ring_needs_reader(struct server *srv);
bool ring_notifies(struct server *srv);
/* Returns what write(2) of the message would */
int ring_notify(struct server *srv, const struct fuse_out_header *msg);
/* Takes msg, from malloc() */
int ring_notify_start(struct server_req *req, struct fuse_out_header *msg,
		      __u64 tag);

/* side_ring.c */
struct side_ring *side_ring_new(int fd);
void side_ring_free(struct side_ring *side);
/* From any thread: submits a command and returns the completion's result */
int side_ring_cmd(struct side_ring *side, __u32 cmd_op,
		  const struct fuse_uring_slot_cmd *cmd, const void *addr,
		  __u32 len);

#endif /* SELFTEST_FUSE_INTERNAL_H */
