# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The table of faults speaks of tests that are there, and the page of every row of the table."""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = json.loads(Path(__file__).with_name("faults.json").read_text(encoding="utf-8"))


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_row_has_its_tests() -> None:
    assert len(ROWS) > 50
    for row in ROWS:
        assert row["tests"], row["fault"]
        for test in row["tests"]:
            file, _, name = test.partition("::")
            assert name in functions_of(file), test


def test_every_test_of_a_fault_is_in_the_table() -> None:
    told = {test for row in ROWS for test in row["tests"]}
    helpers = {"test_canary_scanner.py", Path(__file__).name}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path.name not in helpers:
            file = str(path.relative_to(ROOT))
            assert any(test.startswith(f"{file}::") for test in told), file


def test_the_page_shows_every_row_as_expected() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    for row in ROWS:
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {row['fault']} | {row['expected']} |")]
        assert "NOT as expected" not in line
        assert all(test.partition("::")[2] in line for test in row["tests"])
