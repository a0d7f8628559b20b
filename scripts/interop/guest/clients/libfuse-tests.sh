# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
title="libfuse's own test suite"
# Each test of the suite counts by itself, so that both transports can be compared.
whole() {
	local out=$log/$client.${transport/:/-}.log options=()
	[ "$transport" = dev ] || options=(--io-uring --io-uring-queue-depth "${transport#ring:}")
	cd /opt/src/fuse3 || return
	# It asks its printcap whether the kernel has the ring, which 3.18.3's does not print.  What the statistics
	# count tells whether it was used.
	sed -i "s/return f'the kernel did not offer .*/return ''/" test/run-tests.py
	counting_all
	timeout -k 10 1500 python3 test/run-tests.py --build-dir obj --run-dir /srv/run --timeout 240 -j 2 --setuid-helpers \
		"${options[@]}" 2>&1 | tee "$out"
	sed -nE 's/^\+ *[0-9.]+s (PASS|FAIL|SKIP) +([^ ]+) +([0-9]+)[0-9.]*s *(.*)/\2 \1 \3 \4/p' "$out" | sort -u >"$out.tests"
	sed -E 's/^([^ ]+) PASS/suite \1 ok/; s/^([^ ]+) FAIL/suite \1 fail/; s/^([^ ]+) SKIP/suite \1 skip/' "$out.tests" >>"$row"
	[ -s "$out.tests" ] || echo "suite run fail 0 $(tail -n 1 "$out")" >>"$row"
	read -r ring dev < <(requests_all)
	cd /
}
