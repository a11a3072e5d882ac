# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Run every test of the table of faults, and write what was seen.

    python scripts/report_reliability.py [--output FILE.md] [--junit FILE.xml ...]

The table is ``tests/faults/faults.json``. All its tests are part of the suite; one that was skipped is told with its
reason. ``--junit`` names reports of runs of the suite (``pytest --junitxml``), whose tests are not run again; of a test
in several of them the last one counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
FAULTS = ROOT / "tests" / "faults" / "faults.json"

INTRODUCTION = """\
# Reliability

Written by `scripts/report_reliability.py`, which runs the tests of every row (`tests/faults/faults.json`); all of them
are part of the test suite. *Observed* is the outcome of this run; a test fails if the outcome is not as expected.

Exit codes: 2 input or configuration, 3 resume mismatch, 4 integrity or security, 5 numbers, 6 resources, 7 plugins;
143 after SIGTERM. Each comes with one line on stderr that states what is wrong, where, the expected and the actual
value, and the fix.

See also: [resume.md](resume.md), [provenance.md](provenance.md), [privacy.md](privacy.md), [security.md](security.md);
for the overhead: [results/safety.md](results/safety.md), [results/memory.md](results/memory.md).
"""


def run(tests: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Run tests; return what :func:`outcomes` does."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
        subprocess.run(command, cwd=ROOT, check=False)
        return outcomes(report)


def outcomes(report: Path) -> dict[str, list[tuple[str, str]]]:
    """Return test (without parameters) -> outcome and detail of each of its cases, from a report in JUnit's format."""
    found: dict[str, list[tuple[str, str]]] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = str(case.get("name")).partition("[")[0]
        file = str(case.get("classname")).replace(".", "/") + ".py"
        state, detail = "passed", ""
        for tag in ("failure", "error", "skipped"):
            if (child := case.find(tag)) is not None:
                state, detail = tag, str(child.get("message"))
        found.setdefault(f"{file}::{name}", []).append((state, detail))
    return found


def observed(row: dict[str, Any], found: dict[str, list[tuple[str, str]]]) -> str:
    """Return what was seen of a row, in words."""
    cases = [case for test in row["tests"] for case in found.get(test, [("error", "did not run")])]
    states = Counter(state for state, _ in cases)
    words = []
    if states["passed"]:
        words.append("as expected" + (f" ({states['passed']} cases)" if states["passed"] > 1 else ""))
    if bad := states["failure"] + states["error"]:
        words.append(f"**{bad} NOT as expected**")
    reasons = {detail for state, detail in cases if state == "skipped"}
    return "; ".join([*words, *(f"skipped: {reason}" for reason in sorted(reasons))])


def main() -> int:
    """Run, write, and return 1 when something was not as expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "reliability.md")
    parser.add_argument(
        "--junit", type=Path, nargs="+", metavar="FILE.xml", help="take the outcomes of runs of the suite"
    )
    args = parser.parse_args()
    rows = json.loads(FAULTS.read_text(encoding="utf-8"))
    tests = list(dict.fromkeys(test for row in rows for test in row["tests"]))
    found = run(tests) if args.junit is None else {}
    for report in args.junit or ():
        found |= outcomes(report)
    lines = [INTRODUCTION]
    for group, members in groupby(rows, lambda row: row["group"]):
        lines += [f"## {group}", "", "| fault | expected | observed | test |", "|---|---|---|---|"]
        for row in members:
            names = ", ".join(f"[`{t.partition('::')[2]}`](../{t.partition('::')[0]})" for t in row["tests"])
            lines.append(f"| {row['fault']} | {row['expected']} | {observed(row, found)} | {names} |")
        lines.append("")
    python = f"Python {platform.python_version()}, torch {version('torch')}, MLflow {version('mlflow')}"
    lines.append(f"{platform.system()} on {platform.machine()}, {python}.\n")
    args.output.write_text("\n".join(lines), encoding="utf-8")
    bad = [row["fault"] for row in rows if "NOT" in observed(row, found)]
    print(f"{len(rows)} faults, {len(tests)} tests, not as expected: {bad or 'none'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
