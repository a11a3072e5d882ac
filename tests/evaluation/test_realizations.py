# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cases of one image that differ in the noise of their measurement."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_diffrecon.engine.cases.rerun import rerun
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import write_volume

from ..raising import raises

SHAPE = (12, 11, 10)
CASES = [
    {"image": "a.nii.gz", "name": "plain"},
    {"image": "a.nii.gz", "name": "zero", "realization": 0},
    {"image": "a.nii.gz", "name": "one", "realization": 1},
    {"image": "a.nii.gz", "name": "two", "realization": 2},
]


@pytest.fixture
def write(tmp_path: Path, make_bundle: Callable[..., Path]) -> Callable[..., Path]:
    """Write the file of a cohort of one scan."""
    noise = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(0))
    volume = 500 * torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1)
    write_volume(tmp_path / "a.nii.gz", volume, geometry_of(SHAPE))
    make_bundle(tmp_path / "axial")
    shared = {"bundle": "axial", "task": "z_super_resolution"}
    methods = [
        {"label": "Cubic", "preset": "cubic", **shared},
        {"label": "Diffusion", "overrides": {"sampler#steps": 1, "device": "cpu"}, **shared},
    ]

    def write(**changes: Any) -> Path:
        content = {"cases": CASES, "methods": methods, "simulate": {"noise": 0.05}, "resamples": 100} | changes
        (tmp_path / "cohort.json").write_text(json.dumps(content))
        return tmp_path / "cohort.json"

    return write


@pytest.mark.slow
def test_all_methods_see_the_noise_of_the_case(write: Callable[..., Path], tmp_path: Path) -> None:
    rows = CohortEvaluation(write(), tmp_path / "out", track=False).run()
    records = {
        (r.case, r.method): json.loads(
            (tmp_path / f"out/{r.method.lower()}/{r.case}_recon.provenance.json").read_text()
        )
        for r in rows
    }
    measured = {key: record["measurement_sha256"] for key, record in records.items()}
    for case in ("plain", "zero", "one", "two"):
        assert measured[case, "Cubic"] == measured[case, "Diffusion"]
    assert measured["plain", "Cubic"] == measured["zero", "Cubic"]
    assert len({measured[case, "Cubic"] for case in ("zero", "one", "two")}) == 3
    notes = [records[case, "Cubic"]["preparation"][-1]["simulate"] for case in ("zero", "one", "two")]
    assert [note.get("realization") for note in notes] == [None, 1, 2]
    again = rerun(tmp_path / "out/cubic/two_recon.provenance.json", tmp_path / "a.nii.gz", tmp_path / "axial")
    assert again.same


def test_cases_without_names_have_the_number_in_theirs(write: Callable[..., Path], tmp_path: Path) -> None:
    cases = [{"image": "a.nii.gz"}, {"image": "a.nii.gz", "realization": 3}]
    evaluation = CohortEvaluation(write(cases=cases), tmp_path / "out", track=False)
    assert evaluation.cases[1].name == f"{evaluation.cases[0].name}-3"
    with raises(ConfigError, where="cases#1#name"):
        CohortEvaluation(write(cases=[cases[1], cases[1]]), tmp_path / "out", track=False)


@pytest.mark.parametrize("number", [-1, 2**31 + 1, 1.5, True, "1"])
def test_numbers_that_are_none(write: Callable[..., Path], tmp_path: Path, number: Any) -> None:
    with raises(ConfigError, where="cases#0#realization"):
        CohortEvaluation(write(cases=[CASES[0] | {"realization": number}]), tmp_path / "out", track=False)


def test_a_measured_scan_has_no_realization(write: Callable[..., Path], tmp_path: Path) -> None:
    with raises(ConfigError, where="case one: realization", got="1 in method 'Cubic'"):
        CohortEvaluation(write(simulate=False), tmp_path / "out", track=False)
