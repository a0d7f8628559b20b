#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Boot the tree's kernel with the tree's selftests and run them:
#   vmtest.sh [--kernel ordinary|debug|arm64-64k|s390x] [--image BZIMAGE] [--cmd 'SHELL COMMAND'] [--append ARGS]
#             [--brief] [--smp N] [--load] [--name NAME] [TEST...]
# TEST is a program of tools/testing/selftests/fuse (default: all).  With --cmd, that command runs in
# the guest instead, in /kselftest/fuse.  --image skips the kernel's build, --brief shows only results
# and failures.  --smp is the number of vCPUs (default 4); --load lets the guest compete with a busy loop for each
# of this machine's processors; --name replaces KERNEL in the names below.  The KUnit tests that the debug kernel runs at boot count as well.  The results as
# counted go to build/logs/test-BASE-KERNEL.ktap; beside it the console, and in .times the seconds of each case.
# FU_TEST_TIMEOUT: seconds for everything.
. "$(dirname "$0")/lib.sh"

kernel=ordinary image='' cmd='' append='' show=tests name='' guest=() tests=()
while [ $# -gt 0 ]; do
	case $1 in
	--kernel) kernel=$2; shift ;;
	--image) image=$2; shift ;;
	--cmd) cmd=$2; shift ;;
	--append) append=$2; shift ;;
	--brief) show=results ;;
	--smp) guest+=(--smp "$2"); shift ;;
	--load) guest+=(--load "$(nproc)") ;;
	--name) name=$2; shift ;;
	-*) die "unknown argument $1" ;;
	*) tests+=("$1") ;;
	esac
	shift
done
prepare_guest "$kernel" "$image"

name=${name:-$kernel}
console=$FU_LOGS/test-$FU_BASE_NAME-$name.console
per_test=900
[ "$kernel" = ordinary ] || per_test=1800
if [ -n "$cmd" ]; then
	exec "$FU_TOP/scripts/vm-run.py" --machine "$machine" --kernel "$image" --initrd "$initrd" --log "$console" --show tests \
		--timeout "${FU_TEST_TIMEOUT:-1800}" --append "$append" "${guest[@]}" --cmd "cd /kselftest/fuse && $cmd"
fi
selection='-c fuse'
if [ ${#tests[@]} -gt 0 ]; then
	selection=$(printf -- '-t fuse:%s ' "${tests[@]}")
fi
# The debug kernel has run its unit tests by then.
unit_tests='' suites=()
if [ "$kernel" = debug ]; then
	append+=' kunit.enable=1'
	unit_tests="sed 's/^/kunit: /' /sys/kernel/debug/kunit/*/results;"
	suites=(--kunit fuse_uring_map)
fi
status=0
"$FU_TOP/scripts/vm-run.py" --machine "$machine" --kernel "$image" --initrd "$initrd" --log "$console" --show $show \
	--times "${console%.console}.times" \
	--timeout "${FU_TEST_TIMEOUT:-3600}" --quiet-limit 600 --append "$append" "${guest[@]}" \
	--cmd "$unit_tests cd /kselftest && ./run_kselftest.sh -o $per_test $selection" || status=$?
"$FU_TOP/scripts/ktap.py" --label "$FU_BASE_NAME $name" --guest-status $status "${suites[@]}" \
	--out "${console%.console}.ktap" "$console"
