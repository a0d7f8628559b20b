#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Build and install the FUSE selftests as kernel developers do: build-kselftest.sh [--tree DIR]
# Object folder build/kselftest-BASE/obj, install folder build/kselftest-BASE/install (printed last).
. "$(dirname "$0")/lib.sh"

tree=$FU_TREE
[ "${1:-}" != --tree ] || tree=$2
[ -f "$tree/tools/testing/selftests/fuse/Makefile" ] ||
	die "$tree has no tools/testing/selftests/fuse (apply the series with ./apply.sh)"
out=$FU_BUILD/kselftest-$FU_BASE_NAME
mkdir -p "$out/obj"

build() {
	local make=(make -C "$tree" O="$out/obj" ARCH=x86_64 -j"$FU_JOBS")
	rm -rf "$out/install"
	# The install target of the kernel wants some configuration, whichever.
	[ -f "$out/obj/include/config/auto.conf" ] || "${make[@]}" allnoconfig syncconfig
	"${make[@]}" headers
	"${make[@]}" kselftest-install TARGETS=fuse FORCE_TARGETS=1 KSFT_INSTALL_PATH="$out/install"
}
run_logged "build kselftests $FU_BASE_NAME" "$FU_LOGS/kselftest-$FU_BASE_NAME.log" build || die "the selftests did not build"
! grep -nE 'warning:' "$FU_LOGS/kselftest-$FU_BASE_NAME.log" || die "the selftests build with warnings"
say "$out/install"
