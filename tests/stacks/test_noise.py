# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The noise of slices is told from what is in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from monai_diffrecon.stacks.noise import noise_of


def head(axis: int) -> np.ndarray:
    """Return slices of a round object with texture, edges and an empty background."""
    random = np.random.default_rng(0)
    texture = gaussian_filter(random.normal(size=(6, 80, 80)), (0, 2.5, 2.5))
    across = np.linalg.norm(np.indices((80, 80)) - 39.5, axis=0)
    slices = np.where(across < 33, 1.0 + texture / texture.std() * 0.2, 0.0)
    return np.moveaxis(slices, 0, axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_noise_is_found_beside_texture_and_edges(axis: int, noise: float) -> None:
    clean = head(axis)
    random = np.random.default_rng(1)
    found = noise_of(torch.from_numpy(clean + noise * random.normal(size=clean.shape)), axis)
    assert found == pytest.approx(noise, rel=0.3)
    # An empty background (a skull-stripped head) has no noise, and is not asked.
    masked = np.where(clean > 0, clean + noise * random.normal(size=clean.shape), 0.0)
    assert noise_of(torch.from_numpy(masked), axis) == pytest.approx(noise, rel=0.3)


def test_without_noise_there_is_next_to_none() -> None:
    assert noise_of(torch.from_numpy(head(2)), 2) < 0.005


def test_it_scales_with_the_image() -> None:
    image = torch.from_numpy(head(1) + 0.02 * np.random.default_rng(2).normal(size=head(1).shape))
    assert noise_of(700.0 * image, 1) == pytest.approx(700.0 * noise_of(image, 1))


def test_too_small_an_image_says_nothing() -> None:
    assert noise_of(torch.rand(6, 5, 7), 0) == 0.0
