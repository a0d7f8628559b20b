// SPDX-License-Identifier: GPL-2.0
/* Helpers of all FUSE transport tests, see common.h. */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/fuse.h>

#include "common.h"

#define FUSECTL_MAGIC	0x65735543

static void fail(const char *what)
{
	fprintf(stderr, "# %s: %s\n", what, strerror(errno));
	_exit(1);
}

static pid_t main_pid;
static char switch_at_start;

/*
 * Tests run in processes that may be killed, so it is the program that
 * remembers what the switch was.
 */
static void __attribute__((constructor)) switch_save(void)
{
	char buf[8];

	main_pid = getpid();
	if (file_read(TEST_PARAM, buf, sizeof(buf)) > 0)
		switch_at_start = buf[0];
}

static void __attribute__((destructor)) switch_restore(void)
{
	char text[2] = { switch_at_start };

	if (switch_at_start && getpid() == main_pid)
		file_write(TEST_PARAM, text);
}

int ring_switch(bool on)
{
	return file_write(TEST_PARAM, on ? "Y" : "N");
}

/* Other kernels have a switch of this name for another kind of ring. */
static bool ring_exists(int fd)
{
	struct fuse_uring_setup setup = { .size = sizeof(setup) };

	return ioctl(fd, FUSE_DEV_IOC_URING_SETUP, &setup) == 0 ||
	       errno != ENOTTY;
}

bool ring_is_mainline(void)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	bool exists;

	if (fd < 0)
		fail("/dev/fuse");
	exists = ring_exists(fd);
	close(fd);
	return !exists;
}

static const char *prepare(bool ring, bool mainline)
{
	struct statfs fs;
	int fd;

	if (geteuid())
		return "needs root";
	/* Loads the module when there is one. */
	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return "no /dev/fuse";
	if (ring) {
		if (access(TEST_PARAM, F_OK))
			return "kernel without CONFIG_FUSE_IO_URING";
		if (!mainline && !ring_exists(fd))
			return "kernel without the managed ring";
		if (ring_switch(true))
			fail(TEST_PARAM);
	}
	close(fd);

	if (unshare(CLONE_NEWNS))
		fail("new mount namespace");
	if (mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		fail("private mounts");
	if (mount("test", TEST_DIR, "tmpfs", 0, NULL))
		fail("tmpfs at " TEST_DIR);
	if (mkdir(TEST_MNT, 0755))
		fail("mkdir " TEST_MNT);
	if (statfs(TEST_FUSECTL, &fs))
		fail(TEST_FUSECTL);
	if (fs.f_type != FUSECTL_MAGIC &&
	    mount("test", TEST_FUSECTL, "fusectl", 0, NULL))
		fail("fusectl at " TEST_FUSECTL);
	return NULL;
}

const char *test_prepare(enum test_transport transport)
{
	return prepare(transport_rings(transport), false);
}

const char *test_prepare_mainline(enum test_transport transport,
				  unsigned int queues)
{
	bool user = transport == TRANSPORT_USER;
	const char *why = prepare(transport_rings(transport), user);

	if (!why && user && queues && queues < sysconf(_SC_NPROCESSORS_CONF) &&
	    ring_is_mainline())
		return "this kernel needs a queue for each CPU";
	return why;
}

bool test_disrupts(void)
{
	const char *env = getenv("FUSE_TEST_DISRUPTIVE");

	return env && !strcmp(env, "1");
}

unsigned int test_ms(void)
{
	const char *env = getenv("FUSE_TEST_SECONDS");

	return env && atoi(env) > 0 ? atoi(env) * 1000 : 500;
}

__u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

void sleep_ms(unsigned int ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000L };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

int file_read(const char *path, char *buf, size_t size)
{
	ssize_t len = 0, sum = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	while ((size_t)sum < size - 1) {
		len = read(fd, buf + sum, size - 1 - sum);
		if (len <= 0)
			break;
		sum += len;
	}
	if (len < 0)
		sum = -errno;
	else
		buf[sum] = 0;
	close(fd);
	return sum;
}

int file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		ret = errno ? -errno : -EIO;
	close(fd);
	return ret;
}

long file_number(const char *path)
{
	char buf[64];
	int ret = file_read(path, buf, sizeof(buf));

	return ret < 0 ? ret - 1 : atol(buf);
}

bool kernel_debugs(void)
{
	return !access("/sys/kernel/debug/kmemleak", F_OK);
}

long mem_kib(const char *key)
{
	char line[256];
	long value = -1;
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			value = atol(line + strlen(key));
	if (f)
		fclose(f);
	return value;
}

int conn_number(const char *path)
{
	char line[1024], at[512];
	unsigned int major, minor;
	int found = -ENOENT;
	FILE *f = fopen("/proc/self/mountinfo", "re");

	if (!f)
		return -errno;
	/* The last line of a path is the mount that is on top. */
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%*d %*d %u:%u %*s %511s", &major, &minor,
			   at) == 3 && !strcmp(at, path))
			found = major << 20 | minor;
	fclose(f);
	return found;
}

static void conn_path(char *path, size_t size, int conn, const char *name)
{
	snprintf(path, size, TEST_FUSECTL "/%d/%s", conn, name);
}

long conn_ctl_read(int conn, const char *name)
{
	char path[128];

	conn_path(path, sizeof(path), conn, name);
	return file_number(path);
}

int conn_ctl_write(int conn, const char *name, const char *text)
{
	char path[128];

	conn_path(path, sizeof(path), conn, name);
	return file_write(path, text);
}

int conn_abort(int conn)
{
	return conn_ctl_write(conn, "abort", "1");
}

bool conn_waiting_becomes(int conn, long value)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	do {
		if (conn_ctl_read(conn, "waiting") == value)
			return true;
		sleep_ms(1);
	} while (now_ms() < end);
	return false;
}

bool conn_gone(int conn)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	char path[128];

	conn_path(path, sizeof(path), conn, "");
	do {
		if (access(path, F_OK))
			return true;
		sleep_ms(1);
	} while (now_ms() < end);
	return false;
}

/* The text after the word @key in a line of "key value key value" pairs. */
static bool line_value(const char *line, const char *key, long *value)
{
	size_t len = strlen(key);
	const char *at = line;

	while (*at) {
		if (!strncmp(at, key, len) && at[len] == ' ') {
			*value = strtol(at + len + 1, NULL, 0);
			return true;
		}
		while (*at && *at != ' ')
			at++;
		while (*at == ' ')
			at++;
	}
	return false;
}

/*
 * Adds up @key over the lines that begin with "queue" (of number @qid, or all
 * for -1), or takes it from the line that begins with it.
 */
static long ring_file(int conn, bool queues, long qid, const char *key)
{
	static char text[1 << 20];
	char path[128], *line, *save;
	long value, number, sum = -1;

	conn_path(path, sizeof(path), conn, "uring");
	if (file_read(path, text, sizeof(text)) < 0)
		return -1;
	for (line = strtok_r(text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		bool is_queue = !strncmp(line, "queue ", 6);

		if (is_queue != queues)
			continue;
		if (!queues) {
			if (!strncmp(line, key, strlen(key)) &&
			    line[strlen(key)] == ' ')
				return strtol(line + strlen(key) + 1, NULL, 0);
			continue;
		}
		if (qid >= 0 &&
		    (!line_value(line, "queue", &number) || number != qid))
			continue;
		if (line_value(line, key, &value))
			sum = sum < 0 ? value : sum + value;
	}
	return sum;
}

long ring_stat(int conn, const char *key)
{
	return ring_file(conn, false, -1, key);
}

long ring_queue_stat(int conn, unsigned int qid, const char *key)
{
	return ring_file(conn, true, qid, key);
}

long ring_queues_stat(int conn, const char *key)
{
	return ring_file(conn, true, -1, key);
}

static bool ring_file_becomes(int conn, bool queues, long qid, const char *key,
			      long value)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	do {
		if (ring_file(conn, queues, qid, key) == value)
			return true;
		sleep_ms(1);
	} while (now_ms() < end);
	return false;
}

bool ring_stat_becomes(int conn, const char *key, long value)
{
	return ring_file_becomes(conn, false, -1, key, value);
}

bool ring_queue_stat_becomes(int conn, unsigned int qid, const char *key,
			     long value)
{
	return ring_file_becomes(conn, true, qid, key, value);
}

int ring_slots(int conn, struct ring_slot *slots, unsigned int max)
{
	static char text[1 << 20];
	char path[128], *line, *save;
	struct ring_slot slot;
	unsigned int nr = 0;

	conn_path(path, sizeof(path), conn, "uring");
	if (file_read(path, text, sizeof(text)) < 0)
		return -1;
	for (line = strtok_r(text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		if (sscanf(line, "slot %u %u opcode %u unique %llu age_ms %lu",
			   &slot.qid, &slot.slot, &slot.opcode, &slot.unique,
			   &slot.age_ms) != 5)
			continue;
		if (nr < max)
			slots[nr] = slot;
		nr++;
	}
	return nr;
}

bool ring_requests_become(int conn, long nr)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	long busy;

	do {
		/* In this order none is counted twice as it gets a slot. */
		busy = ring_queues_stat(conn, "busy");
		if (busy + ring_queues_stat(conn, "pending") == nr)
			return true;
		sleep_ms(1);
	} while (now_ms() < end);
	return false;
}

bool ring_queues_stat_becomes(int conn, const char *key, long value)
{
	return ring_file_becomes(conn, true, -1, key, value);
}

/* Those that have been started, and that nobody has been told the end of. */
static struct {
	pid_t	pid[512];
	unsigned int nr;
} requesters;

static void requesters_add(pid_t pid)
{
	if (requesters.nr == ARRAY_SIZE(requesters.pid)) {
		errno = E2BIG;
		fail("requesters");
	}
	requesters.pid[requesters.nr++] = pid;
}

static void requesters_remove(pid_t pid)
{
	unsigned int i;

	for (i = 0; i < requesters.nr; i++)
		if (requesters.pid[i] == pid)
			requesters.pid[i] = requesters.pid[--requesters.nr];
}

int requester_start(struct requester *r, int (*fn)(const void *arg),
		    const void *arg)
{
	fflush(NULL);
	r->pid = fork();
	if (r->pid < 0)
		return -errno;
	if (!r->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		syscall(SYS_close_range, 3, ~0U, 0);
		_exit(-fn(arg));
	}
	requesters_add(r->pid);
	r->pidfd = syscall(SYS_pidfd_open, r->pid, 0);
	return r->pidfd < 0 ? -errno : 0;
}

int requester_on(int cpu, struct requester *r,
		 int (*fn)(const void *arg), const void *arg)
{
	cpu_set_t old, one;
	int ret;

	if (sched_getaffinity(0, sizeof(old), &old))
		return -errno;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	/* It inherits where the caller may run. */
	if (sched_setaffinity(0, sizeof(one), &one))
		return -errno;
	ret = requester_start(r, fn, arg);
	sched_setaffinity(0, sizeof(old), &old);
	return ret;
}

int process_start(struct requester *r, int (*fn)(void *arg), void *arg)
{
	fflush(NULL);
	r->pid = fork();
	if (r->pid < 0)
		return -errno;
	if (!r->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(fn(arg));
	}
	r->pidfd = syscall(SYS_pidfd_open, r->pid, 0);
	return r->pidfd < 0 ? -errno : 0;
}

bool requester_ended(struct requester *r, int *result, unsigned int ms)
{
	struct pollfd pfd = { .fd = r->pidfd, .events = POLLIN };
	__u64 end = now_ms() + ms;
	int status, ret;

	do {
		__u64 now = now_ms();

		ret = poll(&pfd, 1, now < end ? end - now : 0);
	} while (ret < 0 && errno == EINTR);
	if (ret <= 0 || waitpid(r->pid, &status, 0) != r->pid)
		return false;
	requesters_remove(r->pid);
	close(r->pidfd);
	if (result)
		*result = WIFEXITED(status) ? WEXITSTATUS(status) :
					      -WTERMSIG(status);
	return true;
}

/* As comments of the test's results */
static void print_file(const char *path)
{
	static char text[1 << 16];
	char *line, *save;

	if (file_read(path, text, sizeof(text)) <= 0)
		return;
	printf("# %s:\n", path);
	for (line = strtok_r(text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save))
		printf("#   %s\n", line);
}

int requester_hangs(const struct requester *r, int conn)
{
	char path[128];

	snprintf(path, sizeof(path), "/proc/%d/stack", r->pid);
	print_file(path);
	if (conn >= 0) {
		conn_path(path, sizeof(path), conn, "uring");
		print_file(path);
	}
	fflush(stdout);
	return REQUESTER_HANGS;
}

int requester_join(struct requester *r)
{
	int result;

	return requester_ended(r, &result, TEST_WAIT_MS) ? result :
							  requester_hangs(r, -1);
}

/* The letter of a process's state; 'X' when there is none of this number. */
static char process_state(const char *pid)
{
	char path[64], buf[512], *at;

	snprintf(path, sizeof(path), "/proc/%s/stat", pid);
	if (file_read(path, buf, sizeof(buf)) <= 0)
		return 'X';
	at = strrchr(buf, ')');
	return at ? at[2] : 'X';
}

bool process_becomes(pid_t pid, const char *states)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	char number[16], state;

	snprintf(number, sizeof(number), "%d", pid);
	do {
		state = process_state(number);
		if (strchr(states, state))
			return true;
		if (state == 'X')
			return false;
		sleep_ms(1);
	} while (now_ms() < end);
	return false;
}

bool requester_sleeps(const struct requester *r)
{
	char number[16];

	snprintf(number, sizeof(number), "%d", r->pid);
	return process_becomes(r->pid, "SDZ") && process_state(number) != 'Z';
}

/* A number of a task's status file, or 0. */
static __u64 status_number(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

static bool task_still(const char *path, __u64 *stamp)
{
	char text[4096], *state;

	/* It ends just now. */
	if (file_read(path, text, sizeof(text)) <= 0)
		return true;
	state = strstr(text, "State:\t");
	if (!state || !strchr("SDTtZX", state[7]))
		return false;
	*stamp += status_number(text, "\nvoluntary_ctxt_switches:") +
		  status_number(text, "\nnonvoluntary_ctxt_switches:") + 1;
	return true;
}

bool requesters_still(__u64 *stamp)
{
	struct dirent *entry;
	bool still = true;
	char path[320];
	unsigned int i;
	DIR *dir;

	*stamp = 0;
	for (i = 0; i < requesters.nr && still; i++) {
		snprintf(path, sizeof(path), "/proc/%d/task",
			 requesters.pid[i]);
		dir = opendir(path);
		while (dir && still && (entry = readdir(dir))) {
			if (entry->d_name[0] == '.')
				continue;
			snprintf(path, sizeof(path), "/proc/%d/task/%s/status",
				 requesters.pid[i], entry->d_name);
			still = task_still(path, stamp);
		}
		if (dir)
			closedir(dir);
	}
	return still;
}

bool fuse_worker_sleeps(void)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	struct dirent *entry;
	bool sleeps = false;

	do {
		DIR *dir = opendir("/proc");

		while (dir && !sleeps && (entry = readdir(dir))) {
			char path[320], name[128];

			if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
				continue;
			snprintf(path, sizeof(path), "/proc/%s/comm",
				 entry->d_name);
			/* Such as "kworker/u4:1+fuse_uring". */
			sleeps = file_read(path, name, sizeof(name)) > 0 &&
				 strstr(name, "+fuse") &&
				 process_state(entry->d_name) == 'D';
		}
		if (dir)
			closedir(dir);
		if (!sleeps)
			sleep_ms(1);
	} while (!sleeps && now_ms() < end);
	return sleeps;
}

void *shared_alloc(size_t size)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return mem == MAP_FAILED ? NULL : mem;
}

void flag_set(int *flag)
{
	__atomic_store_n(flag, 1, __ATOMIC_RELEASE);
}

bool flag_is_set(int *flag)
{
	return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}

bool flag_becomes_set(int *flag)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	while (!flag_is_set(flag)) {
		if (now_ms() >= end)
			return false;
		sleep_ms(1);
	}
	return true;
}

__u64 test_seed(void)
{
	const char *env = getenv("FUSE_TEST_SEED");
	__u64 seed = env ? strtoull(env, NULL, 0) :
			      now_ms() * 2654435761u + getpid();

	printf("# FUSE_TEST_SEED=%llu\n", (unsigned long long)seed);
	fflush(stdout);
	return seed;
}

/* xorshift64*: good enough to choose offsets, and the same everywhere. */
__u64 test_random(__u64 *state)
{
	__u64 x = *state ? *state : 88172645463325252ULL;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*state = x;
	return x * 2685821657736338717ULL;
}
