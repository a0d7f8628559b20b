/* SPDX-License-Identifier: GPL-2.0 */
/*
 * FUSE over io_uring: what the files of the ring share.
 *
 *   uring.c        the ring of a connection: setup, ioctls, limits
 *   uring_mem.c    memory of a queue and its mapping
 *   uring_pool.c   the part of it that requests with large payloads share
 *   uring_map.c    which CPU sends its requests to which queue
 *   uring_topology.c  how CPUs are dealt out to queues
 *   uring_queue.c  a request's way into a slot
 *   uring_cmd.c    commands of the server: a request's way out of a slot
 *   uring_control.c  forgets and interrupts, in slots of their own
 *   uring_notify.c  notifications
 *   uring_copy.c   bytes of a request into a slot, bytes of a reply out of it
 *   uring_user.c   slots in memory of the server, as servers written for
 *                  Linux 6.14 have them
 *   uring_watch.c  the death of a server's thread
 *   uring_stats.c  statistics file in the control filesystem
 *
 * Lock order
 * ----------
 *
 *	fi->lock
 *	  fc->bg_lock
 *	    fiq->lock
 *	      queue->lock		(two: only under fiq->lock)
 *
 * io_uring's own ctx->uring_lock, a mutex, is outside of all of these.
 * fuse_request_end() is called with none of them held, and no bytes of a
 * request are copied with any of them held.
 */
#ifndef _FS_FUSE_URING_I_H
#define _FS_FUSE_URING_I_H

#include "dev.h"
#include "uring.h"

#include <linux/io_uring/cmd.h>
#include <linux/kref.h>

/*
 * States of a slot
 *
 *  state   who may touch the slot's memory   ->cmd                ->req
 *  IDLE    nobody                            none                 none
 *  READY   nobody                            parked               none
 *  FILL    the task that copies in           parked, or none (1)  being copied
 *  SENT    nobody                            task work under way  assigned (2)
 *  BUSY    the server                        none                 in the server's
 *                                                                 hands (3)
 *  COMMIT  the server's task in the kernel   none                 being ended (4)
 *
 * (1) None when a command of the server copies: the command is the caller's
 *     then.  A parked command may be cancelled, and is taken away, while its
 *     requester copies.
 * (2) ->filled says whether the requester has copied it in already.
 * (3) None when the request wants no reply, and has been ended.
 * (4) Belongs to whoever commits it and is not seen in the slot.
 *
 *  IDLE   -> FILL    FETCH
 *  READY  -> FILL    a synchronous request is copied in by its requester
 *  READY  -> SENT    a request is left to the server to copy in
 *  READY  -> IDLE    the command was cancelled, the server's task has died or
 *                    has detached the queue
 *  FILL   -> READY   nothing to do for the command, or the copy has failed
 *  FILL   -> SENT    copied in by the requester
 *  FILL   -> BUSY    copied in by the server's command, which then completes
 *  FILL   -> IDLE    the command was cancelled, or the connection has ended
 *  SENT   -> FILL    the server's task copies it in
 *  SENT   -> BUSY    the server's task has been told
 *  SENT   -> IDLE    revoked before the server's task has been told
 *  BUSY   -> COMMIT  COMMIT_AND_FETCH
 *  COMMIT -> BUSY    the reply lies in memory of the server that is not there
 *                    at the moment
 *  BUSY   -> IDLE    the connection has ended
 *  COMMIT -> READY   the reply has been taken, and nothing waits
 *  COMMIT -> FILL    the reply has been taken, and the next request follows
 *  COMMIT -> IDLE    the reply was bad, the queue has been detached, or the
 *                    connection has ended
 *
 * All transitions are made by fuse_uring_slot_move() under queue->lock.
 */
enum fuse_uring_slot_state {
	FUSE_URING_SLOT_IDLE,
	FUSE_URING_SLOT_READY,
	FUSE_URING_SLOT_FILL,
	FUSE_URING_SLOT_SENT,
	FUSE_URING_SLOT_BUSY,
	FUSE_URING_SLOT_COMMIT,
};

struct fuse_uring_queue;
struct fuse_uring_slots;

/* What a control slot carries, or has been sent for */
enum fuse_uring_control {
	FUSE_URING_CONTROL_NONE,
	FUSE_URING_CONTROL_FORGET,
	FUSE_URING_CONTROL_INTERRUPT,
};

/*
 * The lists on which requests wait for a slot.  Each gets its turn, so that no
 * kind can keep another one out.  Large ones need memory of the queue's pool.
 */
enum fuse_uring_kind {
	FUSE_URING_SYNC,
	FUSE_URING_SYNC_LARGE,
	FUSE_URING_BACKGROUND,
	FUSE_URING_BACKGROUND_LARGE,
	FUSE_URING_WRITEBACK_LARGE,
	FUSE_URING_NR_KINDS,
};

/* Where a slot's payload lies: in its own area, or in a part of the pool */
enum fuse_uring_lot {
	FUSE_URING_LOT_OWN,
	FUSE_URING_LOT_SHARED,
	FUSE_URING_LOT_SYNC,
	FUSE_URING_LOT_WRITEBACK,
};

struct fuse_uring_slot {
	/* Immutable */
	struct fuse_uring_queue *queue;
	struct fuse_uring_slots *set;

	/*
	 * Where the headers lie, and the request's payload: in the queue's
	 * memory, where the latter changes with the slot's assignment, or in
	 * the server's, from when the slot is armed
	 */
	union {
		struct fuse_uring_req_header *hdr;
		struct fuse_uring_req_header __user *user_hdr;
	};
	union {
		void *payload;
		void __user *user_payload;
	};
	u32 payload_offset;

	/* Immutable */
	u16 index;
	bool is_control;
	bool is_user;

	/* Under queue->lock */
	u8 state;
	/* Control slots: SENT for this, or holds it */
	u8 control;
	/* SENT: copied in already */
	bool filled;
	/* Holds one of the queue's background credits */
	bool background;
	/* Counts for its queue, has not been withdrawn */
	bool registered;
	/* Is to be disarmed when it comes back from the server */
	bool detached;
	/* Which part of the pool it has, see fuse_uring_pool_take() */
	u8 lot;
	u16 nr_chunks;
	/* Bytes of room for the payload */
	u32 payload_room;
	/*
	 * Not IDLE: the task whose command it was last, only to be compared.
	 * NULL when it has died with the slot BUSY.
	 */
	struct task_struct *task;
	struct io_uring_cmd *cmd;
	struct fuse_req *req;
	u64 commit_id;
	struct list_head ready;
	struct list_head of_queue;
	struct hlist_node by_commit_id;

	/* BUSY: since when, in jiffies, and what it is when there is no req */
	unsigned long since;
	u32 opcode;
	u64 unique;
} ____cacheline_aligned_in_smp;

/**
 * struct fuse_uring_mem - memory of one queue
 * @ref: held by the ring and by each file behind a mapping
 * @node: NUMA node asked for
 * @nr_pages: length of @pages
 * @nr_foreign: pages that are on another node
 * @pages: the pages, each with a reference
 * @addr: kernel address of all of them
 * @user: whose locked memory they are accounted to, NULL when they are not
 */
struct fuse_uring_mem {
	struct kref ref;
	int node;
	unsigned int nr_pages;
	unsigned int nr_foreign;
	struct page **pages;
	void *addr;
	struct user_struct *user;
};

/**
 * struct fuse_uring_cpu - what it depends on which queue a CPU gets
 * @node: NUMA node, NUMA_NO_NODE when there is no such CPU
 * @llc: CPUs of a node with the same number share their last-level cache
 * @core: CPUs with the same @node, @llc and @core are siblings
 * @own: is to have a queue of its own as far as there are queues: on-line, and
 *	one that the server runs on
 */
struct fuse_uring_cpu {
	int node;
	unsigned int llc;
	unsigned int core;
	bool own;
};

/* Counters of a queue, under queue->lock */
struct fuse_uring_queue_stats {
	u64 synchronous;
	u64 background;
	u64 noreply;
	/* Found no slot free, or no credit left */
	u64 waits;
	/* Came from the CPUs of another queue that had no slot free */
	u64 spills;
	/* Found a slot, but no room in the pool */
	u64 pool_waits;
};

/* The slots of a queue that are of one kind, under queue->lock */
struct fuse_uring_slots {
	/* Slots that count, that are READY, and a list of the latter */
	unsigned int nr_registered;
	unsigned int nr_ready;
	struct list_head ready;
};

/**
 * struct fuse_uring_pool - memory of a queue for large payloads
 * @chunks: which chunks of the shared part are in use
 * @nr_free: how many are not
 * @nr_shared: slots that have some of them
 * @turn: the kind of requests that the next chunks are for, as its first one
 *	has found no room; FUSE_URING_NR_KINDS when there is none
 * @sync_used: a synchronous request has the buffer that is kept for these
 * @writeback_used: writeback has the one that is kept for it
 *
 * All under queue->lock.  See fuse_uring_pool_take().
 */
struct fuse_uring_pool {
	unsigned long *chunks;
	unsigned int nr_free;
	unsigned int nr_shared;
	u8 turn;
	bool sync_used;
	bool writeback_used;
};

struct fuse_uring_queue {
	/* Immutable */
	struct fuse_uring *uring;
	struct fuse_uring_mem *mem;
	/* The ordinary ones, then the control slots */
	struct fuse_uring_slot *slots;
	struct list_head all_slots;
	/* User buffers: the slots by their commit_id, and how many there are */
	struct hlist_head *commits;
	unsigned int nr_slots;
	u16 qid;
	int node;
	unsigned int nr_cpus;
	/* Slots that background requests may hold */
	unsigned int max_background;
	/* Its node's queues are these of uring->by_node, and which it is */
	unsigned int first_of_node;
	unsigned int nr_of_node;
	unsigned int nth_of_node;

	/* What the map was made with, under fiq->lock */
	bool mapped_live;

	spinlock_t lock ____cacheline_aligned_in_smp;

	/* Has registered slots, and takes requests */
	bool live;
	/* The connection has ended, or has another ring */
	bool stopped;
	/* Commands that have been prepared and are not completed */
	unsigned int nr_cmds;
	/* Whose turn it is when several lists have requests */
	u8 next_kind;

	struct fuse_uring_slots ordinary;
	struct fuse_uring_slots control;

	/* A control slot carries forgets, or is SENT for them */
	bool forgetting;

	/* Background requests in slots */
	unsigned int nr_background;

	/* Requests that wait for a slot: FR_PENDING, and on no other list */
	struct list_head pending[FUSE_URING_NR_KINDS];
	unsigned int nr_pending;

	struct fuse_uring_pool pool;

	/* Last part of the next request's unique id */
	u64 next_seq;

	/*
	 * The task whose commands all slots have, only to be compared with.
	 * FUSE_URING_MANY when they are of several tasks.
	 */
	struct task_struct *server;

	struct fuse_uring_queue_stats stats;
};

#define FUSE_URING_MANY		((struct task_struct *)1UL)

/**
 * struct fuse_uring_messages - messages for control slots
 * @active: there are control slots that may carry them
 * @interrupts: requests to tell the server of, by their intr_entry
 * @forgets: head of the list of forgets, @forgets_tail its last one
 * @forgets_tail: where the next one goes to
 * @nr_forgets: length of that list
 * @forgets_wait: no queue could take any, so there is no use in asking again
 *	until one has done so
 * @nr_sent: control slots that are SENT for forgets
 * @stat_forgets: FORGET and BATCH_FORGET messages that were sent
 * @stat_interrupts: INTERRUPT messages that were sent
 */
struct fuse_uring_messages {
	bool active;
	struct list_head interrupts;
	struct fuse_forget_link forgets;
	struct fuse_forget_link *forgets_tail;
	unsigned int nr_forgets;
	bool forgets_wait;
	atomic_t nr_sent;
	u64 stat_forgets;
	u64 stat_interrupts;
};

/**
 * struct fuse_uring - the ring of a connection
 * @ref: held by the connection, and by commands and ioctls that sleep
 * @fc: the connection, which lives longer
 * @nr_queues: length of @queues
 * @queue_depth: ordinary slots per queue
 * @nr_control: control slots per queue
 * @max_background: slots of a queue that background requests may hold
 * @user: the slots lie in memory of the server.  There are no control slots and
 *	no pool, the slots come and go with their commands, and @small_size is
 *	no limit.
 * @payload_size: what the server asked for, in whole pages
 * @payload_area: bytes of room that a request may need, see
 *	FUSE_URING_PAYLOAD_SLACK
 * @small_size: bytes of each ordinary slot's own area
 * @buffer_size: @payload_area in whole chunks
 * @nr_chunks: chunks of the part of a queue's pool that is shared, 0 when all
 *	that a request can need is in its slot's own area
 * @max_shared: slots of a queue that may have chunks at a time
 * @mmap_size: bytes of a queue's memory
 * @payload_offset: where the slots' own areas begin
 * @control_offset: where the payload areas of control slots begin
 * @pool_offset: where the pool begins: the buffer kept for synchronous
 *	requests, that for writeback, the chunks
 * @cpu_home: for each possible CPU the queue that is its own
 * @cpu_map: for each possible CPU the live queue that takes its requests;
 *	written under fiq->lock, read without
 * @queue_node: for each queue the node of its own CPUs
 * @by_node: the queues, those of a node next to each other
 * @scratch: for fuse_uring_map_update(), under fiq->lock
 * @active: at least one queue is live, new requests go to the ring only;
 *	under fiq->lock
 * @control: forgets and interrupts, under fiq->lock
 * @held: requests that were in the hands of a server that has died, and that
 *	had another ring; under fiq->lock
 * @notifier: notifications; also those of the connection's other rings
 * @dev: messages over /dev/fuse
 * @watch_mutex: protects @watches
 * @watches: the tasks that have armed slots
 * @queues: the queues
 */
struct fuse_uring {
	/* Read for every request, and hardly ever written */
	struct fuse_conn *fc;
	unsigned int nr_queues;
	unsigned int queue_depth;
	unsigned int nr_control;
	unsigned int max_background;
	bool user;
	unsigned int small_size;
	unsigned int payload_size;
	unsigned int payload_area;
	unsigned int buffer_size;
	unsigned int nr_chunks;
	unsigned int max_shared;
	u64 mmap_size;
	u64 payload_offset;
	u64 control_offset;
	u64 pool_offset;
	u16 *cpu_home;
	u16 *cpu_map;
	int *queue_node;
	u16 *by_node;
	u16 *scratch;
	struct fuse_uring_notifier *notifier;

	/* Written for messages and commands of other kinds */
	refcount_t ref ____cacheline_aligned_in_smp;
	bool active;
	struct fuse_uring_messages control;
	struct list_head held;
	atomic64_t dev[FUSE_URING_DEV_NR];
	struct mutex watch_mutex;	/* protects watches */
	struct list_head watches;

	struct fuse_uring_queue *queues[] ____cacheline_aligned_in_smp
		__counted_by(nr_queues);
};

/*
 * A request may need this much more room than for the largest file data that
 * it carries: the reply to an IOCTL of the maximum size has a header as well.
 */
#define FUSE_URING_PAYLOAD_SLACK	PAGE_SIZE

static inline unsigned int fuse_uring_nr_slots(const struct fuse_uring *uring)
{
	return uring->queue_depth + uring->nr_control;
}

#define fuse_uring_for_each_slot(slot, queue) \
	list_for_each_entry(slot, &(queue)->all_slots, of_queue)

/* A slot's headers do not share a cache line with another slot's */
#define FUSE_URING_HEADER_STRIDE \
	ALIGN(sizeof(struct fuse_uring_req_header), SMP_CACHE_BYTES)

/* The payload area of a control slot, and the forgets it has room for */
#define FUSE_URING_CONTROL_AREA		PAGE_SIZE
#define FUSE_URING_MAX_FORGETS \
	(FUSE_URING_CONTROL_AREA / sizeof(struct fuse_forget_one))

/* Lists of a queue with user buffers in which a commit_id is looked up */
#define FUSE_URING_COMMIT_BITS		6
#define FUSE_URING_COMMIT_BUCKETS	BIT(FUSE_URING_COMMIT_BITS)

/* How often to have memory of the server brought in that is gone again then */
#define FUSE_URING_MAX_FAULTS		16

/* Unique ids: bit 0 marks interrupts, bit 63 resent requests */
#define FUSE_URING_UNIQUE		BIT_ULL(62)
#define FUSE_URING_UNIQUE_QID_SHIFT	46
#define FUSE_URING_UNIQUE_SEQ_MASK	(BIT_ULL(FUSE_URING_UNIQUE_QID_SHIFT - 1) - 1)

/*
 * What a command carries while it is parked or its task work is under way
 *
 * @slot: the slot it was given for
 * @dropped: the slot has let go of it, task work is under way to complete it
 *	with @ret.  Under queue->lock.
 */
struct fuse_uring_pdu {
	struct fuse_uring_slot *slot;
	int ret;
	bool dropped;
};

static inline struct fuse_uring_pdu *fuse_uring_pdu(struct io_uring_cmd *cmd)
{
	return io_uring_cmd_to_pdu(cmd, struct fuse_uring_pdu);
}

/*
 * A server that sets up a ring replaces the one before, of which nothing is in
 * use any more.  What keeps a ring from that are its slots that are not IDLE
 * and its commands that are not completed; fiq->lock; a reference; and until
 * one of its queues is locked, in order to have one of the former, RCU.
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

void fuse_uring_slot_drop(struct fuse_uring_slot *slot, int ret);
bool fuse_uring_pick(struct fuse_uring_slot *slot);
void fuse_uring_user_assign(struct fuse_uring_slot *slot, struct fuse_req *req);
bool fuse_uring_pool_take(struct fuse_uring_slot *slot, unsigned int size,
			  enum fuse_uring_kind kind);
struct fuse_uring_queue *fuse_uring_other_queue(struct fuse_uring *uring,
						struct fuse_uring_queue *own);

/* Half of the slots that there are, for background requests */
static inline void fuse_uring_user_credits(struct fuse_uring_queue *queue)
{
	WRITE_ONCE(queue->max_background,
		   DIV_ROUND_UP(queue->ordinary.nr_registered, 2));
}

/* A slot counts for its queue being live, or does so no longer */
static inline void fuse_uring_slot_register(struct fuse_uring_slot *slot)
{
	struct fuse_uring_queue *queue = slot->queue;

	slot->registered = true;
	if (!slot->set->nr_registered++ && !slot->is_control && !queue->stopped)
		WRITE_ONCE(queue->live, true);
	if (queue->uring->user)
		fuse_uring_user_credits(queue);
}

static inline void fuse_uring_slot_unregister(struct fuse_uring_slot *slot)
{
	struct fuse_uring_queue *queue = slot->queue;

	if (!slot->registered)
		return;

	slot->registered = false;
	if (!--slot->set->nr_registered && !slot->is_control) {
		WRITE_ONCE(queue->live, false);
		WRITE_ONCE(queue->server, NULL);
	}
	if (queue->uring->user)
		fuse_uring_user_credits(queue);
}

/*
 * Whether the map may have to be told of what has become of a slot, see
 * fuse_uring_update()
 */
static inline bool fuse_uring_may_have_died(struct fuse_uring_queue *queue)
{
	return !queue->live ||
		(queue->uring->nr_control && !queue->control.nr_registered);
}

/* The table of transitions above */
static __always_inline bool
fuse_uring_slot_may(enum fuse_uring_slot_state from,
		    enum fuse_uring_slot_state to)
{
	static const u8 next[] = {
		[FUSE_URING_SLOT_IDLE]	 = BIT(FUSE_URING_SLOT_FILL),
		[FUSE_URING_SLOT_READY]	 = BIT(FUSE_URING_SLOT_FILL) |
					   BIT(FUSE_URING_SLOT_SENT) |
					   BIT(FUSE_URING_SLOT_IDLE),
		[FUSE_URING_SLOT_FILL]	 = BIT(FUSE_URING_SLOT_READY) |
					   BIT(FUSE_URING_SLOT_SENT) |
					   BIT(FUSE_URING_SLOT_BUSY) |
					   BIT(FUSE_URING_SLOT_IDLE),
		[FUSE_URING_SLOT_SENT]	 = BIT(FUSE_URING_SLOT_FILL) |
					   BIT(FUSE_URING_SLOT_BUSY) |
					   BIT(FUSE_URING_SLOT_IDLE),
		[FUSE_URING_SLOT_BUSY]	 = BIT(FUSE_URING_SLOT_COMMIT) |
					   BIT(FUSE_URING_SLOT_IDLE),
		[FUSE_URING_SLOT_COMMIT] = BIT(FUSE_URING_SLOT_READY) |
					   BIT(FUSE_URING_SLOT_FILL) |
					   BIT(FUSE_URING_SLOT_BUSY) |
					   BIT(FUSE_URING_SLOT_IDLE),
	};

	return next[from] & BIT(to);
}

/**
 * fuse_uring_slot_move - change the state of a slot
 * @slot: the slot, whose queue is locked
 * @from: the state that it is in
 * @state: its new state
 *
 * The only place where states change.  Keeps the queue's list of ready slots
 * and its counts, and with the first slot that is registered the queue becomes
 * live, with the last one that goes it ceases to be.  The caller has to call
 * fuse_uring_update() then, when it has unlocked the queue.
 */
static __always_inline void
fuse_uring_slot_move(struct fuse_uring_slot *slot,
		     enum fuse_uring_slot_state from,
		     enum fuse_uring_slot_state state)
{
	struct fuse_uring_slots *set = slot->set;

	lockdep_assert_held(&slot->queue->lock);
	WARN_ON_ONCE(slot->state != from);
	WARN_ON_ONCE(!fuse_uring_slot_may(from, state));

	if (from == FUSE_URING_SLOT_READY) {
		list_del(&slot->ready);
		WRITE_ONCE(set->nr_ready, set->nr_ready - 1);
	} else if (from == FUSE_URING_SLOT_IDLE) {
		slot->detached = false;
		fuse_uring_slot_register(slot);
	}

	slot->state = state;

	if (state == FUSE_URING_SLOT_READY) {
		/* The last one that was used is the one in the caches */
		list_add(&slot->ready, &set->ready);
		WRITE_ONCE(set->nr_ready, set->nr_ready + 1);
	} else if (state == FUSE_URING_SLOT_IDLE) {
		fuse_uring_slot_unregister(slot);
	}
}

/* As that, from whatever state the slot is in */
static inline void fuse_uring_slot_to(struct fuse_uring_slot *slot,
				      enum fuse_uring_slot_state state)
{
	fuse_uring_slot_move(slot, slot->state, state);
}

/* A slot's payload lies in its own area */
static inline void fuse_uring_slot_own_area(struct fuse_uring_slot *slot)
{
	struct fuse_uring *uring = slot->queue->uring;

	slot->lot = FUSE_URING_LOT_OWN;
	if (slot->is_control) {
		slot->payload_room = FUSE_URING_CONTROL_AREA;
		slot->payload_offset = uring->control_offset +
			(slot->index - uring->queue_depth) *
			FUSE_URING_CONTROL_AREA;
	} else {
		slot->payload_room = uring->small_size;
		slot->payload_offset = uring->payload_offset +
			slot->index * uring->small_size;
	}
	slot->payload = slot->queue->mem->addr + slot->payload_offset;
}

static inline bool fuse_uring_has_credit(struct fuse_uring_queue *queue)
{
	return READ_ONCE(queue->nr_background) <
		READ_ONCE(queue->max_background);
}

/*
 * Whether a request goes over the ring.  Its size has been taken.  Slots in
 * memory of the server are as large as that wants, and what is too large for
 * them goes over /dev/fuse.  So does what wants no reply, a FORGET or the answer
 * to a notification: there is nothing to commit.
 */
static inline bool fuse_uring_carries(const struct fuse_uring *uring,
				      const struct fuse_req *req)
{
	return likely(!uring->user) ||
		(req->uring_area <= uring->payload_size &&
		 test_bit(FR_ISREPLY, &req->flags));
}

/* On which list a request waits.  Its size has been taken. */
static inline enum fuse_uring_kind
fuse_uring_kind(const struct fuse_uring *uring, const struct fuse_req *req)
{
	bool background = test_bit(FR_BACKGROUND, &req->flags);
	const struct fuse_write_in *in;

	if (likely(req->uring_area <= uring->small_size))
		return background ? FUSE_URING_BACKGROUND : FUSE_URING_SYNC;
	if (!background)
		return FUSE_URING_SYNC_LARGE;

	in = req->args->in_args[0].value;
	if (req->args->opcode == FUSE_WRITE &&
	    in->write_flags & FUSE_WRITE_CACHE)
		return FUSE_URING_WRITEBACK_LARGE;

	return FUSE_URING_BACKGROUND_LARGE;
}

/**
 * fuse_uring_slot_assign - give a request to a slot, if it may have one now
 * @slot: the slot, which has none
 * @req: the request, which is not on a list, or about to be taken off it
 * @kind: what kind of request it is
 *
 * That is a matter of credits for background requests, and of memory for large
 * ones.  From here on the requester waits for the request's end.
 *
 * Return: whether it has been given.
 */
static __always_inline bool
fuse_uring_slot_assign(struct fuse_uring_slot *slot, struct fuse_req *req,
		       enum fuse_uring_kind kind)
{
	struct fuse_uring_queue *queue = slot->queue;
	bool background = kind >= FUSE_URING_BACKGROUND;

	lockdep_assert_held(&queue->lock);

	if (background && !fuse_uring_has_credit(queue))
		return false;
	if (unlikely(req->uring_area > queue->uring->small_size) &&
	    !fuse_uring_pool_take(slot, req->uring_area, kind))
		return false;

	clear_bit(FR_PENDING, &req->flags);
	slot->req = req;
	slot->filled = false;
	slot->commit_id++;
	if (slot->is_user)
		fuse_uring_user_assign(slot, req);
	slot->background = background;
	if (background)
		WRITE_ONCE(queue->nr_background, queue->nr_background + 1);

	return true;
}

/**
 * fuse_uring_route - the queue for a request that is sent now
 * @uring: the ring
 *
 * Only a hint: whether the queue is live is for the caller to check under its
 * lock, and to come again if it is not.
 */
static inline struct fuse_uring_queue *fuse_uring_route(struct fuse_uring *uring)
{
	unsigned int cpu = raw_smp_processor_id();
	struct fuse_uring_queue *queue;

	queue = uring->queues[READ_ONCE(uring->cpu_map[cpu])];
	if (unlikely(READ_ONCE(queue->server) == current))
		queue = fuse_uring_other_queue(uring, queue);

	return queue;
}

/* The unique id of the next message of a queue, which is locked */
static inline u64 fuse_uring_unique(struct fuse_uring_queue *queue)
{
	u64 seq = queue->next_seq++ & FUSE_URING_UNIQUE_SEQ_MASK;

	return FUSE_URING_UNIQUE |
		(u64)queue->qid << FUSE_URING_UNIQUE_QID_SHIFT |
		seq * FUSE_REQ_ID_STEP;
}

/* Whether the slot is in the hands of a task that has died */
static inline bool fuse_uring_slot_is_orphan(const struct fuse_uring_slot *slot)
{
	return slot->state == FUSE_URING_SLOT_BUSY && !slot->task;
}

/* Give the next request that waits on the queue and may have a slot to @slot */
static inline bool fuse_uring_next(struct fuse_uring_slot *slot)
{
	return slot->queue->nr_pending && fuse_uring_pick(slot);
}

/*
 * A task that exits never runs the task work that would tell it of a request,
 * or only when its io_uring is gone.
 */
static inline bool fuse_uring_task_exits(struct io_uring_cmd *cmd)
{
	return READ_ONCE(io_uring_cmd_get_task(cmd)->flags) & PF_EXITING;
}

/* A slot for what is sent now, NULL when there is none.  The queue is locked. */
static inline struct fuse_uring_slot *
fuse_uring_ready_slot(struct fuse_uring_slots *set)
{
	struct fuse_uring_slot *slot;

	while (!list_empty(&set->ready)) {
		slot = list_first_entry(&set->ready, struct fuse_uring_slot,
					ready);
		if (likely(!fuse_uring_task_exits(slot->cmd)))
			return slot;
		fuse_uring_slot_drop(slot, -ENOTCONN);
	}

	return NULL;
}

/* uring.c */
struct fuse_uring *fuse_uring_user_make(struct fuse_conn *fc);
struct fuse_uring *fuse_uring_get(struct fuse_conn *fc);
void fuse_uring_put(struct fuse_uring *uring);

/* uring_mem.c */
struct fuse_uring_mem *fuse_uring_mem_alloc(u64 size, int node);
void fuse_uring_mem_put(struct fuse_uring_mem *mem);

/* uring_pool.c */
int fuse_uring_pool_init(struct fuse_uring_queue *queue);
void fuse_uring_pool_destroy(struct fuse_uring_queue *queue);
void fuse_uring_pool_give(struct fuse_uring_slot *slot);
void fuse_uring_pool_forgo(struct fuse_uring_queue *queue,
			   enum fuse_uring_kind kind);
u64 fuse_uring_pool_used(const struct fuse_uring_queue *queue);

/* uring_map.c */
int fuse_uring_map_build(struct fuse_uring *uring, const struct cpumask *own);
int fuse_uring_map_build_user(struct fuse_uring *uring);
void fuse_uring_map_free(struct fuse_uring *uring);
unsigned int fuse_uring_map_update(struct fuse_uring *uring);
bool fuse_uring_map_stale(struct fuse_uring *uring);
struct fuse_uring_queue *fuse_uring_spill(struct fuse_uring_queue *queue,
					  unsigned int area);

/* uring_topology.c */
int fuse_uring_deal(const struct fuse_uring_cpu *cpus, unsigned int nr_cpus,
		    unsigned int nr_queues, u16 *home);

/* uring_queue.c */
struct fuse_uring_queue *fuse_uring_queue_alloc(struct fuse_uring *uring,
						u16 qid, int node,
						unsigned int nr_cpus);
struct fuse_uring_slot *fuse_uring_queue_claim(struct fuse_uring_queue *queue,
					       struct fuse_uring_slot *new);
void fuse_uring_queue_free(struct fuse_uring_queue *queue);
void fuse_uring_slot_send(struct fuse_uring_slot *slot);
struct fuse_req *fuse_uring_slot_revoke(struct fuse_uring_slot *slot);
struct fuse_req *fuse_uring_slot_unsend(struct fuse_uring_slot *slot, int ret);
void fuse_uring_end(struct fuse_uring_slot *slot, struct fuse_req *req,
		    int error);
bool fuse_uring_retire(struct fuse_uring *uring, struct fuse_uring *by);
void fuse_uring_dispatch(struct fuse_uring_queue *queue);
void fuse_uring_update(struct fuse_conn *fc);
void fuse_uring_requeue(struct fuse_req *req);
void fuse_uring_unassign(struct fuse_uring_queue *queue, struct fuse_req *req);
void fuse_uring_queue_withdraw(struct fuse_uring_queue *queue,
			       struct task_struct *task);
int fuse_uring_queue_detach(struct fuse_uring_queue *queue);

/* uring_cmd.c */
void fuse_uring_sent_work(struct io_uring_cmd *cmd, unsigned int issue_flags);

int fuse_uring_cmd_done(struct io_uring_cmd *cmd, int ret,
			unsigned int issue_flags);
int fuse_uring_commit_error(struct fuse_uring_slot *slot);
int fuse_uring_arm(struct io_uring_cmd *cmd, struct fuse_uring_slot *slot,
		   unsigned int issue_flags)
	__releases(&slot->queue->lock);
int fuse_uring_take_user_reply(struct io_uring_cmd *cmd,
			       struct fuse_uring_slot *slot,
			       const struct fuse_out_header *oh,
			       u32 payload_sz, unsigned int issue_flags)
	__releases(&slot->queue->lock);
void fuse_uring_prepare(struct io_uring_cmd *cmd, struct fuse_uring_slot *slot,
			unsigned int issue_flags);
void fuse_uring_set_task(struct fuse_uring_slot *slot,
			 struct task_struct *task);

/* uring_control.c */
void fuse_uring_control_init(struct fuse_uring_messages *msgs);
void fuse_uring_control_update(struct fuse_uring *uring);
void fuse_uring_control_abort(struct fuse_uring *uring);
void fuse_uring_control_again(struct fuse_conn *fc);
void fuse_uring_control_unsend(struct fuse_uring_slot *slot);
int fuse_uring_control_feed(struct fuse_uring_slot *slot,
			    struct io_uring_cmd *cmd)
	__releases(&slot->queue->lock);
int fuse_uring_control_commit(struct io_uring_cmd *cmd,
			      struct fuse_uring_slot *slot, u64 commit_id,
			      unsigned int issue_flags)
	__releases(RCU);
void fuse_uring_send_forget(struct fuse_iqueue *fiq,
			    struct fuse_forget_link *link);
void fuse_uring_send_interrupt(struct fuse_iqueue *fiq, struct fuse_req *req);

/* uring_notify.c */
struct fuse_uring_notifier *fuse_uring_notifier_alloc(struct fuse_conn *fc);
struct fuse_uring_notifier *
fuse_uring_notifier_get(struct fuse_uring_notifier *nt);
void fuse_uring_notifier_put(struct fuse_uring_notifier *nt);
void fuse_uring_notifier_abort(struct fuse_uring_notifier *nt);
u64 fuse_uring_notifier_count(struct fuse_uring_notifier *nt);
int fuse_uring_notify(struct io_uring_cmd *cmd, struct fuse_uring *uring,
		      unsigned int issue_flags);
void fuse_uring_notify_cancel(struct io_uring_cmd *cmd,
			      unsigned int issue_flags);

/* uring_watch.c */
int fuse_uring_watch(struct fuse_uring *uring, struct task_struct *task);
void fuse_uring_watch_reap(struct fuse_uring *uring);
void fuse_uring_watch_free_all(struct fuse_uring *uring);

/* uring_user.c */
int fuse_uring_user_cmd(struct io_uring_cmd *cmd, struct fuse_dev *fud,
			unsigned int issue_flags);
int fuse_uring_user_copy_in(struct fuse_uring_slot *slot, struct fuse_req *req,
			    unsigned int skip);
int fuse_uring_user_copy_out(struct fuse_uring_slot *slot, struct fuse_req *req,
			     u32 payload_sz);
void fuse_uring_expect_no_more(struct fuse_conn *fc);
bool fuse_uring_user_fault_in(struct fuse_uring_slot *slot, u32 payload_sz);

/* uring_copy.c */
void fuse_uring_measure(struct fuse_req *req);
int fuse_uring_copy_in(struct fuse_uring_slot *slot, struct fuse_req *req);
int fuse_uring_copy_out(struct fuse_uring_slot *slot, struct fuse_req *req,
			u32 payload_sz);

#endif /* _FS_FUSE_URING_I_H */
