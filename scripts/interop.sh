#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Real clients in a small Debian on the patched kernel, over /dev/fuse and over the ring:
#   interop.sh                    every client that has no result yet
#   CLIENTS="bindfs sshfs" ...    only these
#   DEPTHS="1 8 32" ...           the ring's queue depths (default: these, and 8 for libfuse's test suite)
#   SUITES="metadata kill" ...     only these pieces of work, to try something
#   KERNEL=debian ...             on Debian's newest kernel, with mainline's ring, to compare
# Each client is a step: a guest of its own, whose result is kept below build/interop until the kernel, the root or
# the client's scripts change.  Ends with "interop: clients=N ring_requests=N N passed, N failed".
. "$(dirname "$0")/lib.sh"

here=$FU_TOP/scripts/interop
ring_clients=(passthrough_hp passthrough_ll passthrough passthrough_fh memfs_ll bindfs sshfs fuse-overlayfs squashfuse
	squashfuse_ll erofsfuse fuse2fs exfat-fuse disorderfs fuseiso backing userns fuse_uringd idmapped libfuse-tests)
dev_clients=(qemu-storage-daemon gocryptfs rclone cuse virtiofs refused selftests)
read -r -a clients <<<"${CLIENTS:-${ring_clients[*]} ${dev_clients[*]}}"
for client in "${clients[@]}"; do
	[ -f "$here/guest/clients/$client.sh" ] || die "there is no client $client (see scripts/interop/guest/clients)"
done

"$FU_TOP/scripts/install.sh" mmdebstrap uidmap e2fsprogs kmod debian-archive-keyring
export PATH=$PATH:/usr/sbin:/sbin
root=$("$here/root.sh" | tee >(cat >&2) | tail -n 1)
extra=()
ensure_tree
install=$("$FU_TOP/scripts/build-kselftest.sh" | tee >(cat >&2) | tail -n 1)
case ${KERNEL:-series} in
series)
	name=series
	image=$("$FU_TOP/scripts/build-kernel.sh" --kernel interop | tee >(cat >&2) | tail -n 1)
	;;
debian)
	name=debian
	kernel=$("$here/debian-kernel.sh" | tee >(cat >&2) | tail -n 1)
	image=$kernel/vmlinuz extra=("$kernel/lib/modules:/lib/modules")
	;;
*) die "KERNEL=$KERNEL is not known: leave it out, or say KERNEL=debian" ;;
esac
# What each client's result depends on, as it is now.
common=$(hash_of "$(sha256sum <"$image")" "$root" "${DEPTHS:-}" "${SUITES:-}" "$(cat "$here"/guest/{boot,*.sh,*.py,*.c} | sha256sum)")
declare -A keys=()
for client in "${ring_clients[@]}" "${dev_clients[@]}"; do
	keys[$client]=$(hash_of "$common" "$(cat "$here/guest/clients/$client.sh")")
	# These are built from the server's source.
	case $client in
	fuse_uringd | idmapped | refused | selftests) keys[$client]=$(hash_of "${keys[$client]}" "$(cat "$FU_TOP"/tools/testing/selftests/fuse/{Makefile,*.[ch]} | sha256sum)") ;;
	esac
done
initrd=$FU_BUILD/initrd-interop-$name.cpio
"$FU_TOP/scripts/initramfs.sh" "$initrd" "$here/guest:/interop" \
	"$FU_TOP/tools/testing/selftests/fuse:/interop/fuse" \
	"$install/fuse/opcode_test:/interop/kselftest/opcode_test" \
	"$install/fuse/integrity_test:/interop/kselftest/integrity_test" "${extra[@]}"
choose_accel "$image" "$initrd"
results=$FU_BUILD/interop/$name
mkdir -p "$results"

# run CLIENT: boots it; status 0 when the guest came to its end, whatever the rows say.
run() {
	local client=$1 share=$results/$1.new transports=(dev) vm=() depth depths=${DEPTHS:-1 8 32} status=0
	# libfuse's test suite takes longer than all other work together.
	[ "$client" != libfuse-tests ] || depths=${DEPTHS:-8}
	case " ${dev_clients[*]} " in
	*" $client "*) ;;
	*) for depth in $depths; do transports+=("ring:$depth"); done ;;
	esac
	rm -rf "$share"
	mkdir -p "$share/logs" "$share/rows"
	[ -z "${SUITES:-}" ] || echo "$SUITES" >"$share/suites"
	if [ "$client" = virtiofs ]; then
		mkdir "$share/virtiofs"
		vm=(--virtiofs "$share/virtiofs" --virtiofsd "$root/virtiofsd/ld.so --library-path $root/virtiofsd $root/virtiofsd/virtiofsd")
	fi
	[ "$client" != refused ] || vm+=(--append 'lsm=smack')
	! grep -q '^single=1$' "$here/guest/clients/$client.sh" || vm+=(--smp 1)
	"$FU_TOP/scripts/vm-run.py" --kernel "$image" --initrd "$initrd" --disk "$root/root.img" --share "$share" --show tests \
		--log "$FU_LOGS/interop-$name-$client.console" --timeout "${FU_INTEROP_TIMEOUT:-5400}" --quiet-limit 900 \
		"${vm[@]}" --cmd "sh /interop/boot $client ${transports[*]}" | tee "$share/guest.log" || status=$?
	rm -rf "$share/virtiofs"
	# What the guest's kernel had to say makes the row fail that was being made.
	sed -n 's/^vm-run: //p' "$share/guest.log" | head -n 1 >"$share/guest"
	return $status
}

for client in "${clients[@]}"; do
	if [ "$(cat "$results/$client/key" 2>/dev/null)" = "${keys[$client]}" ]; then
		say "$client: as before"
		continue
	fi
	say "$client (console: $FU_LOGS/interop-$name-$client.console)"
	start=$SECONDS
	if run "$client"; then
		echo "${keys[$client]}" >"$results/$client.new/key"
	fi
	rm -rf "${results:?}/$client"
	mv "$results/$client.new" "$results/$client"
	say "$client: $((SECONDS - start)) s"
done

# Of what was not asked for, only results that are of this kernel and these scripts.
rows=("${clients[@]}")
for client in "${ring_clients[@]}" "${dev_clients[@]}"; do
	[[ " ${clients[*]} " = *" $client "* ]] || [ "$(cat "$results/$client/key" 2>/dev/null)" != "${keys[$client]}" ] ||
		rows+=("$client")
done
mkdir -p "$FU_TOP/results"
table=$FU_TOP/results/interop${BASE:+-$BASE}.md
[ $name = series ] || table=$results/interop.md
{
	printf '# make interop\n\n'
	if [ $name = series ] && [ -z "${FU_IMAGE:-}" ]; then
		made_by interop ", libfuse rebuilt with liburing"
	else
		# shellcheck disable=SC2016 # Markdown's own marks
		printf 'Made by `make interop` on %s with the kernel %s, accelerator %s.\n\n' "$(date -u +%F)" \
			"$(cat "${kernel:-/nowhere}/release" 2>/dev/null || basename "$image")" "$ACCEL"
	fi
	"$here/table.py" "$results" "${rows[@]}"
} >"$table.new"
mv "$table.new" "$table"
sed -n '/^|/p; /^- /p' "$table"
say "(also in ${table#"$FU_TOP/"})"
line=$("$here/table.py" --line "$results" "${rows[@]}")
say "$line"
[ "${line##*, }" = '0 failed' ]
