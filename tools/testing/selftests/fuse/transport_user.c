// SPDX-License-Identifier: GPL-2.0
/*
 * Requests by a ring whose slots are memory of this server ("user buffers"),
 * as Linux has it from 6.14 on.  It uses nothing that mainline lacks.
 *
 * A slot is a struct fuse_uring_req_header and a payload area.  A REGISTER
 * command tells the kernel of it.  When the command completes, the slot holds
 * a request.  The answer is written over that, and COMMIT_AND_FETCH both sends
 * it off and waits for the next request in the same slot.
 *
 * What surprises:
 *
 * - FUSE_INIT does not come by the ring.  A thread reads it from /dev/fuse and
 *   says FUSE_OVER_IO_URING in the answer; REGISTER before that fails.  From the
 *   answer on, requests wait for the ring.
 * - That thread stays: FORGET, INTERRUPT and NOTIFY_REPLY go on coming by
 *   /dev/fuse, and notifications are written there.
 * - Queues are numbered as CPUs are, and there is one for each CPU that the
 *   machine can have, on-line or not.  Mainline's ring is not used before each
 *   queue has a slot.  So a server makes all of them, and does not know before
 *   the last one whether it will get requests.
 * - How large a payload area must be follows from the answer to FUSE_INIT, and
 *   the kernel refuses smaller ones.
 * - SQEs must be of 128 bytes, though the command's own data is 24.
 * - A REGISTER that succeeds does not say so.  One that fails completes before
 *   io_uring_submit() returns.
 * - Only REGISTER looks at sqe->addr and sqe->len, and the iovecs may go when it
 *   has been submitted.  The memory that they name may not, ever.
 */

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "uring_thread.h"

#define DEFAULT_DEPTH	8

struct user_thread {
	struct uring_thread u;
	unsigned int qid;
	unsigned int nr_slots;
	unsigned int nr_armed;		/* slots that still get requests */
	struct server_req *reqs;	/* one per slot */
	struct iovec (*iov)[2];		/* the same */
	char *mem;			/* all headers, then all payload areas */
	size_t mem_size;
	size_t payload_size;
};

/* Adds a slot to the queue, and waits for a request in it */
static void user_register(struct user_thread *t, struct server_req *req,
			  struct iovec iov[2])
{
	struct fuse_uring_cmd_req cmd = { .qid = t->qid };
	struct io_uring_sqe *sqe;

	iov[0].iov_base = req->hdr;
	iov[0].iov_len = sizeof(*req->hdr);
	iov[1].iov_base = req->out;
	iov[1].iov_len = t->payload_size;
	sqe = uring_cmd(&t->u, FUSE_IO_URING_CMD_REGISTER, &cmd, sizeof(cmd),
			(uintptr_t)req);
	sqe->addr = (uintptr_t)iov;
	sqe->len = 2;
}

/*
 * The commit_id is the one of the header that came with the request.  The
 * kernel finds the slot by that, so there is no number for the slot itself.
 */
static void user_commit(struct user_thread *t, struct server_req *req)
{
	struct fuse_uring_cmd_req cmd = {
		.commit_id = req->commit_id,
		.qid = t->qid,
	};

	uring_cmd(&t->u, FUSE_IO_URING_CMD_COMMIT_AND_FETCH, &cmd, sizeof(cmd),
		  (uintptr_t)req);
}

/*
 * The reply's header takes the place of the request's.  Its len is not looked
 * at: payload_sz says how long the arguments are.
 */
static void user_reply(struct server_req *req, int err, size_t len)
{
	struct user_thread *t = (struct user_thread *)req->thread;
	struct fuse_out_header *out = (void *)req->hdr->in_out;
	__u64 unique = req->in->unique;

	out->error = err;
	out->unique = unique;
	req->hdr->ring_ent_in_out.payload_sz = len;
	if (&t->u == uring_self)
		user_commit(t, req);
	else
		uring_answer_elsewhere(&t->u, req);
}

static void user_defer(struct server_req *req)
{
	/* It keeps its slot, nothing else was ever there */
	(void)req;
}

static void user_forget(struct server_req *req)
{
	/* Its memory is the thread's */
	(void)req;
}

/* The kernel has filled the slot of this request */
static void user_request(struct server_req *req)
{
	const struct fuse_uring_ent_in_out *ent = &req->hdr->ring_ent_in_out;

	req->data_len = ent->payload_sz;
	req->commit_id = ent->commit_id;
	server_dispatch(req);
}

/* A command failed, and its slot is lost */
static void user_failed(struct user_thread *t, struct server_req *req, int res)
{
	struct server *srv = t->u.t.srv;

	t->nr_armed--;
	if (res == -ENOTCONN) {
		/* Unmounted or aborted */
		uring_over(srv);
	} else if (!req->commit_id) {
		/* A REGISTER: see user_begin() */
		__atomic_store_n(&srv->refused, res, __ATOMIC_RELAXED);
	} else if (res != -ECANCELED) {
		fprintf(stderr, "queue %u: a slot is lost: %s\n", t->qid,
			strerror(-res));
	}
}

static void user_completed(struct uring_thread *u, __u64 user_data, int res)
{
	struct user_thread *t = (struct user_thread *)u;
	struct server_req *req, *next;

	if (user_data == UD_WAKE) {
		for (req = uring_answered(u); req; req = next) {
			next = req->reply_next;
			user_commit(t, req);
		}
		return;
	}
	req = (struct server_req *)(uintptr_t)user_data;
	if (!unlikely(res))
		user_request(req);
	else
		user_failed(t, req, res);
}

/*
 * Registers all slots and tells user_start() when that is done.  What has failed
 * is known after the submission.  Requests may be there as well, and are served
 * like all others.
 */
static int user_begin(struct user_thread *t)
{
	struct server *srv = t->u.t.srv;
	unsigned int i;
	int ret;

	ret = uring_begin(&t->u, t->nr_slots + 8, IORING_SETUP_SQE128);
	if (!ret) {
		for (i = 0; i < t->nr_slots; i++)
			user_register(t, &t->reqs[i], t->iov[i]);
		t->nr_armed = t->nr_slots;
		io_uring_submit(&t->u.uring);
		uring_reap(&t->u, user_completed);
	}

	server_thread_ready(srv);
	return ret;
}

static void user_run(struct server_thread *st)
{
	struct user_thread *t = (struct user_thread *)st;

	if (user_begin(t))
		return;
	while (t->nr_armed && !uring_ends(&t->u)) {
		if (!uring_submit_and_wait(&t->u))
			break;
		uring_reap(&t->u, user_completed);
	}
	uring_end(&t->u);
}

static void user_thread_free(struct server_thread *st)
{
	struct user_thread *t = (struct user_thread *)st;

	uring_thread_free(&t->u);
	if (t->mem)
		munmap(t->mem, t->mem_size);
	free(t->iov);
	free(t->reqs);
	free(t);
}

/* What the kernel wants a payload area to hold at the least */
static size_t user_payload_size(const struct fuse_init_out *out)
{
	size_t page = sysconf(_SC_PAGESIZE), pages = 32, size;

	if (out->flags & FUSE_MAX_PAGES)
		pages = out->max_pages;
	size = max_t(size_t, out->max_write, FUSE_MIN_READ_BUFFER);
	size = max_t(size_t, size, pages * page);
	return (size + page - 1) & ~(page - 1);
}

/*
 * The areas begin on pages, for O_DIRECT of a filesystem behind this one.
 * Nothing is there until it is used: a slot that sees small requests only has
 * one page.
 */
static int user_memory(struct user_thread *t)
{
	size_t page = sysconf(_SC_PAGESIZE), headers;
	struct server *srv = t->u.t.srv;
	unsigned int i;
	void *mem;

	t->payload_size = user_payload_size(&srv->init_out);
	headers = t->nr_slots * sizeof(struct fuse_uring_req_header);
	headers = (headers + page - 1) & ~(page - 1);
	t->mem_size = headers + t->nr_slots * t->payload_size;
	t->reqs = calloc(t->nr_slots, sizeof(*t->reqs));
	t->iov = calloc(t->nr_slots, sizeof(*t->iov));
	mem = mmap(NULL, t->mem_size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	t->mem = mem == MAP_FAILED ? NULL : mem;
	if (!t->mem || !t->reqs || !t->iov)
		return server_set_error(-ENOMEM, "no memory for a queue");
	for (i = 0; i < t->nr_slots; i++) {
		struct server_req *req = &t->reqs[i];

		req->hdr = (struct fuse_uring_req_header *)t->mem + i;
		req->in = (void *)req->hdr->in_out;
		req->op = req->hdr->op_in;
		req->out = t->mem + headers + i * t->payload_size;
		req->out_max = t->payload_size;
		req->data = req->out;
		req->qid = t->qid;
		req->slot = i;
		req->srv = srv;
		req->priv = srv->opts.fs->priv;
		req->thread = &t->u.t;
	}
	return 0;
}

static int user_thread_new(struct server *srv, unsigned int cpu,
			   unsigned int nr_slots)
{
	struct user_thread *t = calloc(1, sizeof(*t));
	struct server_thread *st = &t->u.t;
	int ret;

	if (!t)
		return server_set_error(-ENOMEM, "cannot start a thread");
	st->run = user_run;
	st->reply = user_reply;
	st->defer = user_defer;
	st->forget = user_forget;
	st->free = user_thread_free;
	if (!srv->opts.no_bind) {
		/* It runs elsewhere while the CPU is off-line */
		st->cpus_size = CPU_ALLOC_SIZE(cpu + 1);
		st->cpus = calloc(1, st->cpus_size);
		if (st->cpus)
			CPU_SET_S(cpu, st->cpus_size, st->cpus);
	}
	t->qid = cpu;
	t->nr_slots = nr_slots;
	ret = uring_thread_add(srv, &t->u, SERVER_USER);
	return ret ? ret : user_memory(t);
}

/* The threads that share the slots of a CPU's queue */
static int user_queue_new(struct server *srv, unsigned int cpu)
{
	const struct server_opts *opts = &srv->opts;
	unsigned int depth = opts->queue_depth ? opts->queue_depth :
						 DEFAULT_DEPTH;
	unsigned int nr = opts->threads_per_queue ? opts->threads_per_queue : 1;
	unsigned int i;
	int ret = 0;

	if (nr > depth)
		return server_refuse("more threads per queue than slots");
	for (i = 0; i < nr && !ret; i++) {
		ret = user_thread_new(srv, cpu, depth * (i + 1) / nr -
						depth * i / nr);
		if (!ret)
			srv->nr_starting++;
	}
	return ret;
}

/*
 * Queues for all CPUs that there can be, or those of them that the server may
 * run on, or as many of these as are asked for.
 */
static int user_queues_new(struct server *srv)
{
	static const char path[] = "/sys/devices/system/cpu/possible";
	unsigned int nr = srv->opts.nr_queues ? srv->opts.nr_queues : UINT_MAX;
	bool own = srv->opts.own_cpus;
	unsigned int cpu, last;
	char text[4096], *at;
	cpu_set_t cpus;
	int ret = 0;
	FILE *f;

	f = fopen(path, "re");
	at = f ? fgets(text, sizeof(text), f) : NULL;
	if (!at || (own && sched_getaffinity(0, sizeof(cpus), &cpus)))
		ret = server_set_error(-errno, "cannot tell the CPUs");
	if (f)
		fclose(f);
	/* A list like 0-3,8-11 */
	while (!ret && nr && *at >= '0' && *at <= '9') {
		cpu = strtoul(at, &at, 10);
		last = *at == '-' ? strtoul(at + 1, &at, 10) : cpu;
		at += *at == ',';
		for (; !ret && nr && cpu <= last; cpu++) {
			if (own && !CPU_ISSET(cpu, &cpus))
				continue;
			ret = user_queue_new(srv, cpu);
			nr--;
		}
	}
	return ret;
}

static int user_fall_back(struct server *srv, int err, const char *what)
{
	server_set_error(err, what);
	return server_fall_back(srv, err) ? dev_start_readers(srv) : err;
}

int user_setup(struct server *srv)
{
	const struct server_opts *opts = &srv->opts;

	srv->payload_max = opts->payload_size ? opts->payload_size :
			   opts->max_write ? opts->max_write : 1 << 20;
	return dev_add_reader(srv);
}

int user_start(struct server *srv)
{
	struct server_thread *t;
	int ret;

	if (!(srv->init_out.flags2 & (FUSE_OVER_IO_URING >> 32)))
		return user_fall_back(srv, -EOPNOTSUPP,
				      "the kernel does not offer the ring (module parameter fuse.enable_uring)");
	ret = user_queues_new(srv);
	if (ret)
		return ret;

	/* All of these may fail and end, which is not the end of the server */
	pthread_mutex_lock(&srv->lock);
	srv->nr_live++;
	pthread_mutex_unlock(&srv->lock);
	for (t = srv->threads; t && !ret; t = t->next)
		if (t->transport == SERVER_USER)
			ret = server_start_thread(t);
	pthread_mutex_lock(&srv->lock);
	while (srv->nr_starting && !ret)
		pthread_cond_wait(&srv->cond, &srv->lock);
	if (!ret)
		ret = srv->error;
	pthread_mutex_unlock(&srv->lock);
	/*
	 * The kernel uses /dev/fuse then, unless it was a security module that
	 * refused: in that case FUSE knows of nothing, and waits for a slot.
	 */
	if (!ret && srv->refused)
		ret = server_notify(srv, FUSE_NOTIFY_RESEND, NULL, 0);
	if (!ret && srv->refused)
		ret = user_fall_back(srv, srv->refused,
				     "the kernel refuses a slot of the ring");
	pthread_mutex_lock(&srv->lock);
	srv->nr_live--;
	pthread_mutex_unlock(&srv->lock);
	return ret;
}
