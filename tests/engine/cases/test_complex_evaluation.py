# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A complex volume through the evaluator: magnitude, phase, record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from torch import Tensor

from monai_diffrecon.bundle.score_network import load_score_network
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.engine.cases.evaluator import ReconstructionEvaluator
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.transforms.simulate_measurement import SimulateMeasurementd
from monai_diffrecon.errors import IntegrityError
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.tracking.provenance import verify_record

from ...raising import raises

SHAPE = (14, 13, 12)
MAPS = torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(5), dtype=torch.complex64)
OPERATOR = {"name": "cartesian_mri", "acceleration": 2.0, "complex_volume": True, "coil_maps": MAPS}


def complex_volume() -> Tensor:
    X, Y, Z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    return torch.polar(400.0 * (X**2 + Y**2 + Z**2 < 0.8), 2.0 * X - Y)[None]


class Run:
    """One case, reconstructed."""

    def __init__(self, root: Path, make_bundle: Callable[..., Path]) -> None:
        score = load_score_network(make_bundle(root / "axial"))
        inferer = DiffReconInferer(
            score, OPERATOR, sampler={"name": "pnp_hqs", "steps": 2, "sigma_start": 0.1}, progress=False
        )
        simulate = SimulateMeasurementd(["image"], OPERATOR, noise=0.01)
        cases = [{"image": MetaTensor(complex_volume()), "case": "one"}]
        self.evaluator = ReconstructionEvaluator(
            "cpu",
            DataLoader(Dataset(cases, simulate), batch_size=1, num_workers=0),
            score.network,
            inferer,
            str(root / "out"),
            track=False,
            preview_every=2,
        )
        self.evaluator.run()
        self.folder, self.state = root / "out", self.evaluator.state.output

    @property
    def record(self) -> Path:
        return self.folder / "one_recon.provenance.json"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Run:
    return Run(tmp_path_factory.mktemp("complex"), make_bundle)


def test_magnitude_and_phase_are_the_volume(run: Run) -> None:
    pred = run.state["pred"].as_tensor()
    assert pred.dtype == torch.complex64
    magnitude, geometry = read_volume(run.folder / "one_recon.nii.gz")
    phase, beside = read_volume(run.folder / "one_phase.nii.gz")
    torch.testing.assert_close(torch.polar(magnitude, phase), pred, atol=1e-3, rtol=1e-5)
    assert geometry == beside
    assert float(phase.abs().max()) > 1.0


def test_metrics_and_pictures_are_of_magnitudes(run: Run) -> None:
    expected = volume_metrics(run.state["pred"].as_tensor().abs(), complex_volume().abs())
    assert run.state["metrics"] == pytest.approx(expected, rel=1e-5)
    assert (run.folder / "one_montage.png").stat().st_size > 1000
    assert list((run.folder / "one" / "preview").iterdir())


def test_the_record_covers_the_phase(run: Run) -> None:
    verify_record(run.record)
    record: dict[str, Any] = json.loads(run.record.read_text())
    assert record["output"]["phase"]["file"] == "one_phase.nii.gz"
    assert record["config"]["complex"] == "phase"
    assert record["config"]["operator"]["coil_maps"].startswith("sha256:")
    phase = run.folder / "one_phase.nii.gz"
    kept = phase.read_bytes()
    try:
        phase.write_bytes(kept + b"x")
        with raises(IntegrityError, where="one_phase.nii.gz", got=...):
            verify_record(run.record)
        phase.unlink()
        with raises(IntegrityError, where="one_phase.nii.gz", got=None):
            verify_record(run.record)
    finally:
        phase.write_bytes(kept)


def test_a_bundle_says_its_channels(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    root = make_bundle(tmp_path / "bundle")
    assert load_score_network(root).channels == 1
    path = root / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["network_data_format"]["inputs"]["image"]["num_channels"] = 2
    path.write_text(json.dumps(metadata))
    assert load_score_network(root).channels == 2
