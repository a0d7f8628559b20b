#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Boot a kernel in QEMU, run one command in it, watch its console, and say how it went.

    vm-run.py --kernel IMAGE --initrd CPIO --cmd 'SHELL COMMAND' --log FILE [--timeout 600]
              [--quiet-limit 240] [--machine x86_64|arm64|s390x] [--smp 4] [--maxcpus 4] [--mem 3072]
              [--icount] [--share DIR] [--append ARGS] [--disk IMAGE] [--virtiofs DIR --virtiofsd COMMAND]
              [--allow REGEX] [--show all|tests|results|none] [--times FILE] [--load N]
              [--interactive]

Exit status: the command's own (0 to 125), or 126 when the guest hung, panicked, warned, or reported
a bug; the report is then shown.  The whole console is in FILE.  --share DIR is /host in the guest.
--disk IMAGE is /dev/vda; what the guest writes there is gone with it.  --virtiofs DIR is the virtiofs
`interop`, served by the given virtiofsd.  With $FU_VM_LOCK, guests of several clones take turns.
--load N takes processor time from the guest: so many busy loops run here for as long as it does.
"""
import argparse
import fcntl
import json
import os
import re
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid

SPLATS = re.compile(
    r"WARNING: |BUG: |KASAN: |KCSAN: |UBSAN: |Kernel panic|kernel BUG at|Oops: |general protection fault"
    r"|INFO: task .* blocked for more than|INFO: rcu|rcu: INFO:|possible recursive locking|possible circular locking"
    r"|inconsistent lock state|suspicious RCU usage|bad unlock balance|possible irq lock inversion"
    r"|held lock freed|lock held when returning to user space|still has locks held|sleeping function called"
    r"|ODEBUG:|refcount_t: |unreferenced object|list_(add|del) corruption|kmemleak: .*new suspected"
    r"|kmemleak: Kernel memory leak detector disabled|soft lockup|Invalid wait context|DEBUG_LOCKS_WARN_ON"
    r"|BUG kmalloc|Slab corruption|Object .* poison|turning off the locking correctness validator"
    r"|page allocation failure|Out of memory: Killed")
CTRL_O = b"\x0f"    # where a console knows no break
# QEMU's program and arguments, the guest's names of its console and of the command's port, and whether it knows nodes.
MACHINES = {
    "x86_64": (["qemu-system-x86_64", "-machine", "q35"], "ttyS0", "ttyS1", True),
    # A processor that knows 64 KiB pages and has atomic instructions.
    "arm64": (["qemu-system-aarch64", "-machine", "virt,gic-version=3", "-cpu", "neoverse-n1",
               "-device", "virtio-serial-device"], "ttyAMA0", "hvc0", True),
    "s390x": (["qemu-system-s390x", "-machine", "s390-ccw-virtio", "-cpu", "max",
               "-device", "virtio-serial-ccw"], "ttysclp0", "hvc0", False),
}
PROGRAM = re.compile(r"# selftests: \S+ (\S+)$")
# A case as kselftest_harness ends it; that one began comes late, the runner's sed is a line behind.
CASE = re.compile(r"# # +(?:OK|FAIL) +(\S+)")
# Only lines of the kernel count, not what a test says about itself; kmemleak's come from a file.
KERNEL_LINE = re.compile(r"\[ *\d+\.\d{6}\]|^unreferenced object 0x")
RESULT = re.compile(r"(ok|not ok) \d+ selftests: |# not ok |# # .*(Expected|Assertion)|# .*_test\.c:\d+:")
# What a panicking or hanging kernel prints belongs to the report; a report is over after this many lines.
REPORT_LINES = 80


def parse_args():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kernel", required=True)
    p.add_argument("--initrd", required=True, help="cpio made by initramfs.sh")
    p.add_argument("--cmd", default="", help="shell command to run in the guest")
    p.add_argument("--log", required=True, help="where the console goes")
    p.add_argument("--timeout", type=int, default=600, help="seconds for everything")
    p.add_argument("--quiet-limit", type=int, default=240, help="seconds without a line of output")
    p.add_argument("--machine", choices=list(MACHINES), default="x86_64", help="others than x86_64 are emulated")
    p.add_argument("--smp", type=int, default=4)
    p.add_argument("--maxcpus", type=int, default=0,
                   help="possible CPUs (default: --smp); those above --smp are not plugged in")
    p.add_argument("--nodes", type=int, default=0, help="NUMA nodes (default: 2, or 1 with one vCPU)")
    p.add_argument("--mem", type=int, default=3072, help="MiB")
    p.add_argument("--icount", action="store_true", help="guest time counts instructions (one vCPU)")
    p.add_argument("--accel", default=os.environ.get("ACCEL", ""), help="tcg or kvm (default: $ACCEL, tcg)")
    p.add_argument("--share", help="host folder that is /host in the guest (read and write)")
    p.add_argument("--disk", help="raw image that is /dev/vda in the guest; stays as it is")
    p.add_argument("--virtiofs", help="host folder that is the virtiofs `interop` in the guest")
    p.add_argument("--virtiofsd", default="virtiofsd", help="command of the virtiofsd that serves it")
    p.add_argument("--append", default="", help="more kernel command line")
    p.add_argument("--allow", action="append", default=[], help="reports that match this are expected")
    p.add_argument("--show", choices=["all", "tests", "results", "none"], default="all",
                   help="lines to show: all, the command's only, results of test programs and failures, none")
    p.add_argument("--times", help="write the seconds that each test case took to this file")
    p.add_argument("--load", type=int, default=0, help="busy loops on this machine while the guest runs")
    p.add_argument("--interactive", action="store_true", help="the console is this terminal")
    return p.parse_args()


def qemu_command(args, work, token):
    cpus = args.maxcpus or args.smp
    qemu, console, port, knows_nodes = MACHINES[args.machine]
    nodes = args.nodes or (2 if cpus > 1 and knows_nodes else 1)
    # Linux does not believe in CPUs to be plugged into a package that is there, unless it knows the hypervisor
    cores = args.smp if cpus > args.smp else cpus // nodes
    if cpus % nodes or args.mem % nodes:
        sys.exit("vm-run.py: %d vCPUs or %d MiB do not divide by %d nodes" % (cpus, args.mem, nodes))
    kvm = args.accel == "kvm"
    if args.machine == "x86_64":
        qemu = qemu + ["-cpu", "host" if kvm else "max"]
    cmd = [*qemu, "-nodefaults", "-display", "none", "-no-reboot",
           "-smp", "%d,maxcpus=%d,sockets=%d,cores=%d,threads=1" % (args.smp, cpus, cpus // cores, cores),
           "-m", "%dM" % args.mem, "-kernel", args.kernel, "-initrd", os.path.join(work, "initrd"),
           "-qmp", "unix:%s,server=on,wait=off" % os.path.join(work, "qmp"),
           "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    if not args.interactive:
        # The command has a port of its own, so that the kernel's messages never land within its lines.
        cmd += ["-chardev", "socket,id=command,server=on,wait=on,path=%s" % os.path.join(work, "command")]
        cmd += ["-serial", "chardev:command"] if port.startswith("ttyS") else ["-device", "virtconsole,chardev=command"]
    cmd += ["-accel", "kvm"] if kvm else ["-accel", "tcg,thread=%s" % ("single" if args.icount else "multi")]
    if args.icount:
        cmd += ["-icount", "shift=0,sleep=off"]
    per = cpus // nodes
    for node in range(nodes) if knows_nodes else []:
        cmd += ["-object", "%s,id=m%d,size=%dM" % (
                    "memory-backend-memfd,share=on" if args.virtiofs else "memory-backend-ram", node, args.mem // nodes),
                "-numa", "node,nodeid=%d,memdev=m%d,cpus=%d-%d" % (node, node, node * per, node * per + per - 1)]
    if args.share:
        cmd += ["-virtfs", "local,path=%s,mount_tag=host,security_model=none,multidevs=remap"
                % os.path.abspath(args.share)]
    if args.disk:
        cmd += ["-drive", "if=none,id=disk,format=raw,snapshot=on,file=%s" % os.path.abspath(args.disk).replace(",", ",,"),
                "-device", "virtio-blk-pci,drive=disk"]
    if args.virtiofs:
        cmd += ["-chardev", "socket,id=virtiofs,path=%s" % os.path.join(work, "virtiofs"),
                "-device", "vhost-user-fs-pci,chardev=virtiofs,tag=interop"]
    cmd += ["-append", " ".join([
        "console=%s vm.port=%s" % (console, port),
        "rdinit=/init panic=-1 panic_on_oops=1 fuse.enable_uring=1 sysrq_always_enabled",
        "quiet loglevel=5 random.trust_cpu=on rcupdate.rcu_cpu_stall_timeout=120 vm.token=%s" % token, args.append]).strip()]
    return cmd


def cpio_member(name, data, mode):
    """One file in the newc format; the kernel unpacks concatenated archives one after the other."""
    raw = name.encode() + b"\0"
    head = b"070701" + b"".join(b"%08x" % v for v in (
        0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0))
    out = head + raw
    out += b"\0" * (-len(out) % 4) + data
    return out + b"\0" * (-len(out) % 4)


def write_initrd(args, work):
    """The given archive, then a small one with the command."""
    with open(os.path.join(work, "initrd"), "wb") as out:
        with open(args.initrd, "rb") as src:
            shutil.copyfileobj(src, out)
        out.write(b"\0" * (-out.tell() % 512))
        script = "#!/bin/sh\n%s\n" % args.cmd
        out.write(cpio_member("vm-command", script.encode(), 0o100755))
        out.write(cpio_member("TRAILER!!!", b"", 0))


class Monitor:
    """QEMU's own control channel: to look into a guest that no longer answers."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(path)
        self.file = self.sock.makefile("rw")
        self.file.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "event" not in answer:
                return answer.get("return")


def busy_loop(parent):
    """At normal priority, and gone with whoever started it."""
    return subprocess.Popen([sys.executable, "-c",
                             "import os\nwhile os.getppid() == %d:\n for i in range(1000000): pass" % parent],
                            stdin=subprocess.DEVNULL)


class Guest:
    def __init__(self, args):
        self.args = args
        self.token = uuid.uuid4().hex[:12]
        self.work = tempfile.mkdtemp(prefix="fuvm.")
        write_initrd(args, self.work)
        self.log = open(args.log, "wb")
        self.allow = [re.compile(a) for a in args.allow]
        self.status = None
        self.times = []         # seconds, program and case, of each that ended
        self.program, self.case_end = "", 0.0
        self.report = []        # lines of the first unexpected report, and what followed
        self.reason = ""
        self.last = []          # the last lines, for a hang's message
        self.looking = ""       # in look_into_hang(): which part of the guest's answer this is
        self.in_command = False
        self.shown = 0.0        # when a line was last shown only to say that things move
        self.virtiofsd = self.serve_virtiofs() if args.virtiofs else None
        self.loops = [busy_loop(os.getpid()) for _ in range(args.load)]
        self.proc = subprocess.Popen(qemu_command(args, self.work, self.token), stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        # What is read from: the kernel's console with QEMU's own messages, and the command's port.
        self.sources = {self.proc.stdout.fileno(): b""}
        self.command = self.connect(os.path.join(self.work, "command"))
        if self.command:
            self.sources[self.command.fileno()] = b""
        self.selector = selectors.DefaultSelector()
        for fd in self.sources:
            self.selector.register(fd, selectors.EVENT_READ)

    def serve_virtiofs(self):
        path = os.path.join(self.work, "virtiofs")
        with open(self.args.log + ".virtiofsd", "wb") as log:
            proc = subprocess.Popen(shlex.split(self.args.virtiofsd) + [
                "--socket-path=" + path, "--shared-dir=" + os.path.abspath(self.args.virtiofs), "--sandbox=none"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while not os.path.exists(path):
            if proc.poll() is not None:
                sys.exit("vm-run.py: virtiofsd ended at once: see %s.virtiofsd" % self.args.log)
            time.sleep(0.05)
        return proc

    def connect(self, path):
        """QEMU makes the socket a moment after it starts; None when it ended instead."""
        while self.proc.poll() is None:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(path)
                return sock
            except OSError:
                sock.close()
                time.sleep(0.05)
        return None

    def line(self, raw):
        text = raw.decode("utf-8", "replace").rstrip("\r\n")
        self.last = (self.last + [text])[-15:]
        if self.token in text:
            found = re.search(r"vm-(begin|exit) %s ?(\d*)" % self.token, text)
            if found and found.group(1) == "begin":
                self.in_command = True
                return
            if found and found.group(2):
                self.status = int(found.group(2))
                self.in_command = False
                return
        if self.looking:
            # Blocked tasks belong to a hang's report; the rest is in the log.
            if "sysrq: Show" in text:
                self.looking = "blocked" if "Blocked" in text else "other"
            if self.looking == "blocked" and len(self.report) < REPORT_LINES:
                self.report.append(text)
            return
        if self.reason:
            if len(self.report) < REPORT_LINES:
                self.report.append(text)
        elif KERNEL_LINE.search(text) and SPLATS.search(text) and not any(a.search(text) for a in self.allow):
            self.reason = "the guest's kernel reported: " + text.strip()
            self.report.append(text)
        if self.args.times:
            self.note_time(text)
        show = self.args.show
        if show == "all" or (show == "tests" and self.in_command):
            print(text, flush=True)
        elif show == "results" and self.in_command:
            if RESULT.match(text):
                print("\r\033[K" * sys.stdout.isatty() + text, flush=True)
            elif sys.stdout.isatty():
                print("\r\033[K  " + text[:100], end="", flush=True)
            elif time.monotonic() - self.shown > 30:
                self.shown = time.monotonic()
                print("  at: " + text[:100], flush=True)

    def note_time(self, text):
        program, case, now = PROGRAM.match(text), CASE.match(text), time.monotonic()
        if program:
            self.program = program.group(1)
        elif case:
            self.times.append((now - self.case_end, self.program, case.group(1)))
        if program or case:
            self.case_end = now

    def emit(self, raw):
        self.log.write(raw + b"\n")
        self.log.flush()
        self.line(raw)

    def read_some(self, seconds):
        """Whole lines of whatever comes within that time; False at the end of everything."""
        for key, _ in self.selector.select(timeout=seconds):
            try:
                data = os.read(key.fd, 65536)
            except ConnectionResetError:
                data = b""
            if not data:
                self.selector.unregister(key.fd)
                if self.sources[key.fd]:
                    self.emit(self.sources[key.fd])
                del self.sources[key.fd]
                continue
            self.heard = time.monotonic()
            *lines, self.sources[key.fd] = (self.sources[key.fd] + data).split(b"\n")
            for raw in lines:
                self.emit(raw)
        return bool(self.sources)

    def read_for(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.read_some(0.5):
            pass

    def look_into_hang(self):
        """Blocked tasks, all tasks, held locks, and the registers go to the log before the end."""
        self.looking = "other"
        try:
            monitor = Monitor(os.path.join(self.work, "qmp"))
            registers = monitor.ask("human-monitor-command", **{"command-line": "info registers -a"})
            for key in b"9wdlt":
                if self.args.machine == "s390x":
                    self.proc.stdin.write(CTRL_O)
                else:
                    monitor.ask("chardev-send-break", id="console")
                    time.sleep(0.3)
                self.proc.stdin.write(bytes([key]))
                self.proc.stdin.flush()
                self.read_for(12 if key == ord("t") else 4)
            self.log.write(b"\n--- registers, from QEMU\n" + registers.encode())
        except (OSError, ValueError) as error:
            self.log.write(b"\n--- QEMU's monitor did not answer: %s\n" % str(error).encode())

    def run(self):
        start = self.heard = time.monotonic()
        try:
            while self.read_some(1):
                now = time.monotonic()
                if now - start <= self.args.timeout and now - self.heard <= self.args.quiet_limit:
                    continue
                if not self.reason:
                    self.reason = ("the guest did not finish within %d s" % self.args.timeout
                                   if now - start > self.args.timeout else
                                   "the guest was silent for %d s" % self.args.quiet_limit)
                    self.report = list(self.last)
                self.look_into_hang()
                break
        finally:
            try:
                self.proc.wait(timeout=5 if self.status is not None else 1)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
            for beside in self.loops + [self.virtiofsd] * bool(self.virtiofsd):
                beside.kill()
                beside.wait()
            for tail in self.sources.values():
                if tail:
                    self.emit(tail)
            self.log.close()
            if self.args.times:
                with open(self.args.times, "w", encoding="utf-8") as out:
                    out.writelines("%8.2f %s %s\n" % t for t in self.times)
            shutil.rmtree(self.work, ignore_errors=True)
        if self.status is None and not self.reason:
            self.reason = "the guest stopped without finishing the command"
            self.report = list(self.last)
        return self.verdict(time.monotonic() - start)

    def verdict(self, seconds):
        if self.reason:
            out = ["vm-run: " + self.reason] + ["  | " + text for text in self.report]
            out.append("vm-run: FAILED; the whole console is in " + self.args.log)
            print("\n".join(out), flush=True)
            return 126
        if self.status:
            print("vm-run: the command ended with status %d; the console is in %s"
                  % (self.status, self.args.log), flush=True)
        elif self.args.show == "all":
            print("vm-run: OK after %d s" % seconds, flush=True)
        return min(self.status, 125)


def interactive(args):
    work = tempfile.mkdtemp(prefix="fuvm.")
    try:
        write_initrd(args, work)
        return subprocess.call(qemu_command(args, work, "interactive"))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main():
    args = parse_args()
    for path in filter(None, (args.kernel, args.initrd, args.disk)):
        if not os.path.isfile(path):
            sys.exit("vm-run.py: %s is not a file" % path)
    if args.maxcpus and args.maxcpus < args.smp:
        sys.exit("vm-run.py: --maxcpus is less than --smp")
    if args.maxcpus % args.smp:
        sys.exit("vm-run.py: --maxcpus is not a multiple of --smp")
    if args.icount and args.smp != 1:
        sys.exit("vm-run.py: --icount needs --smp 1")
    if args.accel == "kvm" and args.machine != "x86_64":
        sys.exit("vm-run.py: --machine %s is emulated; leave out ACCEL=kvm" % args.machine)
    if args.nodes > 1 and not MACHINES[args.machine][3]:
        sys.exit("vm-run.py: --machine %s has one node" % args.machine)
    if args.icount and args.accel == "kvm":
        sys.exit("vm-run.py: --icount counts in TCG only; leave out ACCEL=kvm")
    if args.interactive:
        return interactive(args)
    os.makedirs(os.path.dirname(os.path.abspath(args.log)), exist_ok=True)
    # Whoever ends this script ends the guest.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if os.environ.get("FU_VM_LOCK"):
        turn = open(os.environ["FU_VM_LOCK"], "w")
        fcntl.flock(turn, fcntl.LOCK_EX)
    return Guest(args).run()


if __name__ == "__main__":
    sys.exit(main())
