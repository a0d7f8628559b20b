# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# What client.sh and the clients share.

# shellcheck disable=SC2034 # for client.sh
here=/run/interop rows=/host/rows
tracing=/sys/kernel/tracing
connections=/sys/fs/fuse/connections

say() { printf '%6.1f s  %s\n' "$(cut -d' ' -f1 /proc/uptime)" "$*"; }

# until_true SECONDS COMMAND...: wait for it.
until_true() {
	local end=$((SECONDS + $1))
	shift
	until "$@" 2>/dev/null; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.2
	done
}
gone() { ! kill -0 "$1" 2>/dev/null; }
mounted() { awk -v at="$1" '$2 == at && $3 ~ /^fuse/ || $2 == at && $3 == "virtiofs" { found = 1 } END { exit !found }' /proc/mounts; }

# The requests of a connection from the kernel's trace event; those over the ring from the statistics,
# or, where the kernel has none, from a probe on the function of mainline that puts a request on a queue.
counting_starts() {
	local event=$tracing/events/fuse/fuse_request_send/trigger
	if [ -w "$event" ]; then
		echo '!hist:keys=connection' >"$event" 2>/dev/null
		echo 'hist:keys=connection' >"$event" 2>/dev/null || true
	fi
	if [ ! -e $tracing/events/kprobes/interop_ring ] && grep -q ' fuse_uring_queue_fuse_req$' /proc/kallsyms; then
		{ echo 'p:interop_ring fuse_uring_queue_fuse_req' && echo 'p:interop_ring_bg fuse_uring_queue_bq_req'; } \
			>>$tracing/kprobe_events 2>/dev/null || true
	fi
	local probe
	for probe in interop_ring interop_ring_bg; do
		probe=$tracing/events/kprobes/$probe/trigger
		[ -w $probe ] || continue
		echo '!hist:keys=common_type' >$probe 2>/dev/null
		echo 'hist:keys=common_type' >$probe 2>/dev/null || true
	done
}
hits() { sed -n 's/^{ '"$2"': *'"$3"' } hitcount: *//p' "$tracing/events/$1/hist" 2>/dev/null | tr -d ' ' | head -n 1; }

# requests CONNECTION: "RING DEV", each a number or - where it is not known.
requests() {
	local total ring=0 dev=- stats=$connections/$1/uring probe n
	total=$(hits fuse/fuse_request_send connection "$1")
	if [ -f "$stats" ]; then
		ring=$(sed -n 's/^requests_ring //p' "$stats") dev=$(sed -n 's/^requests_dev //p' "$stats")
		# A ring that was promised and never came has no requests.
		ring=${ring:-0}
	elif [ -e $tracing/events/kprobes/interop_ring ]; then
		for probe in interop_ring interop_ring_bg; do
			n=$(hits kprobes/$probe common_type '[0-9]*')
			ring=$((ring + ${n:-0}))
		done
		dev=$((${total:-$ring} - ring))
	elif [ -n "$total" ]; then
		dev=$total
	fi
	echo "$ring $dev"
}
# Of all connections together, for a client that mounts by itself; the one probe that serves both kernels is the
# event of the moment when a request leaves for the server.
counting_all() {
	local event=$tracing/events/fuse/fuse_uring_send/trigger
	counting_starts
	[ -w $event ] || return 0
	echo '!hist:keys=common_type' >$event 2>/dev/null
	echo 'hist:keys=common_type' >$event
}
requests_all() {
	local total ring
	total=$(sed -n 's/^ *Hits: //p' $tracing/events/fuse/fuse_request_send/hist 2>/dev/null)
	ring=$(sed -n 's/^ *Hits: //p' $tracing/events/{fuse/fuse_uring_send,kprobes/interop_ring,kprobes/interop_ring_bg}/hist 2>/dev/null |
		awk '{ n += $1 } END { print n + 0 }')
	echo "$ring $((${total:-0} > ring ? total - ring : 0))"
}
# The number of a mount's connection: that of its device, which for fuseblk is the block device's.
connection_of() { awk -v at="$1" '$5 == at { split($3, d, ":"); n = d[1] * 2 ^ 20 + d[2] } END { print n }' /proc/self/mountinfo; }
