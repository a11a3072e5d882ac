# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Flips and a tuned option from the command line: record, tracking, repetition, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_diffrecon.engine.cases.rerun import rerun
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import verify_record

TUNE = {"option": "sampler#sigma_start", "values": [0.05, 0.3], "slices": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("options")
    make_bundle(root / "axial")
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (16, 14, 4)), indexing="ij")
    blob = (400 * (sum(a**2 for a in axes) < 0.9) * (1 + 0.3 * np.cos(4 * axes[0]))).astype(np.float32)
    nib.save(nib.Nifti1Image(blob, np.diag([1.0, 1, 3, 1])), root / "thick.nii.gz")
    return root


def words(root: Path, output: Path, tune: dict[str, Any]) -> list[str]:
    given = ["--config_file", root / "axial/configs/inference.json", "--bundle_root", root / "axial"]
    given += ["--image", root / "thick.nii.gz", "--output_dir", output, "--case_name", "a", "--sampler#steps", "2"]
    return [*map(str, given), "--auxiliary_bundle", "None", "--flips", "true", "--tune", json.dumps(tune)]


def test_from_the_command_line(
    root: Path, tmp_path: Path, python_m: Callable[..., Any], empty_store: Callable[[Path], Path]
) -> None:
    folder = empty_store(tmp_path / "out")
    done = python_m("monai.bundle", "run", *words(root, folder, TUNE))
    assert done.returncode == 0, done.stderr[-3000:]
    path = folder / "a_recon.provenance.json"
    record = verify_record(path)
    tune = record["config"]["tune"]
    assert {name: tune[name] for name in ("option", "values", "slices", "held_out")} == {**TUNE, "held_out": 0.1}
    assert tune["chosen"] == TUNE["values"][np.argmin(tune["residuals"])] == record["config"]["sampler"]["sigma_start"]
    assert record["inferer"]["flips"] is True
    assert "tune" not in record["inferer"]
    client = mlflow_module().MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (params,) = [run.data.params for run in runs if "tune.chosen" in run.data.params]
    assert float(params["tune.chosen"]) == tune["chosen"]
    assert json.loads(params["tune.residuals"]) == pytest.approx(tune["residuals"])
    assert rerun(path, root / "thick.nii.gz", root / "axial").same


def test_refused_in_one_line(root: Path, tmp_path: Path, python_m: Callable[..., Any]) -> None:
    done = python_m("monai.bundle", "run", *words(root, tmp_path, {**TUNE, "option": "sampler#sigma_begin"}))
    assert done.returncode == ConfigError.exit_code
    assert done.stderr.strip().splitlines()[-1].startswith("error: sampler#sigma_begin: ")
