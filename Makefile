# SPDX-License-Identifier: GPL-2.0
# The verbs; each is one script.  BASE=lts works on the newest linux-source-6.12 instead of the pinned base,
# ACCEL=kvm|tcg chooses QEMU's accelerator, FU_NO_INSTALL=1 never installs a package.

.DEFAULT_GOAL := help
.PHONY: help run test lint shell export clean vmtest mail profile flaky affinity locks bigvm interop arch bisect

help: ## list the verbs
	@sed -nE 's/^([a-z]+): ## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

run: ## build and boot the patched kernel, move a real source tree through a ring, print the figures
	@scripts/run.sh

test: ## the selftests in the VM on the ordinary and on the debug kernel, and lint
	@scripts/test.sh

lint: ## every static check, patch by patch and for the whole series
	@scripts/lint.sh

shell: ## an interactive VM with the selftest daemon mounted on /mnt
	@scripts/shell.sh

export: ## turn the commits of build/linux into patches/, series, mirrored files and cover letter
	@scripts/export.sh

mail: ## the series as messages in build/mail, made by b4 and applied again; nothing is sent
	@scripts/mail.sh

vmtest: ## run only some selftests in the VM: make vmtest TESTS="a b" KERNEL=debug
	@scripts/vmtest.sh --kernel $(or $(KERNEL),ordinary) $(TESTS)

flaky: ## the selftests ten times beside other load, and once with one CPU: make flaky RUNS=3 TESTS="a b" (hours)
	@scripts/flaky.sh $(if $(RUNS),--runs $(RUNS)) $(TESTS)

profile: ## instructions of a request by kernel function and in programs: scripts/profile.sh ring:stat for one
	@scripts/profile.sh

affinity: ## count context switches and wake-ups from other CPUs per request
	@scripts/affinity.sh

locks: ## count how often a request takes which lock of fs/fuse
	@scripts/locks.sh

bigvm: ## run tests with 64 CPUs in 8 nodes, measure a ring's memory and set-up time for 1 to 240 CPUs
	@scripts/bigvm.sh

interop: ## real clients in a small Debian over /dev/fuse and the ring: make interop CLIENTS="bindfs sshfs"
	@scripts/interop.sh

arch: ## run tests on emulated arm64 with 64 KiB pages and on big-endian s390x
	@scripts/arch.sh

bisect: ## every patch builds in three configurations, boots and passes the selftests that it has (hours)
	@scripts/bisect.sh

clean: ## remove build output (build/linux and the cache stay)
	@scripts/clean.sh
