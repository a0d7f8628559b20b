#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# What the guest of another architecture needs and Debian has no cross package for: foreign.sh ARCHITECTURE
# (Debian's name).  Its packages come from this machine's own mirror through a private apt and are only
# unpacked, in the cache; dpkg never hears of them.  Prints the folder: usr/include, usr/lib/TRIPLET and bin/busybox.
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/interop/mirror.sh
. "$FU_TOP/scripts/interop/mirror.sh"

[ $# -eq 1 ] || die "usage: foreign.sh ARCHITECTURE"
arch=$1
packages=(liburing-dev busybox-static)
# The suite of this machine, so that the libraries fit its cross compiler and libc.
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$suite" ] || die "this machine's Debian has no name in /etc/os-release"
out=$FU_CACHE/foreign/$suite-$arch-$(hash_of "${packages[@]}")
if [ -d "$out" ]; then
	say "$out"
	exit 0
fi

fetch() {
	local debs=$out.new/debs deb
	rm -rf "$out.new"
	mkdir -p "$debs"
	# The lists are as old as the private apt.
	(cd "$debs" && private_apt "$suite:$arch" apt-get -q download "${packages[@]}") ||
		(cd "$debs" && private_apt "$suite:$arch" apt-get -q update &&
			private_apt "$suite:$arch" apt-get -q download "${packages[@]}") || return 1
	for deb in "$debs"/*.deb; do
		dpkg-deb -x "$deb" "$out.new" || return 1
	done
	rm -r "$debs"
	# Newer releases have it below usr.
	[ -e "$out.new/bin/busybox" ] || (mkdir -p "$out.new/bin" && mv "$out.new/usr/bin/busybox" "$out.new/bin/")
}
mkdir -p "$FU_CACHE/foreign"
exec 8>"$FU_CACHE/foreign/lock"
flock 8
if [ ! -d "$out" ]; then
	run_logged "download for $arch: ${packages[*]}" "$FU_LOGS/foreign-$arch.log" fetch ||
		die "no packages of Debian $suite for $arch"
	mv "$out.new" "$out"
fi
say "$out"
