#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# An interactive VM: the selftest daemon serves a folder of the guest on /mnt over the ring.
. "$(dirname "$0")/lib.sh"

[ -t 0 ] || die "make shell needs a terminal"
"$FU_TOP/scripts/install.sh"
ensure_tree
prepare_guest ordinary
say "booting; Ctrl-C goes to the guest, 'exit' ends it; $FU_BUILD/share is /host there"
mkdir -p "$FU_BUILD/share"
state=$(stty -g)
trap 'stty "$state"' EXIT
"$FU_TOP/scripts/vm-run.py" --interactive --kernel "$image" --initrd "$initrd" --share "$FU_BUILD/share" --log /dev/null \
	--cmd 'mkdir /tmp/back; /kselftest/fuse/fuse_uringd --transport=ring --fs=passthrough:/tmp/back /mnt; cat /sys/fs/fuse/connections/*/uring | head -n 12'
