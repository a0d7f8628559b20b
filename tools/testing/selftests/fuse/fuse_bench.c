// SPDX-License-Identifier: GPL-2.0
/*
 * What operations on a mounted filesystem cost.
 *
 * Each operation here is made so that it becomes the same requests every time,
 * whatever the kernel has cached.  Under an emulator that counts a nanosecond
 * for an instruction (QEMU's -icount shift=0 with one CPU), ns_per_op is the
 * number of instructions that an operation takes, all parties included.
 */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <linux/types.h>

#include "options.h"
#include "util.h"

#define MAX_THREADS	4096
#define WARM_UP		16
#define MIB		1048576UL

static const char help[] =
"Usage: fuse_bench [options] DIR [TEST...]\n"
"Measures operations in DIR: the tests that are named, or all of them.\n"
"\n"
"  -t, --threads=N    threads that do it at the same time (default 1)\n"
"  -n, --ops=N        operations per thread (default: as many as --seconds)\n"
"  -s, --seconds=N    how long, without --ops (default 1)\n"
"  -b, --bind         thread N runs on the Nth CPU only\n"
"  -S, --size=MIB     size of the file that is read (default 16)\n"
"  -l, --list         names the tests and what they do\n"
"  -h, --help         this text\n"
"\n"
"A file \"null\" in DIR is used if there is one, whatever its size; otherwise\n"
"\"bench.dat\" is made there and removed at the end.\n"
"\n"
"Prints a line for each test:\n"
"bench NAME threads=T ops=N ns=N ns_per_op=N ops_per_second=N\n"
"ops is the sum of all threads, ns the time that passed, ns_per_op their\n"
"quotient.\n";

struct worker {
	pthread_t id;
	unsigned int nr;
	const struct test *test;
	int fd;
	char *buf;
	__u64 random;		/* state */
	__u64 ops;		/* done */
	__u64 base, size;	/* this thread's part of the file */
	__u64 pos;
};

static const char *dir;
static char file_name[4096];
static __u64 file_size;
static unsigned int nr_threads = 1;
static __u64 nr_ops;
static double seconds = 1;
static bool bind_cpus;
static pthread_barrier_t barrier;
static atomic_bool time_is_up;

static __u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* xorshift64: no lock, and the same offsets in every run */
static __u64 next_random(struct worker *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random;
}

static off_t random_offset(struct worker *w, size_t size)
{
	return next_random(w) % (file_size / size) * size;
}

/* Operations */

static void op_stat(struct worker *w)
{
	struct statx stx;

	/* FORCE_SYNC: the kernel must ask the server */
	if (statx(w->fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC,
		  STATX_BASIC_STATS, &stx))
		errx(1, "stat: %m");
}

static void op_create(struct worker *w)
{
	char name[4200];
	int fd;

	snprintf(name, sizeof(name), "%s/bench.%d.%u", dir, getpid(), w->nr);
	fd = open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0 || close(fd) || unlink(name))
		errx(1, "create: %s: %m", name);
}

static void read_at(struct worker *w, size_t size)
{
	ssize_t len = pread(w->fd, w->buf, size, random_offset(w, size));

	if (len < 0)
		errx(1, "%s: %m", file_name);
	if ((size_t)len != size)
		errx(1, "%s: read %zd bytes of %zu", file_name, len, size);
}

static void op_rand4k(struct worker *w)
{
	read_at(w, 4096);
}

static void op_rdio1m(struct worker *w)
{
	read_at(w, MIB);
}

static void write_at(struct worker *w, size_t size)
{
	ssize_t len = pwrite(w->fd, w->buf, size, random_offset(w, size));

	if (len < 0)
		errx(1, "%s: %m", file_name);
	if ((size_t)len != size)
		errx(1, "%s: wrote %zd bytes of %zu", file_name, len, size);
}

static void op_wrio4k(struct worker *w)
{
	write_at(w, 4096);
}

static void op_wrio1m(struct worker *w)
{
	write_at(w, MIB);
}

static void op_seqread(struct worker *w)
{
	ssize_t len;

	if (w->pos + 128 * 1024 > w->size) {
		/* Once around: nothing of it may be cached any more */
		posix_fadvise(w->fd, w->base, w->size, POSIX_FADV_DONTNEED);
		w->pos = 0;
	}
	len = pread(w->fd, w->buf, 128 * 1024, w->base + w->pos);
	if (len < 0)
		errx(1, "%s: %m", file_name);
	w->pos += 128 * 1024;
}

static const struct test {
	const char *name;
	const char *text;
	void (*op)(struct worker *w);
	int flags;		/* to open the file with */
} tests[] = {
	{ "stat", "GETATTR of an open file, forced", op_stat, O_RDONLY },
	{ "create", "open(O_CREAT), close and unlink", op_create, O_RDONLY },
	{ "rand4k", "read 4 KiB at random offsets, O_DIRECT", op_rand4k,
	  O_RDONLY | O_DIRECT },
	{ "rdio1m", "read 1 MiB at random offsets, O_DIRECT", op_rdio1m,
	  O_RDONLY | O_DIRECT },
	{ "wrio4k", "write 4 KiB at random offsets, O_DIRECT", op_wrio4k,
	  O_WRONLY | O_DIRECT },
	{ "wrio1m", "write 1 MiB at random offsets, O_DIRECT", op_wrio1m,
	  O_WRONLY | O_DIRECT },
	{ "seqread", "read 128 KiB one after the other, not cached",
	  op_seqread, O_RDONLY },
};

/* Running them */

static void bind_to_cpu(unsigned int nr)
{
	cpu_set_t all, one;
	int cpu;

	if (sched_getaffinity(0, sizeof(all), &all))
		errx(1, "CPUs: %m");
	nr %= CPU_COUNT(&all);
	for (cpu = 0; !CPU_ISSET(cpu, &all) || nr--; cpu++)
		;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		errx(1, "CPU %d: %m", cpu);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	void (*op)(struct worker *w) = w->test->op;
	unsigned int i;

	if (bind_cpus)
		bind_to_cpu(w->nr);
	for (i = 0; i < WARM_UP; i++)
		op(w);
	pthread_barrier_wait(&barrier);
	if (nr_ops)
		for (; w->ops < nr_ops; w->ops++)
			op(w);
	else
		for (; !time_is_up; w->ops++)
			op(w);
	pthread_barrier_wait(&barrier);
	return NULL;
}

static void run(const struct test *test)
{
	struct worker *workers = calloc(nr_threads, sizeof(*workers));
	struct timespec ts = { (time_t)seconds, (seconds - (time_t)seconds) * 1e9 };
	__u64 start, ns, ops = 0;
	unsigned int i;
	int ret;

	if (!workers)
		errx(1, "out of memory");
	time_is_up = false;
	pthread_barrier_init(&barrier, NULL, nr_threads + 1);
	for (i = 0; i < nr_threads; i++) {
		struct worker *w = &workers[i];

		w->nr = i;
		w->test = test;
		w->random = i + 1;
		w->size = file_size / nr_threads / 4096 * 4096;
		w->base = i * w->size;
		w->pos = w->size;	/* begin with dropping the cache */
		w->buf = aligned_alloc(4096, MIB);
		if (!w->buf)
			errx(1, "out of memory");
		memset(w->buf, 'b', MIB);
		w->fd = open(file_name, test->flags | O_CLOEXEC);
		if (w->fd < 0)
			errx(1, "%s: %m", file_name);
		ret = pthread_create(&w->id, NULL, work, w);
		if (ret)
			errx(1, "thread: %s", strerror(ret));
	}
	pthread_barrier_wait(&barrier);
	start = now_ns();
	if (!nr_ops) {
		while (nanosleep(&ts, &ts) && errno == EINTR)
			;
		time_is_up = true;
	}
	pthread_barrier_wait(&barrier);
	ns = now_ns() - start;
	for (i = 0; i < nr_threads; i++) {
		pthread_join(workers[i].id, NULL);
		ops += workers[i].ops;
		close(workers[i].fd);
		free(workers[i].buf);
	}
	pthread_barrier_destroy(&barrier);
	free(workers);
	if (!ops)
		errx(1, "%s: no operation ended in time", test->name);
	printf("bench %s threads=%u ops=%llu ns=%llu ns_per_op=%llu ops_per_second=%llu\n",
	       test->name, nr_threads, (unsigned long long)ops,
	       (unsigned long long)ns, (unsigned long long)(ns / ops),
	       (unsigned long long)(ops * 1e9 / ns));
	fflush(stdout);
}

/* The file: true if it was made here */
static bool prepare(void)
{
	static char block[MIB];
	struct stat st;
	__u64 pos;
	int fd;

	snprintf(file_name, sizeof(file_name), "%s/null", dir);
	if (!stat(file_name, &st)) {
		file_size = st.st_size;
		if (file_size < MIB)
			errx(1, "%s: less than 1 MiB", file_name);
		return false;
	}
	snprintf(file_name, sizeof(file_name), "%s/bench.dat", dir);
	fd = open(file_name, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0)
		errx(1, "%s: %m", file_name);
	memset(block, 'B', sizeof(block));
	for (pos = 0; pos < file_size; pos += sizeof(block))
		if (write(fd, block, sizeof(block)) != sizeof(block))
			errx(1, "%s: %m", file_name);
	if (fsync(fd) || close(fd))
		errx(1, "%s: %m", file_name);
	return true;
}

static const struct option options[] = {
	{ "threads", required_argument, NULL, 't' },
	{ "ops", required_argument, NULL, 'n' },
	{ "seconds", required_argument, NULL, 's' },
	{ "bind", no_argument, NULL, 'b' },
	{ "size", required_argument, NULL, 'S' },
	{ "list", no_argument, NULL, 'l' },
	{ "help", no_argument, NULL, 'h' },
	{ }
};

static const struct test *find_test(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(tests); i++)
		if (!strcmp(name, tests[i].name))
			return &tests[i];
	errx(1, "there is no test '%s', --list names them", name);
}

int main(int argc, char **argv)
{
	unsigned int i;
	bool made;
	int opt;

	file_size = 16 * MIB;
	while ((opt = getopt_long(argc, argv, "t:n:s:bS:lh", options,
				  NULL)) != -1) {
		switch (opt) {
		case 't':
			nr_threads = parse_number("--threads", optarg, 1,
						  MAX_THREADS);
			break;
		case 'n':
			nr_ops = parse_number("--ops", optarg, 1, LONG_MAX);
			break;
		case 's':
			seconds = parse_number("--seconds", optarg, 1, 86400);
			break;
		case 'b':
			bind_cpus = true;
			break;
		case 'S':
			file_size = parse_number("--size", optarg, 1, 1 << 20);
			file_size *= MIB;
			break;
		case 'l':
			for (i = 0; i < ARRAY_SIZE(tests); i++)
				printf("%-8s %s\n", tests[i].name, tests[i].text);
			return 0;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			errx(1, "--help tells the options");
		}
	}
	if (optind >= argc)
		errx(1, "a directory is needed, --help tells more");
	dir = argv[optind++];
	/* Before anything is done, are they all right? */
	for (i = optind; i < (unsigned int)argc; i++)
		find_test(argv[i]);

	made = prepare();
	if (optind == argc)
		for (i = 0; i < ARRAY_SIZE(tests); i++)
			run(&tests[i]);
	else
		for (; optind < argc; optind++)
			run(find_test(argv[optind]));
	if (made && unlink(file_name))
		errx(1, "%s: %m", file_name);
	return 0;
}
