# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
title='libfuse example passthrough_ll'
serve() { exec /opt/libfuse/example/passthrough_ll -f -o writeback,source="$back" "$mnt"; }
