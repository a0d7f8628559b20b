// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: statistics file of a connection.
 *
 * Lines of "name value", then a line of such pairs for each queue, then one for
 * each slot in the server's hands.  Counters count from the setup of the ring.
 */
#include "uring_i.h"

#include <linux/seq_file.h>

/* What of a queue goes into the sums too */
struct fuse_uring_sums {
	unsigned int live;
	struct fuse_uring_queue_stats stats;
};

static void fuse_uring_show_queue(struct seq_file *m,
				  struct fuse_uring_queue *queue)
{
	unsigned int parked, busy = 0, background, waiting;
	unsigned int control_parked, control_busy = 0;
	struct fuse_uring_queue_stats stats;
	unsigned int pool_requests = 0;
	struct fuse_uring_slot *slot;
	u64 pool_used;
	bool live;

	spin_lock(&queue->lock);
	live = queue->live;
	parked = queue->ordinary.nr_ready;
	control_parked = queue->control.nr_ready;
	fuse_uring_for_each_slot(slot, queue) {
		if (slot->state == FUSE_URING_SLOT_IDLE)
			continue;
		if (slot->is_control)
			control_busy++;
		else
			busy++;
		pool_requests += slot->lot != FUSE_URING_LOT_OWN;
	}
	busy -= parked;
	control_busy -= control_parked;
	background = queue->nr_background;
	stats = queue->stats;
	waiting = queue->nr_pending;
	pool_used = fuse_uring_pool_used(queue);
	spin_unlock(&queue->lock);

	seq_printf(m, "queue %u node %d cpus %u live %u parked %u busy %u background %u pending %u requests %llu sync %llu async %llu noreply %llu waits %llu spills %llu pages %u foreign_pages %u control_parked %u control_busy %u pool_requests %u pool_used %llu pool_waits %llu\n",
		   queue->qid, queue->node, queue->nr_cpus, live, parked, busy,
		   background, waiting,
		   stats.synchronous + stats.background + stats.noreply,
		   stats.synchronous, stats.background, stats.noreply,
		   stats.waits, stats.spills,
		   queue->mem ? queue->mem->nr_pages : 0,
		   queue->mem ? queue->mem->nr_foreign : 0,
		   control_parked, control_busy,
		   pool_requests, pool_used, stats.pool_waits);
}

/* What the server has in its hands, and since when */
static void fuse_uring_show_slots(struct seq_file *m,
				  struct fuse_uring_queue *queue)
{
	struct fuse_uring_slot *slot;

	spin_lock(&queue->lock);
	fuse_uring_for_each_slot(slot, queue) {
		if (slot->state != FUSE_URING_SLOT_BUSY)
			continue;
		seq_printf(m, "slot %u %u opcode %u unique %llu age_ms %u\n",
			   queue->qid, slot->index,
			   slot->req ? slot->req->in.h.opcode : slot->opcode,
			   slot->req ? slot->req->in.h.unique : slot->unique,
			   jiffies_to_msecs(jiffies - slot->since));
	}
	spin_unlock(&queue->lock);
}

static void fuse_uring_sum_queue(struct fuse_uring_sums *sums,
				 struct fuse_uring_queue *queue)
{
	spin_lock(&queue->lock);
	sums->live += queue->live;
	sums->stats.synchronous += queue->stats.synchronous;
	sums->stats.background += queue->stats.background;
	sums->stats.noreply += queue->stats.noreply;
	sums->stats.waits += queue->stats.waits;
	sums->stats.spills += queue->stats.spills;
	spin_unlock(&queue->lock);
}

static int fuse_uring_stats_show(struct seq_file *m, void *v)
{
	struct fuse_conn *fc = m->private;
	struct fuse_uring *uring;
	unsigned int qid, nr_forgets, nr_interrupts, nr_held;
	struct fuse_uring_sums sums = { };
	u64 forgets, interrupts;

	rcu_read_lock();
	uring = fuse_uring_rcu(fc);

	spin_lock(&fc->iq.lock);
	nr_forgets = uring->control.nr_forgets;
	nr_interrupts = list_count_nodes(&uring->control.interrupts);
	nr_held = list_count_nodes(&uring->held);
	forgets = uring->control.stat_forgets;
	interrupts = uring->control.stat_interrupts;
	spin_unlock(&fc->iq.lock);

	for (qid = 0; qid < uring->nr_queues; qid++)
		fuse_uring_sum_queue(&sums, uring->queues[qid]);

	seq_printf(m, "queues %u\n", uring->nr_queues);
	seq_printf(m, "queues_live %u\n", sums.live);
	seq_printf(m, "user_buffers %u\n", uring->user);
	seq_printf(m, "queue_depth %u\n", uring->queue_depth);
	seq_printf(m, "queue_background %u\n", uring->max_background);
	seq_printf(m, "control_depth %u\n", uring->nr_control);
	seq_printf(m, "payload_size %u\n", uring->payload_size);
	seq_printf(m, "small_size %u\n", uring->user ? 0 : uring->small_size);
	seq_printf(m, "pool_size %llu\n", uring->nr_chunks ?
		   uring->mmap_size - uring->pool_offset : 0);
	seq_printf(m, "requests_ring %llu\n", sums.stats.synchronous +
		   sums.stats.background + sums.stats.noreply);
	seq_printf(m, "requests_ring_sync %llu\n", sums.stats.synchronous);
	seq_printf(m, "requests_ring_async %llu\n", sums.stats.background);
	seq_printf(m, "requests_ring_noreply %llu\n", sums.stats.noreply);
	seq_printf(m, "requests_held %u\n", nr_held);
	seq_printf(m, "forgets_ring %llu\n", forgets);
	seq_printf(m, "interrupts_ring %llu\n", interrupts);
	seq_printf(m, "forgets_pending %u\n", nr_forgets);
	seq_printf(m, "interrupts_pending %u\n", nr_interrupts);
	seq_printf(m, "notifications_ring %llu\n",
		   fuse_uring_notifier_count(uring->notifier));
	seq_printf(m, "requests_dev %lld\n",
		   atomic64_read(&uring->dev[FUSE_URING_DEV_REQUEST]));
	seq_printf(m, "forgets_dev %lld\n",
		   atomic64_read(&uring->dev[FUSE_URING_DEV_FORGET]));
	seq_printf(m, "interrupts_dev %lld\n",
		   atomic64_read(&uring->dev[FUSE_URING_DEV_INTERRUPT]));
	seq_printf(m, "notifications_dev %lld\n",
		   atomic64_read(&uring->dev[FUSE_URING_DEV_NOTIFICATION]));
	seq_printf(m, "waits %llu\n", sums.stats.waits);
	seq_printf(m, "spills %llu\n", sums.stats.spills);

	for (qid = 0; qid < uring->nr_queues; qid++)
		fuse_uring_show_queue(m, uring->queues[qid]);
	for (qid = 0; qid < uring->nr_queues; qid++)
		fuse_uring_show_slots(m, uring->queues[qid]);
	rcu_read_unlock();

	return 0;
}

static int fuse_uring_stats_open(struct inode *inode, struct file *file)
{
	struct fuse_conn *fc = fuse_ctl_file_conn_get(file);
	int err;

	if (!fc)
		return -ENODEV;

	err = single_open(file, fuse_uring_stats_show, fc);
	if (err)
		fuse_conn_put(fc);

	return err;
}

static int fuse_uring_stats_release(struct inode *inode, struct file *file)
{
	struct seq_file *m = file->private_data;

	fuse_conn_put(m->private);

	return single_release(inode, file);
}

const struct file_operations fuse_uring_stats_ops = {
	.open		= fuse_uring_stats_open,
	.read		= seq_read,
	.llseek		= seq_lseek,
	.release	= fuse_uring_stats_release,
};
