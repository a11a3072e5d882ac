# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from monai_diffrecon.numerics.ct.rotation_center import rotation_center


def discs(degrees: np.ndarray, center: float, columns: int = 120, rows: int = 12) -> np.ndarray:
    """Return the line integrals (views, rows, columns) of two discs off the axis; the first row is empty."""
    at, theta = np.arange(columns) - center, np.deg2rad(degrees)[:, None]
    lines = np.zeros((len(degrees), columns))
    for x, y, radius, value in ((8.0, -22.0, 20.0, 0.02), (-15.0, -18.0, 7.0, 0.04)):
        inside = radius**2 - (at - x * np.cos(theta) - y * np.sin(theta)) ** 2
        lines += 2.0 * value * np.sqrt(np.maximum(inside, 0.0))
    return lines[:, None] * np.linspace(0.0, 1.0, rows)[:, None]


@pytest.mark.parametrize("center", [59.5, 52.3, 70.85])
@pytest.mark.parametrize(
    "degrees",
    [np.arange(180.0), np.linspace(0.0, 180.0, 91), np.arange(0.0, 180.0, 3.0), np.arange(0.0, 720.0, 2.5)],
    ids=["a step short", "half a turn", "coarse", "two turns"],
)
def test_it_is_found_in_noise(degrees: np.ndarray, center: float) -> None:
    lines = discs(degrees, center)
    noisy = lines + 0.02 * np.random.default_rng(0).standard_normal(lines.shape)
    found = rotation_center(degrees, lambda i: noisy[i])
    assert found is not None
    assert abs(found.column - center) < 0.2
    assert found.agreement > 0.95
    assert found.spread < 0.5


def test_drift_between_unlike_angles_is_taken_out() -> None:
    """The last view is 4 degrees before half a turn; the discs have drifted by more than a column until then."""
    degrees = np.arange(0.0, 180.0, 4.0)
    lines = discs(degrees, 57.0)
    found = rotation_center(degrees, lambda i: lines[i])
    assert found is not None
    assert found.mismatch == pytest.approx(4.0)
    assert abs(found.column - 57.0) < 0.2
    naive = [np.correlate(lines[0, -1], np.roll(lines[-1, -1, ::-1], s))[0] for s in range(-20, 20)]
    assert abs((int(np.argmax(naive)) - 20 + 119) / 2 - 57.0) > 0.4


def test_there_is_none_without_opposite_views() -> None:
    degrees = np.arange(0.0, 160.0, 2.0)
    lines = discs(degrees, 57.0)
    assert rotation_center(degrees, lambda i: lines[i]) is None


def test_unlike_views_are_told() -> None:
    lines = np.random.default_rng(0).standard_normal((181, 3, 120))
    found = rotation_center(np.arange(181.0), lambda i: lines[i])
    assert found is not None
    assert found.agreement < 0.8


def test_nothing_is_told_from_nothing() -> None:
    found = rotation_center(np.arange(181.0), lambda i: np.zeros((3, 120)))
    assert found is not None
    assert found.agreement == 0.0
