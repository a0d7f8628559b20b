#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Install from Debian what the other verbs need; says which packages, does nothing when all are there.
# FU_NO_INSTALL=1 leaves the machine alone.  The only step that needs root (or sudo).
#   install.sh [PACKAGE...]   these as well
. "$(dirname "$0")/lib.sh"

# The package itself conflicts with every cross compiler of make arch; what it depends on does not.
multilib=$(apt-cache depends gcc-multilib 2>/dev/null | sed -nE 's/.*Depends: (gcc-[0-9]+-multilib)$/\1/p' | head -n 1 || true)
packages=(
	# to build the kernel and the tests
	build-essential bc bison flex libelf-dev libssl-dev cpio rsync xz-utils ccache git python3 perl patch
	liburing-dev libcap-dev "${multilib:-gcc-multilib}"
	# the virtual machine
	qemu-system-x86 busybox-static tcc
	# lint, and the other base
	sparse coccinelle shellcheck codespell python3-docutils python3-ply python3-git quilt ocaml ocaml-findlib linux-source-6.12
	"$@"
)

# shellcheck disable=SC2016 # dpkg's own variables
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' 2>/dev/null | sed -n 's/ installed$//p') ||
	die "this is not a Debian system: install by hand what corresponds to: ${packages[*]}"
missing=()
for p in "${packages[@]}"; do
	grep -qxF "$p" <<<"$installed" || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "${FU_NO_INSTALL:-0}" = 1 ]; then
	warn "not installed, as FU_NO_INSTALL=1 asks: ${missing[*]}"
	exit 0
fi
say "installing from Debian: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null || die "not root and no sudo: run as root: apt-get install ${missing[*]}"
	as_root=(sudo)
fi
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends --no-remove "$@"; }
log=$FU_LOGS/install.log
# The package lists may be missing or old: refresh them only when that shows.
if ! apt install --simulate "${missing[@]}" >/dev/null 2>&1; then
	run_logged "apt-get update" "$log" apt update || die "apt-get update failed"
fi
if ! run_logged "apt-get install" "$log" apt install "${missing[@]}"; then
	run_logged "apt-get update" "$log" apt update || die "apt-get update failed"
	run_logged "apt-get install" "$log" apt install "${missing[@]}" || die "could not install ${missing[*]}"
fi
