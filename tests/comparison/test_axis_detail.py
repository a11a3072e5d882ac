# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Detail along an axis, against plain loops and known signals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monai_diffrecon.comparison.axis_detail import high_frequency_ratio, jump_ratio, thick_slice_borders


def volume(seed: int = 0) -> torch.Tensor:
    return torch.rand((1, 5, 4, 12), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("cutoff", [0.1, 0.25])
def test_energy_is_that_of_the_cosine_sums(axis: int, cutoff: float) -> None:
    x, ref = volume(0), volume(1)

    def energy(v: torch.Tensor) -> float:
        lines = np.moveaxis(v.double().numpy(), axis, -1).reshape(-1, v.shape[axis])
        n, total = v.shape[axis], 0.0
        for k in range(n):
            if k / (2 * n) > cutoff:
                basis = np.cos(np.pi * k * (np.arange(n) + 0.5) / n) * math.sqrt(2 / n)
                total += float(((lines @ basis) ** 2).sum())
        return total

    assert high_frequency_ratio(x, ref, axis, cutoff) == pytest.approx(energy(x) / energy(ref), rel=1e-9)


def test_blur_loses_energy_and_noise_adds_it() -> None:
    ref = volume()
    blurred = (ref + ref.roll(1, 3) + ref.roll(-1, 3)) / 3
    assert high_frequency_ratio(ref, ref, 3) == 1.0
    assert high_frequency_ratio(blurred, ref, 3) < 0.5
    assert high_frequency_ratio(ref + 0.5 * volume(2), ref, 3) > 1.1
    assert high_frequency_ratio(2 * ref, ref, 3) == pytest.approx(4.0)
    assert math.isnan(high_frequency_ratio(ref, torch.ones_like(ref), 3))


def test_jumps_are_means_over_the_borders() -> None:
    x, ref = volume(0), volume(1)
    borders = [3, 6, 9]
    steps = [np.mean([np.abs(v.numpy()[..., i] - v.numpy()[..., i - 1]).mean() for i in borders]) for v in (x, ref)]
    assert jump_ratio(x, ref, 3, borders) == pytest.approx(steps[0] / steps[1], rel=1e-6)
    assert jump_ratio(x, ref, 3) == pytest.approx(
        np.abs(np.diff(x.numpy(), axis=3)).mean() / np.abs(np.diff(ref.numpy(), axis=3)).mean(), rel=1e-6
    )
    assert math.isnan(jump_ratio(x, ref, 3, []))


def test_a_staircase_has_no_jumps_but_at_borders() -> None:
    ramp = torch.arange(12.0).expand(1, 2, 2, 12)
    stairs = (ramp / 3).floor() * 3 + 1
    assert jump_ratio(stairs, ramp, 3, thick_slice_borders(12, 1.0, 3.0)) == 3.0
    assert jump_ratio(stairs, ramp, 3, [1, 2, 4, 5]) == 0.0


@pytest.mark.parametrize(
    ("size", "spacing", "thickness", "gap", "expected"),
    [
        (12, 1.0, 3.0, 0.0, [3, 6, 9]),
        (10, 1.0, 5.0, 0.0, [5]),
        (12, 1.0, 2.0, 2.0, [3, 7, 11]),
        (10, 0.5, 2.0, 0.0, [4, 8]),
        (9, 1.0, 2.4, 0.0, [2, 5, 7]),
        (4, 1.0, 8.0, 0.0, []),
    ],
)
def test_borders(size: int, spacing: float, thickness: float, gap: float, expected: list[int]) -> None:
    assert thick_slice_borders(size, spacing, thickness, gap) == expected
