# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``scripts/export_bundle.py`` puts the weights of a training, and its range of voxel sizes, into a bundle."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from monai_diffrecon.bundle.score_network import load_score_network

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("ranged", [True, False])
def test_weights_and_voxel_sizes_are_put_into_a_bundle(
    make_bundle: Callable[..., Path], tmp_path: Path, ranged: bool
) -> None:
    bundle, training = make_bundle(tmp_path / "bundle", seed=1), tmp_path / "training"
    trained = ROOT / "bundles" / ("brain_mr" if ranged else "brain_mr_t1_axial")
    shutil.copyfile(trained / "configs/train.json", bundle / "configs/train.json")
    weights = torch.load(make_bundle(tmp_path / "other", seed=2) / "models/model.pt", weights_only=True)
    training.mkdir()
    torch.save({k: v.float() for k, v in weights.items()}, training / "model.pt")
    row = {"iteration": 10, "val_psnr_sigma_0.1": 28.123}
    (training / "history.jsonl").write_text(json.dumps(row) + "\n")
    (training / "samples.png").write_bytes(b"")
    runpy.run_path(str(ROOT / "scripts/export_bundle.py"))["put_weights"](bundle, training, 5)
    score = load_score_network(bundle)
    assert tuple(score.spacing) == ((0.4, 2.0, 2.5) if ranged else (1.0, 1.0))
    assert all(torch.equal(p, weights[k].float()) for k, p in score.network.named_parameters())
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    assert metadata["eval_metrics"] == {"val_psnr_sigma_0.1": 28.12}
    assert metadata["diffrecon"]["training"]["iterations"] == 15
