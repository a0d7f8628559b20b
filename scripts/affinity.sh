#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Context switches and wake-ups from other CPUs per synchronous request, over the ring and over /dev/fuse, with
# the requester and its queue's thread on one CPU; and with a requester that is not bound, alone and beside busy
# loops.  Ends with a line "affinity: requests=..." about the former; fails when there the ring takes more than
# two switches, or wakes another CPU.
. "$(dirname "$0")/lib.sh"

# Requests on each of the four CPUs, and what the ring may take per request.
requests=5000 max_switches=2.05 max_wakeups=0.05

"$FU_TOP/scripts/install.sh"
ensure_tree
prepare_guest stats

share=$FU_BUILD/affinity
rm -rf "$share"
mkdir -p "$share"
say "four vCPUs in two nodes, $requests requests on each (console: $FU_LOGS/affinity.console)"
"$FU_TOP/scripts/vm-run.py" --kernel "$image" --initrd "$initrd" --share "$share" --show tests --timeout 600 \
	--log "$FU_LOGS/affinity.console" --cmd "/kselftest/fuse/fuse_affinity --requests=$requests >/host/out" ||
	die "the requests were not counted: see above"

# field TRANSPORT KEY
field() { sed -n "s/^affinity $1 .*\b$2=\([0-9.]*\).*/\1/p" "$share/out"; }
for transport in ring dev; do
	for key in requests switches wakeups; do
		[ -n "$(field $transport $key)" ] || die "fuse_affinity printed no $key of $transport"
	done
	[ "$(grep -c "^unbound $transport " "$share/out")" -eq 3 ] || die "fuse_affinity printed no three lines of $transport, not bound"
done
mkdir -p "$FU_TOP/results"
{
	printf '# make affinity\n\n'
	made_by affinity ''
	sed -n '/^|/p' "$share/out"
	printf '\nA request is a forced GETATTR on the null filesystem; all figures but the first are per request.\n'
	printf 'The requester is bound to the CPU, or runs where the scheduler puts it while so many busy loops want CPUs too.\n'
	printf 'The ring'\''s server binds its threads to the CPUs of their queues, that of /dev/fuse lets them run where the\n'
	printf 'scheduler wants. Switches and wake-ups are those of the requester and of all\n'
	printf 'threads of the server; reschedule interrupts are those of the whole system.\n'
} >"$FU_TOP/results/affinity${BASE:+-$BASE}.md"
say
sed -n '/^|/p' "$share/out"
say
say "(also in results/affinity${BASE:+-$BASE}.md)"
more() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > b) }'; }
! more "$(field ring switches)" $max_switches ||
	die "a request over the ring takes $(field ring switches) context switches, more than $max_switches"
! more "$(field ring wakeups)" $max_wakeups ||
	die "a request over the ring wakes $(field ring wakeups) times from another CPU, more than $max_wakeups"
say "affinity: requests=$(field ring requests) ring switches=$(field ring switches) wakeups=$(field ring wakeups)" \
	"dev switches=$(field dev switches) wakeups=$(field dev wakeups)"
