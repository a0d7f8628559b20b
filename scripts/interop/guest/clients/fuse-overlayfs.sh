# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # a part of client.sh
package=fuse-overlayfs
suites="compare $writable"
prepare() { mkdir "$work"/{upper,work}; }
# Without "threaded" it leaves out its locks, which would be wrong with libfuse's ring.
serve() { exec fuse-overlayfs -f -o "lowerdir=/opt/interop/data,upperdir=$work/upper,workdir=$work/work,threaded=1" "$mnt"; }
