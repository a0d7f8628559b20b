// SPDX-License-Identifier: GPL-2.0
/*
 * Preloaded: once the program has opened /dev/fuse, Smack no longer lets it use
 * that in a new way.  Reads and writes are not asked about again; io_uring's
 * commands are.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef int open_fn(const char *path, int flags, ...);

static int opens(const char *name, const char *path, int flags, mode_t mode)
{
	static const char rule[] = "_ closed -";
	open_fn *next = (open_fn *)dlsym(RTLD_NEXT, name);
	int fd = next(path, flags, mode), load;

	if (fd < 0 || strcmp(path, "/dev/fuse"))
		return fd;
	load = next("/sys/fs/smackfs/load2", O_WRONLY | O_CLOEXEC, 0);
	if (load < 0 || write(load, rule, strlen(rule)) < 0)
		perror("error: Smack's rule");
	close(load);
	return fd;
}

#define OPEN(name)						\
int name(const char *path, int flags, ...)			\
{								\
	mode_t mode;						\
	va_list args;						\
								\
	va_start(args, flags);					\
	mode = va_arg(args, mode_t);				\
	va_end(args);						\
	return opens(#name, path, flags, mode);			\
}

OPEN(open)
OPEN(open64)
