# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
# The server of the selftests, built here against Debian's headers: those are mainline's, so the ring is user buffers.
title='fuse_uringd of this series, with the headers of Debian'
package=linux-libc-dev
built=/opt/fuse_uringd
prepare() {
	[ ! -x $built/fuse_uringd ] || return 0
	cp -r "$here/fuse" $built
	make -C $built
}
serve() {
	local options=(--transport=dev)
	[ "$transport" = dev ] || options=(--transport=user --depth="${transport#ring:}")
	exec $built/fuse_uringd --foreground --fs="passthrough:$back" "${options[@]}" "$mnt"
}
