#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Every static check, patch by patch and for the whole series; ends with "lint: N passed, N failed".
# Works on its own trees under build/lint.  A check that passed is remembered in the cache under the
# hash of everything that it depends on, and then counted as passed "(as before)".
# shellcheck disable=SC2317 # the checks are called through check
unset BASE
. "$(dirname "$0")/lib.sh"

# Debian's own python3 has the modules that the kernel's scripts ask for.
export PATH=/usr/bin:/bin:/usr/sbin:$PATH
lint=$FU_BUILD/lint
tree=$lint/linux obj=$lint/obj logs=$FU_LOGS/lint
mkdir -p "$lint" "$logs" "$obj" "$lint/obj-lts"
passed=0 failed=0
tools=$(hash_of "$(gcc --version | head -n 1)" "$(sparse --version)" "$(spatch --version 2>&1 | head -n 1)" \
	"$(cat "$FU_TOP/scripts/rst-check.py" "$FU_TOP/configs/vm.config" | sha256sum)")

# how FUNCTION: a check's own text and its helpers', so that a check that changed runs again.
how() { declare -f "$1" build_fuse base_messages fuse_adds_no_warning coccinelle kernel_doc nothing_added normalised || true; }

# remembered NAME KEY FUNCTION: the file that is there when this check has passed.
remembered() {
	# Up to " at ": the same check of the same at another patch is the same.
	say "$FU_CACHE/results/lint-$(hash_of "$tools" "$(how "$3")" "${1% at *}" "$2")"
}

# check NAME KEY COMMAND...: one counted check.  KEY is what it depends on, - to run it every time.
check() {
	local name=$1 key=$2 log start=$SECONDS
	shift 2
	log=$logs/$(tr -c 'A-Za-z0-9\n' '-' <<<"$name").log
	if [ "$key" != - ]; then
		key=$(remembered "$name" "$key" "$1")
		if [ -f "$key" ]; then
			passed=$((passed + 1))
			say "ok $name (as before)"
			return
		fi
	fi
	if ("$@") >"$log" 2>&1 </dev/null; then
		passed=$((passed + 1))
		say "ok $name ($((SECONDS - start))s)"
		[ "$key" = - ] || : >"$key"
	else
		failed=$((failed + 1))
		say "not ok $name (log: $log)"
		tail -n 30 "$log" | sed 's/^/  | /'
	fi
}

git_in() { fu_git -C "$tree" "$@"; }
# tree_hash COMMIT PATH...: one hash of those parts of a commit.
tree_hash() { hash_of "$(git_in ls-tree "$1" -- "${@:2}")"; }
# Messages without what moves when lines are added: positions, and the folder they were made in.
normalised() {
	sed -E "s,$tree/,,g; s,$lint/[^ ]*/linux[^/]*/,,g; s,(:[0-9]+)+:,:,g; s,[0-9]+-[0-9]+,,g; s,on line [0-9]+,on line,g" "$@" | sort -u
}
# only_in_second BASE HEAD: the messages of HEAD that BASE has not; none is a pass.
nothing_added() {
	normalised "$2" >"$2.norm"
	normalised "$1" >"$1.norm"
	! comm -13 "$1.norm" "$2.norm" | grep .
}

# build_fuse TREE OBJ CONFIG...: fs/fuse with W=1 and sparse; only the compilers' messages on stdout.
build_fuse() {
	local tree=$1 obj=$2 config warnings make log=$logs/build-$BASHPID.log
	shift 2
	mkdir -p "$obj"
	make=(make -C "$tree" O="$obj" ARCH=x86_64 CC='ccache gcc' HOSTCC='ccache gcc' -j"$FU_JOBS")
	config=$obj/wanted.config
	{ cat "$FU_TOP/configs/vm.config"; printf '%s\n' "$@"; } |
		awk -F= '/^CONFIG_/ { if (!($1 in v)) order[++n] = $1; v[$1] = $0 } END { for (i = 1; i <= n; i++) print v[order[i]] }' >"$config"
	warnings=$obj/warnings
	rm -rf "$obj/fs/fuse"
	if ! { "${make[@]}" KCONFIG_ALLCONFIG="$config" allnoconfig && "${make[@]}" prepare; } >"$log" 2>&1 ||
		! "${make[@]}" W=1 C=1 fs/fuse/ >"$log" 2>"$warnings"; then
		tail -n 20 "$log" "$warnings" 2>/dev/null
		echo 'error: fs/fuse does not build'
		return 1
	fi
	rm -f "$log"
	[ -f "$obj/fs/fuse/built-in.a" ] || [ -f "$obj/fs/fuse/fuse.o" ] || { echo 'error: nothing was built'; return 1; }
	grep -E '(warning|error|note):' "$warnings" || true
}

# base_messages CONFIG...: where the base's messages are kept; beside them, what its module takes from elsewhere.
base_messages() {
	say "$FU_CACHE/results/base-fuse-$(hash_of "$tools" "$(how build_fuse)" "$BASE_TREE" "$*" undefined)"
}

# fuse_adds_no_warning COMMIT LABEL CONFIG...: build it, compare with the base's messages.
fuse_adds_no_warning() {
	local commit=$1 label=$2 base
	shift 2
	base=$(base_messages "$@")
	if [ ! -f "$base" ]; then
		git_in checkout -q --detach refs/tags/base
		build_fuse "$tree" "$obj" "$@" >"$base.new" || { cat "$base.new"; return 1; }
		nm -u "$obj"/fs/fuse/{fuse.o,built-in.a} 2>/dev/null | awk 'NF == 2 {print $2}' | sort -u >"$base.undefined"
		mv "$base.new" "$base"
	fi
	git_in checkout -q --detach "$commit"
	build_fuse "$tree" "$obj" "$@" >"$obj/$label.messages" || { cat "$obj/$label.messages"; return 1; }
	cp "$base" "$obj/base.messages"
	nothing_added "$obj/base.messages" "$obj/$label.messages"
}

# As a module, fs/fuse may use only what the kernel exports.
module_uses_exports() {
	local new base
	fuse_adds_no_warning "$1" module CONFIG_MODULES=y CONFIG_FUSE_FS=m CONFIG_CUSE=n || return 1
	base=$(base_messages CONFIG_MODULES=y CONFIG_FUSE_FS=m CONFIG_CUSE=n)
	[ -f "$obj/fs/fuse/fuse.o" ] || { echo 'error: no fuse.o'; return 1; }
	nm -u "$obj/fs/fuse/fuse.o" | awk '{print $2}' | sort -u >"$obj/undefined"
	(cd "$tree" && git_in grep -hoE 'EXPORT_(PER_CPU_)?SYMBOL(_GPL|_NS|_NS_GPL)? ?\(\w+|EXPORT_TRACEPOINT_SYMBOL(_GPL)?\(\w+' "$1" -- '*.c' '*.S' '*.h') |
		sed -E 's/.*TRACEPOINT.*\((\w+)/__tracepoint_\1\n__SCT__tp_func_\1\n__SCK__tp_func_\1\n__traceiter_\1/; s/.*\(//' | sort -u >"$obj/exported"
	# What the base's module needs is exported by other means too (assembly, macros): only new names count.
	new=$(comm -23 "$obj/undefined" "$base.undefined" | comm -23 - "$obj/exported")
	[ -z "$new" ] || { echo "error: not exported by the kernel: $new"; return 1; }
}

lts_tree=$lint/linux-lts
# The other base: the series applies, and fs/fuse builds there without a new warning.
lts_builds() {
	local base version
	FU_TREE=$lts_tree BASE=lts "$FU_TOP/apply.sh" || return 1
	version=$(fu_git -C "$lts_tree" rev-parse 'base^{tree}')
	base=$FU_CACHE/results/base-fuse-$(hash_of "$tools" "$(how build_fuse)" "$version" lts)
	if [ ! -f "$base" ]; then
		fu_git -C "$lts_tree" checkout -q --detach refs/tags/base
		build_fuse "$lts_tree" "$lint/obj-lts" >"$base.new" || { cat "$base.new"; return 1; }
		mv "$base.new" "$base"
		fu_git -C "$lts_tree" checkout -q series
	fi
	build_fuse "$lts_tree" "$lint/obj-lts" >"$lint/obj-lts/head.messages" || { cat "$lint/obj-lts/head.messages"; return 1; }
	cp "$base" "$lint/obj-lts/base.messages"
	nothing_added "$lint/obj-lts/base.messages" "$lint/obj-lts/head.messages"
}

# coccinelle COMMIT FOLDER: coccicheck's reports on a folder, the progress lines left out.
coccinelle() {
	git_in checkout -q --detach "$1"
	[ -d "$tree/$2" ] || return 0
	make -C "$tree" coccicheck M="$2" MODE=report J="$FU_JOBS" >"$lint/cocci.out" 2>"$lint/cocci.err" ||
		{ tail -n 20 "$lint/cocci.out" "$lint/cocci.err"; return 1; }
	grep -hE '^[^ ]+\.[ch]:[0-9]' "$lint/cocci.out" "$lint/cocci.err" || true
}
coccicheck_adds_nothing() {
	local folder=$1 base
	base=$FU_CACHE/results/base-cocci-$(hash_of "$tools" "$(how coccinelle)" "$BASE_TREE" "$folder")
	if [ ! -f "$base" ]; then
		coccinelle refs/tags/base "$folder" >"$base.new" || { cat "$base.new"; return 1; }
		mv "$base.new" "$base"
	fi
	coccinelle series "$folder" >"$lint/cocci.head" || { cat "$lint/cocci.head"; return 1; }
	cp "$base" "$lint/cocci.base"
	nothing_added "$lint/cocci.base" "$lint/cocci.head"
}

# kernel_doc COMMIT: its messages about the files that the series creates or changes.
kernel_doc() {
	git_in checkout -q --detach "$1"
	(cd "$tree" && for f in "${c_files[@]}"; do
		[ ! -f "$f" ] || scripts/kernel-doc -none "$f" 2>&1 || true
	done)
}
kernel_doc_clean() {
	kernel_doc refs/tags/base >"$lint/kdoc.base"
	kernel_doc series >"$lint/kdoc.head"
	nothing_added "$lint/kdoc.base" "$lint/kdoc.head"
}

# FILE_PATH_CHANGES asks whether MAINTAINERS has the new files: one patch has them all, and maintained() looks.
# UNKNOWN_COMMIT_ID asks a history, which the unpacked tree has not.
# checkpatch of all patches that are not known to be clean, several at a time; checkpatch looks at one's result.
checkpatch_all() {
	local p
	rm -rf "$lint/checkpatch"
	mkdir -p "$lint/checkpatch"
	git_in checkout -q series
	for p in "${patches[@]}"; do
		[ -f "$(remembered "checkpatch $p" "$(cat "$FU_TOP/patches/$p")" checkpatch)" ] || printf '%s\n' "$p"
	done | (cd "$tree" && xargs -P "$FU_JOBS" -I '{}' sh -c \
		"scripts/checkpatch.pl --strict --show-types --ignore FILE_PATH_CHANGES,UNKNOWN_COMMIT_ID '$FU_TOP/patches/{}' >'$lint/checkpatch/{}' 2>&1 || :")
}
checkpatch() {
	sed '/^NOTE: /,$d' "$lint/checkpatch/$1"
	grep -q '^total: 0 errors, 0 warnings, 0 checks,' "$lint/checkpatch/$1"
}

# One identity wrote and signed every patch.
signed() {
	local p who first=''
	for p in "${patches[@]}"; do
		who="$(patch_header Author "$FU_TOP/patches/$p") <$(patch_header Email "$FU_TOP/patches/$p")>"
		first=${first:-$who}
		[ "$who" = "$first" ] || { echo "error: $p is by $who, not by $first"; return 1; }
		grep -qxF "Signed-off-by: $who" "$FU_TOP/patches/$p" || { echo "error: $p is not signed off by $who"; return 1; }
	done
}

series_is_complete() {
	diff <(series_patches | sort) <(cd "$FU_TOP/patches" && ls) || { echo 'error: series and patches/ differ'; return 1; }
}

# What export makes of the applied series is what the repository holds, byte for byte.
exported_same() {
	local part=$1
	diff -r "$lint/export/$part" "$FU_TOP/$part" || { echo "error: $part is not what the series makes: make export"; return 1; }
}
mirror_same() {
	local dir
	while read -r dir; do
		if [ -d "$lint/export/$dir" ] || [ -d "$FU_TOP/$dir" ]; then
			diff -r "$lint/export/$dir" "$FU_TOP/$dir" || { echo "error: $dir is not what the series makes: make export"; return 1; }
		fi
	done < <(git_in ls-tree -d --name-only refs/tags/base | grep -vx scripts)
}
# Nobody's work is left out: build/linux, when there is one, holds exactly the series.
working_tree_same() {
	[ -d "$FU_TREE/.git" ] || return 0
	[ "$(fu_git -C "$FU_TREE" rev-parse 'HEAD^{tree}')" = "$(git_in rev-parse 'series^{tree}')" ] ||
		{ echo "error: the commits of $FU_TREE are not what patches/ makes: make export"; return 1; }
	[ -z "$(fu_git -C "$FU_TREE" status --porcelain)" ] || { echo "error: $FU_TREE has uncommitted changes"; return 1; }
}

# A header for userspace compiles by itself, as C and as C++, with no message that the base's has not.
uapi_alone() {
	local rev header message
	for rev in refs/tags/base series; do
		git_in checkout -q --detach "$rev"
		make -C "$tree" O="$obj" ARCH=x86_64 headers -j"$FU_JOBS" >"$lint/headers.log" 2>&1 || { tail "$lint/headers.log"; return 1; }
		message=$lint/uapi.${rev##*/}
		: >"$message"
		for header in "${uapi[@]}"; do
			[ -f "$obj/usr/include/$header" ] || continue
			for std in c99 gnu11 c2x; do
				printf '#include <%s>\n' "$header" | gcc -std=$std -Wall -Wextra -pedantic -fno-diagnostics-show-caret -fsyntax-only -I"$obj/usr/include" -x c - >>"$message" 2>&1 || [ "$rev" = refs/tags/base ] || { cat "$message"; return 1; }
			done
			for std in c++11 gnu++17; do
				printf '#include <%s>\n' "$header" | g++ -std=$std -Wall -Wextra -pedantic -fno-diagnostics-show-caret -fsyntax-only -I"$obj/usr/include" -x c++ - >>"$message" 2>&1 || [ "$rev" = refs/tags/base ] || { cat "$message"; return 1; }
			done
		done
	done
	nothing_added "$lint/uapi.base" "$lint/uapi.series"
}

rst_clean() {
	local f python=python3
	python3 -c 'import docutils' 2>/dev/null || python=/usr/bin/python3
	git_in checkout -q series
	for f in "${rst[@]}"; do
		"$python" "$FU_TOP/scripts/rst-check.py" "$tree/$f" || return 1
		grep -qE "^ +(\./)?$(basename "${f%.rst}")\$" "$tree/$(dirname "$f")/index.rst" ||
			{ echo "error: $f is in no table of contents"; return 1; }
	done
}

# Files that are ours in this repository (the mirrored ones are checked as part of the series).
own_files() {
	(cd "$FU_TOP" && git ls-files -co --exclude-standard -- README.md Makefile apply.sh base scripts configs .ci .gitignore cover-letter.txt)
}
shell_clean() {
	local f list=()
	cd "$FU_TOP" || return 1
	while read -r f; do
		case $(head -n 1 "$f") in '#!/bin/sh'* | '#!/bin/bash'* | '#!/usr/bin/env bash'*) list+=("$f") ;; esac
	done < <(own_files; printf '%s\n' "${created[@]}")
	shellcheck "${list[@]}" scripts/lib.sh
}
spelling_clean() {
	cd "$FU_TOP" || return 1
	{ own_files; printf '%s\n' "${created[@]}"; } | xargs -d '\n' codespell
}
maintained() {
	local f
	git_in checkout -q series
	for f in "${created[@]}"; do
		(cd "$tree" && scripts/get_maintainer.pl --no-git --no-git-fallback --no-n --no-l --no-rolestats --m --sections -f "$f") |
			grep '^FILESYSTEM\|^FUSE' >/dev/null || { echo "error: MAINTAINERS does not say who keeps $f"; return 1; }
	done
}

# --- the trees -------------------------------------------------------------------------------
start=$SECONDS
mapfile -t patches < <(series_patches)
[ ${#patches[@]} -gt 0 ] || die "the file \`series\` names no patch (make export writes it)"
say "lint: ${#patches[@]} patches"
FU_TREE_SAVED=$FU_TREE
if [ -d "$tree/.git" ]; then
	git_in checkout -q -f series
	git_in clean -q -f -d
fi
if [ -d "$lts_tree/.git" ]; then
	fu_git -C "$lts_tree" checkout -q -f series
fi
if FU_TREE=$tree "$FU_TOP/apply.sh" 2>&1 | tee "$logs/apply.log"; then
	say "ok the series applies to the pristine $BASE_TAG"
	passed=$((passed + 1))
else
	say "not ok the series applies to the pristine $BASE_TAG"
	say "lint: $passed passed, $((failed + 1)) failed"
	exit 1
fi
FU_TREE=$FU_TREE_SAVED
mapfile -t commits < <(git_in rev-list --reverse refs/tags/base..series)
mapfile -t created < <(git_in diff --no-renames --diff-filter=A --name-only refs/tags/base series)
mapfile -t changed < <(git_in diff --no-renames --name-only refs/tags/base series)
mapfile -t c_files < <(printf '%s\n' "${changed[@]}" | grep -E '^(fs|include|io_uring)/.*\.[ch]$')
mapfile -t rst < <(printf '%s\n' "${created[@]}" | grep '\.rst$' || true)
mapfile -t uapi < <(printf '%s\n' "${changed[@]}" | sed -n 's,^include/uapi/,,p')
head=$(git_in rev-parse 'series^{tree}')
build_paths=(fs/fuse include scripts Makefile arch/x86 io_uring kernel/sched)

# --- the repository ----------------------------------------------------------------------------
rm -rf "$lint/export"
mkdir -p "$lint/export"
[ ! -f "$FU_TOP/cover-letter.txt" ] || cp "$FU_TOP/cover-letter.txt" "$lint/export/"
check 'the series exports' - "$FU_TOP/scripts/export.sh" "$tree" "$lint/export"
check 'series names every patch' - series_is_complete
check 'patches are what the applied series exports' - exported_same patches
check 'the mirrored files are what the applied series makes' - mirror_same
check 'the diffstat of the cover letter is true' - exported_same cover-letter.txt
check 'build/linux holds nothing else' - working_tree_same
check 'one author signed every patch' - signed
check 'shell scripts pass shellcheck' - shell_clean
check 'spelling' - spelling_clean
check 'created files have a maintainer' "$head" maintained

# --- patch by patch ------------------------------------------------------------------------------
checkpatch_all
for i in "${!patches[@]}"; do
	check "checkpatch ${patches[i]}" "$(cat "$FU_TOP/patches/${patches[i]}")" checkpatch "${patches[i]}"
done
for i in "${!commits[@]}"; do
	check "W=1 C=1 at ${patches[i]}" "$(tree_hash "${commits[i]}" "${build_paths[@]}")" \
		fuse_adds_no_warning "${commits[i]}" "patch"
done

# --- the whole -----------------------------------------------------------------------------------
build_key=$(tree_hash series "${build_paths[@]}")
check 'W=1 C=1 with FUSE_IO_URING=n' "$build_key" fuse_adds_no_warning series off CONFIG_FUSE_IO_URING=n
check 'W=1 C=1 with FUSE_FS=m, exported symbols only' "$build_key" module_uses_exports series
# shellcheck disable=SC2016 # dpkg's own variable
check 'applies to linux-source-6.12, W=1 C=1 there' "$head $(dpkg-query -W -f '${Version}' linux-source-6.12)" lts_builds
for folder in fs/fuse tools/testing/selftests/fuse; do
	check "coccicheck $folder" "$(tree_hash series "$folder" scripts/coccinelle)" coccicheck_adds_nothing "$folder"
done
check 'kernel-doc' "$head" kernel_doc_clean
if [ ${#rst[@]} -gt 0 ]; then
	check 'reStructuredText' "$(tree_hash series "${rst[@]}" Documentation/filesystems/index.rst)" rst_clean
fi
check 'UAPI headers compile alone in C and C++' "$(tree_hash series include/uapi)" uapi_alone
git_in checkout -q series

# --- this repository's own scripts -----------------------------------------------------------------
log=$logs/test-apply.log
"$FU_TOP/scripts/test-apply.sh" >"$log" 2>&1 || true
while read -r line; do
	case $line in
	'ok '*) passed=$((passed + 1)) ;;
	*) failed=$((failed + 1)) ;;
	esac
	say "${line/ok /ok apply.sh: }"
done < <(grep -E '^(not )?ok ' "$log" || echo "not ok no result, see $log")
printf '%d %d\n' $passed $failed >"$FU_LOGS/lint.counts"
say "lint: $passed passed, $failed failed ($((SECONDS - start))s)"
[ $failed -eq 0 ]
