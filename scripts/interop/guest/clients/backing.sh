# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
title='libfuse example passthrough_hp, backing files opened (FUSE passthrough)'
event=$tracing/events/fuse/fuse_request_send
# Nothing that the work reads or writes may become a request: all that is in the trace are FUSE_CREATEs.
prepare() {
	echo 0 >"$event/enable"
	echo 'opcode == 15 || opcode == 16 || opcode == 35' >"$event/filter"
	echo >"$tracing/trace"
	echo 1 >"$event/enable"
}
serve() { exec /opt/libfuse/example/passthrough_hp --foreground "$back" "$mnt"; }
cleanup() {
	local created data
	echo 0 >"$event/enable"
	created=$(grep -c FUSE_CREATE "$tracing/trace") data=$(grep -cE 'FUSE_(READ|WRITE)\b' "$tracing/trace")
	[ "$created" -gt 100 ] && [ "$data" -eq 0 ] && return
	problem="there were $data requests to read or write, and $created that created files"
	return 1
}
