# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
# Servers that ask for the ring and are refused it, in each of the ways there are: they serve over /dev/fuse.
title='servers that are refused the ring'
enable=/sys/module/fuse/parameters/enable_uring
built=/opt/fuse_uringd

uringd() { exec $built/fuse_uringd --foreground --no-clone --transport=user --fs="passthrough:$back" "$mnt"; }
hp() {
	export LD_LIBRARY_PATH=/opt/libfuse/lib FUSE_URING_ENABLE=1 FUSE_URING_QUEUE_DEPTH=8
	exec /opt/libfuse/example/passthrough_hp --foreground --nopassthrough "$back" "$mnt"
}
# No reason to be refused but the rule, which goes once /dev/fuse is open.
closed() {
	export -f uringd hp
	export built back mnt
	exec setpriv --bounding-set=-mac_override --inh-caps=-mac_override env LD_PRELOAD=/opt/closed.so bash -c "$1"
}

# is_refused NAME SERVER...: one way.
is_refused() {
	local name=$1 begun=$SECONDS out=$log/$client.$1.log status=0
	shift
	rm -rf "$work"
	mkdir -p "$work/back"
	back=$work/back
	counting_starts
	"$@" >"$log/$client.$name.server.log" 2>&1 </dev/null &
	pid=$!
	{
		# shellcheck disable=SC2317 # called by until_true
		is_up() { gone "$pid" || mounted "$mnt"; }
		until_true 60 is_up
		mounted "$mnt" || echo "error: it did not mount: $(tail -n 1 "$log/$client.$name.server.log")"
		timeout -k 10 300 /bin/bash "$here/suites.sh" metadata "$mnt" "$work" || echo 'error: metadata'
		read -r ring dev < <(requests "$(connection_of "$mnt")")
		[ "$ring" = 0 ] && [ "$dev" -gt 100 ] || echo "error: $ring requests by the ring, $dev by /dev/fuse"
		umount "$mnt" || { echo 'error: it cannot be unmounted'; umount -l "$mnt"; kill -9 "$pid"; }
		until_true 30 gone "$pid" || { echo 'error: the server does not end'; kill -9 "$pid"; }
	} >"$out" 2>&1
	wait "$pid" 2>/dev/null
	! grep -q '^error:' "$out" || status=1
	finished "$name" $status $((SECONDS - begun)) "$out"
}

whole() {
	local server
	cp -r "$here/fuse" $built
	make -C $built >"$log/$client.build.log" 2>&1
	gcc -shared -fPIC -o /opt/closed.so "$here/closed.c" -ldl
	for server in uringd hp; do
		echo 0 >$enable
		is_refused "enable_uring-off-$server" $server
		echo 1 >$enable
		echo 2 >/proc/sys/kernel/io_uring_disabled
		is_refused "io_uring_disabled-$server" $server
		echo 0 >/proc/sys/kernel/io_uring_disabled
	done
	mkdir -p /sys/fs/smackfs
	mount -t smackfs smackfs /sys/fs/smackfs || { echo "suite smack fail 0 the kernel has no Smack" >>"$row"; return; }
	setfattr -n security.SMACK64 -v closed /dev/fuse
	for server in uringd hp; do
		echo '_ closed rw' >/sys/fs/smackfs/load2
		is_refused "smack-$server" closed $server
	done
}
