# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Sheared (gantry-tilted) stacks are refused, or resampled to a straight stack."""

from __future__ import annotations

from dataclasses import replace

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement import geometry_of
from monai_diffrecon.numerics.tilt import lean_of, straighten
from monai_diffrecon.protocols import Measurement, VolumeGeometry


def check_straight(geometry: VolumeGeometry, where: str, *, image: bool = True) -> None:
    """Refuse an affine whose axes are not at right angles.

    Args:
        geometry: of an image, or of the volume behind a measurement.
        where: name for messages.
        image: it can be corrected.

    Raises:
        InputError: they are not, by more than a header's rounding.
    """
    lean = lean_of(geometry)
    if lean is None:
        return
    mend = "straighten it with another tool (dcm2niix also writes a file with Tilt in its name; or SimpleITK)"
    correctable = image and lean.axis is not None
    raise InputError(
        "a sheared (gantry-tilted) stack" if correctable else "a sheared affine",
        where=where,
        expected="axes at right angles",
        got=f"{lean.degrees:.1f} degrees off",
        mend=f"resample it with --correct_tilt true, or {mend}" if correctable else mend,
    )


def corrected_tilt(measured: Measurement, where: str) -> tuple[Measurement, float | None]:
    """Return an image on a straight grid, with a notice, and by how many degrees it leaned; or as it is and None.

    Raises:
        InputError: it leans, and no shift of slices makes it straight; or it is no real image.
    """
    lean = lean_of(measured.geometry)
    if lean is None:
        return measured, None
    image = measured.operator is None and measured.weights is None and not measured.data.is_complex()
    if not image or lean.axis is None:
        check_straight(measured.geometry, where, image=image)
    assert lean.axis is not None
    x, affine = straighten(measured.data, measured.geometry, lean.axis)
    notice = f"the stack was sheared by {lean.degrees:.1f} degrees (gantry tilt) and was resampled to a straight stack"
    geometry = geometry_of(x.shape[1:], affine, measured.geometry.gaps)
    return replace(measured, data=x, geometry=geometry, notices=(*measured.notices, notice)), lean.degrees
