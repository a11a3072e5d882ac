# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Grids of other sizes around the same centre."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from monai_diffrecon.numerics.mri.fourier import centred_fft, centred_ifft
from monai_diffrecon.numerics.mri.kspace_grid import centred_affine, centred_resize, crop_or_pad_kspace

FOV = 60.0


def harmonics(n: int) -> Tensor:
    """Three frequencies of a field of view, at the centres of ``n`` voxels around the origin, voxel n // 2."""
    x = (torch.arange(n, dtype=torch.float64) - n // 2) * FOV / n
    waves = (0.7, 0, 0.1), (1.1, 2, 0.4), (0.5, -5, 1.3)
    return sum(a * torch.exp(1j * (2 * math.pi * k * x / FOV + phase)) for a, k, phase in waves)


@pytest.mark.parametrize("old", [20, 21, 30])
@pytest.mark.parametrize("new", [12, 13, 20, 21, 40, 41])
def test_band_limited_images_are_exact_at_the_new_voxels(old: int, new: int) -> None:
    k = centred_fft(harmonics(old)[None, :, None, None], (1,))
    image = centred_ifft(crop_or_pad_kspace(k, 1, new), (1,))[0, :, 0, 0]
    torch.testing.assert_close(image, harmonics(new), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("old", "new"), [(8, 5), (5, 8), (7, 4), (4, 7), (6, 6)])
def test_index_n_half_stays_the_centre(old: int, new: int) -> None:
    x = torch.zeros(2, old, 3)
    x[:, old // 2] = 1
    y = centred_resize(x, 1, new)
    assert y.shape == (2, new, 3)
    assert torch.equal(y.nonzero(), (torch.arange(new)[None, :, None] == new // 2).expand(2, new, 3).nonzero())


def test_noise_takes_the_factor_of_the_intensities() -> None:
    noise = torch.randn(1, 400, 50, 1, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    assert float(crop_or_pad_kspace(noise, 1, 100).std() / noise.std()) == pytest.approx(0.5, rel=0.02)


def test_the_affine_keeps_the_world_position_of_the_centre() -> None:
    affine = np.array([[0.0, -1.5, 0, 4], [0.9, 0, 0.1, -3], [0, 0.2, 2.0, 7], [0, 0, 0, 1]])
    out = centred_affine(affine, (10, 9, 4), (7, 12, 4), (10 / 7, 9 / 12, 1.0))
    for i in range(3):
        np.testing.assert_allclose(out[:3, i], affine[:3, i] * (10 / 7, 9 / 12, 1.0)[i])
    np.testing.assert_allclose(out @ [3, 6, 2, 1], affine @ [5, 4, 2, 1])
