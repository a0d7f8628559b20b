// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: memory of a queue and its mapping.
 *
 * Ordinary pages on the queue's node, charged to the task that sets the ring
 * up.  A server can use its mapping for direct I/O and as registered buffers.
 * The memory stays until the ring and the last mapping are gone.
 */
#include "dev_uring_i.h"

#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/sched/user.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

/* Bytes that the caller may still lock */
u64 fuse_uring_mem_room(void)
{
	unsigned long limit, locked;

	if (capable(CAP_IPC_LOCK))
		return U64_MAX;

	limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
	locked = atomic_long_read(&current_user()->locked_vm);

	return (u64)(limit - min(limit, locked)) << PAGE_SHIFT;
}

/* Account to the user's locked memory */
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

/*
 * Returns zeroed memory with a reference.  Falls back to other nodes if @node
 * has none left.  Fails with -ENOBUFS over RLIMIT_MEMLOCK, or -ENOMEM.
 */
struct fuse_uring_mem *fuse_uring_mem_alloc(u64 size, int node)
{
	struct fuse_uring_mem *mem;
	unsigned int nr = 0;
	struct page *page;
	int err;

	mem = kzalloc(sizeof(*mem), GFP_KERNEL_ACCOUNT);
	if (!mem)
		return ERR_PTR(-ENOMEM);

	kref_init(&mem->ref);
	mem->node = node;
	mem->nr_pages = size >> PAGE_SHIFT;

	err = fuse_uring_mem_account(mem);
	if (err)
		goto err;

	err = -ENOMEM;
	mem->pages = kvmalloc_array(mem->nr_pages, sizeof(*mem->pages),
				    GFP_KERNEL_ACCOUNT);
	if (!mem->pages)
		goto err;

	for (nr = 0; nr < mem->nr_pages; nr++) {
		if (fatal_signal_pending(current))
			goto err;
		/* From the cpuset's nodes; no reason to invoke the OOM killer */
		page = alloc_pages_node(node, GFP_USER | __GFP_ACCOUNT |
					__GFP_ZERO | __GFP_NOWARN |
					__GFP_RETRY_MAYFAIL, 0);
		if (!page)
			goto err;
		mem->pages[nr] = page;
		if (node != NUMA_NO_NODE && page_to_nid(page) != node)
			mem->nr_foreign++;
		cond_resched();
	}

	mem->addr = vmap(mem->pages, mem->nr_pages, VM_MAP, PAGE_KERNEL);
	if (!mem->addr)
		goto err;

	return mem;
err:
	fuse_uring_mem_free(mem, nr);
	return ERR_PTR(err);
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

/* The file behind a mapping pins the memory */
static const struct file_operations fuse_uring_mem_fops = {
	.owner		= THIS_MODULE,
	.release	= fuse_uring_mem_file_release,
};

/*
 * The mapping pins the memory, not the /dev/fuse file: closing the last
 * descriptor must end the connection.  Returns -EINVAL for a private mapping,
 * -EPERM for an executable one.
 */
int fuse_uring_mem_map(struct fuse_uring_mem *mem, struct vm_area_struct *vma)
{
	unsigned long nr = mem->nr_pages;
	struct file *memfile;

	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EPERM;

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
	return vm_insert_pages(vma, vma->vm_start, mem->pages, &nr);
}
