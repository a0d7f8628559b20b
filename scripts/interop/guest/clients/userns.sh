# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
title='libfuse example passthrough_ll, mounted by a user in a user namespace'
whole() {
	local out=$log/$client.${transport/:/-}.log
	rm -rf "$work"
	mkdir -p "$work/back"
	chown -R user: "$work"
	chmod 666 /dev/fuse
	counting_starts
	setpriv --reuid=user --regid=user --clear-groups unshare -Urm /bin/bash "$here/userns.sh" "$transport" "$work" "git sqlite metadata" >"$out" 2>&1 &
	pid=$!
	# shellcheck disable=SC2317 # called by until_true
	counted() { gone "$pid" || [ -e "$work/connection" ]; }
	until_true 1200 counted
	if [ -e "$work/connection" ]; then
		read -r ring dev < <(requests "$(cat "$work/connection")")
		touch "$work/counted"
	fi
	wait "$pid"
	sed -n 's/^suite /suite /p' "$out" | tee -a "$row"
	grep -q '^suite' "$out" || echo "suite mount fail 0 $(tail -n 1 "$out")" >>"$row"
}
