# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Make the tables of ``docs/which_method.md`` from the results of ``docs/results/methods.md``.

python scripts/which_method.py [--check]
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS, PAGE = DOCS / "results" / "methods.md", DOCS / "which_method.md"
MARKS = "<!-- table: begin -->", "<!-- table: end -->"
#: Section of the results -> what a reader calls it.
TASKS = {
    "z_super_resolution": "thick slices",
    "accelerated_mri": "accelerated MRI",
    "sparse_view_ct": "sparse-view CT",
}
NOTHING = "classical estimate"
Row = tuple[str, int, float, int]


def results(text: str) -> dict[str, list[Row]]:
    """Return task -> rows of (method, network calls per slice, PSNR in dB, seconds)."""
    found: dict[str, list[Row]] = {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        task, _, body = section.partition("\n")
        rows = re.findall(r"^\| ([^|]+) \| (\d+) \| ([\d.]+) \|(?:[^|]+\|){3} (\d+) \|$", body, flags=re.MULTILINE)
        found[task.strip()] = [(name, int(calls), float(psnr), int(seconds)) for name, calls, psnr, seconds in rows]
    return found


def table(found: dict[str, list[Row]]) -> str:
    """Return two tables: the two best methods of each task, and the gains of all over the classical estimate."""
    lines = ["| task | best | gain over the classical estimate | next best |", "|---|---|---|---|"]
    for task, title in TASKS.items():
        rows = {name: row for name, *row in found[task]}
        start = rows.pop(NOTHING)
        first, second, *_ = sorted(rows, key=lambda name: -rows[name][1])
        lines.append(
            f"| {title} | {first}, {rows[first][0]} calls | {rows[first][1] - start[1]:+.1f} dB in {rows[first][2]} s "
            f"| {second}, {rows[second][1] - start[1]:+.1f} dB |"
        )
    names = list(dict.fromkeys(name for task in TASKS for name, *_ in found[task] if name != NOTHING))
    lines += ["", f"| gain, dB | {' | '.join(TASKS.values())} |", "|---|" + "---|" * len(TASKS)]
    for name in names:
        gains = []
        for task in TASKS:
            psnr = {row[0]: row[2] for row in found[task]}
            gains.append(f"{psnr[name] - psnr[NOTHING]:+.1f}" if name in psnr else "")
        lines.append(f"| {name} | {' | '.join(gains)} |")
    return "\n".join(lines)


def written(page: str, text: str) -> str:
    """Return the page with the table between its marks."""
    before, _, rest = page.partition(MARKS[0])
    return f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


def main() -> int:
    """Write the page, or say whether it is current."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if the page is not current, and write nothing")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    now = written(page, table(results(RESULTS.read_text(encoding="utf-8"))))
    if not check:
        PAGE.write_text(now, encoding="utf-8")
    return int(check and now != page)


if __name__ == "__main__":
    sys.exit(main())
