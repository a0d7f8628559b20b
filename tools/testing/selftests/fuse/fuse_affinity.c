// SPDX-License-Identifier: GPL-2.0
/*
 * How often requests make tasks change on a CPU and CPUs wake each other.
 *
 * A requester that is bound to a CPU sends requests one after the other and
 * waits for each.  The server does nothing for them but to answer.  So what is
 * counted is what the transport needs to bring the two together: at best the
 * requester sleeps once and the server sleeps once, on one CPU.
 *
 * Then the same with a requester that is not bound, on an idle machine and
 * beside busy loops.  Where it runs, and whom it finds there, is then a matter of
 * the scheduler as well.
 *
 * Counted of the requester and of all threads of the server:
 *
 *	switches	voluntary and involuntary context switches, as in
 *			/proc/PID/task/TID/status
 *	wakeups		nr_wakeups_remote of /proc/PID/task/TID/sched: times
 *			that it was woken from another CPU than the one that
 *			it was put on
 *
 * and of the whole system, as nothing else should happen, reschedule
 * interrupts.  The kernel's ttwu_stat() counts where the waker runs, with the
 * decision where the task shall run already made.  Trace events cannot tell
 * this: sched_waking comes before the decision, and sched_wakeup may come from
 * the CPU that the task was put on.
 */

#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"
#include "options.h"
#include "server.h"

#define WARM_UP		100
#define SCHEDSTATS	"/proc/sys/kernel/sched_schedstats"

static const char help[] =
"Usage: fuse_affinity [options]\n"
"Counts context switches and wake-ups from other CPUs per request, over\n"
"/dev/fuse and over the ring.  A request is a forced GETATTR.  The requester\n"
"runs on one CPU after the other, and then where the scheduler puts it: with no\n"
"other load, with busy loops for half of the CPUs, and for all of them.  Over the\n"
"ring the server's threads are bound to the CPUs of their queues, over /dev/fuse\n"
"they run where the scheduler wants.  Needs root, CONFIG_SCHEDSTATS and\n"
"CONFIG_SCHED_DEBUG.\n"
"\n"
"  -n, --requests=N   on each CPU, and not bound, by each transport (default\n"
"                     5000)\n"
"  -c, --cpu=N        only on this CPU\n"
"  -h, --help         this text\n"
"\n"
"Prints a line for each transport, with figures per request,\n"
"affinity dev|ring requests=N switches=S voluntary=V involuntary=I wakeups=W\n"
"reschedules=R\n"
"one for each load of the requester that is not bound,\n"
"unbound dev|ring loops=L requests=N ... as above\n"
"and a table of all of them.\n";

struct counts {
	__u64 requests;
	__u64 voluntary;
	__u64 involuntary;
	__u64 wakeups;
	__u64 reschedules;
};

/* Busy loops beside a requester that is not bound: none, for half of the CPUs, for all */
#define NR_LOADS	3

struct results {
	struct counts bound[CPU_SETSIZE + 1];
	struct counts unbound[NR_LOADS];
};

static const char * const names[] = {
	[SERVER_DEV] = "dev", [SERVER_RING] = "ring",
};

static cpu_set_t all_cpus;
static unsigned long nr_requests = 5000;

static unsigned int loops_of(unsigned int load)
{
	return CPU_COUNT(&all_cpus) * load / (NR_LOADS - 1);
}

/* A line "key : value" of a file in /proc; -1 when there is none */
static long long proc_value(const char *text, const char *key)
{
	size_t len = strlen(key);
	const char *line, *colon;

	for (line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, len) || !strchr(": \t", line[len]))
			continue;
		colon = strchr(line, ':');
		return colon ? strtoll(colon + 1, NULL, 10) : -1;
	}
	return -1;
}

static void count_task(struct counts *c, pid_t pid, const char *tid)
{
	long long voluntary, involuntary, wakeups;
	char path[128], text[16384];

	snprintf(path, sizeof(path), "/proc/%d/task/%s/status", pid, tid);
	if (file_read(path, text, sizeof(text)) < 0)
		errx(1, "%s: %m", path);
	voluntary = proc_value(text, "voluntary_ctxt_switches");
	involuntary = proc_value(text, "nonvoluntary_ctxt_switches");
	if (voluntary < 0 || involuntary < 0)
		errx(1, "%s: no context switches there", path);

	snprintf(path, sizeof(path), "/proc/%d/task/%s/sched", pid, tid);
	if (file_read(path, text, sizeof(text)) < 0)
		errx(1, "%s: %m (kernel without CONFIG_SCHED_DEBUG?)", path);
	wakeups = proc_value(text, "nr_wakeups_remote");
	if (wakeups < 0)
		errx(1, "%s: no wake-ups there", path);

	c->voluntary += voluntary;
	c->involuntary += involuntary;
	c->wakeups += wakeups;
}

static void count_process(struct counts *c, pid_t pid)
{
	struct dirent *entry;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		errx(1, "%s: %m", path);
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			count_task(c, pid, entry->d_name);
	closedir(dir);
}

/* The sum over all CPUs; the line ends with what it is about */
static void count_interrupts(struct counts *c)
{
	FILE *f = fopen("/proc/interrupts", "re");
	char *line = NULL, *at, *end;
	unsigned long long nr;
	size_t size = 0;

	while (f && getline(&line, &size, f) > 0) {
		at = strstr(line, "RES:");
		if (!at)
			continue;
		for (at += 4; nr = strtoull(at, &end, 10), end != at; at = end)
			c->reschedules += nr;
	}
	free(line);
	if (f)
		fclose(f);
}

static void count(struct counts *c, pid_t server)
{
	*c = (struct counts){ 0 };
	count_interrupts(c);
	count_process(c, server);
	count_process(c, getpid());
}

/* Running them */

static void bind_to(const cpu_set_t *cpus)
{
	if (sched_setaffinity(0, sizeof(*cpus), cpus))
		errx(1, "the requester cannot be bound: %m");
}

static void send_requests(int fd, unsigned long nr)
{
	struct statx stx;

	/* FORCE_SYNC: the kernel must ask the server */
	while (nr--)
		if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC,
			  STATX_BASIC_STATS, &stx))
			errx(1, "stat: %m");
}

static void check_transport(enum server_transport transport, int conn,
			    long sent)
{
	long ring = ring_stat(conn, "requests_ring_sync");

	if (transport == SERVER_DEV) {
		if (ring >= 0)
			errx(1, "the connection has a ring that it should not have");
		return;
	}
	if (ring < 0)
		errx(1, "the connection has no statistics of a ring");
	if (ring < sent)
		errx(1, "only %ld of %ld requests went over the ring", ring,
		     sent);
	if (ring_stat(conn, "requests_dev"))
		errx(1, "%ld requests went over /dev/fuse instead of the ring",
		     ring_stat(conn, "requests_dev"));
}

/* A server whose filesystem is mounted, and a file to ask it about */
struct session {
	enum server_transport transport;
	struct server_fs *fs;
	pid_t server;
	int conn;
	int fd;
	long sent;
};

static void session_begin(struct session *s, enum server_transport transport)
{
	struct server_opts opts = {
		.mountpoint = TEST_MNT,
		.transport = transport,
		.fs = fs_null_new(1 << 20),
	};

	if (!opts.fs)
		errx(1, "out of memory");
	/* The server shall not inherit the CPU of the requester */
	bind_to(&all_cpus);
	*s = (struct session){
		.transport = transport,
		.fs = opts.fs,
		.server = server_fork(&opts),
	};
	if (s->server < 0)
		errx(1, "%s", server_error());
	s->conn = conn_number(TEST_MNT);
	s->fd = open(TEST_MNT "/null", O_RDONLY | O_CLOEXEC);
	if (s->conn < 0 || s->fd < 0)
		errx(1, "the file of the null filesystem cannot be opened");
}

static void session_end(struct session *s)
{
	int status;

	check_transport(s->transport, s->conn, s->sent);
	close(s->fd);
	kill(s->server, SIGTERM);
	if (waitpid(s->server, &status, 0) != s->server || status)
		errx(1, "the server has failed");
	fs_free(s->fs);
}

/* Where the requester runs is the caller's choice */
static void count_requests(struct session *s, struct counts *c)
{
	struct counts before, after;

	send_requests(s->fd, WARM_UP);
	count(&before, s->server);
	send_requests(s->fd, nr_requests);
	count(&after, s->server);
	s->sent += WARM_UP + nr_requests;

	c->requests = nr_requests;
	c->voluntary = after.voluntary - before.voluntary;
	c->involuntary = after.involuntary - before.involuntary;
	c->wakeups = after.wakeups - before.wakeups;
	c->reschedules = after.reschedules - before.reschedules;
}

/* Results by CPU, of that one or of all (-1), and their sum behind the last */
static void run_bound(struct session *s, struct counts *counts, int only)
{
	struct counts *sum = &counts[CPU_SETSIZE];
	int cpu;

	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		struct counts *c = &counts[cpu];
		cpu_set_t one;

		if (!CPU_ISSET(cpu, &all_cpus) || (only >= 0 && cpu != only))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		bind_to(&one);
		count_requests(s, c);
		sum->requests += c->requests;
		sum->voluntary += c->voluntary;
		sum->involuntary += c->involuntary;
		sum->wakeups += c->wakeups;
		sum->reschedules += c->reschedules;
	}
}

/* The scheduler chooses the CPU, while other processes want CPUs as well */
static void run_unbound(struct session *s, struct counts *c, unsigned int loops)
{
	pid_t loop[CPU_SETSIZE];
	unsigned int i;

	bind_to(&all_cpus);
	for (i = 0; i < loops; i++) {
		loop[i] = fork();
		if (loop[i] < 0)
			errx(1, "fork: %m");
		if (loop[i])
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			__asm__ volatile("" ::: "memory");
	}
	count_requests(s, c);
	for (i = 0; i < loops; i++) {
		kill(loop[i], SIGKILL);
		waitpid(loop[i], NULL, 0);
	}
}

/* A requester on one CPU after the other, then one that is not bound */
static void run(enum server_transport transport, struct results *results,
		int only)
{
	struct session s;
	unsigned int i;

	session_begin(&s, transport);
	run_bound(&s, results->bound, only);
	for (i = 0; i < NR_LOADS; i++)
		run_unbound(&s, &results->unbound[i], loops_of(i));
	session_end(&s);
}

static void print_counts(const struct counts *c)
{
	double nr = c->requests;

	printf(" requests=%llu switches=%.2f", (unsigned long long)c->requests,
	       (c->voluntary + c->involuntary) / nr);
	printf(" voluntary=%.2f involuntary=%.2f wakeups=%.2f reschedules=%.2f\n",
	       c->voluntary / nr, c->involuntary / nr, c->wakeups / nr,
	       c->reschedules / nr);
}

static void print_lines(enum server_transport transport,
			const struct results *results)
{
	unsigned int i;

	printf("affinity %s", names[transport]);
	print_counts(&results->bound[CPU_SETSIZE]);
	for (i = 0; i < NR_LOADS; i++) {
		printf("unbound %s loops=%u", names[transport], loops_of(i));
		print_counts(&results->unbound[i]);
	}
}

static void print_row(enum server_transport transport, const char *cpu,
		      const struct counts *c)
{
	double nr = c->requests;

	printf("| %s | %s | %llu | %.2f | %.2f | %.2f | %.2f | %.2f |\n",
	       transport == SERVER_DEV ? "/dev/fuse" : "ring", cpu,
	       (unsigned long long)c->requests,
	       (c->voluntary + c->involuntary) / nr, c->voluntary / nr,
	       c->involuntary / nr, c->wakeups / nr, c->reschedules / nr);
}

static void print_rows(enum server_transport transport,
		       const struct results *results)
{
	char text[32];
	unsigned int i;
	int cpu;

	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!results->bound[cpu].requests)
			continue;
		snprintf(text, sizeof(text), "%d", cpu);
		print_row(transport, text, &results->bound[cpu]);
	}
	print_row(transport, "all", &results->bound[CPU_SETSIZE]);
	for (i = 0; i < NR_LOADS; i++) {
		snprintf(text, sizeof(text), "not bound, %u loops",
			 loops_of(i));
		print_row(transport, text, &results->unbound[i]);
	}
}

static pid_t main_pid;
static bool was_off;

static void schedstats_restore(void)
{
	if (was_off && getpid() == main_pid)
		file_write(SCHEDSTATS, "0");
}

static void schedstats_on(void)
{
	long value = file_number(SCHEDSTATS);

	if (value < 0)
		errx(1, "kernel without CONFIG_SCHEDSTATS");
	main_pid = getpid();
	was_off = !value;
	atexit(schedstats_restore);
	if (file_write(SCHEDSTATS, "1"))
		errx(1, "%s cannot be written", SCHEDSTATS);
}

static const struct option options[] = {
	{ "requests", required_argument, NULL, 'n' },
	{ "cpu", required_argument, NULL, 'c' },
	{ "help", no_argument, NULL, 'h' },
	{ }
};

int main(int argc, char **argv)
{
	static struct results dev, ring;
	const char *why;
	int opt, cpu = -1;

	if (sched_getaffinity(0, sizeof(all_cpus), &all_cpus))
		errx(1, "CPUs: %m");
	while ((opt = getopt_long(argc, argv, "n:c:h", options, NULL)) != -1) {
		switch (opt) {
		case 'n':
			nr_requests =
				parse_number("--requests", optarg, 1, 1 << 30);
			break;
		case 'c':
			cpu = parse_number("--cpu", optarg, 0, CPU_SETSIZE - 1);
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
	if (cpu >= 0 && !CPU_ISSET(cpu, &all_cpus))
		errx(1, "--cpu: not allowed to run on CPU %d", cpu);

	why = test_prepare(TRANSPORT_RING);
	if (why)
		errx(1, "%s", why);
	schedstats_on();
	run(SERVER_DEV, &dev, cpu);
	run(SERVER_RING, &ring, cpu);

	print_lines(SERVER_RING, &ring);
	print_lines(SERVER_DEV, &dev);
	printf("\n| transport | CPU | requests | switches | voluntary | involuntary |");
	printf(" wake-ups from another CPU | reschedule interrupts |\n");
	printf("|---|---|---|---|---|---|---|---|\n");
	print_rows(SERVER_RING, &ring);
	print_rows(SERVER_DEV, &dev);
	return 0;
}
