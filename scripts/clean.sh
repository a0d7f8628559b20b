#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Remove build output.  The working trees build/linux and build/linux-lts may hold somebody's work and
# stay, and so does the cache, which other clones use.
. "$(dirname "$0")/lib.sh"

find "$FU_BUILD" -mindepth 1 -maxdepth 1 ! -name linux ! -name linux-lts -exec rm -rf {} +
say "removed the build output in $FU_BUILD (kept: its linux* trees, and the cache in $FU_CACHE)"
