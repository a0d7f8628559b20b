// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: which CPU sends its requests to which queue.
 *
 * Every possible CPU has a home queue for the life of the ring.  CPUs are
 * dealt out node by node, so that a queue has CPUs of one node only as long
 * as there are enough queues for that.  While its home queue is not live, a
 * CPU's requests go to a live queue of the same node, else to any.
 */
#include "uring_i.h"

#include <linux/cpumask.h>
#include <linux/nodemask.h>
#include <linux/slab.h>
#include <linux/topology.h>

/*
 * Deal nr_cpus CPUs, given by their place among the possible CPUs in the order
 * of their nodes, out to nr_queues queues: in runs whose lengths differ by at
 * most one.
 */
static unsigned int fuse_uring_deal(unsigned int nth, unsigned int nr_cpus,
				    unsigned int nr_queues)
{
	return div_u64((u64)nth * nr_queues, nr_cpus);
}

static unsigned int fuse_uring_node_cpus(int node)
{
	unsigned int cpu, nr = 0;

	for_each_possible_cpu(cpu)
		nr += cpu_to_node(cpu) == node;

	return nr;
}

/* With fewer queues than nodes, neighbouring nodes share a queue */
static void fuse_uring_deal_all(struct fuse_uring *uring)
{
	unsigned int cpu, nth = 0, nr = num_possible_cpus();
	int node;

	for_each_node(node) {
		for_each_possible_cpu(cpu) {
			if (cpu_to_node(cpu) != node)
				continue;
			uring->cpu_home[cpu] =
				fuse_uring_deal(nth++, nr, uring->nr_queues);
		}
	}
}

/*
 * Each node gets one queue, and of the remaining ones its share by its CPUs.
 * Shares are of what is left for the nodes that are left, so that they add up.
 */
static void fuse_uring_deal_by_node(struct fuse_uring *uring,
				    unsigned int nr_nodes)
{
	unsigned int cpus_left = num_possible_cpus();
	unsigned int queues_left = uring->nr_queues;
	unsigned int cpu, first = 0;
	int node;

	for_each_node(node) {
		unsigned int nr_cpus = fuse_uring_node_cpus(node);
		unsigned int nr, others, nth = 0;

		if (!nr_cpus)
			continue;

		/* The other nodes need one each, and can use one per CPU */
		others = cpus_left - nr_cpus;
		nr_nodes--;
		nr = DIV_ROUND_CLOSEST(queues_left * nr_cpus, cpus_left);
		nr = clamp(nr, 1U, nr_cpus);
		nr = min(nr, queues_left - nr_nodes);
		if (queues_left - nr > others)
			nr = queues_left - others;

		for_each_possible_cpu(cpu) {
			if (cpu_to_node(cpu) != node)
				continue;
			uring->cpu_home[cpu] =
				first + fuse_uring_deal(nth++, nr_cpus, nr);
		}
		first += nr;
		queues_left -= nr;
		cpus_left -= nr_cpus;
	}
}

/**
 * fuse_uring_map_build - give each possible CPU its home queue
 * @uring: a ring with its number of queues, 1 to the number of possible CPUs
 *
 * One queue per CPU are numbered as the CPUs are.
 *
 * Return: 0 or -ENOMEM.
 */
int fuse_uring_map_build(struct fuse_uring *uring)
{
	unsigned int cpu, qid, nr_nodes = 0;
	int node;

	uring->cpu_home = kvcalloc(nr_cpu_ids, sizeof(u16), GFP_KERNEL_ACCOUNT);
	uring->cpu_map = kvcalloc(nr_cpu_ids, sizeof(u16), GFP_KERNEL_ACCOUNT);
	uring->by_node = kvcalloc(uring->nr_queues, sizeof(u16),
				  GFP_KERNEL_ACCOUNT);
	uring->scratch = kvcalloc(uring->nr_queues, 2 * sizeof(u16),
				  GFP_KERNEL_ACCOUNT);
	if (!uring->cpu_home || !uring->cpu_map || !uring->by_node ||
	    !uring->scratch)
		return -ENOMEM;

	for_each_node(node)
		nr_nodes += fuse_uring_node_cpus(node) > 0;

	if (uring->nr_queues == num_possible_cpus()) {
		qid = 0;
		for_each_possible_cpu(cpu)
			uring->cpu_home[cpu] = qid++;
	} else if (uring->nr_queues < nr_nodes) {
		fuse_uring_deal_all(uring);
	} else {
		fuse_uring_deal_by_node(uring, nr_nodes);
	}

	for_each_possible_cpu(cpu)
		uring->cpu_map[cpu] = uring->cpu_home[cpu];

	return 0;
}

void fuse_uring_map_free(struct fuse_uring *uring)
{
	kvfree(uring->cpu_home);
	kvfree(uring->cpu_map);
	kvfree(uring->by_node);
	kvfree(uring->scratch);
}

/*
 * For the queues by_node[first] to by_node[last - 1] that are not live, choose
 * a live one to stand in, in turn from among the @nr_live ones in @live.
 */
static void fuse_uring_stand_in(struct fuse_uring *uring, unsigned int first,
				unsigned int last, const u16 *live,
				unsigned int nr_live, u16 *stand_in)
{
	unsigned int i, turn = 0;

	for (i = first; i < last; i++) {
		u16 qid = uring->by_node[i];

		if (uring->queues[qid]->mapped_live)
			stand_in[qid] = qid;
		else
			stand_in[qid] = live[turn++ % nr_live];
	}
}

/**
 * fuse_uring_map_update - make the map send to live queues only
 * @uring: the ring
 *
 * Called under fiq->lock after a queue has become live or has ceased to be.
 * When no queue is live the map is left as it is.
 *
 * Return: the number of live queues.
 */
unsigned int fuse_uring_map_update(struct fuse_uring *uring)
{
	u16 *live = uring->scratch, *stand_in = live + uring->nr_queues;
	unsigned int first, last, i, cpu, nr_all = 0;

	lockdep_assert_held(&uring->fc->iq.lock);

	/* A first pass over all nodes, for those that have no live queue */
	for (i = 0; i < uring->nr_queues; i++) {
		u16 qid = uring->by_node[i];
		struct fuse_uring_queue *queue = uring->queues[qid];

		queue->mapped_live = READ_ONCE(queue->live);
		if (queue->mapped_live)
			live[nr_all++] = qid;
	}
	if (!nr_all)
		return 0;
	fuse_uring_stand_in(uring, 0, uring->nr_queues, live, nr_all, stand_in);

	/* And one for each node that has */
	for (first = 0; first < uring->nr_queues; first = last) {
		int node = uring->queues[uring->by_node[first]]->node;
		unsigned int nr = 0;

		for (last = first; last < uring->nr_queues; last++) {
			u16 qid = uring->by_node[last];

			if (uring->queues[qid]->node != node)
				break;
			if (uring->queues[qid]->mapped_live)
				live[nr++] = qid;
		}
		if (nr)
			fuse_uring_stand_in(uring, first, last, live, nr,
					    stand_in);
	}

	for_each_possible_cpu(cpu)
		WRITE_ONCE(uring->cpu_map[cpu], stand_in[uring->cpu_home[cpu]]);

	return nr_all;
}

/**
 * fuse_uring_map_stale - has a queue become live, or ceased to be, since?
 * @uring: the ring
 *
 * Called under fiq->lock.
 */
bool fuse_uring_map_stale(struct fuse_uring *uring)
{
	unsigned int qid;

	lockdep_assert_held(&uring->fc->iq.lock);

	for (qid = 0; qid < uring->nr_queues; qid++) {
		struct fuse_uring_queue *queue = uring->queues[qid];

		if (queue->mapped_live != READ_ONCE(queue->live))
			return true;
	}

	return false;
}

/**
 * fuse_uring_other_queue - a queue for a request of the server's own thread
 * @uring: the ring
 * @own: the queue that the thread serves
 *
 * A server that uses its own filesystem must not wait for itself.
 *
 * Return: a live queue that is served by somebody else, @own if there is none.
 */
struct fuse_uring_queue *fuse_uring_other_queue(struct fuse_uring *uring,
						struct fuse_uring_queue *own)
{
	unsigned int i, qid = own->qid;

	for (i = 1; i < uring->nr_queues; i++) {
		struct fuse_uring_queue *queue;

		if (++qid == uring->nr_queues)
			qid = 0;
		queue = uring->queues[qid];
		if (READ_ONCE(queue->live) &&
		    READ_ONCE(queue->server) != current)
			return queue;
	}

	return own;
}

/* How many queues a background request looks at */
#define FUSE_URING_SPILL_SCAN	8

static bool fuse_uring_has_room(struct fuse_uring_queue *queue)
{
	return READ_ONCE(queue->ordinary.nr_ready) &&
		READ_ONCE(queue->nr_background) < queue->uring->max_background;
}

/**
 * fuse_uring_spill - the queue for a background request
 * @queue: the queue that the request was routed to
 *
 * One thread that reads ahead sends all its requests from one CPU.  When that
 * CPU's queue has no slot or no credit left, take the one with most slots
 * ready among the next few queues of the node.  As fuse_uring_route(), this is
 * a hint.
 */
struct fuse_uring_queue *fuse_uring_spill(struct fuse_uring_queue *queue)
{
	struct fuse_uring *uring = queue->uring;
	struct fuse_uring_queue *best = NULL;
	unsigned int i, qid = queue->qid;

	if (fuse_uring_has_room(queue))
		return queue;

	for (i = 1; i < min(uring->nr_queues, FUSE_URING_SPILL_SCAN + 1U); i++) {
		struct fuse_uring_queue *other;

		if (++qid == uring->nr_queues)
			qid = 0;
		other = uring->queues[qid];
		if (other->node != queue->node || !fuse_uring_has_room(other))
			continue;
		if (!best ||
		    READ_ONCE(other->ordinary.nr_ready) > READ_ONCE(best->ordinary.nr_ready))
			best = other;
	}

	return best ?: queue;
}
