// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of how CPUs are dealt out to queues.
 *
 * Each rule of fuse_uring_deal() is checked on machines that are made up, with
 * any number of queues (for large machines with many of them).
 */
#include <kunit/test.h>

#include "uring_i.h"

#include <linux/numa.h>
#include <linux/sched.h>
#include <linux/sort.h>

#define MAX_NODES	16
#define MAX_NUMBERS	1536

/* Machines up to this size are tested with each possible number of queues */
#define SMALL		64

/**
 * struct machine - a machine, and the CPUs that a server runs on
 * @name: what it is
 * @cores: of each node
 * @threads: of each core, 0 as 1
 * @nr_single: so many of each node's cores, the last ones, have one thread
 * @llc: cores that share a last-level cache, for the first, second... cache of
 *	a node and again from the start; none: all of the node share one
 * @interleaved: CPU numbers go round the nodes
 * @siblings_last: siblings have the numbers behind those of all first threads
 * @hole: there is no CPU with each so manieth number
 * @offline: each so manieth CPU is off-line
 * @first: the server runs on the CPUs from this one...
 * @last: ...to this one, 0: on all
 */
struct machine {
	const char *name;
	u16 cores[MAX_NODES];
	u8 threads;
	u8 nr_single;
	u16 llc[4];
	bool interleaved;
	bool siblings_last;
	u8 hole;
	u8 offline;
	u16 first;
	u16 last;
};

static const struct machine machines[] = {
	{ "1 CPU", { 1 } },
	{ "2 CPUs", { 2 } },
	{ "7 CPUs", { 7 } },
	{ "64 CPUs", { 64 } },
	{ "1 core with 2 threads", { 1 }, .threads = 2 },
	{ "8 cores with 2 threads", { 8 }, .threads = 2 },
	{ "8 cores with 2 threads, siblings last", { 8 }, .threads = 2,
	  .siblings_last = true },
	{ "6 cores with 4 threads", { 6 }, .threads = 4 },
	{ "6 cores with 8 threads, siblings last", { 6 }, .threads = 8,
	  .siblings_last = true },
	{ "8 cores, half of them with 2 threads", { 8 }, .threads = 2,
	  .nr_single = 4 },
	{ "2 nodes of 2", { 2, 2 } },
	{ "2 nodes of 8 cores with 2 threads", { 8, 8 }, .threads = 2,
	  .siblings_last = true },
	{ "2 nodes, interleaved", { 6, 6 }, .interleaved = true },
	{ "2 nodes, interleaved, siblings last", { 4, 4 }, .threads = 2,
	  .interleaved = true, .siblings_last = true },
	{ "4 nodes of 3", { 3, 3, 3, 3 } },
	{ "nodes of 1, 2, 4, 8", { 1, 2, 4, 8 } },
	{ "nodes of 8, 4, 2, 1", { 8, 4, 2, 1 }, .threads = 2 },
	{ "nodes of 5 and 11, interleaved", { 5, 11 }, .interleaved = true },
	{ "nodes of 31 and 1", { 31, 1 } },
	{ "nodes of 4, some of memory only", { 0, 4, 0, 0, 4, 4, 0 } },
	{ "16 nodes of 1", { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 } },
	{ "16 nodes of 3 cores with 2 threads, interleaved",
	  { 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3 }, .threads = 2,
	  .interleaved = true },
	{ "2 LLCs of 4", { 8 }, .llc = { 4 } },
	{ "4 LLCs of 4 cores with 2 threads", { 16 }, .threads = 2,
	  .llc = { 4 } },
	{ "4 LLCs of 4 cores with 2 threads, siblings last", { 16 },
	  .threads = 2, .llc = { 4 }, .siblings_last = true },
	{ "3 LLCs of 6", { 18 }, .llc = { 6 } },
	{ "LLCs of 4 and 6", { 10 }, .llc = { 4, 6 } },
	{ "LLCs of 9 and 10", { 19 }, .llc = { 9, 10 } },
	{ "LLCs of 2, 3, 5 and 7 cores with 2 threads", { 17 }, .threads = 2,
	  .llc = { 2, 3, 5, 7 } },
	{ "2 nodes, LLCs of 3 and 4", { 21, 14 }, .llc = { 3, 4 } },
	{ "nodes of 3, 4, 5, 6 and 7, LLCs of 1", { 3, 4, 5, 6, 7 },
	  .llc = { 1 } },
	{ "4 nodes, uneven LLCs, siblings last", { 6, 7, 8, 9 }, .threads = 2,
	  .llc = { 4, 3 }, .siblings_last = true },
	{ "each third number is a hole", { 8, 8 }, .hole = 3 },
	{ "each other number is a hole, siblings last", { 5, 6 },
	  .threads = 2, .siblings_last = true, .hole = 2 },
	{ "each fourth CPU off-line", { 8, 8 }, .threads = 2, .llc = { 4 },
	  .offline = 4 },
	{ "each other CPU off-line", { 12, 4 }, .threads = 2,
	  .interleaved = true, .offline = 2 },
	{ "each other CPU off-line, two to a core", { 8 }, .threads = 2,
	  .llc = { 2 }, .offline = 2 },
	{ "server on 1 CPU", { 8, 8 }, .first = 9, .last = 9 },
	{ "server on 3 CPUs of an LLC", { 16 }, .llc = { 4 }, .first = 5,
	  .last = 7 },
	{ "server on 2 LLCs and a half", { 16, 16 }, .llc = { 4 },
	  .first = 4, .last = 13 },
	{ "server on the second node", { 8, 8, 8 }, .threads = 2,
	  .first = 16, .last = 31 },
	{ "server on first threads only", { 8, 8 }, .threads = 2,
	  .llc = { 4 }, .siblings_last = true, .first = 0, .last = 15 },
	{ "server on CPUs of 3 nodes", { 10, 10, 10, 10 }, .llc = { 5 },
	  .first = 8, .last = 23 },
	{ "server on 20 CPUs, some off-line, and holes", { 12, 12, 12 },
	  .threads = 2, .llc = { 4 }, .siblings_last = true, .hole = 5,
	  .offline = 3, .first = 7, .last = 40 },
	{ "100 cores with 2 threads, LLCs of 8", { 50, 50 }, .threads = 2,
	  .llc = { 8 }, .siblings_last = true },
	{ "256 CPUs in nodes of 128, 64, 32, 16, 8, 4, 2, 1, 1",
	  { 128, 64, 32, 16, 8, 4, 2, 1, 1 } },
	{ "1024 CPUs", { 1024 } },
	{ "1024 CPUs in 8 nodes, LLCs of 8 cores",
	  { 64, 64, 64, 64, 64, 64, 64, 64 }, .threads = 2, .llc = { 8 },
	  .siblings_last = true },
	{ "1024 CPUs in 16 nodes, interleaved, holes",
	  { 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64 },
	  .llc = { 6, 5 }, .interleaved = true, .hole = 4 },
	{ "1000 CPUs of 3 nodes, server on 400", { 100, 150, 250 },
	  .threads = 2, .llc = { 12, 16 }, .offline = 7, .first = 50,
	  .last = 449 },
};

KUNIT_ARRAY_PARAM_DESC(machine, machines, name);

/* A machine as it is given to fuse_uring_deal(), and what that made of it */
struct topology {
	/* By CPU number */
	unsigned int nr_numbers;
	struct fuse_uring_cpu *cpus;
	u16 *home;
	/* Sorted: all CPUs, and the own ones */
	unsigned int nr_cpus;
	unsigned int *order;
	unsigned int nr_own;
	unsigned int *own;
	/* Too few are own ones, so that all count as such */
	bool all_own;
	unsigned int nr_nodes;
	unsigned int nr_queues;
	/* For each queue, where a test counts things */
	unsigned int *count;
	unsigned int *mark;
};

static bool exists(const struct topology *t, unsigned int cpu)
{
	return t->cpus[cpu].node != NUMA_NO_NODE;
}

static bool is_own(const struct topology *t, unsigned int cpu)
{
	return t->all_own || t->cpus[cpu].own;
}

static bool same_node(const struct topology *t, unsigned int a, unsigned int b)
{
	return t->cpus[a].node == t->cpus[b].node;
}

static bool same_llc(const struct topology *t, unsigned int a, unsigned int b)
{
	return same_node(t, a, b) && t->cpus[a].llc == t->cpus[b].llc;
}

static bool same_core(const struct topology *t, unsigned int a, unsigned int b)
{
	return same_llc(t, a, b) && t->cpus[a].core == t->cpus[b].core;
}

/* Own CPUs of several nodes are dealt out as if they were of one */
static bool is_mixed(const struct topology *t)
{
	return t->nr_queues < t->nr_nodes;
}

/* Where the group of the own CPU at @first ends */
static unsigned int group_end(const struct topology *t, unsigned int first)
{
	unsigned int end = first;

	if (is_mixed(t))
		return t->nr_own;
	while (end < t->nr_own && same_node(t, t->own[first], t->own[end]))
		end++;

	return end;
}

/* The queues of the own CPUs from @first to before @end */
static unsigned int group_queues(const struct topology *t, unsigned int first,
				 unsigned int end)
{
	unsigned int i, nr = 1;

	for (i = first + 1; i < end; i++)
		nr += t->home[t->own[i]] != t->home[t->own[i - 1]];

	return nr;
}

static unsigned int llc_of_core(const struct machine *m, unsigned int core)
{
	unsigned int i, end = 0;

	if (!m->llc[0])
		return 0;
	for (i = 0; ; i++) {
		end += m->llc[i % ARRAY_SIZE(m->llc)];
		if (core < end)
			return i;
	}
}

static void add_cpu(struct topology *t, const struct machine *m, int node,
		    unsigned int core)
{
	unsigned int cpu = t->nr_numbers++;
	struct fuse_uring_cpu *c;

	while (m->hole && cpu % m->hole == m->hole - 1)
		cpu = t->nr_numbers++;

	c = &t->cpus[cpu];
	c->node = node;
	c->llc = llc_of_core(m, core);
	c->core = core;
	c->own = !m->last || (cpu >= m->first && cpu <= m->last);
	if (m->offline && t->nr_cpus % m->offline == m->offline - 1) {
		/* Nothing is known of these but their node */
		c->llc = UINT_MAX;
		c->core = MAX_NUMBERS + cpu;
		c->own = false;
	}
	t->order[t->nr_cpus++] = cpu;
}

/* Add the threads from @first to @last of all cores */
static void add_threads(struct topology *t, const struct machine *m,
			unsigned int first, unsigned int last)
{
	unsigned int i, thread, max_cores = 0;

	for (i = 0; i < MAX_NODES; i++)
		max_cores = max_t(unsigned int, max_cores, m->cores[i]);

	for (i = 0; i < MAX_NODES * max_cores; i++) {
		unsigned int node = i / max_cores, core = i % max_cores;

		if (m->interleaved) {
			node = i % MAX_NODES;
			core = i / MAX_NODES;
		}
		if (core >= m->cores[node])
			continue;
		for (thread = first; thread <= last; thread++)
			if (!thread || core + m->nr_single < m->cores[node])
				add_cpu(t, m, node, core);
	}
}

static int cmp_cpus(const void *pa, const void *pb, const void *priv)
{
	unsigned int a = *(const unsigned int *)pa;
	unsigned int b = *(const unsigned int *)pb;
	const struct fuse_uring_cpu *x, *y, *cpus = priv;

	x = &cpus[a];
	y = &cpus[b];
	if (x->node != y->node)
		return x->node < y->node ? -1 : 1;
	if (x->llc != y->llc)
		return x->llc < y->llc ? -1 : 1;
	if (x->core != y->core)
		return x->core < y->core ? -1 : 1;
	return a < b ? -1 : a > b;
}

static void *alloc_array(struct kunit *test, size_t n, size_t size)
{
	void *array = kunit_kcalloc(test, n, size, GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, array);
	return array;
}

static struct topology *alloc_topology(struct kunit *test)
{
	struct topology *t = alloc_array(test, 1, sizeof(*t));
	unsigned int cpu;

	t->cpus = alloc_array(test, MAX_NUMBERS, sizeof(*t->cpus));
	t->home = alloc_array(test, MAX_NUMBERS, sizeof(*t->home));
	t->order = alloc_array(test, MAX_NUMBERS, sizeof(*t->order));
	t->own = alloc_array(test, MAX_NUMBERS, sizeof(*t->own));
	t->count = alloc_array(test, MAX_NUMBERS, sizeof(*t->count));
	t->mark = alloc_array(test, MAX_NUMBERS, sizeof(*t->mark));
	for (cpu = 0; cpu < MAX_NUMBERS; cpu++)
		t->cpus[cpu].node = NUMA_NO_NODE;

	return t;
}

static struct topology *make_topology(struct kunit *test)
{
	const struct machine *m = test->param_value;
	unsigned int i, threads = m->threads ?: 1;
	struct topology *t = alloc_topology(test);

	if (m->siblings_last)
		for (i = 0; i < threads; i++)
			add_threads(t, m, i, i);
	else
		add_threads(t, m, 0, threads - 1);
	KUNIT_ASSERT_LE(test, t->nr_numbers, MAX_NUMBERS);
	sort_r(t->order, t->nr_cpus, sizeof(*t->order), cmp_cpus, NULL,
	       t->cpus);

	return t;
}

/* Deal the CPUs out to @nr_queues queues, and say what rule 1 makes of them */
static void deal(struct kunit *test, struct topology *t, unsigned int nr_queues)
{
	unsigned int i;
	int err;

	memset(t->home, 0xff, MAX_NUMBERS * sizeof(*t->home));
	err = fuse_uring_deal(t->cpus, t->nr_numbers, nr_queues, t->home);
	KUNIT_ASSERT_EQ_MSG(test, err, 0, "%u queues", nr_queues);

	t->nr_queues = nr_queues;
	t->nr_own = 0;
	for (i = 0; i < t->nr_cpus; i++)
		t->nr_own += t->cpus[t->order[i]].own;
	t->all_own = t->nr_own < nr_queues;

	t->nr_own = 0;
	t->nr_nodes = 0;
	for (i = 0; i < t->nr_cpus; i++) {
		unsigned int cpu = t->order[i];

		if (!is_own(t, cpu))
			continue;
		t->own[t->nr_own++] = cpu;
		if (t->nr_own == 1 ||
		    !same_node(t, cpu, t->own[t->nr_own - 2]))
			t->nr_nodes++;
	}
	/* The other tests may use these as indexes */
	for (i = 0; i < t->nr_cpus; i++)
		KUNIT_ASSERT_LT_MSG(test, t->home[t->order[i]], nr_queues,
				    "%u queues, CPU %u", nr_queues,
				    t->order[i]);

	memset(t->count, 0, MAX_NUMBERS * sizeof(*t->count));
	memset(t->mark, 0, MAX_NUMBERS * sizeof(*t->mark));
	cond_resched();
}

/*
 * The next number of queues to test after @nr, 0 after the last one.  On large
 * machines the steps get smaller to both ends, and round even parts.
 */
static unsigned int next_nr_queues(const struct topology *t, unsigned int nr)
{
	unsigned int next = nr + 1, part, near, i;

	if (nr >= t->nr_cpus)
		return 0;
	if (t->nr_cpus <= SMALL)
		return next;

	next += min(nr, t->nr_cpus - nr) / 4;
	for (part = 2; part <= 4; part++) {
		for (i = 0; i < 3; i++) {
			near = t->nr_cpus / part + i - 1;
			if (near > nr && near < next)
				next = near;
		}
	}

	return next;
}

/* All CPUs, and only these, have a queue, and all queues have own CPUs. */
static void everyone_has_some(struct kunit *test)
{
	struct topology *t = make_topology(test);
	unsigned int cpu, qid, nr;

	for (nr = 1; nr; nr = next_nr_queues(t, nr)) {
		deal(test, t, nr);
		for (cpu = 0; cpu < MAX_NUMBERS; cpu++) {
			if (!exists(t, cpu))
				KUNIT_ASSERT_EQ_MSG(test, t->home[cpu], U16_MAX,
						    "%u queues, CPU %u", nr, cpu);
			else if (is_own(t, cpu))
				t->count[t->home[cpu]]++;
		}
		for (qid = 0; qid < nr; qid++)
			KUNIT_ASSERT_GT_MSG(test, t->count[qid], 0,
					    "%u queues, queue %u", nr, qid);
	}
}

/* Rule 3: no queue has own CPUs of two nodes when there are enough. */
static void nodes_do_not_mix(struct kunit *test)
{
	struct topology *t = make_topology(test);
	unsigned int i, nr;

	for (nr = 1; nr; nr = next_nr_queues(t, nr)) {
		deal(test, t, nr);
		if (is_mixed(t))
			continue;
		for (i = 0; i < t->nr_own; i++) {
			unsigned int cpu = t->own[i];
			unsigned int *node = &t->mark[t->home[cpu]];

			if (!*node)
				*node = t->cpus[cpu].node + 1;
			KUNIT_ASSERT_EQ_MSG(test, *node, t->cpus[cpu].node + 1,
					    "%u queues, CPU %u", nr, cpu);
		}
	}
}

/* The fewest queues with which none has more than @max CPUs */
static unsigned int queues_needed(const struct topology *t, unsigned int max)
{
	unsigned int first, end, nr = 0;

	for (first = 0; first < t->nr_own; first = end) {
		end = group_end(t, first);
		nr += DIV_ROUND_UP(end - first, max);
	}

	return nr;
}

/* Rule 3: the largest queue is as small as it can be without mixing nodes. */
static void largest_queue_is_small(struct kunit *test)
{
	struct topology *t = make_topology(test);
	unsigned int i, nr, largest;

	for (nr = 1; nr; nr = next_nr_queues(t, nr)) {
		deal(test, t, nr);
		largest = 0;
		for (i = 0; i < t->nr_own; i++) {
			unsigned int *count = &t->count[t->home[t->own[i]]];

			largest = max(largest, ++*count);
		}
		if (largest > 1)
			KUNIT_ASSERT_GT_MSG(test, queues_needed(t, largest - 1),
					    nr, "%u queues, largest has %u",
					    nr, largest);
	}
}

/*
 * Rule 3: no node got a queue when another one had more CPUs per queue, or as
 * many and a lower number.
 */
static void shares_are_fair(struct kunit *test)
{
	struct topology *t = make_topology(test);
	unsigned int cpus[MAX_NODES], queues[MAX_NODES];
	unsigned int first, end, nr, nr_nodes, a, b;

	for (nr = 1; nr; nr = next_nr_queues(t, nr)) {
		deal(test, t, nr);
		if (is_mixed(t))
			continue;

		nr_nodes = 0;
		for (first = 0; first < t->nr_own; first = end) {
			end = group_end(t, first);
			cpus[nr_nodes] = end - first;
			queues[nr_nodes++] = group_queues(t, first, end);
		}
		KUNIT_ASSERT_EQ(test, nr_nodes, t->nr_nodes);

		for (a = 0; a < nr_nodes; a++) {
			for (b = 0; b < nr_nodes; b++) {
				unsigned int left, right;

				if (a == b || queues[b] == 1)
					continue;
				left = cpus[a] * (queues[b] - 1);
				right = cpus[b] * queues[a];
				KUNIT_ASSERT_LE_MSG(test, left + (a < b), right,
						    "%u queues, nodes %u and %u",
						    nr, a, b);
			}
		}
	}
}

/* Rule 4: a queue has neighbours, and lengths differ by at most one. */
static void runs_are_even(struct kunit *test)
{
	struct topology *t = make_topology(test);
	unsigned int i, first, end, nr, len, queues;

	for (nr = 1; nr; nr = next_nr_queues(t, nr)) {
		deal(test, t, nr);
		for (i = 0; i < t->nr_own; i++)
			t->count[t->home[t->own[i]]]++;

		for (first = 0; first < t->nr_own; first = end) {
			end = group_end(t, first);
			queues = group_queues(t, first, end);
			len = (end - first) / queues;
			for (i = first; i < end; i++) {
				u16 qid = t->home[t->own[i]];

				/* One that has begun before has not ended */
				if (i > first && qid != t->home[t->own[i - 1]])
					KUNIT_ASSERT_EQ_MSG(test, t->mark[qid],
							    0, "%u queues, CPU %u",
							    nr, t->own[i]);
				t->mark[qid] = 1;
				KUNIT_ASSERT_GE_MSG(test, t->count[qid], len,
						    "%u queues, queue %u",
						    nr, qid);
				KUNIT_ASSERT_LE_MSG(test, t->count[qid], len +
						    !!((end - first) % queues),
						    "%u queues, queue %u",
						    nr, qid);
			}
		}
	}
}

/* What the end of a queue before the own CPU at @end is worth */
static unsigned int end_worth(const struct topology *t, unsigned int end)
{
	unsigned int a = t->own[end - 1], b = t->own[end];

	if (!same_node(t, a, b))
		return BIT(20);
	if (!same_llc(t, a, b))
		return BIT(10);
	return !same_core(t, a, b);
}

/* The most that all ends within a group can be worth, by trying all of them */
static unsigned int best_worth(struct kunit *test, const struct topology *t,
			       unsigned int first, unsigned int end,
			       unsigned int queues)
{
	unsigned int best[SMALL + 1] = {}, next[SMALL + 1];
	unsigned int nr = end - first, i, pos, len;

	/* best[pos]: plus one, 0 when no queue ends there */
	best[0] = 1;
	for (i = 0; i < queues; i++) {
		memset(next, 0, sizeof(next));
		for (pos = 0; pos < nr; pos++) {
			if (!best[pos])
				continue;
			for (len = nr / queues;
			     len <= DIV_ROUND_UP(nr, queues); len++) {
				unsigned int to = pos + len, worth = best[pos];

				if (to > nr)
					continue;
				if (to < nr)
					worth += end_worth(t, first + to);
				next[to] = max(next[to], worth);
			}
		}
		memcpy(best, next, sizeof(best));
	}
	KUNIT_ASSERT_GT(test, best[nr], 0);

	return best[nr] - 1;
}

/* Rule 4: as many ends as possible are where they do least harm. */
static void ends_are_best(struct kunit *test)
{
	struct topology *t = make_topology(test);
	unsigned int i, first, end, nr, queues, worth;

	for (nr = 1; nr; nr = next_nr_queues(t, nr)) {
		deal(test, t, nr);
		for (first = 0; first < t->nr_own; first = end) {
			end = group_end(t, first);
			if (end - first > SMALL)
				continue;
			queues = group_queues(t, first, end);
			worth = 0;
			for (i = first + 1; i < end; i++)
				if (t->home[t->own[i]] != t->home[t->own[i - 1]])
					worth += end_worth(t, i);
			KUNIT_ASSERT_EQ_MSG(test, worth,
					    best_worth(test, t, first, end, queues),
					    "%u queues, from CPU %u", nr,
					    t->own[first]);
		}
		cond_resched();
	}
}

/*
 * Whether no queue of a group needs to have CPUs of two caches: if the caches
 * can have so few queues in all, and so many.
 */
static bool caches_can_be_apart(const struct topology *t, unsigned int first,
				unsigned int end, unsigned int queues)
{
	unsigned int max_len = DIV_ROUND_UP(end - first, queues);
	unsigned int min_len = (end - first) / queues;
	unsigned int from = first, few = 0, many = 0, i;

	for (i = first + 1; i <= end; i++) {
		unsigned int nr = i - from;

		if (i < end && same_llc(t, t->own[from], t->own[i]))
			continue;
		if (nr / min_len * max_len < nr)
			return false;
		few += DIV_ROUND_UP(nr, max_len);
		many += nr / min_len;
		from = i;
	}

	return few <= queues && queues <= many;
}

/* Whether each queue of a group gets a multiple of the threads of a core */
static bool cores_can_be_whole(const struct topology *t, unsigned int first,
			       unsigned int end, unsigned int queues)
{
	unsigned int i, threads, from = first;

	for (i = first + 1; i < end; i++)
		if (!same_core(t, t->own[first], t->own[i]))
			break;
	threads = i - first;
	for (i = first + 1; i <= end; i++) {
		if (i < end && same_core(t, t->own[from], t->own[i]))
			continue;
		if (i - from != threads)
			return false;
		from = i;
	}

	return (end - first) % queues == 0 &&
		(end - first) / queues % threads == 0;
}

/* Rule 4: queues end where caches and cores do, when all of them can. */
static void caches_and_cores_are_whole(struct kunit *test)
{
	struct topology *t = make_topology(test);
	unsigned int i, first, end, nr, queues;

	for (nr = 1; nr; nr = next_nr_queues(t, nr)) {
		deal(test, t, nr);
		for (first = 0; first < t->nr_own; first = end) {
			bool llcs, cores;

			end = group_end(t, first);
			queues = group_queues(t, first, end);
			llcs = !is_mixed(t) &&
				caches_can_be_apart(t, first, end, queues);
			cores = cores_can_be_whole(t, first, end, queues);
			for (i = first + 1; i < end; i++) {
				unsigned int a = t->own[i - 1], b = t->own[i];

				if (t->home[a] == t->home[b])
					KUNIT_ASSERT_TRUE_MSG(test, !llcs ||
							      same_llc(t, a, b),
							      "%u queues, CPUs %u and %u",
							      nr, a, b);
				else
					KUNIT_ASSERT_TRUE_MSG(test, !cores ||
							      !same_core(t, a, b),
							      "%u queues, CPUs %u and %u",
							      nr, a, b);
			}
		}
	}
}

/* Rule 4: where it makes no difference the longer ones are spread evenly. */
static void longer_ones_are_spread(struct kunit *test)
{
	struct topology *t = make_topology(test);
	unsigned int i, first, end, nr, queues, worth, run;

	for (nr = 1; nr; nr = next_nr_queues(t, nr)) {
		deal(test, t, nr);
		for (first = 0; first < t->nr_own; first = end) {
			end = group_end(t, first);
			queues = group_queues(t, first, end);
			worth = end - first > 1 ? end_worth(t, first + 1) : 0;
			for (i = first + 2; i < end; i++)
				if (end_worth(t, i) != worth)
					break;
			if (i < end)
				continue;
			run = 0;
			for (i = first; i < end; i++) {
				if (i > first &&
				    t->home[t->own[i]] != t->home[t->own[i - 1]])
					run++;
				KUNIT_ASSERT_EQ_MSG(test, run, (i - first) *
						    queues / (end - first),
						    "%u queues, CPU %u", nr,
						    t->own[i]);
			}
		}
	}
}

/*
 * The CPUs from order[first] to before order[end] that are not own, and are
 * not done, have been dealt out to the queues of the own ones among these, or
 * if @any to any, and in turn.
 */
static void check_others(struct kunit *test, struct topology *t,
			 unsigned int first, unsigned int end, bool any,
			 bool *done)
{
	unsigned int i, cpu, qid, fewest = UINT_MAX, most = 0, nr = 0;

	for (i = first; i < end; i++) {
		cpu = t->order[i];
		if (is_own(t, cpu)) {
			t->mark[t->home[cpu]] = 1;
			t->count[t->home[cpu]] = 0;
			nr++;
		}
	}
	if (!nr && !any)
		return;

	for (i = first; i < end; i++) {
		cpu = t->order[i];
		if (is_own(t, cpu) || done[cpu])
			continue;
		KUNIT_ASSERT_TRUE_MSG(test, t->mark[t->home[cpu]],
				      "%u queues, CPU %u", t->nr_queues, cpu);
		t->count[t->home[cpu]]++;
		done[cpu] = true;
	}
	for (i = first; i < end; i++) {
		cpu = t->order[i];
		if (!is_own(t, cpu))
			continue;
		qid = t->home[cpu];
		fewest = min(fewest, t->count[qid]);
		most = max(most, t->count[qid]);
		t->mark[qid] = 0;
	}
	KUNIT_ASSERT_LE_MSG(test, most, fewest + 1, "%u queues, from CPU %u",
			    t->nr_queues, t->order[first]);
}

/* Rule 5: the other CPUs go to the queues of their cache, node, or any. */
static void others_go_to_near_ones(struct kunit *test)
{
	struct topology *t = make_topology(test);
	unsigned int i, from, nr;
	bool *done = alloc_array(test, MAX_NUMBERS, sizeof(*done));

	for (nr = 1; nr; nr = next_nr_queues(t, nr)) {
		deal(test, t, nr);
		memset(done, 0, MAX_NUMBERS * sizeof(*done));

		for (i = 1, from = 0; i <= t->nr_cpus; i++) {
			if (i < t->nr_cpus &&
			    same_llc(t, t->order[from], t->order[i]))
				continue;
			check_others(test, t, from, i, false, done);
			from = i;
		}
		for (i = 1, from = 0; i <= t->nr_cpus; i++) {
			if (i < t->nr_cpus &&
			    same_node(t, t->order[from], t->order[i]))
				continue;
			check_others(test, t, from, i, false, done);
			from = i;
		}
		check_others(test, t, 0, t->nr_cpus, true, done);
	}
}

/* Rule 6: queues are numbered by their lowest own CPUs. */
static void numbers_follow_cpus(struct kunit *test)
{
	struct topology *t = make_topology(test);
	unsigned int cpu, next, nr, nth;

	for (nr = 1; nr; nr = next_nr_queues(t, nr)) {
		deal(test, t, nr);
		next = 0;
		nth = 0;
		for (cpu = 0; cpu < t->nr_numbers; cpu++) {
			if (!exists(t, cpu))
				continue;
			if (nr == t->nr_cpus)
				KUNIT_ASSERT_EQ(test, t->home[cpu], nth++);
			if (!is_own(t, cpu) || t->home[cpu] < next)
				continue;
			KUNIT_ASSERT_EQ_MSG(test, t->home[cpu], next,
					    "%u queues, CPU %u", nr, cpu);
			next++;
		}
		KUNIT_ASSERT_EQ_MSG(test, next, nr, "%u queues", nr);
	}
}

/* The same machine gives the same map. */
static void same_again(struct kunit *test)
{
	u16 *before = alloc_array(test, MAX_NUMBERS, sizeof(*before));
	struct topology *t = make_topology(test);
	unsigned int nr;

	for (nr = 1; nr; nr = next_nr_queues(t, nr)) {
		deal(test, t, nr);
		memcpy(before, t->home, MAX_NUMBERS * sizeof(*before));
		deal(test, t, nr);
		KUNIT_ASSERT_MEMEQ_MSG(test, t->home, before,
				       MAX_NUMBERS * sizeof(*before),
				       "%u queues", nr);
	}
}

/*
 * Maps that were made by hand.  Strings have a letter for each CPU number: '-'
 * in @node is a hole, '1' in @own an own CPU.  Caches and cores are those of a
 * node.  NULL: all of a node share a cache, each CPU is a core, all are own.
 */
struct hand_made {
	const char *name;
	unsigned int nr_queues;
	const char *node;
	const char *llc;
	const char *core;
	const char *own;
	const char *home;
};

static const struct hand_made hand_made[] = {
	{ "one of everything", 1, "0", .home = "0" },
	{ "a queue per CPU", 4, "0000", .home = "0123" },
	{ "a queue per CPU, interleaved nodes", 6, "010101", .home = "012345" },
	{ "a queue per CPU, holes", 3, "-0--10", .home = "-0--12" },
	{ "even runs", 2, "00000000", .home = "00001111" },
	{ "longer runs are spread", 3, "00000000", .home = "00011122" },
	{ "one longer run is the first", 3, "0000000", .home = "0001122" },
	{ "interleaved nodes", 2, "01010101", .home = "01010101" },
	{ "interleaved nodes, two queues each", 4, "01010101",
	  .home = "01012323" },
	{ "the large node gets more", 3, "00111111", .home = "00111222" },
	{ "as many CPUs per queue: the lower node", 3, "00001111",
	  .home = "00112222" },
	{ "fewer queues than nodes", 2, "00112233", .home = "00001111" },
	{ "fewer queues than nodes, the large one is not split", 2, "01222",
	  .home = "00111" },
	{ "fewer queues than nodes, the small one is not split", 2, "0001122",
	  .home = "0001111" },
	{ "siblings next to each other", 4, "00000000", .core = "00112233",
	  .home = "00112233" },
	{ "siblings last", 4, "00000000", .core = "01230123",
	  .home = "01230123" },
	{ "siblings last, two cores a queue", 2, "00000000",
	  .core = "01230123", .home = "00110011" },
	{ "three cores, two queues: even runs come before cores", 2, "000000",
	  .core = "001122", .home = "000111" },
	{ "five cores, four queues", 4, "0000000000", .core = "0011223344",
	  .home = "0001112233" },
	{ "caches last", 2, "00000000", .llc = "01010101",
	  .home = "01010101" },
	{ "the longer run is the second, as the cache is", 2, "0000000",
	  .llc = "0001111", .home = "0001111" },
	{ "the longer runs are the last, as the caches are", 4, "0000000000",
	  .llc = "0000111111", .home = "0011222333" },
	{ "caches come before cores", 2, "0000000", .llc = "0001111",
	  .core = "0011223", .home = "0001111" },
	{ "nodes come before caches", 2, "0001122", .llc = "0000111",
	  .home = "0001111" },
	{ "off-line CPUs go to queues of their node", 2, "00001111",
	  .own = "11001000", .home = "00001111" },
	{ "others go in turn", 2, "00000000", .own = "11000000",
	  .home = "01010101" },
	{ "others go to their cache", 2, "00000000", .llc = "00001111",
	  .own = "10001000", .home = "00001111" },
	{ "others of caches without queue go in turn", 2, "000000",
	  .llc = "001122", .own = "110000", .home = "010101" },
	{ "others of a cache without queue go to the node", 2, "0000001111",
	  .llc = "0011220000", .own = "1000001000", .home = "0000001111" },
	{ "others of a node without queue go to any", 2, "00001111",
	  .own = "11000000", .home = "01010101" },
	{ "server on the second node", 2, "00001111", .own = "00001111",
	  .home = "01010011" },
	{ "too few own CPUs: all are", 3, "000000", .own = "100001",
	  .home = "001122" },
	{ "siblings of a server on first threads", 4, "00000000",
	  .core = "01230123", .own = "11110000", .home = "01230123" },
	{ "numbers follow the CPUs, not the nodes", 4, "1100110-0",
	  .home = "0011223-3" },
};

KUNIT_ARRAY_PARAM_DESC(hand_made, hand_made, name);

static void as_made_by_hand(struct kunit *test)
{
	const struct hand_made *m = test->param_value;
	struct topology *t = alloc_topology(test);
	unsigned int cpu;
	char home[32] = {};

	t->nr_numbers = strlen(m->node);
	KUNIT_ASSERT_EQ(test, strlen(m->home), t->nr_numbers);
	KUNIT_ASSERT_LT(test, t->nr_numbers, sizeof(home));

	for (cpu = 0; cpu < t->nr_numbers; cpu++) {
		if (m->node[cpu] == '-')
			continue;
		t->cpus[cpu].node = m->node[cpu] - '0';
		t->cpus[cpu].llc = m->llc ? m->llc[cpu] - '0' : 0;
		t->cpus[cpu].core = m->core ? m->core[cpu] - '0' : cpu;
		t->cpus[cpu].own = !m->own || m->own[cpu] == '1';
		t->order[t->nr_cpus++] = cpu;
	}
	deal(test, t, m->nr_queues);

	for (cpu = 0; cpu < t->nr_numbers; cpu++)
		home[cpu] = exists(t, cpu) ? '0' + t->home[cpu] : '-';
	KUNIT_EXPECT_STREQ(test, home, m->home);
}

/* No queue, or more than CPUs. */
static void errors(struct kunit *test)
{
	struct topology *t = alloc_topology(test);
	unsigned int cpu;

	KUNIT_EXPECT_EQ(test, fuse_uring_deal(t->cpus, 0, 0, t->home), -EINVAL);
	KUNIT_EXPECT_EQ(test, fuse_uring_deal(t->cpus, 0, 1, t->home), -EINVAL);
	KUNIT_EXPECT_EQ(test, fuse_uring_deal(t->cpus, 8, 1, t->home), -EINVAL);

	/* Three CPUs, of which two may have queues */
	for (cpu = 1; cpu < 6; cpu += 2) {
		t->cpus[cpu].node = 0;
		t->cpus[cpu].own = cpu > 1;
	}
	KUNIT_EXPECT_EQ(test, fuse_uring_deal(t->cpus, 8, 0, t->home), -EINVAL);
	KUNIT_EXPECT_EQ(test, fuse_uring_deal(t->cpus, 8, 3, t->home), 0);
	KUNIT_EXPECT_EQ(test, fuse_uring_deal(t->cpus, 8, 4, t->home), -EINVAL);
	KUNIT_EXPECT_EQ(test, fuse_uring_deal(t->cpus, 5, 3, t->home), -EINVAL);
	KUNIT_EXPECT_EQ(test, fuse_uring_deal(t->cpus, 8, UINT_MAX, t->home),
			-EINVAL);
}

static struct kunit_case fuse_uring_topology_cases[] = {
	KUNIT_CASE_PARAM(everyone_has_some, machine_gen_params),
	KUNIT_CASE_PARAM(nodes_do_not_mix, machine_gen_params),
	KUNIT_CASE_PARAM(largest_queue_is_small, machine_gen_params),
	KUNIT_CASE_PARAM(shares_are_fair, machine_gen_params),
	KUNIT_CASE_PARAM(runs_are_even, machine_gen_params),
	KUNIT_CASE_PARAM(ends_are_best, machine_gen_params),
	KUNIT_CASE_PARAM(caches_and_cores_are_whole, machine_gen_params),
	KUNIT_CASE_PARAM(longer_ones_are_spread, machine_gen_params),
	KUNIT_CASE_PARAM(others_go_to_near_ones, machine_gen_params),
	KUNIT_CASE_PARAM(numbers_follow_cpus, machine_gen_params),
	KUNIT_CASE_PARAM(same_again, machine_gen_params),
	KUNIT_CASE_PARAM(as_made_by_hand, hand_made_gen_params),
	KUNIT_CASE(errors),
	{}
};

static struct kunit_suite fuse_uring_topology_suite = {
	.name = "fuse_uring_topology",
	.test_cases = fuse_uring_topology_cases,
};

kunit_test_suite(fuse_uring_topology_suite);
