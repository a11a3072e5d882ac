# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Hounsfield units, and the statistics of drawn counts against what the formulas say."""

import math

import pytest
import torch

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.ct.attenuation import (
    MU_WATER,
    attenuation_to_hu,
    counts_to_line_integrals,
    draw_counts,
    expected_counts,
    hu_to_attenuation,
    line_integral_weights,
)

from ...raising import raises


def test_hounsfield_units() -> None:
    hu = torch.tensor([-1000.0, 0.0, 1000.0])
    torch.testing.assert_close(hu_to_attenuation(hu), torch.tensor([0.0, 0.0206, 0.0412]))
    torch.testing.assert_close(attenuation_to_hu(hu_to_attenuation(hu)), hu)
    torch.testing.assert_close(attenuation_to_hu(hu_to_attenuation(hu, 0.019), 0.019), hu)


def test_expected_counts() -> None:
    """200 mm of water let 1.62 per cent of the photons through."""
    line = torch.tensor([0.0, 200.0 * MU_WATER])
    torch.testing.assert_close(expected_counts(line, 1e5), torch.tensor([1e5, 1e5 * math.exp(-4.12)]))
    torch.testing.assert_close(counts_to_line_integrals(expected_counts(line, 1e5), 1e5), line)


def test_moments_of_drawn_counts() -> None:
    """Mean that of Beer-Lambert's law, variance that plus the electronics'."""
    line = torch.full((200_000,), 3.0, dtype=torch.float64)
    counts = draw_counts(line, 2000.0, 4.0, torch.Generator().manual_seed(0))
    mean = 2000.0 * math.exp(-3.0)
    assert float(counts.mean()) == pytest.approx(mean, abs=5 * math.sqrt((mean + 16) / 200_000))
    assert float(counts.var()) == pytest.approx(mean + 16.0, rel=0.02)
    assert counts.dtype == torch.float64
    assert torch.equal(counts, draw_counts(line, 2000.0, 4.0, torch.Generator().manual_seed(0)))
    whole = draw_counts(line, 2000.0, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(whole, whole.round())


def test_weights_are_the_inverse_variances_of_the_logarithm() -> None:
    """Of drawn data at three depths, within the delta method's few per cent."""
    depths = torch.tensor([1.0, 2.5, 4.0], dtype=torch.float64)
    counts = draw_counts(depths[:, None].expand(3, 100_000), 1e5, 10.0, torch.Generator().manual_seed(1))
    variance = counts_to_line_integrals(counts, 1e5, 10.0).var(dim=1)
    weights = line_integral_weights(expected_counts(depths, 1e5), 1e5, 10.0)
    assert float(weights.mean()) == pytest.approx(1.0)
    torch.testing.assert_close(
        weights * variance / (weights * variance).mean(), torch.ones_like(weights), atol=0.03, rtol=0
    )


def test_counts_that_are_none() -> None:
    """Zero and negative counts are taken for the floor: finite, and of little weight."""
    counts = torch.tensor([-20.0, 0.0, 0.5, 1000.0])
    torch.testing.assert_close(
        counts_to_line_integrals(counts, 1000.0), torch.tensor([1.0, 1.0, 1.0, 0.0]) * math.log(1e3)
    )
    noisy = counts_to_line_integrals(counts, 1000.0, 10.0)
    torch.testing.assert_close(noisy, torch.tensor([1.0, 1.0, 1.0, 0.0]) * math.log(1e2))
    weights = line_integral_weights(counts, 1000.0, 10.0)
    assert bool((weights[:3] > 0).all())
    assert bool((weights[:3] < 0.01).all())


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), "1e5"])
def test_wrong_numbers(wrong: object) -> None:
    line, generator = torch.zeros(3), torch.Generator()
    for call in (
        lambda: expected_counts(line, wrong),
        lambda: counts_to_line_integrals(line, wrong),
        lambda: line_integral_weights(line, wrong),
        lambda: draw_counts(line, wrong, 0.0, generator),
        lambda: hu_to_attenuation(line, wrong),
        lambda: attenuation_to_hu(line, wrong),
    ):
        with raises(ConfigError, expected="a finite number above 0"):
            call()
    if wrong != 0.0:
        with raises(ConfigError, where="electronic_std", expected="a finite number from 0"):
            draw_counts(line, 1.0, wrong, generator)
        with raises(ConfigError, where="electronic_std", expected="a finite number from 0"):
            line_integral_weights(line, 1.0, wrong)
