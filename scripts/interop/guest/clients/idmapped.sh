# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
title='passthrough of fuse_uringd, with FUSE_ALLOW_IDMAP'
package=linux-libc-dev
suites='idmapped git metadata kill'
built=/opt/fuse_uringd
prepare() {
	[ ! -x $built/idmapd ] || return 0
	cp -r "$here/fuse" $built
	make -C $built libserver.a
	gcc -D_GNU_SOURCE -I$built -o $built/idmapd "$here/idmapd.c" $built/libserver.a -luring -lpthread
}
serve() {
	local how=dev
	[ "$transport" = dev ] || how=user:${transport#ring:}
	exec $built/idmapd "$how" "$back" "$mnt"
}
