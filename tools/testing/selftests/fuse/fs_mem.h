/* SPDX-License-Identifier: GPL-2.0 */
/* What users of the in-memory filesystem can do with it, see fs_mem.c */
#ifndef SELFTEST_FUSE_FS_MEM_H
#define SELFTEST_FUSE_FS_MEM_H

#include <linux/ioctl.h>

/*
 * ioctls on any file or directory, for n from 1 to 16383, which is what an
 * ioctl number can say.  (FUSE_IOCTL_RETRY, for more, is for CUSE only.)
 *
 * XOR: n bytes in, the same bytes out, each ^ 0x5a; returns n
 * SUM: n bytes in, returns their sum
 * COUNT: n bytes out, byte i is (char)(i * 7 + n); returns 0
 */
#define FS_MEM_IOC_XOR(n)	_IOC(_IOC_READ | _IOC_WRITE, 'm', 1, n)
#define FS_MEM_IOC_SUM(n)	_IOC(_IOC_WRITE, 'm', 2, n)
#define FS_MEM_IOC_COUNT(n)	_IOC(_IOC_READ, 'm', 3, n)

/* Limits: largest file, fallocate, name and attribute */
#define FS_MEM_MAX_SIZE		0x10000000000ULL	/* 1 TiB */
#define FS_MEM_MAX_ALLOC	0x40000000ULL		/* 1 GiB */
#define FS_MEM_NAME_MAX		255
#define FS_MEM_XATTR_MAX	65536

#endif /* SELFTEST_FUSE_FS_MEM_H */
