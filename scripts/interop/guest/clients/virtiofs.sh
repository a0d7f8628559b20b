# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
package=virtiofsd
suites=${writable% kill}
serve() {
	mount -t virtiofs interop "$mnt"
	while mountpoint -q "$mnt"; do sleep 0.5; done
}
