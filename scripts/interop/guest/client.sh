#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# One client in the guest: client.sh CLIENT TRANSPORT..., a transport being dev or ring:DEPTH.  For each a file
# /host/rows/CLIENT.TRANSPORT of lines "name value" and "suite NAME ok|fail SECONDS TEXT".
# shellcheck disable=SC2034,SC2154 # clients use what is set here, lib.sh sets what is used here
set -uo pipefail
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
writable='fio-buffered fio-direct fio-mmap fio-libaio fio-io_uring model git sqlite metadata kill'
reading='compare parallel mapped kill'

client=$1
shift
declare -A limits=()
# limit SUITE TEXT: what this client cannot do over any transport, and why.
limit() { limits[$1]=$2; }
# What a client's file may replace.  A server that chooses to serve with one thread says single=1: libfuse's ring has
# a thread for each CPU nevertheless, so that such a server's guest has one CPU.
title=$client package='' suites=$writable file_mount='' stays='' single=''
prepare() { :; }
cleanup() { :; }
# shellcheck source=/dev/null
. "$here/clients/$client.sh"

if [ -f /host/suites ]; then
	some='' chosen=" $(cat /host/suites) "
	for suite in $suites; do
		[[ $chosen != *" $suite "* ]] || some+=" $suite"
	done
	suites=$some
fi

mnt=/mnt/$client
log=/host/logs
work=/srv/work
mkdir -p /mnt "$rows" "$log"
if [ -n "$file_mount" ]; then
	touch "$mnt"
	root=$mnt uncached=$mnt
else
	mkdir -p "$mnt"
	root=$mnt/. uncached=$mnt/no-such-name
fi

version() {
	case $package in
	'' | libfuse) echo "libfuse $(cat /opt/libfuse/version)" ;;
	*) echo "$package $(dpkg-query -W -f '${Version}' "$package")" ;;
	esac
}

# start TRANSPORT: the server on a fresh folder; sets pid and number.
start() {
	rm -rf $work
	mkdir -p $work/back
	back=$work/back
	(prepare) >>"$serverlog" 2>&1 || { problem="its preparation failed: $(tail -n 1 "$serverlog")"; return 1; }
	counting_starts
	(
		export LD_LIBRARY_PATH=/opt/libfuse/lib FUSE_URING_ENABLE=0
		[ "$1" = dev ] || export FUSE_URING_ENABLE=1 FUSE_URING_QUEUE_DEPTH="${1#ring:}"
		serve
	) >>"$serverlog" 2>&1 </dev/null &
	pid=$!
	is_up() { gone "$pid" || mounted "$mnt"; }
	until_true 60 is_up
	if ! mounted "$mnt"; then
		problem="it did not mount: $(tail -n 1 "$serverlog")"
		kill -9 "$pid" 2>/dev/null
		return 1
	fi
	# The answer to FUSE_INIT starts the ring; the first request waits for it.
	stat "$root" >/dev/null 2>&1
	number=$(connection_of "$mnt")
	threads=$(find "/proc/$pid/task" -mindepth 1 -maxdepth 1 2>/dev/null | wc -l)
}
stop() {
	umount "$mnt" 2>/dev/null || { sleep 2; umount "$mnt"; } || { problem='it cannot be unmounted'; umount -l "$mnt"; kill -9 "$pid"; return 1; }
	# Some servers serve other things too, and do not end with the mount.
	[ -z "$stays" ] || kill "$pid"
	until_true 30 gone "$pid" || { problem='the server is still there 30 s after umount'; kill -9 "$pid"; return 1; }
	wait "$pid" 2>/dev/null
	cleanup
}

# finished SUITE STATUS SECONDS LOG: one line about it.
finished() {
	local text=''
	if [ "$2" -eq 0 ]; then
		say "    $1: ok, $3 s"
		echo "suite $1 ok $3" >>"$row"
		return
	fi
	# The first thing that went wrong says more than what followed.
	text=$(grep -aE '^error:' "$4" | grep -av 'see above\|ended with status' | head -n 1)
	[ -n "$text" ] || text=$(grep -aE 'rror|erif|failed' "$4" | tail -n 1)
	text=$(tr -d '\r' <<<"$text" | cut -c1-160)
	[ "$2" -ne 124 ] || text="it did not end within 300 s; $text"
	[ -n "$text" ] || text="status $2; $(tail -n 1 "$4" | cut -c1-160)"
	say "    $1: FAIL, $3 s: $text"
	echo "suite $1 fail $3 $text" >>"$row"
}
run_suite() {
	local begun=$SECONDS status=0 out="$log/$client.${transport/:/-}.$1.log"
	timeout -k 10 300 /bin/bash $here/suites.sh "$1" "$mnt" $work >"$out" 2>&1 </dev/null || status=$?
	finished "$1" $status $((SECONDS - begun)) "$out"
	[ $status -ne 0 ] || rm -f "$out"
}

# kill -9 under load: ENOTCONN for whoever comes, the load ends, the mount goes away.
kill_suite() {
	local load=() one ring answer
	problem=''
	start "$transport" || { echo "error: $problem"; return 1; }
	for one in 1 2 3; do
		/bin/bash $here/suites.sh load "$mnt" $work $one &
		load+=($!)
	done
	sleep 2
	read -r ring _ < <(requests "$number")
	case $transport in
	ring*) [ "$ring" -gt 0 ] || { echo 'error: nothing went over the ring before the kill'; } ;;
	esac
	kill -9 "$pid"
	wait "$pid" 2>/dev/null
	for one in "${load[@]}"; do
		until_true 30 gone "$one" || { echo "error: a client still hangs 30 s after the server's death"; kill -9 "$one"; }
	done
	# Something that no cache answers.
	answer=$(cat "$uncached" 2>&1)
	[[ $answer = *'not connected' ]] || echo "error: not ENOTCONN: $answer"
	umount "$mnt" || { echo 'error: it cannot be unmounted'; umount -l "$mnt"; }
	until_true 10 test ! -e "$connections/$number" || echo 'error: the connection is still there'
}
run_kill() {
	local begun=$SECONDS status=0 out="$log/$client.${transport/:/-}.kill.log"
	kill_suite >"$out" 2>&1
	! grep -q '^error:' "$out" || status=1
	finished kill $status $((SECONDS - begun)) "$out"
	[ $status -ne 0 ] || rm -f "$out"
}

for transport in "$@"; do
	row=$rows/$client.${transport/:/-}
	serverlog=$log/$client.${transport/:/-}.server.log
	: >"$serverlog"
	problem=''
	say "$client over $transport"
	printf 'client %s\nversion %s\ntransport %s\n' "$title${single:+, with one thread on one CPU}" "$(version)" "$transport" >"$row"
	for suite in "${!limits[@]}"; do
		echo "limit $suite ${limits[$suite]}" >>"$row"
	done
	ring=0 dev=-
	if declare -F whole >/dev/null; then
		# A client that is a suite by itself.
		whole
	elif start "$transport"; then
		case "$transport $* $single" in
		dev*ring*1) [ "$threads" -eq 1 ] || echo "suite threads fail 0 it has $threads threads, so that single=1 is wrong" >>"$row" ;;
		dev*ring*) [ "$threads" -gt 1 ] || echo 'suite threads fail 0 it has one thread, so that it needs single=1' >>"$row" ;;
		esac
		for suite in $suites; do
			[ "$suite" = kill ] || run_suite "$suite"
		done
		read -r ring dev < <(requests "$number")
		cp "$connections/$number/uring" "$log/$client.${transport/:/-}.uring" 2>/dev/null
		stop || echo "suite umount fail 0 $problem" >>"$row"
		case " $suites " in *' kill '*) run_kill ;; esac
	else
		say "    mount: FAIL: $problem"
		echo "suite mount fail 0 $problem" >>"$row"
	fi
	printf 'requests_ring %s\nrequests_dev %s\ndone\n' "$ring" "$dev" >>"$row"
	[ -s "$serverlog" ] || rm -f "$serverlog"
done
say "$client: done"
