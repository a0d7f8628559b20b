// SPDX-License-Identifier: GPL-2.0
/*
 * Requests by read(2) and write(2) on /dev/fuse.
 *
 * Each thread reads into a buffer of its own and answers from there.  A request
 * must be answered on the descriptor that it was read from: for a clone
 * (FUSE_DEV_IOC_CLONE) that is the clone.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"
#include "util.h"

struct dev_thread {
	struct server_thread t;
	int fd;
	struct dev_req *cur;	/* what the next request is read to */
};

/*
 * The buffers are so placed that file data begins on a page, for O_DIRECT of
 * a filesystem behind this one: a WRITE's data follows two headers, a READ's
 * answer one.
 */
#define DEV_WRITE_HEAD	(sizeof(struct fuse_in_header) +		\
			 sizeof(struct fuse_write_in))

struct dev_req {
	struct server_req req;
	char *in;
	size_t in_size;
	void *map;
	size_t map_size;
	bool own;		/* deferred: goes with its answer */
};

static struct dev_req *dev_req_new(struct dev_thread *t)
{
	size_t page = sysconf(_SC_PAGESIZE);
	struct server *srv = t->t.srv;
	/* The largest name and attribute value must fit as well */
	size_t room = max_t(__u32, srv->payload_max, FUSE_URING_MIN_PAYLOAD);
	struct dev_req *dev = calloc(1, sizeof(*dev));
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;

	if (!dev)
		return NULL;
	room = (room + page - 1) & ~(page - 1);
	dev->map_size = 2 * (page + room);
	/*
	 * A page that is not there yet is not made for a thread that is being
	 * killed, and the request that should be copied there ends with -EIO.
	 */
	if (srv->opts.keep)
		flags |= MAP_POPULATE;
	dev->map = mmap(NULL, dev->map_size, PROT_READ | PROT_WRITE, flags, -1,
			0);
	if (dev->map == MAP_FAILED) {
		free(dev);
		return NULL;
	}
	dev->in = (char *)dev->map + page - DEV_WRITE_HEAD;
	dev->in_size = DEV_WRITE_HEAD + room;
	dev->req = (struct server_req){
		.in = (void *)dev->in,
		.op = dev->in + sizeof(struct fuse_in_header),
		.out = (char *)dev->map + page + room + page,
		.out_max = room,
		.srv = srv,
		.priv = srv->opts.fs->priv,
		.thread = &t->t,
	};
	return dev;
}

static void dev_req_free(struct dev_req *dev)
{
	if (!dev)
		return;
	munmap(dev->map, dev->map_size);
	free(dev);
}

static void dev_defer(struct server_req *req)
{
	struct dev_thread *t = (struct dev_thread *)req->thread;

	/* The buffer is the request's now; the thread will want another one */
	((struct dev_req *)req)->own = true;
	t->cur = NULL;
}

static void dev_forget(struct server_req *req)
{
	dev_req_free((struct dev_req *)req);
}

static void dev_reply(struct server_req *req, int err, size_t len)
{
	struct dev_thread *t = (struct dev_thread *)req->thread;
	struct dev_req *dev = (struct dev_req *)req;
	struct fuse_out_header *out = (struct fuse_out_header *)req->out - 1;
	__u32 op = req->in->opcode;

	/* To be told again of an interrupt, or never more, is an answer */
	if (op == FUSE_FORGET || op == FUSE_BATCH_FORGET ||
	    op == FUSE_NOTIFY_REPLY || (op == FUSE_INTERRUPT && !err))
		goto out;
	out->len = sizeof(*out) + len;
	out->error = err;
	out->unique = req->in->unique;
	/* ENOENT: the requester was killed and did not wait for the answer */
	if (unlikely(write(t->fd, out, out->len) < 0 && errno != ENOENT &&
		     errno != ENODEV)) {
		fprintf(stderr, "reply to %s refused: %m\n",
			proto_op_name(op));
		/* Unless its size was wrong, the requester still waits */
		out->len = sizeof(*out);
		out->error = -EIO;
		if (write(t->fd, out, out->len) < 0)
			goto out;
	}
out:
	if (unlikely(dev->own))
		dev_req_free(dev);
}

static void dev_run(struct server_thread *st)
{
	struct dev_thread *t = (struct dev_thread *)st;
	struct server *srv = st->srv;
	struct server_req *req;
	struct dev_req *dev;
	size_t op_size;
	ssize_t len;

	while (!srv->stopping) {
		if (unlikely(!t->cur)) {
			t->cur = dev_req_new(t);
			if (!t->cur) {
				server_fail(srv, -ENOMEM, "no request buffer");
				break;
			}
		}
		dev = t->cur;
		len = read(t->fd, dev->in, dev->in_size);
		if (unlikely(len < 0)) {
			/* ENOENT: a request was taken back just now */
			if (errno == EINTR || errno == EAGAIN || errno == ENOENT)
				continue;
			/* ENODEV: unmounted; ECONNABORTED: aborted */
			if (errno == ENODEV || errno == ECONNABORTED)
				uring_over(srv);
			else
				server_fail(srv, -errno, "reading /dev/fuse");
			break;
		}
		req = &dev->req;
		op_size = proto_op_size(req->in->opcode, srv->setxattr_ext);
		if (unlikely(op_size > len - sizeof(*req->in)))
			op_size = len - sizeof(*req->in);
		req->data = (const char *)req->op + op_size;
		req->data_len = len - sizeof(*req->in) - op_size;
		server_dispatch(req);
	}
}

static void dev_free(struct server_thread *st)
{
	struct dev_thread *t = (struct dev_thread *)st;

	dev_req_free(t->cur);
	if (t->fd >= 0 && t->fd != st->srv->fd)
		close(t->fd);
	free(t);
}

static struct dev_thread *dev_thread_new(struct server *srv)
{
	struct dev_thread *t = calloc(1, sizeof(*t));

	if (!t) {
		server_set_error(-ENOMEM, "cannot start a thread");
		return NULL;
	}
	t->fd = srv->fd;
	t->t.transport = SERVER_DEV;
	t->t.run = dev_run;
	t->t.reply = dev_reply;
	t->t.defer = dev_defer;
	t->t.forget = dev_forget;
	t->t.free = dev_free;
	server_add_thread(srv, &t->t);
	return t;
}

static int dev_clone(struct dev_thread *t)
{
	__u32 master = t->t.srv->fd;
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return server_set_error(-errno, "cannot open /dev/fuse");
	t->fd = fd;
	if (ioctl(fd, FUSE_DEV_IOC_CLONE, &master))
		return server_set_error(-errno, "cannot clone /dev/fuse");
	return 0;
}

/* All of the threads that options say; start: now, not by server_start() */
static int dev_add_threads(struct server *srv, bool start)
{
	unsigned int i, nr = srv->opts.nr_threads;
	struct dev_thread *t;
	cpu_set_t cpus;
	int ret;

	if (!nr)
		nr = sched_getaffinity(0, sizeof(cpus), &cpus) ?
		     sysconf(_SC_NPROCESSORS_ONLN) : CPU_COUNT(&cpus);
	for (i = 0; i < nr; i++) {
		t = dev_thread_new(srv);
		if (!t)
			return -ENOMEM;
		/*
		 * What was read from a clone ends with an error when the clone
		 * is closed.  What was read from the holder's descriptor stays,
		 * to be sent again.
		 */
		if (i && !srv->opts.no_clone && !srv->opts.keep) {
			ret = dev_clone(t);
			if (ret)
				return ret;
		}
		if (start) {
			ret = server_start_thread(&t->t);
			if (ret)
				return ret;
		}
	}
	return 0;
}

int dev_setup(struct server *srv)
{
	srv->payload_max = srv->opts.max_write ? srv->opts.max_write : 1 << 20;
	return dev_add_threads(srv, false);
}

int dev_start_readers(struct server *srv)
{
	int ret = srv->has_readers ? 0 : dev_add_threads(srv, true);

	if (!ret)
		srv->has_readers = true;
	return ret;
}

int dev_add_reader(struct server *srv)
{
	return dev_thread_new(srv) ? 0 : -ENOMEM;
}

int dev_start_reader(struct server *srv)
{
	struct dev_thread *t = dev_thread_new(srv);

	return t ? server_start_thread(&t->t) : -ENOMEM;
}
