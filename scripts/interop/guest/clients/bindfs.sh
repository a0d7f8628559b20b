# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
package=bindfs
# Else with one thread, which libfuse's ring does not heed.
serve() { exec bindfs -f --multithreaded "$back" "$mnt"; }
