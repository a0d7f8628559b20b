// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: which CPU sends its requests to which queue.
 *
 * Every possible CPU has a home queue for the life of the ring, by the rules
 * of fuse_uring_deal().  While its home queue is not live, a CPU's requests go
 * to a live queue of the same node, else to any.
 */
#include "uring_i.h"

#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/sched/topology.h>
#include <linux/slab.h>
#include <linux/topology.h>

/*
 * A number for the CPUs of a node that share their last-level cache with this
 * one: the lowest of those that are on-line.  CPUs before this one have theirs
 * already.  What off-line ones share is not known.
 */
static unsigned int fuse_uring_llc(const struct fuse_uring_cpu *cpus,
				   unsigned int cpu)
{
	unsigned int other;

	if (!cpu_online(cpu))
		return UINT_MAX;

	for_each_online_cpu(other) {
		if (other == cpu)
			break;
		if (cpus[other].node == cpus[cpu].node &&
		    cpus[other].llc == other && cpus_share_cache(cpu, other))
			return other;
	}

	return cpu;
}

/* Describe the machine for fuse_uring_deal() */
static void fuse_uring_describe(struct fuse_uring *uring,
				const struct cpumask *own,
				struct fuse_uring_cpu *cpus)
{
	unsigned int cpu, nr = 0;

	for (cpu = 0; cpu < nr_cpu_ids; cpu++)
		cpus[cpu].node = NUMA_NO_NODE;

	cpus_read_lock();
	for_each_possible_cpu(cpu) {
		int node = cpu_to_node(cpu);

		cpus[cpu].node = node == NUMA_NO_NODE ? 0 : node;
		nr += cpu_online(cpu) && cpumask_test_cpu(cpu, own);
	}
	for_each_possible_cpu(cpu) {
		unsigned int core;

		cpus[cpu].llc = fuse_uring_llc(cpus, cpu);
		/* Off-line CPUs may have no siblings, not even themselves */
		core = cpumask_first(topology_sibling_cpumask(cpu));
		cpus[cpu].core = core < nr_cpu_ids ? core : cpu;
		/* Off-line ones have queues when there are queues left */
		cpus[cpu].own = cpumask_test_cpu(cpu, own) &&
			(cpu_online(cpu) || nr < uring->nr_queues);
	}
	cpus_read_unlock();
}

/*
 * The node of a queue's CPUs.  When they are of several nodes the memory is
 * best where the first of those is that have queues of their own, as is that
 * of any other queue.
 */
static void fuse_uring_map_nodes(struct fuse_uring *uring,
				 const struct fuse_uring_cpu *cpus)
{
	unsigned int cpu, qid, pass;

	for (qid = 0; qid < uring->nr_queues; qid++)
		uring->queue_node[qid] = NUMA_NO_NODE;

	for (pass = 0; pass < 2; pass++) {
		for_each_possible_cpu(cpu) {
			int *node = &uring->queue_node[uring->cpu_home[cpu]];

			if (*node == NUMA_NO_NODE && (pass || cpus[cpu].own))
				*node = cpu_to_node(cpu);
		}
	}
}

static int fuse_uring_map_alloc(struct fuse_uring *uring)
{
	uring->cpu_home = kvcalloc(nr_cpu_ids, sizeof(u16), GFP_KERNEL_ACCOUNT);
	uring->cpu_map = kvcalloc(nr_cpu_ids, sizeof(u16), GFP_KERNEL_ACCOUNT);
	uring->queue_node = kvcalloc(uring->nr_queues, sizeof(int),
				     GFP_KERNEL_ACCOUNT);
	uring->by_node = kvcalloc(uring->nr_queues, sizeof(u16),
				  GFP_KERNEL_ACCOUNT);
	uring->scratch = kvcalloc(uring->nr_queues, 2 * sizeof(u16),
				  GFP_KERNEL_ACCOUNT);
	if (!uring->cpu_home || !uring->cpu_map || !uring->queue_node ||
	    !uring->by_node || !uring->scratch)
		return -ENOMEM;

	return 0;
}

/**
 * fuse_uring_map_build - give each possible CPU its home queue
 * @uring: a ring with its number of queues, 1 to the number of possible CPUs
 * @own: the possible CPUs that the queues are for
 *
 * See fuse_uring_deal().  One queue per CPU are numbered as the CPUs are.
 *
 * Return: 0 or -ENOMEM.
 */
int fuse_uring_map_build(struct fuse_uring *uring, const struct cpumask *own)
{
	struct fuse_uring_cpu *cpus;
	unsigned int cpu;
	int err;

	err = fuse_uring_map_alloc(uring);
	if (err)
		return err;

	cpus = kvcalloc(nr_cpu_ids, sizeof(*cpus), GFP_KERNEL);
	if (!cpus)
		return -ENOMEM;

	fuse_uring_describe(uring, own, cpus);
	err = fuse_uring_deal(cpus, nr_cpu_ids, uring->nr_queues,
			      uring->cpu_home);
	if (!err)
		fuse_uring_map_nodes(uring, cpus);
	kvfree(cpus);
	if (err)
		return err;

	for_each_possible_cpu(cpu)
		uring->cpu_map[cpu] = uring->cpu_home[cpu];

	return 0;
}

/**
 * fuse_uring_map_build_user - give each possible CPU the queue of its number
 * @uring: a ring with a queue for each number that a CPU can have
 *
 * Servers with user buffers name queues by CPU.
 *
 * Return: 0 or -ENOMEM.
 */
int fuse_uring_map_build_user(struct fuse_uring *uring)
{
	unsigned int cpu;
	int err;

	err = fuse_uring_map_alloc(uring);
	if (err)
		return err;

	for (cpu = 0; cpu < uring->nr_queues; cpu++)
		uring->queue_node[cpu] = NUMA_NO_NODE;
	for_each_possible_cpu(cpu) {
		uring->queue_node[cpu] = cpu_to_node(cpu);
		uring->cpu_home[cpu] = cpu;
		uring->cpu_map[cpu] = cpu;
	}

	return 0;
}

void fuse_uring_map_free(struct fuse_uring *uring)
{
	kvfree(uring->cpu_home);
	kvfree(uring->cpu_map);
	kvfree(uring->queue_node);
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

/* How many other queues a background request looks at */
#define FUSE_URING_SPILL_SCAN	8

/* Hints, as the queue is not locked */
static bool fuse_uring_has_room(struct fuse_uring_queue *queue,
				unsigned int area)
{
	return READ_ONCE(queue->ordinary.nr_ready) &&
		fuse_uring_has_credit(queue) &&
		(area <= queue->uring->small_size ||
		 area <= READ_ONCE(queue->pool.nr_free) * FUSE_URING_POOL_CHUNK);
}

/**
 * fuse_uring_spill - the queue for a background request
 * @queue: the queue that the request was routed to
 * @area: bytes of payload that the request needs room for
 *
 * One thread that reads ahead sends all its requests from one CPU.  When that
 * CPU's queue has no slot, credit or memory left, take the one with most slots
 * ready among the next few queues of the node.  As fuse_uring_route(), this is
 * a hint.
 */
struct fuse_uring_queue *fuse_uring_spill(struct fuse_uring_queue *queue,
					  unsigned int area)
{
	struct fuse_uring *uring = queue->uring;
	unsigned int i, nth, nr_ready, most = 0;
	struct fuse_uring_queue *best = queue;

	if (fuse_uring_has_room(queue, area))
		return queue;

	nth = queue->nth_of_node;
	for (i = 1; i < min(queue->nr_of_node, FUSE_URING_SPILL_SCAN + 1U); i++) {
		struct fuse_uring_queue *other;

		if (++nth == queue->nr_of_node)
			nth = 0;
		other = uring->queues[uring->by_node[queue->first_of_node + nth]];
		nr_ready = READ_ONCE(other->ordinary.nr_ready);
		if (nr_ready > most && fuse_uring_has_room(other, area)) {
			most = nr_ready;
			best = other;
		}
	}

	return best;
}
