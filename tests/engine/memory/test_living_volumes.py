# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How many volumes are alive at the peak of a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from monai_diffrecon.engine.handlers.step_metrics import StepMetrics
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.protocols import Operator, Problem, VolumeGeometry

from ..tiny_networks import CORONAL, SCORE
from .living_volumes import LivingVolumes, volume_bytes

CONFIGS = Path(__file__).parents[3] / "bundles" / "brain_mr_t1_axial" / "configs"


def thick_slices() -> Operator:
    return SliceThickness(VolumeGeometry((32, 32, 60)), thickness=5.0)


def eight_coils() -> Operator:
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(8, 32, 32, 12, dtype=torch.complex64, generator=generator)
    maps = maps / maps.abs().square().sum(0, keepdim=True).sqrt()
    return CartesianMRI(VolumeGeometry((32, 32, 12)), coil_maps=maps, complex_volume=True, acceleration=4.0)


def peaks_of_steps(operator: Operator, task: dict[str, Any], noise_std: float) -> list[float]:
    """Return the most volumes that were alive in each step of a bundle's task, with tiny networks."""
    options = {**json.loads((CONFIGS / "inference.json").read_text()), **task}
    sampler = {**options["sampler"], "steps": 6}  # one of each plane
    planes = options["perpendicular"]
    inferer = DiffReconInferer(SCORE, "unconditional", planes, options["consistency"], sampler, (CORONAL,))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(operator.volume_shape, generator=generator).to(operator.volume_dtype)
    with torch.no_grad():
        problem = Problem(operator, operator(x), noise_std)
    engine = inferer.recipe.engine(problem, handlers=[StepMetrics()], progress=False)
    living, peaks = LivingVolumes(volume_bytes(operator.volume_shape, operator.volume_dtype)), []

    @engine.on(Events.ITERATION_STARTED)
    def _start() -> None:
        living.peak = 0.0

    @engine.on(Events.ITERATION_COMPLETED)
    def _end() -> None:
        peaks.append(living.peak)

    with living:
        engine.reconstruct(seed=0, case="")
    return peaks


@pytest.mark.parametrize(("noise_std", "most"), [(0.0, 8), (0.05, 9)])
def test_thick_slices_by_the_default(noise_std: float, most: int) -> None:
    """The iterate and the one before, the estimate, three of conjugate gradients, two of a product."""
    peaks = peaks_of_steps(thick_slices(), {}, noise_std)
    assert len(peaks) == 6
    assert 6 <= max(peaks) <= most


@pytest.mark.slow
@pytest.mark.parametrize("noise_std", [0.0, 0.05])
def test_eight_coils(noise_std: float) -> None:
    """With momentum, too; all coils at once would be 32 volumes more."""
    task = json.loads((CONFIGS / "tasks" / "raw_mri.json").read_text())
    task["sampler"]["momentum"] = 0.8
    peaks = peaks_of_steps(eight_coils(), task, noise_std)
    assert len(peaks) == 6
    assert 8 <= max(peaks) <= 12


def test_the_counter() -> None:
    """A view is no volume, a sum is two for a moment, and what was there before does not count."""
    x = torch.zeros(4, 8)
    with LivingVolumes(x.nbytes) as living:
        y = x.T.reshape(4, 8) + 1.0  # the copy of a transposed view, and the sum
        assert living.peak == 2.0
        living.peak = 0.0
        y[:2].add_(1.0)
        assert living.peak == 1.0
        torch.complex(y, y)
        assert living.peak == 3.0
        del y
        living.peak = 0.0
        x.view(-1)[:2].clone()
        assert living.peak == 0.0
