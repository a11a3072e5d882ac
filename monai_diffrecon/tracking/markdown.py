# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Markdown for the descriptions that MLflow shows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from urllib.parse import quote

#: Stands for the id of the run, which is known once it is open.
RUN_ID = "{run_id}"


def plain(text: str) -> str:
    """Return a text such that Markdown shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>|~#!&])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Return a file name or an id in the letters of code."""
    return f"`{text.replace('`', ' ')}`"


def number(value: float, digits: int = 3) -> str:
    """Return a number for readers; a small one keeps its first digits, and one that is not finite is a dash."""
    if not math.isfinite(value):
        return "\u2013"
    return f"{value:.2g}" if value and abs(value) < 10.0**-digits else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], most: int = 25) -> str:
    """Return a table of texts that are Markdown already; of more than ``most`` rows the first, and how many are left.

    Args:
        head: titles of the columns.
        rows: its rows.
        most: rows shown.
    """
    lines = [head, ["---"] * len(head), *rows[:most]]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return text if len(rows) <= most else f"{text}\n\n{len(rows) - most} more rows are left out."


def artifact(path: str) -> str:
    """Return the address of an artifact of the run, as MLflow's own server has it."""
    return f"get-artifact?path={quote(path)}&run_uuid={RUN_ID}"
