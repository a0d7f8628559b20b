// SPDX-License-Identifier: GPL-2.0
/*
 * Requests by the managed ring.
 *
 * The kernel has made some queues, each with an array of slots: a header and,
 * while the slot holds a request, a payload area, all in memory that is mapped
 * here.  A FETCH command arms a slot.  When the command completes, the slot
 * holds a request.  The answer is written over it and COMMIT_AND_FETCH both
 * sends the answer off and arms the slot again, so from then on every request
 * costs one command, and all commands of a round cost one system call.
 *
 * Each thread has an io_uring and some slots of one queue; both are touched by
 * no other thread.  The queue's first thread has its control slots as well.
 * What comes by these is served and committed like everything else, though
 * nobody waits for an answer: the commit gives the slot back.
 */

#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "uring_thread.h"

struct ring {
	struct fuse_uring_setup setup;
	char **maps;			/* by queue */
	/* How often the ring was detached or attached; odd: it is detached */
	atomic_uint changes;
};

struct ring_thread {
	struct uring_thread u;
	char *map;			/* the queue's memory */
	struct server_req *reqs;	/* one per slot of this thread */
	unsigned int nr_slots;
	unsigned int nr_armed;		/* slots that still get requests */
	unsigned int nr_idle;		/* detached, get requests later */
	unsigned int changes;		/* of the ring, that we know of */
};

/* user_data besides UD_REQ and UD_WAKE: a raw_cmd with this bit set, and this */
#define UD_RAW		1ULL
#define UD_DETACH	3ULL

struct raw_cmd {
	struct server_req *req;		/* of the slot it names, or NULL */
	__u64 tag;
	struct fuse_out_header *msg;	/* of a notification */
};

static inline struct io_uring_sqe *ring_cmd(struct ring_thread *t, __u32 cmd_op,
					    const struct fuse_uring_slot_cmd *cmd,
					    __u64 user_data)
{
	return uring_cmd(&t->u, cmd_op, cmd, sizeof(*cmd), user_data);
}

static void ring_fetch(struct ring_thread *t, struct server_req *req)
{
	struct fuse_uring_slot_cmd cmd = { .qid = req->qid, .slot = req->slot };

	ring_cmd(t, FUSE_URING_REQ_FETCH, &cmd, (uintptr_t)req);
}

static void ring_commit(struct ring_thread *t, struct server_req *req)
{
	struct fuse_uring_slot_cmd cmd = {
		.commit_id = req->commit_id,
		.qid = req->qid,
		.slot = req->slot,
	};

	ring_cmd(t, FUSE_URING_REQ_COMMIT_AND_FETCH, &cmd, (uintptr_t)req);
}

/* Arms what was detached */
static void ring_rearm(struct ring_thread *t)
{
	unsigned int i;

	for (i = 0; t->nr_idle && i < t->nr_slots; i++) {
		if (!t->reqs[i].idle)
			continue;
		t->reqs[i].idle = false;
		t->nr_idle--;
		t->nr_armed++;
		ring_fetch(t, &t->reqs[i]);
	}
}

/* Does what server_detach() and server_attach() want of the thread */
static void ring_changed(struct ring_thread *t)
{
	struct fuse_uring_slot_cmd cmd = { .qid = t->reqs[0].qid };
	unsigned int changes = t->u.t.srv->ring->changes;

	if (changes == t->changes)
		return;
	t->changes = changes;
	/*
	 * The slots are detached already, but FETCHes that this thread had not
	 * submitted then have armed some again.
	 */
	if (!(changes & 1))
		ring_rearm(t);
	else if (t->nr_armed)
		ring_cmd(t, FUSE_URING_REQ_DETACH, &cmd, UD_DETACH);
}

/*
 * The reply's header takes the place of the request's.  The arguments lie in
 * the payload area already, as long as len says.
 */
static void ring_reply(struct server_req *req, int err, size_t len)
{
	struct ring_thread *t = (struct ring_thread *)req->thread;
	struct fuse_out_header *out = (void *)req->hdr->in_out;
	__u64 unique = req->in->unique;

	out->len = sizeof(*out) + len;
	out->error = err;
	out->unique = unique;
	req->hdr->ring_ent_in_out.payload_sz = len;
	if (&t->u == uring_self)
		ring_commit(t, req);
	else
		uring_answer_elsewhere(&t->u, req);
}

static void ring_defer(struct server_req *req)
{
	/* It keeps its slot, nothing else was ever there */
	(void)req;
}

/* The kernel has filled the slot of this request */
static void ring_request(struct ring_thread *t, struct server_req *req)
{
	const struct fuse_uring_slot_header *head = (const void *)req->hdr;

	/*
	 * Where the payload lies is the kernel's choice, anew for every
	 * request, so that small ones need no large area.
	 */
	req->data = t->map + head->payload_offset;
	req->out = t->map + head->payload_offset;
	req->data_len = head->payload_sz;
	req->out_max = head->payload_room;
	req->commit_id = head->commit_id;
	server_dispatch(req);
}

/* A command failed, and with it maybe its slot */
static void ring_failed(struct ring_thread *t, struct server_req *req, int res)
{
	struct server *srv = t->u.t.srv;

	switch (res) {
	case -ENOTCONN:		/* unmounted or aborted */
		t->nr_armed--;
		uring_over(srv);
		break;
	case -ECANCELED:	/* detached, or cancelled by somebody */
		t->nr_armed--;
		if (!srv->ring->changes)
			break;
		req->idle = true;
		t->nr_idle++;
		/* A slot that was busy for long comes after the attach */
		if (!(srv->ring->changes & 1))
			ring_rearm(t);
		break;
	case -EBADMSG:
		/* The reply's size was wrong, its requester has got -EIO */
		fprintf(stderr, "queue %u slot %u: reply of a wrong size\n",
			req->qid, req->slot);
		ring_fetch(t, req);
		break;
	default:
		fprintf(stderr, "queue %u slot %u: %s\n", req->qid, req->slot,
			strerror(-res));
		/*
		 * Nothing has changed, so the request of a refused commit
		 * must still be answered.
		 */
		if (req->commit_id && req->refused != req->commit_id) {
			req->refused = req->commit_id;
			ring_reply(req, -EIO, 0);
			break;
		}
		server_fail(srv, res, "a slot of the ring cannot be armed");
		t->nr_armed--;
	}
}

static void ring_completed(struct uring_thread *u, __u64 user_data, int res)
{
	struct ring_thread *t = (struct ring_thread *)u;
	struct server_req *req, *next;
	struct server *srv = u->t.srv;
	struct raw_cmd *raw;

	switch (user_data & UD_KIND) {
	case UD_REQ:
		req = (struct server_req *)(uintptr_t)user_data;
		if (!unlikely(res))
			ring_request(t, req);
		else
			ring_failed(t, req, res);
		break;
	case UD_WAKE:
		for (req = uring_answered(u); req; req = next) {
			next = req->reply_next;
			ring_commit(t, req);
		}
		ring_changed(t);
		break;
	case UD_DETACH:
		if (res && res != -ENOTCONN)
			fprintf(stderr, "cannot detach a queue: %s\n",
				strerror(-res));
		break;
	case UD_RAW:
		raw = (struct raw_cmd *)(uintptr_t)(user_data & ~UD_KIND);
		if (srv->opts.raw_done)
			srv->opts.raw_done(raw->tag, res, srv->opts.hook_arg);
		if (!res && raw->req)
			ring_request(t, raw->req);
		free(raw->msg);
		free(raw);
		break;
	}
}

static void ring_run(struct server_thread *st)
{
	struct ring_thread *t = (struct ring_thread *)st;
	unsigned int i;
	int ret;

	ret = uring_begin(&t->u, t->nr_slots + 8, 0);
	if (!ret) {
		for (i = 0; i < t->nr_slots; i++)
			ring_fetch(t, &t->reqs[i]);
		t->nr_armed = t->nr_slots;
		io_uring_submit(&t->u.uring);
	}
	server_thread_ready(st->srv);
	if (ret)
		return;
	while ((t->nr_armed || t->nr_idle) && !uring_ends(&t->u)) {
		if (!uring_submit_and_wait(&t->u))
			break;
		uring_reap(&t->u, ring_completed);
	}
	uring_end(&t->u);
}

/* For a command that is queued by a handler, on the ring of its thread */
static int raw_cmd_new(struct server_req *req, __u64 tag, struct raw_cmd **raw)
{
	if (!uring_self || req->thread != &uring_self->t ||
	    uring_self->t.transport != SERVER_RING)
		return -EXDEV;
	*raw = calloc(1, sizeof(**raw));
	if (!*raw)
		return -ENOMEM;
	(*raw)->tag = tag;
	return 0;
}

int server_raw_cmd(struct server_req *req, __u32 cmd_op,
		   const struct fuse_uring_slot_cmd *cmd, __u64 tag)
{
	struct ring_thread *t = (struct ring_thread *)req->thread;
	struct raw_cmd *raw;
	unsigned int i;
	int ret;

	ret = raw_cmd_new(req, tag, &raw);
	if (ret)
		return ret;
	for (i = 0; i < t->nr_slots; i++)
		if (t->reqs[i].qid == cmd->qid && t->reqs[i].slot == cmd->slot)
			raw->req = &t->reqs[i];
	ring_cmd(t, cmd_op, cmd, (uintptr_t)raw | UD_RAW);
	return 0;
}

int ring_notify_start(struct server_req *req, struct fuse_out_header *msg,
		      __u64 tag)
{
	static const struct fuse_uring_slot_cmd none;
	struct io_uring_sqe *sqe;
	struct raw_cmd *raw;
	int ret;

	ret = raw_cmd_new(req, tag, &raw);
	if (ret) {
		free(msg);
		return ret;
	}
	raw->msg = msg;
	sqe = ring_cmd((struct ring_thread *)req->thread, FUSE_URING_REQ_NOTIFY,
		       &none, (uintptr_t)raw | UD_RAW);
	sqe->addr = (uintptr_t)msg;
	sqe->len = msg->len;
	return 0;
}

static void ring_forget(struct server_req *req)
{
	/* Its memory is the thread's */
	(void)req;
}

static void ring_thread_free(struct server_thread *st)
{
	struct ring_thread *t = (struct ring_thread *)st;

	uring_thread_free(&t->u);
	free(t->reqs);
	free(t);
}

/* The CPUs whose requests come to this queue, and so where to serve it */
static int ring_cpus(struct server *srv, unsigned int qid,
		     struct server_thread *st)
{
	struct fuse_uring_queue_info info = { .size = sizeof(info), .qid = qid };
	cpu_set_t *cpus;

	if (ioctl(srv->fd, FUSE_DEV_IOC_URING_QUEUE_INFO, &info))
		return server_set_error(-errno, "cannot ask about a queue");
	if (!info.nr_cpus)
		return 0;
	cpus = calloc(1, info.cpus_len);
	if (!cpus)
		return server_set_error(-ENOMEM, "cannot ask about a queue");
	/* The kernel's mask is what a cpu_set_t is, of any size */
	st->cpus = cpus;
	st->cpus_size = info.cpus_len;
	info = (struct fuse_uring_queue_info){
		.size = sizeof(info),
		.qid = qid,
		.cpus = (uintptr_t)cpus,
		.cpus_len = st->cpus_size,
	};
	if (ioctl(srv->fd, FUSE_DEV_IOC_URING_QUEUE_INFO, &info))
		return server_set_error(-errno, "cannot ask about a queue");
	return 0;
}

/* A thread for @nr slots from @first on and @nr_control control slots */
static int ring_thread_new(struct server *srv, unsigned int qid,
			   unsigned int first, unsigned int nr,
			   unsigned int nr_control)
{
	const struct fuse_uring_setup *setup = &srv->ring->setup;
	struct ring_thread *t = calloc(1, sizeof(*t));
	unsigned int i;
	int ret;

	if (!t)
		return server_set_error(-ENOMEM, "cannot start a thread");
	t->u.t.run = ring_run;
	t->u.t.reply = ring_reply;
	t->u.t.defer = ring_defer;
	t->u.t.forget = ring_forget;
	t->u.t.free = ring_thread_free;
	t->map = srv->ring->maps[qid];
	t->nr_slots = nr + nr_control;
	ret = uring_thread_add(srv, &t->u, SERVER_RING);
	if (ret)
		return ret;
	srv->nr_starting++;

	t->reqs = calloc(t->nr_slots, sizeof(*t->reqs));
	if (!t->reqs)
		return server_set_error(-ENOMEM, "cannot start a thread");
	for (i = 0; i < t->nr_slots; i++) {
		struct server_req *req = &t->reqs[i];

		req->qid = qid;
		req->slot = i < nr ? first + i : setup->queue_depth + i - nr;
		req->hdr = (void *)(t->map + setup->header_offset +
				    (size_t)req->slot * setup->header_stride);
		req->in = (void *)req->hdr->in_out;
		req->op = req->hdr->op_in;
		req->srv = srv;
		req->priv = srv->opts.fs->priv;
		req->thread = &t->u.t;
	}
	return srv->opts.no_bind ? 0 : ring_cpus(srv, qid, &t->u.t);
}

/*
 * The CPUs that this process may run on, in as many bytes as are returned.  The
 * system call, as the C library's cpu_set_t ends at 1024 of them.
 */
static size_t ring_own_cpus(unsigned long *cpus, size_t size)
{
	long ret = syscall(SYS_sched_getaffinity, 0, size, cpus);

	return ret < 0 ? 0 : ret;
}

/*
 * The ring of a server that has died can be replaced when io_uring has dropped
 * its commands, which goes on for a while after the process has gone.
 */
static int ring_setup_ioctl(struct server *srv, struct fuse_uring_setup *setup)
{
	const struct fuse_uring_setup asked = *setup;
	unsigned int tries = srv->opts.keep ? 5000 : 0;

	while (ioctl(srv->fd, FUSE_DEV_IOC_URING_SETUP, setup)) {
		if (errno != EBUSY || !tries--)
			return -1;
		usleep(2000);
		*setup = asked;
	}
	return 0;
}

/* What to change when the kernel refuses a ring */
static const char *ring_setup_hint(int err)
{
	switch (err) {
	case EOPNOTSUPP:
		return "the ring is off: set module parameter fuse.enable_uring";
	case ENOTTY:
		return "the kernel lacks the ring: it needs CONFIG_FUSE_IO_URING";
	case ENOBUFS:
		return "too little locked memory: raise ulimit -l, or ask for less";
	case ENOMEM:
		return "no memory for the ring: ask for less";
	case EFBIG:
		return "the mappings get too large: make depth or payload smaller";
	case ENXIO:
		return "more queues than CPUs: make queues fewer";
	case ERANGE:
		return "a size is out of the kernel's range: see struct fuse_uring_setup";
	case EMSGSIZE:
		return "the payload is smaller than at first: make it as large";
	case EBUSY:
		return "another server has the ring: end it, or let it detach";
	default:
		return "cannot make the ring";
	}
}

int ring_setup(struct server *srv)
{
	struct server_keep *keep = srv->opts.keep;
	const struct server_opts *opts = &srv->opts;
	unsigned int nr_threads = opts->threads_per_queue ?
				  opts->threads_per_queue : 1;
	unsigned long cpus[65536 / 8 / sizeof(long)];
	struct fuse_uring_setup *setup;
	unsigned int qid, i, first, next;
	int ret;

	srv->ring = calloc(1, sizeof(*srv->ring));
	if (!srv->ring)
		return server_set_error(-ENOMEM, "cannot make the ring");
	setup = &srv->ring->setup;
	*setup = (struct fuse_uring_setup){
		.size = sizeof(*setup),
		.nr_queues = opts->nr_queues,
		.queue_depth = opts->queue_depth,
		.nr_background = opts->nr_background,
		.payload_size = opts->payload_size,
		.small_size = opts->small_size,
		.pool_size = opts->pool_size,
		.nr_control = opts->no_control ? 0 :
			      opts->nr_control ? opts->nr_control : 2,
	};
	if (!setup->payload_size && opts->max_write)
		setup->payload_size = max_t(__u32, opts->max_write,
					    FUSE_URING_MIN_PAYLOAD);
	/* What INIT has negotiated must fit again */
	if (keep && keep->payload_size)
		setup->payload_size = keep->payload_size;
	if (opts->own_cpus) {
		setup->cpus_len = ring_own_cpus(cpus, sizeof(cpus));
		setup->cpus = (uintptr_t)cpus;
	}
	if (ring_setup_ioctl(srv, setup))
		return server_set_error(-errno, ring_setup_hint(errno));
	if (nr_threads > setup->queue_depth)
		return server_refuse("more threads per queue than slots");
	srv->payload_max = setup->payload_size;
	if (keep)
		keep->payload_size = setup->payload_size;
	srv->side = side_ring_new(srv->fd);
	if (!srv->side)
		return server_set_error(-ENOMEM, "cannot make the ring");

	srv->ring->maps = calloc(setup->nr_queues, sizeof(*srv->ring->maps));
	if (!srv->ring->maps)
		return server_set_error(-ENOMEM, "cannot make the ring");
	for (qid = 0; qid < setup->nr_queues; qid++) {
		char *map = mmap(NULL, setup->mmap_size, PROT_READ | PROT_WRITE,
				 MAP_SHARED, srv->fd,
				 qid * setup->queue_stride);

		if (map == MAP_FAILED)
			return server_set_error(-errno, "cannot map a queue");
		srv->ring->maps[qid] = map;
		first = 0;
		for (i = 0; i < nr_threads; i++, first = next) {
			next = setup->queue_depth * (i + 1) / nr_threads;
			ret = ring_thread_new(srv, qid, first, next - first,
					      i ? 0 : setup->nr_control);
			if (ret)
				return ret;
		}
	}
	return 0;
}

void ring_free(struct server *srv)
{
	struct ring *ring = srv->ring;
	unsigned int qid;

	if (!ring)
		return;
	side_ring_free(srv->side);
	for (qid = 0; ring->maps && qid < ring->setup.nr_queues; qid++)
		if (ring->maps[qid])
			munmap(ring->maps[qid], ring->setup.mmap_size);
	free(ring->maps);
	free(ring);
	srv->ring = NULL;
	srv->side = NULL;
}

const struct fuse_uring_setup *ring_granted(struct server *srv)
{
	return srv->ring ? &srv->ring->setup : NULL;
}

int server_detach(struct server *srv)
{
	struct fuse_uring_slot_cmd cmd = { 0 };
	struct ring *ring = srv->ring;
	int ret;

	if (!ring || !(ring->setup.features & FUSE_URING_FEAT_DETACH))
		return -EOPNOTSUPP;
	if (ring->changes & 1)
		return 0;
	/* The ring is served until somebody is there to read /dev/fuse */
	ret = dev_start_readers(srv);
	if (ret)
		return ret;
	ring->changes++;
	for (cmd.qid = 0; cmd.qid < ring->setup.nr_queues && !ret; cmd.qid++)
		ret = side_ring_cmd(srv->side, FUSE_URING_REQ_DETACH, &cmd,
				    NULL, 0);
	uring_wake_all(srv);
	return ret;
}

int server_attach(struct server *srv)
{
	struct ring *ring = srv->ring;

	if (!ring)
		return -EOPNOTSUPP;
	if (ring->changes & 1) {
		ring->changes++;
		uring_wake_all(srv);
	}
	return srv->over ? -ENOTCONN : 0;
}

bool ring_needs_reader(struct server *srv)
{
	return srv->ring && !srv->ring->setup.nr_control;
}

int ring_notify(struct server *srv, const struct fuse_out_header *msg)
{
	static const struct fuse_uring_slot_cmd none;

	return side_ring_cmd(srv->side, FUSE_URING_REQ_NOTIFY, &none, msg,
			     msg->len);
}

bool ring_notifies(struct server *srv)
{
	return srv->ring &&
	       srv->ring->setup.features & FUSE_URING_FEAT_NOTIFY;
}
