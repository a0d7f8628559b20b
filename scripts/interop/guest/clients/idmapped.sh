# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
title='virtiofs, idmapped'
package=virtiofsd
# What root owns is uid 1000's in the idmapped mount, and the other way round.
idmapped() {
	local other=/mnt/idmapped.other
	mount -t virtiofs interop "$mnt" || return 1
	number=$(connection_of "$mnt")
	mkdir "$other" "$mnt/folder"
	echo theirs >"$mnt/folder/file"
	if mount --bind -o X-mount.idmap=b:0:1000:1 "$mnt" "$other"; then
		[ "$(stat -c %u:%g "$other/folder/file")" = 1000:1000 ] || echo "error: the owner is $(stat -c %u:%g "$other/folder/file")"
		setpriv --reuid=1000 --regid=1000 --clear-groups sh -c "echo mine >$other/folder/new && mkdir $other/folder/dir &&
			mv $other/folder/new $other/folder/dir/ && ln -s new $other/folder/dir/link && rm $other/folder/file" || echo 'error: the owner cannot work'
		[ "$(stat -c %u:%g "$mnt/folder/dir/new")" = 0:0 ] || echo "error: the file is made for $(stat -c %u:%g "$mnt/folder/dir/new")"
		! setpriv --reuid=1001 --regid=1001 --clear-groups touch "$other/folder/foreign" || echo 'error: another user can write'
		umount "$other" || echo 'error: it cannot be unmounted'
	else
		echo 'error: it cannot be idmapped'
	fi
	read -r ring dev < <(requests "$number")
	umount "$mnt" || echo 'error: it cannot be unmounted'
}
whole() {
	local begun=$SECONDS out=$log/$client.log status=0
	counting_starts
	idmapped >"$out" 2>&1 || status=1
	! grep -q '^error' "$out" || status=1
	finished idmapped $status $((SECONDS - begun)) "$out"
}
