# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The scoring sheet of a reader study, as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_diffrecon.errors import InputError, IntegrityError

#: Digits of the key's hash on every row of a sheet.
PACK_DIGITS = 16
_PREFERENCES = {"A": "A", "B": "B", "=": "=", "EQUAL": "=", "TIE": "="}


@dataclass(frozen=True)
class Reading:
    """One reader's scores of one item; None for an empty field.

    Attributes:
        item: number of the item.
        preference: ``A``, ``B``, ``=`` or None.
        scores: side and criterion -> score.
    """

    item: str
    preference: str | None
    scores: dict[tuple[str, str], int]


def columns(criteria: Sequence[str]) -> list[str]:
    """Return the columns of a sheet."""
    scored = [f"{side}_{criterion}" for criterion in criteria for side in "AB"]
    return ["pack", "item", "reader", "preference", *scored, "comment"]


def write_sheet(path: Path, pack: str, items: Sequence[str], criteria: Sequence[str]) -> None:
    """Write an empty sheet.

    Args:
        path: file to write.
        pack: sha256 of the key.
        items: numbers of the items in order.
        criteria: what is scored.
    """
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        names = columns(criteria)
        writer.writerow(names)
        for item in items:
            writer.writerow([pack[:PACK_DIGITS], item, *([""] * (len(names) - 2))])


def read_sheet(
    path: str | Path, pack: str, items: Sequence[str], criteria: Sequence[str], scale: tuple[int, int]
) -> tuple[str, list[Reading]]:
    """Read a sheet that was filled in; commas or semicolons, empty fields allowed.

    Args:
        path: the sheet.
        pack: sha256 of the key.
        items: numbers of the items.
        criteria: what was scored.
        scale: lowest and highest score.

    Returns:
        The reader's name (from the column, otherwise from the file) and the readings of scored items.

    Raises:
        InputError: no such file, or a field that cannot be understood.
        IntegrityError: the sheet of another pack.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else "not text in UTF-8"
        raise InputError(what, where="--scores", got=path.name) from None
    lines = text.splitlines()
    delimiter = ";" if lines and lines[0].count(";") > lines[0].count(",") else ","
    rows = list(csv.DictReader(lines, delimiter=delimiter))
    needed = {"pack", "item", "preference", *(f"{side}_{c}" for c in criteria for side in "AB")}
    if not rows or not needed <= set(rows[0]):
        missing = sorted(needed - set(rows[0])) if rows else "no row"
        raise InputError("not a scoring sheet", where=path.name, expected="the columns of scores.csv", got=missing)
    names = {(row.get("reader") or "").strip() for row in rows} - {""}
    if len(names) > 1:
        raise InputError("several readers on one sheet", where=path.name, expected="one", got=", ".join(sorted(names)))
    readings: list[Reading] = []
    for row in rows:
        # Spreadsheets drop leading zeros.
        item = (row["item"] or "").strip().zfill(3)
        if (row["pack"] or "").strip() != pack[:PACK_DIGITS]:
            raise IntegrityError(
                "the sheet belongs to another pack",
                where=f"{path.name}, item {item}",
                expected=f"pack {pack[:PACK_DIGITS]}",
                got=repr(row["pack"]),
                mend="give the key that was exported with this pack",
            )
        if item not in items or item in {reading.item for reading in readings}:
            raise InputError("an unknown or repeated item", where=path.name, expected=f"001 to {items[-1]}", got=item)
        reading = _reading(row, item, criteria, scale, f"{path.name}, item {item}")
        if reading.preference or reading.scores:
            readings.append(reading)
    return (names.pop() if names else path.stem), readings


def _reading(row: dict[str, str], item: str, criteria: Sequence[str], scale: tuple[int, int], where: str) -> Reading:
    said = (row["preference"] or "").strip().upper()
    if said and said not in _PREFERENCES:
        raise InputError("no preference", where=where, expected="A, B, = or nothing", got=row["preference"])
    scores = {}
    for criterion in criteria:
        for side in "AB":
            given = (row[f"{side}_{criterion}"] or "").strip()
            if not given:
                continue
            if not given.isdecimal() or not scale[0] <= int(given) <= scale[1]:
                raise InputError(
                    f"no score of {side}_{criterion}", where=where, expected=f"{scale[0]} to {scale[1]}", got=given
                )
            scores[side, criterion] = int(given)
    return Reading(item, _PREFERENCES.get(said), scores)
