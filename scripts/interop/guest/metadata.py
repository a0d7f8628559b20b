#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Several processes at once make, rename, link, change and remove names: metadata.py FOLDER PROCESSES FILES.

Each has a folder of its own, whose end is known; and all race for the same names in a shared one,
where each name may be made by one of them only.
"""
import errno
import os
import sys

LINKS = os.environ.get("INTEROP_NO_LINKS") is None


def must(condition, text):
    if not condition:
        print("error: " + text, flush=True)
        os._exit(1)


def own(folder, files):
    os.mkdir(folder)
    for i in range(files):
        name = "%s/f%d" % (folder, i)
        with open(name, "x") as f:
            f.write(name)
        os.chmod(name, 0o640)
        os.utime(name, (1000000000 + i, 1000000000 + i))
        must(os.stat(name).st_mtime == 1000000000 + i, "the time of %s did not stay" % name)
        must(os.stat(name).st_mode & 0o777 == 0o640 or not LINKS, "the mode of %s did not stay" % name)
        if i % 2:
            os.rename(name, "%s/r%d" % (folder, i))
            must(not os.path.exists(name), "%s is there after its renaming" % name)
        if LINKS and i % 4 == 0:
            os.symlink("f%d" % i, "%s/s%d" % (folder, i))
            must(os.readlink("%s/s%d" % (folder, i)) == "f%d" % i, "s%d leads elsewhere" % i)
            with open("%s/s%d" % (folder, i)) as f:
                must(f.read() == name, "s%d leads to other data" % i)
        if i % 5 == 0:
            os.mkdir("%s/d%d" % (folder, i))
            os.rename("%s/d%d" % (folder, i), "%s/e%d" % (folder, i))
    for i in range(0, files, 10):
        os.unlink("%s/f%d" % (folder, i))
        os.rmdir("%s/e%d" % (folder, i))
    expected = {"f%d" % i for i in range(0, files, 2) if i % 10} | {"r%d" % i for i in range(1, files, 2)}
    expected |= {"e%d" % i for i in range(0, files, 5) if i % 10}
    if LINKS:
        expected |= {"s%d" % i for i in range(0, files, 4)}
    must(set(os.listdir(folder)) == expected, "%s holds other names than were made" % folder)


def shared(folder, files):
    won = []
    for i in range(files):
        try:
            os.close(os.open("%s/n%d" % (folder, i), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            won.append("n%d" % i)
        except FileExistsError:
            pass
    return won


def remove(folder):
    for path, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(path, name))
        for name in folders:
            os.rmdir(os.path.join(path, name))
    os.rmdir(folder)


def main():
    folder, processes, files = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.mkdir(folder)
    os.mkdir(folder + "/shared")
    children = []
    for p in range(processes):
        receive, send = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                won = shared(folder + "/shared", files)
                own("%s/p%d" % (folder, p), files)
                os.write(send, " ".join(won).encode())
                status = 0
            except OSError as error:
                print("error: %s: %s" % (error.filename, errno.errorcode.get(error.errno)), flush=True)
            os._exit(status)
        os.close(send)
        children.append((pid, receive))
    won = []
    failed = False
    for pid, receive in children:
        while True:
            data = os.read(receive, 65536)
            if not data:
                break
            won += data.decode().split()
        failed |= os.waitpid(pid, 0)[1] != 0
    must(not failed, "a process found what must not be (see above)")
    must(sorted(won) == sorted("n%d" % i for i in range(files)), "a name was made twice or not at all")
    must(sorted(os.listdir(folder + "/shared")) == sorted(won), "the shared folder holds other names")
    remove(folder)


main()
