# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
package=erofsfuse
suites=$reading
serve() { exec erofsfuse -f /opt/interop/data.erofs "$mnt"; }
