// SPDX-License-Identifier: GPL-2.0
/* Threads with an io_uring, see uring_thread.h. */

#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "uring_thread.h"

__thread struct uring_thread *uring_self;

int uring_thread_add(struct server *srv, struct uring_thread *u,
		     enum server_transport transport)
{
	u->t.transport = transport;
	u->wake_fd = eventfd(0, EFD_CLOEXEC);
	server_add_thread(srv, &u->t);
	return u->wake_fd < 0 ? server_set_error(-errno, "cannot start a thread") :
				0;
}

void uring_thread_free(struct uring_thread *u)
{
	if (u->wake_fd >= 0)
		close(u->wake_fd);
}

static void uring_wake_arm(struct uring_thread *u)
{
	struct io_uring_sqe *sqe = uring_sqe(u);

	io_uring_prep_read(sqe, u->wake_fd, &u->wake_buf, sizeof(u->wake_buf), 0);
	sqe->user_data = UD_WAKE;
}

int uring_probe(void)
{
	struct io_uring uring;
	int ret = io_uring_queue_init(1, &uring, 0);

	if (ret == -EPERM)
		return server_set_error(ret, "io_uring is off (sysctl kernel.io_uring_disabled)");
	if (ret)
		return server_set_error(-EOPNOTSUPP, "cannot make an io_uring");
	io_uring_queue_exit(&uring);
	return 0;
}

int uring_begin(struct uring_thread *u, unsigned int entries,
		unsigned int setup_flags)
{
	/*
	 * One thread submits and reaps, and wants to be interrupted for
	 * completions only where it waits for them.  Older kernels know less.
	 */
	static const unsigned int flags[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
		IORING_SETUP_COOP_TASKRUN,
		0,
	};
	unsigned int i;
	int ret = -EINVAL;

	for (i = 0; ret == -EINVAL && i < ARRAY_SIZE(flags); i++)
		ret = io_uring_queue_init(entries, &u->uring,
					  setup_flags | flags[i]);
	if (ret) {
		server_fail(u->t.srv, ret, "cannot make an io_uring");
		return ret;
	}
	/*
	 * A child's copy of the io_uring's memory would keep the io_uring, and
	 * that the connection, for as long as the child lives.
	 */
	io_uring_ring_dontfork(&u->uring);
	/* Both of these only save a look-up per system call and command */
	io_uring_register_ring_fd(&u->uring);
	u->cmd_fd = u->t.srv->fd;
	if (!io_uring_register_files(&u->uring, &u->t.srv->fd, 1)) {
		u->cmd_fd = 0;
		u->sqe_flags = IOSQE_FIXED_FILE;
	}
	uring_wake_arm(u);
	uring_self = u;
	return 0;
}

void uring_end(struct uring_thread *u)
{
	uring_self = NULL;
	io_uring_queue_exit(&u->uring);
}

void uring_wake(struct uring_thread *u)
{
	__u64 one = 1;

	if (write(u->wake_fd, &one, sizeof(one)) < 0)
		perror("eventfd");
}

void uring_wake_all(struct server *srv)
{
	struct server_thread *t;

	pthread_mutex_lock(&srv->lock);
	for (t = srv->threads; t; t = t->next)
		if (t->transport != SERVER_DEV)
			uring_wake((struct uring_thread *)t);
	pthread_mutex_unlock(&srv->lock);
}

/*
 * A thread whose slots are all detached, or hold requests that it has not
 * answered, is not told by any command.
 */
void uring_over(struct server *srv)
{
	if (!atomic_exchange(&srv->over, true))
		uring_wake_all(srv);
}

/* Only the thread that made an io_uring may submit to it */
void uring_answer_elsewhere(struct uring_thread *u, struct server_req *req)
{
	req->reply_next = __atomic_load_n(&u->answered, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&u->answered, &req->reply_next,
					    req, true, __ATOMIC_RELEASE,
					    __ATOMIC_RELAXED))
		;
	uring_wake(u);
}

struct server_req *uring_answered(struct uring_thread *u)
{
	uring_wake_arm(u);
	return __atomic_exchange_n(&u->answered, NULL, __ATOMIC_ACQUIRE);
}
