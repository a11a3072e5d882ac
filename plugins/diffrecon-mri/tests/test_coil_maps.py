# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Coil maps: agreement with the true ones, normalization, phase, faults."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffrecon_mri.coil_maps import calibration_width, espirit_maps, low_resolution_maps
from diffrecon_mri.synthetic_maps import birdcage_maps, smooth_phase
from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.mri.fourier import centred_fft

SHAPE = (40, 36, 3)


def head(shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """An ellipse of varying brightness and phase; the middle slice is empty."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = torch.sigmoid(30 * (1 - torch.hypot(x / 0.8, y / 0.7)))
    return inside * (1 + 0.4 * torch.sin(5 * x + 3 * y + z)) * (z != 0) * smooth_phase(shape, 2, 0.4)


TRUE = birdcage_maps(6, SHAPE)
OBJECT = head()
KSPACE = centred_fft(TRUE * OBJECT)


def correlation(maps: Tensor) -> Tensor:
    """Per voxel, up to phase; 1 for equal maps."""
    return (maps.conj() * TRUE).sum(0).abs() / (maps.norm(dim=0) * TRUE.norm(dim=0)).clamp_min(1e-12)


@pytest.mark.parametrize("method", [espirit_maps, low_resolution_maps])
def test_maps_agree_with_the_true_ones_in_the_object(method: object) -> None:
    assert callable(method)
    generator = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(KSPACE.shape, generator=generator, dtype=torch.complex64)
    central = torch.zeros(SHAPE[:2])
    central[8:32, 6:30] = 1  # nothing outside the calibration region is needed
    maps = method((KSPACE + noise * (KSPACE != 0)) * central[:, :, None])
    assert maps.dtype == torch.complex64
    inside = OBJECT.abs() > 0.5
    assert float(correlation(maps)[inside].min()) > 0.98
    power = maps.abs().square().sum(0)
    assert bool((((power - 1).abs() < 1e-5) | (power == 0)).all())
    assert bool((power[inside] > 0.5).all())
    assert not bool(maps[..., 1].any()), "maps in an empty slice"


def test_the_phase_is_smooth_and_does_not_depend_on_the_first_coil() -> None:
    maps = espirit_maps(KSPACE[..., :1])
    rolled = espirit_maps(KSPACE[..., :1].roll(2, 0)).roll(-2, 0)
    inside = (OBJECT.abs() > 0.5)[..., 0]
    ratio = (maps.conj() * rolled).sum(0)[..., 0][inside]
    spread = ratio / ratio.mean()
    assert float((spread - 1).abs().max()) < 1e-2, "the phase reference moves with the order of the coils"
    image = (maps.conj() * TRUE[..., :1]).sum(0)[..., 0]
    step = (image[1:] * image[:-1].conj()).angle().abs()[inside[1:] & inside[:-1]]
    assert float(step.max()) < 0.5


def test_crop_leaves_the_background_empty() -> None:
    maps = espirit_maps(KSPACE[..., :1], crop=0.999)
    assert not bool(maps[:, 0, 0].any())
    assert bool(maps[:, 20, 18].any())


def test_calibration_width() -> None:
    mask = torch.zeros(20, 16, dtype=torch.bool)
    assert calibration_width(mask) == 0
    mask[3:17, 2:14] = True  # centres 10 and 8: 7 to the left and 6 to the right, 6 and 5
    assert calibration_width(mask) == 12
    assert calibration_width(mask, 8) == 8
    mask[10, 5] = False
    assert calibration_width(mask) == 5
    assert calibration_width(torch.ones(20, 9, dtype=torch.bool)) == 9


@pytest.mark.parametrize("width", [8, 37])
def test_a_calibration_region_that_does_not_suffice_is_refused(width: int) -> None:
    with pytest.raises(InputError) as caught:
        espirit_maps(KSPACE, width, where="scan.h5")
    assert (caught.value.where, caught.value.got) == ("scan.h5", f"{width} x {width}")
    assert "low_resolution" in (caught.value.mend or "")


def test_synthetic_maps() -> None:
    maps = birdcage_maps(5, (12, 10, 4))
    assert maps.shape == (5, 12, 10, 4)
    torch.testing.assert_close(maps.abs().square().sum(0), torch.ones(12, 10, 4))
    jumps = [maps.narrow(d, 1, n - 1) - maps.narrow(d, 0, n - 1) for d, n in ((1, 12), (2, 10), (3, 4))]
    assert max(float(j.abs().max()) for j in jumps) < 0.5
    phase = smooth_phase((12, 10, 1), seed=3)
    torch.testing.assert_close(phase.abs(), torch.ones(12, 10, 1))
    assert torch.equal(phase, smooth_phase((12, 10, 1), seed=3))
    assert float((phase[1:] / phase[:-1]).angle().abs().max()) < 1.0
