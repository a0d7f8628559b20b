#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Make the guest's root: initramfs.sh OUT.cpio [HOST_PATH:GUEST_PATH]...
# Static busybox and scripts/guest/, plus the given files or folders at the given places; the shared
# libraries that they need come along.  Nothing else of the host is in it.
. "$(dirname "$0")/lib.sh"

[ $# -ge 1 ] || die "usage: initramfs.sh OUT.cpio [HOST_PATH:GUEST_PATH]..."
out=$1
shift
busybox=$(command -v busybox) || die "busybox is missing: install busybox-static"
if ldd "$busybox" >/dev/null 2>&1; then
	die "$busybox is not static: install busybox-static"
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,sbin,usr/bin,usr/lib,etc,root,proc,sys,dev,tmp,run,mnt,host}
cp "$busybox" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
install -m 755 "$FU_TOP/scripts/guest/init" "$root/init"
install -m 755 "$FU_TOP/scripts/guest/"* "$root/bin/"
rm "$root/bin/init"
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"

for pair in "$@"; do
	from=${pair%%:*} to=$root${pair#*:}
	[ -e "$from" ] || die "$from is not there"
	mkdir -p "$(dirname "$to")"
	if [ -d "$from" ]; then
		mkdir -p "$to"
		cp -a "$from/." "$to/"
	else
		cp -L "$from" "$to"
	fi
done

# The loader and the libraries of every dynamic program, at the paths where the loader looks.
{ find "$root" -type f -perm /111 -print0 | xargs -0 -r ldd 2>/dev/null || true; } |
	sed -nE 's/.*=> (\/[^ ]+) \(.*/\1/p; s/^[[:space:]]*(\/[^ ]+) \(.*/\1/p' | sort -u |
	while read -r lib; do
		mkdir -p "$root$(dirname "$lib")"
		cp -L "$lib" "$root$lib"
	done

mkdir -p "$(dirname "$out")"
(cd "$root" && find . -mindepth 1 -print0 | sort -z | cpio --quiet -0 -o -H newc -R 0:0) >"$out.new"
mv "$out.new" "$out"
