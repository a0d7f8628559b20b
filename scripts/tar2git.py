#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Read an uncompressed kernel tarball on stdin, write a git fast-import stream on stdout.

One commit on branch "series" with a fixed author and date, and the tag "base", so that the same
tarball makes the same commit on every machine.  usage: tar2git.py SUBJECT < TAR | git fast-import
"""
import sys
import tarfile

WHO = b"Linux kernel developers <linux-kernel@vger.kernel.org> 1700000000 +0000"


def main():
    out = sys.stdout.buffer
    files = []
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        for member in tar:
            name = member.name.split("/", 1)
            if len(name) < 2 or not name[1]:
                continue
            if member.issym():
                mode, data = b"120000", member.linkname.encode()
            elif member.isfile():
                mode = b"100755" if member.mode & 0o100 else b"100644"
                data = tar.extractfile(member).read()
            else:
                continue
            files.append((mode, len(files) + 1, name[1].encode()))
            out.write(b"blob\nmark :%d\ndata %d\n%s\n" % (len(files), len(data), data))
    message = sys.argv[1].encode()
    out.write(b"commit refs/heads/series\nauthor %s\ncommitter %s\ndata %d\n%s\n"
              % (WHO, WHO, len(message), message))
    for mode, mark, path in files:
        out.write(b'M %s :%d %s\n' % (mode, mark, path))
    out.write(b"\nreset refs/tags/base\nfrom refs/heads/series\n\ndone\n")


main()
