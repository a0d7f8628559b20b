// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: how CPUs are dealt out to queues.
 *
 * A function of nothing but its arguments, so that it can be tested with any
 * machine.  See uring_topology_test.c.
 */
#include "uring_i.h"

#include <linux/bitmap.h>
#include <linux/numa.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/sort.h>

/*
 * What it is worth when one queue ends and the next one begins between two
 * cores, last-level caches or nodes.  Any number of the lesser ones, there are
 * not more than queues, is worth less than one of the greater ones.
 */
#define FUSE_URING_END_CORE	BIT_ULL(0)
#define FUSE_URING_END_LLC	BIT_ULL(16)
#define FUSE_URING_END_NODE	BIT_ULL(32)

/* Own CPUs that get queues among themselves: those of a node, or all */
struct fuse_uring_group {
	unsigned int nr_cpus;
	unsigned int nr_queues;
};

/*
 * All arrays of CPU numbers are sorted by node, LLC, core and number.  Queues
 * have the order of their own CPUs until fuse_uring_deal_number() gives them
 * their numbers.
 */
struct fuse_uring_dealer {
	const struct fuse_uring_cpu *cpus;
	unsigned int nr_queues;
	u16 *home;
	/* Too few CPUs are own ones, so that all count as such */
	bool all_own;
	/* The CPUs there are, the own ones of these, the nodes of the latter */
	unsigned int nr_cpus;
	unsigned int nr_own;
	unsigned int nr_nodes;
	unsigned int *order;
	unsigned int *own;
	struct fuse_uring_group *groups;
	/* For fuse_uring_deal_plan() */
	u64 *worth;
	unsigned long *longer;
};

/* Queues whose own CPUs are near to others, which are dealt out to them */
struct fuse_uring_near {
	unsigned int first;
	unsigned int nr;
	unsigned int turn;
};

static bool fuse_uring_same_node(const struct fuse_uring_cpu *a,
				 const struct fuse_uring_cpu *b)
{
	return a->node == b->node;
}

static bool fuse_uring_same_llc(const struct fuse_uring_cpu *a,
				const struct fuse_uring_cpu *b)
{
	return fuse_uring_same_node(a, b) && a->llc == b->llc;
}

static bool fuse_uring_same_core(const struct fuse_uring_cpu *a,
				 const struct fuse_uring_cpu *b)
{
	return fuse_uring_same_llc(a, b) && a->core == b->core;
}

static bool fuse_uring_is_own(const struct fuse_uring_dealer *d,
			      unsigned int cpu)
{
	return d->all_own || d->cpus[cpu].own;
}

static int fuse_uring_cmp_number(unsigned int a, unsigned int b)
{
	return a < b ? -1 : a > b;
}

static int fuse_uring_cmp(const void *pa, const void *pb, const void *priv)
{
	unsigned int a = *(const unsigned int *)pa;
	unsigned int b = *(const unsigned int *)pb;
	const struct fuse_uring_cpu *cpus = priv;

	return fuse_uring_cmp_number(cpus[a].node, cpus[b].node) ?:
		fuse_uring_cmp_number(cpus[a].llc, cpus[b].llc) ?:
		fuse_uring_cmp_number(cpus[a].core, cpus[b].core) ?:
		fuse_uring_cmp_number(a, b);
}

/* Sort the CPUs, and find the own ones and their nodes */
static void fuse_uring_deal_sort(struct fuse_uring_dealer *d,
				 unsigned int nr_cpu_numbers)
{
	unsigned int i, cpu, nr = 0;

	for (cpu = 0; cpu < nr_cpu_numbers; cpu++)
		if (d->cpus[cpu].node != NUMA_NO_NODE)
			d->order[nr++] = cpu;
	sort_r(d->order, nr, sizeof(*d->order), fuse_uring_cmp, NULL, d->cpus);

	nr = 0;
	for (i = 0; i < d->nr_cpus; i++)
		if (fuse_uring_is_own(d, d->order[i]))
			d->own[nr++] = d->order[i];

	d->nr_nodes = 1;
	for (i = 1; i < d->nr_own; i++)
		d->nr_nodes += !fuse_uring_same_node(&d->cpus[d->own[i - 1]],
						     &d->cpus[d->own[i]]);
}

/*
 * Each group gets a queue, and each further queue goes to the one with the
 * most CPUs per queue.  As there are not more queues than CPUs, that is never
 * one that has as many queues as CPUs.
 */
static unsigned int fuse_uring_deal_shares(struct fuse_uring_dealer *d)
{
	unsigned int i, left, nr = 1;

	/* With fewer queues than nodes there is one group */
	d->groups[0] = (struct fuse_uring_group){ 1, 1 };
	for (i = 1; i < d->nr_own; i++) {
		if (d->nr_queues >= d->nr_nodes &&
		    !fuse_uring_same_node(&d->cpus[d->own[i - 1]],
					  &d->cpus[d->own[i]]))
			d->groups[nr++] = (struct fuse_uring_group){ 0, 1 };
		d->groups[nr - 1].nr_cpus++;
	}

	for (left = d->nr_queues - nr; left; left--) {
		struct fuse_uring_group *most = &d->groups[0];

		for (i = 1; i < nr; i++) {
			struct fuse_uring_group *group = &d->groups[i];

			if ((u64)group->nr_cpus * most->nr_queues >
			    (u64)most->nr_cpus * group->nr_queues)
				most = group;
		}
		most->nr_queues++;
	}

	return nr;
}

/* What it is worth that a queue ends with own[end - 1] */
static u64 fuse_uring_end_worth(const struct fuse_uring_dealer *d,
				const unsigned int *own, unsigned int end)
{
	const struct fuse_uring_cpu *a = &d->cpus[own[end - 1]];
	const struct fuse_uring_cpu *b = &d->cpus[own[end]];

	if (!fuse_uring_same_node(a, b))
		return FUSE_URING_END_NODE;
	if (!fuse_uring_same_llc(a, b))
		return FUSE_URING_END_LLC;
	if (!fuse_uring_same_core(a, b))
		return FUSE_URING_END_CORE;

	return 0;
}

/*
 * Find the best lengths of a group's runs, which are n / q and, for n % q of
 * them, one more.
 *
 * After @i runs of which @nr were longer it is known where the next one
 * begins, however they were arranged.  So go through these from the last run
 * to the first: whether the longer run is the better choice follows from what
 * its end is worth, and all ends after it.
 */
static void fuse_uring_deal_plan(const struct fuse_uring_dealer *d,
				 const struct fuse_uring_group *group,
				 const unsigned int *own)
{
	unsigned int n = group->nr_cpus, q = group->nr_queues;
	unsigned int len = n / q, nr_longer = n % q;
	unsigned int i, nr, end;

	/* worth[nr]: of all ends behind this run, when nr were longer so far */
	d->worth[nr_longer] = 0;
	for (i = q; i--;) {
		/* At least as many as the runs that follow leave */
		nr = nr_longer > q - i ? nr_longer - (q - i) : 0;
		for (; nr <= min(i, nr_longer); nr++) {
			bool can_short = nr_longer - nr < q - i;
			bool can_long = nr < nr_longer;
			u64 shorter = 0, longer = 0;
			bool is_long = can_long;

			end = i * len + nr + len;
			if (can_short)
				shorter = d->worth[nr];
			if (can_short && end < n)
				shorter += fuse_uring_end_worth(d, own, end);
			if (can_long)
				longer = d->worth[nr + 1];
			if (can_long && end + 1 < n)
				longer += fuse_uring_end_worth(d, own, end + 1);

			/* When both are as good, where it is spread evenly */
			if (can_short && can_long)
				is_long = longer > shorter ||
					(longer == shorter &&
					 (u64)end * q < (u64)(i + 1) * n);
			d->worth[nr] = is_long ? longer : shorter;
			__assign_bit((size_t)i * (nr_longer + 1) + nr,
				     d->longer, is_long);
		}
		cond_resched();
	}
}

/* Deal a group's CPUs out to its queues, which are @first and following */
static void fuse_uring_deal_group(const struct fuse_uring_dealer *d,
				  const struct fuse_uring_group *group,
				  const unsigned int *own, unsigned int first)
{
	unsigned int len = group->nr_cpus / group->nr_queues;
	unsigned int nr_longer = group->nr_cpus % group->nr_queues;
	unsigned int i, left, nr = 0;

	fuse_uring_deal_plan(d, group, own);

	for (i = 0; i < group->nr_queues; i++) {
		left = len;
		if (test_bit((size_t)i * (nr_longer + 1) + nr, d->longer)) {
			left++;
			nr++;
		}
		while (left--)
			d->home[*own++] = first + i;
	}
}

/* The queues with own CPUs among order[i] and those that are @same */
static struct fuse_uring_near
fuse_uring_deal_near(const struct fuse_uring_dealer *d, unsigned int i,
		     bool (*same)(const struct fuse_uring_cpu *a,
				  const struct fuse_uring_cpu *b))
{
	const struct fuse_uring_cpu *of = &d->cpus[d->order[i]];
	struct fuse_uring_near near = {};

	for (; i < d->nr_cpus && same(of, &d->cpus[d->order[i]]); i++) {
		unsigned int cpu = d->order[i];

		if (!fuse_uring_is_own(d, cpu))
			continue;
		if (!near.nr)
			near.first = d->home[cpu];
		near.nr = d->home[cpu] - near.first + 1;
	}

	return near;
}

/* Deal the CPUs that are not own out to the queues nearest to them */
static void fuse_uring_deal_others(const struct fuse_uring_dealer *d)
{
	struct fuse_uring_near all = { .nr = d->nr_queues };
	struct fuse_uring_near node = {}, llc = {};
	unsigned int i;

	for (i = 0; i < d->nr_cpus; i++) {
		const struct fuse_uring_cpu *cpu = &d->cpus[d->order[i]];
		const struct fuse_uring_cpu *prev = NULL;
		struct fuse_uring_near *near;

		if (i)
			prev = &d->cpus[d->order[i - 1]];
		if (!prev || !fuse_uring_same_node(prev, cpu))
			node = fuse_uring_deal_near(d, i, fuse_uring_same_node);
		if (!prev || !fuse_uring_same_llc(prev, cpu))
			llc = fuse_uring_deal_near(d, i, fuse_uring_same_llc);
		if (fuse_uring_is_own(d, d->order[i]))
			continue;

		near = llc.nr ? &llc : node.nr ? &node : &all;
		d->home[d->order[i]] = near->first + near->turn++ % near->nr;
	}
}

/* Number the queues by their lowest own CPUs */
static int fuse_uring_deal_number(const struct fuse_uring_dealer *d,
				  unsigned int nr_cpu_numbers)
{
	unsigned int cpu, nr = 0;
	u16 *number;

	number = kvmalloc_array(d->nr_queues, sizeof(*number), GFP_KERNEL);
	if (!number)
		return -ENOMEM;

	memset(number, 0xff, d->nr_queues * sizeof(*number));
	for (cpu = 0; cpu < nr_cpu_numbers; cpu++)
		if (d->cpus[cpu].node != NUMA_NO_NODE &&
		    fuse_uring_is_own(d, cpu) && number[d->home[cpu]] == U16_MAX)
			number[d->home[cpu]] = nr++;
	for (cpu = 0; cpu < nr_cpu_numbers; cpu++)
		if (d->cpus[cpu].node != NUMA_NO_NODE)
			d->home[cpu] = number[d->home[cpu]];

	kvfree(number);
	return 0;
}

/* Scratch memory for fuse_uring_deal_plan() of the group that needs most */
static int fuse_uring_deal_alloc_plan(struct fuse_uring_dealer *d,
				      unsigned int nr_groups)
{
	unsigned int i, nr_longer, max_longer = 0;
	size_t nr_bits = 0;

	for (i = 0; i < nr_groups; i++) {
		const struct fuse_uring_group *group = &d->groups[i];

		nr_longer = group->nr_cpus % group->nr_queues;
		max_longer = max(max_longer, nr_longer);
		nr_bits = max(nr_bits,
			      (size_t)group->nr_queues * (nr_longer + 1));
	}

	d->worth = kvmalloc_array(max_longer + 1, sizeof(*d->worth),
				  GFP_KERNEL);
	d->longer = kvmalloc_array(BITS_TO_LONGS(nr_bits), sizeof(*d->longer),
				   GFP_KERNEL);
	return d->worth && d->longer ? 0 : -ENOMEM;
}

/**
 * fuse_uring_deal - deal CPUs out to queues
 * @cpus: the machine, by CPU number
 * @nr_cpus: length of @cpus
 * @nr_queues: how many queues there are
 * @home: for each CPU that there is, the number of its queue; of length
 *	@nr_cpus, nothing else of it is written to
 *
 * The result depends on nothing but @cpus and @nr_queues.
 *
 * 1. The CPUs that are dealt out are those that are to have queues of their
 *    own.  When these are fewer than the queues, all CPUs count as such.
 * 2. They are sorted by node, by last-level cache within a node, by core
 *    within the CPUs that share one, and by number within a core.
 * 3. As long as there are no fewer queues than nodes with such CPUs, no queue
 *    has CPUs of two nodes.  Each node gets one queue, and each further queue
 *    goes to the node that has the most CPUs per queue then, the lowest of
 *    these if there are several.  With fewer queues than nodes all CPUs are
 *    dealt out as if they were of one node.
 * 4. Each queue of a node gets a run of the node's CPUs in their order, and
 *    the lengths of the runs differ by at most one.  Which runs are longer is
 *    chosen so that as many of them as possible end where the CPUs of a
 *    last-level cache end, then as many as possible where those of a core
 *    end.  Among choices that are as good the longer ones are spread evenly.
 *    With fewer queues than nodes, ends of nodes come before all of these.
 * 5. The other CPUs, in the same order, go in turn to the queues with CPUs
 *    that share their last-level cache.  Those that share it with no such
 *    queue go in turn to the queues of their node, and those of nodes without
 *    queues in turn to all queues.
 * 6. Queues are numbered in the order of the lowest CPU number that each was
 *    dealt by rules 1 to 4.  So one queue per CPU are numbered as the CPUs.
 *
 * Takes time that grows with the square of the CPUs of a node in the worst
 * case, and may sleep.
 *
 * Return: 0; -EINVAL when there is no queue, or more than there are CPUs;
 * -ENOMEM.
 */
int fuse_uring_deal(const struct fuse_uring_cpu *cpus, unsigned int nr_cpus,
		    unsigned int nr_queues, u16 *home)
{
	struct fuse_uring_dealer d = {
		.cpus = cpus,
		.nr_queues = nr_queues,
		.home = home,
	};
	unsigned int cpu, i, nr_groups, at = 0, first = 0;
	int err = -ENOMEM;

	for (cpu = 0; cpu < nr_cpus; cpu++) {
		if (cpus[cpu].node == NUMA_NO_NODE)
			continue;
		d.nr_cpus++;
		d.nr_own += cpus[cpu].own;
	}
	if (!nr_queues || nr_queues > d.nr_cpus)
		return -EINVAL;
	if (d.nr_own < nr_queues) {
		d.all_own = true;
		d.nr_own = d.nr_cpus;
	}

	d.order = kvmalloc_array(d.nr_cpus, sizeof(*d.order), GFP_KERNEL);
	d.own = kvmalloc_array(d.nr_own, sizeof(*d.own), GFP_KERNEL);
	if (!d.order || !d.own)
		goto out;
	fuse_uring_deal_sort(&d, nr_cpus);

	d.groups = kvmalloc_array(d.nr_nodes, sizeof(*d.groups), GFP_KERNEL);
	if (!d.groups)
		goto out;
	nr_groups = fuse_uring_deal_shares(&d);
	if (fuse_uring_deal_alloc_plan(&d, nr_groups))
		goto out;

	for (i = 0; i < nr_groups; i++) {
		fuse_uring_deal_group(&d, &d.groups[i], d.own + at, first);
		at += d.groups[i].nr_cpus;
		first += d.groups[i].nr_queues;
	}
	fuse_uring_deal_others(&d);
	err = fuse_uring_deal_number(&d, nr_cpus);
out:
	kvfree(d.longer);
	kvfree(d.worth);
	kvfree(d.groups);
	kvfree(d.own);
	kvfree(d.order);
	return err;
}
