# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
package=rclone
export INTEROP_NO_LINKS=1
# What it uploads while the file gets another name is there under the old one, so it waits with that.
serve() {
	exec rclone mount --vfs-cache-mode writes --vfs-write-back 1h --dir-cache-time 1s --file-perms 0777 \
		--cache-dir "$work/cache" ":local:$back" "$mnt"
}
