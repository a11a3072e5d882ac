# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Several samples through the inferer and the evaluator: files, record, pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor

from monai_diffrecon.bundle.score_network import ScoreNetwork, load_score_network
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.engine.cases.evaluator import ReconstructionEvaluator
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.transforms.simulate_measurement import SimulateMeasurementd
from monai_diffrecon.errors import ConfigError, IntegrityError
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.tracking.provenance import verify_record

from ...raising import raises

THICK = {"name": "slice_thickness", "thickness": 3.0}
MRI = {"name": "cartesian_mri", "mask_type": "gaussian1d", "acceleration": 2, "complex_volume": True}
DDIM = {"name": "ddim", "steps": 3, "eta": 1.0, "sigma_start": 0.5}
SHAPE = (14, 13, 12)


def truth() -> torch.Tensor:
    noise = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(0))
    return 500 * torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1)


def measured(operator: dict[str, Any]) -> MetaTensor:
    volume = truth()
    if operator.get("complex_volume"):
        volume = volume * torch.exp(1j * torch.linspace(0, 1, SHAPE[0]))[:, None, None]
    return SimulateMeasurementd(["image"], operator)({"image": MetaTensor(volume)})["image"]


@pytest.fixture(scope="module")
def score(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> ScoreNetwork:
    return load_score_network(make_bundle(tmp_path_factory.mktemp("samples") / "axial"))


def inferer(score: ScoreNetwork, **options: Any) -> DiffReconInferer:
    return DiffReconInferer(score, **{"operator": THICK, "sampler": DDIM, "progress": False, **options})


def evaluate(maker: DiffReconInferer, output: Path, operator: dict[str, Any], **rest: Any) -> dict[str, Any]:
    loader = DataLoader(Dataset([{"image": measured(operator), "case": "c", **rest}]), batch_size=1, num_workers=0)
    evaluator = ReconstructionEvaluator("cpu", loader, maker.score.network, maker, str(output), track=False)
    evaluator.run()
    return evaluator.state.output


def test_mean_and_spread_are_those_of_the_samples(score: ScoreNetwork) -> None:
    image = measured(THICK)
    done = inferer(score, num_samples=3, keep_samples=True).reconstruct(image, case="c")
    single = inferer(score).reconstruct(image, case="c")
    assert done.spread is not None
    assert single.spread is None
    samples = torch.stack(done.spread.samples)
    assert torch.equal(samples[0], single.volume)
    assert not any(torch.allclose(samples[i], samples[j], atol=0.1) for i, j in ((0, 1), (0, 2), (1, 2)))
    torch.testing.assert_close(done.volume, samples.mean(0), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(done.spread.std, samples.std(0), rtol=1e-3, atol=1e-2)
    assert done.report.options["num_samples"] == 3
    assert "num_samples" not in single.report.options
    assert done.report.denoiser_calls == 3 * single.report.denoiser_calls == 9
    assert done.report.network_calls == 3 * single.report.network_calls
    assert len(done.report.steps) == len(done.report.ladder) == 3
    # Samples do not know how many of them there are.
    two = inferer(score, num_samples=2, keep_samples=True).reconstruct(image, case="c").spread
    assert two is not None
    assert torch.equal(two.samples[1], samples[1])
    assert not inferer(score, num_samples=2).reconstruct(image, case="c").spread.samples  # type: ignore[union-attr]


def test_the_spread_is_in_the_unit_of_the_volume(score: ScoreNetwork) -> None:
    image = measured(THICK)
    spreads = [
        inferer(score, num_samples=2).reconstruct(x, case="c").spread.std  # type: ignore[union-attr]
        for x in (image, image * 10.0)
    ]
    torch.testing.assert_close(spreads[1], 10 * spreads[0], rtol=1e-2, atol=1.0)


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({"sampler": "pnp_hqs"}, "inferer#num_samples", "2"),
        ({"sampler": "cubic"}, "inferer#num_samples", "2"),
        ({"noise": "sequential"}, "inferer#num_samples", "2"),
        ({"num_samples": 0}, "inferer#num_samples", "0"),
        ({"keep_samples": "no"}, "inferer#keep_samples", "'no'"),
    ],
)
def test_what_gives_one_volume_only_is_refused_at_once(
    score: ScoreNetwork, options: dict[str, Any], where: str, got: str | None
) -> None:
    with raises(ConfigError, where=where, got=got):
        inferer(score, **{"num_samples": 2, **options})


def test_files_and_record(score: ScoreNetwork, tmp_path: Path) -> None:
    output = evaluate(inferer(score, num_samples=3, keep_samples=True), tmp_path, THICK, reference=truth())
    names = ["std", "std_measured", "std_null", "sample000", "sample001", "sample002"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".diffrecon") == sorted(
        ["c_recon.nii.gz", "c_recon.provenance.json", "c_montage.png", "c_view.html"]
        + [f"c_{name}.nii.gz" for name in names]
    )
    spread, mean = output["spread"], output["pred"].as_tensor()
    assert torch.equal(read_volume(tmp_path / "c_recon.nii.gz")[0], mean)
    for name, volume in (("std", spread.std), ("std_measured", spread.std_measured), ("std_null", spread.std_null)):
        assert torch.equal(read_volume(tmp_path / f"c_{name}.nii.gz")[0], volume)
    assert torch.equal(read_volume(tmp_path / "c_sample002.nii.gz")[0], spread.samples[2])
    # Thick slices leave the differences inside a slice open: most of the spread is there.
    assert float(spread.std_null.mean()) > 5 * float(spread.std_measured.mean())
    assert output["metrics"] == pytest.approx(volume_metrics(mean, truth()), rel=1e-4)
    record = json.loads((tmp_path / "c_recon.provenance.json").read_text())
    assert record["config"]["num_samples"] == 3
    assert sorted(record["output"]["spread"]) == sorted(names)
    verify_record(tmp_path / "c_recon.provenance.json")
    std = tmp_path / "c_std_null.nii.gz"
    std.write_bytes((tmp_path / "c_std.nii.gz").read_bytes())
    with raises(IntegrityError, where="c_std_null.nii.gz", got=...):
        verify_record(tmp_path / "c_recon.provenance.json")
    std.unlink()
    with raises(IntegrityError, where="c_std_null.nii.gz", got=None):
        verify_record(tmp_path / "c_recon.provenance.json")


def test_complex_volumes_without_a_reference(score: ScoreNetwork, tmp_path: Path) -> None:
    output = evaluate(inferer(score, operator=MRI, num_samples=2, keep_samples=True), tmp_path, MRI)
    volumes = ["recon", "phase", "std", "std_measured", "std_null"]
    volumes += ["sample000", "sample000_phase", "sample001", "sample001_phase"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".diffrecon") == sorted(
        ["c_recon.provenance.json", "c_montage.png", "c_std.png", "c_view.html"]
        + [f"c_{name}.nii.gz" for name in volumes]
    )
    samples = torch.stack(output["spread"].samples)
    expected = (samples - samples.mean(0)).abs().square().sum(0).sqrt()
    torch.testing.assert_close(output["spread"].std, expected, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(read_volume(tmp_path / "c_recon.nii.gz")[0], samples.mean(0).abs(), rtol=1e-4, atol=0.1)
    verify_record(tmp_path / "c_recon.provenance.json")
