// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of how FUSE over io_uring spreads CPUs over queues: small maps
 * that were made by hand, and the rules of fuse_uring_spread() on machines as
 * they exist, with any number of queues.
 */
#include <kunit/test.h>

#include "dev_uring_i.h"

#define MAX_CPUS	256
#define MAX_NODES	8

static struct fuse_uring_cpu *alloc_cpus(struct kunit *test)
{
	struct fuse_uring_cpu *cpus;

	cpus = kunit_kcalloc(test, MAX_CPUS, sizeof(*cpus), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, cpus);
	return cpus;
}

/*
 * Strings have a character for each CPU number.  @node: '-' is a hole.  @core:
 * NULL, each CPU is a core.  @own: NULL, all are own; '1' own, '0' not own, 'x'
 * own and off-line.
 */
struct hand_made {
	const char *name;
	unsigned int nr_queues;
	const char *node;
	const char *core;
	const char *own;
	const char *home;
};

static const struct hand_made hand_made[] = {
	{ "one of everything", 1, "0", .home = "0" },
	{ "a queue per CPU", 4, "0000", .home = "0123" },
	{ "a queue per CPU, interleaved nodes", 6, "010101", .home = "012345" },
	{ "a queue per CPU, siblings last", 4, "0000", .core = "0101",
	  .home = "0123" },
	{ "a queue per own CPU", 3, "001100", .own = "101001",
	  .home = "001122" },
	{ "a queue per own CPU, some off-line", 4, "001100", .own = "x01x01",
	  .home = "001233" },
	{ "holes", 3, "-0--10", .home = "-0--12" },
	{ "even runs", 2, "00000000", .home = "00001111" },
	{ "longer runs are spread", 3, "00000000", .home = "00011122" },
	{ "interleaved nodes", 2, "01010101", .home = "01010101" },
	{ "interleaved nodes, two queues each", 4, "01010101",
	  .home = "01012323" },
	{ "the large node gets more", 3, "00111111", .home = "00111222" },
	{ "as many CPUs per queue: the lower node", 3, "00001111",
	  .home = "00112222" },
	{ "fewer queues than nodes", 2, "00112233", .home = "00001111" },
	{ "fewer queues than nodes, none is split", 2, "0122222",
	  .home = "0011111" },
	{ "siblings next to each other", 4, "00000000", .core = "00112233",
	  .home = "00112233" },
	{ "siblings last", 4, "00000000", .core = "01230123",
	  .home = "01230123" },
	{ "two cores a queue", 2, "00000000", .core = "01230123",
	  .home = "00110011" },
	{ "three cores, two queues", 2, "000000", .core = "001122",
	  .home = "000011" },
	{ "a queue per core, cores of two and of one", 5, "0000000",
	  .core = "0011234", .home = "0011234" },
	{ "cores of two and of one, even runs", 4, "00000000",
	  .core = "00112345", .home = "00112233" },
	{ "cores of one and of four, even runs", 4, "0000000",
	  .core = "0123333", .home = "0123333" },
	{ "cores of four and of one, none is left over", 4, "0000000",
	  .core = "0000123", .home = "0000123" },
	{ "more queues than cores", 3, "0000", .core = "0011",
	  .home = "0012" },
	{ "numbers follow the CPUs, not the nodes", 4, "1100110-0",
	  .home = "0011223-3" },
	{ "off-line CPUs go to queues of their node", 2, "00001111",
	  .own = "11xx1xxx", .home = "00001111" },
	{ "off-line siblings", 4, "00000000", .own = "1111xxxx",
	  .home = "01230123" },
	{ "off-line CPUs get the queues that are left", 3, "00001111",
	  .own = "x10x001x", .home = "01012222" },
	{ "others are spread", 2, "00000000", .own = "11000000",
	  .home = "01000111" },
	{ "others go to siblings", 2, "00000000", .core = "01230123",
	  .own = "01100000", .home = "00110011" },
	{ "others go to siblings of higher number", 2, "000000",
	  .core = "001122", .own = "010100", .home = "001101" },
	{ "others of a node without queue go to any", 2, "00001111",
	  .own = "11000000", .home = "01010011" },
	{ "server on the second node", 2, "00001111", .own = "00001111",
	  .home = "00110011" },
};

KUNIT_ARRAY_PARAM_DESC(hand_made, hand_made, name);

static void as_made_by_hand(struct kunit *test)
{
	const struct hand_made *m = test->param_value;
	struct fuse_uring_cpu *cpus = alloc_cpus(test);
	unsigned int i, cpu, nr = 0;
	char home[16] = {};

	KUNIT_ASSERT_EQ(test, strlen(m->home), strlen(m->node));
	KUNIT_ASSERT_LT(test, strlen(m->node), sizeof(home));

	for (cpu = 0; m->node[cpu]; cpu++) {
		home[cpu] = '-';
		if (m->node[cpu] == '-')
			continue;
		cpus[nr++] = (struct fuse_uring_cpu){
			.cpu	= cpu,
			.node	= m->node[cpu] - '0',
			.core	= m->core ? m->core[cpu] - '0' : cpu,
			.own	= !m->own || m->own[cpu] != '0',
			.online	= !m->own || m->own[cpu] != 'x',
		};
	}
	KUNIT_ASSERT_EQ(test, fuse_uring_spread(cpus, nr, m->nr_queues), 0);

	for (i = 0; i < nr; i++)
		home[cpus[i].cpu] = '0' + cpus[i].home;
	KUNIT_EXPECT_STREQ(test, home, m->home);
}

/**
 * struct machine - a machine, and the CPUs that a server runs on
 * @name: what it is
 * @cores: of each node
 * @threads: of each core
 * @interleaved: CPU numbers go round the nodes, which are of one size
 * @siblings_last: siblings have the numbers behind those of all first threads
 * @offline: each so manieth CPU is off-line
 * @first: the server runs on the CPUs from this one...
 * @last: ...to this one, 0: on all
 */
struct machine {
	const char *name;
	u8 cores[MAX_NODES];
	u8 threads;
	bool interleaved;
	bool siblings_last;
	u8 offline;
	u8 first;
	u8 last;
};

static const struct machine machines[] = {
	{ "1 CPU", { 1 }, 1 },
	{ "8 cores", { 8 }, 2, .siblings_last = true },
	{ "8 cores, siblings adjacent", { 8 }, 2 },
	{ "2 sockets of 28 cores", { 28, 28 }, 2, .siblings_last = true },
	{ "2 sockets of 28 cores, interleaved", { 28, 28 }, 2,
	  .interleaved = true, .siblings_last = true },
	{ "2 sockets of 64 cores", { 64, 64 }, 2, .siblings_last = true },
	{ "8 nodes of 8 CPUs", { 8, 8, 8, 8, 8, 8, 8, 8 }, 1 },
	{ "nodes of 1, 2, 4 and 8 cores, others of memory only",
	  { 0, 1, 2, 0, 4, 8 }, 2 },
	{ "12 cores of 8 threads a socket", { 12, 12 }, 8 },
	{ "each other CPU off-line", { 8, 8 }, 2, .offline = 2 },
	{ "each fourth CPU off-line", { 28, 28 }, 2, .siblings_last = true,
	  .offline = 4 },
	{ "server on 8 CPUs", { 28, 28 }, 2, .siblings_last = true,
	  .first = 24, .last = 31 },
	{ "server on 3 of 8 nodes, some CPUs off-line",
	  { 8, 8, 8, 8, 8, 8, 8, 8 }, 1, .offline = 3, .first = 4, .last = 27 },
};

KUNIT_ARRAY_PARAM_DESC(machine, machines, name);

static unsigned int make_cpus(const struct machine *m,
			      struct fuse_uring_cpu *cpus)
{
	unsigned int i, cpu, core, node, nr_nodes = 0, nr_cores = 0;

	for (i = 0; i < MAX_NODES; i++) {
		nr_nodes += !!m->cores[i];
		nr_cores += m->cores[i];
	}
	for (cpu = 0; cpu < nr_cores * m->threads; cpu++) {
		bool online = !m->offline || cpu % m->offline;

		core = m->siblings_last ? cpu % nr_cores : cpu / m->threads;
		node = core % nr_nodes;
		if (!m->interleaved)
			for (i = core, node = 0; i >= m->cores[node]; node++)
				i -= m->cores[node];
		cpus[cpu] = (struct fuse_uring_cpu){
			.cpu	= cpu,
			.node	= node,
			.core	= online ? core : MAX_CPUS + cpu,
			.own	= !m->last ||
				  (cpu >= m->first && cpu <= m->last),
			.online	= online,
		};
	}

	return cpu;
}

/* Rules 1, 2, 4 and 5 */
static void rules(struct kunit *test)
{
	struct fuse_uring_cpu *c, *cpus = alloc_cpus(test);
	unsigned int i, nr, nr_cpus, nr_own = 0, nr_online = 0;

	nr_cpus = make_cpus(test->param_value, cpus);
	for (c = cpus; c < cpus + nr_cpus; c++) {
		nr_own += c->own;
		nr_online += c->own && c->online;
	}

	for (nr = 1; nr <= nr_own; nr++) {
		s8 queue_node[MAX_CPUS];
		s16 node_queue[MAX_NODES];
		unsigned int nr_nodes = 0, nr_numbered = 0, nr_queues_own = 0;

		make_cpus(test->param_value, cpus);
		KUNIT_ASSERT_EQ(test, fuse_uring_spread(cpus, nr_cpus, nr), 0);

		memset(node_queue, 0xff, sizeof(node_queue));
		for (i = 0; i < nr_cpus; i++) {
			c = &cpus[i];
			KUNIT_ASSERT_EQ(test, c->cpu, i);
			KUNIT_ASSERT_LT(test, c->home, nr);
			if (!c->own)
				continue;
			nr_queues_own++;
			/* Rule 5: a queue that is new has the next number */
			KUNIT_ASSERT_LE(test, c->home, nr_numbered);
			if (c->home == nr_numbered)
				queue_node[nr_numbered++] = c->node;
			nr_nodes += node_queue[c->node] < 0;
			node_queue[c->node] = c->home;
		}
		KUNIT_ASSERT_EQ(test, nr_numbered, nr);
		/* Rule 1 */
		KUNIT_ASSERT_EQ(test, nr_queues_own, max(nr_online, nr));

		for (c = cpus; c < cpus + nr_cpus; c++) {
			if (node_queue[c->node] < 0)
				continue;
			if (nr >= nr_nodes)
				KUNIT_ASSERT_EQ_MSG(test, queue_node[c->home],
						    c->node, "%u queues, CPU %u",
						    nr, c->cpu);
			else
				KUNIT_ASSERT_EQ_MSG(test, node_queue[c->node],
						    c->home, "%u queues, CPU %u",
						    nr, c->cpu);
		}
		cond_resched();
	}
}

/* Rule 3: the largest and the smallest queue of a node differ by one core */
static void runs_are_even(struct kunit *test)
{
	const struct machine *m = test->param_value;
	struct fuse_uring_cpu *c, *d, *cpus = alloc_cpus(test);
	unsigned int nr, nr_cpus = make_cpus(m, cpus);

	if (m->offline || m->last)
		kunit_skip(test, "cores are not of one size");

	for (nr = 1; nr <= nr_cpus; nr++) {
		u16 count[MAX_CPUS] = {};

		make_cpus(m, cpus);
		KUNIT_ASSERT_EQ(test, fuse_uring_spread(cpus, nr_cpus, nr), 0);
		for (c = cpus; c < cpus + nr_cpus; c++)
			count[c->home]++;
		for (c = d = cpus; c < cpus + nr_cpus; c++) {
			if (c->node != d->node)
				d = c;
			KUNIT_ASSERT_LE_MSG(test, abs(count[c->home] -
						      count[d->home]),
					    m->threads, "%u queues, CPU %u",
					    nr, c->cpu);
		}
		cond_resched();
	}
}

static struct kunit_case fuse_uring_map_cases[] = {
	KUNIT_CASE_PARAM(as_made_by_hand, hand_made_gen_params),
	KUNIT_CASE_PARAM(rules, machine_gen_params),
	KUNIT_CASE_PARAM(runs_are_even, machine_gen_params),
	{}
};

static struct kunit_suite fuse_uring_map_suite = {
	.name = "fuse_uring_map",
	.test_cases = fuse_uring_map_cases,
};

kunit_test_suite(fuse_uring_map_suite);
