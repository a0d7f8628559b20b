// SPDX-License-Identifier: GPL-2.0
/*
 * A complete filesystem on the managed ring: one directory, whose files are in
 * memory and stay until it is unmounted, which ends this program.
 *
 *	fuse_ring_min MOUNTPOINT
 *
 * Documentation/filesystems/fuse-uring.rst walks through it, from main() down.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/param.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ERROR(name)	(-E ## name)

/* All that is not asked for is the kernel's choice */
static struct fuse_uring_setup setup = { .size = sizeof(setup), .nr_control = 2 };
static int dev;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;	/* of the files */

static void *serve_queue(void *arg);
static long handle(const struct fuse_in_header *in, const void *op, char *payload);

int main(int argc, char **argv)
{
	pthread_t threads[1024];
	unsigned long qid;
	char opts[96];

	if (argc != 2)
		errx(2, "usage: fuse_ring_min MOUNTPOINT");

	dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	snprintf(opts, sizeof(opts), "fd=%d,rootmode=40000,user_id=%u,group_id=%u",
		 dev, getuid(), getgid());
	if (dev < 0 || mount("ring_min", argv[1], "fuse", MS_NOSUID | MS_NODEV, opts))
		err(1, "%s", argv[1]);
	if (ioctl(dev, FUSE_DEV_IOC_URING_SETUP, &setup)) {
		warn("FUSE_DEV_IOC_URING_SETUP");
		setup.nr_queues = 0;
	}
	for (qid = 0; qid < MIN(setup.nr_queues, 1024); qid++)
		if (pthread_create(&threads[qid], NULL, serve_queue, (void *)qid))
			break;
	while (qid--)
		pthread_join(threads[qid], NULL);
	/* Fails if that is what has ended them */
	umount2(argv[1], MNT_DETACH);
	return !setup.nr_queues;
}

/* Fetch a request into a slot, or commit the reply in it and fetch the next */
static void command(struct io_uring *ring, unsigned int op, unsigned int qid,
		    unsigned int slot, __u64 commit_id)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct fuse_uring_slot_cmd *cmd = (void *)sqe->cmd;

	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, dev, NULL, 0, 0);
	sqe->cmd_op = op;
	sqe->user_data = slot;
	*cmd = (struct fuse_uring_slot_cmd){
		.commit_id = commit_id, .qid = qid, .slot = slot };
}

/* Handle the request in a slot, leave the reply there, and return its name */
static __u64 answer(char *map, unsigned int slot)
{
	struct fuse_uring_slot_header *hdr =
		(void *)(map + setup.header_offset + slot * setup.header_stride);
	const struct fuse_in_header in = *(struct fuse_in_header *)hdr->in_out;
	struct fuse_out_header *out = (void *)hdr->in_out;
	long ret;

	pthread_mutex_lock(&lock);
	ret = handle(&in, hdr->op_in, map + hdr->payload_offset);
	pthread_mutex_unlock(&lock);
	out->unique = in.unique;
	out->error = MIN(ret, 0);
	hdr->payload_sz = MAX(ret, 0);
	return hdr->commit_id;
}

static void *serve_queue(void *arg)
{
	const unsigned int flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
	unsigned int qid = (unsigned long)arg, slot, head, seen;
	unsigned int armed = setup.queue_depth + setup.nr_control;
	cpu_set_t cpus;
	struct fuse_uring_queue_info info = { .size = sizeof(info), .qid = qid,
		.cpus = (unsigned long)&cpus, .cpus_len = sizeof(cpus) };
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	char *map;

	/* Where requests come from, so that the io_uring and this thread are near */
	if (!ioctl(dev, FUSE_DEV_IOC_URING_QUEUE_INFO, &info))
		pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
	map = mmap(NULL, setup.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		   dev, qid * setup.queue_stride);
	if (map == MAP_FAILED || io_uring_queue_init(armed, &ring, flags)) {
		warn("queue %u", qid);	/* Others do its work */
		return NULL;
	}

	for (slot = 0; slot < armed; slot++)
		command(&ring, FUSE_URING_REQ_FETCH, qid, slot, 0);
	/* A command that fails leaves its slot unarmed: all do at the end */
	while (armed) {
		io_uring_submit_and_wait(&ring, 1);
		seen = 0;
		io_uring_for_each_cqe(&ring, head, cqe) {
			slot = cqe->user_data;
			seen++;
			if (cqe->res)
				armed--;
			else
				command(&ring, FUSE_URING_REQ_COMMIT_AND_FETCH, qid,
					slot, answer(map, slot));
		}
		io_uring_cq_advance(&ring, seen);
	}
	io_uring_queue_exit(&ring);
	munmap(map, setup.mmap_size);
	return NULL;
}

/* The filesystem: a file's nodeid is its index and 1, the first is the root */
#define MAX_FILES	4096
#define MAX_SIZE	(16 << 20)
static struct file {
	char name[256], *data;
	__u64 size;
	time_t mtime;
} files[MAX_FILES];
static unsigned int nr_files = 1;

static struct fuse_attr attr_of(const struct file *f)
{
	return (struct fuse_attr){ .ino = f - files + 1, .size = f->size, .nlink = 1,
		.mode = f == files ? S_IFDIR | 0755 : S_IFREG | 0644,
		.mtime = f->mtime, .uid = getuid(), .gid = getgid() };
}

/* Makes it if @make; returns the size of the reply, or an error */
static long lookup(const char *name, int make, struct fuse_entry_out *out)
{
	struct file *f = files + 1;

	while (f < files + nr_files && strcmp(f->name, name))
		f++;
	if (f == files + nr_files) {
		if (!make || nr_files == MAX_FILES)
			return make ? ERROR(NOSPC) : ERROR(NOENT);
		f->data = calloc(1, MAX_SIZE);
		if (!f->data)
			return ERROR(NOSPC);
		memcpy(f->name, name, strlen(name));
		f->mtime = time(NULL);
		nr_files++;
	}
	*out = (struct fuse_entry_out){ .nodeid = f - files + 1, .attr = attr_of(f) };
	return sizeof(*out);
}

static long resize(struct file *f, __u64 size)
{
	if (size > MAX_SIZE)
		return ERROR(FBIG);
	if (size < f->size)
		memset(f->data + size, 0, f->size - size);
	f->size = size;
	f->mtime = time(NULL);
	return 0;
}

/* Entries from index @next on, as many as @room has space for */
static long list(unsigned long next, char *out, unsigned int room)
{
	struct fuse_dirent *entry = (void *)out;

	for (next += !next; next < nr_files; next++) {
		size_t len = strlen(files[next].name);

		if ((char *)entry + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + len) > out + room)
			break;
		*entry = (struct fuse_dirent){ .ino = next + 1, .off = next + 1,
					       .namelen = len, .type = S_IFREG >> 12 };
		memcpy(entry->name, files[next].name, len);
		entry = (void *)entry + FUSE_DIRENT_SIZE(entry);
	}
	return (char *)entry - out;
}

static long handle(const struct fuse_in_header *in, const void *op, char *payload)
{
	const struct fuse_read_in *rw = op;	/* struct fuse_write_in begins like it */
	const struct fuse_setattr_in *set = op;
	struct file *f = &files[in->nodeid - 1];
	long ret = 0;

	switch (in->opcode) {
	case FUSE_INIT:
		*(struct fuse_init_out *)payload = (struct fuse_init_out){
			.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION,
			.flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES,
			.max_readahead = setup.payload_size, .max_write = setup.payload_size,
			.max_pages = setup.payload_size / getpagesize() };
		return sizeof(struct fuse_init_out);
	case FUSE_LOOKUP:
	case FUSE_MKNOD:
		return lookup(payload, in->opcode == FUSE_MKNOD, (void *)payload);
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		if (in->opcode == FUSE_SETATTR && set->valid & FATTR_SIZE)
			ret = resize(f, set->size);
		*(struct fuse_attr_out *)payload = (struct fuse_attr_out){ .attr = attr_of(f) };
		return ret ? ret : (long)sizeof(struct fuse_attr_out);
	case FUSE_READDIR:
		return list(rw->offset, payload, rw->size);
	case FUSE_READ:
		ret = MIN(rw->size, f->size - MIN(f->size, rw->offset));
		memcpy(payload, f->data + rw->offset, ret);
		return ret;
	case FUSE_WRITE:
		if (rw->offset + rw->size > f->size)
			ret = resize(f, rw->offset + rw->size);
		if (ret)
			return ret;
		memcpy(f->data + rw->offset, payload, rw->size);
		*(struct fuse_write_out *)payload = (struct fuse_write_out){ rw->size };
		return sizeof(struct fuse_write_out);
	default:	/* Of FUSE_FORGET it need not know, as files stay */
		return ERROR(NOSYS);
	}
}
