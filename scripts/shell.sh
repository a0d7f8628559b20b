#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# An interactive VM: the selftest daemon serves a folder of the guest on /mnt over the ring.
. "$(dirname "$0")/lib.sh"

[ -t 0 ] || die "make shell needs a terminal"
"$FU_TOP/scripts/install.sh"
ensure_tree
image=$("$FU_TOP/scripts/build-kernel.sh" | tee >(cat >&2) | tail -n 1)
install=$("$FU_TOP/scripts/build-kselftest.sh" | tee >(cat >&2) | tail -n 1)
initrd=$FU_BUILD/initrd-$FU_BASE_NAME.cpio
"$FU_TOP/scripts/initramfs.sh" "$initrd" "$install:/kselftest" "$(command -v timeout):/usr/bin/timeout"
choose_accel "$image" "$initrd"
say "booting; Ctrl-C goes to the guest, 'exit' ends it; $FU_BUILD/share is /host there"
mkdir -p "$FU_BUILD/share"
state=$(stty -g)
trap 'stty "$state"' EXIT
"$FU_TOP/scripts/vm-run.py" --interactive --kernel "$image" --initrd "$initrd" --share "$FU_BUILD/share" --log /dev/null \
	--cmd 'mkdir /tmp/back; /kselftest/fuse/fuse_uringd --transport=ring --fs=passthrough:/tmp/back /mnt; cat /sys/fs/fuse/connections/*/uring | head -n 12'
