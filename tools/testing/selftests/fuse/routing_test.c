// SPDX-License-Identifier: GPL-2.0
/*
 * Which queue a request comes by: the map of CPUs to queues, queues for some
 * CPUs only, queues that are not served for a while, CPUs that come and go, and
 * readahead that uses its neighbours' slots.
 *
 * The tests that take CPUs off-line are opt-in: set FUSE_TEST_DISRUPTIVE=1.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "../kselftest_harness.h"
#include "common.h"
#include "puppet.h"
#include "server.h"

#define FILE2		(TEST_MNT "/f2")
#define MAX_NODES	64
#define SYSFS_CPU	"/sys/devices/system/cpu"
#define SYSFS_NODE	"/sys/devices/system/node"

/* The machine, as sysfs has it. */
static struct {
	unsigned int nr_cpus;		/* possible ones */
	unsigned int nr_nodes;		/* that have CPUs */
	int node[CPU_SETSIZE];		/* of each CPU, -1: nobody knows */
	bool all_known;
	cpu_set_t online;
} machine;

/* Sets a bit for each number of a list such as "0-3,8". */
static void read_list(const char *path, cpu_set_t *set)
{
	char text[4096], *at = text;
	int from, to, len;

	CPU_ZERO(set);
	if (file_read(path, text, sizeof(text)) <= 0)
		return;
	while (sscanf(at, "%d%n", &from, &len) == 1) {
		at += len;
		to = from;
		if (*at == '-' && sscanf(at, "-%d%n", &to, &len) == 1)
			at += len;
		for (; from <= to && from < CPU_SETSIZE; from++)
			CPU_SET(from, set);
		if (*at++ != ',')
			break;
	}
}

/* Off-line CPUs have this link, too, unless they are not there at all. */
static int cpu_node(unsigned int cpu)
{
	struct dirent *entry;
	char path[64];
	int node = -1;
	DIR *dir;

	snprintf(path, sizeof(path), SYSFS_CPU "/cpu%u", cpu);
	dir = opendir(path);
	while (dir && (entry = readdir(dir)))
		if (sscanf(entry->d_name, "node%d", &node) == 1)
			break;
	if (dir)
		closedir(dir);
	return node < MAX_NODES ? node : -1;
}

/* False when this test cannot tell what is where. */
static bool read_machine(void)
{
	bool seen[MAX_NODES] = { false };
	cpu_set_t possible;
	unsigned int cpu;
	int node;

	memset(&machine, 0, sizeof(machine));
	machine.all_known = true;
	read_list(SYSFS_CPU "/possible", &possible);
	read_list(SYSFS_CPU "/online", &machine.online);
	machine.nr_cpus = CPU_COUNT(&possible);
	for (cpu = 0; cpu < machine.nr_cpus; cpu++) {
		if (!CPU_ISSET(cpu, &possible))
			return false;
		/* A kernel without nodes has all CPUs in one. */
		node = access(SYSFS_NODE, F_OK) ? 0 : cpu_node(cpu);
		machine.node[cpu] = node;
		if (node < 0) {
			machine.all_known = false;
			continue;
		}
		machine.nr_nodes += !seen[node];
		seen[node] = true;
	}
	return machine.nr_cpus > 0 && machine.node[0] >= 0;
}

/* The first CPU that is on-line and not of this node, or -1. */
static int cpu_of_other_node(int node)
{
	unsigned int cpu;

	for (cpu = 0; cpu < machine.nr_cpus; cpu++)
		if (CPU_ISSET(cpu, &machine.online) &&
		    machine.node[cpu] >= 0 && machine.node[cpu] != node)
			return cpu;
	return -1;
}

/* The @nth CPU of a node that is on-line, or -1. */
static int cpu_of_node(int node, unsigned int nth)
{
	unsigned int cpu;

	for (cpu = 0; cpu < machine.nr_cpus; cpu++)
		if (CPU_ISSET(cpu, &machine.online) &&
		    machine.node[cpu] == node && !nth--)
			return cpu;
	return -1;
}

static int setup(int fd, struct fuse_uring_setup *arg)
{
	return ioctl(fd, FUSE_DEV_IOC_URING_SETUP, arg) ? -errno : 0;
}

static int queue_info(int fd, unsigned int qid, cpu_set_t *cpus,
		      struct fuse_uring_queue_info *info)
{
	*info = (struct fuse_uring_queue_info){
		.size = sizeof(*info),
		.qid = qid,
		.cpus = (uintptr_t)cpus,
		.cpus_len = sizeof(*cpus),
	};
	return ioctl(fd, FUSE_DEV_IOC_URING_QUEUE_INFO, info) ? -errno : 0;
}

/* The queue of each CPU, as the kernel tells it. */
struct map {
	unsigned int nr_queues;
	int home[CPU_SETSIZE];
	int node[CPU_SETSIZE];		/* of each queue */
};

/* It is a partition of all CPUs. */
static void read_map(struct __test_metadata *_metadata, int fd,
		     unsigned int nr_queues, struct map *map)
{
	struct fuse_uring_queue_info info;
	unsigned int qid, cpu, nr;
	cpu_set_t cpus;

	memset(map, 0, sizeof(*map));
	memset(map->home, -1, sizeof(map->home));
	map->nr_queues = nr_queues;
	for (qid = 0; qid < nr_queues; qid++) {
		ASSERT_EQ(0, queue_info(fd, qid, &cpus, &info));
		map->node[qid] = info.node;
		for (nr = 0, cpu = 0; cpu < CPU_SETSIZE; cpu++) {
			if (!CPU_ISSET(cpu, &cpus))
				continue;
			nr++;
			EXPECT_GT(machine.nr_cpus, cpu);
			EXPECT_EQ(-1, map->home[cpu]);
			map->home[cpu] = qid;
		}
		EXPECT_LT(0, nr);
		EXPECT_EQ(nr, info.nr_cpus);
	}
	for (cpu = 0; cpu < machine.nr_cpus; cpu++)
		EXPECT_NE(-1, map->home[cpu]);
}

/*
 * What any number of queues must look like.  @own are the CPUs that were dealt
 * out, which others have been added to.
 */
static void check_map(struct __test_metadata *_metadata, const struct map *map,
		      const cpu_set_t *own)
{
	unsigned int size[CPU_SETSIZE] = { 0 }, cpu, qid, nodes = 0;
	bool seen[MAX_NODES] = { false };
	int node;

	for (cpu = 0; cpu < machine.nr_cpus; cpu++) {
		if (!CPU_ISSET(cpu, own))
			continue;
		size[map->home[cpu]]++;
		nodes += !seen[machine.node[cpu]];
		seen[machine.node[cpu]] = true;
	}
	for (qid = 0; qid < map->nr_queues; qid++)
		EXPECT_LT(0, size[qid])
			TH_LOG("queue %u of %u", qid, map->nr_queues);

	if (map->nr_queues >= nodes)
		for (cpu = 0; cpu < machine.nr_cpus; cpu++)
			if (CPU_ISSET(cpu, own))
				EXPECT_EQ(machine.node[cpu],
					  map->node[map->home[cpu]])
					TH_LOG("CPU %u, %u queues", cpu,
					       map->nr_queues);

	/* Queues of a node, or all when they have CPUs of several. */
	for (node = 0; node < MAX_NODES; node++) {
		unsigned int least = ~0U, most = 0;

		for (qid = 0; qid < map->nr_queues; qid++) {
			if (map->nr_queues >= nodes && map->node[qid] != node)
				continue;
			if (size[qid] < least)
				least = size[qid];
			if (size[qid] > most)
				most = size[qid];
		}
		if (most)
			EXPECT_GE(1, most - least)
				TH_LOG("%u queues: from %u to %u CPUs",
				       map->nr_queues, least, most);
	}
}

FIXTURE(routing_map)
{
	struct puppet p;
	struct map map;
};

FIXTURE_SETUP(routing_map)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = { .transport = TRANSPORT_RING };

	if (why)
		SKIP(return, "%s", why);
	if (!read_machine())
		SKIP(return, "needs CPUs that are numbered without gaps");
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
}

FIXTURE_TEARDOWN(routing_map)
{
	puppet_stop(&self->p);
}

/* A ring that nobody has used makes room for the next one. */
static int setup_queues(struct puppet *p, unsigned int nr)
{
	p->opt.nr_queues = nr;
	p->opt.depth = 1;
	p->opt.payload = FUSE_URING_MIN_PAYLOAD;
	return puppet_setup(p);
}

TEST_F(routing_map, of_any_number_of_queues)
{
	unsigned int nr, online = CPU_COUNT(&machine.online);
	cpu_set_t all = machine.online;
	unsigned int cpu;

	for (cpu = 0; cpu < machine.nr_cpus; cpu++)
		CPU_SET(cpu, &all);
	for (nr = 1; nr <= machine.nr_cpus; nr++) {
		ASSERT_EQ(0, setup_queues(&self->p, nr));
		EXPECT_EQ(nr, self->p.setup.nr_queues);
		read_map(_metadata, self->p.fd, nr, &self->map);
		if (nr <= online)
			check_map(_metadata, &self->map, &machine.online);
		else if (machine.all_known)
			check_map(_metadata, &self->map, &all);
	}
}

TEST_F(routing_map, is_the_same_again)
{
	unsigned int nr;
	struct map map;

	for (nr = 1; nr <= machine.nr_cpus; nr++) {
		ASSERT_EQ(0, setup_queues(&self->p, nr));
		read_map(_metadata, self->p.fd, nr, &map);
		ASSERT_EQ(0, setup_queues(&self->p, nr));
		read_map(_metadata, self->p.fd, nr, &self->map);
		EXPECT_EQ(0, memcmp(&map, &self->map, sizeof(map)));
	}
}

TEST_F(routing_map, of_a_queue_per_cpu)
{
	unsigned int cpu;

	ASSERT_EQ(0, setup_queues(&self->p, 0));
	ASSERT_EQ(machine.nr_cpus, self->p.setup.nr_queues);
	read_map(_metadata, self->p.fd, machine.nr_cpus, &self->map);
	for (cpu = 0; cpu < machine.nr_cpus; cpu++) {
		EXPECT_EQ(cpu, self->map.home[cpu]);
		if (machine.node[cpu] >= 0)
			EXPECT_EQ(machine.node[cpu], self->map.node[cpu]);
	}
}

TEST_F(routing_map, of_one_queue)
{
	ASSERT_EQ(0, setup_queues(&self->p, 1));
	read_map(_metadata, self->p.fd, 1, &self->map);
	EXPECT_EQ(-ENXIO, setup_queues(&self->p, machine.nr_cpus + 1));
	/* It is still there. */
	read_map(_metadata, self->p.fd, 1, &self->map);
}

/* The statistics tell the same nodes and numbers of CPUs. */
TEST_F(routing_map, is_in_the_statistics)
{
	unsigned int qid, cpu, nr;

	ASSERT_EQ(0, setup_queues(&self->p, (machine.nr_cpus + 1) / 2));
	read_map(_metadata, self->p.fd, self->p.setup.nr_queues, &self->map);
	for (qid = 0; qid < self->map.nr_queues; qid++) {
		for (nr = 0, cpu = 0; cpu < machine.nr_cpus; cpu++)
			nr += self->map.home[cpu] == (int)qid;
		EXPECT_EQ(nr, ring_queue_stat(self->p.conn, qid, "cpus"));
		EXPECT_EQ(self->map.node[qid],
			  ring_queue_stat(self->p.conn, qid, "node"));
	}
}

/*
 * To which queue a request of this CPU is sent; BY_DEV for /dev/fuse, BY_OTHERS
 * when another thread of the server answers it, else a negative errno.
 */
#define BY_DEV		(-1000)
#define BY_OTHERS	(-1001)

static int came_by(struct puppet *p, int cpu)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	static struct puppet_req req;
	int ret, by = BY_OTHERS, result;
	struct requester r;

	ret = requester_on(cpu, &r, request_stat, TEST_MNT);
	if (ret)
		return ret;
	while (!requester_ended(&r, &result, 0)) {
		if (now_ms() >= end)
			return -ETIMEDOUT;
		if (puppet_next(p, &req, 2) != PUPPET_REQUEST)
			continue;
		if (req.in.opcode == FUSE_GETATTR)
			by = req.ring ? puppet_sent_to(p, &req) : BY_DEV;
		ret = puppet_answer(p, &req);
		if (ret)
			return ret;
	}
	return result ? -EIO : by;
}

/* The server can run on some CPUs only. */
FIXTURE(routing_cpus)
{
	struct puppet p;
	struct map map;
	cpu_set_t cpus;
};

enum cpus_choice {
	CPUS_ONE,
	CPUS_LAST,
	CPUS_TWO_OF_A_NODE,
	CPUS_OF_TWO_NODES,
	CPUS_ALL_BUT_ONE,
};

FIXTURE_VARIANT(routing_cpus)
{
	enum cpus_choice choice;
};

FIXTURE_VARIANT_ADD(routing_cpus, one) {
	.choice = CPUS_ONE,
};

FIXTURE_VARIANT_ADD(routing_cpus, last) {
	.choice = CPUS_LAST,
};

FIXTURE_VARIANT_ADD(routing_cpus, two_of_a_node) {
	.choice = CPUS_TWO_OF_A_NODE,
};

FIXTURE_VARIANT_ADD(routing_cpus, of_two_nodes) {
	.choice = CPUS_OF_TWO_NODES,
};

FIXTURE_VARIANT_ADD(routing_cpus, all_but_one) {
	.choice = CPUS_ALL_BUT_ONE,
};

/* False when there are no such CPUs. */
static bool choose_cpus(enum cpus_choice choice, cpu_set_t *cpus)
{
	int first = cpu_of_node(machine.node[0], 0), cpu = first;

	CPU_ZERO(cpus);
	switch (choice) {
	case CPUS_ONE:
		break;
	case CPUS_LAST:
		for (cpu = machine.nr_cpus - 1; cpu > 0; cpu--)
			if (CPU_ISSET(cpu, &machine.online))
				break;
		break;
	case CPUS_TWO_OF_A_NODE:
		CPU_SET(first, cpus);
		cpu = cpu_of_node(machine.node[0], 1);
		break;
	case CPUS_OF_TWO_NODES:
		CPU_SET(first, cpus);
		cpu = cpu_of_other_node(machine.node[0]);
		break;
	case CPUS_ALL_BUT_ONE:
		if (CPU_COUNT(&machine.online) < 2)
			return false;
		*cpus = machine.online;
		CPU_CLR(first, cpus);
		return true;
	}
	if (cpu < 0)
		return false;
	CPU_SET(cpu, cpus);
	return true;
}

FIXTURE_SETUP(routing_cpus)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.depth = 2,
		.payload = FUSE_URING_MIN_PAYLOAD,
		.cpus = &self->cpus,
	};

	if (why)
		SKIP(return, "%s", why);
	if (!read_machine())
		SKIP(return, "needs CPUs that are numbered without gaps");
	if (!choose_cpus(variant->choice, &self->cpus))
		SKIP(return, "needs more CPUs or nodes");
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	ASSERT_EQ(CPU_COUNT(&self->cpus), self->p.setup.nr_queues);
	read_map(_metadata, self->p.fd, self->p.setup.nr_queues, &self->map);
}

FIXTURE_TEARDOWN(routing_cpus)
{
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
	puppet_stop(&self->p);
}

/* Each of these has a queue, on its node, by the order of their numbers. */
TEST_F(routing_cpus, have_their_own_queues)
{
	unsigned int cpu;
	int qid = 0;

	check_map(_metadata, &self->map, &self->cpus);
	for (cpu = 0; cpu < machine.nr_cpus; cpu++) {
		if (!CPU_ISSET(cpu, &self->cpus))
			continue;
		EXPECT_EQ(qid, self->map.home[cpu]);
		EXPECT_EQ(machine.node[cpu], self->map.node[qid]);
		qid++;
	}
}

TEST_F(routing_cpus, others_use_queues_of_their_node)
{
	unsigned int cpu, qid;

	for (cpu = 0; cpu < machine.nr_cpus; cpu++) {
		int node = machine.node[cpu];

		for (qid = 0; qid < self->map.nr_queues; qid++)
			if (self->map.node[qid] == node)
				break;
		if (qid < self->map.nr_queues)
			EXPECT_EQ(node, self->map.node[self->map.home[cpu]])
				TH_LOG("CPU %u", cpu);
	}
}

TEST_F(routing_cpus, requests_come_by_them)
{
	static struct puppet_req req;
	struct requester r;
	unsigned int cpu;

	for (cpu = 0; cpu < machine.nr_cpus; cpu++) {
		if (!CPU_ISSET(cpu, &machine.online))
			continue;
		ASSERT_EQ(0, requester_on(cpu, &r, request_stat, TEST_MNT));
		ASSERT_EQ(0, puppet_until(&self->p, &req, FUSE_GETATTR));
		EXPECT_TRUE(req.ring);
		EXPECT_EQ(self->map.home[cpu], puppet_sent_to(&self->p, &req))
			TH_LOG("CPU %u", cpu);
		ASSERT_EQ(0, puppet_answer(&self->p, &req));
		EXPECT_EQ(0, puppet_serve(&self->p, &r));
	}
}

/* Fewer queues than that is what @nr_queues is for. */
TEST_F(routing_cpus, share_a_queue)
{
	struct puppet_options opt = self->p.opt;

	puppet_stop(&self->p);
	opt.nr_queues = 1;
	opt.cpus = &self->cpus;
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	EXPECT_EQ(1, self->p.setup.nr_queues);
	read_map(_metadata, self->p.fd, 1, &self->map);
	EXPECT_EQ(0, came_by(&self->p, cpu_of_node(machine.node[0], 0)));
}

#define LONG_BITS	(8 * sizeof(long))

/* What of that is refused. */
FIXTURE(routing_refused)
{
	struct puppet p;
	struct fuse_uring_setup arg;
	/* Longer than the kernel's. */
	unsigned long cpus[512];
};

FIXTURE_SETUP(routing_refused)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = 1,
		.depth = 2,
	};

	if (why)
		SKIP(return, "%s", why);
	if (!read_machine())
		SKIP(return, "needs CPUs that are numbered without gaps");
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	self->arg = (struct fuse_uring_setup){
		.size = sizeof(self->arg),
		.queue_depth = 1,
		.payload_size = FUSE_URING_MIN_PAYLOAD,
		.cpus = (uintptr_t)self->cpus,
		.cpus_len = sizeof(self->cpus),
	};
}

FIXTURE_TEARDOWN(routing_refused)
{
	puppet_stop(&self->p);
}

/* With this error, and nothing has changed. */
static void expect_refused(struct __test_metadata *_metadata, struct puppet *p,
			   int error, struct fuse_uring_setup *arg)
{
	EXPECT_EQ(error, setup(p->fd, arg));
	EXPECT_EQ(-1, ring_stat(p->conn, "requests_ring"));
	ASSERT_EQ(0, puppet_setup(p));
	ASSERT_EQ(0, puppet_map(p));
	ASSERT_EQ(0, puppet_uring(p));
	ASSERT_EQ(0, puppet_arm(p));
	ASSERT_EQ(0, puppet_init(p));
	EXPECT_LE(0, came_by(p, cpu_of_node(machine.node[0], 0)));
	EXPECT_EQ(0, ring_stat(p->conn, "requests_dev"));
}

#define EXPECT_REFUSED(error) \
	expect_refused(_metadata, &self->p, error, &self->arg)

TEST_F(routing_refused, no_cpu)
{
	EXPECT_REFUSED(-ENXIO);
}

TEST_F(routing_refused, no_cpu_in_a_byte)
{
	self->arg.cpus_len = 1;
	EXPECT_REFUSED(-ENXIO);
}

TEST_F(routing_refused, no_possible_cpu)
{
	unsigned int cpu = machine.nr_cpus;

	self->cpus[cpu / LONG_BITS] |= 1UL << cpu % LONG_BITS;
	self->cpus[ARRAY_SIZE(self->cpus) - 1] = 1UL << (LONG_BITS - 1);
	EXPECT_REFUSED(-ENXIO);
}

TEST_F(routing_refused, more_queues_than_cpus)
{
	self->cpus[0] = 1;
	self->arg.nr_queues = 2;
	EXPECT_REFUSED(-ENXIO);
}

TEST_F(routing_refused, bad_address)
{
	self->arg.cpus = -4096UL;
	EXPECT_REFUSED(-EFAULT);
}

TEST_F(routing_refused, no_address)
{
	self->arg.cpus = 0;
	EXPECT_REFUSED(-EFAULT);
}

TEST_F(routing_refused, address_of_nothing)
{
	self->arg.cpus_len = 0;
	EXPECT_REFUSED(-EINVAL);
}

/* CPUs that there are not are nobody's problem as long as there is one. */
TEST_F(routing_refused, nothing_of_a_long_mask)
{
	memset(self->cpus, 0xff, sizeof(self->cpus));
	ASSERT_EQ(0, setup(self->p.fd, &self->arg));
	EXPECT_EQ(machine.nr_cpus, self->arg.nr_queues);
}

TEST_F(routing_refused, nothing_of_a_short_mask)
{
	self->cpus[0] = 1;
	self->arg.cpus_len = 1;
	ASSERT_EQ(0, setup(self->p.fd, &self->arg));
	EXPECT_EQ(1, self->arg.nr_queues);
}

/* Queues that are not served, and those that are. */
FIXTURE(routing_live)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r[4];
	struct map map;
};

FIXTURE_SETUP(routing_live)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.depth = 1,
		.payload = FUSE_URING_MIN_PAYLOAD,
	};

	if (why)
		SKIP(return, "%s", why);
	if (!read_machine())
		SKIP(return, "needs CPUs that are numbered without gaps");
	if (CPU_COUNT(&machine.online) < 2)
		SKIP(return, "needs two CPUs");
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, puppet_map(&self->p));
	ASSERT_EQ(0, puppet_uring(&self->p));
	read_map(_metadata, self->p.fd, self->p.setup.nr_queues, &self->map);
}

FIXTURE_TEARDOWN(routing_live)
{
	puppet_stop(&self->p);
}

TEST_F(routing_live, one_slot_serves_all)
{
	unsigned int cpu, qid = self->p.setup.nr_queues - 1;

	ASSERT_EQ(0, puppet_arm_slots(&self->p, qid, 0, 1));
	ASSERT_EQ(0, puppet_init(&self->p));
	EXPECT_EQ(1, ring_stat(self->p.conn, "queues_live"));
	for (cpu = 0; cpu < machine.nr_cpus; cpu++)
		if (CPU_ISSET(cpu, &machine.online))
			EXPECT_EQ(qid, came_by(&self->p, cpu));
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
}

/* A thread of the server that serves one queue until it dies. */
static int mate_start(struct puppet_thread *mate, struct puppet *p,
		      unsigned int qid)
{
	mate->slots[0].qid = qid;
	mate->slots[0].nr = p->setup.queue_depth + p->setup.nr_control;
	return puppet_thread_start(mate, p);
}

static int detach_queue(struct puppet *p, unsigned int qid)
{
	int ret = puppet_detach(p, qid);

	return ret ? ret : puppet_cqe(p, TEST_WAIT_MS) == -ECANCELED ?
			   0 : -EPROTO;
}

TEST_F(routing_live, neighbours_stand_in_for_detached)
{
	int node = machine.node[0], cpu = cpu_of_node(node, 0), qid, i;
	int mate = cpu_of_node(node, 1), other = cpu_of_other_node(node);

	if (mate < 0)
		SKIP(return, "needs a node of two CPUs");
	ASSERT_EQ(0, puppet_arm(&self->p));
	ASSERT_EQ(0, puppet_init(&self->p));
	/* With a queue per CPU, their numbers are the same. */
	EXPECT_EQ(cpu, came_by(&self->p, cpu));
	EXPECT_EQ(mate, came_by(&self->p, mate));

	ASSERT_EQ(0, detach_queue(&self->p, cpu));
	qid = came_by(&self->p, cpu);
	ASSERT_LE(0, qid);
	EXPECT_NE(cpu, qid);
	EXPECT_EQ(node, self->map.node[qid]);
	EXPECT_EQ(mate, came_by(&self->p, mate));

	/* The whole node. */
	for (i = 0; i < (int)self->map.nr_queues; i++)
		if (i != cpu && self->map.node[i] == node)
			ASSERT_EQ(0, detach_queue(&self->p, i));
	if (other >= 0) {
		qid = came_by(&self->p, cpu);
		ASSERT_LE(0, qid);
		EXPECT_NE(node, self->map.node[qid]);
		qid = came_by(&self->p, mate);
		ASSERT_LE(0, qid);
		EXPECT_NE(node, self->map.node[qid]);
		EXPECT_EQ(other, came_by(&self->p, other));
		EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
	} else {
		EXPECT_EQ(BY_DEV, came_by(&self->p, cpu));
	}

	/* One of them is enough to come back to. */
	ASSERT_EQ(0, puppet_arm_queue(&self->p, mate));
	EXPECT_EQ(mate, came_by(&self->p, cpu));
	EXPECT_EQ(mate, came_by(&self->p, mate));
	ASSERT_EQ(0, puppet_arm_queue(&self->p, cpu));
	EXPECT_EQ(cpu, came_by(&self->p, cpu));
	EXPECT_EQ(mate, came_by(&self->p, mate));
}

TEST_F(routing_live, neighbours_stand_in_for_dead)
{
	int cpu = cpu_of_node(machine.node[0], 0), qid, i;
	static struct puppet_thread m;

	if (cpu_of_node(machine.node[0], 1) < 0)
		SKIP(return, "needs a node of two CPUs");
	for (i = 0; i < (int)self->p.setup.nr_queues; i++)
		if (i != cpu)
			ASSERT_EQ(0, puppet_arm_queue(&self->p, i));
	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, mate_start(&m, &self->p, cpu));
	/* By that thread; or by this one, if that does not come in time. */
	qid = came_by(&self->p, cpu);
	EXPECT_TRUE(qid == BY_OTHERS || qid == cpu) TH_LOG("by %d", qid);

	puppet_thread_end(&m);
	ASSERT_TRUE(ring_queue_stat_becomes(self->p.conn, cpu, "live", 0));
	qid = came_by(&self->p, cpu);
	ASSERT_LE(0, qid);
	EXPECT_NE(cpu, qid);
	EXPECT_EQ(machine.node[0], self->map.node[qid]);

	ASSERT_EQ(0, puppet_arm_queue(&self->p, cpu));
	EXPECT_EQ(cpu, came_by(&self->p, cpu));
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
}

/* No slot is free anywhere, so it waits until another queue's is committed. */
TEST_F(routing_live, what_waits_moves)
{
	int cpu = cpu_of_node(machine.node[0], 0), other;
	struct puppet_req *req;
	unsigned int i;

	other = cpu_of_node(machine.node[0], 1);
	if (other < 0)
		other = cpu_of_other_node(machine.node[0]);
	ASSERT_EQ(0, puppet_arm_queue(&self->p, cpu));
	ASSERT_EQ(0, puppet_arm_queue(&self->p, other));
	ASSERT_EQ(0, puppet_init(&self->p));
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, requester_on(i == 1 ? other : cpu, &self->r[i],
					  request_stat, TEST_MNT));
		if (i < 2)
			ASSERT_EQ(0, puppet_hold(&self->p, &self->held,
						 FUSE_GETATTR, i + 1));
	}
	ASSERT_NE(self->held.req[0]->qid, self->held.req[1]->qid);
	ASSERT_TRUE(ring_queue_stat_becomes(self->p.conn, cpu, "pending", 2));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));

	ASSERT_EQ(0, puppet_detach(&self->p, cpu));
	ASSERT_TRUE(ring_queue_stat_becomes(self->p.conn, other, "pending", 2));
	EXPECT_EQ(0, ring_queue_stat(self->p.conn, cpu, "pending"));
	EXPECT_TRUE(puppet_none(&self->p, FUSE_GETATTR));
	for (i = 2; i < 4; i++) {
		/* The one that is in the other queue's slot comes first. */
		if (self->held.req[0]->qid != (unsigned int)other) {
			req = self->held.req[0];
			self->held.req[0] = self->held.req[1];
			self->held.req[1] = req;
		}
		ASSERT_EQ(0, puppet_release(&self->p, &self->held));
		ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_GETATTR,
					 2));
		EXPECT_TRUE(self->held.req[1]->ring);
		EXPECT_EQ(other, self->held.req[1]->qid);
	}
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	for (i = 0; i < 4; i++)
		EXPECT_EQ(0, puppet_serve(&self->p, &self->r[i]));
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
}

/*
 * A thread of the server uses the filesystem, and does not wait for itself.
 * What nobody else of its queue can take goes to another queue.
 */
TEST_F(routing_live, own_requests_are_for_others)
{
	int cpu = cpu_of_node(machine.node[0], 0), other, qid;
	static struct puppet_thread m;
	cpu_set_t old, one;
	long sync, spills;
	struct stat st;

	other = cpu_of_node(machine.node[0], 1);
	if (other < 0)
		other = cpu_of_other_node(machine.node[0]);
	ASSERT_EQ(0, puppet_arm_queue(&self->p, cpu));
	ASSERT_EQ(0, puppet_init(&self->p));
	ASSERT_EQ(0, mate_start(&m, &self->p, other));
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(old), &old));
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(one), &one));
	sync = ring_queue_stat(self->p.conn, cpu, "sync");
	spills = ring_queue_stat(self->p.conn, other, "spills");
	EXPECT_EQ(0, stat(TEST_MNT, &st));
	EXPECT_EQ(sync + 1, ring_queue_stat(self->p.conn, cpu, "sync"));
	EXPECT_EQ(spills + 1, ring_queue_stat(self->p.conn, other, "spills"));
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(old), &old));
	/* Those of others come as ever, if this thread comes in time. */
	qid = came_by(&self->p, cpu);
	spills = ring_queue_stat(self->p.conn, other, "spills") - spills;
	EXPECT_TRUE(qid == cpu || (qid == BY_OTHERS && spills > 1))
		TH_LOG("by %d, %ld helped", qid, spills);
	puppet_thread_end(&m);
}

/*
 * Readahead of one thread has the slots of its node; what can not have one soon
 * goes to idle threads wherever they are.
 */
FIXTURE(routing_spill)
{
	struct puppet p;
	struct puppet_held held;
	struct requester r[2];
	struct map map;
	int cpu;
	int node;
	unsigned int mates;		/* queues of the node */
};

FIXTURE_SETUP(routing_spill)
{
	const char *why = test_prepare(TRANSPORT_RING);
	unsigned int qid;
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.depth = 4,
		.background = 2,
		.payload = FUSE_URING_MIN_PAYLOAD,
		.init_flags = FUSE_ASYNC_READ,
		.max_background = 256,
		.max_readahead = 1 << 20,
		.max_write = FUSE_URING_MIN_PAYLOAD,
	};

	if (why)
		SKIP(return, "%s", why);
	if (!read_machine())
		SKIP(return, "needs CPUs that are numbered without gaps");
	self->node = machine.node[0];
	self->cpu = cpu_of_node(self->node, 0);
	if (cpu_of_node(self->node, 1) < 0)
		SKIP(return, "needs a node of two CPUs");
	ASSERT_EQ(0, puppet_start(&self->p, &opt));
	ASSERT_EQ(machine.nr_cpus, self->p.setup.nr_queues);
	read_map(_metadata, self->p.fd, self->p.setup.nr_queues, &self->map);
	for (qid = 0; qid < self->map.nr_queues; qid++)
		self->mates += self->map.node[qid] == self->node;
}

FIXTURE_TEARDOWN(routing_spill)
{
	EXPECT_EQ(0, ring_stat(self->p.conn, "requests_dev"));
	puppet_stop(&self->p);
}

static int request_sequential(const void *arg)
{
	const struct puppet_io *io = arg;
	int fd = open(io->path, O_RDONLY | O_CLOEXEC), err = 0;
	static unsigned char buf[16384];
	__u64 done = 0;
	ssize_t len, i;

	if (fd < 0)
		return -errno;
	while (done < io->len && !err) {
		len = read(fd, buf, sizeof(buf));
		if (len <= 0)
			err = len ? -errno : -ENODATA;
		for (i = 0; i < len && !err; i++)
			if (buf[i] != test_byte(PUPPET_FILE, done + i))
				err = -EILSEQ;
		done += len;
	}
	close(fd);
	return err;
}

/*
 * A lone reader, with the window that an administrator would give a filesystem
 * of many queues.  As long as nothing is answered, what it reads ahead lies in
 * several queues of its node.
 */
TEST_F(routing_spill, a_reader_uses_its_node)
{
	struct puppet_io io = { .path = FILE2, .len = 4 << 20 };
	unsigned int most = 0, most_queues = 0, queues, i;
	bool seen[CPU_SETSIZE], ended = false;
	char path[128];
	int ret, result, qid;
	__u64 end;

	snprintf(path, sizeof(path), "/sys/class/bdi/0:%d/read_ahead_kb",
		 self->p.conn);
	if (access(path, W_OK))
		SKIP(return, "kernel without %s", path);
	ASSERT_EQ(0, file_write(path, "1024"));
	ASSERT_EQ(0, requester_on(self->cpu, &self->r[0], request_sequential,
				  &io));
	end = now_ms() + 3 * TEST_WAIT_MS;
	while (!ended && now_ms() < end) {
		struct puppet_req *req = malloc(sizeof(*req));

		ASSERT_NE(NULL, req);
		ret = puppet_next_settled(&self->p, req);
		if (ret == PUPPET_REQUEST && req->in.opcode == FUSE_READ &&
		    self->held.nr < ARRAY_SIZE(self->held.req)) {
			self->held.req[self->held.nr++] = req;
			qid = puppet_sent_to(&self->p, req);
			ASSERT_LE(0, qid);
			EXPECT_EQ(self->node, self->map.node[qid]);
			continue;
		}
		if (ret == PUPPET_REQUEST) {
			ASSERT_EQ(0, puppet_answer(&self->p, req));
			free(req);
			continue;
		}
		free(req);
		ASSERT_EQ(PUPPET_TIMEOUT, ret);
		/* That is all it has asked for. */
		memset(seen, 0, sizeof(seen));
		for (queues = i = 0; i < self->held.nr; i++) {
			qid = self->held.req[i]->qid;
			queues += self->map.node[qid] == self->node &&
				  !seen[qid];
			seen[qid] = true;
		}
		if (self->held.nr > most)
			most = self->held.nr;
		if (queues > most_queues)
			most_queues = queues;
		ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
		ended = requester_ended(&self->r[0], &result, 0);
	}
	ASSERT_TRUE(ended);
	EXPECT_EQ(0, result);
	EXPECT_LE(3, most);
	EXPECT_LE(2, most_queues);
	EXPECT_LT(0, ring_stat(self->p.conn, "spills"));
}

/* How many queues of the node hold a request of the background. */
static unsigned int queues_used(struct _test_data_routing_spill *self)
{
	unsigned int qid, nr = 0;

	for (qid = 0; qid < self->map.nr_queues; qid++)
		nr += self->map.node[qid] == self->node &&
		      ring_queue_stat(self->p.conn, qid, "background") > 0;
	return nr;
}

/* All credits of all queues of the node, or of eight of them. */
TEST_F(routing_spill, all_queues_of_the_node_are_used)
{
	struct puppet_io io = {
		.path = FILE2,
		.len = 64 * PUPPET_READAHEAD,
	};
	unsigned int qid, used, want = self->mates;

	if (want > 8)
		want = 8;
	ASSERT_EQ(0, requester_on(self->cpu, &self->r[0], request_readahead,
				  &io));
	ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ, 2 * want));
	/* If this thread is late, queues of other nodes help as well. */
	while ((used = queues_used(self)) < want)
		ASSERT_EQ(0, puppet_hold(&self->p, &self->held, FUSE_READ,
					 self->held.nr + 1));
	for (qid = 0; qid < self->map.nr_queues; qid++) {
		long busy = ring_queue_stat(self->p.conn, qid, "background");

		EXPECT_GE(2, busy);
		if (self->map.node[qid] != self->node)
			EXPECT_LE(busy, ring_queue_stat(self->p.conn, qid,
							"spills"))
				TH_LOG("queue %u", qid);
	}
	EXPECT_LT(0, ring_stat(self->p.conn, "spills"));
	ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
	EXPECT_EQ(0, puppet_serve(&self->p, &self->r[0]));
}

/*
 * Where the requester runs is where its answer should be made.  When all slots
 * are held there, it is made by others, first by those of the node.
 */
TEST_F(routing_spill, synchronous_requests_stay_while_they_can)
{
	unsigned int i, depth = self->p.setup.queue_depth;
	__u64 end = now_ms() + TEST_WAIT_MS;
	long before, spills, early;
	struct requester r[8];
	struct puppet_req *req;

	do {
		before = ring_stat(self->p.conn, "spills");
		early = 0;
		for (i = 0; i < depth + 2; i++) {
			ASSERT_EQ(0, requester_on(self->cpu, &r[i],
						  request_stat, TEST_MNT));
			ASSERT_EQ(0, puppet_hold(&self->p, &self->held,
						 FUSE_GETATTR, i + 1));
			req = self->held.req[i];
			EXPECT_EQ(self->cpu, puppet_sent_to(&self->p, req));
			spills = ring_stat(self->p.conn, "spills") - before;
			if (i < depth) {
				early = spills;
				if (!spills)
					EXPECT_EQ(self->cpu, req->qid);
				continue;
			}
			if (early)
				continue;
			EXPECT_LE(i + 1 - depth, spills);
			EXPECT_NE(self->cpu, req->qid);
			if (spills == 1)
				EXPECT_EQ(self->node,
					  self->map.node[req->qid]);
		}
		ASSERT_EQ(0, puppet_release_all(&self->p, &self->held));
		for (i = 0; i < depth + 2; i++)
			ASSERT_EQ(0, puppet_serve(&self->p, &r[i]));
		/* Again, if this thread was late while there were slots. */
	} while (early && now_ms() < end);
	EXPECT_EQ(0, early);
}

/* How many pages of a mapping are on another node than this, or -errno. */
static long foreign_pages(char *map, size_t size, int node)
{
	size_t page = getpagesize(), nr = size / page, i;
	void **pages = calloc(nr, sizeof(*pages));
	int *status = calloc(nr, sizeof(*status));
	long foreign = 0;

	if (!pages || !status)
		return -ENOMEM;
	for (i = 0; i < nr; i++) {
		pages[i] = map + i * page;
		__atomic_load_n(map + i * page, __ATOMIC_RELAXED);
	}
	if (syscall(SYS_move_pages, 0, nr, pages, NULL, status, 0))
		foreign = -errno;
	for (i = 0; i < nr && foreign >= 0; i++) {
		if (status[i] < 0)
			foreign = status[i];
		else
			foreign += status[i] != node;
	}
	free(pages);
	free(status);
	return foreign;
}

FIXTURE(routing_memory)
{
	struct puppet p;
	struct map map;
};

FIXTURE_VARIANT(routing_memory)
{
	unsigned int nr_queues;
	unsigned int depth;
};

FIXTURE_VARIANT_ADD(routing_memory, queue_per_cpu) {
	.depth = 8,
};

FIXTURE_VARIANT_ADD(routing_memory, two_queues) {
	.nr_queues = 2,
	.depth = 32,
};

FIXTURE_SETUP(routing_memory)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct puppet_options opt = {
		.transport = TRANSPORT_RING,
		.nr_queues = variant->nr_queues,
		.depth = variant->depth,
		.payload = FUSE_URING_MIN_PAYLOAD,
	};

	if (why)
		SKIP(return, "%s", why);
	if (!read_machine())
		SKIP(return, "needs CPUs that are numbered without gaps");
	if (machine.nr_nodes < 2 || access(SYSFS_NODE "/node1", F_OK))
		SKIP(return, "needs two nodes");
	if (syscall(SYS_move_pages, 0, 0UL, NULL, NULL, NULL, 0))
		SKIP(return, "kernel without move_pages(2)");
	ASSERT_EQ(0, puppet_open(&self->p, &opt));
	ASSERT_EQ(0, puppet_mount(&self->p));
}

FIXTURE_TEARDOWN(routing_memory)
{
	puppet_stop(&self->p);
}

/* Unless the node was full, which the figure tells. */
TEST_F(routing_memory, is_on_the_node)
{
	unsigned int qid;
	long foreign;

	ASSERT_EQ(0, puppet_setup(&self->p));
	ASSERT_EQ(0, puppet_map(&self->p));
	read_map(_metadata, self->p.fd, self->p.setup.nr_queues, &self->map);
	for (qid = 0; qid < self->map.nr_queues; qid++) {
		foreign = foreign_pages(self->p.map[qid],
					self->p.setup.mmap_size,
					self->map.node[qid]);
		EXPECT_EQ(0, foreign) TH_LOG("queue %u", qid);
		EXPECT_EQ(0, ring_queue_stat(self->p.conn, qid,
					     "foreign_pages"));
	}
}

#define CGROUP		TEST_DIR "/cgroup"
#define CPUSET		CGROUP "/fuse_routing_test"

/* Why there can be no cgroup of ours with a cpuset, or NULL. */
static const char *cpuset_make(void)
{
	char text[256] = "";

	if (mkdir(CGROUP, 0755) || mount("test", CGROUP, "cgroup2", 0, NULL))
		return "kernel without cgroups";
	if (file_read(CGROUP "/cgroup.controllers", text, sizeof(text)) < 0 ||
	    !strstr(text, "cpuset"))
		return "kernel without CONFIG_CPUSETS, or they are elsewhere";
	if (file_write(CGROUP "/cgroup.subtree_control", "+cpuset") ||
	    (mkdir(CPUSET, 0755) && errno != EEXIST))
		return "cannot make a cgroup";
	return NULL;
}

static int cpuset_enter(pid_t pid)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", pid);
	return file_write(CPUSET "/cgroup.procs", text);
}

/* Whose memory must not be on a node gets none there, and the figure tells. */
TEST_F(routing_memory, elsewhere_is_counted)
{
	const char *why = cpuset_make();
	int node = -1, other;
	unsigned int qid;
	long foreign, sum = 0;
	char text[32];

	if (why)
		SKIP(return, "%s", why);
	other = cpu_of_other_node(machine.node[0]);
	ASSERT_LE(0, other);
	node = machine.node[other];
	snprintf(text, sizeof(text), "%d", node);
	ASSERT_EQ(0, file_write(CPUSET "/cpuset.mems", text));
	ASSERT_EQ(0, cpuset_enter(getpid()));
	EXPECT_EQ(0, puppet_setup(&self->p));
	EXPECT_EQ(0, file_write(CGROUP "/cgroup.procs", "0"));
	rmdir(CPUSET);
	ASSERT_EQ(0, puppet_map(&self->p));
	read_map(_metadata, self->p.fd, self->p.setup.nr_queues, &self->map);
	for (qid = 0; qid < self->map.nr_queues; qid++) {
		foreign = foreign_pages(self->p.map[qid],
					self->p.setup.mmap_size,
					self->map.node[qid]);
		EXPECT_EQ(foreign, ring_queue_stat(self->p.conn, qid,
						   "foreign_pages"));
		/* All of it, or nothing. */
		EXPECT_EQ(self->map.node[qid] == node ? 0 :
			  self->p.setup.mmap_size / getpagesize(), foreign);
		sum += foreign;
	}
	EXPECT_LT(0, sum);
	/* It works all the same. */
	ASSERT_EQ(0, puppet_uring(&self->p));
	ASSERT_EQ(0, puppet_arm(&self->p));
	ASSERT_EQ(0, puppet_init(&self->p));
	EXPECT_LE(0, came_by(&self->p, other));
}

/*
 * CPUs go off-line and come back.  Tests run in processes that may be killed, so
 * it is the program that sets things right in the end.
 */
static pid_t main_pid;
static cpu_set_t online_at_start;

static int cpu_switch(unsigned int cpu, bool on)
{
	char path[128];

	snprintf(path, sizeof(path), SYSFS_CPU "/cpu%u/online", cpu);
	return file_write(path, on ? "1" : "0");
}

static bool cpu_has_switch(unsigned int cpu)
{
	char path[128];

	snprintf(path, sizeof(path), SYSFS_CPU "/cpu%u/online", cpu);
	return !access(path, W_OK);
}

static void __attribute__((constructor)) online_save(void)
{
	main_pid = getpid();
	read_list(SYSFS_CPU "/online", &online_at_start);
}

static void online_restore(void)
{
	cpu_set_t online;
	unsigned int cpu;

	read_list(SYSFS_CPU "/online", &online);
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &online_at_start) &&
		    !CPU_ISSET(cpu, &online))
			cpu_switch(cpu, true);
}

static void __attribute__((destructor)) online_restore_at_exit(void)
{
	if (getpid() == main_pid && test_disrupts())
		online_restore();
}

/* A real server, whose threads are bound to their queues' CPUs, under load. */
#define LOADERS		4
#define LOAD_FILE	(64 << 10)

FIXTURE(routing_load)
{
	struct server_fs *fs;
	pid_t server;
	int conn;
	struct requester r[LOADERS];
	unsigned int running;
	__u64 seed;
};

FIXTURE_VARIANT(routing_load)
{
	bool passthrough;
	unsigned int nr_queues;
};

FIXTURE_VARIANT_ADD(routing_load, null) {
	.passthrough = false,
};

FIXTURE_VARIANT_ADD(routing_load, passthrough) {
	.passthrough = true,
};

FIXTURE_VARIANT_ADD(routing_load, passthrough_two_queues) {
	.passthrough = true,
	.nr_queues = 2,
};

FIXTURE_SETUP(routing_load)
{
	const char *why = test_prepare(TRANSPORT_RING);
	struct server_opts opts = {
		.mountpoint = TEST_MNT,
		.transport = SERVER_RING,
		.nr_queues = variant->nr_queues,
		.queue_depth = 2,
		.payload_size = 128 << 10,
		.max_write = 128 << 10,
		.mount_opts = "allow_other",
	};

	if (why)
		SKIP(return, "%s", why);
	if (!read_machine())
		SKIP(return, "needs CPUs that are numbered without gaps");
	if (CPU_COUNT(&machine.online) < 2)
		SKIP(return, "needs two CPUs");
	ASSERT_EQ(0, mkdir(TEST_DIR "/below", 0755));
	self->fs = variant->passthrough ?
		   fs_passthrough_new(TEST_DIR "/below", false) :
		   fs_null_new(1 << 30);
	ASSERT_NE(NULL, self->fs);
	opts.fs = self->fs;
	self->server = server_fork(&opts);
	ASSERT_LT(0, self->server) TH_LOG("%s", server_error());
	self->conn = conn_number(TEST_MNT);
	ASSERT_LE(0, self->conn);
	self->seed = test_seed();
}

FIXTURE_TEARDOWN(routing_load)
{
	int status = -1;

	EXPECT_LT(0, ring_stat(self->conn, "requests_ring"));
	EXPECT_EQ(0, ring_stat(self->conn, "requests_dev"));
	EXPECT_EQ(0, umount(TEST_MNT));
	EXPECT_EQ(self->server, waitpid(self->server, &status, 0));
	EXPECT_EQ(0, status);
	fs_free(self->fs);
	online_restore();
}

/* Two threads for each requester: one works on a file, one asks about it. */
struct load {
	unsigned int nr;
	bool passthrough;
	unsigned int ms;
	char path[64];
	int fd;
	int err;
	__u64 end;
};

static void *load_stats(void *arg)
{
	struct load *load = arg;
	struct stat st;
	long err = 0;

	while (!err && now_ms() < load->end)
		if (stat(TEST_MNT, &st) || fstat(load->fd, &st))
			err = -errno;
	return (void *)err;
}

/* What was written is read again, from the server. */
static int load_file(struct load *load, __u64 round)
{
	static unsigned char buf[LOAD_FILE], back[LOAD_FILE];
	size_t i;

	for (i = 0; i < sizeof(buf); i++)
		buf[i] = test_byte(load->nr + round, i);
	if (pwrite(load->fd, buf, sizeof(buf), 0) != sizeof(buf))
		return errno ? -errno : -EIO;
	if (posix_fadvise(load->fd, 0, 0, POSIX_FADV_DONTNEED))
		return -EIO;
	if (pread(load->fd, back, sizeof(back), 0) != sizeof(back))
		return errno ? -errno : -EIO;
	if (load->passthrough && memcmp(buf, back, sizeof(buf)))
		return -EILSEQ;
	return 0;
}

static int request_load(const void *arg)
{
	struct load load = *(const struct load *)arg;
	pthread_t thread;
	__u64 round = 0;
	void *result;
	int err = 0;

	load.end = now_ms() + load.ms;
	load.fd = open(load.path, load.passthrough ? O_RDWR | O_CREAT : O_RDWR,
		       0600);
	if (load.fd < 0)
		return -errno;
	if (pthread_create(&thread, NULL, load_stats, &load))
		return -EAGAIN;
	while (!err && now_ms() < load.end)
		err = load_file(&load, round++);
	pthread_join(thread, &result);
	if (!err)
		err = (long)result;
	return close(load.fd) && !err ? -errno : err;
}

static void load_start(struct __test_metadata *_metadata,
		       struct _test_data_routing_load *self, bool passthrough,
		       unsigned int ms)
{
	static struct load load;
	unsigned int i;

	for (i = 0; i < LOADERS; i++) {
		load = (struct load){
			.nr = i,
			.passthrough = passthrough,
			.ms = ms,
		};
		snprintf(load.path, sizeof(load.path),
			 passthrough ? TEST_MNT "/file%u" : TEST_MNT "/null", i);
		ASSERT_EQ(0, requester_start(&self->r[i], request_load,
					     &load));
	}
}

/* All of it has gone well, and nobody hangs. */
static void load_join(struct __test_metadata *_metadata,
		      struct _test_data_routing_load *self)
{
	unsigned int i;

	for (i = 0; i < LOADERS; i++)
		EXPECT_EQ(0, requester_join(&self->r[i]));
}

TEST_F_TIMEOUT(routing_load, cpus_come_and_go, 5 * TEST_TIMEOUT)
{
	/* On an emulated machine with many CPUs one of these takes seconds. */
	unsigned int ms = 2000 + 250 * machine.nr_cpus;
	unsigned int cpu, rounds = 0, usable = 0;
	__u64 end;

	if (!test_disrupts())
		SKIP(return, "%s", TEST_DISRUPTS_NOT);
	if (ms < test_ms())
		ms = test_ms();
	for (cpu = 0; cpu < machine.nr_cpus; cpu++)
		usable += CPU_ISSET(cpu, &machine.online) &&
			  cpu_has_switch(cpu);
	if (!usable)
		SKIP(return, "needs CPUs that can be taken off-line");
	load_start(_metadata, self, variant->passthrough, ms);
	end = now_ms() + ms;
	while (now_ms() < end) {
		cpu = test_random(&self->seed) % machine.nr_cpus;
		if (!CPU_ISSET(cpu, &online_at_start) || !cpu_has_switch(cpu))
			continue;
		if (CPU_ISSET(cpu, &machine.online)) {
			/* The last one stays. */
			if (CPU_COUNT(&machine.online) < 2)
				continue;
			if (!cpu_switch(cpu, false))
				CPU_CLR(cpu, &machine.online);
		} else {
			ASSERT_EQ(0, cpu_switch(cpu, true));
			CPU_SET(cpu, &machine.online);
		}
		rounds++;
		sleep_ms(test_random(&self->seed) % 20);
	}
	load_join(_metadata, self);
	EXPECT_LT(0, rounds);
	online_restore();
	/* And with all of them there again. */
	load_start(_metadata, self, variant->passthrough, 100);
	load_join(_metadata, self);
}

/*
 * Take all CPUs but the first off-line, or those that were there at the start
 * on-line.  On an emulated machine one takes seconds, and shows that it goes on.
 */
static unsigned int most_cpus_switch(struct __test_metadata *_metadata,
				     bool on)
{
	unsigned int cpu, nr = 0;

	for (cpu = 1; cpu < machine.nr_cpus; cpu++) {
		if (!CPU_ISSET(cpu, &online_at_start) || !cpu_has_switch(cpu) ||
		    cpu_switch(cpu, on))
			continue;
		if (++nr % 8 == 0)
			TH_LOG("%u CPUs so far, on: %u", nr, on);
	}
	return nr;
}

/* As few CPUs as can be, and then all of them again. */
TEST_F_TIMEOUT(routing_load, most_cpus_go, 10 * TEST_TIMEOUT)
{
	unsigned int gone;

	if (!test_disrupts())
		SKIP(return, "%s", TEST_DISRUPTS_NOT);
	load_start(_metadata, self, variant->passthrough, 1000);
	gone = most_cpus_switch(_metadata, false);
	load_join(_metadata, self);
	if (!gone)
		SKIP(return, "needs CPUs that can be taken off-line");
	load_start(_metadata, self, variant->passthrough, 100);
	load_join(_metadata, self);
	EXPECT_EQ(gone, most_cpus_switch(_metadata, true));
	load_start(_metadata, self, variant->passthrough, 100);
	load_join(_metadata, self);
}

/* Every thread of the process may run on these CPUs only. */
static bool threads_are_within(pid_t pid, const cpu_set_t *cpus)
{
	struct dirent *entry;
	cpu_set_t set, both;
	char path[64];
	bool yes = true;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.' ||
		    sched_getaffinity(atoi(entry->d_name), sizeof(set), &set))
			continue;
		CPU_AND(&both, &set, cpus);
		yes &= CPU_EQUAL(&both, &set);
	}
	if (dir)
		closedir(dir);
	return dir && yes;
}

TEST_F(routing_load, server_is_confined)
{
	const char *why = cpuset_make();
	unsigned int cpu, nr = 0;
	char text[32] = "";
	cpu_set_t cpus;

	if (why)
		SKIP(return, "%s", why);
	CPU_ZERO(&cpus);
	for (cpu = 0; cpu < machine.nr_cpus && nr < 2; cpu++) {
		if (!CPU_ISSET(cpu, &machine.online))
			continue;
		CPU_SET(cpu, &cpus);
		snprintf(text + strlen(text), sizeof(text) - strlen(text),
			 "%s%u", nr++ ? "," : "", cpu);
	}
	ASSERT_EQ(0, file_write(CPUSET "/cpuset.cpus", text));

	load_start(_metadata, self, variant->passthrough, 1500);
	sleep_ms(300);
	EXPECT_EQ(0, cpuset_enter(self->server));
	EXPECT_TRUE(threads_are_within(self->server, &cpus));
	load_join(_metadata, self);
	load_start(_metadata, self, variant->passthrough, 300);
	load_join(_metadata, self);

	/* And out again, so that nothing of it is left. */
	snprintf(text, sizeof(text), "%d", self->server);
	EXPECT_EQ(0, file_write(CGROUP "/cgroup.procs", text));
	EXPECT_EQ(0, rmdir(CPUSET));
	load_start(_metadata, self, variant->passthrough, 100);
	load_join(_metadata, self);
}

TEST_HARNESS_MAIN
