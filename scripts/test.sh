#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The test command: lint, and the selftests in the VM on the ordinary and on the debug kernel.  A guest takes a
# core and a half; what it leaves builds the debug kernel and then does lint, at idle priority.
# Ends with "N passed, N failed", and ", N skipped" when something was skipped that may be.
# A kernel whose selftests have all passed with everything the same is not tested again, and its results
# are counted as they were; FU_AGAIN=1 tests it.
. "$(dirname "$0")/lib.sh"

# Cases that may be skipped, as "PROGRAM CASE" patterns with the reason: none is known.
may_skip=()

"$FU_TOP/scripts/install.sh"
ensure_tree
passed=0 failed=0 skipped=0
start=$SECONDS

rm -f "$FU_LOGS"/lint.counts "$FU_LOGS/test-$FU_BASE_NAME-"{ordinary,debug}.ktap

# remembered KERNEL: where the results of this kernel's selftests are kept; nothing when the tree has
# changes that are not committed, or when the tests are told what to do.
remembered() {
	[ -z "${FU_IMAGE:-}$(env | grep '^FUSE_TEST_' || true)" ] || return 0
	[ -z "$(fu_git -C "$FU_TREE" status --porcelain | head -n 1)" ] || return 0
	say "$FU_CACHE/results/test-$(hash_of "$1" "$(fu_git -C "$FU_TREE" rev-parse 'HEAD^{tree}')" \
		"$(cd "$FU_TOP" && cat configs/{vm,debug}.config scripts/guest/* \
			scripts/{lib,vmtest,build-kernel,build-kselftest,initramfs}.sh scripts/{vm-run,ktap}.py | sha256sum)" \
		"$(gcc --version | head -n 1)" "$(dpkg-query -W -f '${Package} ${Version}\n' \
			binutils liburing-dev libc6-dev busybox-static qemu-system-x86)" "${ACCEL:-}").ktap"
}

# Where the results are kept, and which kernels are not to be tested again.
declare -A kept=() same=()
for kernel in ordinary debug; do
	kept[$kernel]=$(remembered $kernel)
	[ ! -f "${kept[$kernel]}" ] || [ -n "${FU_AGAIN:-}" ] || same[$kernel]=y
done

# Process groups of their own, so that whatever ends this ends them.
groups=()
end_beside() { for group in "${groups[@]}"; do kill -- "-$group" 2>/dev/null || true; done; }
trap end_beside EXIT
# beside LOG COMMAND...: in the background, with what is left of the processors; sets group.
beside() {
	local log=$1
	shift
	set -m
	chrt --idle 0 "$@" >"$log" 2>&1 </dev/null &
	set +m
	group=$!
	groups+=("$group")
}
build=''
if [ -z "${same[ordinary]:-}" ]; then
	"$FU_TOP/scripts/build-kernel.sh" || die "the ordinary kernel did not build"
fi
if [ -z "${same[debug]:-}" ]; then
	say "the debug kernel's build goes on beside that (log: $FU_LOGS/test.build)"
	beside "$FU_LOGS/test.build" "$FU_TOP/scripts/build-kernel.sh" --kernel debug
	build=$group
fi
say "lint goes on beside that (log: $FU_LOGS/test.lint)"
# shellcheck disable=SC2016 # for the inner shell
beside "$FU_LOGS/test.lint" bash -c '[ -z "$1" ] || tail --pid="$1" -f /dev/null; exec "$2"' lint "$build" "$FU_TOP/scripts/lint.sh"
lint=$group

for kernel in ordinary debug; do
	ktap=$FU_LOGS/test-$FU_BASE_NAME-$kernel.ktap
	if [ -n "${same[$kernel]:-}" ]; then
		say "selftests on the $kernel kernel ($FU_BASE_NAME): all passed on $(date -u -r "${kept[$kernel]}" '+%F %R'), with" \
			"everything as it is now (FU_AGAIN=1 runs them again)"
		cp "${kept[$kernel]}" "$ktap"
	else
		if [ $kernel = debug ]; then
			wait "$build" || tail -n 30 "$FU_LOGS/test.build"
		fi
		say "selftests on the $kernel kernel ($FU_BASE_NAME), after $(((SECONDS - start) / 60)) minutes"
		"$FU_TOP/scripts/vmtest.sh" --brief --kernel $kernel || true
		if [ -n "${kept[$kernel]}" ] && [ -f "$ktap" ] && ! grep -qv '^ok ' "$ktap"; then
			cp "$ktap" "${kept[$kernel]}"
		fi
	fi
	if [ ! -f "$ktap" ]; then
		say "not ok the selftests did not run on the $kernel kernel"
		failed=$((failed + 1))
		continue
	fi
	while read -r line; do
		case $line in
		'ok '*) passed=$((passed + 1)) ;;
		'skip '*)
			allowed=0
			for pattern in "${may_skip[@]}"; do
				# shellcheck disable=SC2053 # a pattern
				[[ ${line#skip } != $pattern ]] || allowed=1
			done
			if [ $allowed -eq 1 ]; then
				skipped=$((skipped + 1))
			else
				say "not ok skipped on the $kernel kernel: ${line#skip }"
				failed=$((failed + 1))
			fi
			;;
		*) failed=$((failed + 1)) ;;
		esac
	done <"$ktap"
done
say "lint, after $(((SECONDS - start) / 60)) minutes"
tail -n +1 -f --pid=$lint "$FU_LOGS/test.lint"
if read -r p f 2>/dev/null <"$FU_LOGS/lint.counts"; then
	passed=$((passed + p)) failed=$((failed + f))
else
	say "not ok lint did not finish"
	failed=$((failed + 1))
fi
groups=()
say "test: $(((SECONDS - start) / 60)) minutes; logs in $FU_LOGS"
line="$passed passed, $failed failed"
[ $skipped -eq 0 ] || line+=", $skipped skipped"
say "$line"
[ $failed -eq 0 ]
