#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# How often synchronous requests take which lock of fs/fuse, and find it taken, over the ring and over
# /dev/fuse, from one thread and from one on each of four CPUs.  Ends with a line "locks: requests=...";
# fails when requests over the ring take locks of the connection, or wait for those of queues.
. "$(dirname "$0")/lib.sh"

# Requests of each thread, and what is allowed per 1,000 over the ring.
requests=5000 max_connection=10 max_contended=10
# Locks of which a connection has one (or one for each descriptor), whatever the number of CPUs.
connection='&fiq->lock|&fiq->waitq|&fc->lock|&fc->bg_lock|&fc->blocked_waitq|&fpq->lock'

"$FU_TOP/scripts/install.sh"
ensure_tree
prepare_guest debug

share=$FU_BUILD/locks
rm -rf "$share"
mkdir -p "$share"
say "debug kernel, four vCPUs in two nodes, $requests requests a thread (console: $FU_LOGS/locks.console)"
"$FU_TOP/scripts/vm-run.py" --kernel "$image" --initrd "$initrd" --share "$share" --show tests --timeout 1500 \
	--log "$FU_LOGS/locks.console" --cmd "run-locks $requests" || die "the locks were not counted: see above"

# Every lock of fs/fuse by the name of its class, which is what it was initialised with.
grep -hoE '\b(spin_lock_init|rwlock_init|mutex_init|init_rwsem|init_waitqueue_head)\([^)]*\)|\bDEFINE_(MUTEX|SPINLOCK)\([^)]*\)' \
	"$FU_TREE"/fs/fuse/*.c | sed 's/.*(\(.*\))/\1/' | sort -u >"$share/classes"

# One line for each class of these that a run has taken: RUN CLASS ACQUISITIONS CONTENTIONS.  A class can have
# several rows, of readers and writers, of subclasses and of other objects with that name.
for run in dev.1 dev.4 ring.1 ring.4; do
	awk -v run=$run 'NR == FNR { ours[$0]; next }
		/^[[:space:]]*[^[:space:]].*:[[:space:]]+[0-9]+[[:space:]]/ && !/\[</ {
			name = $0
			sub(/:[[:space:]]+[0-9].*/, "", name)
			gsub(/^[[:space:]]+/, "", name)
			rest = substr($0, index($0, name) + length(name) + 1)
			sub(/-[RW]$/, "", name)
			sub(/\/[0-9]+$/, "", name)
			sub(/#[0-9]+$/, "", name)
			if (!(name in ours))
				next
			split(rest, f)
			contended[name] += f[2]
			taken[name] += f[8]
		}
		END { for (name in taken) print run, name, taken[name], contended[name] }' \
		"$share/classes" "$share/lock_stat.$run"
done | sort >"$share/counts"
sum() { awk -v run="$1" -v re="^($2)\$" -v f="$3" '$1 ~ run && $2 ~ re { n += $f } END { print n + 0 }' "$share/counts"; }
done_by() { sed -n 's/^bench stat .* ops=\([0-9]*\) .*/\1/p' "$share/bench.$1"; }
per_1000() { awk -v n="$1" -v by="$2" 'BEGIN { printf "%.2f", n * 1000 / by }'; }

for run in dev.1 dev.4 ring.1 ring.4; do
	[[ $(done_by $run) =~ ^[0-9]+$ ]] || die "fuse_bench printed no figure ($run)"
	[ "$(sum $run '.*' 3)" -gt 0 ] || die "/proc/lock_stat names no lock of fs/fuse ($run)"
done
for run in ring.1 ring.4; do
	stats=$share/uring.$run
	[ "$(sed -n 's/^requests_ring_sync //p' "$stats")" -ge "$(done_by $run)" ] ||
		die "not all requests went over the ring ($run)"
	[ "$(sed -n 's/^requests_dev //p' "$stats")" -eq 0 ] || die "requests went over /dev/fuse ($run)"
done

mkdir -p "$FU_TOP/results"
table=$FU_TOP/results/locks${BASE:+-$BASE}.md
{
	printf '# make locks\n\n'
	made_by locks ', debug kernel'
	printf '| lock class | /dev/fuse, 1 thread | /dev/fuse, 4 threads | ring, 1 thread | ring, 4 threads |\n|---|---|---|---|---|\n'
	cut -d' ' -f2 "$share/counts" | sort -u | while read -r class; do
		# shellcheck disable=SC2016 # Markdown's own marks
		printf '| `%s` |' "$class"
		for run in dev.1 dev.4 ring.1 ring.4; do
			printf ' %s / %s |' "$(per_1000 "$(sum $run "$class" 3)" "$(done_by $run)")" \
				"$(per_1000 "$(sum $run "$class" 4)" "$(done_by $run)")"
		done
		printf '\n'
	done
	printf '\nAcquisitions / contentions per 1,000 forced GETATTR, %s of each thread; several threads are bound to one CPU each\n' "$requests"
	printf '(and so to one queue each) and ask for the same file. What opens and closes that file is counted with them.\n'
	# shellcheck disable=SC2016 # Markdown's own marks
	printf 'Locks of the connection: %s.\n' "$(sed 's/[^|]\+/`&`/g; s/|/, /g' <<<"$connection")"
} >"$table"
say
sed -n '/^|/p' "$table"
say
say "(also in results/${table##*/})"

total=$(($(done_by ring.1) + $(done_by ring.4)))
x=$(per_1000 "$(sum ring "$connection" 3)" $total)
y=$(per_1000 "$(sum ring '&queue->lock' 3)" $total)
contended=$(per_1000 "$(sum ring.4 '&queue->lock' 4)" "$(done_by ring.4)")
more() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > b) }'; }
! more "$x" $max_connection || die "1,000 requests over the ring take locks of the connection $x times, more than $max_connection"
! more "$contended" $max_contended ||
	die "with one thread a queue, 1,000 requests find the lock of a queue taken $contended times, more than $max_contended"
say "locks: requests=$total ring_connection=$x ring_queue=$y"
