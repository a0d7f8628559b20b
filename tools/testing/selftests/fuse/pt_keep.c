// SPDX-License-Identifier: GPL-2.0
/*
 * What a server of a real directory leaves to the next one.
 *
 * Nodes: a table in shared memory, with an entry for each node that the kernel
 * knows.  The node's number is that of the entry and a count of the entry's
 * uses, and the entry has the file's handle, to open it by again.  Only the
 * entries are shared.  All that goes with them, hash table and free list and
 * locks, is private and made anew by each server from the entries, so it does
 * not matter where its predecessor was killed: an entry is complete when
 * nlookup is not 0, which is written last.  A reference is counted before the
 * kernel is told of it, so after a death there may be too many, and the entry
 * then stays until the end, but never too few.
 *
 * Files: there is nothing to leave.  An fh says which server has opened it, and
 * one of an earlier server makes the node's file be opened again.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pt_keep.h"
#include "util.h"

struct pt_file {
	struct pt_file *next;
	__u64 fh;
	int fd;
};

static int handle_get(int fd, struct pt_handle *handle)
{
	int mount_id;

	memset(handle, 0, sizeof(*handle));
	handle->bytes = sizeof(handle->data);
	return name_to_handle_at(fd, "", (struct file_handle *)handle,
				 &mount_id, AT_EMPTY_PATH);
}

static int handle_open(const struct pt_keep *keep,
		       const struct pt_handle *handle)
{
	struct pt_handle copy = *handle;

	return open_by_handle_at(keep->dir_fd, (struct file_handle *)&copy,
				 O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

struct pt_keep *pt_keep_new(const char *dir)
{
	struct pt_keep *keep = calloc(1, sizeof(*keep));
	struct pt_handle handle;
	int fd;

	if (!keep)
		return NULL;
	pthread_mutex_init(&keep->mutex, NULL);
	keep->table = mmap(NULL, sizeof(*keep->table), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	keep->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (keep->table == MAP_FAILED || keep->dir_fd < 0)
		goto out;
	keep->table->top = PT_FIRST_NODE;
	/* Whether the file system has handles, and we may use them */
	if (handle_get(keep->dir_fd, &handle))
		goto out;
	fd = handle_open(keep, &handle);
	if (fd < 0)
		goto out;
	close(fd);
	return keep;
out:
	pt_keep_free(keep);
	return NULL;
}

void pt_keep_free(struct pt_keep *keep)
{
	struct pt_file *file;
	int err = errno;

	while ((file = keep->files)) {
		keep->files = file->next;
		close(file->fd);
		free(file);
	}
	if (keep->table != MAP_FAILED)
		munmap(keep->table, sizeof(*keep->table));
	if (keep->dir_fd >= 0)
		close(keep->dir_fd);
	pthread_mutex_destroy(&keep->mutex);
	free(keep);
	errno = err;
}

/* Entries */

/* Everything but nlookup */
int pt_entry_fill(struct pt_entry *entry, int fd, const struct stat *st)
{
	entry->gen++;
	entry->ino = st->st_ino;
	entry->dev = st->st_dev;
	return handle_get(fd, &entry->handle) ? -errno : 0;
}

void pt_entry_ref(struct pt_entry *entry, __u64 nr)
{
	/* A killed thread has done all that comes before, and nothing after */
	__atomic_store_n(&entry->nlookup, entry->nlookup + nr,
			 __ATOMIC_RELEASE);
}

void pt_entry_unref(struct pt_entry *entry, __u64 nr)
{
	__atomic_store_n(&entry->nlookup, entry->nlookup - nr,
			 __ATOMIC_RELEASE);
}

bool pt_entry_is(const struct pt_entry *entry, int fd)
{
	struct pt_handle handle;

	return !handle_get(fd, &handle) &&
	       !memcmp(&handle, &entry->handle, sizeof(handle));
}

int pt_entry_open(const struct pt_keep *keep, const struct pt_entry *entry)
{
	return handle_open(keep, &entry->handle);
}

/* Files */

static struct pt_file **file_find(struct pt_keep *keep, __u64 fh)
{
	struct pt_file **at;

	for (at = &keep->files; *at; at = &(*at)->next)
		if ((*at)->fh == fh)
			break;
	return at;
}

int pt_file_find(struct pt_keep *keep, __u64 fh)
{
	struct pt_file *file;
	int fd;

	pthread_mutex_lock(&keep->mutex);
	file = *file_find(keep, fh);
	fd = file ? file->fd : -1;
	pthread_mutex_unlock(&keep->mutex);
	return fd;
}

int pt_file_get(struct pt_keep *keep, __u64 fh, int node_fd, bool write)
{
	struct pt_file *file;
	char path[32];
	int fd = -1;

	pthread_mutex_lock(&keep->mutex);
	file = *file_find(keep, fh);
	if (file) {
		fd = file->fd;
		goto out;
	}
	file = malloc(sizeof(*file));
	if (!file)
		goto out;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", node_fd);
	if (write)
		fd = open(path, O_RDWR | O_CLOEXEC);
	/* fsync(2) and the like come for directories and programs, too */
	if (fd < 0)
		fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		free(file);
		goto out;
	}
	file->fh = fh;
	file->fd = fd;
	file->next = keep->files;
	keep->files = file;
out:
	pthread_mutex_unlock(&keep->mutex);
	return fd;
}

void pt_file_close(struct pt_keep *keep, __u64 fh)
{
	struct pt_file **at, *file;

	pthread_mutex_lock(&keep->mutex);
	at = file_find(keep, fh);
	file = *at;
	if (file)
		*at = file->next;
	pthread_mutex_unlock(&keep->mutex);
	if (file)
		close(file->fd);
	free(file);
}
