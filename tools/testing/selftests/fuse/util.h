/* SPDX-License-Identifier: GPL-2.0 */
/* What the kernel's own headers have and userspace's have not. */
#ifndef SELFTEST_FUSE_UTIL_H
#define SELFTEST_FUSE_UTIL_H

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#endif

#define unlikely(x)	__builtin_expect(!!(x), 0)

#define min(a, b) ({			\
	__typeof__(a) _a = (a);		\
	__typeof__(b) _b = (b);		\
	_a < _b ? _a : _b; })

#define max(a, b) ({			\
	__typeof__(a) _a = (a);		\
	__typeof__(b) _b = (b);		\
	_a > _b ? _a : _b; })

#define min_t(type, a, b)	min((type)(a), (type)(b))
#define max_t(type, a, b)	max((type)(a), (type)(b))

#endif /* SELFTEST_FUSE_UTIL_H */
