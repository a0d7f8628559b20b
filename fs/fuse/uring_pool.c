// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: the memory of a queue for large payloads.
 *
 * Most requests are small, and have all the room they need in the area of their
 * slot.  A large one gets memory from the queue's pool together with its slot,
 * and keeps it until its reply has been taken or it is known that there will
 * be none.
 *
 * One buffer of the pool is kept for synchronous requests and one for
 * writeback, so that what memory reclaim waits for never waits for a server to
 * answer readahead.  The rest is shared, in chunks.
 */
#include "uring_i.h"

#include <linux/bitmap.h>
#include <linux/slab.h>

/**
 * fuse_uring_pool_init - make a queue's pool, all of it free
 * @queue: the queue of a ring that knows its sizes
 *
 * Return: 0 or -ENOMEM.
 */
int fuse_uring_pool_init(struct fuse_uring_queue *queue)
{
	struct fuse_uring_pool *pool = &queue->pool;
	unsigned int nr = queue->uring->nr_chunks;

	pool->turn = FUSE_URING_NR_KINDS;
	if (!nr)
		return 0;

	pool->chunks = kcalloc_node(BITS_TO_LONGS(nr), sizeof(long),
				    GFP_KERNEL_ACCOUNT, queue->node);
	if (!pool->chunks)
		return -ENOMEM;

	pool->nr_free = nr;
	return 0;
}

void fuse_uring_pool_destroy(struct fuse_uring_queue *queue)
{
	kfree(queue->pool.chunks);
}

static void fuse_uring_pool_place(struct fuse_uring_slot *slot,
				  enum fuse_uring_lot lot, u64 offset, u32 room)
{
	struct fuse_uring_queue *queue = slot->queue;

	slot->lot = lot;
	slot->payload_offset = queue->uring->pool_offset + offset;
	slot->payload = queue->mem->addr + slot->payload_offset;
	slot->payload_room = room;
}

static bool fuse_uring_pool_take_shared(struct fuse_uring_slot *slot,
					unsigned int size)
{
	struct fuse_uring_pool *pool = &slot->queue->pool;
	struct fuse_uring *uring = slot->queue->uring;
	unsigned int nr = DIV_ROUND_UP(size, FUSE_URING_POOL_CHUNK);
	unsigned long first;

	if (pool->nr_shared >= uring->max_shared || nr > pool->nr_free)
		return false;
	first = bitmap_find_next_zero_area(pool->chunks, uring->nr_chunks, 0,
					   nr, 0);
	if (first >= uring->nr_chunks)
		return false;

	bitmap_set(pool->chunks, first, nr);
	WRITE_ONCE(pool->nr_free, pool->nr_free - nr);
	pool->nr_shared++;
	slot->nr_chunks = nr;
	fuse_uring_pool_place(slot, FUSE_URING_LOT_SHARED,
			      2ULL * uring->buffer_size +
			      first * FUSE_URING_POOL_CHUNK, nr * FUSE_URING_POOL_CHUNK);
	return true;
}

static bool fuse_uring_pool_take_kept(struct fuse_uring_slot *slot,
				      enum fuse_uring_kind kind)
{
	struct fuse_uring_pool *pool = &slot->queue->pool;
	unsigned int size = slot->queue->uring->buffer_size;

	if (kind == FUSE_URING_SYNC_LARGE && !pool->sync_used) {
		pool->sync_used = true;
		fuse_uring_pool_place(slot, FUSE_URING_LOT_SYNC, 0, size);
		return true;
	}
	if (kind == FUSE_URING_WRITEBACK_LARGE && !pool->writeback_used) {
		pool->writeback_used = true;
		fuse_uring_pool_place(slot, FUSE_URING_LOT_WRITEBACK, size,
				      size);
		return true;
	}

	return false;
}

/**
 * fuse_uring_pool_take - let a slot have memory for a large payload
 * @slot: an ordinary slot that has none, and whose queue is locked
 * @size: bytes, more than the slot's own area has
 * @kind: what kind of request it is for
 *
 * A kind that finds no room has the next turn: until it has got some, the
 * others have only what is kept for them.  So no stream of requests with small
 * needs can keep out one that needs many chunks next to each other.
 *
 * A size that no request may have is no reason to wait.  Such a request gets
 * the slot's own area, and then its error.
 *
 * Return: false when the request has to wait.
 */
bool fuse_uring_pool_take(struct fuse_uring_slot *slot, unsigned int size,
			  enum fuse_uring_kind kind)
{
	struct fuse_uring_pool *pool = &slot->queue->pool;

	lockdep_assert_held(&slot->queue->lock);

	if (size > slot->queue->uring->payload_area)
		return true;

	if (((pool->turn == FUSE_URING_NR_KINDS || pool->turn == kind) &&
	     fuse_uring_pool_take_shared(slot, size)) ||
	    fuse_uring_pool_take_kept(slot, kind)) {
		fuse_uring_pool_forgo(slot->queue, kind);
		return true;
	}

	if (pool->turn == FUSE_URING_NR_KINDS)
		pool->turn = kind;
	return false;
}

/**
 * fuse_uring_pool_forgo - a kind needs its turn no more
 * @queue: the queue, locked
 * @kind: the kind, of which a request has got its memory, or has gone elsewhere
 */
void fuse_uring_pool_forgo(struct fuse_uring_queue *queue,
			   enum fuse_uring_kind kind)
{
	if (queue->pool.turn == kind)
		queue->pool.turn = FUSE_URING_NR_KINDS;
}

/**
 * fuse_uring_pool_give - give back what a slot has of the pool
 * @slot: the slot, whose queue is locked
 *
 * Somebody may have been waiting for that: see fuse_uring_dispatch().
 */
void fuse_uring_pool_give(struct fuse_uring_slot *slot)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_uring_pool *pool = &queue->pool;
	struct fuse_uring *uring = queue->uring;
	unsigned int first;

	lockdep_assert_held(&queue->lock);

	switch (slot->lot) {
	case FUSE_URING_LOT_OWN:
		return;
	case FUSE_URING_LOT_SHARED:
		first = (slot->payload_offset - uring->pool_offset -
			 2 * uring->buffer_size) / FUSE_URING_POOL_CHUNK;
		bitmap_clear(pool->chunks, first, slot->nr_chunks);
		WRITE_ONCE(pool->nr_free, pool->nr_free + slot->nr_chunks);
		pool->nr_shared--;
		break;
	case FUSE_URING_LOT_SYNC:
		pool->sync_used = false;
		break;
	case FUSE_URING_LOT_WRITEBACK:
		pool->writeback_used = false;
		break;
	}

	fuse_uring_slot_own_area(slot);
}

/* Bytes of a queue's pool that slots have.  The queue is locked. */
u64 fuse_uring_pool_used(const struct fuse_uring_queue *queue)
{
	const struct fuse_uring_pool *pool = &queue->pool;
	const struct fuse_uring *uring = queue->uring;

	return (u64)(uring->nr_chunks - pool->nr_free) * FUSE_URING_POOL_CHUNK +
		(u64)(pool->sync_used + pool->writeback_used) *
		uring->buffer_size;
}
