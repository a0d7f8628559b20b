# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Where this machine gets Debian from, for suites that it does not use itself.
mkdir -p "$FU_CACHE/interop"

# mirror_of SUITE: the first of this machine's package sources that has it.
mirror_of() {
	local uri probe
	probe=$(mktemp)
	# shellcheck disable=SC2016 # apt's own variable
	for uri in $(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sed 's,/*$,,' | sort -u); do
		if /usr/lib/apt/apt-helper download-file "$uri/dists/$1/InRelease" "$probe" >/dev/null 2>&1; then
			rm -f "$probe"
			printf '%s\n' "$uri"
			return 0
		fi
	done
	rm -f "$probe"
	return 1
}

# private_apt SUITE[:ARCHITECTURE] COMMAND...: apt-get or apt-cache with that suite's packages only, of this machine's
# architecture or that one.
private_apt() {
	local suite=${1%%:*} arch='' dir=$FU_CACHE/interop/apt-${1/:/-} uri
	[[ $1 != *:* ]] || arch=${1#*:}
	shift
	if [ ! -f "$dir/apt.conf" ]; then
		uri=$(mirror_of "$suite") || { echo "error: no package source of this machine has $suite"; return 1; }
		mkdir -p "$dir"/{state/lists/partial,cache/archives/partial}
		: >"$dir/status"
		printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$uri" "$suite" >"$dir/sources.list"
		printf '%s "%s";\n' Dir::State "$dir/state" Dir::State::status "$dir/status" Dir::Cache "$dir/cache" \
			Dir::Etc::SourceList "$dir/sources.list" Dir::Etc::SourceParts /dev/null Dir::Etc::Preferences /dev/null \
			Dir::Etc::PreferencesParts /dev/null APT::Sandbox::User "$(id -un)" \
			${arch:+APT::Architecture "$arch" APT::Architectures "$arch"} >"$dir/apt.conf.new"
		mv "$dir/apt.conf.new" "$dir/apt.conf"
		APT_CONFIG=$dir/apt.conf apt-get -q update || { rm "$dir/apt.conf"; return 1; }
	fi
	APT_CONFIG=$dir/apt.conf "$@"
}
