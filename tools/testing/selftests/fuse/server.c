// SPDX-License-Identifier: GPL-2.0
/*
 * The server: mounts, answers FUSE_INIT, finds the handler of a request, and
 * has the threads and the requests that wait.  See server.h.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "internal.h"
#include "util.h"

static char error_text[SERVER_ERROR_LEN];

const char *server_error(void)
{
	return error_text;
}

/* Keeps the sentence for server_error(); returns err, a negative errno */
int server_set_error(int err, const char *what)
{
	snprintf(error_text, sizeof(error_text), "%s: %s", what,
		 strerror(-err));
	return err;
}

/* The same for what is refused here */
int server_refuse(const char *what)
{
	snprintf(error_text, sizeof(error_text), "%s", what);
	return -EINVAL;
}

const char *server_transport_name(enum server_transport transport)
{
	static const char * const names[SERVER_TRANSPORTS] = {
		[SERVER_DEV] = "dev",
		[SERVER_RING] = "ring",
		[SERVER_USER] = "user",
	};

	return names[transport];
}

/* Requests */

enum server_transport server_req_by(const struct server_req *req)
{
	return req->thread->transport;
}

void server_dispatch(struct server_req *req)
{
	struct server *srv = req->srv;
	__u32 opcode = req->in->opcode;

	if (unlikely(opcode >= PROTO_NR_OPS)) {
		server_reply_err(req, PROTO_NO_SUCH_OP);
		return;
	}
	req->thread->count[opcode]++;
	if (unlikely(srv->opts.debug))
		fprintf(stderr, "%s %llu: %s node %#llx, %u bytes\n",
			server_transport_name(req->thread->transport),
			(unsigned long long)req->in->unique,
			proto_op_name(opcode),
			(unsigned long long)req->in->nodeid, req->data_len);
	if (srv->opts.hook && srv->opts.hook(req, srv->opts.hook_arg))
		return;
	srv->ops[opcode](req);
}

static void undefer(struct server_req *req)
{
	*req->pprev = req->next;
	if (req->next)
		req->next->pprev = req->pprev;
	req->deferred = false;
}

static void finish(struct server_req *req, int err, size_t len)
{
	if (unlikely(req->deferred)) {
		struct server *srv = req->srv;

		pthread_mutex_lock(&srv->defer_lock);
		undefer(req);
		pthread_mutex_unlock(&srv->defer_lock);
	}
	req->thread->reply(req, err, len);
}

void server_reply_err(struct server_req *req, int err)
{
	finish(req, err, 0);
}

void server_reply(struct server_req *req, size_t len)
{
	finish(req, 0, len);
}

void server_reply_buf(struct server_req *req, const void *buf, size_t len)
{
	if (unlikely(len > req->out_max)) {
		finish(req, -EIO, 0);
		return;
	}
	memcpy(req->out, buf, len);
	finish(req, 0, len);
}

static bool wants_no_reply(__u32 opcode)
{
	return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET ||
	       opcode == FUSE_INTERRUPT || opcode == FUSE_NOTIFY_REPLY;
}

/*
 * Nothing is written to /dev/fuse for these.  On the ring a commit is still
 * due, with an empty header, for that is what gives the slot back.
 */
void server_reply_none(struct server_req *req)
{
	finish(req, 0, 0);
}

bool server_defer(struct server_req *req,
		  bool (*cancel)(struct server_req *req))
{
	struct server *srv = req->srv;
	__u64 unique = req->in->unique & ~FUSE_UNIQUE_RESEND;
	unsigned int i;

	pthread_mutex_lock(&srv->defer_lock);
	for (i = 0; cancel && i < ARRAY_SIZE(srv->early); i++)
		if (srv->early[i] == unique) {
			srv->early[i] = 0;
			pthread_mutex_unlock(&srv->defer_lock);
			return false;
		}
	req->cancel = cancel;
	req->deferred = true;
	req->next = srv->deferred;
	req->pprev = &srv->deferred;
	if (req->next)
		req->next->pprev = &req->next;
	srv->deferred = req;
	req->thread->defer(req);
	pthread_mutex_unlock(&srv->defer_lock);
	return true;
}

/*
 * An interrupt can overtake the request that it is about: another thread may
 * have that in its hands, not deferred yet.  So an interrupt that finds no
 * request is remembered; most of them were late and will never be asked for,
 * which does no harm because unique numbers are not used twice.
 */
static void op_interrupt(struct server_req *req)
{
	const struct fuse_interrupt_in *arg = req->op;
	struct server *srv = req->srv;
	__u64 unique = arg->unique & ~FUSE_UNIQUE_RESEND;
	bool taken = false;
	struct server_req *r;

	pthread_mutex_lock(&srv->defer_lock);
	for (r = srv->deferred; r; r = r->next)
		if ((r->in->unique & ~FUSE_UNIQUE_RESEND) == unique)
			break;
	if (r) {
		taken = r->cancel && r->cancel(r);
		if (taken)
			undefer(r);
	} else {
		srv->early[srv->early_pos++ % ARRAY_SIZE(srv->early)] = unique;
	}
	pthread_mutex_unlock(&srv->defer_lock);

	if (taken)
		server_reply_err(r, -EINTR);
	server_reply_none(req);
}

static void op_unknown(struct server_req *req)
{
	if (wants_no_reply(req->in->opcode))
		server_reply_none(req);
	else
		server_reply_err(req, PROTO_NO_SUCH_OP);
}

static void op_ok(struct server_req *req)
{
	server_reply_err(req, 0);
}

/* FUSE_INIT */

void server_fill_init(const struct server_opts *opts,
		      const struct fuse_init_in *in,
		      struct fuse_init_out *out, __u32 payload_max)
{
	__u64 offered = in->flags, flags;
	__u32 page = sysconf(_SC_PAGESIZE);

	/* Without FUSE_INIT_EXT the kernel does not send flags2 at all */
	if (offered & FUSE_INIT_EXT)
		offered |= (__u64)in->flags2 << 32;
	flags = SERVER_INIT_DEFAULT | opts->init_set;
	/* To say so is a promise: requests then wait for the ring */
	if (opts->transport == SERVER_USER)
		flags |= FUSE_OVER_IO_URING;
	flags &= ~opts->init_clear;
	flags &= offered;

	*out = (struct fuse_init_out){
		.major = FUSE_KERNEL_VERSION,
		.minor = min_t(__u32, in->minor, FUSE_KERNEL_MINOR_VERSION),
		.max_readahead = in->max_readahead,
		.flags = flags,
		.flags2 = flags >> 32,
		.max_background = opts->max_background,
		.congestion_threshold = opts->congestion_threshold,
		.max_write = opts->max_write ? opts->max_write : 1 << 20,
		.time_gran = opts->time_gran ? opts->time_gran : 1,
		.max_stack_depth = flags & FUSE_PASSTHROUGH ? 1 : 0,
	};
	if (opts->max_readahead && opts->max_readahead < out->max_readahead)
		out->max_readahead = opts->max_readahead;
	if (out->max_write > payload_max)
		out->max_write = payload_max;
	/*
	 * Without FUSE_MAX_PAGES the kernel stays at 32 pages, whatever
	 * max_write says.
	 */
	out->max_pages = (out->max_write + page - 1) / page;
}

static void negotiated(struct server *srv, const struct fuse_init_in *in,
		       const struct fuse_init_out *out)
{
	srv->init_in = *in;
	srv->init_out = *out;
	if (srv->opts.fs->init)
		srv->opts.fs->init(srv->opts.fs, &srv->init_out);
	srv->setxattr_ext = srv->init_out.flags & FUSE_SETXATTR_EXT;
}

static void op_init(struct server_req *req)
{
	const struct fuse_init_in *in = req->op;
	struct server *srv = req->srv;
	struct fuse_init_out out;

	if (in->major != FUSE_KERNEL_VERSION || in->minor < 36) {
		server_fail(srv, -EPROTO,
			    "the kernel's FUSE protocol is older than 7.36");
		server_reply_err(req, -EPROTO);
		return;
	}
	server_fill_init(&srv->opts, in, &out, srv->payload_max);
	negotiated(srv, in, &out);
	if (srv->opts.keep) {
		/*
		 * If this server dies before the kernel has the answer, the
		 * next one gets INIT again, and will say the same.
		 */
		srv->opts.keep->init_in = srv->init_in;
		srv->opts.keep->init_out = srv->init_out;
		__atomic_store_n(&srv->opts.keep->inited, true,
				 __ATOMIC_RELEASE);
	}
	server_reply_buf(req, &srv->init_out, sizeof(srv->init_out));

	pthread_mutex_lock(&srv->lock);
	srv->init_done = true;
	pthread_cond_broadcast(&srv->cond);
	pthread_mutex_unlock(&srv->lock);
}

/* Mounting */

int server_mount(const char *mountpoint, const char *opts,
		 unsigned long flags)
{
	char data[1024];
	int fd, len, ret;

	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return server_set_error(-errno, "cannot open /dev/fuse");
	len = snprintf(data, sizeof(data),
		       "fd=%d,rootmode=40000,user_id=%u,group_id=%u%s%s", fd,
		       getuid(), getgid(), opts && *opts ? "," : "",
		       opts ? opts : "");
	if (len >= (int)sizeof(data))
		ret = server_set_error(-E2BIG, "mount options are too long");
	else if (mount("fuse_uringd", mountpoint, "fuse", flags, data))
		ret = server_set_error(-errno, "cannot mount");
	else
		return fd;
	close(fd);
	return ret;
}

/* Threads */

/*
 * Breaks into a blocking system call of a thread that shall leave.  It has
 * nothing to do, but must not be SIG_IGN for that.
 */
static void kicked(int sig)
{
	(void)sig;
}

static void *thread_main(void *arg)
{
	struct server_thread *t = arg;
	struct server *srv = t->srv;

	if (t->cpus &&
	    pthread_setaffinity_np(pthread_self(), t->cpus_size, t->cpus) &&
	    srv->opts.debug)
		fprintf(stderr, "a thread cannot run on its CPUs\n");
	t->run(t);

	pthread_mutex_lock(&srv->lock);
	t->ended = true;
	if (!--srv->nr_live) {
		__u64 one = 1;

		if (write(srv->ended_fd, &one, sizeof(one)) < 0)
			perror("eventfd");
		if (!srv->init_done && !srv->error)
			srv->error = server_set_error(-ENOTCONN,
						      "unmounted before INIT");
	}
	pthread_cond_broadcast(&srv->cond);
	pthread_mutex_unlock(&srv->lock);
	return NULL;
}

void server_add_thread(struct server *srv, struct server_thread *t)
{
	t->srv = srv;
	pthread_mutex_lock(&srv->lock);
	t->next = srv->threads;
	srv->threads = t;
	pthread_mutex_unlock(&srv->lock);
}

int server_start_thread(struct server_thread *t)
{
	struct server *srv = t->srv;
	sigset_t all, old;
	int ret;

	/* Signals are for the threads of whoever uses the server */
	sigfillset(&all);
	sigdelset(&all, SIGRTMIN);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_mutex_lock(&srv->lock);
	ret = pthread_create(&t->id, NULL, thread_main, t);
	if (!ret) {
		t->started = true;
		srv->nr_live++;
	}
	pthread_mutex_unlock(&srv->lock);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret ? server_set_error(-ret, "cannot start a thread") : 0;
}

void server_fail(struct server *srv, int err, const char *what)
{
	pthread_mutex_lock(&srv->lock);
	if (!srv->error)
		srv->error = server_set_error(err, what);
	pthread_cond_broadcast(&srv->cond);
	pthread_mutex_unlock(&srv->lock);
}

static void threads_stop(struct server *srv)
{
	struct server_thread *t;
	struct timespec until;

	srv->stopping = true;
	pthread_mutex_lock(&srv->lock);
	while (srv->nr_live) {
		/*
		 * The signal is lost on a thread that is just about to enter
		 * its system call, so do it until it helps.
		 */
		for (t = srv->threads; t; t = t->next)
			if (t->started && !t->ended)
				pthread_kill(t->id, SIGRTMIN);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 2000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
		pthread_cond_timedwait(&srv->cond, &srv->lock, &until);
	}
	pthread_mutex_unlock(&srv->lock);
	for (t = srv->threads; t; t = t->next)
		if (t->started)
			pthread_join(t->id, NULL);
}

static void server_free(struct server *srv)
{
	struct server_req *req, *next;
	struct server_thread *t;

	for (req = srv->deferred; req; req = next) {
		next = req->next;
		req->thread->forget(req);
	}
	while ((t = srv->threads)) {
		srv->threads = t->next;
		free(t->cpus);
		t->free(t);
	}
	ring_free(srv);
	if (srv->fd >= 0)
		close(srv->fd);
	close(srv->ended_fd);
	pthread_cond_destroy(&srv->cond);
	pthread_mutex_destroy(&srv->lock);
	pthread_mutex_destroy(&srv->defer_lock);
	free(srv->mountpoint);
	free(srv);
}

/* Coming up and going down */

static int check_opts(const struct server_opts *opts)
{
	const char *what = NULL;

	if (!opts->mountpoint || !opts->fs)
		what = "a server needs a mount point and a filesystem";
	else if (opts->max_write && opts->max_write < 4096)
		what = "max_write is at least 4096 bytes";
	else if (opts->keep && !opts->fs->survives)
		what = "this filesystem does not outlive its server";
	else if (opts->transport == SERVER_DEV)
		return 0;
	else if (opts->queue_depth > FUSE_URING_MAX_QUEUE_DEPTH)
		what = "a queue cannot be that deep";
	else if (opts->transport == SERVER_USER)
		what = opts->payload_size && opts->payload_size < 4096 ?
		       "the payload size is at least 4096 bytes" : NULL;
	else if (opts->queue_depth && opts->nr_background > opts->queue_depth)
		what = "more background requests than slots in a queue";
	else if (opts->nr_control > FUSE_URING_MAX_CONTROL)
		what = "a queue cannot have that many control slots";
	else if (opts->payload_size && opts->payload_size < FUSE_URING_MIN_PAYLOAD)
		what = "the payload size is at least 68 KiB";
	return what ? server_refuse(what) : 0;
}

/* A server for another one that has died */
static int take_over(struct server *srv)
{
	const struct server_keep *keep = srv->opts.keep;
	int ret;

	/* INIT does not come again, unless it has not been answered yet */
	if (__atomic_load_n(&keep->inited, __ATOMIC_ACQUIRE)) {
		negotiated(srv, &keep->init_in, &keep->init_out);
		srv->init_done = true;
	}
	/*
	 * What the other one had in its hands.  Over /dev/fuse this must come
	 * before the first read(2), for the kernel cannot tell that from ours.
	 */
	ret = server_notify(srv, FUSE_NOTIFY_RESEND, NULL, 0);
	return ret ? server_set_error(ret, "cannot take over") : 0;
}

/* What is no reason not to be served: there is no such ring here, or not for us */
static bool can_fall_back(int err)
{
	return err == -EOPNOTSUPP || err == -ENOTTY || err == -EPERM ||
		err == -EACCES || err == -ENOBUFS;
}

/* Returns whether the server goes on over /dev/fuse, and says so then */
bool server_fall_back(struct server *srv, int err)
{
	if (!srv->opts.fall_back || !can_fall_back(err))
		return false;
	fprintf(stderr, "%s; going on over /dev/fuse\n", server_error());
	srv->opts.transport = SERVER_DEV;
	return true;
}

void server_thread_ready(struct server *srv)
{
	pthread_mutex_lock(&srv->lock);
	srv->nr_starting--;
	pthread_cond_broadcast(&srv->cond);
	pthread_mutex_unlock(&srv->lock);
}

static int transport_setup(struct server *srv)
{
	int ret = 0;

	if (srv->opts.transport != SERVER_DEV)
		ret = uring_probe();
	if (!ret && srv->opts.transport == SERVER_RING)
		ret = ring_setup(srv);
	else if (!ret && srv->opts.transport == SERVER_USER)
		ret = user_setup(srv);
	if (ret && !server_fall_back(srv, ret))
		return ret;
	if (srv->opts.transport != SERVER_DEV)
		return 0;
	ring_free(srv);
	return dev_setup(srv);
}

struct server *server_start(const struct server_opts *opts)
{
	if (!opts->keep)
		return server_begin(opts, -1);
	errno = -server_refuse("a server with a holder is a process");
	return NULL;
}

struct server *server_begin(const struct server_opts *opts, int dev_fd)
{
	static const struct sigaction kick = { .sa_handler = kicked };
	struct server_thread *t;
	struct server *srv;
	unsigned int i;
	bool user;
	int ret;

	ret = check_opts(opts);
	if (ret)
		goto out;
	srv = calloc(1, sizeof(*srv));
	if (!srv) {
		ret = server_set_error(-ENOMEM, "cannot start");
		goto out;
	}
	srv->opts = *opts;
	srv->fd = -1;
	pthread_mutex_init(&srv->lock, NULL);
	pthread_mutex_init(&srv->defer_lock, NULL);
	pthread_cond_init(&srv->cond, NULL);
	srv->ended_fd = eventfd(0, EFD_CLOEXEC);
	sigaction(SIGRTMIN, &kick, NULL);

	for (i = 0; i < PROTO_NR_OPS; i++)
		srv->ops[i] = opts->fs->ops[i] ? opts->fs->ops[i] : op_unknown;
	srv->ops[FUSE_INIT] = op_init;
	srv->ops[FUSE_INTERRUPT] = op_interrupt;
	if (!opts->fs->ops[FUSE_DESTROY])
		srv->ops[FUSE_DESTROY] = op_ok;

	/* When it is mounted already, to look at the path would be a request */
	srv->mountpoint = dev_fd < 0 ? realpath(opts->mountpoint, NULL) :
				       strdup(opts->mountpoint);
	if (!srv->mountpoint) {
		ret = server_set_error(-errno, opts->mountpoint);
		goto out_free;
	}
	srv->fd = dev_fd;
	if (dev_fd < 0)
		srv->fd = server_mount(srv->mountpoint, opts->mount_opts,
				       opts->mount_flags);
	if (srv->fd < 0) {
		ret = srv->fd;
		goto out_free;
	}

	ret = opts->fs->begin ? opts->fs->begin(opts->fs) : 0;
	if (ret)
		server_set_error(ret, "the filesystem cannot begin");
	else
		ret = transport_setup(srv);
	if (!ret && opts->keep && opts->keep->starts > 1)
		ret = take_over(srv);
	/* Slots first, so that their requests do not come over /dev/fuse */
	user = srv->opts.transport == SERVER_USER;
	if (!ret && user && srv->init_done) {
		ret = user_start(srv);
		user = false;
	}
	for (t = srv->threads; t && !ret; t = t->next)
		if (!t->started)
			ret = server_start_thread(t);
	if (ret)
		goto out_umount;

	pthread_mutex_lock(&srv->lock);
	while ((!srv->init_done || srv->nr_starting) && !srv->error)
		pthread_cond_wait(&srv->cond, &srv->lock);
	ret = srv->error;
	pthread_mutex_unlock(&srv->lock);
	if (!ret && user)
		ret = user_start(srv);
	/*
	 * With control slots, nothing comes by /dev/fuse.  Otherwise only now:
	 * before INIT has come by the ring, a reader could catch it there.
	 */
	if (!ret && ring_needs_reader(srv))
		ret = dev_start_reader(srv);
	if (!ret)
		return srv;

out_umount:
	/* A holder does that, after it has closed the connection */
	if (dev_fd < 0)
		umount2(srv->mountpoint, MNT_DETACH);
	threads_stop(srv);
out_free:
	server_free(srv);
out:
	errno = -ret;
	return NULL;
}

int server_stop(struct server *srv)
{
	bool live;
	int ret = 0;

	pthread_mutex_lock(&srv->lock);
	live = srv->nr_live;
	pthread_mutex_unlock(&srv->lock);

	/* No thread left: the mount has gone, what is there now is not ours */
	if (live && umount2(srv->mountpoint, UMOUNT_NOFOLLOW)) {
		if (errno == EBUSY)
			ret = -EBUSY;
		umount2(srv->mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW);
	}
	threads_stop(srv);
	if (srv->opts.at_exit)
		srv->opts.at_exit(srv);
	server_free(srv);
	return ret;
}

void server_wait(struct server *srv)
{
	pthread_mutex_lock(&srv->lock);
	while (srv->nr_live)
		pthread_cond_wait(&srv->cond, &srv->lock);
	pthread_mutex_unlock(&srv->lock);
}

bool server_wait_signal(struct server *srv, const sigset_t *set)
{
	struct pollfd pfd[2] = {
		{ .fd = srv->ended_fd, .events = POLLIN },
		{ .fd = signalfd(-1, set, SFD_CLOEXEC), .events = POLLIN },
	};

	while (poll(pfd, 2, -1) < 0 && errno == EINTR)
		;
	if (pfd[1].fd >= 0)
		close(pfd[1].fd);
	return pfd[0].revents;
}

/* Small questions */

void fs_free(struct server_fs *fs)
{
	if (fs)
		fs->free(fs);
}

int server_dev_fd(struct server *srv)
{
	return srv->fd;
}

const struct server_opts *server_options(struct server *srv)
{
	return &srv->opts;
}

const struct fuse_init_in *server_init_in(struct server *srv)
{
	return &srv->init_in;
}

const struct fuse_init_out *server_init_out(struct server *srv)
{
	return &srv->init_out;
}

const struct fuse_uring_setup *server_ring_setup(struct server *srv)
{
	return ring_granted(srv);
}

__u64 server_count(struct server *srv, enum server_transport by,
		   __u32 opcode)
{
	struct server_thread *t;
	__u64 sum = 0;

	pthread_mutex_lock(&srv->lock);
	for (t = srv->threads; t && opcode < PROTO_NR_OPS; t = t->next)
		if (t->transport == by)
			sum += __atomic_load_n(&t->count[opcode],
					       __ATOMIC_RELAXED);
	pthread_mutex_unlock(&srv->lock);
	return sum;
}

/* Notifications */

struct fuse_out_header *server_notify_msg(int code, const void *payload,
					  size_t len)
{
	struct fuse_out_header *msg = malloc(sizeof(*msg) + len);

	/* unique 0 says that this is no reply, and error what it is */
	if (msg) {
		msg->len = sizeof(*msg) + len;
		msg->error = code;
		msg->unique = 0;
		if (len)
			memcpy(msg + 1, payload, len);
	}
	return msg;
}

int server_notify(struct server *srv, int code, const void *payload,
		  size_t len)
{
	struct fuse_out_header *msg = server_notify_msg(code, payload, len);
	ssize_t ret;

	if (!msg)
		return -ENOMEM;
	if (ring_notifies(srv)) {
		ret = ring_notify(srv, msg);
	} else {
		ret = write(srv->fd, msg, msg->len);
		if (ret < 0)
			ret = -errno;
	}
	if (ret >= 0)
		ret = (size_t)ret == msg->len ? 0 : -EIO;
	free(msg);
	return ret;
}

int server_notify_start(struct server_req *req, int code, const void *payload,
			size_t len, __u64 tag)
{
	const struct server_opts *opts = &req->srv->opts;
	struct fuse_out_header *msg = server_notify_msg(code, payload, len);
	ssize_t ret;

	if (!msg)
		return -ENOMEM;
	if (req->hdr && ring_notifies(req->srv))
		return ring_notify_start(req, msg, tag);
	ret = write(req->srv->fd, msg, msg->len);
	if (ret < 0)
		ret = -errno;
	free(msg);
	if (opts->raw_done)
		opts->raw_done(tag, ret, opts->hook_arg);
	return 0;
}
