# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
title='libfuse example passthrough'
serve() { exec /opt/libfuse/example/passthrough -f -o modules=subdir,subdir="$back" "$mnt"; }
