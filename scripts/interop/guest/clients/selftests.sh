# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
# Of the series' selftests those that need no more than mainline has: with KERNEL=debian, what there is over user
# buffers and over /dev/fuse runs on a kernel whose ring is another's.
title="opcode_test and integrity_test of this series"
package=linux-libc-dev
whole() {
	local program out
	counting_all
	for program in opcode_test integrity_test; do
		out=$log/$client.$program.log
		(cd "$here/kselftest" && timeout -k 10 1500 ./$program) >"$out" 2>&1 </dev/null || true
		sed -nE "s/^ok [0-9]+ (# SKIP.*|.*# *SKIP.*)/suite $program.\1 skip 0/p; s/^ok [0-9]+ ([^ #]+)\$/suite $program.\1 ok 0/p
			s/^not ok [0-9]+ ([^ ]+).*/suite $program.\1 fail 0 see $program.log/p" "$out" |
			awk '$3 == "skip" || /SKIP/ { n++; next } { print } END { if (n) print "suite '$program'.other-rings skip 0 " n " cases" }' >>"$row"
		grep -q '^# Totals:' "$out" || echo "suite $program fail 0 it did not end: $(tail -n 1 "$out")" >>"$row"
	done
	read -r ring dev < <(requests_all)
}
