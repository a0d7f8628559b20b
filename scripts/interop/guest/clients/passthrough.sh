# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
title='libfuse example passthrough'
serve() { exec /opt/libfuse/example/passthrough -f -o modules=subdir,subdir="$back" "$mnt"; }
for suite in fio-direct fio-libaio fio-io_uring; do
	limit $suite 'it opens the file below with O_DIRECT and reads into memory of malloc(3), which does not suit that (EINVAL)'
done
