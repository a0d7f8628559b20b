# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
title='libfuse example memfs_ll'
export INTEROP_NO_LINKS=1
serve() { exec /opt/libfuse/example/memfs_ll -f "$mnt"; }
for suite in fio-mmap git; do
	limit $suite 'its answer to LOOKUP says size 0, so that a mapped page of a file that is looked up again lies behind its end (SIGBUS)'
done
limit sqlite 'its answer to LOOKUP says size 0 of the database and its journal, too'
limit metadata 'its answer to LOOKUP says 0 for all times'
