#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Apply the series to a kernel tree, or take it out again:  apply.sh [--reverse] [TREE]
#
# Without TREE: the pinned base (BASE=lts: the newest linux-source-6.12) is fetched and made a git tree
# under build/, and the series applied there.  With TREE: as one commit a patch when it is a git tree,
# with quilt (if installed) or patch otherwise.  Whatever is wrong is found before TREE is touched.
. "$(dirname "$0")/scripts/lib.sh"

usage() { say "usage: ${0##*/} [--reverse] [TREE]"; }

reverse=0 tree=''
for arg; do
	case $arg in
	--reverse) reverse=1 ;;
	-h | --help) usage; exit 0 ;;
	-*) die "unknown option $arg ($(usage))" ;;
	*)
		[ -z "$tree" ] || die "one TREE, please ($(usage))"
		tree=$arg
		;;
	esac
done

mapfile -t patches < <(series_patches)
[ ${#patches[@]} -gt 0 ] || die "the file \`series\` names no patch"
for p in "${patches[@]}"; do
	[ -f "$FU_TOP/patches/$p" ] || die "\`series\` names $p, which is not in patches/"
done
files=("${patches[@]/#/$FU_TOP/patches/}")
count=${#patches[@]}
command -v patch >/dev/null || die "patch is not installed (scripts/install.sh installs what is missing)"
if [ -z "$tree" ] || [ -e "$tree/.git" ]; then
	command -v git >/dev/null || die "git is not installed (scripts/install.sh installs what is missing)"
fi
own=0
if [ -z "$tree" ]; then
	own=1 tree=$FU_TREE
	[ $reverse -eq 0 ] || [ -d "$tree" ] || die "there is no $tree to take the series out of"
	if [ ! -d "$tree" ]; then
		repo=$("$FU_TOP/scripts/fetch-base.sh" | tee >(cat >&2) | tail -n 1)
		mkdir -p "$(dirname "$tree")"
		rm -rf "$tree.new"
		fu_git clone -q --local --no-checkout "$repo" "$tree.new"
		fu_git -C "$tree.new" remote remove origin
		run_logged "check out ${repo##*/}" "$FU_LOGS/checkout.log" fu_git -C "$tree.new" switch -q -c series base
		mv "$tree.new" "$tree"
	fi
fi

# What kind of tree it is.
[ -d "$tree" ] || die "$tree is not a folder"
tree=$(cd "$tree" && pwd -P)
if [ ! -f "$tree/Makefile" ] || [ ! -f "$tree/Kbuild" ]; then
	die "$tree is not a kernel tree (it has no Makefile and Kbuild)"
fi
version=$(sed -nE 's/^(VERSION|PATCHLEVEL|SUBLEVEL) = *([0-9]+)$/\2/p' "$tree/Makefile" | head -n 3 | paste -sd.)
[[ $version = 6.12.* ]] || die "$tree is Linux ${version:-of no known version}, the series is for 6.12.y"
is_git=0
if top=$(fu_git -C "$tree" rev-parse --show-toplevel 2>/dev/null) && [ "$(cd "$top" && pwd -P)" = "$tree" ]; then
	is_git=1
	dirty=$(fu_git -C "$tree" status --porcelain --untracked-files=no | head -n 1)
	[ -z "$dirty" ] || die "$tree has uncommitted changes (the first: ${dirty:3})"
fi

# Everything is tried on copies of the files that the series touches.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/orig"
sed -nE 's,^diff --git a/(.*) b/\1$,\1,p' "${files[@]}" | sort -u >"$scratch/touched"
(cd "$tree" && while read -r f; do [ ! -e "$f" ] || printf '%s\0' "$f"; done <"$scratch/touched" |
	xargs -0 -r cp --parents -p -t "$scratch/orig")
created=$(awk '/^diff --git / { f = substr($4, 3) } /^new file mode/ { print f }' "${files[@]}")

# try_patch DIR PATCH [-R]: apply one patch file there; on failure print the file that does not fit.
try_patch() {
	local dir=$1 file=$2
	shift 2
	# shellcheck disable=SC2094 # the patch file is only read
	if patch -d "$dir" -p1 -F0 -f --no-backup-if-mismatch --reject-file=- "$@" <"$file" >"$scratch/out" 2>&1; then
		return 0
	fi
	awk '/^patching file / { f = $3 } /^\|\+\+\+ b\// { f = substr($2, 3) }
		/^The next patch would / { f = $8; sub(/,$/, "", f) }
		/FAILED|^can.t find file|already exists|does not exist/ { bad = 1 } bad && f { print f; exit }' "$scratch/out"
	return 1
}

# Is exactly this series in the tree?  Then it comes out of the copies without a fault.
applied=1
cp -a "$scratch/orig" "$scratch/rev"
for ((i = count - 1; i >= 0; i--)); do
	try_patch "$scratch/rev" "${files[i]}" -R >/dev/null || { applied=0; break; }
done

other=
if [ $applied -eq 0 ]; then
	for f in $created; do
		[ ! -e "$tree/$f" ] || { other=$f; break; }
	done
fi

# git_series_on_top: are the tree's newest commits the patches, one each?
git_series_on_top() {
	local want have
	want=$(cat "${files[@]}" | fu_git patch-id --stable | cut -d' ' -f1)
	have=$(fu_git -C "$tree" log -p --reverse --no-renames --full-index --diff-algorithm=myers --indent-heuristic -n "$count" | fu_git patch-id --stable | cut -d' ' -f1)
	[ "$want" = "$have" ]
}

# quilt_is_free: can quilt work here without touching a stack of patches that is not ours?
quilt_is_free() {
	command -v "${QUILT:-quilt}" >/dev/null || return 1
	[ ! -e "$tree/.pc" ] || [ "$(cat "$tree/.pc/.quilt_patches" 2>/dev/null)" = "$FU_TOP/patches" ]
}
ours_quilt() {
	(cd "$tree" && QUILT_PATCHES=$FU_TOP/patches QUILT_SERIES=$FU_TOP/series "${QUILT:-quilt}" --quiltrc /dev/null "$@")
}

if [ $reverse -eq 1 ]; then
	if [ $applied -eq 0 ]; then
		[ -z "$other" ] || die "$tree holds another version of the series ($other differs)"
		say "the series is not in $tree: nothing to take out"
		exit 0
	fi
	if [ $is_git -eq 1 ]; then
		git_series_on_top || die "$tree holds the series, but not as its newest $count commits: take them out with git rebase"
		fu_git -C "$tree" reset -q --keep "HEAD~$count"
	elif [ -s "$tree/.pc/applied-patches" ] && quilt_is_free; then
		ours_quilt pop -a -q >/dev/null
		rm -rf "$tree/.pc"
	else
		for ((i = count - 1; i >= 0; i--)); do
			try_patch "$tree" "${files[i]}" -R || die "${patches[i]} did not come out of $tree"
		done
	fi
	say "took $count patches out of $tree (Linux $version)"
	exit 0
fi

if [ $applied -eq 1 ]; then
	say "the series ($count patches) is already applied to $tree (Linux $version)"
	exit 0
fi
if [ -n "$other" ]; then
	# A tree that this script made and nobody worked on may follow the series.
	if [ $own -eq 1 ] && [ "$(fu_git -C "$tree" rev-parse -q --verify refs/fuse-uring/applied || true)" = \
		"$(fu_git -C "$tree" rev-parse HEAD)" ]; then
		fu_git -C "$tree" reset -q --keep base
		fu_git -C "$tree" update-ref -d refs/fuse-uring/applied
		say "$tree held an older series without further work: starting again from its base"
		exec "$0"
	fi
	die "$tree holds another version of the series ($other is there)"
fi
cp -a "$scratch/orig" "$scratch/fwd"
for ((i = 0; i < count; i++)); do
	if ! file=$(try_patch "$scratch/fwd" "${files[i]}"); then
		die "${patches[i]} does not apply to $tree (Linux $version): ${file:-its first file} does not fit"
	fi
done

if [ $is_git -eq 1 ]; then
	start=$(fu_git -C "$tree" rev-parse HEAD)
	# The patches' own author commits, at the patches' own dates: the same ids everywhere.
	name=$(patch_header Author "${files[0]}") mail=$(patch_header Email "${files[0]}")
	if ! GIT_COMMITTER_NAME=$name GIT_COMMITTER_EMAIL=$mail fu_git -C "$tree" \
		-c commit.gpgsign=false -c core.hooksPath=/dev/null -c core.autocrlf=false -c am.threeWay=false \
		-c apply.whitespace=nowarn -c gc.auto=0 am -q --committer-date-is-author-date "${files[@]}" >"$scratch/out" 2>&1; then
		i=$(cat "$tree/.git/rebase-apply/next" 2>/dev/null || echo 1)
		file=$(sed -nE 's/^error: patch failed: ([^:]*):.*/\1/p; s/^error: ([^:]*): .*/\1/p' "$scratch/out" | head -n 1)
		fu_git -C "$tree" am --abort 2>/dev/null || true
		[ "$(fu_git -C "$tree" rev-parse HEAD)" = "$start" ] || fu_git -C "$tree" reset -q --keep "$start"
		die "${patches[i - 1]} does not apply to $tree (Linux $version): ${file:-git am refused it}"
	fi
	[ $own -eq 0 ] || fu_git -C "$tree" update-ref refs/fuse-uring/applied HEAD
	how="$count commits"
elif quilt_is_free; then
	ours_quilt push -a -q --fuzz=0 >"$scratch/out" 2>&1 || { tail -n 3 "$scratch/out" >&2; die "quilt could not apply the series to $tree"; }
	how="$count patches with quilt"
else
	for ((i = 0; i < count; i++)); do
		try_patch "$tree" "${files[i]}" || die "${patches[i]} does not apply to $tree"
	done
	how="$count patches with patch"
fi
say "applied the series to $tree (Linux $version): $how"
