#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The table of make interop from its clients' folders: table.py [--line] FOLDER CLIENT...

A row of the ring passes when its requests went over the ring and each suite passed, or failed over
/dev/fuse in the same way; a row of /dev/fuse passes when what failed is what that client cannot do.
"""
import os
import re
import sys


def read_row(path):
    row = {"suites": [], "limits": {}, "done": False, "requests_ring": "0", "requests_dev": "-"}
    with open(path, errors="replace") as lines:
        for line in lines:
            key, _, value = line.rstrip("\n").partition(" ")
            if key == "suite":
                name, verdict, rest = (value.split(" ", 2) + [""])[:3]
                row["suites"].append((name, verdict, rest.partition(" ")[2]))
            elif key == "limit":
                name, _, text = value.partition(" ")
                row["limits"][name] = text
            elif key == "done":
                row["done"] = True
            else:
                row[key] = value
    return row


def order(transport):
    return (transport != "dev", int(re.sub(r"\D", "", transport) or 0))


def judge(row, dev, guest):
    """The reasons for which a row fails, and what failed that does not count."""
    bad, alike = [], []
    dev_failed = {n for n, v, _ in dev["suites"] if v == "fail"} if dev and row is not dev else set()
    for name, verdict, text in row["suites"]:
        if verdict != "fail":
            continue
        if name in row["limits"]:
            # Said once, unless it is only here that it happened.
            if name not in dev_failed:
                alike.append("%s: %s" % (name, row["limits"][name]))
        elif name in dev_failed:
            alike.append("%s: as over /dev/fuse: %s" % (name, text))
        else:
            bad.append("%s: %s" % (name, text))
    if not row["done"]:
        bad.append("not finished: " + (guest or "the guest ended early"))
    if row["transport"] != "dev" and row["done"] and not any(n == "mount" for n, _, _ in row["suites"]):
        ring, over_dev = row["requests_ring"], row["requests_dev"]
        if not ring.isdigit() or int(ring) == 0:
            bad.append("nothing went over the ring")
        elif over_dev.isdigit() and int(over_dev) * 20 > int(ring):
            bad.append("%s requests went over /dev/fuse" % over_dev)
    return bad, alike


def ran(row):
    if len(row["suites"]) > 15:
        count = {}
        for _, verdict, _ in row["suites"]:
            count[verdict] = count.get(verdict, 0) + 1
        return "%d tests: %s" % (len(row["suites"]), ", ".join("%d %s" % (n, v) for v, n in sorted(count.items())))
    return ", ".join(n if v == "ok" else "%s (%s)" % (n, v) for n, v, _ in row["suites"])


def main():
    only_line = sys.argv[1] == "--line"
    folder, *chosen = sys.argv[2 if only_line else 1:]
    passed = failed = requests = clients = 0
    out, notes = [], []
    for client in sorted(chosen):
        rows_dir = os.path.join(folder, client, "rows")
        if not os.path.isdir(rows_dir):
            continue
        with open(os.path.join(folder, client, "guest"), errors="replace") as f:
            guest = f.read().strip()
        rows = sorted((read_row(os.path.join(rows_dir, name)) for name in os.listdir(rows_dir)),
                      key=lambda row: order(row["transport"]))
        clients += 1
        dev = next((row for row in rows if row["transport"] == "dev"), None)
        if not rows:
            rows = [{"client": client, "version": "", "transport": "dev", "suites": [], "limits": {}, "done": False,
                     "requests_ring": "0", "requests_dev": "-"}]
        elif guest and all(row["done"] for row in rows):
            rows[-1]["done"] = False
        for row in rows:
            bad, alike = judge(row, dev, guest)
            passed, failed = passed + (not bad), failed + bool(bad)
            ring = row["requests_ring"]
            requests += int(ring) if ring.isdigit() else 0
            out.append("| %s | %s | %s | %s | %s | %s | %s |" % (
                row["client"], row["version"], row["transport"].replace("dev", "/dev/fuse").replace("ring:", "ring, depth "),
                ring, row["requests_dev"], ran(row), "**fail**" if bad else "pass"))
            for text in bad:
                notes.append("- **%s over %s**: %s" % (row["client"], row["transport"], text.replace("|", "\\|")))
            for text in alike:
                notes.append("- %s over %s: %s" % (row["client"], row["transport"], text.replace("|", "\\|")))
    if only_line:
        print("interop: clients=%d ring_requests=%d %d passed, %d failed" % (clients, requests, passed, failed))
        return
    print("| client | version | transport | requests over the ring | over /dev/fuse | what ran | |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(out))
    if notes:
        print("\nWhat failed, and why; in bold what counts as a failure:\n")
        print("\n".join(dict.fromkeys(notes)))


main()
