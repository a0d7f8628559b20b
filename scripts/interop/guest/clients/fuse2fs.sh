# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
package=fuse2fs
prepare() { mke2fs -q -t ext4 "$work/image" 96M; }
serve() { exec fuse2fs -f "$work/image" "$mnt"; }
# What it left behind must be a filesystem.
cleanup() {
	local out
	out=$(e2fsck -fn "$work/image" 2>&1) || { problem="e2fsck: $(tail -n 1 <<<"$out")"; return 1; }
}
