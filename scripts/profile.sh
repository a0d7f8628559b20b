#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Where do the instructions of a request go?  Counted by QEMU (scripts/profile.c) on one vCPU without ERMS, on the null
# filesystem, by function of the kernel and by program:
#   profile.sh [TRANSPORT:TEST...]
# TRANSPORT is dev, ring or user, TEST one of fuse_bench; default: stat and rand4k over all three.  Each is run with 2,000
# and with 12,000 operations, and the difference is divided by 10,000.  All functions are in build/profile, the most
# frequent ones in results/profile.md.  Ends with "profile: TRANSPORT:TEST=N ..." (instructions an operation).
. "$(dirname "$0")/lib.sh"

few=2000 many=12000
[ $# -gt 0 ] || set -- dev:stat ring:stat user:stat dev:rand4k ring:rand4k user:rand4k
for what; do
	[[ $what =~ ^(dev|ring|user):[a-z0-9]+$ ]] || die "'$what' is no TRANSPORT:TEST: say ring:stat, for example"
done

"$FU_TOP/scripts/install.sh"
ensure_tree
export ACCEL=tcg
prepare_guest ordinary
symbols=${image%/*}/System.map
[ -f "$symbols" ] || symbols=${image%/arch/x86/boot/*}/System.map
[ -f "$symbols" ] || die "no System.map beside $image"

work=$FU_BUILD/profile
rm -rf "$work"
mkdir -p "$work/bin"
gcc -O2 -Wall -Wextra -fvisibility=hidden -shared -fPIC -o "$work/profile.so" "$FU_TOP/scripts/profile.c"
# vm-run.py finds this QEMU first.
cat >"$work/bin/qemu-system-x86_64" <<-END
	#!/bin/sh
	exec "$(command -v qemu-system-x86_64)" "\$@" -plugin "$work/profile.so,out=\$PROFILE_OUT"
END
chmod +x "$work/bin/qemu-system-x86_64"

sums=()
for what; do
	transport=${what%:*} test=${what#*:} name=${what/:/-}
	say "$what (console: $FU_LOGS/profile-$name.console)"
	for ops in $few $many; do
		PATH=$work/bin:$PATH PROFILE_OUT=$work/$name.$ops "$FU_TOP/scripts/vm-run.py" --kernel "$image" --initrd "$initrd" \
			--log "$FU_LOGS/profile-$name.console" --show none --timeout 600 --smp 1 --icount --append clearcpuid=erms \
			--cmd "cd /kselftest/fuse && mkdir /tmp/mnt &&
				{ ./fuse_uringd --foreground --transport=$transport --fs=null /tmp/mnt & } &&
				until grep -q ' /tmp/mnt fuse' /proc/mounts; do sleep 0.1; done &&
				./fuse_bench --ops=$ops /tmp/mnt $test && umount /tmp/mnt && wait" ||
			die "$what was not measured: see above"
	done
	"$FU_TOP/scripts/profile.py" "$work/$name.$few" "$work/$name.$many" $((many - few)) "$symbols" >"$work/$name.txt"
	rm "$work/$name.$few" "$work/$name.$many"
	sums+=("$what=$(sed -n 's/ all$//p' "$work/$name.txt" | tr -d ' ')")
done

mkdir -p "$FU_TOP/results"
{
	printf '# make profile\n\n'
	made_by profile ''
	printf 'Instructions an operation (icount, one vCPU, without ERMS) by function; those above 20 are shown.\n'
	for what; do
		printf '\n## %s\n\n| instructions | function |\n|---:|---|\n' "${what/:/, }"
		awk '$1 >= 20 { printf "| %s | %s |\n", $1, $2 }' "$work/${what/:/-}.txt"
	done
} >"$FU_TOP/results/profile.md"
say "profile: ${sums[*]}"
