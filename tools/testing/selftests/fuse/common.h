/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What all FUSE transport tests share: a private place to mount, the ring's
 * switch, the kernel's own figures about a connection, and processes that
 * make requests.
 */
#ifndef FUSE_TEST_COMMON_H
#define FUSE_TEST_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>
#include <sys/types.h>

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(arr) (sizeof(arr) / sizeof((arr)[0]))
#endif

/* How a filesystem's requests travel: the variants of the fixtures. */
enum test_transport {
	TRANSPORT_DEV,
	TRANSPORT_RING,		/* managed ring */
	TRANSPORT_USER,		/* ring with user buffers */
};

/* Whether requests come in slots. */
static inline bool transport_rings(enum test_transport transport)
{
	return transport != TRANSPORT_DEV;
}

/*
 * Everything is waited for at most this long, also on an emulated debug kernel
 * on a machine that is busy with something else.
 */
#define TEST_WAIT_MS	100000

/* Seconds for a test: more than the waiting that it can add up. */
#define TEST_TIMEOUT	600
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	TEST_TIMEOUT

/*
 * A private mount namespace with an empty tmpfs at TEST_DIR, the control
 * filesystem at TEST_FUSECTL, and the ring switched on for a test that wants
 * it.  Returns NULL, or why the test cannot run here: to be told with SKIP().
 * Exits with a failure when something breaks that should work.
 */
const char *test_prepare(enum test_transport transport);

/*
 * For a test that needs of TRANSPORT_USER no more than mainline has from 6.14
 * on, which sends no request before each CPU has a queue (@queues: 0 for that).
 */
const char *test_prepare_mainline(enum test_transport transport,
				  unsigned int queues);

/* Whether this kernel has no ring but mainline's, and so no statistics of it. */
bool ring_is_mainline(void);

#define TEST_DIR	"/tmp"
#define TEST_MNT	TEST_DIR "/mnt"
#define TEST_FUSECTL	"/sys/fs/fuse/connections"
#define TEST_PARAM	"/sys/module/fuse/parameters/enable_uring"

/*
 * Sets fuse.enable_uring.  What it was is restored when the test program ends,
 * whichever way its tests do.  Returns 0 or a negative errno.
 */
int ring_switch(bool on);

/*
 * Whether tests may disturb everybody on the machine, as those do that take CPUs
 * off-line or freeze all tasks: with FUSE_TEST_DISRUPTIVE=1 in the environment.
 */
bool test_disrupts(void);
#define TEST_DISRUPTS_NOT \
	"disturbs the whole machine: set FUSE_TEST_DISRUPTIVE=1 to run it"

/* For how long a test repeats something: FUSE_TEST_SECONDS, or half of one. */
unsigned int test_ms(void);

__u64 now_ms(void);
void sleep_ms(unsigned int ms);

/* Whole small files; numbers are -1 - errno on failure. */
int file_read(const char *path, char *buf, size_t size);
int file_write(const char *path, const char *text);
long file_number(const char *path);

/*
 * The number of the connection mounted at @path, without sending it a request.
 * Negative errno on failure.
 */
int conn_number(const char *path);

/* A file of the connection in the control filesystem. */
long conn_ctl_read(int conn, const char *name);
int conn_ctl_write(int conn, const char *name, const char *text);
int conn_abort(int conn);

/*
 * A kernel that looks for errors: it is slow, keeps freed memory for some time,
 * and finds leaks better than its figures do.
 */
bool kernel_debugs(void);

/* A line of /proc/meminfo, in KiB. */
long mem_kib(const char *key);

/* How many requests the kernel waits for on this connection. */
bool conn_waiting_becomes(int conn, long value);

/* Waits until the connection is gone from the control filesystem. */
bool conn_gone(int conn);

/* A value of the connection's statistics file, or -1 when there is none. */
long ring_stat(int conn, const char *key);

/* A value of the line about queue @qid in that file, or -1. */
long ring_queue_stat(int conn, unsigned int qid, const char *key);

/* The sum of a value over all queues, or -1. */
long ring_queues_stat(int conn, const char *key);

/* Waits until the value is @value, no longer than TEST_WAIT_MS. */
bool ring_stat_becomes(int conn, const char *key, long value);
bool ring_queue_stat_becomes(int conn, unsigned int qid, const char *key,
			     long value);

/* What that file says of a slot that is in the server's hands. */
struct ring_slot {
	unsigned int	qid;
	unsigned int	slot;
	unsigned int	opcode;
	unsigned long long unique;
	unsigned long	age_ms;
};

/* The first @max of these; returns how many there are, or -1. */
int ring_slots(int conn, struct ring_slot *slots, unsigned int max);

/*
 * Waits until the queues have @nr requests, in slots or waiting for one.  Where
 * a request is before the server's task comes for it is the kernel's affair.
 */
bool ring_requests_become(int conn, long nr);

/* Waits until the sum over all queues is @value, no longer than TEST_WAIT_MS. */
bool ring_queues_stat_becomes(int conn, const char *key, long value);

/*
 * A requester is a process of its own with none of the test's descriptors, so
 * that it keeps neither the connection nor an io_uring alive.  @fn gets @arg
 * and returns 0 or a negative errno.
 */
struct requester {
	pid_t	pid;
	int	pidfd;
};

int requester_start(struct requester *r, int (*fn)(const void *arg),
		    const void *arg);

/* The same on a CPU, where it stays. */
int requester_on(int cpu, struct requester *r, int (*fn)(const void *arg),
		 const void *arg);

/*
 * The same for a process that keeps the test's descriptors, as a server does.
 * It is killed with its parent.
 */
int process_start(struct requester *r, int (*fn)(void *arg), void *arg);

/*
 * True when the process ended within @ms.  Then *result is 0, the errno
 * (positive) that @fn returned, or minus the signal that killed it.
 */
bool requester_ended(struct requester *r, int *result, unsigned int ms);

/* The same, bounded by TEST_WAIT_MS; -1000 when it did not end: it hangs. */
int requester_join(struct requester *r);
#define REQUESTER_HANGS	(-1000)

/* Prints where it hangs, and what the connection (-1: none) knows; -1000. */
int requester_hangs(const struct requester *r, int conn);

/* The state letter of /proc/PID/stat becomes one of @states. */
bool process_becomes(pid_t pid, const char *states);

/*
 * Waits until the requester sleeps in the kernel ('S' or 'D' in its stat file).
 * False when it ends instead.
 */
bool requester_sleeps(const struct requester *r);

/*
 * Whether none of the requesters that this process has started runs: each
 * sleeps, is stopped or has ended.  *stamp then changes whenever one of them
 * has run in between.  So when nothing reaches the server between two calls
 * that return true and the same stamp, all that they wait for is in the kernel.
 */
bool requesters_still(__u64 *stamp);

/*
 * Waits until a worker of the kernel that handles something of FUSE sleeps
 * uninterruptibly, as for a page or the lock of an inode.
 */
bool fuse_worker_sleeps(void);

/* Zeroes that a process shares with those that it forks; NULL on failure. */
void *shared_alloc(size_t size);

/* A flag in shared memory, and waiting for it up to TEST_WAIT_MS. */
void flag_set(int *flag);
bool flag_is_set(int *flag);
bool flag_becomes_set(int *flag);

/* Seeds are printed, and FUSE_TEST_SEED repeats a run. */
__u64 test_seed(void);
__u64 test_random(__u64 *state);

/* The byte that a test file has at @offset. */
static inline unsigned char test_byte(__u64 file, __u64 offset)
{
	return (unsigned char)(offset * 31 + (offset >> 9) * 7 + file * 101 + 1);
}

#endif
