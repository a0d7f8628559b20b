#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Compare files with those of another folder, page by page out of order and mapped: mapped.py FOLDER ORIGINAL."""
import mmap
import os
import random
import sys

folder, original = sys.argv[1:3]
random.seed(2)
for path, _, names in os.walk(original):
    for name in names:
        source = os.path.join(path, name)
        size = os.path.getsize(source)
        if size < 8192:
            continue
        with open(source, "rb") as a, open(os.path.join(folder, os.path.relpath(source, original)), "rb") as b, \
                mmap.mmap(a.fileno(), 0, prot=mmap.PROT_READ) as x, mmap.mmap(b.fileno(), 0, prot=mmap.PROT_READ) as y:
            pages = list(range(0, size, 4096))
            random.shuffle(pages)
            for at in pages[:300]:
                if x[at:at + 4096] != y[at:at + 4096]:
                    sys.exit("error: %s differs at %d" % (source, at))
