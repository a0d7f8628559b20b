// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: the death of a server's thread.
 *
 * io_uring does not tell that a task exits as long as its ring stays open, and
 * other threads of a process do keep it open.  So the ring waits for the end
 * of each task that has armed slots, where pidfd_poll() would.
 */
#include "uring_i.h"

#include <linux/pid.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

/**
 * struct fuse_uring_watch - a task that has armed slots
 * @entry: on the ring's list of these, under its mutex
 * @uring: the ring, which lives longer
 * @task: the task, with a reference
 * @pid: its pid, with a reference
 * @exec_id: the program that it runs, which another one may replace
 * @wait: on the pid's wait queue
 * @work: withdraws the slots when the task is dead
 * @done: @work has run
 */
struct fuse_uring_watch {
	struct list_head entry;
	struct fuse_uring *uring;
	struct task_struct *task;
	struct pid *pid;
	u64 exec_id;
	wait_queue_entry_t wait;
	struct work_struct work;
	bool done;
};

static void fuse_uring_watch_withdraw(struct fuse_uring_watch *watch)
{
	unsigned int qid;

	for (qid = 0; qid < watch->uring->nr_queues; qid++)
		fuse_uring_queue_withdraw(watch->uring->queues[qid],
					  watch->task);
}

static void fuse_uring_watch_work(struct work_struct *work)
{
	struct fuse_uring_watch *watch = container_of(work, typeof(*watch), work);

	fuse_uring_watch_withdraw(watch);
	WRITE_ONCE(watch->done, true);
}

/*
 * Whether the task runs another program since.  exec has cancelled its commands,
 * and nobody knows any more of the requests that it had in its hands.
 */
static bool fuse_uring_watch_execed(struct fuse_uring_watch *watch)
{
	return watch->exec_id != READ_ONCE(watch->task->self_exec_id);
}

/* Called under the lock of the pid's wait queue, and of others */
static int fuse_uring_watch_wake(wait_queue_entry_t *wait, unsigned int mode,
				 int flags, void *key)
{
	struct fuse_uring_watch *watch = container_of(wait, typeof(*watch), wait);

	if (READ_ONCE(watch->task->exit_state))
		schedule_work(&watch->work);

	return 0;
}

static void fuse_uring_watch_free(struct fuse_uring_watch *watch)
{
	remove_wait_queue(&watch->pid->wait_pidfd, &watch->wait);
	cancel_work_sync(&watch->work);
	list_del(&watch->entry);
	put_pid(watch->pid);
	put_task_struct(watch->task);
	kfree(watch);
}

/**
 * fuse_uring_watch - withdraw the slots of a task when it has died
 * @uring: the ring
 * @task: a task that is about to arm a slot
 *
 * Return: 0 or -ENOMEM.
 */
int fuse_uring_watch(struct fuse_uring *uring, struct task_struct *task)
{
	struct fuse_uring_watch *watch, *next;
	int err = 0;

	mutex_lock(&uring->watch_mutex);
	list_for_each_entry_safe(watch, next, &uring->watches, entry) {
		if (watch->task == task) {
			if (!fuse_uring_watch_execed(watch))
				goto out;
			/* It may have got another pid, too */
			fuse_uring_watch_withdraw(watch);
			fuse_uring_watch_free(watch);
		} else if (READ_ONCE(watch->done)) {
			fuse_uring_watch_free(watch);
		}
	}

	watch = kzalloc(sizeof(*watch), GFP_KERNEL_ACCOUNT);
	if (!watch) {
		err = -ENOMEM;
		goto out;
	}
	watch->uring = uring;
	watch->task = get_task_struct(task);
	watch->pid = get_task_pid(task, PIDTYPE_PID);
	watch->exec_id = READ_ONCE(task->self_exec_id);
	INIT_WORK(&watch->work, fuse_uring_watch_work);
	init_waitqueue_func_entry(&watch->wait, fuse_uring_watch_wake);
	list_add(&watch->entry, &uring->watches);
	add_wait_queue(&watch->pid->wait_pidfd, &watch->wait);
out:
	mutex_unlock(&uring->watch_mutex);

	return err;
}

/**
 * fuse_uring_watch_reap - do now what the death of a task calls for
 * @uring: the ring
 *
 * For who knows that the server has died, when the ring may not know it yet, or
 * that another program has taken its place.
 */
void fuse_uring_watch_reap(struct fuse_uring *uring)
{
	struct fuse_uring_watch *watch;

	mutex_lock(&uring->watch_mutex);
	list_for_each_entry(watch, &uring->watches, entry) {
		if (READ_ONCE(watch->task->flags) & PF_EXITING ||
		    fuse_uring_watch_execed(watch))
			fuse_uring_watch_withdraw(watch);
	}
	mutex_unlock(&uring->watch_mutex);
}

/* Nobody arms slots any more */
void fuse_uring_watch_free_all(struct fuse_uring *uring)
{
	struct fuse_uring_watch *watch, *next;

	list_for_each_entry_safe(watch, next, &uring->watches, entry)
		fuse_uring_watch_free(watch);
}
