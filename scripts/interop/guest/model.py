#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Random operations on one file, each compared with a model of it in memory: model.py FILE OPERATIONS SEED."""
import mmap
import os
import random
import sys

LARGEST = 600000
path, operations, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)
model = bytearray()
fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)


def fail(number, what, text):
    sys.exit("error: operation %d (%s, seed %d): %s" % (number, what, seed, text))


def compare(number, what, at, data):
    if data != model[at:at + len(data)]:
        wrong = next(i for i in range(len(data)) if data[i] != model[at + i])
        fail(number, what, "byte %d of %d is %d, not %d" % (at + wrong, len(model), data[wrong], model[at + wrong]))


for number in range(operations):
    what = random.choice(("write", "write", "append", "read", "read", "truncate", "mapped", "reopen", "fsync"))
    size = random.choice((1, 100, 4096, 5000, 65536, 150000))
    at = random.randrange(max(1, min(len(model) + 10000, LARGEST - size)))
    if what in ("write", "append"):
        at = len(model) if what == "append" and len(model) + size <= LARGEST else at
        data = random.randbytes(size)
        done = 0
        while done < size:
            done += os.pwrite(fd, data[done:], at + done)
        if at > len(model):
            model.extend(bytes(at - len(model)))
        model[at:at + size] = data
    elif what == "truncate":
        os.ftruncate(fd, at)
        if at < len(model):
            del model[at:]
        else:
            model.extend(bytes(at - len(model)))
    elif what == "read":
        data = os.pread(fd, size, at)
        if len(data) != max(0, min(size, len(model) - at)):
            fail(number, what, "%d bytes at %d of %d" % (len(data), at, len(model)))
        compare(number, what, at, data)
    elif what == "mapped" and len(model) > 0:
        at = min(at, len(model) - 1)
        data = random.randbytes(min(size, len(model) - at))
        with mmap.mmap(fd, len(model)) as area:
            compare(number, what, at, area[at:at + len(data)])
            area[at:at + len(data)] = data
        model[at:at + len(data)] = data
    elif what == "reopen":
        os.close(fd)
        fd = os.open(path, os.O_RDWR)
    elif what == "fsync":
        os.fsync(fd)
    if os.fstat(fd).st_size != len(model):
        fail(number, what, "the size is %d, not %d" % (os.fstat(fd).st_size, len(model)))
os.close(fd)
with open(path, "rb") as f:
    if f.read() != model:
        fail(operations, "end", "the file differs")
os.unlink(path)
