// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: queue a request on the queue of its CPU, call a thread.
 */
#include "dev_uring_i.h"

/* Number of other queues that a background request looks at */
#define FUSE_URING_SPILL_SCAN	8

/* A hint, as the queue is not locked */
static bool fuse_uring_has_room(struct fuse_uring_queue *queue,
				enum fuse_uring_kind kind, unsigned int area)
{
	struct fuse_uring *uring = queue->uring;

	return READ_ONCE(queue->set[FUSE_URING_ORDINARY].nr_parked) &&
		fuse_uring_may_take(queue, kind) &&
		(area <= uring->small_size ||
		 area <= (u64)READ_ONCE(queue->pool.nr_free) * uring->chunk_size);
}

/*
 * The queue for a background request.  One thread that reads ahead sends all
 * its requests from one CPU.  If that queue is out of slots, credits or memory,
 * choose among the next ones of the node that with the most parked slots.
 */
static struct fuse_uring_queue *fuse_uring_spill(struct fuse_uring_queue *queue,
						 enum fuse_uring_kind kind,
						 unsigned int area)
{
	struct fuse_uring *uring = queue->uring;
	unsigned int i, nth, nr_parked, most = 0;
	struct fuse_uring_queue *best = queue;

	if (fuse_uring_has_room(queue, kind, area))
		return queue;

	nth = queue->nth_of_node;
	for (i = 1; i < min(queue->nr_of_node, FUSE_URING_SPILL_SCAN + 1U); i++) {
		struct fuse_uring_queue *other;

		if (++nth == queue->nr_of_node)
			nth = 0;
		other = uring->queues[uring->by_node[queue->first_of_node + nth]];
		nr_parked = READ_ONCE(other->set[FUSE_URING_ORDINARY].nr_parked);
		if (nr_parked > most && fuse_uring_has_room(other, kind, area)) {
			most = nr_parked;
			best = other;
		}
	}

	return best;
}

/* Returns false if the request has to use /dev/fuse */
static bool fuse_uring_try_send(struct fuse_conn *fc, struct fuse_req *req)
{
	struct fuse_uring_queue *queue, *home;
	struct io_uring_cmd *cmd = NULL;
	struct fuse_uring *uring;
	bool background, lazy = false;

	rcu_read_lock();
	uring = fuse_uring_rcu(fc);
	if (unlikely(!uring || !READ_ONCE(uring->active) ||
		     !fuse_uring_carries(uring, req))) {
		rcu_read_unlock();
		return false;
	}

	home = uring->queues[READ_ONCE(uring->cpu_map[req->uring_cpu])];
	queue = home;
	background = test_bit(FR_BACKGROUND, &req->flags);
	if (background)
		queue = fuse_uring_spill(home, fuse_uring_kind(uring, req),
					 req->uring_area);

	spin_lock(&queue->lock);
	rcu_read_unlock();
	if (unlikely(!queue->live)) {
		spin_unlock(&queue->lock);
		return false;
	}

	if (unlikely(queue != home))
		queue->stats.spills++;
	/* A busy thread may be blocked, and one that commits will look */
	if (likely(fuse_uring_enqueue(queue, req) &&
		   (queue->nr_idle || !queue->nr_committing)))
		cmd = fuse_uring_call(queue, FUSE_URING_ORDINARY, req);
	/*
	 * A server that waits for several completions may wait for more, as
	 * long as there is another slot to call for synchronous requests.
	 */
	if (background)
		lazy = queue->set[FUSE_URING_ORDINARY].nr_parked;
	fuse_uring_unlock(queue);

	if (likely(cmd && !lazy))
		io_uring_cmd_complete_in_task(cmd, fuse_uring_called);
	else if (cmd)
		io_uring_cmd_do_in_task_lazy(cmd, fuse_uring_called);

	return true;
}

/* Whether a request is to use the ring.  Called under fiq->lock. */
bool fuse_uring_takes(struct fuse_iqueue *fiq, struct fuse_req *req)
{
	struct fuse_conn *fc = container_of(fiq, struct fuse_conn, iq);
	struct fuse_uring *uring = fuse_uring_locked(fc);

	return uring && uring->active && fiq->connected &&
		fuse_uring_carries(uring, req);
}

/*
 * Returns false if the request has to use /dev/fuse: no queue is live, or the
 * ring does not carry such requests.
 */
bool fuse_uring_send(struct fuse_iqueue *fiq, struct fuse_req *req)
{
	struct fuse_conn *fc = container_of(fiq, struct fuse_conn, iq);

	/* Only compared, and only while the request is pending */
	if (test_bit(FR_ISREPLY, &req->flags) &&
	    !test_bit(FR_BACKGROUND, &req->flags))
		req->uring_sender = current;
	fuse_uring_measure(req);

	return fuse_uring_try_send(fc, req);
}
