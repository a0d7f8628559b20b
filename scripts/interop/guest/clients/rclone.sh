# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
package=rclone
export INTEROP_NO_LINKS=1
serve() { exec rclone mount --vfs-cache-mode writes --vfs-write-back 0 --dir-cache-time 1s ":local:$back" "$mnt"; }
