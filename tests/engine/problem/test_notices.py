# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a reader noticed about a scan reaches the log, the record and MLflow."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset

from monai_diffrecon.engine.cases.evaluator import ReconstructionEvaluator
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.transforms.load_measurement import LoadMeasurementd
from monai_diffrecon.io.measurement.file import read_measurement, write_measurement
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.protocols import Measurement
from monai_diffrecon.tracking.mlflow_client import mlflow_module

from ..tiny_networks import SCORE

NOTICES = ("the voxel size is assumed to be 1 mm", "the orientation is not known")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    data = torch.rand((1, 8, 8, 2), generator=torch.Generator().manual_seed(0)) + 1
    write_measurement(
        tmp_path / "scan.h5", Measurement(data, geometry_of((8, 8, 2), np.diag([1.0, 1.0, 3.0, 1.0])), notices=NOTICES)
    )
    return tmp_path / "scan.h5"


def test_notices_are_kept_in_a_measurement_file(scan: Path, tmp_path: Path) -> None:
    measurement = read_measurement(scan)
    assert measurement.notices == NOTICES
    write_measurement(tmp_path / "none.h5", replace(measurement, notices=()))
    assert read_measurement(tmp_path / "none.h5").notices == ()


@pytest.mark.slow
def test_notices_are_logged_before_the_run_and_kept_in_the_record_and_mlflow(
    scan: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases = Dataset([{"image": str(scan), "case": "one"}], LoadMeasurementd(["image"]))
    operator = {"name": "slice_thickness"}
    sampler = {"name": "pnp_hqs", "steps": 1, "sigma_start": 0.2}
    evaluator = ReconstructionEvaluator(
        "cpu",
        DataLoader(cases, batch_size=1, num_workers=0),
        SCORE.network,
        DiffReconInferer(SCORE, operator, sampler=sampler, progress=False),
        str(tmp_path / "out"),
    )
    with caplog.at_level(logging.WARNING):
        evaluator.run()
    lines = [r.getMessage() for r in caplog.records]
    assert [line for line in lines if any(n in line for n in NOTICES)] == [f"case one: {n}" for n in NOTICES]
    record = json.loads((tmp_path / "out" / "one_recon.provenance.json").read_text())
    assert record["report"]["notices"][: len(NOTICES)] == list(NOTICES)
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/out/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'monai_diffrecon'")
    tags = [run.data.tags.get("notices") for run in client.search_runs([experiment.experiment_id])]
    assert "; ".join(record["report"]["notices"]) in tags
