#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# One piece of work in a mount: suites.sh SUITE MOUNT WORK [ARGUMENT].  Status 0, or a line that says why not.
set -euo pipefail
suite=$1 mnt=$2 work=$3
own=$mnt/$suite
fail() { echo "error: $*"; exit 1; }

# fio_with ENGINE OPTION...: two processes write their files at random, then read and verify each block.
fio_with() {
	local engine=$1
	shift
	mkdir "$own"
	fio --name=verify --directory="$own" --ioengine="$engine" --rw=randwrite --bsrange=4k-64k --bs_unaligned=0 \
		--blockalign=4k --size="${FIO_SIZE:-3m}" --numjobs=2 --thread --fallocate=none --verify=crc32c --verify_fatal=1 \
		--randseed=7 --group_reporting --end_fsync=1 "$@" || fail "fio with $engine ended with status $?"
	rm -r "$own"
}

case $suite in
fio-buffered) fio_with psync ;;
fio-direct) fio_with psync --direct=1 ;;
fio-mmap) fio_with mmap ;;
fio-libaio) fio_with libaio --direct=1 --iodepth=16 ;;
fio-io_uring) fio_with io_uring --direct=1 --iodepth=16 ;;
fio-buffered-io_uring) fio_with io_uring --iodepth=16 ;;
git)
	git clone -q --no-hardlinks /opt/interop/tree.git "$own"
	cd "$own"
	git checkout -q HEAD~1
	git checkout -q main
	[ -z "$(git status --porcelain)" ] || fail 'git sees changes in a fresh checkout'
	make -s -j4 >"$work/make.log" 2>&1 || fail "make: $(tail -n 1 "$work/make.log")"
	[[ $(./example/cuse_client 2>&1 || true) = *sage:* ]] || fail 'the built program does not run'
	git gc -q
	git fsck 2>&1 | (! grep -v '^notice') || fail 'git fsck complains after gc'
	cd /
	rm -rf "$own"
	;;
sqlite)
	mkdir "$own"
	db=$own/db
	sqlite3 "$db" 'CREATE TABLE t(id INTEGER PRIMARY KEY, who INT, n INT, data BLOB); CREATE INDEX i ON t(who, n);'
	pids=()
	for who in 1 2; do
		{
			echo '.timeout 60000'
			for n in $(seq 25); do
				echo "BEGIN IMMEDIATE; INSERT INTO t(who, n, data) VALUES($who, $n, randomblob(3000)); UPDATE t SET n = n WHERE who = $who AND n < $n; COMMIT;"
			done
		} | sqlite3 -bail "$db" &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do
		wait "$pid" || fail "a writer of the database ended with status $?"
	done
	[ "$(sqlite3 "$db" 'PRAGMA integrity_check')" = ok ] || fail 'the database is damaged'
	[ "$(sqlite3 "$db" 'SELECT count(*), sum(n) FROM t')" = '50|650' ] || fail 'rows are missing'
	sqlite3 "$db" 'VACUUM' 'PRAGMA integrity_check' | grep -x ok >/dev/null || fail 'the database is damaged after VACUUM'
	rm -r "$own"
	;;
image)
	for options in --ioengine=psync '--ioengine=psync --direct=1' '--ioengine=libaio --direct=1 --iodepth=8' '--ioengine=io_uring --iodepth=8'; do
		# shellcheck disable=SC2086 # several words
		fio --name=verify --filename="$mnt" --size=8m --rw=randwrite --bs=16k --thread --verify=crc32c --verify_fatal=1 \
			--randseed=7 --end_fsync=1 $options || fail "fio with $options ended with status $?"
	done
	;;
idmapped)
	# What root owns is uid 1000's in the idmapped mount, and the other way round.
	other=/mnt/idmapped.other
	mkdir "$other" "$own"
	echo theirs >"$own/file"
	mount --bind -o X-mount.idmap=b:0:1000:1 "$mnt" "$other" || fail 'it cannot be idmapped'
	[ "$(stat -c %u:%g "$other/idmapped/file")" = 1000:1000 ] || fail "the owner is $(stat -c %u:%g "$other/idmapped/file")"
	setpriv --reuid=1000 --regid=1000 --clear-groups sh -ec "cd $other/idmapped; echo mine >new; mkdir dir; mv new dir/
		ln -s new dir/link; ln dir/new dir/second; mkfifo dir/fifo; chmod 600 dir/new; cat dir/link; rm file" || fail 'the owner cannot work'
	for name in dir dir/new dir/second dir/link dir/fifo; do
		[ "$(stat -c %u:%g "$own/$name")" = 0:0 ] || fail "$name is made for $(stat -c %u:%g "$own/$name")"
		[ "$(stat -c %u:%g "$work/back/idmapped/$name")" = 0:0 ] || fail "$name belongs to $(stat -c %u:%g "$work/back/idmapped/$name") below"
	done
	! setpriv --reuid=1001 --regid=1001 --clear-groups touch "$other/idmapped/foreign" 2>/dev/null || fail 'another user can write'
	! setpriv --reuid=1001 --regid=1001 --clear-groups cat "$other/idmapped/dir/new" 2>/dev/null || fail 'another user can read'
	chown 1000:1000 "$other/idmapped/dir/new"
	[ "$(stat -c %u:%g "$own/dir/new")" = 0:0 ] || fail "it was given to $(stat -c %u:%g "$own/dir/new")"
	umount "$other"
	rmdir "$other"
	rm -r "$own"
	;;
metadata) python3 "$(dirname "$0")/metadata.py" "$own" 4 24 ;;
model)
	pids=()
	for seed in 1 2; do
		python3 "$(dirname "$0")/model.py" "$own.$seed" 200 $seed &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do
		wait "$pid" || fail 'a file is not what was written (see above)'
	done
	;;
compare) cd "$mnt" && sha256sum --quiet --strict -c /opt/interop/manifest ;;
parallel)
	expected=$(cd /opt/interop/data && find . -type f -printf '%p %s\n' | sort | sha256sum)
	pids=()
	for i in 1 2 3 4; do
		(cd "$mnt" && [ "$(find . -type f -printf '%p %s\n' | sort | sha256sum)" = "$expected" ] &&
			[ "$(grep -rl fuse_session . | wc -l)" -eq "$(grep -rl fuse_session /opt/interop/data | wc -l)" ]) &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do
		wait "$pid" || fail 'a reader saw another tree'
	done
	;;
mapped) python3 "$(dirname "$0")/mapped.py" "$mnt" /opt/interop/data ;;
load)
	# Until something fails: that is what is waited for.
	set +e
	i=0
	while [ $i -lt 100000 ]; do
		i=$((i + 1))
		if [ -f "$mnt" ]; then
			dd if=/dev/zero of="$mnt" bs=64k count=64 conv=notrunc,fsync status=none || break
		elif [ -w "$mnt" ] && [ ! -e "$mnt/large" ]; then
			dd if=/dev/zero of="$mnt/load.$4" bs=64k count=16 status=none || break
			cat "$mnt/load.$4" >/dev/null || break
		else
			find "$mnt/include" -type f -exec cat {} + >/dev/null || break
		fi
	done
	exit 0
	;;
*) fail "no suite is named $suite" ;;
esac
