# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
package=squashfuse
suites=$reading
single=1
serve() { exec squashfuse -f /opt/interop/data.sqfs "$mnt"; }
