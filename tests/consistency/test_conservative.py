# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The result is corrected until the measurement contradicts it nowhere, and more so in a region."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from monai_diffrecon.consistency._region import on_grid
from monai_diffrecon.consistency.conjugate_gradient import ConjugateGradientStep
from monai_diffrecon.consistency.conservative import ConservativeStep
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.region import load_region
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.operators.parallel_ct import ParallelCT
from monai_diffrecon.protocols import Operator, Problem, SamplerState, VolumeGeometry
from monai_diffrecon.testing.dense_operator import DenseOperator

from ..raising import raises

SHAPE = (20, 20, 6)
AFFINE = ((1.5, 0.0, 0.0, -14.0), (0.0, 1.5, 0.0, -14.0), (0.0, 0.0, 1.5, -4.0), (0.0, 0.0, 0.0, 1.0))
GEOMETRY = VolumeGeometry(SHAPE, (1.5, 1.5, 1.5), AFFINE)
LESION = (slice(None), slice(12, 15), slice(6, 9), slice(2, 4))


def even() -> Tensor:
    """Return an even cylinder, which a prior knows."""
    x = np.hypot(*np.meshgrid(*(np.arange(20) - 9.5,) * 2, indexing="ij")) < 8.5
    return torch.from_numpy(np.repeat(x[None, :, :, None], 6, axis=3).astype(np.float32) * 0.5)


def measured(operator: Operator, noise_std: float, contrast: float = 0.1) -> Problem:
    truth = even()
    truth[LESION] += contrast
    y = operator(truth)
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(y.shape, generator=generator, dtype=y.dtype) * (2**0.5 if y.is_complex() else 1.0)
    return Problem(operator, y + noise_std * noise * (y != 0), noise_std)


def result(step: ConservativeStep, p: Problem, x0: Tensor) -> Tensor:
    step.bind(p, IndependentNoise(0, "a"))
    return step.on_result(x0, SamplerState(x=x0, sigma=0.0))


def blurred(x: Tensor, fwhm: float) -> Tensor:
    """Return Gaussian means, naively, of the voxels that are there."""
    for axis in range(3):
        at = torch.arange(x.shape[axis + 1], dtype=torch.float64) * 1.5
        kernel = torch.exp(-0.5 * ((at[:, None] - at) / (fwhm / 2.3548)) ** 2)
        kernel = (kernel / kernel.sum(1, keepdim=True)).to(x)
        x = torch.movedim(torch.movedim(x, axis + 1, -1) @ kernel.T, -1, axis + 1)
    return x


def contradiction(p: Problem, x: Tensor, fwhm: float = 3.0, draws: int = 30) -> Tensor:
    """Return |z| with the noise of many simulated measurements, voxel by voxel."""
    operator, generator = p.operator, torch.Generator().manual_seed(9)
    squares = 0.0
    for _ in range(draws):
        n = torch.randn(operator.measurement_shape, generator=generator, dtype=p.measurement.dtype)
        n = n * 2**0.5 if n.is_complex() else n
        squares = squares + blurred(operator.adjoint(n), fwhm).abs().square()
    z = blurred(operator.adjoint(p.measurement - operator(x)), fwhm)
    return (z / (p.noise_std * (squares / draws).sqrt())).abs()


@pytest.mark.parametrize(
    "operator", [ParallelCT(GEOMETRY, views=10), CartesianMRI(GEOMETRY, acceleration=2.0)], ids=["ct", "mri"]
)
def test_the_bound_holds_and_a_lesion_in_the_data_is_kept(operator: Operator) -> None:
    p, step = measured(operator, noise_std=0.02), ConservativeStep(bound=1.5)
    before, x = contradiction(p, even()), result(step, p, even())
    assert float(before.max()) > 4.0
    own = step._backprojected_residual(x).abs() / (0.02 * step._noise_of_backprojection())
    assert float(own.max()) <= 1.5
    # Its noise is that of four draws, averaged over more than this volume: too large where the axis of rotation is.
    assert float(contradiction(p, x).max()) <= 1.5 * 1.8
    assert float((x - even())[LESION].mean()) > 0.06
    away = torch.ones_like(x, dtype=torch.bool)
    away[:, 10:17, 4:11] = False
    assert float((x - even())[away].abs().mean()) < 0.1 * float((x - even())[LESION].mean())


def test_what_the_measurement_does_not_contradict_is_left_nearly_alone() -> None:
    p = measured(ParallelCT(GEOMETRY, views=10), noise_std=0.3, contrast=0.0)
    x = result(ConservativeStep(bound=5.0, error=1e-3), p, even())
    assert float((x - even()).abs().max()) < 1e-3
    assert not torch.equal(x, even())


def test_without_contradiction_it_is_the_maximum_a_posteriori() -> None:
    A = torch.randn((15, 24), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = Problem(DenseOperator(VolumeGeometry((4, 3, 2)), A), torch.ones(15, dtype=torch.float64), 0.5)
    x0 = torch.linspace(0, 1, 24, dtype=torch.float64).reshape(1, 4, 3, 2)
    x = result(ConservativeStep(bound=1e6, error=0.1, final_iterations=100, tolerance=1e-12), p, x0)
    gamma = (0.5 / 0.1) ** 2
    H = A.mT @ A + gamma * torch.eye(24, dtype=torch.float64)
    expected = torch.linalg.solve(H, A.mT @ p.measurement + gamma * x0.reshape(-1))
    torch.testing.assert_close(x.reshape(-1), expected, atol=1e-8, rtol=1e-8)


def test_noiseless_data_are_fitted() -> None:
    A = torch.randn((6, 24), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = Problem(DenseOperator(VolumeGeometry((4, 3, 2)), A), torch.ones(6, dtype=torch.float64))
    x0 = torch.zeros((1, 4, 3, 2), dtype=torch.float64)
    x = result(ConservativeStep(final_iterations=50, tolerance=1e-12), p, x0)
    torch.testing.assert_close(x.reshape(-1), torch.linalg.pinv(A) @ p.measurement, atol=1e-8, rtol=1e-8)


def test_a_bound_that_is_missed_is_said(caplog: pytest.LogCaptureFixture) -> None:
    p = measured(ParallelCT(GEOMETRY, views=10), noise_std=0.02)
    result(ConservativeStep(bound=1e-3), p, even())
    assert [(r.levelname, r.name) for r in caplog.records] == [("WARNING", "monai_diffrecon.consistency.conservative")]
    caplog.clear()
    result(ConservativeStep(bound=1.5), p, even())
    assert not caplog.records


def region(**more: Any) -> dict[str, Any]:
    mask = torch.zeros(SHAPE)
    mask[12:15, 6:9, 2:4] = 3.0
    return {"voxels": mask, "affine": AFFINE, **more}


def test_in_a_region_gamma_is_divided() -> None:
    """Against a dense solve with a diagonal weight."""
    A = torch.randn((15, 24), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    geometry = VolumeGeometry((4, 3, 2), affine=tuple(map(tuple, np.eye(4).tolist())))
    p = Problem(DenseOperator(geometry, A), torch.ones(15, dtype=torch.float64), 0.5)
    x0 = torch.linspace(0, 1, 24, dtype=torch.float64).reshape(1, 4, 3, 2)
    mask = np.zeros((4, 3, 2))
    mask[1:3, 1:] = 1
    given = {"voxels": mask, "affine": np.eye(4)}
    step = ConjugateGradientStep(200, tolerance=1e-13, region=given, region_weight=7.0)
    step.bind(p)
    x = step.on_estimate(x0, SamplerState(x=x0, sigma=0.4))
    gamma = (0.5 / 0.4) ** 2 / (1.0 + 6.0 * torch.from_numpy(mask).reshape(-1))
    expected = torch.linalg.solve(A.mT @ A + torch.diag(gamma), A.mT @ p.measurement + gamma * x0.reshape(-1))
    torch.testing.assert_close(x.reshape(-1), expected, atol=1e-7, rtol=1e-7)


def test_a_region_keeps_more_of_a_lesion() -> None:
    p = measured(ParallelCT(GEOMETRY, views=10), noise_std=0.1)
    kept = [
        float((result(ConservativeStep(bound=1e6, **options), p, even()) - even())[LESION].mean())
        for options in ({}, {"region": region(), "region_weight": 100.0})
    ]
    assert kept[1] > 1.3 * kept[0]


def test_a_region_is_found_by_its_place() -> None:
    mask = torch.zeros((8, 10, 6), dtype=torch.bool)
    mask[5, 2, 3] = True
    flipped = np.diag([-3.0, 3.0, 3.0, 1.0])  # voxels twice as large, x runs the other way
    flipped[:3, 3] = 10.6, -13.0, -8.0
    inside = on_grid(mask, flipped, GEOMETRY)
    centre = torch.stack(torch.where(inside[0])).double().mean(1) * 1.5 + torch.tensor([-14.0, -14.0, -4.0])
    place = flipped[:3, :3] @ [5, 2, 3] + flipped[:3, 3]
    assert np.abs(centre.numpy() - place).max() <= 0.75
    assert int(inside.sum()) == 8
    first, second = (on_grid(mask, flipped, GEOMETRY.part(1, *ends)) for ends in ((0, 8), (4, 20)))
    assert torch.equal(first, inside[:, :, :8])
    assert torch.equal(second, inside[:, :, 4:])


def test_a_region_from_a_file(tmp_path: Path) -> None:
    voxels = np.zeros((4, 5, 6), dtype=np.uint8)
    voxels[1, 2, 3] = 1
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "mask.nii.gz")
    found = load_region(tmp_path / "mask.nii.gz")
    assert found is not None
    assert np.array_equal(np.asarray(found["voxels"]) != 0, voxels != 0)
    assert np.array_equal(found["affine"], np.diag([2.0, 2.0, 2.0, 1.0]))
    assert load_region(None) is None
    with raises(InputError, where="keep"):
        load_region(tmp_path / "nothing.nii.gz")


@pytest.mark.parametrize("wrong", ["mask.nii.gz", {"voxels": np.zeros((2, 2))}, {"voxels": np.zeros((2, 2, 2))}])
def test_no_region_is_refused(wrong: Any) -> None:
    with raises(ConfigError, where="consistency#region"):
        ConjugateGradientStep(region=wrong)


def test_a_region_elsewhere_is_refused() -> None:
    p = measured(ParallelCT(GEOMETRY, views=4), noise_std=0.02)
    far = np.eye(4)
    far[0, 3] = 1e4
    with raises(InputError, where="consistency#region"):
        ConservativeStep(region=region(affine=far)).bind(p)
    lost = ParallelCT(VolumeGeometry(SHAPE, (1.5, 1.5, 1.5)), views=4)
    with raises(InputError, where="consistency#region"):
        ConservativeStep(region=region()).bind(Problem(lost, p.measurement))


@pytest.mark.parametrize(
    ("option", "value"),
    [("bound", 0.0), ("size", -1.0), ("error", 0.0), ("final_iterations", 0), ("region_weight", 0.0)],
)
def test_wrong_options(option: str, value: float) -> None:
    with raises(ConfigError, where=f"consistency#{option}", got=str(value)):
        ConservativeStep(**{option: value})
