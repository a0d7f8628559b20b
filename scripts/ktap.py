#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Count the results in a kselftest run's console log.

    ktap.py [--label TEXT] [--guest-status N] [--kunit SUITE]... [--out FILE] LOG

The runner prints one TAP stream whose tests are programs, each program's own TAP below it behind
"# ".  Counted are the test cases of the programs, and a program itself when it has none, or when it
failed with no failing case.  A plan that is missing or not met, a case reported twice, and a guest
that failed count as failures.  Lines behind "kunit: " are results files of KUnit suites, whose test
cases count in the same way; a suite of --kunit that is missing is a failure.  Writes one line a
result to FILE, shows what did not pass, ends with "N passed, N failed, N skipped"; exit status 1
when anything failed.
"""
import argparse
import re
import sys

RESULT = re.compile(r"^(ok|not ok) (\d+)(?: -)?(?: (.*))?$")
PLAN = re.compile(r"^1\.\.(\d+)")
HEADER = re.compile(r"^# selftests: ([^:]+): (\S+)$")
KUNIT = "kunit: "
# Test cases are one level below their suite, and the parameters that they ran with below these.
KUNIT_INDENT = "    "
SUITE = re.compile(r"^# Subtest: (\S+)$")


class Program:
    def __init__(self, name):
        self.name = name
        self.plan = None
        self.cases = []     # (number, state, description)
        self.seen = set()

    def add(self, result, counter):
        number, name = result.group(2), (result.group(3) or "").strip()
        if number in self.seen:
            counter.add("not ok", "%s %s (reported twice)" % (self.name, name))
        self.seen.add(number)
        self.cases.append((number, state_of(result.group(1), name), name))


class Counter:
    def __init__(self):
        self.lines = []
        self.count = {"ok": 0, "not ok": 0, "skip": 0}

    def add(self, state, what):
        self.count[state] += 1
        self.lines.append("%s %s" % (state, what))


def state_of(word, rest):
    """TAP's directives: SKIP is a skip; TODO and XFAIL are failures that were expected."""
    if re.search(r"#\s*skip\b", rest or "", re.I):
        return "skip"
    if word == "not ok" and re.search(r"#\s*(todo|xfail)\b", rest or "", re.I):
        return "ok"
    return word


def finish(program, word, rest, counter):
    state = state_of(word, rest)
    problems = []
    for number, case_state, text in program.cases:
        counter.add(case_state, "%s %s" % (program.name, text))
    if program.plan is None:
        if program.cases or state == "ok":
            problems.append("no plan")
    elif len(program.seen) != program.plan:
        problems.append("planned %d tests, saw %d" % (program.plan, len(program.seen)))
    if state == "not ok" and not any(c[1] == "not ok" for c in program.cases):
        problems.append((rest or "failed").split("#")[-1].strip())
    if problems:
        counter.add("not ok", "%s (%s)" % (program.name, "; ".join(problems)))
    elif not program.cases:
        counter.add(state, program.name)


def parse(stream, counter):
    program, plan, programs = None, None, 0
    for raw in stream:
        line = raw.rstrip("\r\n")
        header = HEADER.match(line)
        if header:
            if program:
                finish(program, "not ok", "# no result", counter)
            program = Program(header.group(2))
            continue
        inner = line[2:] if line.startswith("# ") else None
        text = line if inner is None else inner
        result, planned = RESULT.match(text), PLAN.match(text)
        if inner is None and planned:
            plan = int(planned.group(1))
        elif inner is None and result and "selftests: " in (result.group(3) or ""):
            programs += 1
            finish(program or Program(result.group(3).split()[2]), result.group(1), result.group(3), counter)
            program = None
        elif inner is not None and program and planned:
            program.plan = int(planned.group(1))
        elif inner is not None and program and result:
            program.add(result, counter)
    if program:
        finish(program, "not ok", "# no result", counter)
    if plan is None:
        counter.add("not ok", "the run (the runner printed no plan)")
    elif plan != programs:
        counter.add("not ok", "the run (%d programs planned, %d ended)" % (plan, programs))


def parse_kunit(stream, wanted, counter):
    suite, ended = None, set()
    for raw in stream:
        if not raw.startswith(KUNIT):
            continue
        line = raw[len(KUNIT):].rstrip("\r\n")
        inner = line.startswith(KUNIT_INDENT)
        text = line[len(KUNIT_INDENT):] if inner else line
        header, result, planned = SUITE.match(text), RESULT.match(text), PLAN.match(text)
        if inner and header:
            if suite:
                finish(suite, "not ok", "# no result", counter)
            suite = Program("kunit " + header.group(1))
        elif suite and inner and planned:
            suite.plan = int(planned.group(1))
        elif suite and inner and result:
            suite.add(result, counter)
        elif suite and result:
            finish(suite, result.group(1), result.group(3), counter)
            ended.add(result.group(3))
            suite = None
    if suite:
        finish(suite, "not ok", "# no result", counter)
    for name in wanted:
        if name not in ended:
            counter.add("not ok", "kunit %s (missing)" % name)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--label", default="")
    p.add_argument("--guest-status", type=int, default=0)
    p.add_argument("--kunit", action="append", default=[], metavar="SUITE", help="must have run at boot")
    p.add_argument("--out")
    p.add_argument("log")
    args = p.parse_args()
    counter = Counter()
    with open(args.log, encoding="utf-8", errors="replace") as stream:
        parse(stream, counter)
        stream.seek(0)
        parse_kunit(stream, args.kunit, counter)
    if args.guest_status:
        what = {126: "it hung, panicked, warned or reported a bug", 124: "kernel memory leaked"}
        counter.add("not ok", "the guest (%s)" % what.get(args.guest_status, "status %d" % args.guest_status))
    else:
        counter.add("ok", "the guest ended without a report")
    if args.out:
        with open(args.out, "w", encoding="utf-8") as out:
            out.write("".join(line + "\n" for line in counter.lines))
    for line in counter.lines:
        if not line.startswith("ok "):
            print("%s: %s" % (args.label, line))
    print("%s: %d passed, %d failed, %d skipped"
          % (args.label, counter.count["ok"], counter.count["not ok"], counter.count["skip"]))
    return 1 if counter.count["not ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
