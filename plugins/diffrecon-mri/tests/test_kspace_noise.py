# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Noise of a receive array."""

import pytest
import torch
from torch import Tensor

from diffrecon_mri.kspace_noise import (
    estimate_noise_std,
    noise_covariance,
    prewhiten,
    prewhitening_matrix,
)
from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.mri.fourier import VOLUME, centred_fft
from monai_diffrecon.numerics.noise import keyed_normal
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.protocols import VolumeGeometry

COILS = 4


def mixing() -> Tensor:
    return keyed_normal((COILS, COILS), torch.complex128, "mixing") + 2.0 * torch.eye(COILS)


def scan(count: int = 4000) -> Tensor:
    """Noise of coils that hear each other."""
    return mixing() @ keyed_normal((COILS, count), torch.complex128, "scan")


def test_covariance_is_that_of_each_real_component() -> None:
    n = 3.0 * keyed_normal((2, 100_000), torch.complex128, "n")
    torch.testing.assert_close(noise_covariance(n), 9.0 * torch.eye(2, dtype=torch.complex128), atol=0.1, rtol=0)
    expected = mixing() @ mixing().mH
    error = torch.linalg.matrix_norm(noise_covariance(scan(100_000)) - expected)
    assert error < 0.02 * torch.linalg.matrix_norm(expected)


def test_prewhitened_noise_has_the_identity_for_its_covariance() -> None:
    samples = scan()
    white = prewhiten(samples, prewhitening_matrix(samples))
    identity = torch.eye(COILS, dtype=torch.complex128)
    torch.testing.assert_close(noise_covariance(white), identity, atol=1e-10, rtol=0)
    fresh = prewhiten(mixing() @ keyed_normal((COILS, 50_000), torch.complex128, "other"), prewhitening_matrix(samples))
    torch.testing.assert_close(noise_covariance(fresh), identity, atol=0.06, rtol=0)
    assert float(torch.view_as_real(fresh).std()) == pytest.approx(1.0, abs=0.03)


def test_k_space_and_maps_prewhitened_belong_together() -> None:
    """The same volume explains both: W (M F S x) = M F (W S) x."""
    geometry = VolumeGeometry((6, 5, 3))
    maps = keyed_normal((COILS, *geometry.shape), torch.complex64, "maps")
    W = prewhitening_matrix(scan())
    before = CartesianMRI(geometry, acceleration=2.0, coil_maps=maps)
    after = CartesianMRI(geometry, acceleration=2.0, coil_maps=prewhiten(maps, W))
    x = torch.rand(before.volume_shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prewhiten(before(x), W), after(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("level", [0.01, 0.2])
def test_noise_level_within_ten_percent(level: float) -> None:
    """A smooth object, two thirds of k-space not measured."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in (48, 40, 8)), indexing="ij")
    x = torch.exp(-4 * sum(a.square() for a in axes)) * torch.exp(1j * axes[0])
    k = centred_fft(x[None])
    mask = CartesianMRI(VolumeGeometry((48, 40, 8)), acceleration=3.0).mask[None, :, :, None]
    y = (k + level * keyed_normal(tuple(k.shape), torch.complex64, "noise")) * mask
    assert estimate_noise_std(y, outer=0.4) == pytest.approx(level, rel=0.1)
    volume = centred_fft(x[None], VOLUME) + level * keyed_normal(tuple(k.shape), torch.complex64, "noise")
    assert estimate_noise_std(volume, axes=(-3,), outer=0.4) == pytest.approx(level, rel=0.1)


def test_few_large_entries_do_not_matter() -> None:
    y = 0.3 * keyed_normal((2, 30, 30, 4), torch.complex64, "noise")
    y[:, 0, 0] = 1e3
    assert estimate_noise_std(y, outer=0.4) == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize(
    ("call", "where", "expected", "got"),
    [
        (
            lambda: prewhitening_matrix(scan().real),
            "noise samples",
            "complex (coils, N) with N of at least the number of coils",
            "float64 (4, 4000)",
        ),
        (
            lambda: prewhitening_matrix(scan(3)),
            "noise samples",
            "complex (coils, N) with N of at least the number of coils",
            "complex128 (4, 3)",
        ),
        (lambda: prewhitening_matrix(torch.cat([scan(), scan()])), "noise samples", "a covariance of full rank", None),
        (lambda: prewhitening_matrix(scan() * float("nan")), "noise samples", None, None),
        (
            lambda: estimate_noise_std(torch.ones(1, 8, 8, 8)),
            "noise estimate",
            "complex numbers, 0 < outer <= 1",
            "float32, outer 0.2",
        ),
        (lambda: estimate_noise_std(torch.zeros(1, 8, 8, 8, dtype=torch.complex64)), "noise estimate", "100", 0),
        (
            lambda: estimate_noise_std(torch.ones(1, 8, 8, 8, dtype=torch.complex64), outer=0.0),
            "noise estimate",
            "complex numbers, 0 < outer <= 1",
            "complex64, outer 0",
        ),
    ],
)
def test_wrong_input_is_one_line(call, where: str, expected: object, got: object) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert (caught.value.where, caught.value.expected, caught.value.got) == (where, expected, got)
    assert "\n" not in str(caught.value)
