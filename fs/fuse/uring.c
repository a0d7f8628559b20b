// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: the ring of a connection.
 *
 * Made by an ioctl on the mounted /dev/fuse descriptor, and freed with the
 * connection.  See Documentation/filesystems/fuse-uring.rst.
 */
#include "uring_i.h"

#include <linux/backing-dev.h>
#include <linux/module.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

static bool enable_uring;
module_param(enable_uring, bool, 0644);
MODULE_PARM_DESC(enable_uring,
		 "Allow FUSE servers to set up io_uring communication");

/* mmap2() of a 32-bit task reaches this far */
#define FUSE_URING_MAX_OFFSET		BIT_ULL(44)

#define FUSE_URING_DEFAULT_DEPTH	8

/* Smallest payload area of a slot with user buffers, in bytes */
#define FUSE_URING_MIN_USER_PAYLOAD	8192U

/*
 * Buffers in a queue's pool: one is kept for synchronous requests and one for
 * writeback, and what is shared has room for a request of any size.
 */
#define FUSE_URING_MIN_BUFFERS		3ULL
#define FUSE_URING_DEFAULT_BUFFERS	4ULL

/* Sizes of the structures when they were introduced */
#define FUSE_URING_SETUP_SIZE_VER0	\
	offsetofend(struct fuse_uring_setup, reserved)
#define FUSE_URING_QUEUE_INFO_SIZE_VER0	\
	offsetofend(struct fuse_uring_queue_info, reserved)

static void fuse_uring_free(struct fuse_uring *uring)
{
	unsigned int i;

	fuse_uring_watch_free_all(uring);
	fuse_uring_notifier_put(uring->notifier);
	for (i = 0; i < uring->nr_queues; i++)
		if (uring->queues[i])
			fuse_uring_queue_free(uring->queues[i]);
	fuse_uring_map_free(uring);
	kvfree(uring);
}

/**
 * fuse_uring_get - get the ring of a connection
 * @fc: the connection
 *
 * Return: the ring with a reference, NULL when there is none.
 */
struct fuse_uring *fuse_uring_get(struct fuse_conn *fc)
{
	struct fuse_uring *uring;

	rcu_read_lock();
	do {
		uring = fuse_uring_rcu(fc);
	} while (uring && !refcount_inc_not_zero(&uring->ref));
	rcu_read_unlock();

	return uring;
}

void fuse_uring_put(struct fuse_uring *uring)
{
	if (refcount_dec_and_test(&uring->ref))
		fuse_uring_free(uring);
}

/* The connection's last reference is gone */
static void fuse_uring_release(struct fuse_iqueue *fiq)
{
	struct fuse_conn *fc = container_of(fiq, struct fuse_conn, iq);

	fuse_uring_put(rcu_dereference_protected(fc->uring, true));
	RCU_INIT_POINTER(fc->uring, NULL);
}

static const struct fuse_iqueue_ops fuse_uring_fiq_ops = {
	.send_forget	= fuse_uring_send_forget,
	.send_interrupt	= fuse_uring_send_interrupt,
	.send_req	= fuse_uring_queue_req,
	.release	= fuse_uring_release,
};

/* Sort the queues by their nodes, and by their numbers within a node */
static void fuse_uring_sort(struct fuse_uring *uring)
{
	unsigned int qid, i, first, nr = 0;
	int node;

	for (node = NUMA_NO_NODE; node < (int)nr_node_ids; node++) {
		first = nr;
		for (qid = 0; qid < uring->nr_queues; qid++)
			if (uring->queues[qid]->node == node)
				uring->by_node[nr++] = qid;
		for (i = first; i < nr; i++) {
			struct fuse_uring_queue *queue;

			queue = uring->queues[uring->by_node[i]];
			queue->first_of_node = first;
			queue->nr_of_node = nr - first;
			queue->nth_of_node = i - first;
		}
	}
}

/* The CPUs whose home the queue is */
static unsigned int fuse_uring_queue_cpus(struct fuse_uring *uring, u16 qid)
{
	unsigned int cpu, nr = 0;

	for_each_possible_cpu(cpu)
		nr += uring->cpu_home[cpu] == qid;

	return nr;
}

/* A ring without queues, and without a map */
static struct fuse_uring *fuse_uring_new(struct fuse_conn *fc,
					 unsigned int nr_queues)
{
	struct fuse_uring *uring;

	uring = kvzalloc(struct_size(uring, queues, nr_queues),
			 GFP_KERNEL_ACCOUNT);
	if (!uring)
		return NULL;

	refcount_set(&uring->ref, 1);
	uring->fc = fc;
	INIT_LIST_HEAD(&uring->held);
	mutex_init(&uring->watch_mutex);
	INIT_LIST_HEAD(&uring->watches);
	uring->nr_queues = nr_queues;
	fuse_uring_control_init(&uring->control);

	uring->notifier = fuse_uring_notifier_alloc(fc);
	if (!uring->notifier) {
		fuse_uring_free(uring);
		return NULL;
	}

	return uring;
}

static int fuse_uring_alloc_queues(struct fuse_uring *uring)
{
	unsigned int qid;

	for (qid = 0; qid < uring->nr_queues; qid++) {
		struct fuse_uring_queue *queue;

		queue = fuse_uring_queue_alloc(uring, qid,
					       uring->queue_node[qid],
					       fuse_uring_queue_cpus(uring, qid));
		if (IS_ERR(queue))
			return PTR_ERR(queue);
		uring->queues[qid] = queue;
	}
	fuse_uring_sort(uring);

	return 0;
}

static struct fuse_uring *fuse_uring_alloc(struct fuse_conn *fc,
					   const struct fuse_uring_setup *setup,
					   const struct cpumask *own)
{
	struct fuse_uring *uring;
	int err;

	uring = fuse_uring_new(fc, setup->nr_queues);
	if (!uring)
		return ERR_PTR(-ENOMEM);

	uring->queue_depth = setup->queue_depth;
	uring->nr_control = setup->nr_control;
	uring->max_background = setup->nr_background;
	uring->payload_size = setup->payload_size;
	uring->payload_area = setup->payload_size + FUSE_URING_PAYLOAD_SLACK;
	uring->small_size = setup->small_size;
	uring->buffer_size = round_up(uring->payload_area, FUSE_URING_POOL_CHUNK);
	if (setup->pool_size)
		uring->nr_chunks = (setup->pool_size - 2 * uring->buffer_size) /
			FUSE_URING_POOL_CHUNK;
	/* At least one slot in four is for requests that need none */
	uring->max_shared = max(uring->queue_depth * 3 / 4, 1U);
	uring->payload_offset = setup->payload_offset;
	uring->control_offset = setup->payload_offset +
		(u64)uring->queue_depth * uring->small_size;
	uring->pool_offset = setup->pool_offset;
	uring->mmap_size = setup->mmap_size;

	err = fuse_uring_map_build(uring, own);
	if (!err)
		err = fuse_uring_alloc_queues(uring);
	if (err) {
		fuse_uring_free(uring);
		return ERR_PTR(err);
	}

	return uring;
}

/* A queue for each CPU, and all slots to come */
static struct fuse_uring *fuse_uring_alloc_user(struct fuse_conn *fc)
{
	struct fuse_uring *uring;
	int err;

	uring = fuse_uring_new(fc, nr_cpu_ids);
	if (!uring)
		return ERR_PTR(-ENOMEM);

	uring->user = true;
	uring->payload_size = max3(FUSE_URING_MIN_USER_PAYLOAD, fc->max_write,
				   fc->max_pages << PAGE_SHIFT);
	uring->payload_area = uring->payload_size;
	uring->small_size = UINT_MAX;

	err = fuse_uring_map_build_user(uring);
	if (!err)
		err = fuse_uring_alloc_queues(uring);
	if (err) {
		fuse_uring_free(uring);
		return ERR_PTR(err);
	}

	return uring;
}

/* The largest file data that a request of this connection carries, in bytes */
static unsigned int fuse_uring_max_payload(struct fuse_conn *fc)
{
	unsigned int size;

	if (fc->conn_init)
		size = max(fc->max_write, fc->max_pages << PAGE_SHIFT);
	else
		size = fc->max_pages_limit << PAGE_SHIFT;

	return max(size, FUSE_URING_MIN_PAYLOAD);
}

/* The possible CPUs that the server wants queues for */
static int fuse_uring_get_cpus(const struct fuse_uring_setup *setup,
			       struct cpumask *own)
{
	unsigned int cpu, len = BITS_TO_BYTES(nr_cpu_ids);
	u8 *cpus;

	cpumask_copy(own, cpu_possible_mask);
	if (!setup->cpus_len)
		return setup->cpus ? -EINVAL : 0;

	len = min(len, setup->cpus_len);
	cpus = memdup_user(u64_to_user_ptr(setup->cpus), len);
	if (IS_ERR(cpus))
		return PTR_ERR(cpus);

	for_each_possible_cpu(cpu)
		if (cpu / 8 >= len || !(cpus[cpu / 8] & 1 << cpu % 8))
			cpumask_clear_cpu(cpu, own);
	kfree(cpus);

	return cpumask_empty(own) ? -EINVAL : 0;
}

/* What each slot has of its own, and what they share */
static int fuse_uring_negotiate_pool(struct fuse_uring_setup *setup,
				     unsigned int max_payload)
{
	u64 area = setup->payload_size + FUSE_URING_PAYLOAD_SLACK;
	u64 buffer = round_up(area, FUSE_URING_POOL_CHUNK);
	u64 full = setup->queue_depth * buffer;

	if (!setup->small_size)
		setup->small_size = PAGE_SIZE;
	if (setup->small_size > max_payload + FUSE_URING_PAYLOAD_SLACK)
		return -EINVAL;
	setup->small_size = PAGE_ALIGN(setup->small_size);

	if (!setup->pool_size)
		setup->pool_size = min(full, FUSE_URING_DEFAULT_BUFFERS * buffer);
	if (setup->small_size >= setup->payload_size ||
	    setup->pool_size >= full) {
		setup->small_size = area;
		setup->pool_size = 0;
		return 0;
	}

	if (setup->pool_size < FUSE_URING_MIN_BUFFERS * buffer ||
	    setup->pool_size > 2 * buffer + FUSE_URING_MAX_POOL)
		return -EINVAL;
	setup->pool_size = round_down(setup->pool_size, FUSE_URING_POOL_CHUNK);

	return 0;
}

/* Check what the server asks for, and replace it by what it is granted */
static int fuse_uring_negotiate(struct fuse_conn *fc,
				struct fuse_uring_setup *setup,
				unsigned int nr_cpus)
{
	unsigned int max_payload = max_t(unsigned int, FUSE_URING_MIN_PAYLOAD,
					 FUSE_MAX_MAX_PAGES << PAGE_SHIFT);
	int err;

	if (setup->flags ||
	    memchr_inv(setup->reserved, 0, sizeof(setup->reserved)))
		return -EINVAL;

	if (!setup->nr_queues)
		setup->nr_queues = nr_cpus;
	if (setup->nr_queues > nr_cpus ||
	    setup->nr_queues > U16_MAX)
		return -EINVAL;

	if (!setup->queue_depth)
		setup->queue_depth = FUSE_URING_DEFAULT_DEPTH;
	if (setup->queue_depth > FUSE_URING_MAX_QUEUE_DEPTH)
		return -EINVAL;

	if (!setup->nr_background)
		setup->nr_background = DIV_ROUND_UP(setup->queue_depth, 2);
	if (setup->nr_background > setup->queue_depth)
		return -EINVAL;

	if (setup->nr_control > FUSE_URING_MAX_CONTROL)
		return -EINVAL;
	/* One for forgets, one for interrupts */
	if (setup->nr_control == 1)
		setup->nr_control = 2;

	if (!setup->payload_size)
		setup->payload_size = fuse_uring_max_payload(fc);
	if (setup->payload_size < FUSE_URING_MIN_PAYLOAD ||
	    setup->payload_size > max_payload)
		return -EINVAL;
	setup->payload_size = PAGE_ALIGN(setup->payload_size);

	err = fuse_uring_negotiate_pool(setup, max_payload);
	if (err)
		return err;

	setup->features = FUSE_URING_FEAT_INIT | FUSE_URING_FEAT_NOTIFY |
		FUSE_URING_FEAT_DETACH | FUSE_URING_FEAT_RESTART;
	setup->header_stride = FUSE_URING_HEADER_STRIDE;
	setup->header_offset = 0;
	setup->payload_offset = PAGE_ALIGN((u64)setup->header_stride *
					   (setup->queue_depth +
					    setup->nr_control));
	setup->pool_offset = setup->payload_offset +
		(u64)setup->queue_depth * setup->small_size +
		setup->nr_control * FUSE_URING_CONTROL_AREA;
	setup->mmap_size = setup->pool_offset + setup->pool_size;
	setup->queue_stride = setup->mmap_size;

	/* Headers tell offsets in 32 bits */
	if (setup->mmap_size > U32_MAX ||
	    setup->nr_queues * setup->queue_stride > FUSE_URING_MAX_OFFSET)
		return -EINVAL;

	return 0;
}

/*
 * Whether a server uses the connection's ring, or could: one of its slots is
 * armed, or in the hands of a task that lives.  Only to fail early.
 */
static bool fuse_uring_in_use(struct fuse_conn *fc)
{
	struct fuse_uring *uring = fuse_uring_get(fc);
	unsigned int qid;
	bool live = false;

	if (!uring)
		return false;

	/* The caller may know that the server is dead before the ring does */
	fuse_uring_watch_reap(uring);
	for (qid = 0; qid < uring->nr_queues; qid++)
		live |= READ_ONCE(uring->queues[qid]->live);
	fuse_uring_put(uring);

	return live;
}

/*
 * Let the connection have the ring.  From here on the slots can be armed, and
 * the first one that is makes requests go there.
 */
static int fuse_uring_publish(struct fuse_conn *fc, struct fuse_uring *uring)
{
	struct fuse_uring_notifier *unused = NULL;
	struct fuse_iqueue *fiq = &fc->iq;
	struct fuse_uring *old;
	int err = 0;

	mutex_lock(&fuse_mutex);
	spin_lock(&fc->lock);
	spin_lock(&fiq->lock);
	old = fuse_uring_locked(fc);
	if (!fc->connected)
		err = -ENOTCONN;
	else if (fc->uring_user != uring->user || (old && uring->user))
		err = -EBUSY;
	else if (fc->conn_init &&
		 !uring->user &&
		 uring->payload_size < fuse_uring_max_payload(fc))
		err = -EINVAL;
	else if (old && !fuse_uring_retire(old, uring))
		err = -EBUSY;
	if (!err && old) {
		unused = uring->notifier;
		uring->notifier = fuse_uring_notifier_get(old->notifier);
	}
	if (!err) {
		rcu_assign_pointer(fc->uring, uring);
		WRITE_ONCE(fiq->ops, &fuse_uring_fiq_ops);
	}
	spin_unlock(&fiq->lock);
	spin_unlock(&fc->lock);
	if (!err && !old)
		fuse_ctl_add_uring(fc);
	mutex_unlock(&fuse_mutex);

	fuse_uring_notifier_put(unused);
	if (!err && old) {
		synchronize_rcu();
		fuse_uring_put(old);
	}

	return err;
}

/**
 * fuse_uring_user_make - the ring of a connection with user buffers
 * @fc: a connection whose server has said FUSE_OVER_IO_URING
 *
 * Made when first asked for, and stays for as long as the connection.
 *
 * Return: the ring, -ENOTCONN when the connection has ended, -ENOMEM.
 */
struct fuse_uring *fuse_uring_user_make(struct fuse_conn *fc)
{
	struct fuse_uring *uring, *new;
	int err;

	rcu_read_lock();
	uring = fuse_uring_rcu(fc);
	rcu_read_unlock();
	if (uring)
		return uring;

	new = fuse_uring_alloc_user(fc);
	if (IS_ERR(new))
		return new;

	err = fuse_uring_publish(fc, new);
	if (!err)
		return new;

	fuse_uring_free(new);
	/* Another task was first */
	if (err == -EBUSY)
		return fuse_uring_user_make(fc);
	return ERR_PTR(err);
}

static int fuse_uring_copy_struct(void *dst, size_t ksize, size_t min_size,
				  void __user *argp)
{
	u32 size;

	if (get_user(size, (u32 __user *)argp))
		return -EFAULT;
	if (size < min_size)
		return -EINVAL;
	if (size > PAGE_SIZE)
		return -E2BIG;

	return copy_struct_from_user(dst, ksize, argp, size);
}

static int fuse_uring_setup(struct fuse_conn *fc,
			    struct fuse_uring_setup *setup, void __user *argp,
			    struct cpumask *own)
{
	struct fuse_uring *uring;
	u32 usize = setup->size;
	int err;

	err = fuse_uring_get_cpus(setup, own);
	if (err)
		return err;
	err = fuse_uring_negotiate(fc, setup, cpumask_weight(own));
	if (err)
		return err;

	uring = fuse_uring_alloc(fc, setup, own);
	if (IS_ERR(uring))
		return PTR_ERR(uring);

	/* Before the ring can be used, so that a failure changes nothing */
	setup->size = sizeof(*setup);
	if (copy_to_user(argp, setup, min_t(size_t, usize, sizeof(*setup))))
		err = -EFAULT;
	else
		err = fuse_uring_publish(fc, uring);
	if (err)
		fuse_uring_free(uring);

	return err;
}

static long fuse_uring_ioctl_setup(struct fuse_dev *fud, void __user *argp)
{
	struct fuse_uring_setup setup;
	struct fuse_conn *fc;
	cpumask_var_t own;
	int err;

	if (!READ_ONCE(enable_uring))
		return -EOPNOTSUPP;
	if (!fud)
		return -ENOTCONN;

	err = fuse_uring_copy_struct(&setup, sizeof(setup),
				     FUSE_URING_SETUP_SIZE_VER0, argp);
	if (err)
		return err;

	fc = fud->fc;
	if (!READ_ONCE(fc->connected))
		return -ENOTCONN;
	if (READ_ONCE(fc->uring_user) || fuse_uring_in_use(fc))
		return -EBUSY;

	if (!alloc_cpumask_var(&own, GFP_KERNEL))
		return -ENOMEM;
	err = fuse_uring_setup(fc, &setup, argp, own);
	free_cpumask_var(own);

	return err;
}

static long fuse_uring_get_queue_info(struct fuse_uring *uring,
				      void __user *argp)
{
	unsigned int cpu, len = BITS_TO_BYTES(nr_cpu_ids);
	struct fuse_uring_queue_info info;
	struct fuse_uring_queue *queue;
	u32 usize, ulen;
	u8 *cpus = NULL;
	int err;

	err = fuse_uring_copy_struct(&info, sizeof(info),
				     FUSE_URING_QUEUE_INFO_SIZE_VER0, argp);
	if (err)
		return err;
	if (info.flags || info.qid >= uring->nr_queues ||
	    memchr_inv(info.reserved, 0, sizeof(info.reserved)))
		return -EINVAL;

	usize = info.size;
	ulen = info.cpus_len;
	queue = uring->queues[info.qid];
	info.size = sizeof(info);
	info.node = queue->node;
	info.nr_cpus = queue->nr_cpus;
	info.cpus_len = len;

	if (ulen >= len) {
		cpus = kzalloc(len, GFP_KERNEL);
		if (!cpus)
			return -ENOMEM;
		for_each_possible_cpu(cpu)
			if (uring->cpu_home[cpu] == queue->qid)
				cpus[cpu / 8] |= 1 << (cpu % 8);
		if (copy_to_user(u64_to_user_ptr(info.cpus), cpus, len) ||
		    clear_user(u64_to_user_ptr(info.cpus + len), ulen - len))
			err = -EFAULT;
		kfree(cpus);
	} else if (ulen) {
		err = -ENOSPC;
	}

	if (err != -EFAULT &&
	    copy_to_user(argp, &info, min_t(size_t, usize, sizeof(info))))
		err = -EFAULT;

	return err;
}

static long fuse_uring_ioctl_queue_info(struct fuse_dev *fud, void __user *argp)
{
	struct fuse_uring *uring = fud ? fuse_uring_get(fud->fc) : NULL;
	long err;

	if (!uring)
		return -ENXIO;

	err = fuse_uring_get_queue_info(uring, argp);
	fuse_uring_put(uring);

	return err;
}

/**
 * fuse_uring_ioctl - the ioctls of the ring
 * @file: a /dev/fuse file
 * @cmd: any ioctl.  The sizes of ours are told by their structures.
 * @argp: its argument
 *
 * Return: as documented with the structures, -ENOTTY when it is not ours.
 */
long fuse_uring_ioctl(struct file *file, unsigned int cmd, void __user *argp)
{
	struct fuse_dev *fud = fuse_get_dev(file);

	/* CUSE has the same handler, and no ring */
	if (file->f_op != &fuse_dev_operations ||
	    _IOC_TYPE(cmd) != FUSE_DEV_IOC_MAGIC ||
	    _IOC_DIR(cmd) != (_IOC_READ | _IOC_WRITE))
		return -ENOTTY;

	switch (_IOC_NR(cmd)) {
	case _IOC_NR(FUSE_DEV_IOC_URING_SETUP):
		return fuse_uring_ioctl_setup(fud, argp);
	case _IOC_NR(FUSE_DEV_IOC_URING_QUEUE_INFO):
		return fuse_uring_ioctl_queue_info(fud, argp);
	default:
		return -ENOTTY;
	}
}

/**
 * fuse_uring_count_dev - a message has been read from or written to /dev/fuse
 * @fc: the connection
 * @msg: what kind of message
 *
 * On a connection with a ring this is no hot path.
 */
void fuse_uring_count_dev(struct fuse_conn *fc, enum fuse_uring_dev_message msg)
{
	struct fuse_uring *uring;

	rcu_read_lock();
	uring = fuse_uring_rcu(fc);
	if (uring)
		atomic64_inc(&uring->dev[msg]);
	rcu_read_unlock();
}

/**
 * fuse_uring_offered - whether a connection can have a ring
 * @fc: the connection
 */
bool fuse_uring_offered(struct fuse_conn *fc)
{
	const struct fuse_iqueue_ops *ops = READ_ONCE(fc->iq.ops);

	/* Not that of virtiofs */
	return READ_ONCE(enable_uring) &&
		(ops == &fuse_dev_fiq_ops || ops == &fuse_uring_fiq_ops);
}

/**
 * fuse_uring_check_init - take back FUSE_OVER_IO_URING if commands are refused
 * @fc: the connection
 * @file: the /dev/fuse file that the answer to FUSE_INIT came by, or NULL
 * @out: that answer
 *
 * io_uring asks the security module about each command before FUSE sees it.  So
 * a server that may not send any would let requests wait for its first slot for
 * ever.  The server, which is the current task, uses /dev/fuse then.
 */
void fuse_uring_check_init(struct fuse_conn *fc, struct file *file,
			   struct fuse_init_out *out)
{
	const u32 flag = FUSE_OVER_IO_URING >> 32;
	struct io_uring_cmd cmd = {
		.file = file,
		.cmd_op = FUSE_IO_URING_CMD_REGISTER,
	};

	if (!file || !(out->flags & FUSE_INIT_EXT) || !(out->flags2 & flag) ||
	    !fuse_uring_offered(fc) || fuse_uring_exists(fc))
		return;

	if (security_uring_cmd(&cmd))
		out->flags2 &= ~flag;
}

/**
 * fuse_uring_expect - the server has said FUSE_OVER_IO_URING
 * @fc: the connection, which knows all else of the answer to FUSE_INIT
 *
 * Means nothing to a connection that has a ring already.
 *
 * Return: whether requests have to wait for a slot.
 */
bool fuse_uring_expect(struct fuse_conn *fc)
{
	bool expect;

	spin_lock(&fc->lock);
	expect = fc->connected && !fuse_uring_exists(fc);
	if (expect)
		/* Pairs with fuse_uring_check_user() */
		smp_store_release(&fc->uring_user, true);
	spin_unlock(&fc->lock);

	return expect;
}

/**
 * fuse_uring_init_limits - FUSE_INIT has been answered
 * @fm: the mount, with the limits of the server's answer
 *
 * No request may be larger than the payload area of a slot.
 */
void fuse_uring_init_limits(struct fuse_mount *fm)
{
	struct backing_dev_info *bdi = fm->sb->s_bdi;
	struct fuse_conn *fc = fm->fc;
	struct fuse_uring *uring;

	/* Either the ring is seen here, or setup sees that INIT is over */
	spin_lock(&fc->lock);
	uring = rcu_dereference_protected(fc->uring, lockdep_is_held(&fc->lock));
	if (uring) {
		unsigned int pages = uring->payload_size >> PAGE_SHIFT;

		fc->max_pages = min(fc->max_pages, pages);
		fc->max_write = min(fc->max_write, uring->payload_size);
		bdi->ra_pages = min_t(unsigned long, bdi->ra_pages, pages);
	}
	spin_unlock(&fc->lock);
}
