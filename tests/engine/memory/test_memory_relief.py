# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a run does when memory runs out outside of the network: one measure after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from monai_diffrecon.consistency.conjugate_gradient import ConjugateGradientStep
from monai_diffrecon.consistency.none import NoConsistency
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.errors import ResourceError
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.priors.slices import SlicesPrior
from monai_diffrecon.protocols import ConsistencyStep, Problem, SamplerState, VolumeGeometry
from monai_diffrecon.samplers.pnp_hqs import PnPHQSSampler
from monai_diffrecon.testing.gaussian_prior import GaussianPrior

from ...raising import raises

GEOMETRY = VolumeGeometry((12, 11, 12))


def engine(consistency: ConsistencyStep) -> ReconstructionEngine:
    operator = SliceThickness(GEOMETRY, thickness=3.0)
    truth = 0.5 + 0.25 * torch.randn(operator.volume_shape, generator=torch.Generator().manual_seed(0))
    prior = SlicesPrior()
    prior.bind([GaussianPrior()])
    sampler = PnPHQSSampler(4, sigma_start=0.3, momentum=0.5)
    return ReconstructionEngine(Problem(operator, operator(truth)), prior, consistency, sampler, IndependentNoise(0))


class OutOfMemoryAt(ConjugateGradientStep):
    """Runs out of memory when it is called for the n-th time."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.left = call

    def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().on_estimate(x0, state)


def test_a_step_is_done_again_after_the_move(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = engine(ConjugateGradientStep()).reconstruct(seed=0, case="")
    moves: list[int] = []

    def move(self: ReconstructionEngine) -> bool:
        assert self.recon is not None
        moves.append(self.recon.step)
        return True

    monkeypatch.setattr(ReconstructionEngine, "move_to_cpu", move)
    run = engine(OutOfMemoryAt(3))
    done = run.reconstruct(seed=0, case="")
    assert moves == [2]
    assert torch.equal(done.x, whole.x)
    assert run.relief.notes == ["out of memory: the volume was moved to the CPU for the rest of the sample"]


def test_with_nothing_left_to_do_it_says_so() -> None:
    with raises(ResourceError, where="inferer") as caught:
        engine(OutOfMemoryAt(2)).reconstruct(seed=0, case="")
    assert "2.00 GiB" in caught.value.what
    assert caught.value.exit_code == 6
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_problem_and_state_are_moved_together() -> None:
    """Tensors without numbers stand in for a GPU, which this test does not need."""
    run = engine(NoConsistency())
    state = run.reconstruct(seed=0, case="")
    with FakeTensorMode(allow_non_fake_inputs=True):

        def on_gpu(t: Tensor) -> Tensor:
            return torch.empty(t.shape, dtype=t.dtype, device="cuda")

        memory: dict[str, Any] = {
            key: {n: on_gpu(t) if n == "before" else t for n, t in kept.items()} for key, kept in state.memory.items()
        }
        run.problem = Problem(run.problem.operator, on_gpu(run.problem.measurement))
        run.recon = SamplerState(on_gpu(state.x), state.sigma, step=2, memory=memory)
        assert run.move_to_cpu()
        assert run.recon.x.device.type == "cpu"
        assert {t.device.type for kept in run.recon.memory.values() for t in kept.values()} == {"cpu"}
        assert run.problem.measurement.device.type == "cpu"
        assert run.sampler.problem is run.problem
        assert run.recon.step == 2
        assert not run.move_to_cpu()
