# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Guidance by a measurement that carries noise, as TPDM's code has it for thick slices."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from diffrecon_published.published_dps import PublishedDPSStep, StagedState
from monai_diffrecon.consistency.dps import DPSStep
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.protocols import Problem, SamplerState, VolumeGeometry
from monai_diffrecon.testing.consistency_laws import check_consistency
from monai_diffrecon.testing.dense_operator import DenseOperator

GEOMETRY = VolumeGeometry((3, 4, 5))
SHAPE, N = (1, 3, 4, 5), 60


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense(scale: float = 1.0) -> Problem:
    return Problem(DenseOperator(GEOMETRY, scale * draw(20, N, seed=0)), scale * draw(20, seed=1))


def state_of(x: Tensor, plane: str = "", stage: str = "predictor", sigma: float = 0.3, step: int = 2) -> StagedState:
    return StagedState(x=x, sigma=sigma, step=step, plane=plane, stage=stage)


def shift_of(
    step: DPSStep,
    p: Problem,
    x: Tensor,
    plane: str = "",
    *,
    denoise: Callable[[Tensor], Tensor] = torch.tanh,
    **state: Any,
) -> Tensor | None:
    step.bind(p, IndependentNoise(0, "case"))
    variable = x.clone().requires_grad_()
    return step.guidance(variable, denoise(variable), state_of(variable, plane, **state))


@pytest.mark.parametrize("options", [{}, {"norm": "batch", "batch_size": 2}])
def test_laws(options: dict[str, Any]) -> None:
    check_consistency(lambda: PublishedDPSStep(**options), dense(), draw(*SHAPE, seed=2), reduces_residual=False)


def test_without_noise_it_is_dps() -> None:
    x = draw(*SHAPE, seed=2)
    plain, published = (shift_of(cls(0.7, norm="slice"), dense(), x) for cls in (DPSStep, PublishedDPSStep))
    assert torch.equal(plain, published)


def test_streams_of_the_guided_plane_alone() -> None:
    step = PublishedDPSStep(plane="axial", noised_measurement=True)
    assert step.draws("corrector0", "axial") == ("corrector0-measurement",)
    assert step.draws("corrector0", "coronal") == ()
    assert PublishedDPSStep(noised_measurement=True).draws("predictor", "coronal") == ("predictor-measurement",)
    assert PublishedDPSStep().draws("predictor", "axial") == ()


def test_a_sampler_without_updates_has_one_noise_a_step() -> None:
    noise, x = IndependentNoise(0, "case"), draw(*SHAPE, seed=2, dtype=torch.float32)
    step = PublishedDPSStep(noised_measurement=True)
    step.bind(dense(), noise)
    n = step._noise(x, SamplerState(x=x, sigma=0.3, step=2))
    assert torch.equal(n, noise.volume((20,), 2, stream="-measurement", dtype=torch.float64))


def test_the_scale_of_the_operator_does_not_matter() -> None:
    x = draw(*SHAPE, seed=2)
    one, seven = (shift_of(PublishedDPSStep(noised_measurement=True), dense(s), x) for s in (1.0, 7.0))
    torch.testing.assert_close(one, seven)


@pytest.mark.parametrize("thickness", [2.0, 5.0])
def test_a_noised_measurement_has_the_variance_of_the_step(thickness: float) -> None:
    """The residual of an estimate that explains y is the noise alone: sigma ||A||, a fresh one for each update."""
    operator = SliceThickness(VolumeGeometry((24, 24, 19)), thickness=thickness)
    truth = draw(*operator.volume_shape, seed=0, dtype=torch.float32)
    p, sigma = Problem(operator, operator(truth)), 1.7
    step = PublishedDPSStep(relative=False, norm="volume", noised_measurement=True)
    size = sigma * operator.norm() ** 0.5

    def noise_of(**state: Any) -> Tensor:
        # The gradient by x0 is A^T n / |n|, negated; A is onto, so n follows up to its length.
        shift = shift_of(step, p, truth, "sagittal", denoise=lambda v: 1.0 * v, sigma=sigma, **state)
        return operator(shift) / operator.norm()

    step.bind(p, IndependentNoise(0, "case"))
    n = torch.stack([step._noise(truth, state_of(truth, stage=s, step=i)) for i in range(3) for s in ("a", "b")])
    assert n.shape[1:] == operator.measurement_shape
    assert float(n.mean()) == pytest.approx(0.0, abs=5 / n.numel() ** 0.5)
    assert float(n.var()) == pytest.approx(1.0, abs=5 * (2 / n.numel()) ** 0.5)
    assert float(torch.corrcoef(n.flatten(1)).fill_diagonal_(0).abs().max()) < 0.15
    kept = step._noise(truth, state_of(truth))
    direction = noise_of()
    torch.testing.assert_close(direction, -kept / kept.norm(), rtol=1e-3, atol=1e-4)
    # An estimate that explains the measurement with noise of that size, and 0.1 more: the 0.1 alone is left.
    explains = truth + operator.adjoint(size * kept) / operator.norm()
    left = operator(shift_of(step, p, explains + 0.1, "sagittal", denoise=lambda v: 1.0 * v, sigma=sigma))
    assert float(left.std()) < 1e-3 * float(left.mean())


def test_the_noise_of_a_slice_does_not_depend_on_how_many_there_are() -> None:
    """Thick slices read the volume's noise at their first voxel, whatever is left over behind the last of them."""
    found = []
    for slices in (11, 14, 19):
        operator = SliceThickness(VolumeGeometry((4, 3, slices)), thickness=5.0)
        step, x = PublishedDPSStep(noised_measurement=True), torch.zeros(operator.volume_shape)
        noise = IndependentNoise(0, "case")
        step.bind(Problem(operator, torch.zeros(operator.measurement_shape)), noise)
        n = step._noise(x, state_of(x))
        volume = noise.volume(operator.volume_shape, 2, stream="predictor-measurement")
        assert torch.equal(n, volume[..., : 5 * n.shape[-1] : 5])
        found.append(n[..., :2])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_needs_a_noise_source_to_noise_a_measurement() -> None:
    with pytest.raises(ConfigError) as caught:
        PublishedDPSStep(noised_measurement=True).bind(dense())
    assert caught.value.where == "consistency#noised_measurement"
    PublishedDPSStep().bind(dense())
