# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
package=exfat-fuse
export INTEROP_NO_LINKS=1
single=1
# It mounts block devices only (fuseblk).
prepare() {
	cleanup || true
	truncate -s 96M "$work/image" && mkfs.exfat "$work/image" && losetup /dev/loop0 "$work/image"
}
serve() { exec mount.exfat-fuse -d /dev/loop0 "$mnt"; }
cleanup() { losetup -d /dev/loop0; }
