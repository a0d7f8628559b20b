/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A FUSE server that does nothing by itself: the test takes each request in
 * hand, over /dev/fuse or a ring, and decides when and what it answers.
 * It runs in the test's own thread; whoever makes requests is a requester.
 *
 * Functions return 0 (or what is said) and a negative errno on failure.
 */
#ifndef FUSE_TEST_PUPPET_H
#define FUSE_TEST_PUPPET_H

#include <liburing.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <unistd.h>

#include "common.h"

/* The only directory is the root; "fN" in it is a file of node id N. */
#define PUPPET_FILE		2
#define PUPPET_FILE_SIZE	(1024ULL * 1024 * 1024)

struct puppet_options {
	enum test_transport transport;
	const char	*device;	/* NULL for /dev/fuse */
	/*
	 * As in struct fuse_uring_setup.  With user buffers, the queues are
	 * those of CPUs from 0 on, the default of @depth is 2 and that of
	 * @payload 1 MiB, and what follows is nothing.
	 */
	unsigned int	nr_queues;
	unsigned int	depth;
	unsigned int	payload;
	unsigned int	background;
	unsigned int	small;
	unsigned long	pool;
	const cpu_set_t	*cpus;
	unsigned int	control;
	/* Flags for the io_uring, such as IORING_SETUP_SQE128. */
	unsigned int	uring_flags;
	/* Of all its commands, such as IOSQE_ASYNC. */
	unsigned int	sqe_flags;
	/* Answer to FUSE_INIT; zeroes stand for what most tests want. */
	__u64	init_flags;
	bool		no_promise;	/* user buffers: no FUSE_OVER_IO_URING */
	unsigned int	max_write;
	unsigned int	max_readahead;
	unsigned int	max_background;
	/* Of all files: 0 for PUPPET_FILE_SIZE, and FOPEN_* flags. */
	__u64	file_size;
	__u32	open_flags;
	/* A block device, to be mounted as fuseblk; NULL for none. */
	const char	*blkdev;
};

struct puppet {
	struct puppet_options opt;
	int		fd;		/* /dev/fuse, or -1 */
	int		conn;		/* number under TEST_FUSECTL */
	bool		dev_ended;	/* fd is not read (any more) */

	bool		have_uring;
	struct io_uring	uring;
	/* With user buffers it says how the memory of @map is used. */
	struct fuse_uring_setup setup;
	char		**map;		/* one mapping per queue */
	/* Completions of slots that came while something else was awaited. */
	struct puppet_cqe *kept;
	unsigned int	kept_first;
	unsigned int	kept_nr;
	unsigned int	kept_size;

	char		*buf;		/* for one message over fd */
	size_t		buf_size;
	struct fuse_init_in init_in;
};

/* Other commands than those of slots: their completions are known by this. */
#define PUPPET_CALL	((__u64)1 << 63)

struct puppet_cqe {
	__u64	tag;
	int		res;
};

/* A request that the test holds. */
struct puppet_req {
	bool		ring;
	struct fuse_in_header in;
	unsigned int	qid;
	unsigned int	slot;
	__u64	commit_id;
	char		*payload;	/* ring: its payload area */
	size_t		capacity;	/* and the size of that */
	size_t		arg_len;
	union {
		struct fuse_init_in	init;
		struct fuse_read_in	read;
		struct fuse_write_in	write;
		struct fuse_open_in	open;
		struct fuse_interrupt_in interrupt;
		struct fuse_getattr_in	getattr;
		struct fuse_forget_in	forget;
		struct {
			struct fuse_batch_forget_in batch_forget;
			struct fuse_forget_one	forgets[];
		};
		struct {
			struct fuse_notify_retrieve_in retrieve;
			char	retrieved[];
		};
		char			arg[2 << 20];
	};
};

#define PUPPET_TIMEOUT	0
#define PUPPET_REQUEST	1

/* All of what follows down to answering FUSE_INIT. */
int puppet_start(struct puppet *p, const struct puppet_options *opt);

/* The steps that it consists of. */
int puppet_open(struct puppet *p, const struct puppet_options *opt);
int puppet_mount(struct puppet *p);
int puppet_setup(struct puppet *p);	/* the ioctl */
int puppet_map(struct puppet *p);	/* all queues, or the user's buffers */
int puppet_uring(struct puppet *p);	/* an io_uring */
int puppet_arm(struct puppet *p);	/* FETCH or REGISTER for all slots */
int puppet_arm_queue(struct puppet *p, unsigned int qid);
int puppet_arm_slots(struct puppet *p, unsigned int qid, unsigned int first,
		     unsigned int nr);
int puppet_init(struct puppet *p);	/* waits for FUSE_INIT, answers it */

/*
 * Some of these at once: from puppet_map() to puppet_arm(), and with FUSE_INIT
 * as well, which comes before that with user buffers and after it otherwise.
 * Over /dev/fuse there is nothing, or only that.
 */
int puppet_ring(struct puppet *p);
int puppet_begin(struct puppet *p);

/*
 * Ends it in the order that programs end in when they are killed, and waits
 * for the kernel to be done with it.
 */
void puppet_stop(struct puppet *p);

void puppet_close_dev(struct puppet *p);
void puppet_close_uring(struct puppet *p);
void puppet_unmap(struct puppet *p);

/*
 * The next request from whichever side.  PUPPET_REQUEST, PUPPET_TIMEOUT, or
 * the error that a command completed with or that read(2) returned.  On a
 * command's error req->qid and ->slot say whose it was.
 */
int puppet_next(struct puppet *p, struct puppet_req *req, unsigned int ms);

/*
 * Serves until a request of this opcode comes, which is left to the test;
 * -ETIMEDOUT after TEST_WAIT_MS.
 */
int puppet_until(struct puppet *p, struct puppet_req *req, __u32 opcode);

/*
 * The same as puppet_next(), for as long as a requester can still do something:
 * PUPPET_TIMEOUT says that all that they wait for is in the kernel, which has
 * nothing for the server.  -ETIMEDOUT when it does not come to that.  Not for
 * SQPOLL, whose thread may have something that the server does not see yet.
 */
int puppet_next_settled(struct puppet *p, struct puppet_req *req);

/*
 * Serves until puppet_next_settled() finds nothing, and says whether no request
 * of this opcode came.
 */
bool puppet_none(struct puppet *p, __u32 opcode);

/* The same for all opcodes; a command's error ends it. */
int puppet_settle(struct puppet *p);

/* Serves until the requester ends, and returns as requester_join() does. */
int puppet_serve(struct puppet *p, struct requester *r);

/* Serves until nothing came for @ms, in a server's own thread. */
int puppet_drain(struct puppet *p, unsigned int ms);

int puppet_reply(struct puppet *p, const struct puppet_req *req, int error,
		 const void *data, size_t len);

/* Answers as a filesystem of empty files would. */
int puppet_answer(struct puppet *p, const struct puppet_req *req);

/* Rings only: lays the reply into the slot without telling the kernel. */
void puppet_fill_reply(struct puppet *p, const struct puppet_req *req,
		       int error, const void *data, size_t len);

/* Rings only: the header of a slot. */
struct fuse_uring_req_header *puppet_header(struct puppet *p, unsigned int qid,
					    unsigned int slot);

/* Managed ring only: the same bytes by the names that they have there. */
struct fuse_uring_slot_header *puppet_slot_header(struct puppet *p,
						  unsigned int qid,
						  unsigned int slot);

/* Rings only: tells the kernel that the reply is in the slot. */
int puppet_commit(struct puppet *p, const struct puppet_req *req);

/*
 * User buffers only: a slot's payload area, and one command of which each field
 * is the test's choice.  Its completion is told as that of the slot is.
 */
char *puppet_payload(struct puppet *p, unsigned int qid, unsigned int slot);
int puppet_user_command(struct puppet *p, __u32 cmd_op,
			const struct fuse_uring_cmd_req *cmd,
			unsigned int slot, const void *addr, __u32 len);

/* User buffers only: REGISTER for one slot with its own memory. */
int puppet_register(struct puppet *p, unsigned int qid, unsigned int slot);

/*
 * Says that no request has come over /dev/fuse, but for FUSE_INIT with user
 * buffers.
 */
bool puppet_all_by_ring(struct puppet *p);

/* One command, with anything in it; its completion is told by puppet_cqe(). */
int puppet_command(struct puppet *p, __u32 cmd_op,
		   const struct fuse_uring_slot_cmd *cmd);
int puppet_command_fd(struct puppet *p, int fd, __u32 cmd_op,
		      const struct fuse_uring_slot_cmd *cmd,
		      unsigned int sqe_flags);

/* The result of the next completion, or -ETIMEDOUT. */
int puppet_cqe(struct puppet *p, unsigned int ms);

/* A command that ends at once: its result.  -ETIMEDOUT when it does not end. */
int puppet_command_now(struct puppet *p, __u32 cmd_op,
		       const struct fuse_uring_slot_cmd *cmd);

/* Withdraws the slots of a queue; what becomes of them puppet_next() tells. */
int puppet_detach(struct puppet *p, unsigned int qid);

/*
 * A notification: @payload is what follows struct fuse_out_header.  Over the
 * ring by a command, else by write(2).  Returns what write(2) returns, or a
 * negative errno.  Requests that come meanwhile are kept for puppet_next().
 */
int puppet_notify(struct puppet *p, int code, const void *payload, size_t len);

/* The same with a whole message, good or bad. */
int puppet_message(struct puppet *p, const void *msg, size_t len);

/*
 * The same in two steps, for those that wait for something that the test has
 * to do; over /dev/fuse a thread does the write(2).  NULL when it could not be
 * begun.  puppet_call_end() says -ETIMEDOUT when it goes on, else it is freed.
 */
struct puppet_call;

struct puppet_call *puppet_notify_start(struct puppet *p, int code,
					const void *payload, size_t len);
struct puppet_call *puppet_message_start(struct puppet *p, const void *msg,
					 size_t len);
int puppet_call_end(struct puppet *p, struct puppet_call *call,
		    unsigned int ms);

/* Whether it comes to wait in the kernel, for a page or an inode's lock. */
bool puppet_call_waits(struct puppet *p, struct puppet_call *call);

/*
 * Enters the kernel, so that task work that it has deferred is done.  What
 * completes is kept for puppet_next().
 */
int puppet_enter(struct puppet *p);

/* Ring only: a command of which each field is the test's choice. */
struct puppet_call *puppet_call_start(struct puppet *p, __u32 cmd_op,
				      const struct fuse_uring_slot_cmd *cmd,
				      const void *addr, size_t len);

/*
 * Requests, for requester_start(): @arg is a path, or a struct puppet_io.
 * They return 0 or a negative errno.
 */
struct puppet_io {
	const char	*path;
	__u64	offset;
	size_t		len;
	int		flags;		/* for open(2) */
	bool		check;		/* bytes read are those of test_byte() */
};

int request_stat(const void *path);
int request_open(const void *path);
int request_read(const void *puppet_io);
int request_write(const void *puppet_io);

/*
 * Rings only: the queue that a request was sent to.  It comes by that one, unless
 * no thread of that has come in time and one of another queue has taken it.
 */
int puppet_sent_to(struct puppet *p, const struct puppet_req *req);

/* Binds the caller to a CPU whose requests go to this queue. */
int puppet_bind(struct puppet *p, unsigned int qid);

/* A requester whose requests go to this queue while it is live. */
int puppet_requester_at(struct puppet *p, unsigned int qid,
			struct requester *r, int (*fn)(const void *arg),
			const void *arg);

/*
 * Asks for readahead, PUPPET_READAHEAD bytes a request in the background: more
 * than a page, and not more than a filesystem has by default, 128 KiB.
 */
int request_readahead(const void *puppet_io);
#define PUPPET_READAHEAD	\
	(getpagesize() < 16384 ? 32768UL : 2UL * getpagesize())

/* Requests that the test holds, in the order in which they came. */
struct puppet_held {
	unsigned int	nr;
	struct puppet_req *req[64];
};

/*
 * Takes requests of this opcode until @nr are held; others are answered.
 * -ETIMEDOUT when there are fewer.
 */
int puppet_hold(struct puppet *p, struct puppet_held *held, __u32 opcode,
		unsigned int nr);

/* Answers and forgets the first one, or all. */
int puppet_release(struct puppet *p, struct puppet_held *held);
int puppet_release_all(struct puppet *p, struct puppet_held *held);

/*
 * Drops inodes that nobody uses until a message of forgets comes, which is left
 * to the test.  The kernel may keep an inode for a second round.
 */
int puppet_drop_until(struct puppet *p, struct puppet_req *req);

/* How many single forgets a message has, 0 when it is no such message. */
unsigned int puppet_nr_forgets(const struct puppet_req *req);

/* The @i-th of them. */
struct fuse_forget_one puppet_forget(const struct puppet_req *req,
				     unsigned int i);

/* So many stat(2) calls that not all of them can be answered from a cache. */
int request_stats_for_ever(const void *path);

/*
 * A thread of the test's server.  Over a ring it has an io_uring of its own and
 * arms @slots; over /dev/fuse it reads that.  It answers requests until it is
 * told to do something else.
 */
struct puppet_thread {
	struct puppet	p;
	/* What it arms, up to the first with no slots. */
	struct {
		unsigned int	qid;
		unsigned int	first;
		unsigned int	nr;
	} slots[4];
	/*
	 * It keeps requests of @hold (0: none) in @held.  With @block it then
	 * sleeps until puppet_thread_release(), as a handler that blocks does.
	 */
	__u32		hold;
	__u32		hold_next;	/* instead, after that */
	bool		block;
	const cpu_set_t	*cpus;		/* where it runs; NULL: anywhere */

	/* Written by the thread; @nr_held may be read at any time. */
	struct puppet_held held;
	unsigned int	nr_held;
	int		result;		/* of arming, and of the last job */

	/* Private */
	pthread_t	thread;
	int		(*job)(struct puppet_thread *t);
	bool		armed;
	bool		end;
	sem_t		go;
};

/* Starts it for the connection of @p and waits until its slots are armed. */
int puppet_thread_start(struct puppet_thread *t, const struct puppet *p);

/* Waits until it holds @nr requests. */
bool puppet_thread_holds(struct puppet_thread *t, unsigned int nr);

/* It answers what it holds, holds only what @hold_next says, and goes on. */
void puppet_thread_release(struct puppet_thread *t);

/*
 * Has it do something else between two requests; puppet_thread_done() waits for
 * the job's result.  After TEST_WAIT_MS it aborts the connection and returns
 * -ETIMEDOUT: a thread that cannot be killed would keep a failed test from
 * ending.
 */
void puppet_thread_run(struct puppet_thread *t,
		       int (*job)(struct puppet_thread *t));
int puppet_thread_done(struct puppet_thread *t);

/*
 * The thread ends; a job that hangs has to be ended before, by conn_abort().
 * Its io_uring stays open until puppet_thread_free().
 */
void puppet_thread_end(struct puppet_thread *t);
void puppet_thread_free(struct puppet_thread *t);

/*
 * A process of the test's server, with all of the test's descriptors.  @fn
 * returns its exit status; puppet_process_say() tells the test how far it has
 * come, one character at a time, and puppet_process_says() waits for that.
 */
struct puppet_process {
	struct requester process;
	int		ready;
};

int puppet_process_start(struct puppet_process *s, struct puppet *p,
			 int (*fn)(struct puppet *p, const void *arg),
			 const void *arg);
void puppet_process_say(char what);
bool puppet_process_says(struct puppet_process *s, char what);

/* The program has been replaced: nobody can say anything any more. */
bool puppet_process_is_silent(struct puppet_process *s);

/* Kills it if it runs; returns what requester_join() does. */
int puppet_process_kill(struct puppet_process *s);

#endif
