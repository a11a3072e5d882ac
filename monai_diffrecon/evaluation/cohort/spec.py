# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The parts of a cohort comparison, and the keys that its file may have for each."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SkipValidation

from monai_diffrecon.engine.cases.list_cases import check_case_name
from monai_diffrecon.engine.problem.simulation import MOST_REALIZATIONS
from monai_diffrecon.errors.options import check_flag, path_option
from monai_diffrecon.io.file_validation import Number, Text, check_keys, checked, keys_of


def _case(value: Any, where: str) -> dict[str, Any]:
    case = check_keys(value, where, [f.name for f in fields(CohortCase)], ["image"])
    given = {key: case.get(key) for key in ("name", "subject")}
    # "": a keyed hash, see read_cohort
    return case | {key: "" if said is None else check_case_name(said, key) for key, said in given.items()}


def _simulate(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        return {"simulate": check_flag(value, where)}
    options = check_keys(value, where, ("noise", "photons", "electronic_std", "unit"))
    return {"simulate": True, **{f"simulate_{name}": option for name, option in options.items()}}


_File = Annotated[Path, checked(path_option)]


@dataclass(frozen=True)
class CohortCase:
    """One scan.

    Attributes:
        name: its name in all outputs; must not identify a patient.
        image: the scan, or the volume that is measured when the measurement is simulated.
        reference: the truth, or None if there is none or the measurement is simulated from it.
        mask: region of interest on the grid of the truth.
        subject: whose scan it is, for calibration; must not identify a patient. Empty: a subject of its own.
        realization: number of the noise realization of a simulated measurement; cases of one image with different
            numbers differ in their noise.
    """

    name: str
    image: _File
    reference: _File | None = None
    mask: _File | None = None
    subject: str = ""
    realization: Annotated[int, Field(strict=True, ge=0, le=MOST_REALIZATIONS)] = 0


@dataclass(frozen=True)
class CohortMethod:
    """One way to reconstruct.

    Attributes:
        label: its name in tables.
        bundle: root of its bundle; None for volumes.
        task: name of an overlay in ``configs/tasks``.
        preset: name of a preset (``diffrecon methods``); one in ``configs/methods`` wins.
        auxiliary_bundle: bundle or bundles of other planes; None takes the bundle's default, the word
            ``none`` takes none.
        overrides: config id -> value, laid over all of these.
        volumes: path of volumes that other software made, with ``{case}`` for the name of the case; then there is
            none of the others.
    """

    label: Text
    bundle: _File | None = None
    task: str | None = None
    preset: str | None = None
    auxiliary_bundle: SkipValidation[str | list[str] | None] = None
    overrides: Annotated[dict[str, Any], checked(lambda value, _: {} if value is None else value)] = field(
        default_factory=dict
    )
    volumes: Text | None = None


@dataclass(frozen=True)
class CohortSpec:
    """The cases, the methods, and how they are compared.

    Attributes:
        title: heading of the report.
        cases: the cases.
        methods: the methods.
        baseline: label of the method that the others are compared with.
        seed: of noise, measurement and bootstrap.
        simulate: config id -> value of the options of a simulated measurement, for all methods; empty keeps the
            tasks' options.
        data_range: peak-to-peak intensity of PSNR and SSIM; None takes that of each truth.
        vif: compute the visual information fidelity.
        resamples: of the bootstrap.
    """

    title: Text
    cases: Annotated[tuple[Annotated[CohortCase, checked(_case)], ...], Field(min_length=1)]
    methods: Annotated[tuple[Annotated[CohortMethod, checked(keys_of(CohortMethod))], ...], Field(min_length=1)]
    baseline: str
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    simulate: Annotated[dict[str, Any], checked(_simulate)] = field(default_factory=dict)
    data_range: Annotated[Number, Field(gt=0)] | None = None
    vif: Annotated[bool, checked(check_flag)] = False
    resamples: Annotated[int, Field(strict=True, ge=100, le=1_000_000)] = 10000
