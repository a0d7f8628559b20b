#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Make the guest's root: initramfs.sh OUT.cpio [HOST_PATH:GUEST_PATH]...
# Static busybox and scripts/guest/, plus the given files or folders at the given places; the shared
# libraries that they need come along.  Nothing else of the host is in it.
# FU_BUSYBOX: a static busybox of another architecture.
. "$(dirname "$0")/lib.sh"

[ $# -ge 1 ] || die "usage: initramfs.sh OUT.cpio [HOST_PATH:GUEST_PATH]..."
out=$1
shift
busybox=${FU_BUSYBOX:-$(command -v busybox)} || die "busybox is missing: install busybox-static"
if readelf -lW "$busybox" 2>/dev/null | grep -q 'program interpreter'; then
	die "$busybox is not static: install busybox-static"
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,sbin,usr/bin,usr/lib,etc,root,proc,sys,dev,tmp,run,mnt,host}
cp "$busybox" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
install -m 755 "$FU_TOP/scripts/guest/init" "$root/init"
install -m 755 "$FU_TOP/scripts/guest/"* "$root/bin/"
rm "$root/bin/init"
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"

for pair in "$@"; do
	from=${pair%%:*} to=$root${pair#*:}
	[ -e "$from" ] || die "$from is not there"
	mkdir -p "$(dirname "$to")"
	if [ -d "$from" ]; then
		mkdir -p "$to"
		cp -a "$from/." "$to/"
	else
		cp -L "$from" "$to"
	fi
done

# The loader and the libraries of every dynamic program, at the paths where the loader looks.  Read from the ELF
# headers: ldd runs the program's own loader, and not every machine runs programs of 32 bits.
# shellcheck disable=SC2046 # folders without spaces
mapfile -t folders < <(printf '%s\n' $(sed -n 's/#.*//; /^\//p' /etc/ld.so.conf /etc/ld.so.conf.d/*.conf 2>/dev/null) \
	/lib/{x86_64,i386}-linux-gnu /usr/lib/{x86_64,i386}-linux-gnu /lib{64,32,} /usr/lib{64,32,})
declare -A kinds=() seen=()

# elf_kind FILE: sets kind to class and machine, such as "ELF32 Intel 80386"; empty when it is no ELF file.
elf_kind() {
	if [ -z "${kinds[$1]+y}" ]; then
		kinds[$1]=$({ readelf -hW "$1" 2>/dev/null || true; } | sed -nE 's/^ +(Class|Machine): +//p' | paste -sd ' ')
	fi
	kind=${kinds[$1]}
}

# find_library NAME KIND ORIGIN RUNPATH: sets library to the path of a library of that kind, of the guest's own first.
find_library() {
	local folder runpath=() path
	IFS=: read -r -a runpath <<<"$4"
	for folder in "${runpath[@]}" "${folders[@]}"; do
		folder=${folder//\$ORIGIN/$3}
		library=${folder//\$\{ORIGIN\}/$3}/$1
		for path in "$root$library" "$library"; do
			[ -f "$path" ] || continue
			elf_kind "$path"
			[ "$kind" != "$2" ] || return 0
		done
	done
	die "$1 ($2) is in none of the library folders"
}

# copy_libraries FILE: what FILE is loaded with, and what that needs in turn.
copy_libraries() {
	local file=$1 mine headers runpath name library
	elf_kind "$file"
	mine=$kind
	[ -n "$mine" ] || return 0
	headers=$(readelf -ldW "$file")
	runpath=$(sed -nE 's/.*\((RUNPATH|RPATH)\).*\[(.*)\]/\2/p' <<<"$headers" | head -n 1)
	while read -r name; do
		case $name in
		/*) library=$name ;;
		# The C library needs it as well; the program has named it by its path.
		ld-linux*) continue ;;
		*) find_library "$name" "$mine" "$(dirname "${file#"$root"}")" "$runpath" ;;
		esac
		[ -z "${seen[$library]:-}" ] || continue
		seen[$library]=y
		if [ ! -f "$root$library" ]; then
			[ -f "$library" ] || die "$library, which ${file#"$root"} needs, is not there"
			mkdir -p "$root$(dirname "$library")"
			cp -L "$library" "$root$library"
		fi
		copy_libraries "$root$library"
	done < <(sed -nE 's/.*program interpreter: (.*)\]/\1/p; s/.*\(NEEDED\).*\[(.*)\]/\1/p' <<<"$headers")
}

# What the guest was given, not what is copied meanwhile.
mapfile -t programs < <(find "$root" -type f -perm /111)
for program in "${programs[@]}"; do
	copy_libraries "$program"
done

mkdir -p "$(dirname "$out")"
(cd "$root" && find . -mindepth 1 -print0 | sort -z | cpio --quiet -0 -o -H newc -R 0:0) >"$out.new"
mv "$out.new" "$out"
