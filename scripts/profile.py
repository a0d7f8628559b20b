#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Instructions an operation by function: profile.py FEW MANY OPERATIONS SYSTEM_MAP

FEW and MANY are outputs of profile.c of two runs that differ by OPERATIONS.  Prints lines of "instructions name",
most frequent first; "user" is all programs, "ring" and so on are sums of functions that are listed as well.
"""
import bisect
import collections
import re
import sys

GROUPS = (
    ("(ring)", re.compile(r"^_*fuse_uring_")),
    ("(fs/fuse)", re.compile(r"^_*(fuse_|request_wait_answer|flush_bg_queue)")),
    ("(io_uring)", re.compile(r"^(_*(do_sys_|x64_sys_)?io_|tctx_)")),
)


def load(name):
    counts = collections.Counter()
    with open(name, encoding="ascii") as lines:
        for line in lines:
            address, count = line.split()
            counts[int(address, 16)] += int(count)
    return counts


def symbols(name):
    found = []
    with open(name, encoding="ascii") as lines:
        for line in lines:
            address, kind, symbol = line.split()
            if kind in "tTwW":
                found.append((int(address, 16), symbol))
    found.sort()
    return [a for a, _ in found], [s for _, s in found]


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    few, many = load(sys.argv[1]), load(sys.argv[2])
    operations = int(sys.argv[3])
    addresses, names = symbols(sys.argv[4])
    by_name = collections.Counter()
    for address, count in many.items():
        # Programs lie elsewhere in each run.
        share = (count - (few[address] if address >> 48 else 0)) / operations
        at = bisect.bisect_right(addresses, address) - 1
        by_name["user" if not address >> 48 else names[at] if at >= 0 else "?"] += share
    user_few = sum(c for a, c in few.items() if not a >> 48)
    by_name["user"] -= user_few / operations
    rows = list(by_name.items())
    rows += [(group, sum(n for name, n in by_name.items() if pattern.match(name))) for group, pattern in GROUPS]
    rows.append(("all", sum(by_name.values())))
    for name, count in sorted(rows, key=lambda row: -row[1]):
        if round(count) > 0:
            print(f"{count:8.0f} {name}")


if __name__ == "__main__":
    main()
