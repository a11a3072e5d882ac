# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Calibrates the intervals of a method with the cases of an evaluated cohort."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_diffrecon.engine.calibration.calibration_file import Calibration, LevelFactors, check_enough
from monai_diffrecon.engine.calibration.residuals import CaseResiduals
from monai_diffrecon.engine.resume.run_identity import differences
from monai_diffrecon.errors import ConfigError, InputError, IntegrityError
from monai_diffrecon.errors.options import check_choice, path_option
from monai_diffrecon.evaluation.cohort.read import slug
from monai_diffrecon.io.file_validation import read_json, validated
from monai_diffrecon.numerics.statistics.conformal import conformal_quantile, from_powers
from monai_diffrecon.tracking.provenance import read_record, record_path

KINDS = ("conformal", "inflation")
Groups = dict[str, list[CaseResiduals]]


def calibrate(
    folder: str | Path, *, method: str | None = None, levels: Sequence[float] = (0.9,), kind: str = "conformal"
) -> Calibration:
    """Return the calibration of a method.

    Args:
        folder: output of ``diffrecon evaluate``, with a truth for every case.
        method: label of the method; None takes the only one that draws samples.
        levels: nominal coverages, the one to apply first.
        kind: ``conformal``, or ``inflation`` without the finite-sample correction.

    Raises:
        InputError: no such cohort, a failed case, or too few subjects for a level.
        ConfigError: no such method, or cases of different conditions.
        IntegrityError: a row or a record was changed.
    """
    kind = check_choice(kind, "--kind", KINDS)
    folder = path_option(folder, "cohort")
    results = read_json(folder / "results.json", "results.json")
    try:
        methods = {said["label"]: said for said in results["methods"]}
        ours = [label for label, said in methods.items() if not said.get("volumes")]  # others have no record
        found = {label: _of_method(folder, label, results["cases"]) for label in ours}
    except (KeyError, TypeError) as error:
        raise InputError("not the results of a cohort", where="results.json", got=f"no {error}") from None
    drawn = {label: cases for label, cases in found.items() if cases}
    if method is None and len(drawn) == 1:
        (method,) = drawn
    if method is None or method not in drawn:
        raise ConfigError(
            "no method whose samples have a truth" if method is None and not drawn else "which method?",
            where="--method",
            expected=" or ".join(drawn) or "a method with num_samples of 2 or more, of real volumes",
            got=method,
        )
    cases = drawn[method]
    lost = sum(entry["method"] == method for entry in results["cases"]) - len(cases)
    if lost:  # those that fail are not like the others
        raise InputError("cases without residuals", where=f"method {method!r}", expected="none", got=lost)
    groups: Groups = {}
    for case in cases:
        if changed := differences(cases[0].conditions, case.conditions):
            raise ConfigError("cases of different conditions", where=f"method {method!r}", got=", ".join(changed[:4]))
        groups.setdefault(case.subject, []).append(case)
    if kind == "conformal":
        check_enough(len(groups), levels)
    return Calibration(
        schema=1,
        kind="conformal" if kind == "conformal" else "inflation",
        method={name: methods[method].get(name) for name in ("label", "bundle", "task", "preset")},
        subjects=tuple(sorted(tuple(sorted(c.measurement_sha256 for c in group)) for group in groups.values())),
        conditions=cases[0].conditions,
        spacing=tuple(_range([case.spacing[axis] for case in cases]) for axis in range(3)),  # type: ignore[arg-type]
        noise_std=_range([case.noise_std for case in cases]),
        levels=tuple(factors_of(groups, level, corrected=kind == "conformal") for level in levels),
        data_range=cases[0].data_range,
    )


def factors_of(groups: Groups, level: float, *, corrected: bool) -> LevelFactors:
    """Return the factors of a level; infinite ones for too few subjects.

    Args:
        groups: subject -> its cases.
        level: nominal coverage.
        corrected: with the finite-sample correction.
    """
    voxels = [
        (np.concatenate([from_powers(c.powers) for c in group]), np.concatenate([_shares(c) for c in group]))
        for group in groups.values()
    ]
    numbers: dict[str, float | None] = dict.fromkeys(("psnr", "ssim", "region"))
    for name in numbers:
        values = [[getattr(case, name) for case in group] for group in groups.values()]
        if all(value is not None for group in values for value in group):
            scores = [[abs(v[0] - v[1]) / (v[2] if len(v) > 2 else 1.0) for v in group] for group in values]
            numbers[name] = conformal_quantile([(s, [1] * len(s)) for s in scores], level, corrected=corrected)
    return LevelFactors(level, conformal_quantile(voxels, level, corrected=corrected), **numbers)


def _shares(case: CaseResiduals) -> np.ndarray:
    """Return the parts of a case's voxels: cases of one subject weigh the same."""
    return np.asarray(case.counts, float) / sum(case.counts)


def _of_method(folder: Path, label: str, entries: Sequence[dict[str, Any]]) -> list[CaseResiduals]:
    """Return the residuals of the cases of a method that have some, after checking them against the records."""
    found = []
    for entry in entries:
        if entry["method"] != label or entry["status"] == "failed":
            continue
        name, of = str(entry["case"]), folder / slug(label)
        row = read_json(of / f"{Path(name).name}_metrics.json", f"case {name}")
        record = read_record(record_path(of / f"{Path(name).name}_recon.nii.gz"))
        if not row["record_sha256"] == entry["record_sha256"] == record["record_sha256"]:
            raise IntegrityError(
                "results, row and record do not belong together",
                where=f"case {name}",
                mend="run diffrecon evaluate again",
            )
        if row.get("residuals") is not None:
            found.append(validated(CaseResiduals, row["residuals"], f"case {name}, residuals", InputError))
    return found


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
