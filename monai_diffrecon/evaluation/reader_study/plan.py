# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The assignment of methods to A and B in a reader study, and its key."""

from __future__ import annotations

import random
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from monai_diffrecon.errors import DiffReconError, IntegrityError
from monai_diffrecon.evaluation.reader_study.spec import StudySpec
from monai_diffrecon.io.atomic import write_json
from monai_diffrecon.io.file_validation import read_json, validated
from monai_diffrecon.numerics.hashing import sha256_file

KEY_SCHEMA: Literal["reader-study-key 1"] = "reader-study-key 1"
_SHUFFLES = 200


@dataclass(frozen=True)
class StudyItem:
    """One showing: two volumes of a case, called A and B.

    Attributes:
        item: its number in the pack, as text.
        case: name of the case.
        A: method behind A.
        B: method behind B.
        repeat_of: number of the item that showed the same pair before, or None.
    """

    item: str
    case: str
    A: str
    B: str
    repeat_of: str | None = None


@dataclass(frozen=True)
class StudyKey:
    """The assignment, what it was drawn from, and what the sheets must hold.

    The random ``nonce`` keeps anyone from finding the assignment by trying all of them against the key's hash.
    """

    schema: Literal["reader-study-key 1"]
    nonce: str
    seed: int
    pack_sha256: str
    pairs: tuple[tuple[str, str], ...]
    criteria: tuple[str, ...]
    scale: tuple[int, int]
    items: tuple[StudyItem, ...]


def plan_items(spec: StudySpec, generator: random.Random) -> list[StudyItem]:
    """Return the items in the order of reading: sides and order random, some pairs once more with sides swapped.

    Of some hundred random orders, the one with repeats farthest from their first showing is used.
    """
    showings = []
    for case in spec.cases:
        for first, second in spec.pairs:
            if {first, second} <= set(case.volumes):
                a, b = (first, second) if generator.random() < 0.5 else (second, first)
                showings.append((case.name, a, b))
    # At least one, when repeats were asked for.
    count = max(round(spec.repeats * len(showings)), 1) if spec.repeats > 0.0 else 0
    mirrored = [(case, b, a) for case, a, b in generator.sample(showings, count)]
    everything = showings + mirrored
    best, widest = everything, -1
    for _ in range(_SHUFFLES if mirrored else 1):
        order = generator.sample(everything, len(everything))
        gap = min((abs(order.index((c, a, b)) - order.index((c, b, a))) for c, a, b in mirrored), default=0)
        if gap > widest:
            best, widest = order, gap
    items: list[StudyItem] = []
    for number, (name, a, b) in enumerate(best, start=1):
        earlier = [item.item for item in items if (item.case, item.A, item.B) == (name, b, a)]
        items.append(StudyItem(f"{number:03d}", name, a, b, earlier[0] if earlier else None))
    return items


def write_key(path: str | Path, items: list[StudyItem], *, seed: int, pack_sha256: str, spec: StudySpec) -> str:
    """Write the key and return its sha256, which commits to the key without revealing it.

    Args:
        path: file of the key.
        items: the assignment.
        seed: what it was drawn from.
        pack_sha256: hash of the pack's volumes and pictures.
        spec: the study, for what the sheets must hold.
    """
    nonce = secrets.token_hex(32)
    key = StudyKey(KEY_SCHEMA, nonce, seed, pack_sha256, spec.pairs, spec.criteria, spec.scale, tuple(items))
    write_json(path, asdict(key))
    Path(path).chmod(0o600)
    return sha256_file(path)


def read_key(path: str | Path) -> tuple[StudyKey, str]:
    """Return a key and its sha256.

    Raises:
        InputError: no such file.
        IntegrityError: not a key.
    """
    path = Path(path)
    digest = sha256_file(path)
    try:
        return validated(StudyKey, read_json(path, path.name), path.name), digest
    except DiffReconError as error:
        raise IntegrityError(
            "not a reader-study key", where=error.where, expected=error.expected or KEY_SCHEMA, got=error.got
        ) from None
