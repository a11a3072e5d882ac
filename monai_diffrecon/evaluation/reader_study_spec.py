# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a reader study shows: cases, methods, pairs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.numerics.option_checks import check_integer, check_number
from monai_diffrecon.numerics.planes import check_plane
from monai_diffrecon.protocols import PLANE_AXIS

_KNOWN = ("cases", "pairs", "planes", "positions", "slices_per_plane", "criteria", "scale", "repeats", "window")


@dataclass(frozen=True)
class StudyCase:
    """One case: its name, its volumes by method, and the reference or None."""

    name: str
    volumes: Mapping[str, Path]
    reference: Path | None


@dataclass(frozen=True)
class StudySpec:
    """What is shown and asked.

    Attributes:
        cases: the cases.
        pairs: pairs of methods that are compared; a case shows those whose two volumes it has.
        planes: planes of the pictures.
        positions: where the slices lie in each plane, 0 to 1 along its axis, or None: drawn for each case.
        slices_per_plane: how many are drawn.
        criteria: what is scored, beside the preference.
        scale: lowest and highest score.
        repeats: part of the pairs that are shown twice.
        window: intensities shown black and white, or None: from the reference, or both volumes.
    """

    cases: tuple[StudyCase, ...]
    pairs: tuple[tuple[str, str], ...]
    planes: tuple[str, ...]
    positions: tuple[float, ...] | None
    slices_per_plane: int
    criteria: tuple[str, ...]
    scale: tuple[int, int]
    repeats: float
    window: tuple[float, float] | None


def read_spec(path: str | Path) -> StudySpec:
    """Read a study's JSON file; paths in it are relative to its folder.

    Raises:
        InputError: no such file, no JSON, or a volume is missing.
        ConfigError: an option that is unknown or out of range, or a pair that no case has.
    """
    path = Path(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", where="--cohort", got=path.name) from None
    except ValueError as error:
        raise InputError("not JSON", where=path.name, got=str(error)) from None
    if not isinstance(raw, dict) or set(raw) - set(_KNOWN):
        got = sorted(set(raw) - set(_KNOWN)) if isinstance(raw, dict) else type(raw).__name__
        raise ConfigError("not a reader study", where=path.name, expected=f"keys {', '.join(_KNOWN)}", got=got)
    cases = _cases(raw.get("cases"), path.parent)
    methods = list(dict.fromkeys(method for case in cases for method in case.volumes))
    scale = _list(raw.get("scale", [1, 5]), "scale", 2)
    low, high = (check_integer(end, "scale", low=0) for end in scale)
    if not low < high:
        raise ConfigError("an empty scale", where="scale", expected="[lowest, highest]", got=scale)
    window = raw.get("window")
    if window is not None:
        window = tuple(check_number(end, "window") for end in _list(window, "window", 2))
        if not window[0] < window[1]:
            raise ConfigError("an empty window", where="window", expected="[black, white]", got=list(window))
    positions = raw.get("positions")
    if positions is not None:
        positions = tuple(check_number(p, "positions", low=0.0, high=1.0) for p in _list(positions, "positions"))
    planes = _list(raw.get("planes", list(PLANE_AXIS)), "planes")
    return StudySpec(
        cases=cases,
        pairs=_pairs(raw.get("pairs"), methods, cases),
        planes=tuple(check_plane(str(plane), "planes") for plane in planes),
        positions=positions,
        slices_per_plane=check_integer(raw.get("slices_per_plane", 3), "slices_per_plane", low=1),
        criteria=_criteria(raw.get("criteria", ["noise", "artefacts", "anatomy", "overall"])),
        scale=(low, high),
        repeats=check_number(raw.get("repeats", 0.0), "repeats", low=0.0, high=1.0),
        window=window,
    )


def _list(value: Any, where: str, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or not value or len(value) != (length or len(value)):
        expected = "a list" if length is None else f"a list of {length}"
        raise ConfigError("not a list", where=where, expected=expected, got=repr(value))
    return value


def _cases(raw: Any, folder: Path) -> tuple[StudyCase, ...]:
    cases = []
    for index, entry in enumerate(_list(raw, "cases")):
        where = f"cases#{index}"
        keys = {"name", "volumes", "reference"}
        fits = isinstance(entry, dict) and set(entry) <= keys and isinstance(entry.get("name"), str)
        if not fits or not isinstance(entry.get("volumes"), dict) or not entry["volumes"]:
            raise ConfigError(
                "not a case", where=where, expected='{"name": ..., "volumes": {method: path}, "reference": path}'
            )
        volumes = {str(method): folder / str(path) for method, path in entry["volumes"].items()}
        reference = None if entry.get("reference") is None else folder / str(entry["reference"])
        for label, path in [*volumes.items(), ("reference", reference)]:
            if path is not None and not path.is_file():
                raise InputError("no such file", where=f"{where}, {label}", got=path.name)
        cases.append(StudyCase(entry["name"], volumes, reference))
    if len({case.name for case in cases}) != len(cases):
        raise ConfigError("two cases of one name", where="cases")
    return tuple(cases)


def _pairs(raw: Any, methods: list[str], cases: tuple[StudyCase, ...]) -> tuple[tuple[str, str], ...]:
    given = list(itertools.combinations(methods, 2)) if raw is None else _list(raw, "pairs")
    pairs = []
    for index, pair in enumerate(given):
        where = f"pairs#{index}"
        if not isinstance(pair, list | tuple) or len(pair) != 2 or pair[0] == pair[1]:
            raise ConfigError("not a pair", where=where, expected="two methods", got=repr(pair))
        if not any({*pair} <= set(case.volumes) for case in cases):
            raise ConfigError("no case has both", where=where, expected=f"two of {', '.join(methods)}", got=list(pair))
        pairs.append((str(pair[0]), str(pair[1])))
    if not pairs or len({frozenset(pair) for pair in pairs}) != len(pairs):
        raise ConfigError("no pair, or one twice", where="pairs", expected="different pairs of methods", got=pairs)
    return tuple(pairs)


def _criteria(raw: Any) -> tuple[str, ...]:
    criteria = tuple(str(criterion) for criterion in _list(raw, "criteria"))
    if len(set(criteria)) != len(criteria) or not all(c.isidentifier() and c != "preference" for c in criteria):
        raise ConfigError(
            "not criteria", where="criteria", expected="different words, without 'preference'", got=list(criteria)
        )
    return criteria
