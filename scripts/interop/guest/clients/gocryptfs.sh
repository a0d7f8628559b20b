# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
package=gocryptfs
prepare() {
	echo secret >"$work/password"
	gocryptfs -q -init -scryptn 10 -passfile "$work/password" "$back"
}
serve() { exec gocryptfs -q -fg -passfile "$work/password" "$back" "$mnt"; }
