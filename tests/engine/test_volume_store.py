# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A volume that lies on the disk is the volume that is reconstructed in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.errors import ConfigError, DiffReconError
from monai_diffrecon.io.measurement.metatensor import to_tensor
from monai_diffrecon.operators import CartesianMRI, ParallelCT, SliceThickness
from monai_diffrecon.protocols import Measurement, Operator, VolumeGeometry

from ..raising import raises
from .test_slabs import AXIAL, CORONAL

GEOMETRY = VolumeGeometry((12, 10, 11), (1.0, 1.0, 1.0))
STORE = {"name": "zarr", "slab_gb": 1e-5}  # slabs of two slices
#: Each slab ends its conjugate gradients by itself, so they have to converge to be the same.
SOLVED = {"name": "conjugate_gradient", "iterations": 50, "tolerance": 1e-6, "gamma": 0.1}
#: Relative to the largest voxel.
TOLERANCE = 2e-4


PNP = {"name": "pnp_hqs", "steps": 2, "start": "initial"}


def specs(name: str) -> dict[str, Any]:
    return {
        "ct": {"name": "parallel_ct", "views": 6},
        "thick": {"name": "slice_thickness", "thickness": 2.0, "target_spacing": 1.0},
        "mri": {"name": "cartesian_mri", "acceleration": 2.0},
    }[name]


def measurement(name: str, noise_std: float = 0.01) -> Tensor:
    spec = specs(name)
    options = {k: v for k, v in spec.items() if k != "name"}
    operator: Operator = {"ct": ParallelCT, "thick": SliceThickness, "mri": CartesianMRI}[name](GEOMETRY, **options)
    generator = torch.Generator().manual_seed(3)
    y = operator(1.0 + 0.2 * torch.rand(operator.volume_shape, generator=generator))  # far from negative
    y = y + noise_std * torch.randn(y.shape, generator=generator, dtype=y.dtype)
    return to_tensor(Measurement(y, GEOMETRY, operator=spec, noise_std=noise_std))


def inferer(name: str, **options: Any) -> DiffReconInferer:
    plugins = {"prior": "perpendicular", "consistency": SOLVED, "sampler": PNP}
    options = {"sw_batch_size": 2, "progress": False, **plugins, **options}
    return DiffReconInferer(AXIAL, specs(name), auxiliaries=(CORONAL,), **options)


def both(name: str, **options: Any) -> tuple[Tensor, Tensor]:
    y = measurement(name)
    whole = inferer(name, **options).reconstruct(y, case="a")
    parts = inferer(name, volume_store=STORE, **options).reconstruct(y, case="a")
    assert parts.report.execution["slabs"] > 3
    assert parts.report.network_calls >= whole.report.network_calls
    assert parts.report.denoiser_calls == whole.report.denoiser_calls
    assert [row["residual"] for row in parts.report.steps] == pytest.approx(
        [row["residual"] for row in whole.report.steps], rel=1e-2
    )
    return parts.volume, whole.volume


def difference(parts: Tensor, whole: Tensor) -> float:
    return float((parts - whole).abs().max() / whole.abs().max())


@pytest.mark.parametrize("name", ["ct", "thick", "mri"])
@pytest.mark.parametrize(
    "plugins",
    [
        {},
        {"sampler": {"name": "pnp_hqs", "steps": 3, "momentum": 0.5}},
        {"sampler": {"name": "heun", "steps": 2, "S_churn": 1.0}, "prior": {"name": "perpendicular", "K": "average"}},
        {"sampler": {"name": "predictor_corrector", "steps": 2}},
        {"sampler": {"name": "ddim", "steps": 2}},
    ],
    ids=["pnp_hqs", "momentum", "heun", "predictor_corrector", "ddim"],
)
def test_same_volume(name: str, plugins: dict[str, Any]) -> None:
    assert difference(*both(name, **plugins)) <= TOLERANCE


@pytest.mark.parametrize("name", ["ct", "thick"])
def test_same_bits_where_nothing_is_solved(name: str) -> None:
    """Noise and batches of the networks do not depend on the slabs."""
    sampler = {"name": "heun", "start": "noise", "sigma_start": 0.3, "steps": 3}
    assert torch.equal(*both(name, sampler=sampler, consistency="none"))
