// SPDX-License-Identifier: GPL-2.0
/*
 * Servers in processes of their own, and the holder that starts another one
 * when its server has died.
 *
 * A connection lives as long as a descriptor of its /dev/fuse does.  That is
 * all the holder is for: it has the descriptor, and no threads, no mappings, and
 * no io_uring, so there is nothing in it that could fail.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "util.h"

/* The holder gives up after that many deaths within that time */
#define KEEP_DEATHS	5
#define KEEP_SECONDS	10

/* What a new server tells server_fork() */
struct fork_report {
	int err;		/* errno */
	char text[SERVER_ERROR_LEN];
};

/* err: 0 or a negative errno, which server_error() explains */
static void report(const struct server_opts *opts, int fd, int err)
{
	struct fork_report r = { .err = -err };

	if (fd < 0 || (opts->keep && opts->keep->reported))
		return;
	if (err)
		snprintf(r.text, sizeof(r.text), "%s", server_error());
	if (write(fd, &r, sizeof(r)) < 0)
		perror("report");
	if (opts->keep)
		opts->keep->reported = true;
}

/* Nothing of where it was started from is kept */
static void detach(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (fd >= 0) {
		dup2(fd, 0);
		dup2(fd, 1);
		dup2(fd, 2);
		close(fd);
	}
	if (chdir("/"))
		_exit(1);
}

static void stop_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
}

int server_run(const struct server_opts *opts)
{
	struct server *srv;
	sigset_t set;

	stop_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	srv = server_start(opts);
	if (!srv)
		return -1;
	server_wait_signal(srv, &set);
	return server_stop(srv) ? 1 : 0;
}

/*
 * The life of a forked server's process, in which these signals are blocked.  Returns
 * its exit status.
 */
static int serve(const struct server_opts *opts, int dev_fd, int report_fd)
{
	struct server_keep *keep = opts->keep;
	struct server *srv;
	sigset_t set;
	int err;

	srv = server_begin(opts, dev_fd);
	err = srv ? 0 : errno;
	if (srv && keep)
		__atomic_add_fetch(&keep->served, 1, __ATOMIC_RELEASE);
	report(opts, report_fd, -err);
	if (report_fd >= 0)
		close(report_fd);
	if (!srv) {
		/* Unmounted while there was no server is no failure */
		if (keep && keep->served && err == ENOTCONN)
			return 0;
		fprintf(stderr, "%s\n", server_error());
		return 1;
	}
	if (opts->detach)
		detach();
	stop_signals(&set);
	server_wait_signal(srv, &set);
	server_stop(srv);
	return 0;
}

/* The holder */

struct server_keep *server_keep_new(void)
{
	struct server_keep *keep;

	keep = mmap(NULL, sizeof(*keep), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return keep == MAP_FAILED ? NULL : keep;
}

void server_keep_free(struct server_keep *keep)
{
	if (keep)
		munmap(keep, sizeof(*keep));
}

pid_t server_keep_pid(const struct server_keep *keep)
{
	return __atomic_load_n(&keep->pid, __ATOMIC_ACQUIRE);
}

unsigned int server_keep_served(const struct server_keep *keep)
{
	return __atomic_load_n(&keep->served, __ATOMIC_ACQUIRE);
}

/* Forks a server that does not outlive its holder */
static pid_t hold_fork(const struct server_opts *opts, int dev_fd,
		       int report_fd)
{
	pid_t holder = getpid(), pid;
	sigset_t chld;

	opts->keep->starts++;
	fflush(NULL);
	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != holder)
		_exit(1);
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_UNBLOCK, &chld, NULL);
	_exit(serve(opts, dev_fd, report_fd));
}

/*
 * Waits for the end of the server and returns its status.  Says whether it was
 * told to stop meanwhile.
 */
static int hold_wait(pid_t pid, const sigset_t *set, bool *stop)
{
	int status, sig;

	for (;;) {
		sig = sigwaitinfo(set, NULL);
		if (sig == SIGCHLD) {
			/* It may be about another child of the caller */
			if (waitpid(pid, &status, WNOHANG) == pid)
				return status;
		} else if (sig > 0) {
			*stop = true;
			kill(pid, SIGTERM);
		}
	}
}

/*
 * Whether to start another server after one that a signal has killed.  SIGKILL
 * comes from outside, but everything else, or that before it even served, may
 * happen to the next one as well.
 */
static bool hold_again(int status, bool served)
{
	static unsigned int deaths;
	static time_t first;
	struct timespec now;

	if (served && WTERMSIG(status) == SIGKILL) {
		deaths = 0;
		return true;
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (now.tv_sec - first > KEEP_SECONDS)
		deaths = 0;
	if (!deaths)
		first = now.tv_sec;
	return ++deaths < KEEP_DEATHS;
}

static bool conn_ended(int dev_fd)
{
	struct pollfd pfd = { .fd = dev_fd };

	return poll(&pfd, 1, 0) == 1 && pfd.revents & POLLERR;
}

static int hold(const struct server_opts *given, int report_fd)
{
	struct server_opts opts = *given;
	struct server_keep *keep = opts.keep;
	int dev_fd = -1, status = 0, err;
	unsigned int served;
	bool stop = false;
	sigset_t set;
	pid_t pid;

	*keep = (struct server_keep){ 0 };
	stop_signals(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	/* Ignored, it would not be told; and no reader is left of a report */
	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);

	/* Looked up now: when it is mounted, that would be a request */
	opts.mountpoint = realpath(given->mountpoint, NULL);
	if (!opts.mountpoint)
		err = server_set_error(-errno, given->mountpoint);
	else
		err = server_mount(opts.mountpoint, opts.mount_opts,
				   opts.mount_flags);
	if (err < 0)
		goto out;
	dev_fd = err;

	do {
		served = keep->served;
		pid = hold_fork(&opts, dev_fd, report_fd);
		if (pid < 0) {
			err = server_set_error(-errno, "cannot fork");
			break;
		}
		__atomic_store_n(&keep->pid, pid, __ATOMIC_RELEASE);
		if (opts.detach && keep->starts == 1)
			detach();
		status = hold_wait(pid, &set, &stop);
		__atomic_store_n(&keep->pid, 0, __ATOMIC_RELEASE);
	} while (!stop && WIFSIGNALED(status) &&
		 hold_again(status, keep->served != served));

	/*
	 * Nobody answers any more, so the connection has to end before anything
	 * is done that may wait for requests.
	 */
	stop = !conn_ended(dev_fd);
	close(dev_fd);
	if (stop)
		umount2(opts.mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW);
	if (WIFSIGNALED(status))
		fprintf(stderr, "the last server was killed by signal %d\n",
			WTERMSIG(status));
out:
	free((char *)opts.mountpoint);
	if (err < 0) {
		report(given, report_fd, err);
		errno = -err;
		return -1;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int server_hold(const struct server_opts *opts)
{
	return hold(opts, -1);
}

pid_t server_fork(const struct server_opts *opts)
{
	struct fork_report r = { 0 };
	sigset_t set, old;
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC)) {
		server_set_error(-errno, "cannot make a pipe");
		return -1;
	}
	/* Before the fork, so that the child cannot miss one */
	stop_signals(&set);
	sigprocmask(SIG_BLOCK, &set, &old);
	fflush(NULL);
	pid = fork();
	if (!pid) {
		close(fds[0]);
		if (opts->detach)
			setsid();
		else
			prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(opts->keep ? hold(opts, fds[1]) :
				   serve(opts, -1, fds[1]));
	}
	sigprocmask(SIG_SETMASK, &old, NULL);
	close(fds[1]);
	if (pid < 0) {
		r.err = errno;
		server_set_error(-errno, "cannot fork");
	} else if (read(fds[0], &r, sizeof(r)) != sizeof(r)) {
		r.err = ECHILD;
		server_set_error(-ECHILD, "the server died while it started");
	} else if (r.err) {
		server_refuse(r.text);	/* in the child's words */
	}
	close(fds[0]);
	if (!r.err)
		return pid;
	if (pid > 0)
		waitpid(pid, NULL, 0);
	errno = r.err;
	return -1;
}
