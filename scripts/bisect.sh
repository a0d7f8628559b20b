#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Can somebody bisect through the series?  bisect.sh [PATCH...]: every patch, or those whose file names begin with
# PATCH (0007), builds with FUSE_IO_URING=y, =n and as a module, boots, and passes the selftests that exist at that point.
# What has passed is remembered in the cache, by what the kernel or the test program was made from, so start it again
# when it was interrupted; FU_AGAIN=1 forgets it.  All trees and logs are in build/bisect.
# Ends with "bisect: patches=N built=N passed=N".
here=$(cd "$(dirname "$0")" && pwd)
export FU_BUILD=${FU_BUILD:-$here/../build}/bisect
. "$here/lib.sh"

"$FU_TOP/scripts/install.sh"
"$FU_TOP/apply.sh"
tree=$FU_TREE log=$FU_LOGS/bisect.log objects=$FU_BUILD/objects
git_in() { fu_git -C "$tree" "$@"; }
tools_key=$(hash_of "$(gcc --version | head -n 1)" "$(ld --version | head -n 1)" "$(cat "$FU_TOP/configs/vm.config")")
mapfile -t commits < <(git_in rev-list --reverse refs/tags/base..HEAD)
mapfile -t patches < <(series_patches)
[ "${#commits[@]}" -eq "${#patches[@]}" ] || die "$tree has ${#commits[@]} commits and the series ${#patches[@]} patches"
head=$(git_in rev-parse HEAD)
trap 'git_in checkout -q -f "$head"' EXIT

# remembered KEY: the file that says that this has passed
remembered() { say "$FU_CACHE/results/bisect-$(hash_of "$@")"; }
known() { [ -z "${FU_AGAIN:-}" ] && [ -f "$1" ]; }

# What the kernel is made from: all but documents and selftests.
kernel_key() {
	hash_of "$tools_key" "$(git_in ls-tree HEAD | grep -vE '	(Documentation|MAINTAINERS|tools)$')"
}

# build_with NAME SETTING...: the ordinary configuration but for SETTING, e.g. CONFIG_FUSE_IO_URING=n
build_with() {
	local out=$objects/$1 setting
	shift
	mkdir -p "$out"
	cp "$objects/y/.config" "$out/.config"
	for setting in "$@"; do
		"$tree/scripts/config" --file "$out/.config" --set-val "${setting%=*}" "${setting#*=}"
	done
	make -C "$tree" O="$out" CC='ccache gcc' HOSTCC='ccache gcc' -j"$FU_JOBS" olddefconfig
	for setting in "$@"; do
		case $setting in
		*=n) ! grep -q "^${setting%=*}=" "$out/.config" || { echo "error: $setting"; return 1; } ;;
		*) grep -qx "$setting" "$out/.config" || { echo "error: $setting"; return 1; } ;;
		esac
	done
	make -C "$tree" O="$out" CC='ccache gcc' HOSTCC='ccache gcc' -j"$FU_JOBS" \
		KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 2026' KBUILD_BUILD_USER=fuse KBUILD_BUILD_HOST=uring all
}
build_kernels() {
	# Before the first patch that has it the option is not there to be set.
	FU_CONFIG_TOLERATE='CONFIG_FUSE_IO_URING' "$FU_TOP/scripts/build-kernel.sh" --out "$objects/y" &&
		cp "$("$FU_TOP/scripts/build-kernel.sh" --out "$objects/y" | tail -n 1)" "$objects/image" &&
		build_with n CONFIG_FUSE_IO_URING=n &&
		build_with m CONFIG_MODULES=y CONFIG_FUSE_FS=m
}
boot() {
	local initrd=$FU_BUILD/initrd.cpio
	"$FU_TOP/scripts/initramfs.sh" "$initrd" >/dev/null
	choose_accel "$objects/image" "$initrd"
	"$FU_TOP/scripts/vm-run.py" --kernel "$objects/image" --initrd "$initrd" --log "$FU_LOGS/boot.console" --show none \
		--timeout 120 --cmd true
}

# run_tests KERNEL_KEY: the programs that have not passed with this kernel
run_tests() {
	local install program file todo=()
	install=$("$FU_TOP/scripts/build-kselftest.sh" | tail -n 1) || return 1
	while read -r program; do
		file=$(remembered "$1" "$program" "$(sha256sum <"$install/fuse/$program")")
		known "$file" || todo+=("$program")
	done < <(sed -n 's/^fuse://p' "$install/kselftest-list.txt")
	[ ${#todo[@]} -gt 0 ] || return 0
	FU_NO_INSTALL=1 "$FU_TOP/scripts/vmtest.sh" --brief --image "$objects/image" --name bisect "${todo[@]}" || return 1
	for program in "${todo[@]}"; do
		: >"$(remembered "$1" "$program" "$(sha256sum <"$install/fuse/$program")")"
	done
}

wanted() {
	local p
	[ $# -gt 1 ] || return 0
	for p in "${@:2}"; do
		case $1 in "$p"*) return 0 ;; esac
	done
	return 1
}

nr=0 built=0 passed=0
for i in "${!commits[@]}"; do
	wanted "${patches[$i]}" "$@" || continue
	nr=$((nr + 1))
	git_in checkout -q -f --detach "${commits[$i]}"
	key=$(kernel_key)
	tests=0
	[ ! -f "$tree/tools/testing/selftests/fuse/Makefile" ] || tests=1
	build_file=$(remembered built "$key") boot_file=$(remembered booted "$key")
	if ! known "$build_file" || { [ $tests -eq 1 ] && [ ! -f "$objects/image" ]; }; then
		run_logged "build at ${patches[$i]}" "$log" build_kernels || { say "not ok ${patches[$i]} builds"; continue; }
		: >"$build_file"
		image_key=$key
	fi
	built=$((built + 1))
	if ! known "$boot_file" || [ $tests -eq 1 ]; then
		# The image of a kernel that was built in an earlier run
		[ "${image_key:-}" = "$key" ] || { run_logged "build at ${patches[$i]}" "$log" build_kernels && image_key=$key; } || continue
	fi
	if ! known "$boot_file"; then
		boot || { say "not ok ${patches[$i]} boots (console: $FU_LOGS/boot.console)"; continue; }
		: >"$boot_file"
	fi
	if [ $tests -eq 1 ]; then
		run_tests "$key" || { say "not ok ${patches[$i]} passes its tests"; continue; }
	fi
	passed=$((passed + 1))
	say "ok ${patches[$i]}"
done
say "bisect: patches=$nr built=$built passed=$passed"
[ "$built" -eq "$nr" ] && [ "$passed" -eq "$nr" ]
