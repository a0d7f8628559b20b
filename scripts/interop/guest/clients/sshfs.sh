# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
package=sshfs
prepare() {
	[ -f /run/sshd.pid ] || /usr/sbin/sshd
	until_true 60 ssh root@localhost true
}
serve() { exec sshfs -f root@localhost:"$back" "$mnt"; }
