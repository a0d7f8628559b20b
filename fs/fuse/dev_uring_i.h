/* SPDX-License-Identifier: GPL-2.0 */
/*
 * FUSE over io_uring: what the files of the ring share.
 *
 * The files from the bottom up: mem, pool, map and copy; slot; send and msg;
 * queue; serve and notify; user, cmd and stats; dev_uring.c.
 *
 * Terms
 * -----
 *
 *  queue     an independent channel: lock, waiting requests, memory, slots
 *  slot      room for one request, and at most one parked command
 *  control slot  a slot for FORGET, BATCH_FORGET and INTERRUPT only
 *  thread    a task and an io_uring that serve slots of a queue
 *  pending   the request waits on a list, and SIGKILL ends it
 *  call      run task work for a parked command, so that its thread takes
 *	      what is pending
 *  take      move a pending request to a slot
 *  held      the request is in flight: the server has it
 *  orphan    held, and the thread that took it has ended
 *  live      the queue has slots that a living thread can commit
 *
 * A request is bound late.  The sender puts it on a list of its CPU's queue and
 * calls a thread.  The thread chooses what it takes when it runs: in task work
 * of the command, or in COMMIT.
 *
 * Lock order
 * ----------
 *
 *	fi->lock
 *	  fc->bg_lock
 *	    fiq->lock
 *	      queue->lock	(one at a time)
 *	        notifier->lock, workqueue and timer locks
 *
 * io_uring's ctx->uring_lock, a mutex, is outside of all of these.  Nothing
 * takes fc->lock inside of fiq->lock.  fuse_request_end() is called with none
 * of them held.  Payloads are copied with none of them held.
 */
#ifndef _FS_FUSE_DEV_URING_I_H
#define _FS_FUSE_DEV_URING_I_H

#include "fuse_dev_i.h"
#include "dev_uring.h"

#include <linux/io_uring/cmd.h>
#include <linux/io_uring_types.h>
#include <linux/kref.h>
#include <linux/rbtree.h>
#include <linux/timer.h>
#include <linux/workqueue.h>

/*
 * States of a slot
 *
 *  state   who may touch its memory     ->cmd               ->req
 *  IDLE    nobody                       none                none
 *  PARKED  nobody                       parked              none
 *  CALLED  nobody                       task work under way none
 *  COPY    the thread, in the kernel    the caller's        being copied in (1)
 *  HELD    the server                   none                held (2)
 *  COMMIT  the thread, in the kernel    the caller's        being ended (1)
 *  ORPHAN  the server                   none                held (2)
 *
 * (1) The thread owns the request.  Abort, RESEND and the end of the thread do
 *     not touch it.
 * (2) NULL when the request expects no reply, and in control slots.
 *
 *  IDLE   -> COPY    FETCH, REGISTER
 *  PARKED -> CALLED  called
 *  PARKED -> IDLE    the command is dropped: the thread has ended, the queue
 *		      was detached, or the connection has ended
 *  CALLED -> COPY    the task work runs
 *  CALLED -> IDLE    as PARKED -> IDLE
 *  COPY   -> HELD    the command is completed: the request is in flight
 *  COPY   -> PARKED  nothing to take
 *  COPY   -> IDLE    the connection or the thread has ended, or the queue was
 *		      detached
 *  HELD   -> COMMIT  COMMIT
 *  HELD   -> PARKED  COMMIT: a small reply was taken, nothing is pending
 *  HELD   -> ORPHAN  the thread has ended
 *  HELD   -> IDLE    the connection has ended, or another process has sent
 *		      RESEND
 *  ORPHAN -> COMMIT  COMMIT by another thread
 *  ORPHAN -> IDLE    as HELD -> IDLE, or the ring is replaced
 *  COMMIT -> PARKED  the reply was taken, nothing is pending
 *  COMMIT -> COPY    the reply was taken, look for the next request
 *  COMMIT -> IDLE    the reply was malformed
 *  COMMIT -> HELD    user buffers: the reply has to be faulted in
 *
 * fuse_uring_slot_move(), in dev_uring_slot.h, makes all transitions, under
 * queue->lock.
 */
enum fuse_uring_slot_state {
	FUSE_URING_SLOT_IDLE,
	FUSE_URING_SLOT_PARKED,
	FUSE_URING_SLOT_CALLED,
	FUSE_URING_SLOT_COPY,
	FUSE_URING_SLOT_HELD,
	FUSE_URING_SLOT_COMMIT,
	FUSE_URING_SLOT_ORPHAN,
};

struct fuse_uring_queue;
struct fuse_uring_thread;

/* Slots of a queue that are of one sort */
enum fuse_uring_set_index {
	FUSE_URING_ORDINARY,
	FUSE_URING_CONTROL,
	FUSE_URING_NR_SETS,
};

/* What a control slot carries */
enum fuse_uring_message_kind {
	FUSE_URING_MSG_NONE,
	FUSE_URING_MSG_FORGET,
	FUSE_URING_MSG_INTERRUPT,
};

/*
 * The lists on which requests wait for a slot.  They take turns, so that no
 * kind starves another.  Large requests need memory from the pool.
 */
enum fuse_uring_kind {
	FUSE_URING_SYNC,
	FUSE_URING_SYNC_LARGE,
	FUSE_URING_OPEN_ENDED,	/* see fuse_uring_is_open_ended() */
	FUSE_URING_BACKGROUND,
	FUSE_URING_BACKGROUND_LARGE,
	FUSE_URING_WRITEBACK,	/* of either size */
	FUSE_URING_NR_KINDS,
};

/* Where a slot's payload is: in its own area, or in a part of the pool */
enum fuse_uring_buf_type {
	FUSE_URING_BUF_OWN,
	FUSE_URING_BUF_SHARED,
	FUSE_URING_BUF_SYNC,
	FUSE_URING_BUF_WRITEBACK,
};

struct fuse_uring_slot {
	/* Immutable */
	struct fuse_uring_queue *queue;

	/*
	 * Managed: in the queue's memory; the payload area may change with each
	 * request.  User buffers: in the server's memory, set by REGISTER.
	 */
	union {
		struct fuse_uring_slot_header *hdr;
		struct fuse_uring_req_header __user *user_hdr;
	};
	union {
		void *payload;
		void __user *user_payload;
	};
	u32 payload_offset;	/* bytes into the queue's memory */

	/* Immutable */
	u16 index;
	bool is_control;
	bool is_user;

	/* Under queue->lock */
	u8 state;
	u8 message;		/* enum fuse_uring_message_kind */
	u8 kind;		/* counted in queue->taken, NR_KINDS: nowhere */
	bool registered;	/* keeps its queue live */
	bool detached;		/* disarm it when it is committed */
	bool commit_only;	/* detached by FUSE_URING_COMMIT_ONLY */
	u8 buf_type;		/* enum fuse_uring_buf_type */
	u16 nr_chunks;		/* BUF_SHARED only */
	struct task_struct *owner;	/* ORPHAN with pool memory: who had it */
	u32 payload_room;	/* bytes */
	struct fuse_uring_thread *thread;	/* NULL in IDLE and ORPHAN */
	struct io_uring_cmd *cmd;
	struct fuse_req *req;
	u64 commit_id;
	struct list_head parked;
	struct list_head of_thread;
	struct list_head of_queue;
	struct hlist_node by_commit_id;

	unsigned long since;	/* CALLED, HELD: since when, in jiffies */
	/* HELD without a req: what was sent */
	u32 opcode;
	u64 unique;
} ____cacheline_aligned_in_smp;

/*
 * A task and an io_uring that serve a queue.  The first slot that it arms
 * creates it, the last one frees it.  It ends when its io_uring is closed, or
 * its task exits or runs another program.  io_uring cancels parked commands
 * then; fuse_uring_tick() finds out about a thread whose slots are all busy.
 */
struct fuse_uring_thread {
	/* Immutable.  Pins @task and, by ->refs, @ctx. */
	struct fuse_uring_queue *queue;
	struct task_struct *task;
	struct io_ring_ctx *ctx;
	u64 exec_id;		/* the program that @task runs */

	/* Under queue->lock */
	struct rb_node node;	/* in queue->threads until it has ended */
	unsigned int refs;	/* its slots, and dropped commands */
	unsigned int nr_called;	/* CALLED slots */
	/* and busy ones, see fuse_uring_slot_is_occupied(); 0: it is idle */
	unsigned int nr_occupied;
	bool ended;
	struct list_head slots;
	struct list_head parked[FUSE_URING_NR_SETS];
	/* On set->threads while the thread has PARKED slots in that set */
	struct list_head entry[FUSE_URING_NR_SETS];
};

/* Memory of one queue */
struct fuse_uring_mem {
	struct kref ref;	/* the ring, and the file of each mapping */
	int node;		/* NUMA node asked for */
	unsigned int nr_pages;
	unsigned int nr_foreign;	/* pages on another node */
	struct page **pages;	/* each with a reference */
	void *addr;		/* kernel mapping of all pages */
	struct user_struct *user;	/* charged to its locked_vm */
};

/* Input of fuse_uring_spread(), and @home, its output */
struct fuse_uring_cpu {
	int cpu;
	int node;
	int core;		/* lowest CPU of its core */
	bool own;		/* the server wants queues for it */
	bool online;
	u16 home;		/* its queue */
};

/* Counters of a queue, under queue->lock */
struct fuse_uring_queue_stats {
	u64 synchronous;
	u64 background;
	u64 noreply;
	u64 waits;		/* found no parked slot, or no credit left */
	u64 spills;		/* came from the CPUs of another queue */
	u64 pool_waits;		/* found no memory in the pool */
};

/* Slots of one sort, under queue->lock */
struct fuse_uring_set {
	unsigned int nr_registered;
	unsigned int nr_parked;
	unsigned int nr_called;
	struct list_head threads;	/* with PARKED slots, idle ones first */
};

/* Memory for large payloads, under queue->lock.  See fuse_uring_pool_take(). */
struct fuse_uring_pool {
	unsigned long *chunks;	/* bitmap of chunks in use */
	unsigned int nr_free;	/* chunks */
	unsigned int nr_shared;	/* slots that have chunks */
	unsigned int nr_owned;	/* slots that have an ->owner */
	u8 turn;		/* kind with a reservation, or NR_KINDS */
	bool sync_used;		/* buffer reserved for synchronous requests */
	bool writeback_used;	/* buffer reserved for writeback */
};

struct fuse_uring_queue {
	/* Immutable */
	struct fuse_uring *uring;
	struct fuse_uring_mem *mem;
	struct fuse_uring_slot *slots;	/* ordinary, then control slots */
	struct list_head all_slots;
	/* User buffers: slots by commit_id, and how many there are */
	struct hlist_head *commits;
	unsigned int nr_slots;
	u16 qid;
	int node;
	unsigned int nr_cpus;
	/* Position in uring->by_node: that of its node, and within it */
	unsigned int first_of_node;
	unsigned int nr_of_node;
	unsigned int nth_of_node;

	/* Under fiq->lock: @live when the map was made */
	bool mapped_live;

	struct timer_list timer;	/* see fuse_uring_tick() */

	spinlock_t lock ____cacheline_aligned_in_smp;

	/* Under queue->lock */
	bool live;		/* has registered slots, and takes requests */
	bool stopped;		/* connection ended, or ring replaced */
	bool changed;		/* fuse_uring_update() has to run */
	bool ticking;		/* @timer is armed */
	u8 next_kind;		/* first kind to look at */
	u8 waiting;		/* bitmap of kinds with pending requests */
	bool forgetting;	/* a control slot carries forgets */
	bool may_lend;		/* its only slot may take open-ended requests */

	/* Threads that have not ended */
	unsigned int nr_threads;
	unsigned int nr_idle;
	/* Slots in COMMIT: their threads look for pending requests next */
	unsigned int nr_committing;
	struct rb_root threads;
	struct fuse_uring_set set[FUSE_URING_NR_SETS];

	/* Requests with FR_PENDING, which are on no other list */
	struct list_head pending[FUSE_URING_NR_KINDS];
	unsigned int nr_pending;
	/* Slots with requests, but synchronous ones */
	unsigned int taken[FUSE_URING_NR_KINDS];

	struct fuse_uring_pool pool;

	u64 next_seq;		/* of the next unique id or commit_id */

	/* @next_seq and interval at the last tick, in jiffies */
	u64 tick_seq;
	unsigned int tick_interval;

	struct fuse_uring_queue_stats stats;
};

/* Messages for control slots, under fiq->lock except for @nr_called */
struct fuse_uring_messages {
	bool active;		/* there are registered control slots */
	atomic_t nr_called;	/* CALLED control slots */
	unsigned long since;	/* when the first one began to wait, jiffies */
	struct list_head interrupts;	/* requests, by their intr_entry */
	struct fuse_forget_link forgets;
	struct fuse_forget_link *forgets_tail;
	unsigned int nr_forgets;
	/* Messages sent */
	u64 stat_forgets;
	u64 stat_interrupts;
};

/*
 * The ring of a connection.  With user buffers there are no control slots and
 * no pool, slots come with REGISTER, and @small_size is no limit.
 */
struct fuse_uring {
	/* Read for every request, hardly ever written */
	struct fuse_conn *fc;		/* with a reference */
	unsigned int nr_queues;
	/* Slots per queue */
	unsigned int queue_depth;	/* ordinary ones */
	unsigned int nr_control;
	unsigned int max_background;	/* while synchronous requests wait */
	bool user;
	/* Sizes in bytes; @payload_size and @chunk_size are whole pages */
	unsigned int small_size;	/* own area of an ordinary slot */
	unsigned int payload_size;	/* what the server asked for */
	unsigned int payload_area;	/* and FUSE_URING_PAYLOAD_SLACK */
	unsigned int chunk_size;	/* granularity of a queue's pool */
	unsigned int buffer_size;	/* @payload_area in whole chunks */
	unsigned int nr_chunks;		/* shared part of a pool, 0: no pool */
	unsigned int max_shared;	/* slots with chunks at a time */
	/* Layout of a queue's memory */
	u64 payload_offset;		/* areas of ordinary slots */
	u64 control_offset;		/* areas of control slots */
	u64 pool_offset;		/* sync and writeback buffer, chunks */
	/* By CPU: its own queue, and the live queue that takes its requests */
	u16 *cpu_home;
	u16 *cpu_map;			/* written under fiq->lock */
	int *queue_node;		/* by queue: node of its own CPUs */
	u16 *by_node;			/* queues sorted by node */
	u16 *scratch;			/* fuse_uring_map_update(), fiq->lock */
	struct fuse_uring_notifier *notifier;	/* outlives a restart */
	bool overdue;			/* idle threads queue @balancer */
	bool active;			/* a queue is live; under fiq->lock */

	/* Written for messages and commands of other kinds */
	/* @ref: the connection, threads, ioctls that sleep */
	refcount_t ref ____cacheline_aligned_in_smp;
	struct fuse_uring_messages messages;
	/* Requests that servers of replaced rings held; under fiq->lock */
	struct list_head unclaimed;
	struct work_struct balancer;	/* finds threads for overdue requests */
	struct rcu_work end_work;	/* frees all but the statistics */
	struct fuse_uring_setup granted;	/* for FUSE_DEV_IOC_URING_INFO */

	struct fuse_uring_queue *queues[] ____cacheline_aligned_in_smp
		__counted_by(nr_queues);
};

/* Limits of FUSE_DEV_IOC_URING_SETUP, of REGISTER, and of NOTIFY */
#define FUSE_URING_MAX_QUEUE_DEPTH	4096
#define FUSE_URING_MAX_CONTROL		64
#define FUSE_URING_MAX_NOTIFY		512
#define FUSE_URING_MIN_PAYLOAD		(68U * 1024)
#define FUSE_URING_POOL_CHUNK		(16U * 1024)
#define FUSE_URING_MAX_POOL		(64ULL * 1024 * 1024)

/* Room for names, extensions and structures beside the file data */
#define FUSE_URING_PAYLOAD_SLACK	PAGE_SIZE

static inline unsigned int fuse_uring_nr_slots(const struct fuse_uring *uring)
{
	return uring->queue_depth + uring->nr_control;
}

#define fuse_uring_for_each_slot(slot, queue) \
	list_for_each_entry(slot, &(queue)->all_slots, of_queue)

/* The headers of two slots share no cache line */
#define FUSE_URING_HEADER_STRIDE \
	ALIGN(sizeof(struct fuse_uring_slot_header), SMP_CACHE_BYTES)

/* The payload area of a control slot, and the forgets it has room for */
#define FUSE_URING_CONTROL_AREA		PAGE_SIZE
#define FUSE_URING_MAX_FORGETS \
	(FUSE_URING_CONTROL_AREA / sizeof(struct fuse_forget_one))

/* Hash table of commit_ids, for queues with user buffers */
#define FUSE_URING_COMMIT_BITS		6
#define FUSE_URING_COMMIT_BUCKETS	BIT(FUSE_URING_COMMIT_BITS)

/* How often to fault in server memory for one attempt to copy */
#define FUSE_URING_MAX_FAULTS		16

/*
 * Unique ids: bit 0 marks interrupts, bit 63 resent requests.  A commit_id of
 * a managed ring comes from the same sequence, with the queue on top.
 */
#define FUSE_URING_UNIQUE		BIT_ULL(62)
#define FUSE_URING_UNIQUE_QID_SHIFT	46
#define FUSE_URING_UNIQUE_SEQ_MASK	(BIT_ULL(FUSE_URING_UNIQUE_QID_SHIFT - 1) - 1)
#define FUSE_URING_COMMIT_QID_SHIFT	48

/* Other queues may take a request that has waited for so long, in jiffies */
#define FUSE_URING_OVERDUE		2

/* Private data of a command */
struct fuse_uring_pdu {
	struct fuse_uring_slot *slot;
	struct fuse_uring_thread *thread;
	/* Dropped: task work completes it with @ret.  Pins @thread. */
	int ret;
	bool dropped;		/* under queue->lock */
};

static inline struct fuse_uring_pdu *fuse_uring_pdu(struct io_uring_cmd *cmd)
{
	return io_uring_cmd_to_pdu(cmd, struct fuse_uring_pdu);
}

/*
 * A ring is freed after a grace period once the connection and all threads have
 * put it.  So a queue may be locked under RCU, and stays while it is locked.
 */
static inline struct fuse_uring *fuse_uring_rcu(struct fuse_conn *fc)
{
	return rcu_dereference(fc->uring);
}

static inline struct fuse_uring *fuse_uring_locked(struct fuse_conn *fc)
{
	return rcu_dereference_protected(fc->uring,
					 lockdep_is_held(&fc->iq.lock));
}

static inline struct io_ring_ctx *fuse_uring_cmd_ctx(struct io_uring_cmd *cmd)
{
	return cmd_to_io_kiocb(cmd)->ctx;
}

static inline bool fuse_uring_sync_waits(const struct fuse_uring_queue *queue)
{
	return queue->waiting & (BIT(FUSE_URING_SYNC) | BIT(FUSE_URING_SYNC_LARGE));
}

static inline unsigned int
fuse_uring_nr_background(const struct fuse_uring_queue *queue)
{
	return READ_ONCE(queue->taken[FUSE_URING_BACKGROUND]) +
		READ_ONCE(queue->taken[FUSE_URING_BACKGROUND_LARGE]) +
		READ_ONCE(queue->taken[FUSE_URING_WRITEBACK]);
}

/*
 * Whether a measured request can go over the ring.  With user buffers requests
 * that do not fit the server's areas use /dev/fuse.  So do those without a
 * reply, as the server could not commit them.
 */
static inline bool fuse_uring_carries(const struct fuse_uring *uring,
				      const struct fuse_req *req)
{
	return likely(!uring->user) ||
		(req->uring_area <= uring->payload_size &&
		 test_bit(FR_ISREPLY, &req->flags));
}

static inline unsigned int fuse_uring_size(const struct fuse_arg *args,
					   unsigned int nr)
{
	unsigned int size = 0;

	while (nr--)
		size += args++->size;

	return size;
}

/* False if the first argument is a name or an array, not an operation header */
static inline bool fuse_uring_has_op_header(const struct fuse_args *args)
{
	switch (args->opcode) {
	case FUSE_LOOKUP:
	case FUSE_SYMLINK:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_REMOVEXATTR:
	case FUSE_REMOVEMAPPING:
		return false;
	default:
		return args->in_numargs > 0;
	}
}

/* The room a request needs, and the list on which it waits.  @flags: its own */
static __always_inline void fuse_uring_measure(const struct fuse_uring *uring,
					       struct fuse_req *req,
					       const unsigned long flags)
{
	unsigned int area = req->in.h.len - sizeof(req->in.h);
	const struct fuse_args *args = req->args;
	bool large;

	req->uring_has_op = fuse_uring_has_op_header(args);
	if (req->uring_has_op)
		area -= args->in_args[0].size;
	req->uring_in_size = area;
	if (flags & BIT(FR_ISREPLY)) {
		if (likely(args->out_numargs == 1))
			area = max(area, args->out_args[0].size);
		else
			area = max(area, fuse_uring_size(args->out_args,
							 args->out_numargs));
	}
	req->uring_area = area;

	large = area > uring->small_size;
	if (likely(!(flags & BIT(FR_BACKGROUND)))) {
		req->uring_kind = FUSE_URING_SYNC;
		if (unlikely(large))
			req->uring_kind = FUSE_URING_SYNC_LARGE;
		else if (unlikely(fuse_uring_is_open_ended(req)))
			req->uring_kind = FUSE_URING_OPEN_ENDED;
	} else if (fuse_uring_is_writeback(req)) {
		req->uring_kind = FUSE_URING_WRITEBACK;
	} else {
		req->uring_kind = large ? FUSE_URING_BACKGROUND_LARGE :
			FUSE_URING_BACKGROUND;
	}
}

/* The queue is locked for this and the next */
static inline u64 fuse_uring_unique(struct fuse_uring_queue *queue)
{
	return FUSE_URING_UNIQUE |
		(u64)queue->qid << FUSE_URING_UNIQUE_QID_SHIFT |
		(queue->next_seq++ & FUSE_URING_UNIQUE_SEQ_MASK) *
		FUSE_REQ_ID_STEP;
}

/* Never used again on this connection */
static inline u64 fuse_uring_commit_id(struct fuse_uring_queue *queue)
{
	return (u64)queue->qid << FUSE_URING_COMMIT_QID_SHIFT |
		(queue->next_seq++ & FUSE_URING_UNIQUE_SEQ_MASK);
}

extern struct workqueue_struct *fuse_uring_wq, *fuse_uring_end_wq;

/* dev_uring_mem.c */
u64 fuse_uring_mem_room(void);
struct fuse_uring_mem *fuse_uring_mem_alloc(u64 size, int node);
void fuse_uring_mem_put(struct fuse_uring_mem *mem);
int fuse_uring_mem_map(struct fuse_uring_mem *mem, struct vm_area_struct *vma);

/* dev_uring_pool.c */
int fuse_uring_pool_init(struct fuse_uring_queue *queue);
bool fuse_uring_pool_take(struct fuse_uring_slot *slot, unsigned int size,
			  enum fuse_uring_kind kind);
void fuse_uring_pool_give(struct fuse_uring_slot *slot);
void fuse_uring_pool_pass(struct fuse_uring_queue *queue,
			  enum fuse_uring_kind kind);
u64 fuse_uring_pool_used(const struct fuse_uring_queue *queue);

/* dev_uring_map.c */
int fuse_uring_spread(struct fuse_uring_cpu *cpus, unsigned int nr_cpus,
		      unsigned int nr_queues);
int fuse_uring_map_build(struct fuse_uring *uring, const struct cpumask *own);
int fuse_uring_map_build_user(struct fuse_uring *uring);
void fuse_uring_map_free(struct fuse_uring *uring);
bool fuse_uring_map_update(struct fuse_uring *uring);

/* dev_uring_copy.c */
int fuse_uring_copy_in(struct fuse_uring_slot *slot, struct fuse_req *req);
int fuse_uring_copy_out(struct fuse_uring_slot *slot, struct fuse_req *req,
			u32 payload_sz);
bool fuse_uring_copy_out_args(const struct fuse_uring_slot *slot,
			      struct fuse_args *args, u32 payload_sz);
bool fuse_uring_fault_in(struct fuse_uring_slot *slot, u32 payload_sz);

/* dev_uring_slot.c */
void fuse_uring_slot_own_area(struct fuse_uring_slot *slot);
void fuse_uring_slot_drop(struct fuse_uring_slot *slot, int ret);
void fuse_uring_slot_orphan(struct fuse_uring_slot *slot);
void fuse_uring_slot_disown(struct fuse_uring_slot *slot);
struct fuse_req *fuse_uring_slot_revoke(struct fuse_uring_slot *slot);
struct fuse_uring_thread *
fuse_uring_thread_alloc(struct fuse_uring_queue *queue,
			struct io_uring_cmd *cmd);
struct fuse_uring_thread *fuse_uring_new_thread(struct io_uring_cmd *cmd,
						struct fuse_conn *fc, u16 qid);
void fuse_uring_thread_free(struct fuse_uring_thread *thread);
struct fuse_uring_thread *fuse_uring_thread_find(struct fuse_uring_queue *queue,
						 struct io_uring_cmd *cmd,
						 struct fuse_uring_thread **new);
void fuse_uring_thread_sort(struct fuse_uring_thread *thread, bool idle);
void fuse_uring_thread_unlink(struct fuse_uring_thread *thread);
void fuse_uring_thread_put(struct fuse_uring_thread *thread);
void fuse_uring_thread_end(struct fuse_uring_thread *thread);
void fuse_uring_threads_reap(struct fuse_uring_queue *queue);
bool fuse_uring_has_credit(const struct fuse_uring_queue *queue,
			   enum fuse_uring_kind kind);
struct io_uring_cmd *fuse_uring_submit(struct fuse_uring_queue *queue,
				       struct fuse_req *req);
void fuse_uring_dequeue(struct fuse_uring_queue *queue, struct fuse_req *req);
void fuse_uring_putback(struct fuse_uring_queue *queue, struct fuse_req *req);
struct io_uring_cmd *fuse_uring_call(struct fuse_uring_queue *queue,
				     struct task_struct *sender,
				     enum fuse_uring_set_index index);
bool fuse_uring_thread_is_sender(const struct fuse_uring_thread *thread,
				 struct task_struct *sender);
void fuse_uring_call_one(struct fuse_uring_queue *queue,
			 struct task_struct *sender);
void fuse_uring_call_next(struct fuse_uring_queue *queue);
void fuse_uring_watch(struct fuse_uring_queue *queue);
void fuse_uring_unlock_changed(struct fuse_uring_queue *queue)
	__releases(&queue->lock);

/* Slots for background requests while no synchronous ones wait */
static inline unsigned int
fuse_uring_credits(const struct fuse_uring_queue *queue)
{
	return max(READ_ONCE(queue->set[FUSE_URING_ORDINARY].nr_registered), 2U) - 1;
}

/* Whether a request of @kind may have a slot; a hint without queue->lock */
static __always_inline bool
fuse_uring_may_take(const struct fuse_uring_queue *queue,
		    enum fuse_uring_kind kind)
{
	if (likely(kind <= FUSE_URING_SYNC_LARGE))
		return true;
	/* Neither of the reserved slots would be the next one */
	if (likely(kind >= FUSE_URING_BACKGROUND &&
		   fuse_uring_nr_background(queue) + 1 <
		   fuse_uring_credits(queue) &&
		   !fuse_uring_sync_waits(queue)))
		return true;
	return fuse_uring_has_credit(queue, kind);
}

/* Unlock a queue, and call fuse_uring_update() if its liveness has changed */
static inline void fuse_uring_unlock(struct fuse_uring_queue *queue)
	__releases(&queue->lock)
{
	if (likely(!queue->changed))
		spin_unlock(&queue->lock);
	else
		fuse_uring_unlock_changed(queue);
}

/* dev_uring_serve.c */
void fuse_uring_called(struct io_uring_cmd *cmd, unsigned int issue_flags);
void fuse_uring_cancel(struct io_uring_cmd *cmd);
int fuse_uring_cmd_done(struct io_uring_cmd *cmd, int ret,
			unsigned int issue_flags);
int fuse_uring_arm(struct io_uring_cmd *cmd, struct fuse_uring_slot *slot,
		   struct fuse_uring_thread *thread, unsigned int issue_flags)
	__releases(&slot->queue->lock);
int fuse_uring_commit_error(struct fuse_uring_slot *slot);
int fuse_uring_commit(struct io_uring_cmd *cmd, struct fuse_uring_slot *slot,
		      struct fuse_uring_thread *thread, int error,
		      u32 payload_sz, unsigned int issue_flags)
	__releases(&slot->queue->lock);
int fuse_uring_commit_control(struct io_uring_cmd *cmd,
			      struct fuse_uring_slot *slot,
			      struct fuse_uring_thread *thread, int error,
			      unsigned int issue_flags)
	__releases(&slot->queue->lock);

/* dev_uring_queue.c */
struct fuse_uring_queue *fuse_uring_queue_alloc(struct fuse_uring *uring,
						u16 qid, int node,
						unsigned int nr_cpus);
struct fuse_uring_slot *fuse_uring_queue_claim(struct fuse_uring_queue *queue,
					       struct fuse_uring_slot *new);
void fuse_uring_queue_end(struct fuse_uring_queue *queue);
void fuse_uring_queue_detach(struct fuse_uring_queue *queue);
void fuse_uring_update(struct fuse_conn *fc);
bool fuse_uring_reap(struct fuse_uring *uring);
void fuse_uring_requeue(struct fuse_conn *fc, struct fuse_req *req);
void fuse_uring_inherit(struct fuse_uring *old);
bool fuse_uring_retire(struct fuse_uring *uring, struct fuse_uring *by);
void fuse_uring_tick(struct timer_list *timer);
void fuse_uring_balance(struct work_struct *work);

/* dev_uring_msg.c */
void fuse_uring_messages_update(struct fuse_uring *uring);
bool fuse_uring_messages_overdue(const struct fuse_uring *uring);
void fuse_uring_messages_call(struct fuse_uring *uring, bool again);
void fuse_uring_messages_abort(struct fuse_uring *uring);
void fuse_uring_message_end(struct fuse_uring_slot *slot);
int fuse_uring_feed_control(struct fuse_uring_slot *slot,
			    struct io_uring_cmd *cmd)
	__releases(&slot->queue->lock);

/* dev_uring_notify.c */
struct fuse_uring_notifier *fuse_uring_notifier_alloc(struct fuse_conn *fc);
struct fuse_uring_notifier *
fuse_uring_notifier_get(struct fuse_uring_notifier *nt);
void fuse_uring_notifier_put(struct fuse_uring_notifier *nt);
void fuse_uring_notifier_abort(struct fuse_uring_notifier *nt);
void fuse_uring_notifier_queue(struct fuse_uring_notifier *nt,
			       struct work_struct *work);
int fuse_uring_notify(struct io_uring_cmd *cmd, struct fuse_uring *uring,
		      unsigned int issue_flags);
void fuse_uring_notify_cancel(struct io_uring_cmd *cmd);

/* dev_uring_user.c */
int fuse_uring_user_cmd(struct io_uring_cmd *cmd, struct fuse_dev *fud,
			unsigned int issue_flags);

/* dev_uring.c */
struct fuse_uring *fuse_uring_user_make(struct fuse_conn *fc);
struct fuse_uring *fuse_uring_get(struct fuse_conn *fc);
void fuse_uring_put(struct fuse_uring *uring);
int fuse_uring_gone(struct fuse_conn *fc, bool user);

#endif /* _FS_FUSE_DEV_URING_I_H */
