# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Every bundle as it is shipped, given nothing but a scan, is better than its classical start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from torch import Tensor

from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume

ROOT = Path(__file__).parents[1]
#: Bundle of a default for thick slices -> voxel size in mm.
BUNDLES = {
    "brain_mr": 1.0,
    "brain_mr_t1_axial": 1.0,
    "brain_mr_t1_coronal": 1.0,
    "body_mr": 1.0,
    "body_ct": 1.5,
    "body_ct_axial": 1.5,
    "body_ct_coronal": 1.5,
}
#: Tasks that need a file of a scanner or several scans, or that measure nothing.
OTHERS = {"raw_mri", "stacks", "generate"}
CASES = [
    (bundle, task.stem)
    for bundle in ("brain_mr", "brain_mr_t1_axial", "body_mr", "body_ct", "body_ct_axial", "materials_ct")
    for task in sorted((ROOT / "bundles" / bundle / "configs/tasks").glob("*.json"))
    if task.stem not in {"z_super_resolution", *OTHERS}
]


def part_of_the_example(bundle: str) -> Tensor:
    volume = read_volume(ROOT / "examples/colin27_t1.nii.gz")[0][:, 64:104, 34:74, 70:90].clone()
    # As if it were CT: air, and tissue around 0.
    return torch.where(volume > 8, 2.2 * volume - 220, -1000.0) if bundle.startswith("body_ct") else volume


def reconstructed(bundle: str, task: str | None, scan: Path, **overrides: Any) -> tuple[Tensor, ConfigParser]:
    root = ROOT / "bundles" / bundle
    config = ConfigParser()
    files = ["inference.json"] + ([] if task is None else [f"tasks/{task}.json"])
    config.read_config([str(root / "configs" / file) for file in files])
    given = {"bundle_root": str(root), "image": str(scan), "output_dir": str(scan.parent), "device": "cpu"}
    config.update(given | overrides)
    image = config.get_parsed_content("dataset")[0]["image"]
    return config.get_parsed_content("inferer").reconstruct(image).volume, config


def gain(bundle: str, task: str | None, scan: Path, truth: Tensor) -> float:
    volume, config = reconstructed(bundle, task, scan)
    start = config["sampler"].get("start", "initial")
    classical, _ = reconstructed(bundle, task, scan, sampler=start, consistency="none")
    errors = [float((v - truth).square().mean()) for v in (volume, classical)]
    return 10 * float(np.log10(errors[1] / errors[0]))


@pytest.mark.parametrize("bundle", ["brain_mr_t1", "body_ct"])
def test_planes_have_the_same_tasks(bundle: str) -> None:
    """So that the tasks of one plane tell for the other; the networks of both are used in either."""
    tasks = [ROOT / "bundles" / f"{bundle}_{plane}" / "configs/tasks" for plane in ("axial", "coronal")]
    axial, coronal = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in tasks)
    assert axial == coronal


@pytest.mark.slow
@pytest.mark.parametrize(("bundle", "task"), CASES)
def test_tasks_beat_their_classical_start(bundle: str, task: str, tmp_path: Path) -> None:
    truth, spacing = part_of_the_example(bundle), BUNDLES.get(bundle, 1.0)
    write_volume(tmp_path / "scan.nii", truth, geometry_of(truth.shape[1:], np.diag([*[spacing] * 3, 1.0])))
    assert gain(bundle, task, tmp_path / "scan.nii", truth) > 1.0


@pytest.mark.slow
@pytest.mark.parametrize("bundle", BUNDLES)
def test_thick_slices_beat_interpolation(bundle: str, tmp_path: Path) -> None:
    truth, spacing = part_of_the_example(bundle), BUNDLES[bundle]
    thick = truth.reshape(*truth.shape[:3], -1, 5).mean(-1)
    write_volume(
        tmp_path / "scan.nii", thick, geometry_of(thick.shape[1:], np.diag([spacing, spacing, 5 * spacing, 1]))
    )
    assert gain(bundle, None, tmp_path / "scan.nii", truth) > 0.5
