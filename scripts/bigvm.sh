#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Many CPUs: some test programs on 64 vCPUs in 8 nodes, and what a ring takes in memory and set-up time on
# machines with 1 to 240 possible CPUs, as a table and a plot.  Ends with "bigvm: cpus=64 nodes=8 N passed, N failed".
. "$(dirname "$0")/lib.sh"

programs=(routing_test mapping_test integrity_test)
possible=(1 2 4 8 16 32 64 128 240)
# The set-up is one ioctl of one thread: other CPUs need not run for it, only be possible.
max_booted=4

"$FU_TOP/scripts/install.sh" gnuplot-nox
command -v gnuplot >/dev/null || die "gnuplot is missing: install gnuplot-nox"
ensure_tree
prepare_guest ordinary
# Half of what the machine has free, for guests use what they are given.
mem=$(awk '/^MemAvailable:/ { m = int($2 / 2048 / 512) * 512 } END { print (m < 3072 ? 3072 : (m > 8192 ? 8192 : m)) }' /proc/meminfo)
vm() { "$FU_TOP/scripts/vm-run.py" --kernel "$image" --initrd "$initrd" --mem "$mem" "$@"; }

# The test programs.
selection=''
for program in "${programs[@]}"; do
	if [ -x "$install/fuse/$program" ]; then
		selection+=" -t fuse:$program"
	else
		say "$program is not in this tree: left out"
	fi
done
[ -n "$selection" ] || die "none of the test programs is in this tree"
# What has passed is not run again while the kernel and the programs are the same.
key=$(hash_of "$(sha256sum <"$image")" "$(cat "${programs[@]/#/$install/fuse/}" | sha256sum)")
if [ "${FU_AGAIN:-}" ] || [ "$(cat "$FU_BUILD/bigvm.passed" 2>/dev/null)" != "$key" ]; then
	rm -f "$FU_BUILD/bigvm.passed" "$FU_LOGS/bigvm.ktap"
	say "64 vCPUs in 8 nodes, $mem MiB (console: $FU_LOGS/bigvm.console)"
	status=0
	# shellcheck disable=SC2016 # the guest's own
	vm --smp 64 --nodes 8 --log "$FU_LOGS/bigvm.console" --show results --timeout "${FU_TEST_TIMEOUT:-3600}" --quiet-limit 900 --cmd '
		[ "$(nproc)" -eq 64 ] && [ -d /sys/devices/system/node/node7 ] || { echo "not 64 CPUs in 8 nodes"; exit 1; }
		cd /kselftest && ./run_kselftest.sh -o 1800'"$selection" || status=$?
	"$FU_TOP/scripts/ktap.py" --label "$FU_BASE_NAME 64 CPUs" --guest-status $status --out "$FU_LOGS/bigvm.ktap" \
		"$FU_LOGS/bigvm.console" || true
	[ ! -f "$FU_LOGS/bigvm.ktap" ] || grep -qv '^ok ' "$FU_LOGS/bigvm.ktap" || echo "$key" >"$FU_BUILD/bigvm.passed"
else
	say "the test programs passed before (log: $FU_LOGS/bigvm.ktap)"
fi
[ -f "$FU_LOGS/bigvm.ktap" ] || die "the test programs left no results: see $FU_LOGS/bigvm.console"
passed=$(grep -c '^ok ' "$FU_LOGS/bigvm.ktap") || true
failed=$(grep -vc '^ok ' "$FU_LOGS/bigvm.ktap") || true

# The cost of a set-up.
costs=$FU_BUILD/bigvm
rm -rf "$costs"
mkdir -p "$costs"
for n in "${possible[@]}"; do
	booted=$((n < max_booted ? n : max_booted))
	say "a ring for $n possible CPUs, $booted booted (console: $FU_LOGS/bigvm-$n.console)"
	# shellcheck disable=SC2016 # the guest's own
	vm --smp $booted --maxcpus "$n" --nodes 1 --log "$FU_LOGS/bigvm-$n.console" --show none --timeout 900 --cmd '
		cd /kselftest/fuse
		for depth in 0 64; do
			sizes=
			[ $depth = 0 ] || sizes="--depth=$depth --payload=1048576"
			./fuse_setup_cost $sizes && ./fuse_setup_cost $sizes --full-size || exit 1
		done' || die "the set-up was not measured: see $FU_LOGS/bigvm-$n.console"
	# Four lines, in this order: default and full-size areas, the same with deep queues.
	tr -d '\r' <"$FU_LOGS/bigvm-$n.console" | grep '^setup_cost ' >"$costs/$n"
	[ "$(wc -l <"$costs/$n")" -eq 4 ] || die "fuse_setup_cost printed not four figures: see $FU_LOGS/bigvm-$n.console"
	grep -q "possible=$n online=$booted queues=$n " "$costs/$n" || die "not $n possible CPUs: see $FU_LOGS/bigvm-$n.console"
done

# field N LINE KEY; cell N LINE: MiB a queue, MiB of all, MiB less available, ms
field() { sed -n "$2s/.* $3=\([-0-9]*\).*/\1/p" "$costs/$1"; }
cell() {
	awk -v q="$(field "$1" "$2" mmap_size)" -v all="$(field "$1" "$2" bytes)" -v kib="$(field "$1" "$2" available_kib)" \
		-v ns="$(field "$1" "$2" ns)" 'BEGIN {
			printf "%.2f | %.1f |", q / 1048576, all / 1048576
			if (ns == "-") printf " not tried | not tried |"
			else printf " %.1f | %.2f |", kib / 1024, ns / 1e6 }'
}
mkdir -p "$FU_TOP/results"
name=bigvm${BASE:+-$BASE}
table=$FU_TOP/results/$name.md
{
	printf '# make bigvm\n\n'
	made_by bigvm ", $mem MiB"
	printf 'Test programs with 64 CPUs in 8 nodes:%s: %s passed, %s failed.\n\n' "${selection// -t fuse:/ }" "$passed" "$failed"
	printf 'What a ring of one queue per possible CPU takes; CPUs that are not booted could be plugged in, and have a queue.\n'
	for first in 1 3; do
		printf '\nQueues of %s slots, payload of %s bytes; "default": %s bytes for each slot, and a pool of %s bytes for all of a queue;\n' \
			"$(field 1 $first depth)" "$(field 1 $first payload)" "$(field 1 $first small_size)" "$(field 1 $first pool_size)"
		printf '"full-size": room for the largest payload in each slot:\n\n'
		printf '| possible CPUs | booted | default: MiB a queue | MiB of all | less MiB available | ms | full-size: MiB a queue | MiB of all | less MiB available | ms |\n'
		printf '|---|---|---|---|---|---|---|---|---|---|\n'
		for n in "${possible[@]}"; do
			printf '| %s | %s | %s %s\n' "$n" "$(field "$n" 1 online)" "$(cell "$n" $first)" "$(cell "$n" $((first + 1)))"
		done
	done
	printf '\nMemory and time are medians of three set-ups. Times under TCG mean something only among themselves. "Not tried": more than\n'
	printf 'three quarters of the guest'\''s memory.\n\n![memory and time](%s.svg)\n' "$name"
} >"$table"

# The plot: the same figures; what was not tried has no time, but its memory is known.
for line in 1 2 3 4; do
	for n in "${possible[@]}"; do
		ns=$(field "$n" $line ns)
		printf '%s %s %s\n' "$n" "$(field "$n" $line bytes)" "${ns/#-/NaN}"
	done >"$costs/plot.$line"
done
title() { printf '%s slots of %s KiB%s' "$(field 1 "$1" depth)" "$(($(field 1 "$1" payload) / 1024))" "$2"; }
gnuplot >/dev/null <<END
set terminal svg size 1000,420 font "sans,12" background "white"
set output "$FU_TOP/results/$name.svg"
set multiplot layout 1,2
set logscale x 2
set logscale y 10
set xrange [1:256]
set xlabel "possible CPUs"
set key top left Left reverse
set grid
set datafile missing "NaN"
set ylabel "MiB of all queues"
plot for [i=1:4] "$costs/plot.".i using 1:(\$2/1048576) with linespoints \\
	title word("'$(title 1 '')' '$(title 2 ', full-size')' '$(title 3 '')' '$(title 4 ', full-size')'", i)
set ylabel "ms to set up"
plot for [i=1:4] "$costs/plot.".i using 1:(\$3/1e6) with linespoints notitle
END
say
sed -n '/^|/p; /^$/p' "$table" | cat -s
say "(also in results/$name.md, plot in results/$name.svg)"
say "bigvm: cpus=64 nodes=8 $passed passed, $failed failed"
[ "$failed" -eq 0 ]
