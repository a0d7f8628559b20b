// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: statistics file of a connection.
 *
 * Lines of "name value", a line of such pairs per queue, and one per held slot.
 * Counters start at the setup of the ring.
 */
#include "dev_uring_i.h"

#include <linux/seq_file.h>

/* How long the oldest request has been pending, in ms */
static unsigned int fuse_uring_pending_ms(struct fuse_uring_queue *queue)
{
	unsigned long age = 0;
	unsigned int kind;

	for (kind = 0; kind < FUSE_URING_NR_KINDS; kind++) {
		struct fuse_req *req;

		req = list_first_entry_or_null(&queue->pending[kind],
					       struct fuse_req, list);
		if (req)
			age = max(age, jiffies - req->uring_since);
	}

	return jiffies_to_msecs(age);
}

static void fuse_uring_show_queue(struct seq_file *m,
				  struct fuse_uring_queue *queue)
{
	const struct fuse_uring_set *set = queue->set;
	struct fuse_uring_queue_stats stats;
	unsigned int pool_requests = 0, used[FUSE_URING_NR_SETS] = { };
	struct fuse_uring_slot *slot;

	spin_lock(&queue->lock);
	fuse_uring_for_each_slot(slot, queue) {
		if (slot->state == FUSE_URING_SLOT_IDLE)
			continue;
		used[slot->is_control]++;
		pool_requests += slot->buf_type != FUSE_URING_BUF_OWN;
	}
	stats = queue->stats;

	seq_printf(m, "queue %u node %d cpus %u live %u parked %u busy %u background %u pending %u requests %llu sync %llu async %llu noreply %llu waits %llu spills %llu pages %u foreign_pages %u control_parked %u control_busy %u pool_requests %u pool_used %llu pool_waits %llu called %u pending_ms %u threads %u\n",
		   queue->qid, queue->node, queue->nr_cpus, queue->live,
		   set[FUSE_URING_ORDINARY].nr_parked,
		   used[FUSE_URING_ORDINARY] -
		   set[FUSE_URING_ORDINARY].nr_parked -
		   set[FUSE_URING_ORDINARY].nr_called,
		   fuse_uring_nr_background(queue), queue->nr_pending,
		   stats.synchronous + stats.background + stats.noreply,
		   stats.synchronous, stats.background, stats.noreply,
		   stats.waits, stats.spills,
		   queue->mem ? queue->mem->nr_pages : 0,
		   queue->mem ? queue->mem->nr_foreign : 0,
		   set[FUSE_URING_CONTROL].nr_parked,
		   used[FUSE_URING_CONTROL] - set[FUSE_URING_CONTROL].nr_parked -
		   set[FUSE_URING_CONTROL].nr_called,
		   pool_requests, fuse_uring_pool_used(queue), stats.pool_waits,
		   set[FUSE_URING_ORDINARY].nr_called +
		   set[FUSE_URING_CONTROL].nr_called,
		   fuse_uring_pending_ms(queue), queue->nr_threads);
	spin_unlock(&queue->lock);
}

/* Slots that are called or held, and for how long */
static void fuse_uring_show_slots(struct seq_file *m,
				  struct fuse_uring_queue *queue)
{
	struct fuse_uring_slot *slot;

	spin_lock(&queue->lock);
	fuse_uring_for_each_slot(slot, queue) {
		if (slot->state == FUSE_URING_SLOT_CALLED)
			seq_printf(m, "called %u %u age_ms %u\n",
				   queue->qid, slot->index,
				   jiffies_to_msecs(jiffies - slot->since));
		if (slot->state != FUSE_URING_SLOT_HELD &&
		    slot->state != FUSE_URING_SLOT_ORPHAN)
			continue;
		seq_printf(m, "slot %u %u opcode %u unique %llu age_ms %u\n",
			   queue->qid, slot->index,
			   slot->req ? slot->req->in.h.opcode : slot->opcode,
			   slot->req ? slot->req->in.h.unique : slot->unique,
			   jiffies_to_msecs(jiffies - slot->since));
	}
	spin_unlock(&queue->lock);
}

static void fuse_uring_sum_queue(struct fuse_uring_queue_stats *sums,
				 struct fuse_uring_queue *queue)
{
	spin_lock(&queue->lock);
	sums->synchronous += queue->stats.synchronous;
	sums->background += queue->stats.background;
	sums->noreply += queue->stats.noreply;
	sums->waits += queue->stats.waits;
	sums->spills += queue->stats.spills;
	spin_unlock(&queue->lock);
}

static void fuse_uring_show(struct seq_file *m, struct fuse_conn *fc,
			    struct fuse_uring *uring)
{
	unsigned int qid, nr_live = 0, nr_forgets, nr_interrupts, nr_unclaimed;
	struct fuse_uring_queue_stats sums = { };
	u64 forgets, interrupts;

	/* A ring that has ended has no threads */
	if (uring != READ_ONCE(fc->uring_ended))
		fuse_uring_reap(uring);

	spin_lock(&fc->iq.lock);
	nr_forgets = uring->messages.nr_forgets;
	nr_interrupts = list_count_nodes(&uring->messages.interrupts);
	nr_unclaimed = list_count_nodes(&uring->unclaimed);
	forgets = uring->messages.stat_forgets;
	interrupts = uring->messages.stat_interrupts;
	spin_unlock(&fc->iq.lock);

	for (qid = 0; qid < uring->nr_queues; qid++) {
		nr_live += READ_ONCE(uring->queues[qid]->live);
		fuse_uring_sum_queue(&sums, uring->queues[qid]);
	}

	seq_printf(m, "queues %u\n", uring->nr_queues);
	seq_printf(m, "queues_live %u\n", nr_live);
	seq_printf(m, "user_buffers %u\n", uring->user);
	seq_printf(m, "queue_depth %u\n", uring->queue_depth);
	seq_printf(m, "queue_background %u\n", uring->max_background);
	seq_printf(m, "control_depth %u\n", uring->nr_control);
	seq_printf(m, "payload_size %u\n", uring->payload_size);
	seq_printf(m, "small_size %u\n", uring->user ? 0 : uring->small_size);
	seq_printf(m, "pool_size %llu\n", uring->nr_chunks ?
		   uring->granted.mmap_size - uring->pool_offset : 0);
	seq_printf(m, "requests_ring %llu\n",
		   sums.synchronous + sums.background + sums.noreply);
	seq_printf(m, "requests_ring_sync %llu\n", sums.synchronous);
	seq_printf(m, "requests_ring_async %llu\n", sums.background);
	seq_printf(m, "requests_ring_noreply %llu\n", sums.noreply);
	seq_printf(m, "requests_held %u\n", nr_unclaimed);
	seq_printf(m, "forgets_ring %llu\n", forgets);
	seq_printf(m, "interrupts_ring %llu\n", interrupts);
	seq_printf(m, "forgets_pending %u\n", nr_forgets);
	seq_printf(m, "interrupts_pending %u\n", nr_interrupts);
	seq_printf(m, "notifications_ring %lld\n",
		   atomic64_read(&fc->uring_notifications));
	seq_printf(m, "waits %llu\n", sums.waits);
	seq_printf(m, "spills %llu\n", sums.spills);

	for (qid = 0; qid < uring->nr_queues; qid++)
		fuse_uring_show_queue(m, uring->queues[qid]);
	for (qid = 0; qid < uring->nr_queues; qid++)
		fuse_uring_show_slots(m, uring->queues[qid]);
}

static int fuse_uring_stats_show(struct seq_file *m, void *v)
{
	static const char *const names[] = {
		[FUSE_URING_DEV_REQUEST]	= "requests",
		[FUSE_URING_DEV_FORGET]		= "forgets",
		[FUSE_URING_DEV_INTERRUPT]	= "interrupts",
		[FUSE_URING_DEV_NOTIFICATION]	= "notifications",
	};
	struct fuse_conn *fc = m->private;
	struct fuse_uring *uring = fuse_uring_get(fc);
	unsigned int i;

	seq_printf(m, "promised %u\n", READ_ONCE(fc->uring_user));
	for (i = 0; i < FUSE_URING_DEV_NR; i++)
		seq_printf(m, "%s_dev %lld\n", names[i],
			   atomic64_read(&fc->uring_dev[i]));
	if (uring) {
		fuse_uring_show(m, fc, uring);
		fuse_uring_put(uring);
	} else if (READ_ONCE(fc->uring_ended)) {
		fuse_uring_show(m, fc, fc->uring_ended);
	} else {
		seq_puts(m, "queues 0\nqueues_live 0\n");
	}

	return 0;
}

static int fuse_uring_stats_open(struct inode *inode, struct file *file)
{
	struct fuse_conn *fc = fuse_ctl_file_conn_get(file);
	int err = fc ? single_open(file, fuse_uring_stats_show, fc) : -ENODEV;

	if (fc && err)
		fuse_conn_put(fc);
	return err;
}

static int fuse_uring_stats_release(struct inode *inode, struct file *file)
{
	fuse_conn_put(((struct seq_file *)file->private_data)->private);
	return single_release(inode, file);
}

const struct file_operations fuse_uring_stats_ops = {
	.open		= fuse_uring_stats_open,
	.read		= seq_read,
	.llseek		= seq_lseek,
	.release	= fuse_uring_stats_release,
};
