/* SPDX-License-Identifier: GPL-2.0 */
/*
 * FUSE over io_uring: what the files of the ring share.
 *
 *   uring.c        the ring of a connection: setup, ioctls, limits
 *   uring_mem.c    memory of a queue and its mapping
 *   uring_map.c    which CPU sends its requests to which queue
 *   uring_queue.c  a request's way into a slot
 *   uring_cmd.c    commands of the server: a request's way out of a slot
 *   uring_copy.c   bytes of a request into a slot, bytes of a reply out of it
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
 *  READY  -> IDLE    the command was cancelled or the server's task has died
 *  FILL   -> READY   nothing to do for the command, or the copy has failed
 *  FILL   -> SENT    copied in by the requester
 *  FILL   -> BUSY    copied in by the server's command, which then completes
 *  FILL   -> IDLE    the command was cancelled, or the connection has ended
 *  SENT   -> FILL    the server's task copies it in
 *  SENT   -> BUSY    the server's task has been told
 *  SENT   -> IDLE    revoked before the server's task has been told
 *  BUSY   -> COMMIT  COMMIT_AND_FETCH
 *  BUSY   -> IDLE    the connection has ended
 *  COMMIT -> READY   the reply has been taken, and nothing waits
 *  COMMIT -> FILL    the reply has been taken, and the next request follows
 *  COMMIT -> IDLE    the reply was bad, or the connection has ended
 *
 * All transitions are made by fuse_uring_slot_to() under queue->lock.
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

struct fuse_uring_slot {
	/* Immutable */
	struct fuse_uring_queue *queue;
	struct fuse_uring_req_header *hdr;
	void *payload;
	u32 payload_offset;
	u16 index;

	/* Under queue->lock */
	u8 state;
	/* SENT: copied in already */
	bool filled;
	/* Holds one of the queue's background credits */
	bool background;
	/* BUSY: the task it was delivered to has died */
	bool orphan;
	/* Not IDLE: the task whose command it was last, only to be compared */
	struct task_struct *task;
	struct io_uring_cmd *cmd;
	struct fuse_req *req;
	u64 commit_id;
	struct list_head ready;
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

/* Counters of a queue, under queue->lock */
struct fuse_uring_queue_stats {
	u64 synchronous;
	u64 background;
	u64 noreply;
	/* Found no slot free, or no credit left */
	u64 waits;
	/* Came from the CPUs of another queue that had no slot free */
	u64 spills;
};

struct fuse_uring_queue {
	/* Immutable */
	struct fuse_uring *uring;
	struct fuse_uring_mem *mem;
	struct fuse_uring_slot *slots;
	u16 qid;
	int node;
	unsigned int nr_cpus;

	/* What the map was made with, under fiq->lock */
	bool mapped_live;

	spinlock_t lock ____cacheline_aligned_in_smp;

	/* Has registered slots, and takes requests */
	bool live;
	/* The connection has ended */
	bool stopped;
	/* Whose turn it is when both lists have requests */
	bool background_next;

	/* Slots that are not IDLE nor orphans, that are READY, and their list */
	unsigned int nr_registered;
	unsigned int nr_ready;
	struct list_head ready;

	/* Background requests in slots */
	unsigned int nr_background;

	/* Requests that wait for a slot: FR_PENDING, and on no other list */
	struct list_head pending;
	struct list_head bg_pending;

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
 * struct fuse_uring - the ring of a connection
 * @fc: the connection, which owns the ring
 * @nr_queues: length of @queues
 * @queue_depth: slots per queue
 * @max_background: slots of a queue that background requests may hold
 * @payload_size: what the server asked for, in whole pages
 * @payload_area: bytes of a slot's payload area, see FUSE_URING_PAYLOAD_SLACK
 * @mmap_size: bytes of a queue's memory
 * @payload_offset: where its payload areas begin
 * @cpu_home: for each possible CPU the queue that is its own
 * @cpu_map: for each possible CPU the live queue that takes its requests;
 *	written under fiq->lock, read without
 * @by_node: the queues, those of a node next to each other
 * @scratch: for fuse_uring_map_update(), under fiq->lock
 * @active: at least one queue is live, new requests go to the ring only;
 *	under fiq->lock
 * @dev: messages over /dev/fuse
 * @watch_mutex: protects @watches
 * @watches: the tasks that have armed slots
 * @queues: the queues
 */
struct fuse_uring {
	struct fuse_conn *fc;
	unsigned int nr_queues;
	unsigned int queue_depth;
	unsigned int max_background;
	unsigned int payload_size;
	unsigned int payload_area;
	u64 mmap_size;
	u64 payload_offset;
	u16 *cpu_home;
	u16 *cpu_map;
	u16 *by_node;
	u16 *scratch;
	bool active;
	atomic64_t dev[FUSE_URING_DEV_NR];
	struct mutex watch_mutex;	/* protects watches */
	struct list_head watches;
	struct fuse_uring_queue *queues[] __counted_by(nr_queues);
};

/*
 * A slot's payload area is this much larger than the largest file data it
 * carries: the reply to an IOCTL of the maximum size has a header as well.
 */
#define FUSE_URING_PAYLOAD_SLACK	PAGE_SIZE

/* A slot's headers do not share a cache line with another slot's */
#define FUSE_URING_HEADER_STRIDE \
	ALIGN(sizeof(struct fuse_uring_req_header), SMP_CACHE_BYTES)

/* Unique ids: bit 0 marks interrupts, bit 63 resent requests */
#define FUSE_URING_UNIQUE		BIT_ULL(62)
#define FUSE_URING_UNIQUE_QID_SHIFT	46
#define FUSE_URING_UNIQUE_SEQ_MASK	(BIT_ULL(FUSE_URING_UNIQUE_QID_SHIFT - 1) - 1)

/*
 * What a command carries while it is parked or its task work is under way
 *
 * @slot: the slot it was given for
 * @dropped: the slot has let go of it, task work is under way to complete it.
 *	Under queue->lock.
 */
struct fuse_uring_pdu {
	struct fuse_uring_slot *slot;
	bool dropped;
};

static inline struct fuse_uring_pdu *fuse_uring_pdu(struct io_uring_cmd *cmd)
{
	return io_uring_cmd_to_pdu(cmd, struct fuse_uring_pdu);
}

static inline struct fuse_uring *fuse_uring_get(struct fuse_conn *fc)
{
	/* Pairs with smp_store_release() in fuse_uring_publish() */
	return smp_load_acquire(&fc->uring);
}

extern const u8 fuse_uring_slot_next[];
struct fuse_req *fuse_uring_pick(struct fuse_uring_queue *queue);
struct fuse_uring_queue *fuse_uring_other_queue(struct fuse_uring *uring,
						struct fuse_uring_queue *own);

/* A slot counts for its queue being live, or does so no longer */
static inline void fuse_uring_slot_register(struct fuse_uring_queue *queue)
{
	if (!queue->nr_registered++ && !queue->stopped)
		WRITE_ONCE(queue->live, true);
}

static inline void fuse_uring_slot_unregister(struct fuse_uring_queue *queue)
{
	if (!--queue->nr_registered) {
		WRITE_ONCE(queue->live, false);
		WRITE_ONCE(queue->server, NULL);
	}
}

/**
 * fuse_uring_slot_to - change the state of a slot
 * @slot: the slot, whose queue is locked
 * @state: its new state
 *
 * The only place where states change.  Keeps the queue's list of ready slots
 * and its counts, and with the first slot that is registered the queue becomes
 * live, with the last one that goes it ceases to be.  The caller has to call
 * fuse_uring_update() then, when it has unlocked the queue.
 */
static inline void fuse_uring_slot_to(struct fuse_uring_slot *slot,
				      enum fuse_uring_slot_state state)
{
	struct fuse_uring_queue *queue = slot->queue;

	lockdep_assert_held(&queue->lock);
	WARN_ON_ONCE(!(fuse_uring_slot_next[slot->state] & BIT(state)));

	if (slot->state == FUSE_URING_SLOT_READY) {
		list_del(&slot->ready);
		WRITE_ONCE(queue->nr_ready, queue->nr_ready - 1);
	} else if (slot->state == FUSE_URING_SLOT_IDLE || slot->orphan) {
		slot->orphan = false;
		fuse_uring_slot_register(queue);
	}

	slot->state = state;

	if (state == FUSE_URING_SLOT_READY) {
		/* The last one that was used is the one in the caches */
		list_add(&slot->ready, &queue->ready);
		WRITE_ONCE(queue->nr_ready, queue->nr_ready + 1);
	} else if (state == FUSE_URING_SLOT_IDLE) {
		fuse_uring_slot_unregister(queue);
	}
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

/* The next request that waits on the queue and may have a slot */
static inline struct fuse_req *fuse_uring_next(struct fuse_uring_queue *queue)
{
	if (list_empty(&queue->pending) && list_empty(&queue->bg_pending))
		return NULL;

	return fuse_uring_pick(queue);
}

/* uring_mem.c */
struct fuse_uring_mem *fuse_uring_mem_alloc(u64 size, int node);
void fuse_uring_mem_put(struct fuse_uring_mem *mem);

/* uring_map.c */
int fuse_uring_map_build(struct fuse_uring *uring);
void fuse_uring_map_free(struct fuse_uring *uring);
unsigned int fuse_uring_map_update(struct fuse_uring *uring);
bool fuse_uring_map_stale(struct fuse_uring *uring);
struct fuse_uring_queue *fuse_uring_spill(struct fuse_uring_queue *queue);

/* uring_queue.c */
struct fuse_uring_queue *fuse_uring_queue_alloc(struct fuse_uring *uring,
						u16 qid, int node,
						unsigned int nr_cpus);
void fuse_uring_queue_free(struct fuse_uring_queue *queue);
void fuse_uring_slot_assign(struct fuse_uring_slot *slot, struct fuse_req *req);
struct fuse_req *fuse_uring_slot_revoke(struct fuse_uring_slot *slot);
struct fuse_req *fuse_uring_slot_unsend(struct fuse_uring_slot *slot);
void fuse_uring_end(struct fuse_uring_slot *slot, struct fuse_req *req,
		    int error);
void fuse_uring_dispatch(struct fuse_uring_queue *queue);
void fuse_uring_update(struct fuse_uring *uring);
void fuse_uring_requeue(struct fuse_req *req);
void fuse_uring_queue_withdraw(struct fuse_uring_queue *queue,
			       struct task_struct *task);

/* uring_cmd.c */
void fuse_uring_sent_work(struct io_uring_cmd *cmd, unsigned int issue_flags);

/* uring_watch.c */
int fuse_uring_watch(struct fuse_uring *uring, struct task_struct *task);
void fuse_uring_watch_free_all(struct fuse_uring *uring);

/* uring_copy.c */
int fuse_uring_copy_in(struct fuse_uring_slot *slot, struct fuse_req *req);
int fuse_uring_copy_out(struct fuse_uring_slot *slot, struct fuse_req *req,
			u32 payload_sz);

#endif /* _FS_FUSE_URING_I_H */
