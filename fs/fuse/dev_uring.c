// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: the ring of a connection.  An ioctl on the mounted
 * /dev/fuse descriptor makes it, the last thread that serves it frees it.  See
 * Documentation/filesystems/fuse-uring.rst.
 */
#include "dev_uring_i.h"

#include <linux/backing-dev.h>
#include <linux/compat.h>
#include <linux/module.h>
#include <linux/nospec.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

static bool enable_uring;
module_param(enable_uring, bool, 0644);
MODULE_PARM_DESC(enable_uring,
		 "Allow FUSE servers to set up io_uring communication");

/* mmap2() of a 32-bit task reaches twice as far: half is for later use */
#define FUSE_URING_MAX_OFFSET		BIT_ULL(43)

#define FUSE_URING_DEFAULT_DEPTH	8

/* Locked memory is not spent on larger payloads while queues are missing */
#define FUSE_URING_MODEST_PAYLOAD	(128U * 1024)

/* Waiting for rings that end, in jiffies, and HZ / 50 for dead servers' */
#define FUSE_URING_ENDING_WAIT		(HZ / 5)
#define FUSE_URING_ENOBUFS_TRIES	10

/* Smallest payload area with user buffers, in bytes */
#define FUSE_URING_MIN_USER_PAYLOAD	8192U

/* Buffers in a pool: one for sync requests, one for writeback, shared ones */
#define FUSE_URING_MIN_BUFFERS		3ULL
#define FUSE_URING_DEFAULT_BUFFERS	4ULL

#define FUSE_URING_CHUNK_SIZE \
	max_t(unsigned int, FUSE_URING_POOL_CHUNK, PAGE_SIZE)

/* Sizes of the structures when they were introduced */
#define FUSE_URING_SETUP_SIZE_VER0	\
	offsetofend(struct fuse_uring_setup, reserved)
#define FUSE_URING_QUEUE_INFO_SIZE_VER0	\
	offsetofend(struct fuse_uring_queue_info, reserved)

/* For work that does not wait */
struct workqueue_struct *fuse_uring_wq;
/* Ends rings, which may have to wait for notifications */
struct workqueue_struct *fuse_uring_end_wq;

/* Rings whose last reference is gone, but not their memory */
static atomic_t fuse_uring_nr_ending = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(fuse_uring_ended);

/* Free what the statistics needed */
static void fuse_uring_free(struct fuse_uring *uring)
{
	unsigned int i;

	for (i = 0; i < uring->nr_queues; i++)
		kfree(uring->queues[i]);
	kvfree(uring);
}

/* Called when the connection's last reference is gone */
void fuse_uring_release(struct fuse_conn *fc)
{
	if (fc->uring_ended)
		fuse_uring_free(fc->uring_ended);
	kfree(fc->uring_notifier);
}

/* Frees a ring that nobody uses.  Statistics stay with the connection. */
static void fuse_uring_teardown(struct fuse_uring *uring)
{
	struct fuse_conn *fc = uring->fc;
	unsigned int i;

	/* Balancing a queue looks at all of them */
	for (i = 0; i < uring->nr_queues; i++)
		if (uring->queues[i])
			timer_shutdown_sync(&uring->queues[i]->timer);
	cancel_work_sync(&uring->balancer);
	for (i = 0; i < uring->nr_queues; i++)
		if (uring->queues[i])
			fuse_uring_queue_end(uring->queues[i]);
	fuse_uring_notifier_put(uring->notifier);
	fuse_uring_map_free(uring);
	if (fc->uring_ended != uring)
		fuse_uring_free(uring);
	fuse_conn_put(fc);
}

static void fuse_uring_end_work(struct work_struct *work)
{
	fuse_uring_teardown(container_of(to_rcu_work(work), struct fuse_uring,
					 end_work));
	if (atomic_dec_and_test(&fuse_uring_nr_ending))
		wake_up_all(&fuse_uring_ended);
}

/* Returns the ring of a connection with a reference, or NULL */
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

/* The last reference frees the ring after a grace period */
void fuse_uring_put(struct fuse_uring *uring)
{
	if (refcount_dec_and_test(&uring->ref)) {
		atomic_inc(&fuse_uring_nr_ending);
		queue_rcu_work(fuse_uring_end_wq, &uring->end_work);
	}
}

/*
 * Error of commands after the end of the connection.  With user buffers an
 * abort is reported as by read(2).
 */
int fuse_uring_gone(struct fuse_conn *fc, bool user)
{
	return user && READ_ONCE(fc->aborted) ? -ECONNABORTED : -ENOTCONN;
}

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

/* Number of CPUs whose home the queue is */
static unsigned int fuse_uring_queue_cpus(struct fuse_uring *uring, u16 qid)
{
	unsigned int cpu, nr = 0;

	for_each_possible_cpu(cpu)
		nr += uring->cpu_home[cpu] == qid;

	return nr;
}

static struct fuse_uring *fuse_uring_new(struct fuse_conn *fc,
					 unsigned int nr_queues)
{
	struct fuse_uring *uring;

	uring = kvzalloc(struct_size(uring, queues, nr_queues),
			 GFP_KERNEL_ACCOUNT);
	if (!uring)
		return NULL;

	refcount_set(&uring->ref, 1);
	uring->fc = fuse_conn_get(fc);
	INIT_LIST_HEAD(&uring->unclaimed);
	INIT_WORK(&uring->balancer, fuse_uring_balance);
	INIT_RCU_WORK(&uring->end_work, fuse_uring_end_work);
	uring->nr_queues = nr_queues;
	INIT_LIST_HEAD(&uring->messages.interrupts);
	uring->messages.forgets_tail = &uring->messages.forgets;

	uring->notifier = fuse_uring_notifier_alloc(fc);
	if (!uring->notifier) {
		fuse_uring_teardown(uring);
		return NULL;
	}

	return uring;
}

/* Returns the ring, or frees it if @err or an error of its queues is not 0 */
static struct fuse_uring *fuse_uring_alloc_queues(struct fuse_uring *uring,
						  int err)
{
	struct fuse_uring_queue *queue;
	unsigned int qid;

	for (qid = 0; !err && qid < uring->nr_queues; qid++) {
		queue = fuse_uring_queue_alloc(uring, qid,
					       uring->queue_node[qid],
					       fuse_uring_queue_cpus(uring, qid));
		if (IS_ERR(queue))
			err = PTR_ERR(queue);
		else
			uring->queues[qid] = queue;
	}
	if (err) {
		fuse_uring_teardown(uring);
		return ERR_PTR(err);
	}
	fuse_uring_sort(uring);

	return uring;
}

static struct fuse_uring *fuse_uring_alloc(struct fuse_conn *fc,
					   const struct fuse_uring_setup *setup,
					   const struct cpumask *own)
{
	struct fuse_uring *uring;

	uring = fuse_uring_new(fc, setup->nr_queues);
	if (!uring)
		return ERR_PTR(-ENOMEM);

	uring->queue_depth = setup->queue_depth;
	uring->nr_control = setup->nr_control;
	uring->max_background = setup->nr_background;
	uring->payload_size = setup->payload_size;
	uring->payload_area = setup->payload_size + FUSE_URING_PAYLOAD_SLACK;
	uring->small_size = setup->small_size;
	uring->chunk_size = FUSE_URING_CHUNK_SIZE;
	uring->buffer_size = round_up(uring->payload_area, uring->chunk_size);
	if (setup->pool_size)
		uring->nr_chunks = (setup->pool_size - 2 * uring->buffer_size) /
			uring->chunk_size;
	/* At least one slot in four is for requests that need none */
	uring->max_shared = max(uring->queue_depth * 3 / 4, 1U);
	uring->payload_offset = setup->payload_offset;
	uring->control_offset = setup->payload_offset +
		(u64)uring->queue_depth * uring->small_size;
	uring->pool_offset = setup->pool_offset;
	uring->granted = *setup;

	return fuse_uring_alloc_queues(uring, fuse_uring_map_build(uring, own));
}

/* Allocate a ring with user buffers: a queue per CPU, no slots yet */
static struct fuse_uring *fuse_uring_alloc_user(struct fuse_conn *fc)
{
	struct fuse_uring *uring;

	uring = fuse_uring_new(fc, nr_cpu_ids);
	if (!uring)
		return ERR_PTR(-ENOMEM);

	uring->user = true;
	uring->payload_size = max3(FUSE_URING_MIN_USER_PAYLOAD, fc->max_write,
				   fc->max_pages << PAGE_SHIFT);
	uring->payload_area = uring->payload_size;
	uring->small_size = UINT_MAX;

	return fuse_uring_alloc_queues(uring, fuse_uring_map_build_user(uring));
}

/* Largest file data of one request, in bytes */
static unsigned int fuse_uring_max_payload(struct fuse_conn *fc)
{
	unsigned int size;

	if (fc->conn_init)
		size = max(fc->max_write, fc->max_pages << PAGE_SHIFT);
	else
		size = fc->max_pages_limit << PAGE_SHIFT;

	return max(size, FUSE_URING_MIN_PAYLOAD);
}

/*
 * A CPU mask of @len bytes at @addr, as for sched_setaffinity(2).  Returns 0 or
 * -EFAULT.
 */
static int fuse_uring_get_mask(struct cpumask *mask, u64 addr, u32 len)
{
	cpumask_var_t words;
	int err = 0;

	if (!zalloc_cpumask_var(&words, GFP_KERNEL))
		return -ENOMEM;
	if (copy_from_user(words, u64_to_user_ptr(addr),
			   min_t(size_t, len, cpumask_size())))
		err = -EFAULT;
	else if (in_compat_syscall())
		bitmap_from_arr32(cpumask_bits(mask), (u32 *)words, nr_cpu_ids);
	else
		cpumask_copy(mask, words);
	free_cpumask_var(words);

	return err;
}

/* Bytes of a mask of all CPUs */
static unsigned int fuse_uring_mask_size(void)
{
	return in_compat_syscall() ? BITS_TO_U32(nr_cpu_ids) * sizeof(u32) :
		BITS_TO_LONGS(nr_cpu_ids) * sizeof(long);
}

/* As for sched_getaffinity(2).  @len is enough, and the rest is cleared. */
static int fuse_uring_put_mask(const struct cpumask *mask, u64 addr, u32 len)
{
	unsigned int size = fuse_uring_mask_size();
	cpumask_var_t words;
	int err = 0;

	if (!zalloc_cpumask_var(&words, GFP_KERNEL))
		return -ENOMEM;
	if (in_compat_syscall())
		bitmap_to_arr32((u32 *)words, cpumask_bits(mask), nr_cpu_ids);
	else
		cpumask_copy(words, mask);
	if (copy_to_user(u64_to_user_ptr(addr), words, size) ||
	    clear_user(u64_to_user_ptr(addr + size), len - size))
		err = -EFAULT;
	free_cpumask_var(words);

	return err;
}

/* Possible CPUs that the server wants queues for */
static int fuse_uring_get_cpus(const struct fuse_uring_setup *setup,
			       struct cpumask *own)
{
	int err;

	if (!setup->cpus_len) {
		cpumask_copy(own, cpu_possible_mask);
		return setup->cpus ? -EINVAL : 0;
	}
	err = fuse_uring_get_mask(own, setup->cpus, setup->cpus_len);
	if (err)
		return err;

	return cpumask_and(own, own, cpu_possible_mask) ? 0 : -ENXIO;
}

/* Fields of struct fuse_uring_setup that are answers only */
static bool fuse_uring_asks_only(const struct fuse_uring_setup *setup)
{
	const size_t from = offsetof(struct fuse_uring_setup, features);

	return !setup->header_stride &&
		!memchr_inv((void *)setup + from, 0, sizeof(*setup) - from);
}

static unsigned int fuse_uring_payload_limit(void)
{
	return max_t(unsigned int, FUSE_URING_MIN_PAYLOAD,
		     FUSE_MAX_MAX_PAGES << PAGE_SHIFT);
}

/* Check what the server asks for; 0 leaves it to the kernel */
static int fuse_uring_check_setup(struct fuse_conn *fc,
				  const struct fuse_uring_setup *setup,
				  unsigned int nr_cpus)
{
	unsigned int limit = fuse_uring_payload_limit();

	if (setup->nr_queues > nr_cpus)
		return -ENXIO;
	if (setup->queue_depth > FUSE_URING_MAX_QUEUE_DEPTH ||
	    setup->nr_control > FUSE_URING_MAX_CONTROL ||
	    setup->payload_size > limit ||
	    setup->small_size > limit + FUSE_URING_PAYLOAD_SLACK)
		return -ERANGE;
	if (setup->payload_size && setup->payload_size < FUSE_URING_MIN_PAYLOAD)
		return -ERANGE;
	/* The connection may have larger requests */
	if (setup->payload_size && fc->conn_init &&
	    PAGE_ALIGN(setup->payload_size) < fuse_uring_max_payload(fc))
		return -EMSGSIZE;

	return 0;
}

/* Sizes of the slots' own areas, and of the pool: @nr_buffers unless asked */
static int fuse_uring_layout_pool(struct fuse_uring_setup *setup,
				  unsigned int nr_buffers)
{
	u64 area = setup->payload_size + FUSE_URING_PAYLOAD_SLACK;
	u64 buffer = round_up(area, FUSE_URING_CHUNK_SIZE);
	u64 full = setup->queue_depth * buffer;

	setup->small_size = PAGE_ALIGN(setup->small_size ?: PAGE_SIZE);
	if (!setup->pool_size)
		setup->pool_size = min(full, nr_buffers * buffer);
	if (setup->small_size >= setup->payload_size ||
	    setup->pool_size >= full) {
		setup->small_size = area;
		setup->pool_size = 0;
		return 0;
	}

	if (setup->pool_size < FUSE_URING_MIN_BUFFERS * buffer ||
	    setup->pool_size > 2 * buffer + FUSE_URING_MAX_POOL)
		return -ERANGE;
	setup->pool_size = round_down(setup->pool_size, FUSE_URING_CHUNK_SIZE);

	return 0;
}

/* Replace what the server asked for by what it gets */
static int fuse_uring_layout(struct fuse_uring_setup *setup,
			     unsigned int nr_buffers)
{
	int err;

	if (!setup->nr_background)
		setup->nr_background = DIV_ROUND_UP(setup->queue_depth, 2);
	if (setup->nr_background > setup->queue_depth)
		return -ERANGE;
	/* One for forgets, one for interrupts */
	if (setup->nr_control == 1)
		setup->nr_control = 2;
	setup->payload_size = PAGE_ALIGN(setup->payload_size);
	err = fuse_uring_layout_pool(setup, nr_buffers);
	if (err)
		return err;

	setup->header_stride = FUSE_URING_HEADER_STRIDE;
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
		return -EFBIG;

	return 0;
}

/*
 * Bytes that the kernel's choices may take: half of what the caller may lock,
 * so that there is room for other mounts.  A replaced ring is given back.
 */
static u64 fuse_uring_budget(struct fuse_conn *fc, u64 room)
{
	struct fuse_uring *old;
	u64 total = room;

	if (room == U64_MAX)
		return room;

	old = fuse_uring_get(fc);
	if (old) {
		total += old->nr_queues * old->granted.mmap_size;
		fuse_uring_put(old);
	}

	return min(room, total / 2);
}

/*
 * Lay the ring out, with the kernel's choice for all that was left to it: as
 * much as fits in the memory that the caller may lock.  Large payloads give way
 * to queues, then queues to payloads.
 */
static int fuse_uring_negotiate(struct fuse_conn *fc,
				struct fuse_uring_setup *setup,
				unsigned int nr_cpus)
{
	const u64 room = fuse_uring_mem_room();
	const u64 budget = fuse_uring_budget(fc, room);
	const struct fuse_uring_setup asked = *setup;
	unsigned int payload, floor, nr_buffers = FUSE_URING_DEFAULT_BUFFERS;
	int err;

	payload = asked.payload_size ?: fuse_uring_max_payload(fc);
	floor = payload;
	if (!asked.payload_size && !asked.pool_size && !fc->conn_init)
		floor = min(payload, FUSE_URING_MODEST_PAYLOAD);

	for (;;) {
		*setup = asked;
		setup->payload_size = payload;
		setup->nr_queues = asked.nr_queues ?: min(nr_cpus, U16_MAX);
		setup->queue_depth = asked.queue_depth ?:
			FUSE_URING_DEFAULT_DEPTH;
		err = fuse_uring_layout(setup, nr_buffers);
		if (err || setup->mmap_size <= div_u64(budget, setup->nr_queues))
			return err;

		if (nr_buffers > FUSE_URING_MIN_BUFFERS) {
			nr_buffers--;
		} else if (payload > floor) {
			payload = max(payload / 2, floor);
			nr_buffers = FUSE_URING_DEFAULT_BUFFERS;
		} else {
			break;
		}
	}

	if (!asked.nr_queues)
		setup->nr_queues = max(div64_u64(budget, setup->mmap_size), 1ULL);
	if (setup->nr_queues * setup->mmap_size <= room)
		return 0;

	/* The smallest there is; if that is too much, allocation fails */
	setup->pool_size = asked.pool_size;
	setup->small_size = asked.small_size;
	if (!asked.payload_size && !asked.pool_size && !fc->conn_init)
		setup->payload_size = FUSE_URING_MIN_PAYLOAD;
	if (!asked.queue_depth)
		setup->queue_depth = asked.nr_background ?: 1;
	setup->nr_background = asked.nr_background;

	return fuse_uring_layout(setup, nr_buffers);
}

/* What is the same for all rings */
static void fuse_uring_tell_limits(struct fuse_uring_setup *setup)
{
	setup->size = sizeof(*setup);
	setup->features = FUSE_URING_FEAT_INIT | FUSE_URING_FEAT_NOTIFY |
		FUSE_URING_FEAT_DETACH | FUSE_URING_FEAT_RESTART;
	setup->max_queue_depth = FUSE_URING_MAX_QUEUE_DEPTH;
	setup->max_control = FUSE_URING_MAX_CONTROL;
	setup->max_notify = FUSE_URING_MAX_NOTIFY;
	setup->min_payload = FUSE_URING_MIN_PAYLOAD;
	setup->max_payload = fuse_uring_payload_limit();
	setup->pool_chunk = FUSE_URING_CHUNK_SIZE;
	setup->max_pool = FUSE_URING_MAX_POOL;
}

/* Whether a living thread serves the connection's ring.  Only to fail early. */
static bool fuse_uring_in_use(struct fuse_conn *fc)
{
	struct fuse_uring *uring = fuse_uring_get(fc);
	bool in_use = uring && fuse_uring_reap(uring);

	if (uring)
		fuse_uring_put(uring);

	return in_use;
}

/* Whether the connection can have the ring.  Called under fiq->lock. */
static int fuse_uring_check_publish(struct fuse_conn *fc,
				    struct fuse_uring *uring,
				    struct fuse_uring *old)
{
	if (!fc->connected)
		return -ENOTCONN;
	if (fc->uring_user != uring->user || (old && uring->user))
		return -EBUSY;
	if (fc->conn_init && !uring->user &&
	    uring->payload_size < fuse_uring_max_payload(fc))
		return -EMSGSIZE;
	if (old && !fuse_uring_retire(old, uring))
		return -EBUSY;
	return 0;
}

/*
 * Publish the ring.  Slots can be armed now, and the first one that is armed
 * routes requests to the ring.
 */
static int fuse_uring_publish(struct fuse_conn *fc, struct fuse_uring *uring)
{
	struct fuse_uring_notifier *unused = NULL;
	struct fuse_iqueue *fiq = &fc->iq;
	struct fuse_uring *old;
	unsigned int i;
	int err;

	mutex_lock(&fuse_mutex);
	spin_lock(&fc->lock);
	spin_lock(&fiq->lock);
	old = fuse_uring_locked(fc);
	err = fuse_uring_check_publish(fc, uring, old);
	if (!err && old) {
		unused = uring->notifier;
		uring->notifier = fuse_uring_notifier_get(old->notifier);
	}
	if (!err) {
		refcount_inc(&uring->ref);
		fc->uring_notifier = uring->notifier;
		if (fc->conn_init && !uring->user)
			fc->max_read = min(fc->max_read, uring->payload_size);
		rcu_assign_pointer(fc->uring, uring);
		for (i = 0; i < FUSE_URING_DEV_NR; i++)
			atomic64_set(&fc->uring_dev[i], 0);
	}
	spin_unlock(&fiq->lock);
	spin_unlock(&fc->lock);
	if (!err)
		fuse_ctl_add_uring(fc);
	mutex_unlock(&fuse_mutex);

	fuse_uring_notifier_put(unused);
	if (!err && old) {
		fuse_uring_inherit(old);
		fuse_uring_put(old);
	}

	return err;
}

/*
 * Make or get the ring of a connection with user buffers.  Returns it with a
 * reference, -ENOTCONN, or -ENOMEM.
 */
struct fuse_uring *fuse_uring_user_make(struct fuse_conn *fc)
{
	struct fuse_uring *uring, *new;
	int err;

	for (;;) {
		uring = fuse_uring_get(fc);
		if (uring)
			return uring;

		new = fuse_uring_alloc_user(fc);
		if (IS_ERR(new))
			return new;
		err = fuse_uring_publish(fc, new);
		if (!err)
			return new;

		fuse_uring_teardown(new);
		/* Unless another task was first */
		if (err != -EBUSY)
			return ERR_PTR(err);
	}
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
	const struct fuse_uring_setup asked = *setup;
	const size_t usize = min_t(size_t, setup->size, sizeof(*setup));
	struct fuse_uring *uring;
	unsigned int tries;
	int err;

	if (setup->flags & ~FUSE_URING_SETUP_QUERY)
		return -EOPNOTSUPP;
	if (!fuse_uring_asks_only(setup))
		return -EINVAL;
	/* What they have locked may be needed */
	if (fuse_uring_mem_room() != U64_MAX &&
	    wait_event_killable_timeout(fuse_uring_ended,
					!atomic_read(&fuse_uring_nr_ending),
					FUSE_URING_ENDING_WAIT) < 0)
		return -EINTR;

	err = fuse_uring_get_cpus(setup, own);
	if (!err)
		err = fuse_uring_check_setup(fc, setup, cpumask_weight(own));
	if (!err)
		err = fuse_uring_negotiate(fc, setup, cpumask_weight(own));
	if (err)
		return err;
	fuse_uring_tell_limits(setup);
	if (asked.flags & FUSE_URING_SETUP_QUERY)
		return copy_to_user(argp, setup, usize) ? -EFAULT : 0;

	uring = fuse_uring_alloc(fc, setup, own);
	/* Rings that have ended may not be freed yet: that takes a moment */
	for (tries = FUSE_URING_ENOBUFS_TRIES;
	     tries && uring == ERR_PTR(-ENOBUFS); tries--) {
		schedule_timeout_killable(HZ / 50);
		if (fatal_signal_pending(current))
			return -EINTR;
		*setup = asked;
		err = fuse_uring_negotiate(fc, setup, cpumask_weight(own));
		if (err)
			return err;
		fuse_uring_tell_limits(setup);
		uring = fuse_uring_alloc(fc, setup, own);
	}
	if (IS_ERR(uring))
		return PTR_ERR(uring);

	/* A failure must not leave a ring behind: copy before publishing */
	if (copy_to_user(argp, setup, usize))
		err = -EFAULT;
	else
		err = fuse_uring_publish(fc, uring);
	if (err)
		fuse_uring_teardown(uring);
	else
		fuse_uring_put(uring);

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
	if (!(setup.flags & FUSE_URING_SETUP_QUERY) &&
	    (READ_ONCE(fc->uring_user) || fuse_uring_in_use(fc)))
		return -EBUSY;

	if (!alloc_cpumask_var(&own, GFP_KERNEL))
		return -ENOMEM;
	err = fuse_uring_setup(fc, &setup, argp, own);
	free_cpumask_var(own);

	return err;
}

/* Tell a server that takes the ring over what its setup has granted */
static long fuse_uring_get_info(struct fuse_uring *uring, void __user *argp)
{
	struct fuse_uring_setup info;
	size_t usize;
	int err;

	err = fuse_uring_copy_struct(&info, sizeof(info),
				     FUSE_URING_SETUP_SIZE_VER0, argp);
	if (err)
		return err;
	usize = min_t(size_t, info.size, sizeof(info));
	if (info.flags)
		return -EOPNOTSUPP;
	info.size = 0;
	if (memchr_inv(&info, 0, sizeof(info)))
		return -EINVAL;
	if (uring->user)
		return -ENXIO;

	return copy_to_user(argp, &uring->granted, usize) ? -EFAULT : 0;
}

static long fuse_uring_get_queue_info(struct fuse_uring *uring,
				      void __user *argp)
{
	unsigned int cpu, len = fuse_uring_mask_size();
	struct fuse_uring_queue_info info;
	struct fuse_uring_queue *queue;
	cpumask_var_t cpus;
	size_t usize;
	u32 ulen;
	int err;

	err = fuse_uring_copy_struct(&info, sizeof(info),
				     FUSE_URING_QUEUE_INFO_SIZE_VER0, argp);
	if (err)
		return err;
	if (info.flags)
		return -EOPNOTSUPP;
	if (info.node || info.nr_cpus ||
	    memchr_inv(info.reserved, 0, sizeof(info.reserved)))
		return -EINVAL;
	if (info.qid >= uring->nr_queues)
		return -ENXIO;

	usize = min_t(size_t, info.size, sizeof(info));
	ulen = info.cpus_len;
	queue = uring->queues[array_index_nospec(info.qid, uring->nr_queues)];
	info.size = sizeof(info);
	info.node = queue->node;
	info.nr_cpus = queue->nr_cpus;
	info.cpus_len = len;

	if (ulen >= len) {
		if (!zalloc_cpumask_var(&cpus, GFP_KERNEL))
			return -ENOMEM;
		for_each_possible_cpu(cpu)
			if (uring->cpu_home[cpu] == queue->qid)
				cpumask_set_cpu(cpu, cpus);
		err = fuse_uring_put_mask(cpus, info.cpus, ulen);
		free_cpumask_var(cpus);
	} else if (ulen) {
		err = -ENOSPC;
	}

	if ((!err || err == -ENOSPC) && copy_to_user(argp, &info, usize))
		err = -EFAULT;

	return err;
}

/* The ioctls that need a ring */
static long fuse_uring_ioctl_info(struct fuse_dev *fud, unsigned int cmd,
				  void __user *argp)
{
	struct fuse_uring *uring = fud ? fuse_uring_get(fud->fc) : NULL;
	long err;

	if (!uring)
		return -ENXIO;

	if (_IOC_NR(cmd) == _IOC_NR(FUSE_DEV_IOC_URING_INFO))
		err = fuse_uring_get_info(uring, argp);
	else
		err = fuse_uring_get_queue_info(uring, argp);
	fuse_uring_put(uring);

	return err;
}

/* Returns -ENOTTY for ioctls that are not for the ring */
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
	case _IOC_NR(FUSE_DEV_IOC_URING_INFO):
		return fuse_uring_ioctl_info(fud, cmd, argp);
	default:
		return -ENOTTY;
	}
}

/*
 * Count messages on /dev/fuse.  On a connection with a ring this is no hot
 * path.
 */
void fuse_uring_count_dev(struct fuse_conn *fc, enum fuse_uring_dev_message msg)
{
	if (fuse_uring_expected(fc))
		atomic64_inc(&fc->uring_dev[msg]);
}

/*
 * @vma must cover the whole memory of one queue.  Returns -ENODEV without a
 * managed ring, -EINVAL for another range, or as fuse_uring_mem_map().
 */
int fuse_uring_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct fuse_dev *fud = fuse_get_dev(file);
	u64 qid, offset = (u64)vma->vm_pgoff << PAGE_SHIFT;
	struct fuse_uring *uring;
	int err = -ENODEV;

	uring = fud ? fuse_uring_get(fud->fc) : NULL;
	if (!uring)
		return err;

	if (!uring->user) {
		u64 size = uring->granted.mmap_size;

		qid = div64_u64(offset, size);
		if (qid >= uring->nr_queues || qid * size != offset ||
		    vma->vm_end - vma->vm_start != size)
			err = -EINVAL;
		else
			err = fuse_uring_mem_map(uring->queues[qid]->mem, vma);
	}
	fuse_uring_put(uring);

	return err;
}

bool fuse_uring_offered(struct fuse_conn *fc)
{
	/* virtiofs can not */
	return READ_ONCE(enable_uring) && fc->iq.ops == &fuse_dev_fiq_ops;
}

/*
 * The answer to FUSE_INIT has FUSE_OVER_IO_URING.  Requests use /dev/fuse until
 * the first slot is registered.  No effect with a managed ring.
 */
void fuse_uring_promise(struct fuse_conn *fc)
{
	mutex_lock(&fuse_mutex);
	spin_lock(&fc->lock);
	if (fc->connected && !fuse_uring_exists(fc))
		/* Pairs with fuse_uring_check_user() */
		smp_store_release(&fc->uring_user, true);
	spin_unlock(&fc->lock);
	if (fc->uring_user)
		fuse_ctl_add_uring(fc);
	mutex_unlock(&fuse_mutex);
}

void fuse_uring_exit(void)
{
	/* Rings may be about to end */
	rcu_barrier();
	if (fuse_uring_end_wq)
		destroy_workqueue(fuse_uring_end_wq);
	if (fuse_uring_wq)
		destroy_workqueue(fuse_uring_wq);
}

int __init fuse_uring_init(void)
{
	fuse_uring_wq = alloc_workqueue("fuse_uring", WQ_UNBOUND, 0);
	fuse_uring_end_wq = alloc_workqueue("fuse_uring_end", WQ_UNBOUND,
					    WQ_MAX_ACTIVE);
	if (fuse_uring_wq && fuse_uring_end_wq)
		return 0;

	fuse_uring_exit();
	return -ENOMEM;
}

/* FUSE_INIT was answered: no request may exceed a slot's payload area */
void fuse_uring_init_limits(struct fuse_mount *fm)
{
	struct backing_dev_info *bdi = fm->sb->s_bdi;
	struct fuse_conn *fc = fm->fc;
	struct fuse_uring *uring;

	/* Else fuse_uring_check_publish() sees conn_init */
	spin_lock(&fc->lock);
	uring = rcu_dereference_protected(fc->uring, lockdep_is_held(&fc->lock));
	if (uring) {
		unsigned int pages = uring->payload_size >> PAGE_SHIFT;

		fc->max_pages = min(fc->max_pages, pages);
		fc->max_write = min(fc->max_write, uring->payload_size);
		/* Limits reads by the kernel itself */
		fc->max_read = min(fc->max_read, uring->payload_size);
		bdi->ra_pages = min_t(unsigned long, bdi->ra_pages, pages);
	}
	spin_unlock(&fc->lock);
}
