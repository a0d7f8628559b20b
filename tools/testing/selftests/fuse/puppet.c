// SPDX-License-Identifier: GPL-2.0
/* A server that is led by the test, see puppet.h. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
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
#include <sys/uio.h>
#include <unistd.h>

#include "proto.h"
#include "puppet.h"

#define BUFFER_SIZE	(256UL * getpagesize() + (1 << 17))

static __u64 slot_tag(unsigned int qid, unsigned int slot)
{
	return (__u64)qid << 16 | slot;
}

static __u64 command_tag(const struct fuse_uring_slot_cmd *cmd)
{
	return slot_tag(cmd->qid, cmd->slot);
}

static bool puppet_is_user(const struct puppet *p)
{
	return p->opt.transport == TRANSPORT_USER;
}

int puppet_open(struct puppet *p, const struct puppet_options *opt)
{
	memset(p, 0, sizeof(*p));
	p->opt = *opt;
	p->conn = -1;
	p->buf_size = BUFFER_SIZE;
	p->buf = malloc(p->buf_size);
	p->fd = open(opt->device ? opt->device : "/dev/fuse",
		     O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (p->fd < 0 || !p->buf)
		return -errno;
	return 0;
}

int puppet_mount(struct puppet *p)
{
	const char *dev = p->opt.blkdev;
	char data[128];

	snprintf(data, sizeof(data),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", p->fd);
	if (mount(dev ? dev : "puppet", TEST_MNT, dev ? "fuseblk" : "fuse", 0,
		  data))
		return -errno;
	p->conn = conn_number(TEST_MNT);
	return p->conn < 0 ? p->conn : 0;
}

/*
 * What the kernel would grant, as far as it is needed: every slot has pages of
 * its own for the header and for the payload.
 */
static int puppet_setup_user(struct puppet *p)
{
	struct fuse_uring_setup *s = &p->setup;
	__u32 cpus = sysconf(_SC_NPROCESSORS_CONF), page = getpagesize();

	*s = (struct fuse_uring_setup){
		.nr_queues = p->opt.nr_queues ? p->opt.nr_queues : cpus,
		.queue_depth = p->opt.depth ? p->opt.depth : 2,
		.payload_size = p->opt.payload ? p->opt.payload : 1 << 20,
		.header_stride = page,
	};
	s->payload_offset = s->queue_depth * page;
	s->mmap_size = s->payload_offset +
		       (__u64)s->queue_depth * s->payload_size;
	return 0;
}

int puppet_setup(struct puppet *p)
{
	if (puppet_is_user(p))
		return puppet_setup_user(p);
	memset(&p->setup, 0, sizeof(p->setup));
	p->setup.size = sizeof(p->setup);
	p->setup.nr_queues = p->opt.nr_queues;
	p->setup.queue_depth = p->opt.depth;
	p->setup.nr_background = p->opt.background;
	p->setup.payload_size = p->opt.payload;
	p->setup.small_size = p->opt.small;
	p->setup.pool_size = p->opt.pool;
	if (p->opt.cpus) {
		p->setup.cpus = (uintptr_t)p->opt.cpus;
		p->setup.cpus_len = sizeof(*p->opt.cpus);
	}
	p->setup.nr_control = p->opt.control;
	return ioctl(p->fd, FUSE_DEV_IOC_URING_SETUP, &p->setup) ? -errno : 0;
}

int puppet_map(struct puppet *p)
{
	unsigned int qid;

	p->map = calloc(p->setup.nr_queues, sizeof(*p->map));
	if (!p->map)
		return -ENOMEM;
	for (qid = 0; qid < p->setup.nr_queues; qid++) {
		bool user = puppet_is_user(p);
		/* A child that answers must have the same memory. */
		char *map = mmap(NULL, p->setup.mmap_size,
				 PROT_READ | PROT_WRITE,
				 user ? MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE :
					MAP_SHARED,
				 user ? -1 : p->fd, qid * p->setup.queue_stride);

		if (map == MAP_FAILED)
			return -errno;
		p->map[qid] = map;
	}
	return 0;
}

int puppet_uring(struct puppet *p)
{
	unsigned int slots = p->setup.queue_depth + p->setup.nr_control;
	unsigned int want = p->setup.nr_queues * slots + 8;
	struct io_uring_params params = {
		.flags = p->opt.uring_flags | IORING_SETUP_CQSIZE,
		.sq_entries = 64,
		.cq_entries = want < 256 ? 256 : want,
	};
	int ret;

	if (puppet_is_user(p))
		params.flags |= IORING_SETUP_SQE128;
	ret = io_uring_queue_init_params(64, &p->uring, &params);
	if (ret)
		return ret;
	p->have_uring = true;
	/* Requesters must not keep it. */
	return io_uring_ring_dontfork(&p->uring);
}

int puppet_arm_slots(struct puppet *p, unsigned int qid, unsigned int first,
		     unsigned int nr)
{
	struct fuse_uring_slot_cmd cmd = { .qid = qid, .slot = first };
	int ret = 0;

	for (; cmd.slot < first + nr && !ret; cmd.slot++)
		ret = puppet_is_user(p) ?
		      puppet_register(p, qid, cmd.slot) :
		      puppet_command(p, FUSE_URING_REQ_FETCH, &cmd);
	return ret;
}

int puppet_arm_queue(struct puppet *p, unsigned int qid)
{
	return puppet_arm_slots(p, qid, 0,
				p->setup.queue_depth + p->setup.nr_control);
}

int puppet_arm(struct puppet *p)
{
	unsigned int qid;
	int ret = 0;

	for (qid = 0; qid < p->setup.nr_queues && !ret; qid++)
		ret = puppet_arm_queue(p, qid);
	/* This one says that it has done what it may do later. */
	if (!ret && (p->opt.uring_flags & IORING_SETUP_SQPOLL) &&
	    !ring_queues_stat_becomes(p->conn, "live", p->setup.nr_queues))
		ret = -ETIMEDOUT;
	return ret;
}

int puppet_init(struct puppet *p)
{
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = p->opt.max_readahead,
		.max_background = p->opt.max_background,
		.max_write = p->opt.max_write ? p->opt.max_write : 65536,
		.max_pages = 256,
		.flags = p->opt.init_flags | FUSE_INIT_EXT | FUSE_MAX_PAGES,
		.flags2 = p->opt.init_flags >> 32,
		.time_gran = 1,
	};
	static struct puppet_req req;
	int ret;

	if (puppet_is_user(p)) {
		unsigned int pages = p->setup.payload_size / getpagesize();

		if (!p->opt.no_promise)
			out.flags2 |= FUSE_OVER_IO_URING >> 32;
		if (pages < out.max_pages)
			out.max_pages = pages;
	}
	ret = puppet_until(p, &req, FUSE_INIT);
	if (ret)
		return ret;
	p->init_in = req.init;
	return puppet_reply(p, &req, 0, &out, sizeof(out));
}

int puppet_ring(struct puppet *p)
{
	int ret;

	if (!transport_rings(p->opt.transport))
		return 0;
	ret = puppet_map(p);
	if (!ret)
		ret = puppet_uring(p);
	return ret ? ret : puppet_arm(p);
}

int puppet_begin(struct puppet *p)
{
	int ret;

	if (puppet_is_user(p)) {
		ret = puppet_init(p);
		return ret ? ret : puppet_ring(p);
	}
	ret = puppet_ring(p);
	return ret ? ret : puppet_init(p);
}

int puppet_start(struct puppet *p, const struct puppet_options *opt)
{
	int ret = puppet_open(p, opt);

	if (!ret)
		ret = puppet_mount(p);
	if (!ret && transport_rings(opt->transport))
		ret = puppet_setup(p);
	return ret ? ret : puppet_begin(p);
}

void puppet_close_dev(struct puppet *p)
{
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
}

void puppet_close_uring(struct puppet *p)
{
	if (p->have_uring)
		io_uring_queue_exit(&p->uring);
	p->have_uring = false;
	p->kept_nr = 0;
}

void puppet_unmap(struct puppet *p)
{
	unsigned int qid;

	for (qid = 0; p->map && qid < p->setup.nr_queues; qid++)
		if (p->map[qid])
			munmap(p->map[qid], p->setup.mmap_size);
	free(p->map);
	p->map = NULL;
}

void puppet_stop(struct puppet *p)
{
	if (p->conn >= 0)
		conn_abort(p->conn);
	puppet_close_uring(p);
	puppet_close_dev(p);
	puppet_unmap(p);
	if (p->conn >= 0)
		umount2(TEST_MNT, MNT_DETACH);
	free(p->buf);
	free(p->kept);
	memset(p, 0, sizeof(*p));
	p->conn = -1;
	p->fd = -1;
}

struct fuse_uring_req_header *puppet_header(struct puppet *p, unsigned int qid,
					    unsigned int slot)
{
	return (void *)(p->map[qid] + p->setup.header_offset +
			(size_t)slot * p->setup.header_stride);
}

struct fuse_uring_slot_header *puppet_slot_header(struct puppet *p,
						  unsigned int qid,
						  unsigned int slot)
{
	return (void *)puppet_header(p, qid, slot);
}

char *puppet_payload(struct puppet *p, unsigned int qid, unsigned int slot)
{
	return p->map[qid] + p->setup.payload_offset +
	       (size_t)slot * p->setup.payload_size;
}

/* An empty command, or NULL. */
static struct io_uring_sqe *puppet_sqe(struct puppet *p, int fd, __u32 cmd_op,
				       __u64 tag)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&p->uring);
	bool large = p->uring.flags & IORING_SETUP_SQE128;

	if (!sqe)
		return NULL;
	memset(sqe, 0, sizeof(*sqe) << large);
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->flags = p->opt.sqe_flags;
	sqe->fd = fd;
	sqe->cmd_op = cmd_op;
	sqe->user_data = tag;
	return sqe;
}

static int puppet_submit(struct puppet *p)
{
	int ret = io_uring_submit(&p->uring);

	return ret < 0 ? ret : 0;
}

int puppet_command_fd(struct puppet *p, int fd, __u32 cmd_op,
		      const struct fuse_uring_slot_cmd *cmd,
		      unsigned int sqe_flags)
{
	struct io_uring_sqe *sqe = puppet_sqe(p, fd, cmd_op, command_tag(cmd));

	if (!sqe)
		return -EBUSY;
	sqe->flags = sqe_flags;
	memcpy(sqe->cmd, cmd, sizeof(*cmd));
	return puppet_submit(p);
}

int puppet_user_command(struct puppet *p, __u32 cmd_op,
			const struct fuse_uring_cmd_req *cmd,
			unsigned int slot, const void *addr, __u32 len)
{
	struct io_uring_sqe *sqe = puppet_sqe(p, p->fd, cmd_op,
					      slot_tag(cmd->qid, slot));

	if (!sqe)
		return -EBUSY;
	sqe->addr = (uintptr_t)addr;
	sqe->len = len;
	/* SQEs of 64 bytes end in the middle of it. */
	memcpy(sqe->cmd, cmd, p->uring.flags & IORING_SETUP_SQE128 ?
			      sizeof(*cmd) : 16);
	return puppet_submit(p);
}

int puppet_register(struct puppet *p, unsigned int qid, unsigned int slot)
{
	struct fuse_uring_req_header *head = puppet_header(p, qid, slot);
	struct fuse_uring_cmd_req cmd = { .qid = qid };
	/* In the page of the header: a thread may submit it later. */
	struct iovec *iov = (struct iovec *)((char *)head + 512);

	iov[0].iov_base = head;
	iov[0].iov_len = sizeof(*head);
	iov[1].iov_base = puppet_payload(p, qid, slot);
	iov[1].iov_len = p->setup.payload_size;
	return puppet_user_command(p, FUSE_IO_URING_CMD_REGISTER, &cmd, slot,
				   iov, 2);
}

int puppet_command(struct puppet *p, __u32 cmd_op,
		   const struct fuse_uring_slot_cmd *cmd)
{
	return puppet_command_fd(p, p->fd, cmd_op, cmd, 0);
}

static bool puppet_defers(const struct puppet *p)
{
	return p->have_uring &&
	       (p->opt.uring_flags & IORING_SETUP_DEFER_TASKRUN);
}

/* Waits for either side; false when the time is over. */
static bool puppet_wait(struct puppet *p, bool dev, __u64 end)
{
	struct pollfd pfd[2] = {
		{ .fd = p->have_uring ? p->uring.ring_fd : -1, .events = POLLIN },
		{ .fd = dev ? p->fd : -1, .events = POLLIN },
	};
	__u64 now = now_ms();
	int ret;

	if (now >= end)
		return false;
	/* A ring that defers its task work does it only when asked to. */
	if (puppet_defers(p)) {
		io_uring_get_events(&p->uring);
		if (end - now > 1)
			end = now + 1;
	}
	ret = poll(pfd, 2, end - now);
	if (pfd[1].revents & POLLERR)
		p->dev_ended = true;
	return ret >= 0 || errno == EINTR;
}

/*
 * Something that ends later: a command of the ring or a thread in write(2).
 * It is freed by puppet_call_end(), or never when the test gives it up.
 */
struct puppet_call {
	int		fd;
	pid_t		tid;		/* of the thread, once it runs */
	bool		ended;
	int		res;
	void		*msg;
	size_t		len;
};

static void call_ended(struct puppet_call *call, int res)
{
	call->res = res;
	__atomic_store_n(&call->ended, true, __ATOMIC_RELEASE);
}

/* A completion that is not of a call. */
static bool puppet_peek_ring(struct puppet *p, struct puppet_cqe *out)
{
	struct io_uring_cqe *cqe;

	while (p->have_uring && !io_uring_peek_cqe(&p->uring, &cqe)) {
		out->res = cqe->res;
		out->tag = cqe->user_data;
		io_uring_cqe_seen(&p->uring, cqe);
		if (!(out->tag & PUPPET_CALL))
			return true;
		call_ended((void *)(uintptr_t)(out->tag & ~PUPPET_CALL),
			   out->res);
	}
	return false;
}

/* Keeps completions of slots for later, and tells the calls about theirs. */
static int puppet_keep(struct puppet *p)
{
	struct puppet_cqe cqe;

	while (puppet_peek_ring(p, &cqe)) {
		if (p->kept_first) {
			memmove(p->kept, p->kept + p->kept_first,
				p->kept_nr * sizeof(*p->kept));
			p->kept_first = 0;
		}
		if (p->kept_nr == p->kept_size) {
			unsigned int size = p->kept_size ? 2 * p->kept_size : 16;
			void *more = realloc(p->kept, size * sizeof(*p->kept));

			if (!more)
				return -errno;
			p->kept = more;
			p->kept_size = size;
		}
		p->kept[p->kept_nr++] = cqe;
	}
	return 0;
}

static bool puppet_peek(struct puppet *p, int *res, __u64 *tag)
{
	struct puppet_cqe cqe;

	if (p->have_uring && p->kept_nr) {
		cqe = p->kept[p->kept_first++];
		if (!--p->kept_nr)
			p->kept_first = 0;
	} else if (!puppet_peek_ring(p, &cqe)) {
		return false;
	}
	*res = cqe.res;
	*tag = cqe.tag;
	return true;
}

int puppet_cqe(struct puppet *p, unsigned int ms)
{
	__u64 tag, end = now_ms() + ms;
	int res;

	for (;;) {
		if (puppet_peek(p, &res, &tag))
			return res;
		if (now_ms() >= end)
			return -ETIMEDOUT;
		puppet_wait(p, false, end);
	}
}

int puppet_command_now(struct puppet *p, __u32 cmd_op,
		       const struct fuse_uring_slot_cmd *cmd)
{
	int ret = puppet_command(p, cmd_op, cmd);

	return ret ? ret : puppet_cqe(p, TEST_WAIT_MS);
}

struct puppet_call *puppet_call_start(struct puppet *p, __u32 cmd_op,
				      const struct fuse_uring_slot_cmd *cmd,
				      const void *addr, size_t len)
{
	struct puppet_call *call = calloc(1, sizeof(*call));
	struct io_uring_sqe *sqe = call ?
		puppet_sqe(p, p->fd, cmd_op, (uintptr_t)call | PUPPET_CALL) : NULL;

	if (!sqe)
		return NULL;
	sqe->addr = (uintptr_t)addr;
	sqe->len = len;
	memcpy(sqe->cmd, cmd, sizeof(*cmd));
	if (puppet_submit(p)) {
		free(call);
		return NULL;
	}
	return call;
}

static void *call_thread(void *arg)
{
	struct puppet_call *call = arg;
	ssize_t ret;

	__atomic_store_n(&call->tid, gettid(), __ATOMIC_RELEASE);
	ret = write(call->fd, call->msg, call->len);
	call_ended(call, ret < 0 ? -errno : ret);
	return NULL;
}

struct puppet_call *puppet_message_start(struct puppet *p, const void *msg,
					 size_t len)
{
	static const struct fuse_uring_slot_cmd cmd;
	struct puppet_call *call;
	pthread_t thread;

	if (p->opt.transport == TRANSPORT_RING)
		return puppet_call_start(p, FUSE_URING_REQ_NOTIFY, &cmd, msg,
					 len);
	call = calloc(1, sizeof(*call));
	if (!call)
		return NULL;
	call->fd = p->fd;
	call->len = len;
	call->msg = malloc(len + 1);
	if (!call->msg)
		return NULL;
	memcpy(call->msg, msg, len);
	if (pthread_create(&thread, NULL, call_thread, call))
		return NULL;
	pthread_detach(thread);
	return call;
}

struct puppet_call *puppet_notify_start(struct puppet *p, int code,
					const void *payload, size_t len)
{
	struct fuse_out_header *out = malloc(sizeof(*out) + len);
	struct puppet_call *call;

	if (!out)
		return NULL;
	*out = (struct fuse_out_header){
		.len = sizeof(*out) + len,
		.error = code,
	};
	memcpy(out + 1, payload, len);
	call = puppet_message_start(p, out, out->len);
	/* The kernel has its own copy, unless it is a thread that submits. */
	if (!(p->opt.uring_flags & IORING_SETUP_SQPOLL))
		free(out);
	return call;
}

int puppet_call_end(struct puppet *p, struct puppet_call *call,
		    unsigned int ms)
{
	__u64 end = now_ms() + ms;
	int ret;

	if (!call)
		return -ENOMEM;
	for (;;) {
		ret = puppet_keep(p);
		if (ret)
			return ret;
		if (__atomic_load_n(&call->ended, __ATOMIC_ACQUIRE))
			break;
		if (now_ms() >= end)
			return -ETIMEDOUT;
		if (call->msg)
			sleep_ms(1);
		else
			puppet_wait(p, false, end);
	}
	ret = call->res;
	free(call->msg);
	free(call);
	return ret;
}

int puppet_enter(struct puppet *p)
{
	if (puppet_defers(p))
		io_uring_get_events(&p->uring);
	return puppet_keep(p);
}

bool puppet_call_waits(struct puppet *p, struct puppet_call *call)
{
	struct requester thread = { .pid = 0 };

	if (!call)
		return false;
	/* A thread that does nothing else, or a worker of the kernel. */
	while (call->msg && !thread.pid) {
		thread.pid = __atomic_load_n(&call->tid, __ATOMIC_ACQUIRE);
		if (!thread.pid)
			sleep_ms(1);
	}
	if (call->msg ? !requester_sleeps(&thread) : !fuse_worker_sleeps())
		return false;
	return !puppet_enter(p) &&
	       !__atomic_load_n(&call->ended, __ATOMIC_ACQUIRE);
}

int puppet_message(struct puppet *p, const void *msg, size_t len)
{
	ssize_t ret;

	if (p->opt.transport == TRANSPORT_RING)
		return puppet_call_end(p, puppet_message_start(p, msg, len),
				       TEST_WAIT_MS);
	ret = write(p->fd, msg, len);
	return ret < 0 ? -errno : ret;
}

int puppet_notify(struct puppet *p, int code, const void *payload, size_t len)
{
	return puppet_call_end(p, puppet_notify_start(p, code, payload, len),
			       TEST_WAIT_MS);
}

int puppet_detach(struct puppet *p, unsigned int qid)
{
	struct fuse_uring_slot_cmd cmd = { .qid = qid };

	return puppet_call_end(p, puppet_call_start(p, FUSE_URING_REQ_DETACH,
						    &cmd, NULL, 0),
			       TEST_WAIT_MS);
}

/* These have no header of their own: see struct fuse_uring_req_header. */
static bool opcode_has_header(__u32 opcode)
{
	switch (opcode) {
	case FUSE_LOOKUP:
	case FUSE_SYMLINK:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_REMOVEXATTR:
	case FUSE_REMOVEMAPPING:
		return false;
	default:
		return true;
	}
}

/* Makes of a slot what read(2) on /dev/fuse would have given. */
static int puppet_take_slot(struct puppet *p, struct puppet_req *req)
{
	struct fuse_uring_req_header *head =
		puppet_header(p, req->qid, req->slot);
	size_t len, op_len, payload_len;

	req->ring = true;
	memcpy(&req->in, head->in_out, sizeof(req->in));
	req->commit_id = head->ring_ent_in_out.commit_id;
	if (puppet_is_user(p)) {
		req->payload = puppet_payload(p, req->qid, req->slot);
		req->capacity = p->setup.payload_size;
	} else {
		const struct fuse_uring_slot_header *slot =
			puppet_slot_header(p, req->qid, req->slot);

		req->payload = p->map[req->qid] + slot->payload_offset;
		req->capacity = slot->payload_room;
	}
	payload_len = head->ring_ent_in_out.payload_sz;
	len = req->in.len - sizeof(req->in);
	op_len = len - payload_len;
	if (payload_len > len || payload_len > req->capacity ||
	    op_len > sizeof(head->op_in) || len > sizeof(req->arg) ||
	    (!opcode_has_header(req->in.opcode) && op_len))
		return -EPROTO;
	memcpy(req->arg, head->op_in, op_len);
	memcpy(req->arg + op_len, req->payload, payload_len);
	req->arg_len = len;
	return PUPPET_REQUEST;
}

static int puppet_take_dev(struct puppet *p, struct puppet_req *req)
{
	ssize_t len = read(p->fd, p->buf, p->buf_size);

	if (len < 0)
		return -errno;
	if ((size_t)len < sizeof(req->in))
		return -EPROTO;
	req->ring = false;
	memcpy(&req->in, p->buf, sizeof(req->in));
	if (req->in.len != (size_t)len)
		return -EPROTO;
	req->arg_len = len - sizeof(req->in);
	if (req->arg_len > sizeof(req->arg))
		return -EPROTO;
	memcpy(req->arg, p->buf + sizeof(req->in), req->arg_len);
	return PUPPET_REQUEST;
}

int puppet_next(struct puppet *p, struct puppet_req *req, unsigned int ms)
{
	__u64 tag, end = now_ms() + ms;
	int ret;

	/* Also without time to wait, what is there is to be seen. */
	if (puppet_defers(p))
		io_uring_get_events(&p->uring);
	for (;;) {
		if (puppet_peek(p, &ret, &tag)) {
			req->qid = tag >> 16;
			req->slot = tag & 0xffff;
			return ret ? ret : puppet_take_slot(p, req);
		}
		if (p->fd >= 0 && !(p->dev_ended && p->have_uring)) {
			ret = puppet_take_dev(p, req);
			if (ret != -EAGAIN && ret != -EINTR &&
			    !(ret == -ENODEV && p->have_uring))
				return ret;
		}
		if (!puppet_wait(p, !p->dev_ended, end))
			return PUPPET_TIMEOUT;
	}
}

void puppet_fill_reply(struct puppet *p, const struct puppet_req *req,
		       int error, const void *data, size_t len)
{
	struct fuse_uring_req_header *head =
		puppet_header(p, req->qid, req->slot);
	struct fuse_out_header out = {
		.error = error,
		.unique = req->in.unique,
	};

	memcpy(head->in_out, &out, sizeof(out));
	if (len > req->capacity)
		len = req->capacity;
	memcpy(req->payload, data, len);
	head->ring_ent_in_out.payload_sz = len;
}

int puppet_commit(struct puppet *p, const struct puppet_req *req)
{
	struct fuse_uring_cmd_req user = {
		.commit_id = req->commit_id,
		.qid = req->qid,
	};
	struct fuse_uring_slot_cmd cmd = {
		.commit_id = req->commit_id,
		.qid = req->qid,
		.slot = req->slot,
	};

	if (puppet_is_user(p))
		return puppet_user_command(p, FUSE_IO_URING_CMD_COMMIT_AND_FETCH,
					   &user, req->slot, NULL, 0);
	return puppet_command(p, FUSE_URING_REQ_COMMIT_AND_FETCH, &cmd);
}

int puppet_reply(struct puppet *p, const struct puppet_req *req, int error,
		 const void *data, size_t len)
{
	struct fuse_out_header out = {
		.len = sizeof(out) + len,
		.error = error,
		.unique = req->in.unique,
	};
	struct iovec iov[2] = {
		{ &out, sizeof(out) },
		{ (void *)data, len },
	};

	if (req->ring) {
		puppet_fill_reply(p, req, error, data, len);
		return puppet_commit(p, req);
	}
	return writev(p->fd, iov, 2) < 0 ? -errno : 0;
}

static void puppet_attr(struct puppet *p, struct fuse_attr *attr,
			__u64 nodeid)
{
	memset(attr, 0, sizeof(*attr));
	attr->ino = nodeid;
	attr->nlink = 1;
	attr->blksize = 4096;
	if (nodeid == FUSE_ROOT_ID) {
		attr->mode = S_IFDIR | 0777;
		return;
	}
	attr->mode = S_IFREG | 0666;
	attr->size = p->opt.file_size ? p->opt.file_size : PUPPET_FILE_SIZE;
	attr->blocks = attr->size / 512;
}

static int puppet_answer_lookup(struct puppet *p, const struct puppet_req *req)
{
	struct fuse_entry_out out = { 0 };
	__u64 nodeid;
	char end;

	if (sscanf(req->arg, "f%llu%c", &nodeid, &end) != 1 ||
	    nodeid <= FUSE_ROOT_ID)
		return puppet_reply(p, req, -ENOENT, NULL, 0);
	out.nodeid = nodeid;
	out.entry_valid = 3600;
	puppet_attr(p, &out.attr, nodeid);
	return puppet_reply(p, req, 0, &out, sizeof(out));
}

static int puppet_answer_read(struct puppet *p, const struct puppet_req *req)
{
	static char data[2 << 20];
	size_t i, len = req->read.size;

	for (i = 0; i < len && i < sizeof(data); i++)
		data[i] = test_byte(req->in.nodeid, req->read.offset + i);
	return puppet_reply(p, req, 0, data, i);
}

int puppet_answer(struct puppet *p, const struct puppet_req *req)
{
	struct fuse_write_out written = { .size = req->write.size };
	struct fuse_attr_out attr = { 0 };
	struct fuse_open_out opened = {
		.fh = req->in.nodeid,
		.open_flags = req->in.opcode == FUSE_OPEN ?
			      p->opt.open_flags : 0,
	};

	switch (req->in.opcode) {
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
	case FUSE_NOTIFY_REPLY:
		/* Over the ring, to give the slot back. */
		return req->ring ? puppet_reply(p, req, 0, NULL, 0) : 0;
	case FUSE_LOOKUP:
		return puppet_answer_lookup(p, req);
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		puppet_attr(p, &attr.attr, req->in.nodeid);
		return puppet_reply(p, req, 0, &attr, sizeof(attr));
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		return puppet_reply(p, req, 0, &opened, sizeof(opened));
	case FUSE_READ:
		return puppet_answer_read(p, req);
	case FUSE_WRITE:
		return puppet_reply(p, req, 0, &written, sizeof(written));
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_FLUSH:
	case FUSE_FSYNC:
	case FUSE_ACCESS:
	case FUSE_READDIR:
	case FUSE_DESTROY:
		return puppet_reply(p, req, 0, NULL, 0);
	case FUSE_POLL:
		/* Else io_uring asks again, many times for each read */
		return puppet_reply(p, req, PROTO_NO_SUCH_OP, NULL, 0);
	default:
		return puppet_reply(p, req, -EOPNOTSUPP, NULL, 0);
	}
}

int puppet_until(struct puppet *p, struct puppet_req *req, __u32 opcode)
{
	__u64 now, end = now_ms() + TEST_WAIT_MS;
	int ret;

	for (;;) {
		now = now_ms();
		ret = puppet_next(p, req, now < end ? end - now : 0);
		if (ret == PUPPET_TIMEOUT)
			return -ETIMEDOUT;
		if (ret < 0)
			return ret;
		if (req->in.opcode == opcode)
			return 0;
		ret = puppet_answer(p, req);
		if (ret)
			return ret;
	}
}

int puppet_next_settled(struct puppet *p, struct puppet_req *req)
{
	__u64 before, after, end = now_ms() + TEST_WAIT_MS;
	bool still;
	int ret;

	do {
		/* What they have sent before this is to be seen after it. */
		still = requesters_still(&before);
		ret = puppet_next(p, req, 0);
		if (ret != PUPPET_TIMEOUT)
			return ret;
		if (still && requesters_still(&after) && after == before)
			return PUPPET_TIMEOUT;
		sleep_ms(1);
	} while (now_ms() < end);
	return -ETIMEDOUT;
}

bool puppet_none(struct puppet *p, __u32 opcode)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	static struct puppet_req req;
	int ret;

	while (now_ms() < end) {
		ret = puppet_next_settled(p, &req);
		if (ret == PUPPET_TIMEOUT)
			return true;
		if (ret != PUPPET_REQUEST)
			continue;
		if (req.in.opcode == opcode)
			return false;
		puppet_answer(p, &req);
	}
	return false;
}

int puppet_settle(struct puppet *p)
{
	static struct puppet_req req;
	int ret;

	while ((ret = puppet_next_settled(p, &req)) == PUPPET_REQUEST) {
		ret = puppet_answer(p, &req);
		if (ret)
			return ret;
	}
	return ret;
}

int puppet_serve(struct puppet *p, struct requester *r)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	static struct puppet_req req;
	int ret, error = 0;
	unsigned int rounds;

	for (rounds = 0; now_ms() < end; rounds++) {
		if (requester_ended(r, &ret, 0))
			return ret;
		/* Short, as the requester's end wakes nobody here. */
		ret = puppet_next(p, &req, 2);
		if (ret == PUPPET_REQUEST)
			ret = puppet_answer(p, &req);
		if (ret == -EPROTO)
			return ret;
		if (ret < 0)
			error = ret;
	}
	printf("# looked %u times for requests, last error %d\n", rounds, error);
	return requester_hangs(r, p->conn);
}

int puppet_drain(struct puppet *p, unsigned int ms)
{
	static struct puppet_req req;
	int ret;

	while ((ret = puppet_next(p, &req, ms)) == PUPPET_REQUEST) {
		ret = puppet_answer(p, &req);
		if (ret)
			return ret;
	}
	return ret;
}

int request_stat(const void *path)
{
	struct stat st;

	return stat(path, &st) ? -errno : 0;
}

int request_open(const void *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : close(fd) ? -errno : 0;
}

static __u64 path_nodeid(const char *path)
{
	return strtoull(strrchr(path, 'f') + 1, NULL, 10);
}

static int request_io(const struct puppet_io *io, bool write)
{
	int fd = open(io->path, io->flags | O_CLOEXEC), err = 0;
	size_t i, sum = 0;
	char *buf;

	if (fd < 0)
		return -errno;
	if (posix_memalign((void **)&buf, getpagesize(), io->len + 1))
		return -errno;
	if (write)
		for (i = 0; i < io->len; i++)
			buf[i] = test_byte(path_nodeid(io->path), io->offset + i);
	while (sum < io->len && !err) {
		ssize_t len = write ? pwrite(fd, buf + sum, io->len - sum,
					     io->offset + sum) :
				      pread(fd, buf + sum, io->len - sum,
					    io->offset + sum);

		if (len <= 0)
			err = len ? -errno : -ENODATA;
		else
			sum += len;
	}
	for (i = 0; !write && io->check && !err && i < io->len; i++)
		if ((unsigned char)buf[i] !=
		    test_byte(path_nodeid(io->path), io->offset + i))
			err = -EILSEQ;
	free(buf);
	if (close(fd) && !err)
		err = -errno;
	return err;
}

int request_read(const void *arg)
{
	return request_io(arg, false);
}

int request_write(const void *arg)
{
	return request_io(arg, true);
}

int request_readahead(const void *arg)
{
	const struct puppet_io *io = arg;
	int fd = open(io->path, O_RDONLY | O_CLOEXEC), err = 0;
	size_t done;

	if (fd < 0)
		return -errno;
	for (done = 0; done < io->len && !err; done += PUPPET_READAHEAD)
		err = -posix_fadvise(fd, io->offset + done, PUPPET_READAHEAD,
				     POSIX_FADV_WILLNEED);
	close(fd);
	return err;
}

/* Some CPU of @allowed whose requests go to this queue. */
static int queue_cpu(struct puppet *p, unsigned int qid,
		     const cpu_set_t *allowed)
{
	cpu_set_t cpus;
	struct fuse_uring_queue_info info = {
		.size = sizeof(info),
		.qid = qid,
		.cpus = (uintptr_t)&cpus,
		.cpus_len = sizeof(cpus),
	};
	int cpu;

	if (puppet_is_user(p))
		return CPU_ISSET(qid, allowed) ? (int)qid : -ENOENT;
	if (ioctl(p->fd, FUSE_DEV_IOC_URING_QUEUE_INFO, &info))
		return -errno;
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, allowed) && CPU_ISSET(cpu, &cpus))
			return cpu;
	return -ENOENT;
}

/* Where the queue's number is in the unique ids of its requests. */
#define UNIQUE_QID(unique)	((unsigned int)((unique) >> 46 & 0xffff))

int puppet_sent_to(struct puppet *p, const struct puppet_req *req)
{
	unsigned int qid = UNIQUE_QID(req->in.unique);

	if (req->qid != qid && ring_queue_stat(p->conn, req->qid, "spills") < 1)
		return -EPROTO;
	return qid;
}

int puppet_bind(struct puppet *p, unsigned int qid)
{
	cpu_set_t all, one;
	int cpu;

	if (sched_getaffinity(0, sizeof(all), &all))
		return -errno;
	cpu = queue_cpu(p, qid, &all);
	if (cpu < 0)
		return cpu;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	return sched_setaffinity(0, sizeof(one), &one) ? -errno : 0;
}

int puppet_requester_at(struct puppet *p, unsigned int qid,
			struct requester *r, int (*fn)(const void *arg),
			const void *arg)
{
	cpu_set_t all;
	int ret;

	if (sched_getaffinity(0, sizeof(all), &all))
		return -errno;
	ret = puppet_bind(p, qid);
	if (ret)
		return ret;
	/* It inherits where the caller may run. */
	ret = requester_start(r, fn, arg);
	sched_setaffinity(0, sizeof(all), &all);
	return ret;
}

int puppet_hold(struct puppet *p, struct puppet_held *held, __u32 opcode,
		unsigned int nr)
{
	int ret = 0;

	while (held->nr < nr && !ret) {
		struct puppet_req *req = malloc(sizeof(*req));

		if (!req)
			return -errno;
		ret = puppet_until(p, req, opcode);
		if (ret)
			free(req);
		else
			held->req[held->nr++] = req;
	}
	return ret;
}

int puppet_release(struct puppet *p, struct puppet_held *held)
{
	int ret = puppet_answer(p, held->req[0]);

	free(held->req[0]);
	held->nr--;
	memmove(held->req, held->req + 1, held->nr * sizeof(held->req[0]));
	return ret;
}

int puppet_release_all(struct puppet *p, struct puppet_held *held)
{
	int ret = 0;

	while (held->nr && !ret)
		ret = puppet_release(p, held);
	return ret;
}

int puppet_drop_until(struct puppet *p, struct puppet_req *req)
{
	__u64 end = now_ms() + TEST_WAIT_MS;
	int ret;

	do {
		ret = file_write("/proc/sys/vm/drop_caches", "2");
		while (!ret) {
			ret = puppet_next_settled(p, req);
			if (ret != PUPPET_REQUEST)
				break;
			if (puppet_nr_forgets(req))
				return 0;
			ret = puppet_answer(p, req);
		}
	} while (ret == PUPPET_TIMEOUT && now_ms() < end);
	return ret ? ret : -ETIMEDOUT;
}

unsigned int puppet_nr_forgets(const struct puppet_req *req)
{
	switch (req->in.opcode) {
	case FUSE_FORGET:
		return 1;
	case FUSE_BATCH_FORGET:
		return req->batch_forget.count;
	default:
		return 0;
	}
}

struct fuse_forget_one puppet_forget(const struct puppet_req *req,
				     unsigned int i)
{
	if (req->in.opcode == FUSE_FORGET)
		return (struct fuse_forget_one){
			.nodeid = req->in.nodeid,
			.nlookup = req->forget.nlookup,
		};
	return req->forgets[i];
}

int request_stats_for_ever(const void *path)
{
	struct stat st;
	int err = 0;

	while (!err)
		err = stat(path, &st) ? -errno : 0;
	return err;
}

bool puppet_all_by_ring(struct puppet *p)
{
	long nr = ring_stat(p->conn, "requests_dev");

	return nr == 0 || (nr == 1 && puppet_is_user(p));
}

static void thread_release(struct puppet_thread *t)
{
	unsigned int i;

	for (i = 0; i < t->held.nr; i++) {
		puppet_answer(&t->p, t->held.req[i]);
		free(t->held.req[i]);
	}
	t->held.nr = 0;
	__atomic_store_n(&t->nr_held, 0, __ATOMIC_RELEASE);
}

/* True when the request stays in the thread's hands. */
static bool thread_holds(struct puppet_thread *t, const struct puppet_req *req)
{
	size_t len = offsetof(struct puppet_req, arg) + req->arg_len;
	struct puppet_req *copy;

	if (!t->hold || req->in.opcode != t->hold ||
	    t->held.nr == ARRAY_SIZE(t->held.req))
		return false;
	copy = malloc(sizeof(*copy));
	if (!copy)
		return false;
	memcpy(copy, req, len);
	t->held.req[t->held.nr++] = copy;
	__atomic_store_n(&t->nr_held, t->held.nr, __ATOMIC_RELEASE);
	return true;
}

static int thread_release_job(struct puppet_thread *t)
{
	t->hold = t->hold_next;
	thread_release(t);
	return 0;
}

static void thread_serve(struct puppet_thread *t, struct puppet_req *req)
{
	int ret = puppet_next(&t->p, req, 10);

	if (ret == PUPPET_TIMEOUT)
		return;
	if (ret != PUPPET_REQUEST) {
		/* The connection or a slot has ended. */
		sleep_ms(1);
		return;
	}
	if (thread_holds(t, req)) {
		if (t->block) {
			while (sem_wait(&t->go))
				;
			thread_release_job(t);
		}
		return;
	}
	puppet_answer(&t->p, req);
}

static int thread_arm(struct puppet_thread *t)
{
	unsigned int i;
	int ret;

	if (t->cpus && sched_setaffinity(0, sizeof(*t->cpus), t->cpus))
		return -errno;
	if (!transport_rings(t->p.opt.transport))
		return 0;
	ret = puppet_uring(&t->p);
	for (i = 0; i < ARRAY_SIZE(t->slots) && t->slots[i].nr && !ret; i++)
		ret = puppet_arm_slots(&t->p, t->slots[i].qid, t->slots[i].first,
				       t->slots[i].nr);
	return ret;
}

static void *puppet_thread(void *arg)
{
	struct puppet_req *req = malloc(sizeof(*req));
	int (*job)(struct puppet_thread *t);
	struct puppet_thread *t = arg;

	t->result = req ? thread_arm(t) : -ENOMEM;
	__atomic_store_n(&t->armed, true, __ATOMIC_RELEASE);
	while (req && !__atomic_load_n(&t->end, __ATOMIC_ACQUIRE)) {
		job = __atomic_load_n(&t->job, __ATOMIC_ACQUIRE);
		if (job) {
			t->result = job(t);
			__atomic_store_n(&t->job, NULL, __ATOMIC_RELEASE);
		}
		thread_serve(t, req);
	}
	free(req);
	return NULL;
}

int puppet_thread_start(struct puppet_thread *t, const struct puppet *p)
{
	t->p = *p;
	t->p.have_uring = false;
	t->p.kept = NULL;
	t->p.kept_nr = 0;
	t->p.kept_size = 0;
	/* With a ring, what comes over /dev/fuse is for others. */
	t->p.dev_ended = transport_rings(p->opt.transport);
	t->p.buf = malloc(t->p.buf_size);
	t->held.nr = 0;
	t->nr_held = 0;
	t->job = NULL;
	t->armed = false;
	t->end = false;
	if (!t->p.buf || sem_init(&t->go, 0, 0))
		return -ENOMEM;
	if (pthread_create(&t->thread, NULL, puppet_thread, t))
		return -EAGAIN;
	while (!__atomic_load_n(&t->armed, __ATOMIC_ACQUIRE))
		sleep_ms(1);
	return t->result;
}

bool puppet_thread_holds(struct puppet_thread *t, unsigned int nr)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	while (__atomic_load_n(&t->nr_held, __ATOMIC_ACQUIRE) < nr) {
		if (now_ms() >= end)
			return false;
		sleep_ms(1);
	}
	return true;
}

void puppet_thread_run(struct puppet_thread *t,
		       int (*job)(struct puppet_thread *t))
{
	__atomic_store_n(&t->job, job, __ATOMIC_RELEASE);
}

int puppet_thread_done(struct puppet_thread *t)
{
	__u64 end = now_ms() + TEST_WAIT_MS;

	while (__atomic_load_n(&t->job, __ATOMIC_ACQUIRE)) {
		if (now_ms() >= end) {
			conn_abort(t->p.conn);
			return -ETIMEDOUT;
		}
		sleep_ms(1);
	}
	return t->result;
}

void puppet_thread_release(struct puppet_thread *t)
{
	if (t->block)
		sem_post(&t->go);
	else
		puppet_thread_run(t, thread_release_job);
}

void puppet_thread_end(struct puppet_thread *t)
{
	if (!t->thread)
		return;
	__atomic_store_n(&t->end, true, __ATOMIC_RELEASE);
	sem_post(&t->go);
	pthread_join(t->thread, NULL);
	t->thread = 0;
}

void puppet_thread_free(struct puppet_thread *t)
{
	puppet_thread_end(t);
	puppet_close_uring(&t->p);
	free(t->p.buf);
	free(t->p.kept);
	t->p.buf = NULL;
	t->p.kept = NULL;
}

static int process_ready = -1;

int puppet_process_start(struct puppet_process *s, struct puppet *p,
			 int (*fn)(struct puppet *p, const void *arg),
			 const void *arg)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	fflush(NULL);
	s->process.pid = fork();
	if (s->process.pid < 0)
		return -errno;
	if (!s->process.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(fds[0]);
		process_ready = fds[1];
		_exit(fn(p, arg));
	}
	close(fds[1]);
	s->ready = fds[0];
	s->process.pidfd = syscall(SYS_pidfd_open, s->process.pid, 0);
	return s->process.pidfd < 0 ? -errno : 0;
}

void puppet_process_say(char what)
{
	if (write(process_ready, &what, 1) != 1)
		_exit(1);
}

static int process_read(struct puppet_process *s, char *c)
{
	struct pollfd pfd = { .fd = s->ready, .events = POLLIN };

	return poll(&pfd, 1, TEST_WAIT_MS) == 1 ? read(s->ready, c, 1) : -1;
}

bool puppet_process_says(struct puppet_process *s, char what)
{
	char c;

	return process_read(s, &c) == 1 && c == what;
}

bool puppet_process_is_silent(struct puppet_process *s)
{
	char c;

	return process_read(s, &c) == 0;
}

int puppet_process_kill(struct puppet_process *s)
{
	int ret;

	if (s->process.pid <= 0)
		return 0;
	kill(s->process.pid, SIGKILL);
	ret = requester_join(&s->process);
	close(s->ready);
	s->process.pid = 0;
	return ret;
}
