# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a reader study shows: cases, methods, pairs."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.io.file_validation import Number, Text, checked, keys_of, read_json, validated
from monai_diffrecon.numerics.planes import check_plane
from monai_diffrecon.protocols import PLANE_AXIS

_File = Annotated[Path, checked(path_option)]
_Part = Annotated[Number, Field(ge=0, le=1)]
_Score = Annotated[int, Field(strict=True, ge=0, le=1000)]
_Plane = Annotated[str, checked(check_plane)]


def _criteria(value: Any, where: str) -> tuple[str, ...]:
    criteria = validated(tuple[Text, ...], value, where)
    fits = all(c.isidentifier() and c != "preference" for c in criteria)
    if not criteria or len(set(criteria)) != len(criteria) or not fits:
        expected = "different words, without 'preference'"
        raise ConfigError("not criteria", where=where, expected=expected, got=list(criteria))
    return criteria


@dataclass(frozen=True)
class StudyCase:
    """One case: its name, its volumes by method, and the reference or None."""

    name: Text
    volumes: Annotated[dict[Text, _File], Field(min_length=1)]
    reference: _File | None = None


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

    cases: Annotated[tuple[Annotated[StudyCase, checked(keys_of(StudyCase))], ...], Field(min_length=1)]
    pairs: Annotated[tuple[tuple[str, str], ...], Field(min_length=1)] = ()
    planes: Annotated[tuple[_Plane, ...], Field(min_length=1)] = tuple(PLANE_AXIS)
    positions: Annotated[tuple[_Part, ...], Field(min_length=1)] | None = None
    slices_per_plane: Annotated[int, Field(strict=True, ge=1, le=1000)] = 3
    criteria: Annotated[tuple[str, ...], checked(_criteria)] = ("noise", "artefacts", "anatomy", "overall")
    scale: tuple[_Score, _Score] = (1, 5)
    repeats: _Part = 0.0
    window: tuple[Number, Number] | None = None


def read_spec(path: str | Path) -> StudySpec:
    """Read a study's JSON file; paths in it are relative to its folder.

    Raises:
        InputError: no such file, no JSON, or a volume is missing.
        ConfigError: an option that is unknown or out of range, or a pair that no case has.
    """
    path = path_option(path, "--cohort")
    if not path.is_file():
        raise InputError("no such file", where="--cohort", got=path.name)
    spec = validated(StudySpec, keys_of(StudySpec)(read_json(path, path.name), path.name), "")
    for where, (low, high) in (("scale", spec.scale), ("window", spec.window or (0.0, 1.0))):
        if not 0 < high - low < math.inf:
            raise ConfigError("an empty range", where=where, expected="[lower, higher]", got=[low, high])
    cases = tuple(_placed(case, path.parent, f"cases#{index}") for index, case in enumerate(spec.cases))
    if len({case.name for case in cases}) != len(cases):
        raise ConfigError("two cases with the same name", where="cases")
    return replace(spec, cases=cases, pairs=_pairs(spec.pairs, cases))


def _placed(case: StudyCase, folder: Path, where: str) -> StudyCase:
    volumes = {method: folder / path for method, path in case.volumes.items()}
    reference = None if case.reference is None else folder / case.reference
    for label, path in [*volumes.items(), ("reference", reference)]:
        if path is not None and not path.is_file():
            raise InputError("no such file", where=f"{where}, {label}", got=path.name)
    return StudyCase(case.name, volumes, reference)


def _pairs(given: tuple[tuple[str, str], ...], cases: tuple[StudyCase, ...]) -> tuple[tuple[str, str], ...]:
    methods = list(dict.fromkeys(method for case in cases for method in case.volumes))
    pairs = given or tuple(itertools.combinations(methods, 2))
    for index, pair in enumerate(pairs):
        if pair[0] == pair[1] or not any({*pair} <= set(case.volumes) for case in cases):
            expected = f"two of {', '.join(methods)}"
            raise ConfigError("no case has both", where=f"pairs#{index}", expected=expected, got=list(pair))
    if not pairs or len({frozenset(pair) for pair in pairs}) != len(pairs):
        raise ConfigError("no or repeated pairs", where="pairs", expected="different pairs of methods", got=pairs)
    return pairs
