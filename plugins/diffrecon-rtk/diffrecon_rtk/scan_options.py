# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What the options of an operator say of a cone-beam scan, checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from diffrecon_rtk.trajectory import ConeView, Detector
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer, check_number
from monai_diffrecon.numerics.ct.scan_angles import MOST_VIEWS, scan_angles
from monai_diffrecon.protocols import VolumeGeometry

#: Largest side of a detector that is not asked for.
_MOST_PIXELS = 4096
#: Largest side of any detector.
_LARGEST_SIDE = 65536


def view_angles(
    views: int | None, angles: object, arc: float, first_angle: float, angles_unit: str | None, *, turns: bool
) -> tuple[float, ...]:
    """Return the angles of the views in degrees: those of :func:`scan_angles`, but the arc may be several ``turns``.

    Raises:
        ConfigError: a wrong option, or angles that look like radians.
    """
    if not turns or angles is not None or views is None:
        return scan_angles(views, angles, arc, first_angle, angles_unit)
    # A part of the arc that is no turn says whether the options are right.
    count = check_integer(views, "operator#views", low=1, high=MOST_VIEWS)
    whole = check_number(arc, "operator#arc", low=0.0, open_low=True)
    (first,) = scan_angles(1, None, min(whole, 6.0), first_angle, angles_unit)
    step = (math.degrees(whole) if angles_unit == "radians" else whole) / count
    return tuple(first + step * i for i in range(count))


def view_deviations(value: object, views: int) -> dict[str, list[float]]:
    """Return by how much the views deviate: field of ``ConeView`` -> a number per view.

    Args:
        value: None, or a mapping from fields to a number for all views or a number per view.
        views: number of views.

    Raises:
        ConfigError: no such mapping.
    """
    where = "operator#deviations"
    if value is None:
        return {}
    names = ConeView._fields
    if not isinstance(value, Mapping) or (strays := [str(name) for name in value if name not in names]):
        got = ", ".join(strays)[:80] if isinstance(value, Mapping) else repr(value)[:80]
        raise ConfigError("not deviations of views", where=where, expected=f"values of {', '.join(names)}", got=got)
    found = {}
    for name, given in value.items():
        listed = list(given) if isinstance(given, (list, tuple)) else [given] * views
        if len(listed) != views:
            expected = f"a number, or {views}, one per view"
            raise ConfigError("wrong number of values", where=f"{where}#{name}", expected=expected, got=len(listed))
        found[name] = [check_number(number, f"{where}#{name}") for number in listed]
    return found


def check_pair(value: object, where: str, what: str) -> tuple[object, object]:
    """Return two values of a list.

    Raises:
        ConfigError: not two.
    """
    found = None if isinstance(value, (str, bytes)) or not isinstance(value, Iterable) else tuple(value)
    if found is None or len(found) != 2:
        raise ConfigError("wrong number of values", where=where, expected=what, got=repr(value))
    return found


def detector_of(
    detectors: object,
    spacing: object,
    offset: object,
    geometry: VolumeGeometry,
    distances: tuple[float, float],
    *,
    may_guess: bool,
) -> Detector:
    """Return the detector that the options describe.

    Args:
        detectors: (nu, nv), or None for as many as see all of the volume.
        spacing: (du, dv) in mm, or None for the smallest voxel, magnified.
        offset: centre of the detector (u, v) in mm.
        geometry: the volume.
        distances: from the source to the isocentre and to the detector, in mm.
        may_guess: ``detectors`` may be None when there is no offset.

    Raises:
        ConfigError: a wrong option.
    """
    to_axis, to_detector = distances
    if spacing is None:
        du = dv = min(geometry.spacing) * to_detector / to_axis
    else:
        pair = check_pair(spacing, "operator#detector_spacing", "[du, dv] in mm")
        du, dv = (check_number(d, "operator#detector_spacing", low=0.0, open_low=True) for d in pair)
    shift = check_pair(offset, "operator#detector_offset", "[u, v] in mm")
    u, v = (check_number(d, "operator#detector_offset") for d in shift)
    if detectors is not None:
        pixels = check_pair(detectors, "operator#detectors", "[nu, nv]")
        nu, nv = (check_integer(n, "operator#detectors", low=1, high=_LARGEST_SIDE) for n in pixels)
    elif may_guess and u == v == 0.0:
        radius, half = radius_of(geometry), geometry.shape[2] * geometry.spacing[2] / 2
        nu = math.ceil(2.0 * to_detector * math.tan(math.asin(radius / to_axis)) / du) + 1
        nv = math.ceil(2.0 * to_detector * half / (to_axis - radius) / dv) + 1
        if max(nu, nv) > _MOST_PIXELS:
            raise ConfigError(
                "a detector that sees all of the volume would be too large",
                where="operator#detectors",
                expected=f"at most {_MOST_PIXELS} pixels along each side",
                got=f"{nu} x {nv}",
                mend="give operator#detectors, or move the source away from the volume",
            )
    else:
        raise ConfigError(
            "no number of pixels",
            where="operator#detectors",
            expected="[nu, nv]; what sees all of the volume is known of a circle and a centred flat detector only",
        )
    return Detector((nu, nv), (du, dv), (u, v))


def radius_of(geometry: VolumeGeometry) -> float:
    """Return the radius in mm of the cylinder about the axis of rotation that holds the volume."""
    return math.hypot(geometry.shape[0] * geometry.spacing[0], geometry.shape[1] * geometry.spacing[1]) / 2
