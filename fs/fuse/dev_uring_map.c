// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: which CPU sends its requests to which queue.
 *
 * Each possible CPU has a home queue, see fuse_uring_spread().  While that is
 * not live its requests go to a live queue of the same node, else to any.
 */
#include "dev_uring_i.h"

#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/topology.h>

/* The CPUs of a node, and the queues that they are spread over */
struct fuse_uring_node {
	struct fuse_uring_cpu *cpus;
	unsigned int nr_cpus;
	unsigned int nr_own;
	unsigned int qid;
	unsigned int nr_queues;
};

static int fuse_uring_cmp_place(const void *pa, const void *pb)
{
	const struct fuse_uring_cpu *a = pa, *b = pb;

	return a->node - b->node ?: a->core - b->core ?:
		b->own - a->own ?: a->cpu - b->cpu;
}

static int fuse_uring_cmp_number(const void *pa, const void *pb)
{
	const struct fuse_uring_cpu *a = pa, *b = pb;

	return a->cpu - b->cpu;
}

/* Off-line CPUs count as own only if there are queues left */
static void fuse_uring_choose_own(struct fuse_uring_cpu *cpus,
				  unsigned int nr_cpus, unsigned int nr_queues)
{
	unsigned int i, nr = 0;

	for (i = 0; i < nr_cpus; i++)
		nr += cpus[i].own && cpus[i].online;
	for (i = 0; i < nr_cpus; i++)
		if (cpus[i].own && !cpus[i].online)
			cpus[i].own = nr++ < nr_queues;
}

/* Find the nodes of the sorted @cpus, return their number */
static unsigned int fuse_uring_find_nodes(struct fuse_uring_cpu *cpus,
					  unsigned int nr_cpus,
					  struct fuse_uring_node *nodes)
{
	unsigned int i, nr = 0;

	for (i = 0; i < nr_cpus; i++) {
		if (!i || cpus[i].node != cpus[i - 1].node)
			nodes[nr++].cpus = &cpus[i];
		nodes[nr - 1].nr_cpus++;
		nodes[nr - 1].nr_own += cpus[i].own;
	}

	return nr;
}

/*
 * Each node with own CPUs gets a queue.  Each further queue goes to the node
 * with the most own CPUs per queue, so no node gets more queues than own CPUs.
 */
static void fuse_uring_share_queues(struct fuse_uring_node *nodes,
				    unsigned int nr_nodes,
				    unsigned int nr_queues)
{
	struct fuse_uring_node *node, *most, *end = nodes + nr_nodes;
	unsigned int nr_own = 0, nth = 0, qid = 0, i;

	for (node = nodes; node < end; node++) {
		node->nr_queues = 1;
		nr_own += !!node->nr_own;
	}
	for (i = nr_own; i < nr_queues; i++) {
		most = nodes;
		for (node = nodes; node < end; node++)
			if ((u64)node->nr_own * most->nr_queues >
			    (u64)most->nr_own * node->nr_queues)
				most = node;
		most->nr_queues++;
	}
	for (node = nodes; node < end; node++) {
		if (!node->nr_own) {
			node->nr_queues = nr_queues;
			continue;
		}
		node->qid = nr_queues < nr_own ? nth++ * nr_queues / nr_own : qid;
		qid += node->nr_queues;
	}
}

/* Spread a node's CPUs over its queues */
static void fuse_uring_spread_node(const struct fuse_uring_node *node)
{
	unsigned int nr_cores = 0, nr_near = 0, nr_before = 0, nr_others = 0;
	struct fuse_uring_cpu *cpu, *end = node->cpus + node->nr_cpus;
	unsigned int left, nth = 0, nr_queues = node->nr_queues;
	const struct fuse_uring_cpu *own = NULL;

	/* The own CPUs of a core come before its other CPUs */
	for (cpu = node->cpus; cpu < end; cpu++) {
		bool sibling = own && own->core == cpu->core;

		if (cpu->own)
			own = cpu;
		nr_cores += cpu->own && !sibling;
		nr_near += cpu->own || sibling;
	}

	/* Cores, or CPUs if queues outnumber cores, not yet given to a queue */
	left = nr_queues > nr_cores ? node->nr_own : nr_cores;
	own = NULL;
	for (cpu = node->cpus; cpu < end; cpu++) {
		bool sibling = own && own->core == cpu->core;

		if (cpu->own) {
			/* Skip no queue, and leave none over */
			if (own && (!sibling || nr_queues > nr_cores)) {
				left--;
				nth = clamp(nr_before * nr_queues / node->nr_own,
					    nr_queues - min(nr_queues, left),
					    nth + 1);
			}
			nr_before++;
			own = cpu;
		}
		if (cpu->own || sibling)
			cpu->home = node->qid + nth;
		else
			cpu->home = node->qid + nr_others++ * nr_queues /
				(node->nr_cpus - nr_near);
	}
}

/*
 * Give each of @cpus, which are in the order of their numbers, one of
 * @nr_queues queues.  These are at most as many as own CPUs.  Returns 0 or
 * -ENOMEM.
 *
 * 1. Queues are for own CPUs.  An off-line CPU counts as own only while there
 *    are more queues than own CPUs.
 *
 * 2. If there are at least as many queues as nodes with own CPUs, each such
 *    node gets queues in proportion to its own CPUs, at least one, and shares
 *    none.  With fewer queues no node is split.
 *
 * 3. Each queue gets a run of its node's cores, in the order of their lowest
 *    CPUs, with as even a number of own CPUs as whole cores allow.  A node with
 *    more queues than cores splits cores: its runs of CPUs differ by at most
 *    one in length.  Cores that share a last-level cache have consecutive
 *    numbers.  So runs end where caches end, if all caches are of one size and
 *    the number of queues is a multiple or a divisor of theirs.
 *
 * 4. Other CPUs get the queue of a sibling, else they are spread over the
 *    queues of their node, or over all queues if the node has none.
 *
 * 5. Queues are numbered in the order of their lowest own CPUs.
 */
int fuse_uring_spread(struct fuse_uring_cpu *cpus, unsigned int nr_cpus,
		      unsigned int nr_queues)
{
	struct fuse_uring_node *nodes;
	unsigned int i, nr_nodes, nr = 0;
	int err = -ENOMEM;
	u16 *number;

	nodes = kvcalloc(nr_cpus, sizeof(*nodes), GFP_KERNEL);
	number = kvmalloc_array(nr_queues, sizeof(*number), GFP_KERNEL);
	if (!nodes || !number)
		goto out;

	fuse_uring_choose_own(cpus, nr_cpus, nr_queues);
	sort(cpus, nr_cpus, sizeof(*cpus), fuse_uring_cmp_place, NULL);
	nr_nodes = fuse_uring_find_nodes(cpus, nr_cpus, nodes);
	fuse_uring_share_queues(nodes, nr_nodes, nr_queues);
	for (i = 0; i < nr_nodes; i++)
		fuse_uring_spread_node(&nodes[i]);

	sort(cpus, nr_cpus, sizeof(*cpus), fuse_uring_cmp_number, NULL);
	memset(number, 0xff, nr_queues * sizeof(*number));
	for (i = 0; i < nr_cpus; i++)
		if (cpus[i].own && number[cpus[i].home] == U16_MAX)
			number[cpus[i].home] = nr++;
	for (i = 0; i < nr_cpus; i++)
		cpus[i].home = number[cpus[i].home];
	err = 0;
out:
	kvfree(number);
	kvfree(nodes);
	return err;
}

/* Describe the machine for fuse_uring_spread(), return the number of CPUs */
static unsigned int fuse_uring_describe(const struct cpumask *own,
					struct fuse_uring_cpu *cpus)
{
	unsigned int cpu, core, nr = 0;

	cpus_read_lock();
	for_each_possible_cpu(cpu) {
		/* Off-line CPUs may have no siblings, not even themselves */
		core = cpumask_first(topology_sibling_cpumask(cpu));
		cpus[nr++] = (struct fuse_uring_cpu){
			.cpu	= cpu,
			.node	= cpu_to_node(cpu),
			.core	= core < nr_cpu_ids ? core : cpu,
			.own	= cpumask_test_cpu(cpu, own),
			.online	= cpu_online(cpu),
		};
	}
	cpus_read_unlock();

	return nr;
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

/*
 * Home queues for a managed ring.  The node of a queue is that of its lowest
 * own CPU.
 */
int fuse_uring_map_build(struct fuse_uring *uring, const struct cpumask *own)
{
	struct fuse_uring_cpu *cpus;
	unsigned int i, nr_cpus;
	int err;

	err = fuse_uring_map_alloc(uring);
	if (err)
		return err;

	cpus = kvcalloc(num_possible_cpus(), sizeof(*cpus), GFP_KERNEL);
	if (!cpus)
		return -ENOMEM;

	nr_cpus = fuse_uring_describe(own, cpus);
	err = fuse_uring_spread(cpus, nr_cpus, uring->nr_queues);
	for (i = nr_cpus; !err && i--;) {
		uring->cpu_home[cpus[i].cpu] = cpus[i].home;
		uring->cpu_map[cpus[i].cpu] = cpus[i].home;
		if (cpus[i].own)
			uring->queue_node[cpus[i].home] = cpus[i].node;
	}
	kvfree(cpus);

	return err;
}

/* Servers with user buffers name queues by CPU */
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
 * Let queues of @live, in turn, stand in for those of by_node[first] to
 * by_node[last - 1] that are not live.
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

/*
 * Whether a queue with one slot may give it to an open-ended request.  The
 * first of several live queues may not: what such requests wait for needs a
 * slot.
 */
static void fuse_uring_map_lend(struct fuse_uring *uring, unsigned int nr_live)
{
	bool kept = nr_live == 1;
	unsigned int i;

	for (i = 0; i < uring->nr_queues; i++) {
		struct fuse_uring_queue *queue = uring->queues[i];

		WRITE_ONCE(queue->may_lend, queue->mapped_live && kept);
		kept |= queue->mapped_live;
	}
}

/*
 * Make the map send to live queues only.  Without one the map stays.  Returns
 * whether a queue has become live, or has ceased to be.
 */
bool fuse_uring_map_update(struct fuse_uring *uring)
{
	u16 *live = uring->scratch, *stand_in = live + uring->nr_queues;
	unsigned int first, last, i, cpu, nr_all = 0;
	bool changed = false;

	lockdep_assert_held(&uring->fc->iq.lock);

	/* Over all nodes, for nodes without a live queue */
	for (i = 0; i < uring->nr_queues; i++) {
		u16 qid = uring->by_node[i];
		struct fuse_uring_queue *queue = uring->queues[qid];

		changed |= queue->mapped_live != READ_ONCE(queue->live);
		queue->mapped_live = READ_ONCE(queue->live);
		if (queue->mapped_live)
			live[nr_all++] = qid;
	}
	uring->active = nr_all;
	if (!nr_all || !changed)
		return changed;
	fuse_uring_stand_in(uring, 0, uring->nr_queues, live, nr_all, stand_in);

	/* Within each node that has one */
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
	fuse_uring_map_lend(uring, nr_all);

	return true;
}
