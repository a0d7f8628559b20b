#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Build the guest's kernel: build-kernel.sh [--tree DIR] [--kernel ordinary|debug|stats|interop|arm64-64k|s390x] [--out DIR]
# The object folder is build/kernel-BASE-KERNEL unless --out names another; the last line printed is
# the image's path.  A tree without changes whose image is in the cache is not built again.
. "$(dirname "$0")/lib.sh"

kernel=ordinary out='' tree=$FU_TREE
while [ $# -gt 0 ]; do
	case $1 in
	--tree) tree=$2; shift ;;
	--kernel) kernel=$2; shift ;;
	--out) out=$2; shift ;;
	*) die "unknown argument $1" ;;
	esac
	shift
done
if [ -n "${FU_IMAGE:-}" ]; then
	say "$FU_IMAGE"
	exit 0
fi
use_kernel "$kernel"
fragments=("$FU_TOP/configs/vm.config")
[ "$kernel" = ordinary ] || fragments+=("$FU_TOP/configs/$kernel.config")
out=${out:-$FU_BUILD/kernel-$FU_BASE_NAME-$kernel}
[ -f "$tree/Kbuild" ] || die "$tree is not a kernel tree (make one with ./apply.sh)"
tree=$(cd "$tree" && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)
image=$out/$image_file

# The key of everything that the image is made from; empty when the tree has uncommitted changes.
key=
if [ -d "$tree/.git" ] && [ -z "$(git -C "$tree" status --porcelain | head -n 1)" ]; then
	# Documents and selftests are not part of the image.
	key=$(hash_of kernel "$(git -C "$tree" ls-tree HEAD | grep -vE '	(Documentation|MAINTAINERS|tools)$')" \
		"$(git -C "$tree" ls-tree HEAD tools/ | grep -v '	tools/testing$')" "$(cat "${fragments[@]}" | sha256sum)" \
		"$("${cross}gcc" --version | head -n 1)" "$("${cross}ld" --version | head -n 1)")
	cached=$FU_CACHE/kernels/$key
	if [ -f "$cached/$image_target" ]; then
		say "kernel $FU_BASE_NAME $kernel: in the cache"
		say "$cached/$image_target"
		exit 0
	fi
fi

cc=${cross}gcc hostcc=gcc
! command -v ccache >/dev/null || cc="ccache $cc" hostcc="ccache $hostcc"
kmake() {
	make -C "$tree" O="$out" ARCH="$kernel_arch" CROSS_COMPILE="$cross" CC="$cc" HOSTCC="$hostcc" -j"$FU_JOBS" \
		KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 2026' KBUILD_BUILD_USER=fuse KBUILD_BUILD_HOST=uring "$@"
}

# The configuration: allnoconfig with the fragments, then every line of them checked.
configure() {
	local wanted=$out/wanted.config symbol line bad=0
	# A later fragment's line replaces an earlier one's.
	cat "${fragments[@]}" | sed -nE 's/^# (CONFIG_[A-Z0-9_]+) is not set$/\1=n/p; /^CONFIG_/p' |
		awk -F= '{ if (!($1 in v)) order[++n] = $1; v[$1] = $0 } END { for (i = 1; i <= n; i++) print v[order[i]] }' >"$wanted.new"
	if [ -f "$out/.config" ] && cmp -s "$wanted.new" "$wanted" && [ "$out/.config" -nt "$wanted" ]; then
		kmake olddefconfig
	else
		mv "$wanted.new" "$wanted"
		kmake KCONFIG_ALLCONFIG="$wanted" allnoconfig
	fi
	while read -r line; do
		symbol=${line%%=*}
		case $line in
		*=n) grep -q "^$symbol=" "$out/.config" || continue ;;
		*) ! grep -qxF "$line" "$out/.config" || continue ;;
		esac
		case " ${FU_CONFIG_TOLERATE:-} " in *" $symbol "*) continue ;; esac
		printf 'error: asked for %s, got: %s\n' "$line" "$(grep -E "^(# )?${symbol}[ =]" "$out/.config" || echo nothing)"
		bad=1
	done <"$wanted"
	[ $bad -eq 0 ]
}

log=$FU_LOGS/kernel-$FU_BASE_NAME-$kernel.log
run_logged "configure $FU_BASE_NAME $kernel" "$log" configure || die "the configuration did not come out as configs/ asks"
run_logged "build kernel $FU_BASE_NAME $kernel" "$log" kmake "$image_target" || die "the kernel did not build"
if [ -n "$key" ]; then
	mkdir -p "$cached.$$"
	cp "$image" "$out/.config" "$out/System.map" "$cached.$$/"
	rm -rf "$cached"
	mv "$cached.$$" "$cached"
fi
say "$image"
