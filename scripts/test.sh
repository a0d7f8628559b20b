#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The test command: lint, then the selftests in the VM on the ordinary and on the debug kernel.
# Ends with "N passed, N failed", and ", N skipped" when something was skipped that may be.
. "$(dirname "$0")/lib.sh"

# Cases that may be skipped, as "PROGRAM CASE" patterns with the reason: none is known.
may_skip=()

"$FU_TOP/scripts/install.sh"
ensure_tree
passed=0 failed=0 skipped=0
start=$SECONDS

rm -f "$FU_LOGS"/lint.counts "$FU_LOGS/test-$FU_BASE_NAME-"{ordinary,debug}.ktap
"$FU_TOP/scripts/lint.sh" || true
if read -r p f 2>/dev/null <"$FU_LOGS/lint.counts"; then
	passed=$((passed + p)) failed=$((failed + f))
else
	say "not ok lint did not finish"
	failed=$((failed + 1))
fi

for kernel in ordinary debug; do
	ktap=$FU_LOGS/test-$FU_BASE_NAME-$kernel.ktap
	say "selftests on the $kernel kernel ($FU_BASE_NAME)"
	"$FU_TOP/scripts/vmtest.sh" --brief --kernel $kernel || true
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
say "test: $(((SECONDS - start) / 60)) minutes; logs in $FU_LOGS"
line="$passed passed, $failed failed"
[ $skipped -eq 0 ] || line+=", $skipped skipped"
say "$line"
[ $failed -eq 0 ]
