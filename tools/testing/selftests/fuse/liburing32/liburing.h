/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What puppet.c and the tests that use nothing else need of liburing, for
 * programs of 32 bits on machines that have the library for 64 bits only.
 */
#ifndef FUSE_TEST_LIBURING32_H
#define FUSE_TEST_LIBURING32_H

#include <errno.h>
#include <linux/io_uring.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef IORING_SETUP_SINGLE_ISSUER
#error "linux/io_uring.h is older than 6.1: run 'make headers'"
#endif

struct io_uring {
	unsigned int	flags;		/* IORING_SETUP_* */
	int		ring_fd;
	void		*rings, *sqes;
	size_t		rings_size, sqes_size;
	unsigned int	*sq_head, *sq_tail, *sq_flags;
	unsigned int	*cq_head, *cq_tail;
	unsigned int	sq_entries, cq_entries;
	unsigned int	tail;		/* SQEs that have been given out */
	struct io_uring_cqe *cqes;
};

static inline int io_uring_enter32(struct io_uring *ring, unsigned int submit,
				   unsigned int flags)
{
	int ret = syscall(__NR_io_uring_enter, ring->ring_fd, submit, 0, flags,
			  NULL, 0);

	return ret < 0 ? -errno : ret;
}

static inline void io_uring_queue_exit(struct io_uring *ring)
{
	munmap(ring->sqes, ring->sqes_size);
	munmap(ring->rings, ring->rings_size);
	close(ring->ring_fd);
}

static inline int io_uring_map32(struct io_uring *ring,
				 const struct io_uring_params *p)
{
	const int prot = PROT_READ | PROT_WRITE;
	unsigned int i, *array;
	size_t cqes_end;
	char *rings;

	/* All kernels with these flags have both rings in one mapping. */
	cqes_end = p->cq_off.cqes + p->cq_entries * sizeof(*ring->cqes);
	ring->rings_size = p->sq_off.array + p->sq_entries * sizeof(*array);
	if (ring->rings_size < cqes_end)
		ring->rings_size = cqes_end;
	ring->sqes_size = p->sq_entries * sizeof(struct io_uring_sqe);
	if (p->flags & IORING_SETUP_SQE128)
		ring->sqes_size *= 2;
	ring->rings = mmap(NULL, ring->rings_size, prot, MAP_SHARED,
			   ring->ring_fd, IORING_OFF_SQ_RING);
	if (ring->rings == MAP_FAILED)
		return -errno;
	ring->sqes = mmap(NULL, ring->sqes_size, prot, MAP_SHARED,
			  ring->ring_fd, IORING_OFF_SQES);
	if (ring->sqes == MAP_FAILED) {
		munmap(ring->rings, ring->rings_size);
		return -errno;
	}
	rings = ring->rings;
	ring->sq_head = (void *)(rings + p->sq_off.head);
	ring->sq_tail = (void *)(rings + p->sq_off.tail);
	ring->sq_flags = (void *)(rings + p->sq_off.flags);
	ring->cq_head = (void *)(rings + p->cq_off.head);
	ring->cq_tail = (void *)(rings + p->cq_off.tail);
	ring->cqes = (void *)(rings + p->cq_off.cqes);
	ring->sq_entries = p->sq_entries;
	ring->cq_entries = p->cq_entries;
	ring->flags = p->flags;
	/* The entry n of the queue is the n-th SQE, always. */
	array = (void *)(rings + p->sq_off.array);
	for (i = 0; i < p->sq_entries; i++)
		array[i] = i;
	return 0;
}

static inline int io_uring_queue_init_params(unsigned int entries,
					     struct io_uring *ring,
					     struct io_uring_params *p)
{
	int ret;

	memset(ring, 0, sizeof(*ring));
	ring->ring_fd = syscall(__NR_io_uring_setup, entries, p);
	if (ring->ring_fd < 0)
		return -errno;
	ret = io_uring_map32(ring, p);
	if (ret)
		close(ring->ring_fd);
	return ret;
}

static inline int io_uring_queue_init(unsigned int entries,
				      struct io_uring *ring, unsigned int flags)
{
	struct io_uring_params p = { .flags = flags };

	return io_uring_queue_init_params(entries, ring, &p);
}

static inline int io_uring_ring_dontfork(struct io_uring *ring)
{
	if (madvise(ring->rings, ring->rings_size, MADV_DONTFORK) ||
	    madvise(ring->sqes, ring->sqes_size, MADV_DONTFORK))
		return -errno;
	return 0;
}

static inline struct io_uring_sqe *io_uring_get_sqe(struct io_uring *ring)
{
	unsigned int head = __atomic_load_n(ring->sq_head, __ATOMIC_ACQUIRE);
	struct io_uring_sqe *sqes = ring->sqes;
	unsigned int at;

	if (ring->tail - head >= ring->sq_entries)
		return NULL;
	at = ring->tail++ & (ring->sq_entries - 1);
	return &sqes[ring->flags & IORING_SETUP_SQE128 ? 2 * at : at];
}

static inline int io_uring_submit(struct io_uring *ring)
{
	unsigned int nr = ring->tail - *ring->sq_tail, flags = 0;

	__atomic_store_n(ring->sq_tail, ring->tail, __ATOMIC_RELEASE);
	if (ring->flags & IORING_SETUP_SQPOLL) {
		/* It looks for the tail after it has set the flag. */
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (!(__atomic_load_n(ring->sq_flags, __ATOMIC_RELAXED) &
		      IORING_SQ_NEED_WAKEUP))
			return nr;
		flags |= IORING_ENTER_SQ_WAKEUP;
	}
	return io_uring_enter32(ring, nr, flags);
}

/* What the kernel can only tell whom it may interrupt, and what overflowed */
static inline int io_uring_get_events(struct io_uring *ring)
{
	return io_uring_enter32(ring, 0, IORING_ENTER_GETEVENTS);
}

static inline int io_uring_peek_cqe(struct io_uring *ring,
				    struct io_uring_cqe **cqe)
{
	unsigned int head = *ring->cq_head;

	if (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE) &&
	    __atomic_load_n(ring->sq_flags, __ATOMIC_RELAXED) &
	    (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN))
		io_uring_get_events(ring);
	if (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE))
		return -EAGAIN;
	*cqe = &ring->cqes[head & (ring->cq_entries - 1)];
	return 0;
}

static inline void io_uring_cqe_seen(struct io_uring *ring,
				     struct io_uring_cqe *cqe)
{
	(void)cqe;
	__atomic_store_n(ring->cq_head, *ring->cq_head + 1, __ATOMIC_RELEASE);
}

#endif
