#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Does a test fail by chance?  The ordinary kernel's selftests RUNS times with a busy loop on each of this machine's
# processors beside the guest, then once with one vCPU:
#   flaky.sh [--runs RUNS] [--image BZIMAGE] [TEST...]
# TEST is a program of the selftests (default: all), RUNS is 10.  It takes hours: what has been run is not run again
# while the kernel, the tests and the list of programs are the same, so start it again when it was interrupted;
# FU_AGAIN=1 starts at the beginning.  Each run's results are build/logs/test-BASE-flaky-RUN.ktap.  Ends with
# "flaky: runs=N failed=N".
. "$(dirname "$0")/lib.sh"

runs=10 given='' tests=()
while [ $# -gt 0 ]; do
	case $1 in
	--runs) runs=$2; shift ;;
	--image) given=$2; shift ;;
	-*) die "unknown argument $1" ;;
	*) tests+=("$1") ;;
	esac
	shift
done
[[ $runs =~ ^[1-9][0-9]*$ ]] || die "--runs $runs is no number of runs"

"$FU_TOP/scripts/install.sh"
ensure_tree
prepare_guest ordinary "$given"
done_dir=$FU_BUILD/flaky/$(hash_of "$(sha256sum <"$image")" "$ACCEL" "${tests[*]}" \
	"$(cd "$install" && find . -type f -print0 | sort -z | xargs -0 sha256sum)" \
	"$(cd "$FU_TOP" && cat scripts/guest/* scripts/{vmtest,initramfs}.sh scripts/{vm-run,ktap}.py | sha256sum)")
[ -z "${FU_AGAIN:-}" ] || rm -rf "$done_dir"
mkdir -p "$done_dir"

# One vCPU has no second one that a test may need; everywhere else a skip is a failure, as in make test.
# run_one NAME MAY_SKIP ARG...: the run's failures go to the file NAME in the folder of what is done.
run_one() {
	local name=$1 may_skip=$2 ktap=$FU_LOGS/test-$FU_BASE_NAME-flaky-$1.ktap start=$SECONDS
	shift 2
	if [ ! -f "$done_dir/$name" ]; then
		rm -f "$ktap"
		say "run $name (console: ${ktap%.ktap}.console)"
		"$FU_TOP/scripts/vmtest.sh" --brief --image "$image" --name "flaky-$name" "$@" "${tests[@]}" || true
		[ -f "$ktap" ] || die "run $name brought no results"
		say "run $name: $(((SECONDS - start) / 60)) minutes"
		{ if [ -n "$may_skip" ]; then grep '^not ok ' "$ktap"; else grep -v '^ok ' "$ktap"; fi || true; } >"$done_dir/.$name"
		mv "$done_dir/.$name" "$done_dir/$name"
	else
		say "run $name: as on $(date -u -r "$done_dir/$name" '+%F %R')"
	fi
	ran=$((ran + 1))
	if [ -s "$done_dir/$name" ]; then
		sed "s/^/run $name: /" "$done_dir/$name"
		failed=$((failed + 1))
	fi
}

ran=0 failed=0
for ((i = 1; i <= runs; i++)); do
	run_one "load-$i" '' --load
done
run_one one-cpu may_skip --smp 1
say "flaky: runs=$ran failed=$failed"
[ $failed -eq 0 ]
