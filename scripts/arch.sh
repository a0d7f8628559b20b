#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Two other architectures, emulated: arm64 with pages of 64 KiB, and s390x, which is big-endian.
#   arch.sh                   both
#   MACHINES=s390x arch.sh    only this one
# Kernel and selftests are cross-built; the programs below run on each. What has passed is not run again while tree
# and scripts are the same; FU_AGAIN=1 runs it.  Ends with "arch: arm64-64k=N passed, N failed s390x=N passed, N failed".
. "$(dirname "$0")/lib.sh"

# The interface of both kinds of ring, data, the pool, and every order of ending.  What page size and byte order do not
# touch (routing, background, restart, statistics) would take an hour more.
programs=(setup_test command_test user_test mapping_test opcode_test integrity_test pool_test lifecycle_test)
# Cases that cannot run there, as patterns of "MACHINE PROGRAM CASE".
may_skip=(
	# The architecture knows no suspend.
	's390x lifecycle_test freeze.*.all_tasks'
)
all=(arm64-64k s390x)
read -r -a machines <<<"${MACHINES:-${all[*]}}"
"$FU_TOP/scripts/install.sh" gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-system-arm \
	gcc-s390x-linux-gnu libc6-dev-s390x-cross qemu-system-misc debian-archive-keyring
ensure_tree

# remembered MACHINE: where its results are kept; nothing when the tree has changes that are not committed, or when
# the tests are told what to do.
remembered() {
	[ -z "${FU_IMAGE:-}$(env | grep '^FUSE_TEST_' || true)" ] || return 0
	[ -z "$(fu_git -C "$FU_TREE" status --porcelain | head -n 1)" ] || return 0
	use_kernel "$1"
	say "$FU_CACHE/results/arch-$(hash_of "$1" "${programs[*]}" "$(fu_git -C "$FU_TREE" rev-parse 'HEAD^{tree}')" \
		"$(cd "$FU_TOP" && cat configs/{vm,"$1"}.config scripts/guest/init scripts/interop/mirror.sh \
			scripts/{lib,vmtest,build-kernel,build-kselftest,foreign,initramfs}.sh scripts/{vm-run,ktap}.py | sha256sum)" \
		"$("${cross}gcc" --version | head -n 1)" "$(dpkg-query -W -f '${Package} ${Version}\n' \
			"binutils-${triplet}" "libc6-dev-${debian_arch}-cross" qemu-system-arm qemu-system-misc)").ktap"
}

# skip_allowed 'MACHINE PROGRAM CASE'
skip_allowed() {
	local pattern
	for pattern in "${may_skip[@]}"; do
		# shellcheck disable=SC2053 # a pattern
		[[ $1 != $pattern* ]] || return 0
	done
	return 1
}

line=arch: bad=0
declare -A count=()
for machine in "${machines[@]}"; do
	ktap=$FU_LOGS/test-$FU_BASE_NAME-$machine.ktap
	kept=$(remembered "$machine")
	if [ -f "$kept" ] && [ -z "${FU_AGAIN:-}" ]; then
		say "$machine: all passed on $(date -u -r "$kept" '+%F %R'), with everything as it is now (FU_AGAIN=1 runs it again)"
		cp "$kept" "$ktap"
	else
		say "$machine (console: ${ktap%.ktap}.console)"
		rm -f "$ktap"
		FU_TEST_TIMEOUT=${FU_TEST_TIMEOUT:-7200} "$FU_TOP/scripts/vmtest.sh" --brief --kernel "$machine" "${programs[@]}" || true
		[ -f "$ktap" ] || echo 'not ok the tests did not run' >"$ktap"
	fi
	passed=0 failed=0
	while read -r state what; do
		program=${what%% *}
		if [ "$state" = ok ]; then
			passed=$((passed + 1))
			count[$machine:$program]=$((${count[$machine:$program]:-0} + 1))
		elif [ "$state" = skip ] && skip_allowed "$machine $what"; then
			say "$machine: skipped: $what"
		else
			[ "$state" != skip ] || say "not ok skipped on $machine: $what"
			failed=$((failed + 1))
			count[$machine:$program:failed]=$((${count[$machine:$program:failed]:-0} + 1))
		fi
	done <"$ktap"
	if [ $failed -eq 0 ] && [ -n "$kept" ] && [ ! -f "$kept" ]; then
		cp "$ktap" "$kept"
	fi
	line+=" $machine=$passed passed, $failed failed"
	bad=$((bad + failed))
done

# The table is of both.
if [ "${machines[*]}" = "${all[*]}" ]; then
	export ACCEL=tcg
	mkdir -p "$FU_TOP/results"
	{
		printf '# make arch\n\n'
		made_by arch ''
		printf 'Test cases that passed on QEMU'\''s machines "virt" (Neoverse N1, pages of 64 KiB, little-endian, 2 nodes) and\n'
		printf '"s390-ccw-virtio" (pages of 4 KiB, big-endian, 1 node), 4 CPUs each:\n\n| program | arm64-64k | s390x |\n|---|---|---|\n'
		for program in "${programs[@]}"; do
			printf '| %s |' "$program"
			for machine in "${all[@]}"; do
				printf ' %s%s |' "${count[$machine:$program]:-0}" \
					"${count[$machine:$program:failed]:+, ${count[$machine:$program:failed]:-} failed}"
			done
			printf '\n'
		done
	} >"$FU_TOP/results/arch${BASE:+-$BASE}.md"
	sed -n '/^|/p' "$FU_TOP/results/arch${BASE:+-$BASE}.md"
	say "(also in results/arch${BASE:+-$BASE}.md)"
fi
say "$line"
[ $bad -eq 0 ]
