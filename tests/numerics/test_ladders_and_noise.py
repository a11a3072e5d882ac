# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Ladders of noise levels, and noise that depends on its key alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.numerics.ladders import LADDERS, geometric_ladder, karras_ladder, ladder
from monai_diffrecon.numerics.noise import key_seed

from ..raising import raises

LEVELS = st.floats(1e-4, 400.0)
SHAPE = (1, 5, 4, 6)


def test_karras_by_hand() -> None:
    """With rho = 2 the square roots fall evenly: 3, 2, 1."""
    assert karras_ladder(3, 9.0, 1.0, rho=2.0) == pytest.approx((9.0, 4.0, 1.0))


def test_karras_of_the_paper() -> None:
    """Equation 5 as it is written, for the paper's own 80, 0.002 and rho = 7."""
    n, high, low, rho = 18, 80.0, 0.002, 7.0
    expected = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]
    np.testing.assert_allclose(karras_ladder(n, high, low), expected, rtol=1e-12)


def test_geometric_by_hand() -> None:
    assert geometric_ladder(4, 8.0, 1.0) == pytest.approx((8.0, 4.0, 2.0, 1.0))


@given(LEVELS, LEVELS, st.integers(2, 60), st.floats(0.5, 12.0))
def test_both_ends_of_a_karras_ladder_are_exact_and_it_never_rises(a: float, b: float, steps: int, rho: float) -> None:
    high, low = max(a, b), min(a, b)
    levels = karras_ladder(steps, high, low, rho)
    assert len(levels) == steps
    assert levels[0] == high
    assert levels[-1] == low
    assert all(x >= y for x, y in pairwise(levels))


@given(LEVELS, st.integers(2, 20))
def test_a_ladder_of_one_level_stays_on_it(level: float, steps: int) -> None:
    assert karras_ladder(steps, level, level) == (level,) * steps


@pytest.mark.parametrize("name", LADDERS)
def test_one_step_is_the_first_level(name: str) -> None:
    assert ladder(name, 1, 3.7, 0.013) == (3.7,)


@pytest.mark.parametrize("name", LADDERS)
def test_ladders_fall_strictly_between_their_ends(name: str) -> None:
    levels = ladder(name, 25, 3.7, 0.013)
    assert len(levels) == 25
    assert levels[0] == 3.7
    assert levels[-1] == pytest.approx(0.013, rel=1e-12)
    assert all(a > b for a, b in pairwise(levels))
    assert all(isinstance(level, float) for level in levels)


def test_rho_reaches_the_karras_ladder_alone() -> None:
    assert ladder("karras", 3, 9.0, 1.0, rho=2.0) == karras_ladder(3, 9.0, 1.0, 2.0)
    assert ladder("karras", 3, 9.0, 1.0) != ladder("karras", 3, 9.0, 1.0, rho=2.0)
    assert ladder("geometric", 3, 9.0, 1.0, rho=2.0) == geometric_ladder(3, 9.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "where", "got"),
    [
        (("linear", 3, 1.0, 0.1), "sampler#ladder", "'linear'"),
        (("karras", 0, 1.0, 0.1), "sampler#steps", "0"),
        (("karras", 3, 0.1, 1.0), "sampler", "sigma_start 0.1, sigma_end 1"),
        (("geometric", 3, 1.0, 0.0), "sampler", "sigma_start 1, sigma_end 0"),
        (("geometric", 3, float("nan"), 0.1), "sampler", "sigma_start nan, sigma_end 0.1"),
    ],
)
def test_wrong_ladders(arguments: tuple[str, int, float, float], where: str, got: str | None) -> None:
    with raises(ConfigError, where=where, got=got):
        ladder(*arguments)


def test_noise_does_not_depend_on_the_order_of_the_draws() -> None:
    forth, back = IndependentNoise(3, "case"), IndependentNoise(3, "case")
    first = [forth.volume(SHAPE, step) for step in range(4)]
    back.uniform(2, stream="turns")
    back.volume(SHAPE, 7, stream="start")
    for step in reversed(range(4)):
        assert torch.equal(back.volume(SHAPE, step), first[step])


def test_noise_of_a_slice_does_not_depend_on_the_other_slices() -> None:
    """A volume of fewer slices, as a rank or a crop sees it, has the same numbers."""
    noise = IndependentNoise(3, "case")
    whole = noise.volume(SHAPE, 2)
    for count in (1, 4):
        assert torch.equal(noise.volume((*SHAPE[:-1], count), 2), whole[..., :count])
    assert len({float(whole[0, 0, 0, k]) for k in range(SHAPE[-1])}) == SHAPE[-1]


def test_every_part_of_the_key_counts() -> None:
    base = IndependentNoise(3, "case").volume(SHAPE, 2)
    others = [
        IndependentNoise(4, "case").volume(SHAPE, 2),
        IndependentNoise(3, "other").volume(SHAPE, 2),
        IndependentNoise(3, "case").volume(SHAPE, 3),
        IndependentNoise(3, "case").volume(SHAPE, 2, stream="start"),
    ]
    for other in others:
        correlation = torch.corrcoef(torch.stack([base.flatten(), other.flatten()]))[0, 1]
        assert abs(float(correlation)) < 0.35  # 120 numbers: 0.09 is one standard deviation


def test_keys_are_not_merely_joined() -> None:
    assert key_seed("a", "bc") != key_seed("ab", "c")
    assert key_seed(1, 12) != key_seed(11, 2)
    assert 0 <= key_seed("x") < 2**63


def test_seed_of_a_key_is_fixed() -> None:
    """Computed with sha256sum: runs on other machines must agree, so no hash() of the process."""
    assert key_seed(0, "", "sampler", 0, 0) == 5019477400053884224


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_noise_is_standard_normal(dtype: torch.dtype) -> None:
    n = IndependentNoise(0).volume((1, 40, 40, 20), 0, dtype=dtype)
    assert n.dtype == dtype
    parts = [n.real, n.imag] if dtype.is_complex else [n]
    for part in parts:
        assert float(part.mean()) == pytest.approx(0.0, abs=0.03)
        assert float(part.std()) == pytest.approx(1.0, abs=0.02)
        assert float((part**4).mean()) == pytest.approx(3.0, abs=0.25)
    if dtype.is_complex:
        assert abs(float((parts[0] * parts[1]).mean())) < 0.03


def test_uniform_numbers() -> None:
    noise = IndependentNoise(1, "case")
    drawn = [noise.uniform(step, stream="turns") for step in range(400)]
    assert all(0.0 <= u < 1.0 for u in drawn)
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.06)
    assert len(set(drawn)) == 400
    assert IndependentNoise(1, "case").uniform(17, stream="turns") == drawn[17]
    assert noise.uniform(17, stream="other") != drawn[17]


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    noise = IndependentNoise(0)
    noise.volume(SHAPE, 0)
    noise.uniform(0, stream="turns")
    assert torch.equal(torch.random.get_rng_state(), before)
