#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The main job: everything set up, then a real source tree through a FUSE mount whose requests travel over
# a managed ring, in a virtual machine.  Ends with a table and the line "run: OK files=...".
. "$(dirname "$0")/lib.sh"

"$FU_TOP/scripts/install.sh"
ensure_tree
image=$("$FU_TOP/scripts/build-kernel.sh" | tee >(cat >&2) | tail -n 1)
install=$("$FU_TOP/scripts/build-kselftest.sh" | tee >(cat >&2) | tail -n 1)

# What the guest gets: the pinned kernel's own fs/ and io_uring/, and the sums to compare with.
share=$FU_BUILD/run
rm -rf "$share"
mkdir -p "$share/tree"
repo=$(env -u BASE "$FU_TOP/scripts/fetch-base.sh" | tail -n 1)
fu_git -C "$repo" archive --format=tar base fs io_uring >"$share/tree.tar"
tar -xf "$share/tree.tar" -C "$share/tree"
(cd "$share/tree" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$share/manifest"
grep -rl copy_from_user "$share/tree" | wc -l >"$share/grep-count"
files=$(wc -l <"$share/manifest")
bytes=$(find "$share/tree" -type f -printf '%s\n' | awk '{ n += $1 } END { print n }')
fu_git -C "$repo" archive --format=tar base usr/gen_init_cpio.c | tar -x -C "$share" --strip-components=1
rm -rf "$share/tree"

# The guest's compiler: tcc with the C library's headers and start files.
sysroot=$FU_BUILD/sysroot
rm -rf "$sysroot"
mkdir -p "$sysroot"
{ dpkg -L tcc libc6-dev linux-libc-dev | grep -E '^/usr/(include|bin/tcc|lib/[^/]*/tcc)(/|$)'
	dpkg -L libc6-dev | grep -E '/(crt[1in]\.o|libc\.so|libc_nonshared\.a)$'; } |
	while read -r f; do [ -d "$f" ] || printf '%s\0' "${f#/}"; done | tar -c -C / --null -T - | tar -x -C "$sysroot"
initrd=$FU_BUILD/initrd-run-$FU_BASE_NAME.cpio
"$FU_TOP/scripts/initramfs.sh" "$initrd" "$install:/kselftest" "$sysroot:/" "$(command -v timeout):/usr/bin/timeout" \
	"/lib64/ld-linux-x86-64.so.2:/lib/$(gcc -print-multiarch)/ld-linux-x86-64.so.2"
choose_accel "$image" "$initrd"

vm() { "$FU_TOP/scripts/vm-run.py" --kernel "$image" --initrd "$initrd" --share "$share" --show tests "$@"; }
say "boot 1: four vCPUs in two nodes, $files files, $bytes bytes (console: $FU_LOGS/run.console)"
vm --log "$FU_LOGS/run.console" --timeout 1500 --cmd run-tree || die "the tree did not get through the mount: see above"
say "boot 2: one vCPU whose time counts instructions (console: $FU_LOGS/run-icount.console)"
# So many operations that it does not matter whether something else of the kernel's falls between them.  An
# emulated "rep movsb" counts every byte as an instruction; without "erms" all copies go by words, user memory's too.
# shellcheck disable=SC2016 # the guest's own
ACCEL=tcg vm --log "$FU_LOGS/run-icount.console" --timeout 900 --smp 1 --icount --append clearcpuid=erms \
	--cmd 'cd /kselftest/fuse && small="stat rand4k wrio4k" large="rdio1m wrio1m"
		./fuse_bench.sh -r 3 -n 10000 stat rand4k >/host/instructions &&
		./fuse_bench.sh -r 1 -n 10000 $small >/host/instructions-pool &&
		./fuse_bench.sh -r 1 -n 500 $large >>/host/instructions-pool &&
		./fuse_bench.sh -r 1 -n 10000 -R --small=1M $small >/host/instructions-full &&
		./fuse_bench.sh -r 1 -n 500 -R --small=1M $large >>/host/instructions-full &&
		./fuse_bench.sh -r 1 -n 10000 -T user stat rand4k >/host/instructions-user' ||
	die "the instructions were not counted: see above"

# counter KEY; field FILE TEST KEY
counter() { sed -n "s/^$1 //p" "$share/counters"; }
field() { sed -n "s/^compare $2 .*$3=\([0-9.]*\).*/\1/p" "$share/$1"; }
for key in requests_ring requests_dev forgets_dev interrupts_dev notifications_dev; do
	[[ $(counter $key) =~ ^[0-9]+$ ]] || die "the connection's statistics have no number $key"
done
# row TEST NAME FILE [user]
row() {
	local test=$1 name=$2 dev ring
	dev=$(field "$3" "$test" dev_ns_per_op) ring=$(field "$3" "$test" "${4:-ring}_ns_per_op")
	if [ -z "$dev" ] || [ -z "$ring" ] || [ "$dev" -eq 0 ] || [ "$ring" -eq 0 ]; then
		die "fuse_bench printed no figure for $test"
	fi
	if [ "$3" = wall ]; then
		awk -v n="$name" -v d="$dev" -v r="$ring" 'BEGIN { printf "| %s, operations/s | %d | %d | %.2f |\n", n, 1e9 / d, 1e9 / r, d / r }'
	else
		awk -v n="$name" -v d="$dev" -v r="$ring" 'BEGIN { printf "| %s, instructions an operation | %d | %d | %.3f |\n", n, d, r, r / d }'
	fi
}
# What it costs that large payloads share their memory: the same ring with a full-size buffer for each slot.
memory_row() {
	local pool full
	pool=$(field instructions-pool "$1" ring_ns_per_op) full=$(field instructions-full "$1" ring_ns_per_op)
	if [ -z "$pool" ] || [ -z "$full" ] || [ "$full" -eq 0 ]; then
		die "fuse_bench printed no figure for $1"
	fi
	awk -v n="$2" -v p="$pool" -v f="$full" 'BEGIN { printf "| %s | %d | %d | %.3f |\n", n, f, p, p / f }'
}
version=$(make -s -C "$FU_TREE" kernelversion)
table=$share/table.md
{
	printf '# make run\n\n'
	# shellcheck disable=SC2016 # Markdown's own marks
	printf 'Made by `make run%s` on %s: Linux %s with the series (tree %s), %s, %s, accelerator %s (instructions: TCG with icount, without ERMS).\n\n' \
		"${BASE:+ BASE=$BASE}" "$(date -u +%F)" "$version" "$(fu_git -C "$FU_TREE" rev-parse --short=12 'HEAD^{tree}')" \
		"$(gcc --version | head -n 1)" "$(qemu-system-x86_64 --version | head -n 1 | sed -E 's/ \(.*//')" "$ACCEL"
	printf '| through the mount | |\n|---|---|\n| files | %s |\n| bytes | %s |\n' "$files" "$bytes"
	printf '| requests over the ring | %s |\n| requests over /dev/fuse | %s |\n' "$(counter requests_ring)" "$(counter requests_dev)"
	printf '| forgets, interrupts, notifications over /dev/fuse | %s, %s, %s |\n\n' \
		"$(counter forgets_dev)" "$(counter interrupts_dev)" "$(counter notifications_dev)"
	printf '| the same server | /dev/fuse | ring | ratio |\n|---|---|---|---|\n'
	row stat 'forced GETATTR' wall
	row rand4k '4 KiB direct read' wall
	row stat 'forced GETATTR' instructions
	row rand4k '4 KiB direct read' instructions
	row stat 'user buffers: forced GETATTR' instructions-user user
	row rand4k 'user buffers: 4 KiB direct read' instructions-user user
	printf '\n| ring, instructions an operation | full-size buffers | pool | ratio |\n|---|---|---|---|\n'
	memory_row stat 'forced GETATTR'
	memory_row rand4k '4 KiB direct read'
	memory_row wrio4k '4 KiB direct write'
	memory_row rdio1m '1 MiB direct read'
	memory_row wrio1m '1 MiB direct write'
	printf '\nOperations/s are medians of five interleaved runs in one boot; under TCG only their ratio (ring by /dev/fuse) means something.\n'
	printf 'The ratio of instructions is the ring'\''s by /dev/fuse'\''s: smaller is better.\n'
} >"$table"
mkdir -p "$FU_TOP/results"
cp "$table" "$FU_TOP/results/run${BASE:+-$BASE}.md"
say
sed -n '/^|/p; /^$/p' "$table"
say "(also in results/run${BASE:+-$BASE}.md)"
for key in requests_dev forgets_dev interrupts_dev notifications_dev; do
	[ "$(counter $key)" -eq 0 ] || die "$(counter $key) ${key%_dev} went over /dev/fuse"
done
say "run: OK files=$files bytes=$bytes ring_requests=$(counter requests_ring) dev_requests=$(counter requests_dev)" \
	"dev_forgets=$(counter forgets_dev) dev_interrupts=$(counter interrupts_dev) dev_notifications=$(counter notifications_dev)"
