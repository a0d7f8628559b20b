#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Debian's newest kernel, which has mainline's FUSE over io_uring, for make interop KERNEL=debian: prints a folder
# with vmlinuz and, below lib/modules, those modules that boot needs, with what they depend on.
. "$(dirname "$0")/../lib.sh"
# shellcheck source=scripts/interop/mirror.sh
. "$FU_TOP/scripts/interop/mirror.sh"

suite=${FU_INTEROP_SUITE:-sid}
export PATH=$PATH:/usr/sbin:/sbin
modules=(virtio_pci virtio_blk ext4 9p 9pnet_virtio cuse virtiofs overlay)
depends() { private_apt "$suite" apt-cache depends --important "$1" | sed -nE 's/^ *Depends: (linux-(image|binary|modules)-.*)/\1/p'; }

fetch() {
	local release name to out=$1
	release=$(depends linux-image-amd64 | sed -n 's/^linux-image-//p' | head -n 1)
	[ -n "$release" ] || { echo "error: $suite has no linux-image-amd64"; return 1; }
	rm -rf "$out"
	mkdir -p "$out/all" "$out/debs"
	# shellcheck disable=SC2046 # one word a package
	(cd "$out/debs" && private_apt "$suite" apt-get -q download "linux-image-$release" $(depends "linux-image-$release")) || return 1
	for name in "$out"/debs/*.deb; do
		dpkg-deb -x "$name" "$out/all" || return 1
	done
	find "$out/all" -name 'vmlinuz*' -type f -exec cp {} "$out/vmlinuz" \;
	[ -d "$out/all/lib" ] || ln -s usr/lib "$out/all/lib"
	depmod -b "$out/all" "$release" || return 1
	for name in "${modules[@]}"; do
		modprobe -d "$out/all" -S "$release" --show-depends "$name" | sed -n 's/^insmod //p'
	done | sort -u | while read -r name; do
		to=$out/${name#"$out/all/"}
		mkdir -p "${to%/*}"
		case $name in
		*.xz) xz -dc "$name" >"${to%.xz}" ;;
		*) cp "$name" "$to" ;;
		esac
	done
	cp "$out/all/lib/modules/$release"/modules.{builtin,order} "$out/lib/modules/$release/" 2>/dev/null || true
	depmod -b "$out" "$release" && [ -f "$out/vmlinuz" ] || return 1
	echo "$release" >"$out/release"
	rm -rf "$out/all" "$out/debs"
}

kernel=$FU_CACHE/interop/kernel-$suite
if [ ! -f "$kernel/release" ]; then
	run_logged "fetch Debian's kernel" "$FU_LOGS/interop-kernel.log" fetch "$kernel.new" || die "could not get Debian's kernel"
	rm -rf "$kernel"
	mv "$kernel.new" "$kernel"
fi
say "$kernel"
