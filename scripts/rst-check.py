#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Check reStructuredText files with docutils; Sphinx's own directives and roles are let through.

usage: rst-check.py FILE...     prints every message, exit status 1 when there is one
"""
import sys

import docutils.core
import docutils.nodes
from docutils.parsers.rst import Directive, directives, roles


class Passed(Directive):
    """A directive that only Sphinx knows: its content is read as reStructuredText where it is that."""
    optional_arguments = 100
    final_argument_whitespace = True
    has_content = True

    def run(self):
        return []


class Options(dict):
    """Any option is fine for a directive that only Sphinx knows."""
    def __missing__(self, key):
        return directives.unchanged

    def __contains__(self, key):
        return True


def role(name, rawtext, text, lineno, inliner, options=None, content=None):
    return [docutils.nodes.literal(rawtext, text)], []


def main():
    Passed.option_spec = Options()
    for name in ("toctree", "kernel-doc", "c:function", "c:struct", "c:type", "c:macro", "kernel-figure", "flat-table",
                 "kernel-render", "literalinclude"):
        directives.register_directive(name, Passed)
    for name in ("doc", "ref", "c:func", "c:struct", "c:type", "c:macro", "c:member", "manpage", "file"):
        roles.register_local_role(name, role)
    bad = 0
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
        document = docutils.core.publish_doctree(text, source_path=path, settings_overrides={
            "report_level": 1, "halt_level": 5, "file_insertion_enabled": False})
        bad += sum(1 for _ in document.findall(docutils.nodes.system_message))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
