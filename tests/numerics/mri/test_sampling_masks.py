# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Sampling masks of Cartesian MRI."""

import hashlib
import math

import numpy as np
import pytest

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.mri.sampling_masks import MASKS, sampling_mask

from ...raising import raises

SHAPE = (64, 60)

#: First digits of the hashes of masks, by kind.
GOLDEN = {
    "uniform1d": "cca5d45f3155",
    "gaussian1d": "d3e031222bb2",
    "gaussian2d": "29a7523e8402",
    "poisson": "d9db2404a2c8",
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("acceleration", [1.0, 4.0, 7.5])
def test_acceleration_is_the_one_asked_for(kind: str, acceleration: float) -> None:
    mask = sampling_mask(kind, SHAPE, acceleration, 0.08, 0)
    assert mask.shape == SHAPE
    assert mask.dtype == bool
    if kind.endswith("1d"):
        assert mask[0].sum() == round(SHAPE[1] / acceleration)
    else:
        assert mask.sum() == round(mask.size / acceleration)
        assert mask.size / mask.sum() == pytest.approx(acceleration, rel=0.02)


@pytest.mark.parametrize("kind", MASKS)
def test_seed_decides(kind: str) -> None:
    first, again, other = (sampling_mask(kind, SHAPE, 4.0, 0.08, seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", MASKS)
def test_global_generator_is_left_alone(kind: str) -> None:
    before = np.random.get_state()[1].copy()
    sampling_mask(kind, SHAPE, 4.0, 0.08, 0)
    assert np.array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("kind", MASKS)
def test_centre_is_fully_sampled(kind: str) -> None:
    mask = sampling_mask(kind, SHAPE, 6.0, 0.1, 0)
    assert mask[29:35, 27:33].all()  # 6 of 64 and of 60, around (32, 30)


@pytest.mark.parametrize("kind", ["uniform1d", "gaussian1d"])
def test_lines_run_along_x(kind: str) -> None:
    mask = sampling_mask(kind, SHAPE, 4.0, 0.08, 0)
    assert (mask == mask[:1]).all()


@pytest.mark.parametrize("kind", ["gaussian1d", "gaussian2d", "poisson"])
def test_density_falls_outwards(kind: str) -> None:
    mask = np.mean([sampling_mask(kind, (48, 48), 4.0, 0.0, seed) for seed in range(8)], axis=0)
    inner = mask[12:36, 12:36].mean()
    assert inner > 1.5 * mask.mean()


def test_poisson_points_keep_their_distance() -> None:
    """Far fewer touching neighbours than points drawn independently from the same density have."""
    poisson = sampling_mask("poisson", (96, 96), 10.0, 0.0, 0)
    density = np.mean([sampling_mask("poisson", (96, 96), 10.0, 0.0, s) for s in range(1, 9)], axis=0)
    blurred = sum(np.roll(density, (i, j), (0, 1)) for i in range(-4, 5) for j in range(-4, 5)) / 81
    drawn = np.random.Generator(np.random.PCG64(0)).random((96, 96)) < blurred

    def touching(mask: np.ndarray) -> float:
        outer = mask.copy()
        outer[32:64, 32:64] = False  # the middle is dense on purpose
        pairs = (outer[1:] & outer[:-1]).sum() + (outer[:, 1:] & outer[:, :-1]).sum()
        return float(pairs / outer.sum())

    assert touching(poisson) < 0.3 * touching(drawn)


def test_too_large_a_centre_is_refused() -> None:
    with raises(ConfigError, where="operator#center_fraction", got=30):
        sampling_mask("uniform1d", SHAPE, 6.0, 0.5, 0)


@pytest.mark.parametrize("kind", MASKS)
def test_partial_fourier_leaves_out_one_end_of_the_first_phase_encoded_axis(kind: str) -> None:
    mask = sampling_mask(kind, SHAPE, 3.0, 0.08, 0, partial_fourier=0.625)
    along = mask.any(axis=0 if kind.endswith("1d") else 1)  # Y of the lines, X of the points
    left_out = len(along) - math.ceil(0.625 * len(along))
    assert left_out > 0
    assert not along[:left_out].any()
    assert along[left_out:].mean() > 0.3
    points = mask[0] if kind.endswith("1d") else mask
    assert points.sum() == round(points.size / 3.0)
    assert mask[30:35, 28:33].all()


@pytest.mark.parametrize("kind", MASKS)
def test_partial_fourier_keeps_the_centre_and_takes_all_that_is_left(kind: str) -> None:
    mask = sampling_mask(kind, (20, 20), 1.0, 0.5, 0, partial_fourier=0.51)
    kept = mask[0] if kind.endswith("1d") else mask[:, 0]
    assert kept.tolist() == ([False] * 5 if kind.endswith("1d") else [False] * 9) + [True] * (
        15 if kind.endswith("1d") else 11
    )
    assert mask[5:15, 5:15].all()


@pytest.mark.parametrize("kind", MASKS)
def test_without_partial_fourier_the_draws_are_those_of_before(kind: str) -> None:
    """Masks are part of a measurement: the same seed must give the same mask in later versions."""
    digest = hashlib.sha256(np.packbits(sampling_mask(kind, SHAPE, 4.0, 0.08, 3)).tobytes()).hexdigest()
    assert digest[:12] == GOLDEN[kind]
