# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Angles in degrees, radians by mistake, and radians on purpose."""

import math

import numpy as np
import pytest

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.ct.scan_angles import scan_angles

from ...raising import raises


def test_degrees() -> None:
    assert scan_angles(4, None, 360.0, -10.0) == (-10.0, 80.0, 170.0, 260.0)
    assert scan_angles(7, [90.0, 0.0], 180.0, 0.0) == (90.0, 0.0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"angles": [0.0, math.pi / 3, -math.pi]}, (0.0, 60.0, -180.0)),
        ({"views": 4, "arc": 2 * math.pi, "first_angle": math.pi / 2}, (90.0, 180.0, 270.0, 360.0)),
    ],
)
def test_radians_on_purpose(options: dict, expected: tuple[float, ...]) -> None:
    given = {"views": None, "angles": None, "arc": 3.0, "first_angle": 0.0} | options
    np.testing.assert_allclose(scan_angles(**given, angles_unit="radians"), expected, atol=1e-9)


@pytest.mark.parametrize(
    "angles",
    [
        list(np.linspace(0, np.pi, 60, endpoint=False)),
        list(np.linspace(0, 2 * np.pi, 61)),
        list(np.linspace(-np.pi / 2, np.pi / 2, 30)),
        [0.0, 0.785, 1.571, 2.356],
    ],
)
def test_radians_by_mistake(angles: list[float]) -> None:
    """Refused in one line that names the way out; taken when the unit is stated."""
    with raises(ConfigError, where="operator#angles", expected="angles in degrees") as caught:
        scan_angles(None, angles, 180.0, 0.0)
    assert "\n" not in str(caught.value)
    assert scan_angles(None, angles, 180.0, 0.0, "degrees") == tuple(angles)


@pytest.mark.parametrize("arc", [math.pi / 2, math.pi, 2 * math.pi, 3.1416, 6.2832])
def test_an_arc_in_radians_by_mistake(arc: float) -> None:
    with raises(ConfigError, where="operator#arc", expected="angles in degrees"):
        scan_angles(60, None, arc, 0.0)
    assert scan_angles(2, None, arc, 0.0, "degrees") == (0.0, arc / 2)


@pytest.mark.parametrize(
    "options",
    [
        {"angles": [0.0, 1.0, 2.0, 3.0]},
        {"angles": [0.5]},
        {"angles": [0.5, 6.1]},
        {"angles": [-3.0, 0.1, 6.5]},
        {"views": 11, "arc": 5.0},
        {"views": 3, "arc": 2.0, "first_angle": 0.1},
    ],
)
def test_short_arcs_in_degrees_pass(options: dict) -> None:
    scan_angles(**({"views": None, "angles": None, "arc": 180.0, "first_angle": 0.0} | options))
