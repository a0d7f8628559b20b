// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: the memory of a queue for large payloads.
 *
 * Small requests fit their slot's own area.  A large one takes memory from the
 * queue's pool together with its slot, and keeps it until it ends.
 *
 * The pool reserves one buffer for synchronous requests and one for writeback,
 * so that memory reclaim never waits for an answer to readahead.  The rest is
 * shared, in chunks.
 */
#include "dev_uring_i.h"

#include <linux/bitmap.h>
#include <linux/slab.h>

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

static void fuse_uring_pool_place(struct fuse_uring_slot *slot,
				  enum fuse_uring_buf_type type, u64 offset,
				  u32 room)
{
	struct fuse_uring_queue *queue = slot->queue;

	slot->buf_type = type;
	slot->payload_offset = queue->uring->pool_offset + offset;
	slot->payload = queue->mem->addr + slot->payload_offset;
	slot->payload_room = room;
}

static bool fuse_uring_pool_take_shared(struct fuse_uring_slot *slot,
					unsigned int size)
{
	struct fuse_uring_pool *pool = &slot->queue->pool;
	struct fuse_uring *uring = slot->queue->uring;
	unsigned int nr = DIV_ROUND_UP(size, uring->chunk_size);
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
	fuse_uring_pool_place(slot, FUSE_URING_BUF_SHARED,
			      2ULL * uring->buffer_size +
			      (u64)first * uring->chunk_size,
			      nr * uring->chunk_size);
	return true;
}

static bool fuse_uring_pool_take_reserved(struct fuse_uring_slot *slot,
					  enum fuse_uring_kind kind)
{
	struct fuse_uring_pool *pool = &slot->queue->pool;
	unsigned int size = slot->queue->uring->buffer_size;

	if (kind == FUSE_URING_SYNC_LARGE && !pool->sync_used) {
		pool->sync_used = true;
		fuse_uring_pool_place(slot, FUSE_URING_BUF_SYNC, 0, size);
		return true;
	}
	if (kind == FUSE_URING_WRITEBACK && !pool->writeback_used) {
		pool->writeback_used = true;
		fuse_uring_pool_place(slot, FUSE_URING_BUF_WRITEBACK, size,
				      size);
		return true;
	}

	return false;
}

/*
 * Take memory for a payload that does not fit the slot's own area.  Returns
 * false if the request has to wait.  The next free chunks are reserved for the
 * first kind that has to, so that small needs do not starve one for many
 * adjacent chunks.  A size that no request may have fails when it is copied.
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
	    fuse_uring_pool_take_reserved(slot, kind)) {
		fuse_uring_pool_pass(slot->queue, kind);
		return true;
	}

	if (pool->turn == FUSE_URING_NR_KINDS)
		pool->turn = kind;
	return false;
}

/* Drop @kind's reservation of the next free chunks.  Under queue->lock. */
void fuse_uring_pool_pass(struct fuse_uring_queue *queue,
			  enum fuse_uring_kind kind)
{
	if (queue->pool.turn == kind)
		queue->pool.turn = FUSE_URING_NR_KINDS;
}

/* Give memory back.  The caller calls a thread that may have waited for it. */
void fuse_uring_pool_give(struct fuse_uring_slot *slot)
{
	struct fuse_uring_queue *queue = slot->queue;
	struct fuse_uring_pool *pool = &queue->pool;
	struct fuse_uring *uring = queue->uring;
	unsigned int first;

	lockdep_assert_held(&queue->lock);

	switch (slot->buf_type) {
	case FUSE_URING_BUF_OWN:
		return;
	case FUSE_URING_BUF_SHARED:
		first = (slot->payload_offset - uring->pool_offset -
			 2 * uring->buffer_size) / uring->chunk_size;
		bitmap_clear(pool->chunks, first, slot->nr_chunks);
		WRITE_ONCE(pool->nr_free, pool->nr_free + slot->nr_chunks);
		pool->nr_shared--;
		break;
	case FUSE_URING_BUF_SYNC:
		pool->sync_used = false;
		break;
	case FUSE_URING_BUF_WRITEBACK:
		pool->writeback_used = false;
		break;
	}

	fuse_uring_slot_own_area(slot);
}

/* Bytes in use.  Called under queue->lock. */
u64 fuse_uring_pool_used(const struct fuse_uring_queue *queue)
{
	const struct fuse_uring_pool *pool = &queue->pool;
	const struct fuse_uring *uring = queue->uring;

	return (u64)(uring->nr_chunks - pool->nr_free) * uring->chunk_size +
		(u64)(pool->sync_used + pool->writeback_used) *
		uring->buffer_size;
}
