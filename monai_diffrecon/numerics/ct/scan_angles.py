# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The view angles that a CT operator's options describe."""

from __future__ import annotations

import math
from collections.abc import Iterable

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_choice, check_integer, check_number

#: How near, relative, an arc in degrees must be to a quarter, half or whole turn in radians to look like one.
_NEAR = 1e-3

#: Views of the longest scans, and more.
MOST_VIEWS = 1_000_000

_UNITS = ("degrees", "radians")


def scan_angles(
    views: int | None, angles: object, arc: float, first_angle: float, angles_unit: str | None = None
) -> tuple[float, ...]:
    """Return the angles in degrees that the options of a CT operator describe.

    Args:
        views: number of views, equally spaced over ``arc``, end excluded.
        angles: angles; wins over ``views``.
        arc: what the views cover.
        first_angle: angle of the first view.
        angles_unit: ``degrees`` or ``radians``, for all three. None is degrees, unless the numbers look like radians:
            more than two listed angles, none beyond a turn of 2 pi, not all of them whole numbers; or an arc of pi/2,
            pi, 3 pi/2 or 2 pi. That is refused; when the unit is stated, nothing is guessed.

    Raises:
        ConfigError: a wrong option, or angles that look like radians.
    """
    unit = "degrees" if angles_unit is None else check_choice(angles_unit, "operator#angles_unit", _UNITS)
    scale = 1.0 if unit == "degrees" else 180.0 / math.pi
    if angles is not None:
        if isinstance(angles, str) or not isinstance(angles, Iterable):
            raise ConfigError("not a list", where="operator#angles", expected=f"angles in {unit}", got=repr(angles))
        listed = tuple(check_number(a, "operator#angles") for a in angles)
        if not listed:
            raise ConfigError("no view", where="operator#angles", expected="one angle or more", got="none")
        if angles_unit is None and _listed_radians(listed):
            raise _look_like_radians("operator#angles", f"angles from {min(listed):.4g} to {max(listed):.4g}")
        return tuple(a * scale for a in listed)
    if views is None:
        raise ConfigError("no view", where="operator#views", expected="a number of views, or operator#angles")
    count = check_integer(views, "operator#views", low=1, high=MOST_VIEWS)
    turn = 360.0 if unit == "degrees" else 2.0 * math.pi * (1.0 + 1e-9)
    whole = check_number(arc, "operator#arc", low=0.0, high=turn, open_low=True)
    first = check_number(first_angle, "operator#first_angle")
    if angles_unit is None and any(abs(whole / (math.pi / 2 * n) - 1.0) < _NEAR for n in (1, 2, 3, 4)):
        raise _look_like_radians("operator#arc", f"{whole:.6g}")
    return tuple((first + whole * i / count) * scale for i in range(count))


def _listed_radians(listed: tuple[float, ...]) -> bool:
    """Return whether a list of angles looks like radians. Whole numbers, 0, 1, 2, ..., are a short arc in degrees."""
    within_a_turn = max(map(abs, listed)) <= 2.0 * math.pi * (1.0 + 1e-6)
    return len(listed) > 2 and within_a_turn and not all(a.is_integer() for a in listed)


def _look_like_radians(where: str, got: str) -> ConfigError:
    return ConfigError(
        "these look like radians",
        where=where,
        expected="angles in degrees",
        got=got,
        mend="convert them, or set operator#angles_unit to radians (or to degrees, if they are)",
    )


def scan_distances(source_distance: object, detector_distance: object, radius: float) -> tuple[float, float]:
    """Return the distances in mm from the source to the axis of rotation and to the detector.

    Args:
        source_distance: the first of them.
        detector_distance: the second.
        radius: that of the volume about the axis (mm).

    Raises:
        ConfigError: the source is in the volume, or the detector is in front of the axis.
    """
    to_axis = check_number(source_distance, "operator#source_distance", low=0.0, open_low=True)
    if to_axis <= radius:
        raise ConfigError(
            "the source would pass through the volume",
            where="operator#source_distance",
            expected=f"above {radius:.6g} mm, half the axial slice's diagonal",
            got=f"{to_axis:.6g} mm",
        )
    to_detector = check_number(detector_distance, "operator#detector_distance", low=0.0, open_low=True)
    if to_detector < to_axis:
        raise ConfigError(
            "the detector would be in front of the axis of rotation",
            where="operator#detector_distance",
            expected=f"source to detector, {to_axis:.6g} mm (source_distance) or more",
            got=f"{to_detector:.6g} mm",
        )
    return to_axis, to_detector
