#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Build and install the FUSE selftests as kernel developers do: build-kselftest.sh [--tree DIR] [--kernel KERNEL]
# Object folder build/kselftest-BASE/obj, install folder build/kselftest-BASE/install (printed last).  For a kernel of
# another architecture the folder is build/kselftest-BASE-ARCHITECTURE, and the programs are static.
. "$(dirname "$0")/lib.sh"

tree=$FU_TREE kernel=ordinary
while [ $# -gt 0 ]; do
	case $1 in
	--tree) tree=$2 ;;
	--kernel) kernel=$2 ;;
	*) die "unknown argument $1" ;;
	esac
	shift 2
done
use_kernel "$kernel"
[ -f "$tree/tools/testing/selftests/fuse/Makefile" ] ||
	die "$tree has no tools/testing/selftests/fuse (apply the series with ./apply.sh)"
name=$FU_BASE_NAME${debian_arch:+-$debian_arch}
out=$FU_BUILD/kselftest-$name
mkdir -p "$out/obj"
flags=()
if [ -n "$debian_arch" ]; then
	foreign=$("$FU_TOP/scripts/foreign.sh" "$debian_arch" | tee >(cat >&2) | tail -n 1)
	# pkg-config would answer for this machine.
	flags=(CROSS_COMPILE="$cross" PKG_CONFIG=false USERCFLAGS="-I$foreign/usr/include"
		USERLDFLAGS="-static -L$foreign/usr/lib/$triplet")
fi

build() {
	local make=(make -C "$tree" O="$out/obj" ARCH="$kernel_arch" -j"$FU_JOBS" "${flags[@]}")
	rm -rf "$out/install"
	# The install target of the kernel wants some configuration, whichever.
	[ -f "$out/obj/include/config/auto.conf" ] || "${make[@]}" allnoconfig syncconfig
	"${make[@]}" headers
	"${make[@]}" kselftest-install TARGETS=fuse FORCE_TARGETS=1 KSFT_INSTALL_PATH="$out/install"
}
run_logged "build kselftests $name" "$FU_LOGS/kselftest-$name.log" build || die "the selftests did not build"
! grep -nE 'warning:' "$FU_LOGS/kselftest-$name.log" || die "the selftests build with warnings"
say "$out/install"
