#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Fetch the base's source and keep it in the cache as a bare git repository with the one tag `base`;
# the last line printed is that repository's path.
#   fetch-base.sh            the pinned base, from the Debian archive, checked against the file `base`
#   BASE=lts fetch-base.sh   the linux-source-6.12 that is installed (the newest: scripts/install.sh)
. "$(dirname "$0")/lib.sh"

# Where this machine gets Debian from: the URIs of its own package sources.
archive_uris() {
	# shellcheck disable=SC2016 # apt's own variable
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null || true
	sed -nE 's/^URIs:[[:space:]]*//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | tr ' ' '\n' || true
	sed -nE 's/^deb(-src)?[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*/\3/p' \
		/etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true
}

# With apt's own downloader, so that the machine's proxy and mirror settings count.
fetch_pinned() {
	local uri
	for uri in $(archive_uris | sed 's,/*$,,' | awk '!seen[$0]++'); do
		printf 'trying the Debian archive of this machine for %s\n' "$BASE_FILE"
		if /usr/lib/apt/apt-helper download-file "$uri/$BASE_FILE" "$1"; then
			return 0
		fi
	done
	printf 'error: no package source of this machine has %s\n' "$BASE_FILE"
	return 1
}

unpack() {
	local tarball=$1 subject=$2 repo=$3
	rm -rf "$repo.new"
	fu_git init -q --bare "$repo.new"
	xz -dc "$tarball" | "$FU_TOP/scripts/tar2git.py" "$subject" |
		fu_git -C "$repo.new" -c core.compression=1 fast-import --quiet --done
	# Only the tag: working trees name their own branch.
	fu_git -C "$repo.new" update-ref -d refs/heads/series
	mv "$repo.new" "$repo"
}

exec 9>"$FU_CACHE/base/lock"
flock 9
if [ "$BASE" = lts ]; then
	tarball=/usr/src/linux-source-6.12.tar.xz
	[ -f "$tarball" ] || die "linux-source-6.12 is not installed (scripts/install.sh does it)"
	# shellcheck disable=SC2016 # dpkg's own variable
	version=$(dpkg-query -W -f '${Version}' linux-source-6.12)
	repo=$FU_CACHE/base/linux-source-$version.git subject="linux-source-6.12 $version"
else
	tarball=$FU_CACHE/downloads/${BASE_FILE##*/}
	repo=$FU_CACHE/base/linux-$BASE_VERSION.git subject="Linux $BASE_VERSION"
fi

if [ ! -d "$repo" ]; then
	if [ ! -f "$tarball" ]; then
		run_logged "fetch ${BASE_FILE##*/}" "$FU_LOGS/fetch.log" fetch_pinned "$tarball.new" ||
			die "could not get the pinned base's source"
		mv "$tarball.new" "$tarball"
	fi
	if [ "$BASE" != lts ]; then
		sum=$(sha256sum "$tarball" | cut -d' ' -f1)
		if [ "$sum" != "$BASE_SHA256" ]; then
			rm -f "$tarball"
			die "${BASE_FILE##*/} has the sha256 $sum, the file \`base\` says $BASE_SHA256: removed it"
		fi
	fi
	run_logged "unpack $subject" "$FU_LOGS/unpack.log" unpack "$tarball" "$subject" "$repo" ||
		die "could not unpack $tarball"
fi
if [ "$BASE" != lts ] && [ "$(fu_git -C "$repo" rev-parse 'base^{tree}')" != "$BASE_TREE" ]; then
	die "$repo does not hold the tree that the file \`base\` names: remove it and try again"
fi
say "$repo"
