/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A minimal FUSE server as a library.  It takes SIGRTMIN for itself.
 *
 * A server is a mount, a transport that carries its requests (transport_dev.c,
 * transport_ring.c, transport_user.c) and a filesystem that answers them (fs_*.c).  server.c
 * ties the three together.  Neither side knows the other: a filesystem sees
 * nothing but struct server_req and so cannot tell the transports apart.
 *
 * Life of a request:
 *
 *	transport	fills a struct server_req and dispatches it
 *	hook		of a test, may answer the request or change it
 *	filesystem	handler of the opcode: looks at the arguments, puts the
 *			answer to req->out and calls one server_reply*()
 *
 * Exactly one server_reply*() per request, either before the handler returns
 * or, after server_defer(), at any later time from any thread.
 */
#ifndef SELFTEST_FUSE_SERVER_H
#define SELFTEST_FUSE_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "proto.h"

struct server;
struct server_fs;
struct server_keep;
struct server_req;
struct server_thread;

enum server_transport {
	SERVER_DEV,		/* read(2) and write(2) on /dev/fuse */
	SERVER_RING,		/* managed ring */
	SERVER_USER,		/* ring with user buffers, as in mainline */
	SERVER_TRANSPORTS
};

/*
 * A request as filesystems and hooks see it.  Everything that is not marked
 * as private may be used directly.
 *
 * On either ring, @data and @out are the same memory, which the kernel shares or
 * copies from and to: that is what makes it possible to read(2) into the reply
 * or to write(2) out of the request without a copy.  So a handler must be done
 * with @data (file names, most of the time) before it puts the first byte to
 * @out.  @in and @op stay as they are until the reply.
 */
struct server_req {
	const struct fuse_in_header *in;
	const void *op;		/* opcode's own header, see proto_op_size() */
	const void *data;	/* all arguments after that */
	void *out;		/* where the reply's arguments go */
	__u32 data_len;	/* bytes at data */
	__u32 out_max;	/* room at out */

	struct server *srv;
	void *priv;		/* server_fs.priv of the filesystem */

	/* Rings only, for tests that misbehave; hdr is NULL over /dev/fuse */
	struct fuse_uring_req_header *hdr;
	__u64 commit_id;
	__u16 qid;
	__u16 slot;

	/* Private to server.c and the transports */
	bool deferred;
	bool idle;			/* ring: detached slot */
	__u64 refused;			/* commit_id of a bad reply */
	struct server_thread *thread;
	bool (*cancel)(struct server_req *req);
	struct server_req *next, **pprev;	/* deferred requests */
	struct server_req *reply_next;		/* answered by other threads */
	void *cancel_arg;			/* free for the owner of cancel */
};

/* Handlers by opcode: an opcode without one is answered with PROTO_NO_SUCH_OP */
typedef void (*server_op_t)(struct server_req *req);

/*
 * A filesystem.  FUSE_INIT and FUSE_INTERRUPT are the server's own business;
 * handlers of FORGET and BATCH_FORGET are called like any other and use
 * server_reply_none().  Handlers run concurrently in several threads.
 */
struct server_fs {
	const char *name;
	const server_op_t *ops;		/* array of PROTO_NR_OPS */
	void *priv;
	/*
	 * All state that nodeid and fh refer to is shared with servers that are
	 * forked after this one, see server_keep_new()
	 */
	bool survives;
	/* optional: a server is about to use it; 0 or a negative errno */
	int (*begin)(struct server_fs *fs);
	/* optional: the connection's features are known, nothing was asked */
	void (*init)(struct server_fs *fs, struct fuse_init_out *out);
	/* for fs_free() */
	void (*free)(struct server_fs *fs);
};

/* In-memory tree: every opcode, see fs_mem.c for ioctl and poll */
struct server_fs *fs_mem_new(void);
/*
 * The tree below a directory; NULL and errno when it cannot be opened.  With
 * survive, its files can be taken over by another server, see fs_passthrough.c
 * for what that needs and what gets lost.
 */
struct server_fs *fs_passthrough_new(const char *dir, bool survive);
/* One file "null" of that size; whatever is written or created is forgotten */
struct server_fs *fs_null_new(__u64 size);
void fs_free(struct server_fs *fs);

/*
 * What to serve and how.  All zeroes is a working default for everything but
 * mountpoint and fs.
 */
struct server_opts {
	const char *mountpoint;
	struct server_fs *fs;
	enum server_transport transport;

	/*
	 * Asked before the filesystem for every request, FUSE_INIT,
	 * FUSE_INTERRUPT and FORGET included.  Returns true when it answered or
	 * deferred the request, false when the request shall go on.  The answer
	 * to FUSE_INTERRUPT may be -EAGAIN, to be told again, or PROTO_NO_SUCH_OP
	 * for no more interrupts at all.
	 */
	bool (*hook)(struct server_req *req, void *arg);
	void *hook_arg;

	/*
	 * Ring.  0: what the kernel prefers.
	 *
	 * With user buffers, the queues are those of the first nr_queues CPUs,
	 * which only a kernel that has the managed ring uses before there is one
	 * for each possible CPU.  Payload areas are as large as they must be,
	 * which payload_size limits from 4096 bytes on.  nr_background,
	 * small_size, pool_size and control slots are the managed ring's only.
	 */
	unsigned int nr_queues;
	unsigned int queue_depth;
	unsigned int nr_background;
	unsigned int payload_size;
	unsigned int small_size;
	unsigned long pool_size;
	/* Queues for those CPUs only that the server may run on */
	bool own_cpus;
	unsigned int threads_per_queue;	/* 0: 1; they share the slots */
	/*
	 * Control slots of each queue, 0: 2.  FORGET, BATCH_FORGET and INTERRUPT
	 * come by these, to the queue's first thread; so one thread is not
	 * enough for handlers that block and want to know of interrupts.  With
	 * no_control, or when the kernel has none, a thread of its own reads
	 * these from /dev/fuse.
	 */
	unsigned int nr_control;
	bool no_control;
	/*
	 * Called with the result of a command of server_raw_cmd() or
	 * server_notify_start()
	 */
	void (*raw_done)(__u64 tag, int res, void *hook_arg);

	/*
	 * /dev/fuse: number of threads, 0 for one per CPU; all but the first
	 * have a clone (FUSE_DEV_IOC_CLONE) of the descriptor unless no_clone
	 * or keep is set.  They run where the scheduler wants them: any of them may
	 * get any request.
	 */
	unsigned int nr_threads;
	bool no_clone;

	bool no_bind;			/* ring: don't bind threads to CPUs */
	/*
	 * When there is no such ring here, or not for this process, say so on
	 * stderr and go on over /dev/fuse.  Otherwise server_start() fails.
	 */
	bool fall_back;

	/* mount(2): more options, separated by commas, and MS_* flags */
	const char *mount_opts;
	unsigned long mount_flags;

	/*
	 * FUSE_INIT: FUSE_* features wanted besides (init_set) or instead of
	 * (init_clear) SERVER_INIT_DEFAULT, each used only if the kernel has
	 * it, and limits, 0 for the default (1 MiB, no limit, kernel's).
	 */
	__u64 init_set;
	__u64 init_clear;
	__u32 max_write;
	__u32 max_readahead;
	__u16 max_background;
	__u16 congestion_threshold;
	__u32 time_gran;		/* in ns, 0: 1 */

	/* How long the kernel may believe names and attributes */
	__u32 entry_valid_ms;
	__u32 attr_valid_ms;

	/* server_fork(): outlive the caller, in a session of its own */
	bool detach;
	/* server_fork() and server_hold(): start again when the server dies */
	struct server_keep *keep;
	/* Called by server_stop() when no thread is left */
	void (*at_exit)(struct server *srv);

	bool debug;			/* print every request to stderr */
};

#define SERVER_INIT_DEFAULT						\
	(FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_ATOMIC_O_TRUNC |	\
	 FUSE_EXPORT_SUPPORT | FUSE_BIG_WRITES | FUSE_FLOCK_LOCKS |	\
	 FUSE_HAS_IOCTL_DIR | FUSE_AUTO_INVAL_DATA |			\
	 FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO |			\
	 FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | FUSE_ABORT_ERROR |	\
	 FUSE_MAX_PAGES | FUSE_SETXATTR_EXT | FUSE_INIT_EXT |		\
	 FUSE_HAS_EXPIRE_ONLY | FUSE_HAS_RESEND)

/*
 * Mounts and serves in threads of the calling process.  Returns when
 * FUSE_INIT has been answered.  NULL on failure: errno is set and
 * server_error() says in a sentence what failed.  Copies *opts, but not what
 * it points to.
 */
struct server *server_start(const struct server_opts *opts);

/*
 * The same in a child process, which the caller may kill.  Nothing of
 * /dev/fuse stays open in the caller.  Returns the server's pid and the
 * caller waits for it; -1 on failure as above.  The child leaves with status
 * 0 when the filesystem has been unmounted; on SIGTERM or SIGINT it unmounts
 * first.  It is killed when the caller ends, unless opts->detach.
 */
pid_t server_fork(const struct server_opts *opts);

/*
 * Servers that are started again
 *
 * With opts->keep, server_fork() makes a holder: a process that opens and mounts
 * /dev/fuse, forks the server, and does nothing but wait for it.  When the
 * server is killed by a signal, the holder, whose descriptor has kept the
 * connection meanwhile, forks another one.  That makes a new ring on the same
 * connection and asks the kernel to send again what the dead one had not
 * answered.  Such requests have FUSE_UNIQUE_RESEND in their unique id, and may
 * have been executed.  FUSE_INIT does not come again.
 *
 * The filesystem object is made before the holder, so each server finds it as
 * if it were the first; what has to survive must be in shared memory.
 *
 * Requesters notice nothing but the time it takes.  Over /dev/fuse there is a
 * small chance left: what the kernel is copying for a thread while that is
 * killed can end with -EIO.
 *
 * server_fork() returns the pid of the holder.  It ends as the server does when
 * that ends by itself, unmounted or by SIGTERM; SIGTERM to the holder does the
 * same.  Killing the holder kills the server, too.  The holder gives up, and so
 * ends the connection, at the fifth time within ten seconds that a server dies
 * before it has got to serve or by another signal than SIGKILL.
 */
struct server_keep *server_keep_new(void);	/* one per mount; NULL and errno */
void server_keep_free(struct server_keep *keep);
/*
 * The process that serves or is about to, 0 while there is none.  Nobody takes
 * the number away when the holder is killed.
 */
pid_t server_keep_pid(const struct server_keep *keep);
/* How many servers have got to serve: goes up when the next has taken over */
unsigned int server_keep_served(const struct server_keep *keep);

/*
 * The caller becomes the holder, until the filesystem is unmounted.  It should
 * have no threads.  Returns the server's exit status, or -1 with errno when the
 * first server could not start.
 */
int server_hold(const struct server_opts *opts);

/*
 * Unmounts, waits for the threads and frees the server (not its filesystem).
 * A busy filesystem is detached and the connection closed, which lasts until
 * children that have inherited the descriptor close it too.  Returns 0, or
 * -EBUSY in that case.
 */
int server_stop(struct server *srv);

/* Waits until somebody else has unmounted, then server_stop() is quick */
void server_wait(struct server *srv);

/*
 * The whole life of a server in a process that does nothing else: until the
 * filesystem is unmounted, or SIGTERM or SIGINT come, which are blocked from
 * then on.  Returns 0, 1 when server_stop() found it busy, or -1 with errno when
 * it could not start.
 */
int server_run(const struct server_opts *opts);

/* Why the last of the calls that start, fork or mount failed */
const char *server_error(void);

/* Descriptor of /dev/fuse, the one that is mounted */
int server_dev_fd(struct server *srv);
/*
 * As given to server_start(), but for transport, which is SERVER_DEV after
 * fall_back
 */
const struct server_opts *server_options(struct server *srv);
/* What FUSE_INIT negotiated */
const struct fuse_init_out *server_init_out(struct server *srv);
const struct fuse_init_in *server_init_in(struct server *srv);
/* What the setup of the managed ring granted; NULL without one */
const struct fuse_uring_setup *server_ring_setup(struct server *srv);
/* "dev", "ring" or "user" */
const char *server_transport_name(enum server_transport transport);
/* How a request came: some come over /dev/fuse to servers with a ring, too */
enum server_transport server_req_by(const struct server_req *req);
/* Number of requests of an opcode that came by a transport so far */
__u64 server_count(struct server *srv, enum server_transport by,
		   __u32 opcode);

/*
 * Sends a notification: code is FUSE_NOTIFY_*, payload what follows
 * struct fuse_out_header.  Returns 0 or a negative errno, when the kernel is
 * done with it.
 *
 * From any thread but those that serve: to forget about pages or names, the
 * kernel waits for requests that are under way there, maybe the one that the
 * handler is about to answer.  FUSE_NOTIFY_POLL waits for nothing and can be
 * sent from a handler.
 */
int server_notify(struct server *srv, int code, const void *payload,
		  size_t len);

/*
 * From a hook or a handler: sends a notification together with the answers of
 * the thread, waiting for nothing.  raw_done of the options is called in the
 * same thread with tag and what write(2) of the message would have returned, or
 * a negative errno.  Returns 0 when that is to come.
 *
 * Without a ring (or a kernel that takes notifications by it) write(2) is what
 * is done, and raw_done called before this returns, so there a handler must not
 * say what could wait for its own request.
 */
int server_notify_start(struct server_req *req, int code, const void *payload,
			size_t len, __u64 tag);

/*
 * Ring: takes the connection back to /dev/fuse, and to the ring again.  Returns
 * 0 or a negative errno; for one thread at a time.
 *
 * server_detach() starts threads as they are with SERVER_DEV, which stay until
 * the end, and withdraws all slots: from then on requests come by /dev/fuse,
 * except for those that a handler has in its hands, which are answered where
 * they are.  server_attach() tells the threads to arm their slots again; until
 * the first one has done that requests come by /dev/fuse still.
 */
int server_detach(struct server *srv);
int server_attach(struct server *srv);

/* Replies.  err is 0 or a negative errno. */
void server_reply_err(struct server_req *req, int err);
void server_reply(struct server_req *req, size_t len);	/* from req->out */
void server_reply_buf(struct server_req *req, const void *buf, size_t len);
void server_reply_none(struct server_req *req);	/* opcodes without reply */

/*
 * Takes a request out of the handler's hands: it will be answered later,
 * possibly by another thread.  When FUSE_INTERRUPT names it, cancel (unless
 * NULL) is called from another thread; it returns true if it made sure that
 * nobody else will answer the request, which the caller then answers with
 * -EINTR.  cancel may take the filesystem's locks, so no server_reply*() of a
 * deferred request under these.
 *
 * Returns false, and defers nothing, when the request has been interrupted
 * already: answer with -EINTR.  (With cancel == NULL it is always true.)
 */
bool server_defer(struct server_req *req,
		  bool (*cancel)(struct server_req *req));

/*
 * Ring, from a hook or a handler only: queues a command on the ring of the
 * thread that handles the request.  raw_done of the options is called with tag
 * and the completion's result.  A command that the kernel accepts arms a slot
 * whose requests are then taken for the handler's, as they must be.
 */
int server_raw_cmd(struct server_req *req, __u32 cmd_op,
		   const struct fuse_uring_slot_cmd *cmd, __u64 tag);

/*
 * Building blocks, for tests that drive a transport by hand.  server_mount()
 * opens /dev/fuse and mounts it without answering anything; negative errno on
 * failure.  server_fill_init() makes the answer to FUSE_INIT.
 */
int server_mount(const char *mountpoint, const char *opts,
		 unsigned long flags);
void server_fill_init(const struct server_opts *opts,
		      const struct fuse_init_in *in,
		      struct fuse_init_out *out, __u32 payload_max);

#endif /* SELFTEST_FUSE_SERVER_H */
