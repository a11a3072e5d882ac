# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The pixel size that a DXchange file states."""

from __future__ import annotations

import numpy as np

from monai_diffrecon.io.measurement.hdf5_parts import HDF5Parts
from monai_diffrecon.io.projections.projection_reader import PixelSize

_INSTRUMENT = "measurement/instrument"
#: Fields with the pixel size at the object, (along a row, along a column, unit when none is stated in mm).
_AT_OBJECT = (
    ("detection_system/objective/resolution", "detection_system/objective/resolution", 1e-3),
    ("detector/actual_pixel_size_x", "detector/actual_pixel_size_y", 1e3),
    ("detector/x_actual_pixel_size", "detector/y_actual_pixel_size", 1e3),
)
#: The same of the detector's own pixels, which a lens in front of it makes smaller.
_OF_DETECTOR = (
    ("detector/x_pixel_size", "detector/y_pixel_size", 1e3),
    ("detector/pixel_size_x", "detector/pixel_size_y", 1e3),
    ("detector/pixel_size", "detector/pixel_size", 1e3),
)
_MAGNIFICATION = "detection_system/objective/magnification"
_MM = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometers", "micrometre"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre"), 1e-6),
}
#: A detector's pixel (mm) is not smaller or larger than that.
_SMALLEST, _LARGEST = 1e-6, 5.0


def stated_pixel_size(parts: HDF5Parts) -> PixelSize | None:
    """Return the pixel size at the object, or None when the file states none that can be.

    A size at the object is preferred to one of the detector, which is divided by the objective's magnification if the
    file has that. Sizes without a unit are metres, as the format says, but micrometres of the objective's resolution.

    Raises:
        InputError: a field that is a link, or no dataset.
    """
    for x, y, scale in _AT_OBJECT:
        if (across := _size(parts, x, scale)) is not None:
            return PixelSize(across, _size(parts, y, scale) or across, x)
    lens, said = 1.0, ""
    if parts.dataset(parts.file, f"{_INSTRUMENT}/{_MAGNIFICATION}") is not None:
        lens = _number(parts, _MAGNIFICATION) or 0.0
        said = f" over the objective's magnification, {lens:g}"
    for x, y, scale in _OF_DETECTOR if lens > 0.0 else ():
        if (across := _size(parts, x, scale)) is not None:
            return PixelSize(across / lens, (_size(parts, y, scale) or across) / lens, f"{x}{said}")
    return None


def _size(parts: HDF5Parts, name: str, scale: float) -> float | None:
    """Return a length in mm, or None when it is missing or cannot be a pixel's."""
    value = _number(parts, name)
    if value is None:
        return None
    found = parts.file[f"{_INSTRUMENT}/{name}"]
    unit = parts.text(found, "units") or parts.text(found, "unit")
    factor = scale if unit is None else _MM.get(unit.strip().lower())
    if factor is None or not _SMALLEST <= value * factor <= _LARGEST:
        return None
    return value * factor


def _number(parts: HDF5Parts, name: str) -> float | None:
    """Return a number of the file's instrument; None when it is missing, or something else."""
    found = parts.dataset(parts.file, f"{_INSTRUMENT}/{name}")
    if found is None or found.size != 1 or found.dtype.kind not in "iuf":
        return None
    value = float(np.asarray(found[()]).reshape(-1)[0])
    return value if np.isfinite(value) else None
