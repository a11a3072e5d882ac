# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Noise that changes slowly from slice to slice."""

import pytest
import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.noises.slerp import SlerpNoise
from monai_diffrecon.numerics.planes import to_slices
from monai_diffrecon.testing.noise_laws import check_noise

from ..raising import raises


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_laws(plane: str) -> None:
    check_noise(lambda seed, case: SlerpNoise(seed, case, plane))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_neighbours_are_alike_and_ends_are_not(plane: str) -> None:
    slices = to_slices(SlerpNoise(3, "a", plane).volume((1, 40, 41, 42), 2), plane)
    count = len(slices)
    for k in range(count - 1):
        assert correlation(slices[k], slices[k + 1]) > 0.995
    assert abs(correlation(slices[0], slices[-1])) < 5 / slices[0].numel() ** 0.5
    middle = correlation(slices[0], slices[count // 2])
    assert middle == pytest.approx(0.5**0.5, abs=0.07)  # half-way on a quarter of a circle
    # Across another plane the noise is not slow.
    other = to_slices(from_plane(plane), {"axial": "coronal", "coronal": "axial", "sagittal": "axial"}[plane])
    assert abs(correlation(other[3], other[4])) < 0.3


def from_plane(plane: str) -> Tensor:
    return SlerpNoise(3, "a", plane).volume((1, 40, 41, 42), 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_every_voxel_has_unit_variance_over_many_steps(dtype: torch.dtype) -> None:
    """In every slice, those half-way between the ends too."""
    source = SlerpNoise(3, "a")
    volumes = torch.stack([source.volume((1, 12, 12, 7), step, dtype=dtype) for step in range(200)])
    for part in (volumes.real, volumes.imag) if dtype.is_complex else (volumes,):
        for k in range(7):
            of_slice = part[..., k]
            assert float(of_slice.mean()) == pytest.approx(0.0, abs=5 / of_slice.numel() ** 0.5)
            # The path has the length of its ends, which differ from slice to slice: a little above their noise.
            assert float(of_slice.var()) == pytest.approx(1.0, abs=0.04)
        variances = part.var(0)
        assert float(variances.max()) < 1.7
        assert float(variances.min()) > 0.5


def test_unknown_plane() -> None:
    with raises(ConfigError, where="noise#plane", got="'z'"):
        SlerpNoise(plane="z")
