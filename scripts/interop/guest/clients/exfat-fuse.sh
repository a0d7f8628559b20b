# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
package=exfat-fuse
export INTEROP_NO_LINKS=1
prepare() { truncate -s 96M "$work/image" && mkfs.exfat "$work/image"; }
serve() { exec mount.exfat-fuse -d "$work/image" "$mnt"; }
