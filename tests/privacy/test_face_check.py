# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The warning of a face, on the head of the examples and on what is made of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.privacy.faces import shows_face

EXAMPLE = Path(__file__).parents[2] / "examples/colin27_t1.nii.gz"
MM = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def head() -> Tensor:
    return read_volume(EXAMPLE)[0]


def thick(volume: Tensor, plane: int, mm: int) -> tuple[Tensor, tuple[float, ...]]:
    """Average slices; the spacing becomes theirs."""
    kernel, spacing = [1, 1, 1], [1.0, 1.0, 1.0]
    kernel[plane], spacing[plane] = mm, float(mm)
    return torch.nn.functional.avg_pool3d(volume, kernel), tuple(spacing)


def noisy(volume: Tensor, relative: float) -> Tensor:
    """Return the magnitude with Rician noise, relative to the brightest percent."""
    generator = torch.Generator().manual_seed(0)
    sigma = relative * float(volume.flatten()[::97].quantile(0.99))
    real, imaginary = (sigma * torch.randn(volume.shape, generator=generator) for _ in range(2))
    return torch.sqrt((volume + real) ** 2 + imaginary**2)


def defaced(volume: Tensor) -> Tensor:
    """Empty the front below the forehead."""
    out = volume.clone()
    out[:, :, 150:, :80] = 0
    return out


def skull_stripped(volume: Tensor) -> Tensor:
    """Keep two balls, of the cerebrum and of the cerebellum with the stem."""
    x, y, z = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in volume.shape[1:]), indexing="ij")
    cerebrum = ((x - 90) / 68) ** 2 + ((y - 108) / 85) ** 2 + ((z - 88) / 62) ** 2 < 1
    below = ((x - 90) / 50) ** 2 + ((y - 75) / 40) ** 2 + ((z - 40) / 38) ** 2 < 1
    return volume * (cerebrum | below)


def test_a_whole_head_shows_a_face_in_time(head: Tensor) -> None:
    shows_face(head, MM)
    begun = time.process_time()
    assert shows_face(head, MM) is True
    assert time.process_time() - begun < 0.3


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_thick_slices_show_it_too(head: Tensor, plane: int) -> None:
    assert shows_face(*thick(head, plane, 5))


def test_noise_a_veil_and_units_do_not_hide_it(head: Tensor) -> None:
    assert shows_face(noisy(head, 0.1), MM)
    assert shows_face(head.half(), MM)
    assert shows_face(head * 1e-6, MM)
    # As CT has it: air is far below zero.
    assert shows_face(head / head.max() * 1500 - 1024, MM)


def test_a_head_without_vertex_shows_it_too(head: Tensor) -> None:
    assert shows_face(head[..., :-35], MM)


@pytest.mark.parametrize("change", [defaced, skull_stripped])
def test_without_a_face_there_is_no_warning(head: Tensor, change: object) -> None:
    assert callable(change)
    changed = change(head)
    for volume, spacing in ((changed, MM), thick(changed, 2, 5), (noisy(changed, 0.05), MM)):
        assert shows_face(volume, spacing) is False


@pytest.mark.parametrize("low", [0, 40, 80, 120])
def test_a_slab_is_not_asked(head: Tensor, low: int) -> None:
    assert shows_face(head[..., low : low + 60], MM) is False


@pytest.mark.parametrize("volume", [torch.zeros(1, 20, 20, 20), torch.ones(1, 1, 1, 1), torch.ones(1, 300, 300, 200)])
def test_what_is_no_head_is_no_face(volume: Tensor) -> None:
    assert shows_face(volume, MM) is False
