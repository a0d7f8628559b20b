// SPDX-License-Identifier: GPL-2.0
/*
 * What it costs to set a ring up: time and memory.
 *
 * Only the kernel's part is measured: the ioctl, in which all memory of the ring
 * is allocated.  Nothing is mapped and no slot is armed.
 */

#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

#include "common.h"
#include "meminfo.h"
#include "options.h"
#include "server.h"

#define MAX_ROUNDS	100

static const char help[] =
"Usage: fuse_setup_cost [options]\n"
"Mounts, makes a ring that nobody serves, and tells what it took.  Needs root.\n"
"\n"
"  -q, --queues=N       number of queues (default: one per possible CPU)\n"
"  -d, --depth=N        slots per queue\n"
"  -C, --control=N      control slots per queue (default 2)\n"
"  -p, --payload=SIZE   largest payload, in bytes\n"
"  -s, --small-size=N   bytes that each slot has of its own\n"
"  -P, --pool-size=N    bytes per queue for larger payloads\n"
"  -f, --full-size      each slot has room for the largest payload\n"
"  -r, --rounds=N       how often to do it (default 3)\n"
"  -h, --help           this text\n"
"\n"
"What is not given is as the kernel prefers.  Prints one line\n"
"setup_cost possible=N online=N queues=N depth=N payload=N small_size=N\n"
"pool_size=N mmap_size=N bytes=N ns=N available_kib=N rounds=N\n"
"bytes is the memory of all queues, ns the median time of the ioctl, and\n"
"available_kib by how much less memory was available, at the median.  Both\n"
"are \"-\" for a ring that would take more than three quarters of MemAvailable:\n"
"that is not tried.\n";

struct cost {
	struct fuse_uring_setup setup;	/* as granted */
	long long ns;
	long kib;
};

static __u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* 0 or a negative errno of the ioctl */
static int set_up(const struct fuse_uring_setup *asked, struct cost *cost)
{
	int fd = server_mount(TEST_MNT, NULL, 0), conn, ret = 0;
	__u64 start;

	if (fd < 0)
		errx(1, "%s", server_error());
	conn = conn_number(TEST_MNT);
	cost->setup = *asked;
	cost->kib = available_kib();
	start = now_ns();
	if (ioctl(fd, FUSE_DEV_IOC_URING_SETUP, &cost->setup))
		ret = -errno;
	cost->ns = now_ns() - start;
	cost->kib -= available_kib();
	close(fd);
	umount2(TEST_MNT, MNT_DETACH);
	if (conn < 0 || !conn_gone(conn))
		errx(1, "the connection does not end");
	/* The memory is back a moment later */
	sleep_ms(100);
	return ret;
}

/* How many CPUs a list as "0-3,8" in sysfs has */
static unsigned int nr_cpus(const char *name)
{
	unsigned int first, last, nr = 0;
	char path[64], text[4096], *at;
	int found;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/%s", name);
	if (file_read(path, text, sizeof(text)) <= 0)
		errx(1, "%s cannot be read", path);
	for (at = text; at; at = strchr(at, ',')) {
		at += *at == ',';
		found = sscanf(at, "%u-%u", &first, &last);
		if (found < 1)
			errx(1, "%s: not a list of CPUs", path);
		nr += found == 2 ? last - first + 1 : 1;
	}
	return nr;
}

static int by_ns(const void *a, const void *b)
{
	long long x = ((const struct cost *)a)->ns;
	long long y = ((const struct cost *)b)->ns;

	return x < y ? -1 : x > y;
}

static int by_kib(const void *a, const void *b)
{
	long x = ((const struct cost *)a)->kib, y = ((const struct cost *)b)->kib;

	return x < y ? -1 : x > y;
}

static const struct option options[] = {
	{ "queues", required_argument, NULL, 'q' },
	{ "depth", required_argument, NULL, 'd' },
	{ "control", required_argument, NULL, 'C' },
	{ "payload", required_argument, NULL, 'p' },
	{ "small-size", required_argument, NULL, 's' },
	{ "pool-size", required_argument, NULL, 'P' },
	{ "full-size", no_argument, NULL, 'f' },
	{ "rounds", required_argument, NULL, 'r' },
	{ "help", no_argument, NULL, 'h' },
	{ }
};

int main(int argc, char **argv)
{
	struct fuse_uring_setup setup = {
		.size = sizeof(setup),
		.nr_control = 2,
	}, one;
	static struct cost costs[MAX_ROUNDS];
	unsigned int i, possible, rounds = 3;
	bool full_size = false;
	const char *why;
	__u64 bytes;
	int opt, ret;

	while ((opt = getopt_long(argc, argv, "q:d:C:p:s:P:fr:h", options,
				  NULL)) != -1) {
		switch (opt) {
		case 'q':
			setup.nr_queues =
				parse_number("--queues", optarg, 1, UINT16_MAX);
			break;
		case 'd':
			setup.queue_depth =
				parse_number("--depth", optarg, 1,
					     FUSE_URING_MAX_QUEUE_DEPTH);
			break;
		case 'C':
			setup.nr_control = parse_number("--control", optarg, 0,
							FUSE_URING_MAX_CONTROL);
			break;
		case 'p':
			setup.payload_size =
				parse_number("--payload", optarg,
					     FUSE_URING_MIN_PAYLOAD, 1 << 30);
			break;
		case 's':
			setup.small_size =
				parse_number("--small-size", optarg, 1, 1 << 30);
			break;
		case 'P':
			setup.pool_size = parse_number("--pool-size", optarg, 1,
						       LONG_MAX);
			break;
		case 'f':
			full_size = true;
			break;
		case 'r':
			rounds =
				parse_number("--rounds", optarg, 1, MAX_ROUNDS);
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			errx(1, "--help tells the options");
		}
	}
	if (optind < argc)
		errx(1, "no arguments are needed, --help tells the options");
	why = test_prepare(TRANSPORT_RING);
	if (why)
		errx(1, "%s", why);

	/* One queue tells how large the others will be */
	one = setup;
	one.nr_queues = 1;
	ret = set_up(&one, &costs[0]);
	if (!ret && full_size) {
		setup.small_size = costs[0].setup.payload_size;
		one.small_size = setup.small_size;
		ret = set_up(&one, &costs[0]);
	}
	if (ret)
		errx(1, "a ring of one queue: %s", strerror(-ret));
	one = costs[0].setup;
	possible = nr_cpus("possible");
	if (!setup.nr_queues)
		setup.nr_queues = possible;
	bytes = one.mmap_size * setup.nr_queues;
	printf("setup_cost possible=%u online=%u queues=%u depth=%u payload=%u",
	       possible, nr_cpus("online"), setup.nr_queues, one.queue_depth,
	       one.payload_size);
	printf(" small_size=%u pool_size=%llu mmap_size=%llu bytes=%llu",
	       one.small_size, (unsigned long long)one.pool_size,
	       (unsigned long long)one.mmap_size, (unsigned long long)bytes);
	fflush(stdout);
	if (bytes / 1024 > (__u64)available_kib() / 4 * 3) {
		printf(" ns=- available_kib=- rounds=0\n");
		return 0;
	}

	for (i = 0; i < rounds; i++) {
		ret = set_up(&setup, &costs[i]);
		if (ret) {
			printf("\n");
			errx(1, "a ring of %u queues: %s", setup.nr_queues,
			     strerror(-ret));
		}
	}
	qsort(costs, rounds, sizeof(*costs), by_ns);
	printf(" ns=%lld", costs[rounds / 2].ns);
	qsort(costs, rounds, sizeof(*costs), by_kib);
	printf(" available_kib=%ld rounds=%u\n", costs[rounds / 2].kib, rounds);
	return 0;
}
