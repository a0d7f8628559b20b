#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Root of a user namespace of its own mounts and works: userns.sh TRANSPORT WORK "SUITES".
set -uo pipefail
here=$(dirname "$0")
. "$here/lib.sh"
mnt=$2/mnt
mkdir "$mnt"
export LD_LIBRARY_PATH=/opt/libfuse/lib FUSE_URING_ENABLE=0 HOME=$2
[ "$1" = dev ] || export FUSE_URING_ENABLE=1 FUSE_URING_QUEUE_DEPTH="${1#ring:}"
/opt/libfuse/example/passthrough_ll -f -o source="$2/back" "$mnt" &
pid=$!
until_true 60 mounted "$mnt" || { echo 'error: it did not mount'; kill -9 $pid; exit 1; }
unset LD_LIBRARY_PATH
git config --global safe.directory '*'
for suite in $3; do
	begun=$SECONDS
	if text=$(timeout 300 /bin/bash "$here/suites.sh" "$suite" "$mnt" "$2" 2>&1 </dev/null); then
		echo "suite $suite ok $((SECONDS - begun))"
	else
		echo "suite $suite fail $((SECONDS - begun)) $(tail -n 1 <<<"$text" | cut -c1-160)"
	fi
done
# Only real root may read the statistics.
connection_of "$mnt" >"$2/connection.new"
mv "$2/connection.new" "$2/connection"
until_true 60 test -e "$2/counted"
umount "$mnt" || echo 'suite umount fail 0 it cannot be unmounted'
until_true 30 gone $pid || { echo 'suite umount fail 0 the server is still there 30 s after umount'; kill -9 $pid; }
