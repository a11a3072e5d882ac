# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""ConeBeamCT in slabs, whose measurements add up."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from monai_diffrecon import registry
from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.consistency.conjugate_gradient import measured_entries
from monai_diffrecon.engine.handlers.step_metrics import StepMetrics
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.problem.nonnegative import nonnegative
from monai_diffrecon.engine.problem.whitened_operator import WhitenedOperator
from monai_diffrecon.engine.slab_problem import problem_of, slab_plane
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import Problem, VolumeGeometry
from monai_diffrecon.slabs import cut
from monai_diffrecon.slabs.in_turn import TurnPeers, run_in_turn
from monai_diffrecon.testing.execution.slabs_in_threads import run_in_threads

SMALL = VolumeGeometry((6, 5, 8), (1.0, 1.2, 0.9))
NEAR = {"source_distance": 30.0, "detector_distance": 50.0}


def in_slabs(of: Problem, task: Callable[[Problem], torch.Tensor], count: int) -> torch.Tensor:
    slabs = cut(3, of.operator.geometry.shape[2], count)
    return torch.cat(run_in_threads(lambda slab: task(problem_of(of, slab)), slabs), dim=3)


class Smooth(torch.nn.Module):
    """A network that takes means of neighbouring pixels."""

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_volume_in_slabs(count: int, weighted: bool) -> None:
    """FDK, least squares, a reconstruction, and what is said of its residual."""
    operator = registry.create("operators", "cone_beam_ct", geometry=SMALL, views=7, **NEAR)
    generator = torch.Generator().manual_seed(0)
    y = operator(torch.rand(operator.volume_shape, generator=generator))
    y = y + 0.05 * torch.randn(y.shape, generator=generator)
    of = Problem(operator, y, 0.05)
    if weighted:
        whitened = WhitenedOperator(operator, torch.rand(y.shape, generator=generator) + 0.5)
        of = Problem(whitened, whitened.whiten(y), whitened.noise_std(0.05))
    assert slab_plane(of.operator, "coronal") == "axial"
    score = ScoreNetwork(
        "axial",
        "1",
        Smooth(),
        "axial",
        (1.0, 1.2),
        {"name": "direct", "sigma_min": 0.01, "sigma_max": 2.0},
        {"map": "percentile", "q": 99.5},
        "0" * 64,
    )
    said = []

    def reconstructed(of: Problem, **plugins: Any) -> torch.Tensor:
        metrics = StepMetrics()
        recipe = DiffReconInferer(score, "cone_beam_ct", prior="slices", **plugins).recipe
        x = recipe.engine(of, handlers=[metrics], progress=False).reconstruct(seed=1, case="a").x
        x, numbers = nonnegative(of, x - 0.2)
        said.append([*(step["residual"] for step in metrics.history), measured_entries(of), *numbers.values()])
        return x

    for plugins in (
        {"sampler": "initial"},
        {"sampler": {"name": "cg_least_squares", "iterations": 5}},
        {"sampler": {"name": "sirt", "iterations": 3}},
        {"sampler": {"name": "admm_tv", "iterations": 2}},
        {
            "sampler": {"name": "ddim", "steps": 3},
            "consistency": {"name": "conjugate_gradient", "gamma": "discrepancy"},
        },
    ):
        said.clear()
        whole = reconstructed(of, **plugins)
        parts = in_slabs(of, lambda part, plugins=plugins: reconstructed(part, **plugins), count)
        assert float((parts - whole).abs().max()) <= 1e-5 * float(whole.abs().max())
        for numbers in said[1:]:
            assert numbers == pytest.approx(said[0], rel=1e-5)


def test_slabs_that_solve_by_themselves_are_refused() -> None:
    operator = registry.create("operators", "cone_beam_ct", geometry=SMALL, views=5, **NEAR)
    of = Problem(operator, torch.zeros(operator.measurement_shape))
    with pytest.raises(ConfigError) as caught:
        run_in_turn(
            lambda slab: problem_of(of, slab).operator.norm(),
            cut(3, SMALL.shape[2], 2),
            keep=lambda index, norm: norm,
            peers=TurnPeers,
            answers=[[], []],
        )
    assert caught.value.where == "operator"
    with pytest.raises(ConfigError):
        operator.restricted("coronal", 0, 2)
