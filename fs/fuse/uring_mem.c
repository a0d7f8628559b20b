// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: memory of a queue and its mapping.
 *
 * The memory is ordinary pages, allocated on the queue's node and charged to
 * whoever sets the ring up, so that a server can do direct I/O on its mapping
 * and register it as io_uring buffers.  It lives until both the ring and the
 * last mapping are gone.
 */
#include "uring_i.h"

#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/sched/user.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

/*
 * Account to the user's locked memory, as other memory is that the kernel
 * holds for a user's ring buffers.
 */
static int fuse_uring_mem_account(struct fuse_uring_mem *mem)
{
	unsigned long limit, locked, nr = mem->nr_pages;
	struct user_struct *user;

	if (capable(CAP_IPC_LOCK))
		return 0;

	limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
	user = get_uid(current_user());
	locked = atomic_long_read(&user->locked_vm);
	do {
		if (nr > limit || locked > limit - nr) {
			free_uid(user);
			return -ENOBUFS;
		}
	} while (!atomic_long_try_cmpxchg(&user->locked_vm, &locked,
					  locked + nr));
	mem->user = user;
	return 0;
}

static void fuse_uring_mem_free(struct fuse_uring_mem *mem, unsigned int nr)
{
	if (mem->addr)
		vunmap(mem->addr);
	while (nr--)
		put_page(mem->pages[nr]);
	if (mem->user) {
		atomic_long_sub(mem->nr_pages, &mem->user->locked_vm);
		free_uid(mem->user);
	}
	kvfree(mem->pages);
	kfree(mem);
}

/**
 * fuse_uring_mem_alloc - allocate the memory of a queue
 * @size: in bytes, whole pages
 * @node: NUMA node to take it from, NUMA_NO_NODE for any.  When that node
 *	has none left it comes from the nodes nearest to it.
 *
 * Return: the memory, all zeroes, with a reference for the caller; -ENOBUFS
 * when it exceeds what RLIMIT_MEMLOCK leaves to the user, -ENOMEM.
 */
struct fuse_uring_mem *fuse_uring_mem_alloc(u64 size, int node)
{
	struct fuse_uring_mem *mem;
	unsigned int i;
	int err;

	mem = kzalloc(sizeof(*mem), GFP_KERNEL_ACCOUNT);
	if (!mem)
		return ERR_PTR(-ENOMEM);

	kref_init(&mem->ref);
	mem->node = node;
	mem->nr_pages = size >> PAGE_SHIFT;

	err = fuse_uring_mem_account(mem);
	if (err) {
		kfree(mem);
		return ERR_PTR(err);
	}

	mem->pages = kvmalloc_array(mem->nr_pages, sizeof(*mem->pages),
				    GFP_KERNEL_ACCOUNT);
	if (!mem->pages) {
		fuse_uring_mem_free(mem, 0);
		return ERR_PTR(-ENOMEM);
	}

	for (i = 0; i < mem->nr_pages; i++) {
		/* Out of memory is the server's problem, kill nobody for it */
		struct page *page = alloc_pages_node(node, GFP_KERNEL_ACCOUNT |
						     __GFP_ZERO | __GFP_NOWARN |
						     __GFP_RETRY_MAYFAIL, 0);

		if (!page || fatal_signal_pending(current)) {
			if (page)
				put_page(page);
			fuse_uring_mem_free(mem, i);
			return ERR_PTR(-ENOMEM);
		}
		if (node != NUMA_NO_NODE && page_to_nid(page) != node)
			mem->nr_foreign++;
		mem->pages[i] = page;
		cond_resched();
	}

	mem->addr = vmap(mem->pages, mem->nr_pages, VM_MAP, PAGE_KERNEL);
	if (!mem->addr) {
		fuse_uring_mem_free(mem, mem->nr_pages);
		return ERR_PTR(-ENOMEM);
	}

	return mem;
}

static void fuse_uring_mem_release(struct kref *ref)
{
	struct fuse_uring_mem *mem = container_of(ref, typeof(*mem), ref);

	fuse_uring_mem_free(mem, mem->nr_pages);
}

void fuse_uring_mem_put(struct fuse_uring_mem *mem)
{
	kref_put(&mem->ref, fuse_uring_mem_release);
}

static int fuse_uring_mem_file_release(struct inode *inode, struct file *file)
{
	fuse_uring_mem_put(file->private_data);
	return 0;
}

/* The file behind a mapping: all it can do is keep the memory */
static const struct file_operations fuse_uring_mem_fops = {
	.owner		= THIS_MODULE,
	.release	= fuse_uring_mem_file_release,
};

static int fuse_uring_map_queue(struct fuse_uring *uring,
				struct vm_area_struct *vma)
{
	u64 offset = (u64)vma->vm_pgoff << PAGE_SHIFT;
	struct fuse_uring_mem *mem;
	struct file *memfile;
	unsigned long nr;
	u64 qid;

	qid = div64_u64(offset, uring->mmap_size);
	if (qid >= uring->nr_queues || qid * uring->mmap_size != offset ||
	    vma->vm_end - vma->vm_start != uring->mmap_size)
		return -EINVAL;
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EPERM;

	mem = uring->queues[qid]->mem;
	kref_get(&mem->ref);
	memfile = anon_inode_getfile("[fuse-uring]", &fuse_uring_mem_fops, mem,
				     O_RDWR);
	if (IS_ERR(memfile)) {
		fuse_uring_mem_put(mem);
		return PTR_ERR(memfile);
	}
	vma_set_file(vma, memfile);
	fput(memfile);

	vm_flags_mod(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP,
		     VM_MAYEXEC);
	nr = mem->nr_pages;
	return vm_insert_pages(vma, vma->vm_start, mem->pages, &nr);
}

/**
 * fuse_uring_mmap - map the memory of a queue
 * @file: a /dev/fuse file of a connection that has a ring
 * @vma: the whole of one queue's memory, shared and not executable
 *
 * The mapping keeps the memory, but not @file: closing the last descriptor
 * ends the connection, mapped or not.
 *
 * Return: 0, -ENODEV when there is no ring or one with user buffers, -EINVAL when
 * the range is not that of a queue or the mapping not shared, -EPERM when it is
 * executable, -ENOMEM.
 */
int fuse_uring_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct fuse_dev *fud = fuse_get_dev(file);
	struct fuse_uring *uring;
	int err;

	uring = fud ? fuse_uring_get(fud->fc) : NULL;
	if (!uring)
		return -ENODEV;

	err = uring->user ? -ENODEV : fuse_uring_map_queue(uring, vma);
	fuse_uring_put(uring);

	return err;
}
