# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
package=qemu-utils
suites='image kill'
file_mount=1 stays=1
prepare() { truncate -s 32M "$work/image"; }
serve() {
	exec qemu-storage-daemon --blockdev driver=file,node-name=file,filename="$work/image" \
		--export type=fuse,id=export,node-name=file,mountpoint="$mnt",writable=on
}
