#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The guest's root of make interop: root.sh, prints the folder that holds it.  A small Debian sid from this
# machine's mirror, libfuse rebuilt in it from Debian's own source package, and what the work needs; kept in
# the cache (root.img, an ext4 image; versions, its packages) until what it is made from changes.
. "$(dirname "$0")/../lib.sh"
# shellcheck source=scripts/interop/mirror.sh
. "$FU_TOP/scripts/interop/mirror.sh"

here=$FU_TOP/scripts/interop
export PATH=$PATH:/usr/sbin:/sbin
suite=${FU_INTEROP_SUITE:-sid}
mapfile -t packages < <(sed '/^#/d; /^$/d' "$here/packages")
key=$(hash_of "$suite" "${packages[@]}" "$(cat "$here/root.sh" "$here/root-hook.sh" | sha256sum)")
root=$FU_CACHE/interop/root-$key
if [ -f "$root/root.img" ]; then
	say "$root"
	exit 0
fi

# A Debian from elsewhere than this machine's own suite: only mmdebstrap's own apt sees it.
bootstrap() {
	local uri work packed
	uri=$(mirror_of "$suite") || { echo "error: no package source of this machine has $suite"; return 1; }
	work=$(mktemp -d)
	chmod 755 "$work"
	apt-config dump Acquire >"$work/apt.conf"
	packed=$(printf '%s,' "${packages[@]}")
	# shellcheck disable=SC2016 # the hooks' own
	mmdebstrap --variant=minbase --format=null --include="${packed%,}" --aptopt="$work/apt.conf" \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--customize-hook="copy-in $here/root-hook.sh /opt" \
		--customize-hook='chroot "$1" /bin/bash -e /opt/root-hook.sh' \
		--customize-hook='dpkg-query --root="$1" -W >"$1/versions"' \
		--customize-hook="sync-out /virtiofsd $root.new/virtiofsd" \
		--customize-hook='mkdir "$1.bare" && mount --bind "$1" "$1.bare" &&
			mke2fs -q -t ext4 -L interop -m 0 -d "$1.bare" "$1.img" $(($(du -sxm "$1.bare" | cut -f1) * 5 / 4 + 64))M && umount "$1.bare" && rmdir "$1.bare" && mv "$1.img" "$1/root.img"' \
		--customize-hook="download /versions $root.new/versions" \
		--customize-hook="download /root.img $root.new/root.img" \
		"$suite" - "deb $uri $suite main" "deb-src $uri $suite main" || return 1
	rm -rf "$work"
	# Made no larger than needed for the way out of there; room to work in is added here.
	truncate -s 4G "$root.new/root.img" && resize2fs "$root.new/root.img"
}

exec 8>"$FU_CACHE/interop/lock"
flock 8
rm -rf "$root.new"
mkdir -p "$root.new/virtiofsd"
run_logged "bootstrap Debian $suite" "$FU_LOGS/interop-root.log" bootstrap || die "the guest's root was not made"
mv "$root.new" "$root"
say "$root"
