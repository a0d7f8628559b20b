# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
title='libfuse example cuse (a character device)'
whole() {
	local begun=$SECONDS out=$log/$client.log status=1
	{
		modprobe -q cuse
		/opt/libfuse/example/cuse -f --name=interop &
		pid=$!
		cuse_client=/opt/libfuse/example/cuse_client
		until_true 30 test -c /dev/interop || echo 'error: there is no device'
		seq 300 >/tmp/cuse.in
		size=$(stat -c %s /tmp/cuse.in)
		$cuse_client /dev/interop s 100000 && $cuse_client /dev/interop w "$size" </tmp/cuse.in &&
			$cuse_client /dev/interop r "$size" >/tmp/cuse.out && cmp /tmp/cuse.in /tmp/cuse.out && status=0
		kill $pid
		until_true 30 gone $pid || { echo 'error: the server does not end'; status=1; }
		wait $pid
	} >"$out" 2>&1
	finished device $status $((SECONDS - begun)) "$out"
}
