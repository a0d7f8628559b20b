#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# What apply.sh promises, shown on small trees: the files of the pinned base that the series touches.
# One line "ok NAME" or "not ok NAME" a case; exit status 1 when one is not ok.
# shellcheck disable=SC2317 # the cases are called through test_case
. "$(dirname "$0")/lib.sh"

repo=$("$FU_TOP/scripts/fetch-base.sh" | tail -n 1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mapfile -t patches < <(series_patches)
count=${#patches[@]}
failed=0
result() {
	if [ "$1" -eq 0 ]; then
		say "ok $2"
	else
		say "not ok $2"
		sed 's/^/  | /' "$work/out"
		failed=1
	fi
}

# The pristine tree, and the base's file that the series touches first.
mkdir "$work/pristine"
sed -nE 's,^diff --git a/(.*) b/\1$,\1,p' "${patches[@]/#/$FU_TOP/patches/}" | sort -u >"$work/touched"
fu_git -C "$repo" ls-tree -r --name-only base >"$work/in-base"
mapfile -t old < <(grep -xFf "$work/touched" "$work/in-base")
created=$(grep -vxFf "$work/in-base" "$work/touched" | head -n 1)
fu_git -C "$repo" archive base Makefile Kbuild "${old[@]}" | tar -x -C "$work/pristine"

# plain NAME, git NAME: a fresh tree of that kind.
plain() { rm -rf "${work:?}/$1"; cp -a "$work/pristine" "$work/$1"; }
tgit() { fu_git -C "$work/$1" -c user.name=Tester -c user.email=tester@localhost -c commit.gpgsign=false "${@:2}"; }
git_tree() {
	plain "$1"
	tgit "$1" init -q
	tgit "$1" add -A
	tgit "$1" commit -q -m base --date '2025-01-01T00:00:00Z'
}
# Everything in a tree that a user could see change.
state() {
	(cd "$work/$1" && find . -path ./.git -prune -o -type f -print0 | sort -z | xargs -0 sha256sum)
	[ ! -d "$work/$1/.git" ] || { tgit "$1" rev-parse HEAD; tgit "$1" status --porcelain; }
}
apply() { "$FU_TOP/apply.sh" "$@" >"$work/out" 2>&1; }
# refused NAME EXPRESSION [OPTION]: exit status 1, one line that matches, and nothing changed.
refused() {
	local before status=0
	before=$(state "$1")
	apply ${3:+"$3"} "$work/$1" || status=$?
	[ "$status" -eq 1 ] && [ "$(wc -l <"$work/out")" -eq 1 ] && grep -qE "$2" "$work/out" && [ "$before" = "$(state "$1")" ]
}
# cycle NAME: apply, apply again, take out, take out again.
cycle() {
	local before after
	before=$(state "$1")
	apply "$work/$1" && grep -q '^applied the series' "$work/out" && [ -e "$work/$1/$created" ] || return 1
	after=$(state "$1")
	apply "$work/$1" && grep -q 'already applied' "$work/out" && [ "$after" = "$(state "$1")" ] || return 1
	apply --reverse "$work/$1" && [ "$before" = "$(state "$1")" ] || return 1
	apply --reverse "$work/$1" && grep -q 'nothing to take out' "$work/out" && [ "$before" = "$(state "$1")" ]
}
test_case() {
	local name=$1 status=0
	shift
	: >"$work/out"
	"$@" || status=1
	result $status "$name"
}

git_commits() {
	git_tree a
	apply "$work/a" && [ "$(tgit a rev-list --count HEAD)" -eq $((count + 1)) ] && [ -z "$(tgit a status --porcelain)" ]
}
git_same_ids() {
	local one
	one=$(tgit a log -1 --format=%T)
	rm -rf "$work/b"
	fu_git clone -q "$work/a" "$work/b" && tgit b reset -q --hard "HEAD~$count"
	sleep 1
	apply "$work/b" && [ "$one" = "$(tgit b log -1 --format=%T)" ] && [ "$(tgit a log --format=%H)" = "$(tgit b log --format=%H)" ]
}
quilt_stack() {
	plain q
	apply "$work/q" && [ "$(wc -l <"$work/q/.pc/applied-patches")" -eq "$count" ]
}
without_quilt() {
	plain p
	(export QUILT=/nonexistent && cycle p) && [ ! -e "$work/p/.pc" ]
}
other_version() { git_tree v; sed -i 's/^version/&6.13/; s/^PATCHLEVEL = .*/PATCHLEVEL = 13/' "$work/v/Makefile"; tgit v commit -qam 6.13; refused v 'is Linux 6\.13\..*, the series is for 6\.12\.y'; }
dirty() { git_tree d; echo >>"$work/d/Kbuild"; refused d 'has uncommitted changes .*Kbuild'; }
other_series() { plain o; apply "$work/o"; echo changed >>"$work/o/$created"; rm -rf "$work/o/.pc"; refused o 'holds another version of the series'; }
other_series_out() { refused o 'holds another version of the series' --reverse; }
no_fit() {
	local file
	# A file whose lines the series changes, with every line different.
	file=$(printf '%s\n' "${old[@]}" | grep -m 1 '\.[ch]$')
	"$1" n
	sed -i 's/$/ /' "$work/n/$file"
	[ "$1" = plain ] || tgit n commit -qam changed
	refused n "^apply.sh: [0-9]{4}-[^ ]*\.patch does not apply to .*: $file does not fit\$"
}
half() {
	git_tree h
	tgit h am -q "$FU_TOP/patches/${patches[0]}" >/dev/null 2>&1
	# One patch of several in the tree: with a created file it is another version, else it does not apply.
	[ "$count" -eq 1 ] || refused h '(another version of the series|does not apply)'
}
on_top() { git_tree t; apply "$work/t"; echo >>"$work/t/Kbuild"; tgit t commit -qam mine; refused t 'not as its newest' --reverse; }
no_kernel() { mkdir -p "$work/e"; refused e 'is not a kernel tree'; }
no_folder() { ! apply "$work/none" && [ "$(wc -l <"$work/out")" -eq 1 ]; }
bad_option() { ! apply --nonsense && [ "$(wc -l <"$work/out")" -eq 1 ]; }

test_case 'a git tree gets one commit a patch' git_commits
test_case 'the same commits every time' git_same_ids
git_tree c
test_case 'a git tree: in, already in, out, already out' cycle c
test_case 'a plain tree gets a quilt stack' quilt_stack
plain q2
test_case 'a plain tree with quilt: in, already in, out, already out' cycle q2
test_case 'a plain tree without quilt: in, already in, out, already out' without_quilt
test_case 'not 6.12.y is refused' other_version
test_case 'a dirty tree is refused' dirty
test_case 'another version of the series is refused' other_series
test_case 'another version of the series is not taken out' other_series_out
test_case 'a patch that does not fit a git tree is named, with its file' no_fit git_tree
test_case 'a patch that does not fit a plain tree is named, with its file' no_fit plain
test_case 'a part of the series is refused' half
test_case 'commits on top of the series are not thrown away' on_top
test_case 'a folder that is no kernel is refused' no_kernel
test_case 'a missing folder is refused' no_folder
test_case 'an unknown option is refused' bad_option
exit $failed
