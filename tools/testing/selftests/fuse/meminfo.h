/* SPDX-License-Identifier: GPL-2.0 */
/* How much memory there is, to see what something takes or does not give back. */
#ifndef FUSE_TEST_MEMINFO_H
#define FUSE_TEST_MEMINFO_H

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "common.h"

/*
 * MemAvailable, in KiB, and the free pages that CPUs keep for themselves.  What
 * CPUs have counted on their own becomes part of the sums.
 */
static inline long available_kib(void)
{
	long count, pages = 0;
	char line[128];
	FILE *file;

	file_write("/proc/sys/vm/stat_refresh", "1");
	file = fopen("/proc/zoneinfo", "r");
	if (!file)
		return -errno;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, " count: %ld", &count) == 1)
			pages += count;
	fclose(file);
	return mem_kib("MemAvailable:") + pages * (getpagesize() / 1024);
}

#endif
