/* SPDX-License-Identifier: GPL-2.0 */
/* What the programs that take options have in common. */
#ifndef SELFTEST_FUSE_OPTIONS_H
#define SELFTEST_FUSE_OPTIONS_H

#include <err.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/types.h>

/*
 * The number in the text of an option, from min to max: decimal, octal or hex as
 * in C, and K, M or G behind it make it so many KiB, MiB or GiB.  Anything else
 * ends the program, with a sentence that says why.
 */
static inline __u64 parse_number(const char *option, const char *text,
				 __u64 min, __u64 max)
{
	static const char units[] = "KMG";
	const char *unit;
	__u64 value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 0);
	unit = *end ? strchr(units, *end) : NULL;
	if (unit && !errno) {
		unsigned int shift = 10 * (unit - units + 1);

		if (value << shift >> shift != value)
			errno = ERANGE;
		value <<= shift;
		end++;
	}
	if (end == text || *end || strchr(text, '-'))
		errx(1, "%s: '%s' is not a number", option, text);
	if (errno || value < min || value > max)
		errx(1, "%s: %s is not between %llu and %llu", option, text,
		     (unsigned long long)min, (unsigned long long)max);
	return value;
}

#endif /* SELFTEST_FUSE_OPTIONS_H */
