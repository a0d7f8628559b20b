# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Helpers that every script here sources.  Variables that may be set from outside:
#   FU_BUILD        folder of working trees and build output (default: build/ in the repository)
#   FU_CACHE        downloads, bases, compiler cache, results (default: the XDG cache folder)
#   FU_JOBS         parallel jobs (default: one a processor)
#   FU_NO_INSTALL   1: never install packages, only say which are missing
#   FU_IMAGE        a kernel image to boot instead of building one
#   FU_VM_LOCK      a file: guests of several clones that name it take turns
#   BASE            lts: work on the newest linux-source-6.12 instead of the pinned base

set -euo pipefail
export LC_ALL=C

FU_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
FU_BUILD=${FU_BUILD:-$FU_TOP/build}
FU_CACHE=${FU_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fuse-uring}
FU_JOBS=${FU_JOBS:-$(nproc)}
BASE=${BASE:-}
# shellcheck source=../base
. "$FU_TOP/base"

say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { warn "$@"; exit 1; }

# shellcheck disable=SC2034 # for the scripts that source this
# The tree that is worked on, and the name of its base in file names.
case $BASE in
'') FU_BASE_NAME=$BASE_TAG FU_TREE=${FU_TREE:-$FU_BUILD/linux} ;;
lts) FU_BASE_NAME=lts FU_TREE=${FU_TREE:-$FU_BUILD/linux-lts} ;;
*) die "BASE=$BASE is not known: leave it out, or say BASE=lts" ;;
esac

FU_LOGS=$FU_BUILD/logs
mkdir -p "$FU_BUILD" "$FU_LOGS" "$FU_CACHE"/{downloads,base,ccache,kernels,results}
export CCACHE_DIR=$FU_CACHE/ccache CCACHE_BASEDIR=$FU_BUILD CCACHE_NOHASHDIR=1
export CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-8G} CCACHE_DEPEND=1
export CCACHE_SLOPPINESS=include_file_mtime,include_file_ctime,time_macros

# A git that no user or system setting can change.
fu_git() { GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null git "$@"; }

# The files of the series, in order.
series_patches() { sed -e 's/[[:space:]]*#.*//' -e '/^[[:space:]]*$/d' "$FU_TOP/series"; }

# patch_header Author|Email|Subject|Date FILE: a header of a patch as git reads it.
patch_header() { fu_git mailinfo /dev/null /dev/null <"$2" | sed -n "s/^$1: //p"; }

# ensure_tree: build/linux (or build/linux-lts) with the series.  A tree with work of one's own on top of
# the series' commits, or not yet exported, is used as it is.
ensure_tree() {
	local head
	if [ -d "$FU_TREE/.git" ]; then
		head=$(fu_git -C "$FU_TREE" rev-parse HEAD)
		if [ "$(fu_git -C "$FU_TREE" rev-parse -q --verify refs/fuse-uring/applied || true)" != "$head" ] ||
			[ -n "$(fu_git -C "$FU_TREE" status --porcelain --untracked-files=no | head -n 1)" ]; then
			say "using $FU_TREE as it is (it holds work that apply.sh did not put there)"
			return 0
		fi
	fi
	"$FU_TOP/apply.sh"
}

# hash_of STRING...: one short key for a result.
hash_of() { printf '%s\n' "$@" | sha256sum | cut -c1-24; }

# use_kernel KERNEL: what the build of that configuration needs.  Sets machine (of vm-run.py), kernel_arch and
# cross (of the kernel's Makefile), image_target and image_file, triplet and debian_arch (empty: this machine's own).
# shellcheck disable=SC2034 # for the scripts that source this
use_kernel() {
	machine=x86_64 kernel_arch=x86_64 cross='' image_target=bzImage image_file=arch/x86/boot/bzImage triplet='' debian_arch=''
	case $1 in
	ordinary | debug | stats | interop) ;;
	arm64-64k)
		machine=arm64 kernel_arch=arm64 image_target=Image image_file=arch/arm64/boot/Image
		triplet=aarch64-linux-gnu debian_arch=arm64
		;;
	s390x)
		machine=s390x kernel_arch=s390 image_file=arch/s390/boot/bzImage
		triplet=s390x-linux-gnu debian_arch=s390x
		;;
	*) die "kernel '$1' is not known: say ordinary, debug, stats, interop, arm64-64k or s390x" ;;
	esac
	cross=${triplet:+$triplet-}
	if [ -n "$cross" ] && ! command -v "${cross}gcc" >/dev/null; then
		die "${cross}gcc is missing: install gcc-$triplet (make arch does)"
	fi
}

# made_by VERB TEXT: the sentence that a table in results/ begins with; ends with TEXT.
made_by() {
	# shellcheck disable=SC2016 # Markdown's own marks
	printf 'Made by `make %s%s` on %s: Linux %s with the series (tree %s), %s, %s, accelerator %s%s.\n\n' \
		"$1" "${BASE:+ BASE=$BASE}" "$(date -u +%F)" "$(make -s -C "$FU_TREE" kernelversion)" \
		"$(fu_git -C "$FU_TREE" rev-parse --short=12 'HEAD^{tree}')" "$(gcc --version | head -n 1)" \
		"$(qemu-system-x86_64 --version | head -n 1 | sed -E 's/ \(.*//')" "$ACCEL" "$2"
}

# The log's lines that say what went wrong: errors first, else its end.
log_excerpt() {
	local log=$1
	grep -nE '(error|Error|ERROR|fatal|undefined reference|No such file|\*\*\*)' "$log" | head -n 20 >&2 || true
	printf -- '--- last lines of the log:\n' >&2
	tail -n 15 "$log" >&2
}

# run_logged LABEL LOG COMMAND...: run a long command with its output in LOG, showing that it lives:
# one moving line on a terminal, otherwise a line at the start, every half minute, and at the end.
run_logged() {
	local label=$1 log=$2 start=$SECONDS pid status last beat=0
	shift 2
	mkdir -p "$(dirname "$log")"
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	# A background job does not hear Ctrl-C by itself.
	# shellcheck disable=SC2064 # this pid
	trap "kill $pid 2>/dev/null; exit 130" INT TERM
	[ -t 1 ] || say "$label ... (log: $log)"
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.5
		if [ -t 1 ]; then
			last=$(tail -n 1 "$log" 2>/dev/null | tr -d '\r\033' | cut -c1-60)
			printf '\r\033[K%s  %ds  %s' "$label" $((SECONDS - start)) "$last"
		elif [ $((SECONDS - start - beat)) -ge 30 ]; then
			beat=$((SECONDS - start))
			say "  $label: ${beat}s, $(tail -n 1 "$log" | tr -d '\r\033' | cut -c1-100)"
		fi
	done
	status=0
	wait "$pid" || status=$?
	trap - INT TERM
	[ ! -t 1 ] || printf '\r\033[K'
	if [ "$status" -ne 0 ]; then
		say "$label: FAILED after $((SECONDS - start))s (log: $log)"
		log_excerpt "$log"
		return "$status"
	fi
	say "$label: done in $((SECONDS - start))s"
}

# choose_accel KERNEL INITRD: sets and exports ACCEL.  What the user says counts; else KVM when a guest
# really boots with it within half a minute (a /dev/kvm that opens proves nothing), else TCG.
choose_accel() {
	local answer
	case ${ACCEL:-} in
	kvm | tcg) export ACCEL; return ;;
	'') ;;
	*) die "ACCEL=$ACCEL is not known: say kvm or tcg" ;;
	esac
	ACCEL=tcg
	if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
		answer=$FU_CACHE/results/accel-$(hash_of "$(uname -srv)" "$(qemu-system-x86_64 --version | head -n 1)" \
			"$(grep -m 1 'model name' /proc/cpuinfo)")
		if [ ! -f "$answer" ]; then
			say "trying whether /dev/kvm boots a guest (remembered in $answer)"
			if "$FU_TOP/scripts/vm-run.py" --accel kvm --kernel "$1" --initrd "$2" --timeout 30 --show none \
				--log "$FU_LOGS/accel.console" --cmd true >/dev/null 2>&1; then
				ACCEL=kvm
			fi
			echo "$ACCEL" >"$answer"
		fi
		ACCEL=$(cat "$answer")
	fi
	export ACCEL
	say "accelerator: $ACCEL"
}

# prepare_guest KERNEL [IMAGE]: the tree's kernel in that configuration, or IMAGE, and a root with the tree's
# selftests in /kselftest.  Sets image, install (where the selftests are here), initrd and machine, and chooses ACCEL.
prepare_guest() {
	local foreign
	use_kernel "$1"
	image=${2:-}
	[ -n "$image" ] || image=$("$FU_TOP/scripts/build-kernel.sh" --kernel "$1" | tee >(cat >&2) | tail -n 1)
	install=$("$FU_TOP/scripts/build-kselftest.sh" --kernel "$1" | tee >(cat >&2) | tail -n 1)
	initrd=$FU_BUILD/initrd-$FU_BASE_NAME${debian_arch:+-$debian_arch}.cpio
	if [ -n "$debian_arch" ]; then
		foreign=$("$FU_TOP/scripts/foreign.sh" "$debian_arch" | tail -n 1)
		FU_BUSYBOX=$foreign/bin/busybox "$FU_TOP/scripts/initramfs.sh" "$initrd" "$install:/kselftest"
		export ACCEL=tcg
		return
	fi
	"$FU_TOP/scripts/initramfs.sh" "$initrd" "$install:/kselftest" "$(command -v timeout):/usr/bin/timeout"
	choose_accel "$image" "$initrd"
}
