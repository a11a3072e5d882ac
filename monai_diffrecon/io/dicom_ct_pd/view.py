# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""One DICOM-CT-PD file: a projection and where it was taken."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.dicom.header import PROJECTION_ANGLE, is_dicom, open_dicom, quiet_pydicom, syntax_of
from monai_diffrecon.io.dicom.pixels import read_pixels

#: Private attributes of the format, version 3: tag, and the format of numbers in files that do not state their type.
_TAGS: dict[str, tuple[int, str]] = {
    "rows": (0x70291010, "H"),
    "columns": (0x70291011, "H"),
    "column_spacing": (0x70291002, "f"),
    "row_spacing": (0x70291006, "f"),
    "shape": (0x7029100B, "s"),
    "angle": (PROJECTION_ANGLE, "f"),
    "z": (0x70311002, "f"),
    "source_distance": (0x70311003, "f"),
    "detector_distance": (0x70311031, "f"),
    "central_element": (0x70311033, "2f"),
    "shift_angle": (0x7033100B, "f"),
    "shift_z": (0x7033100C, "f"),
    "shift_radius": (0x7033100D, "f"),
    "log": (0x70391009, "s"),
    "mu_water": (0x70411001, "d"),
}
_PUBLIC = ("InstanceNumber", "RescaleSlope", "RescaleIntercept", "Rows", "Columns")
_NEEDED = ("rows", "columns", "column_spacing", "row_spacing", "angle", "z", "source_distance", "detector_distance")


@dataclass(frozen=True)
class View:
    """The header of a projection; lengths in mm.

    Attributes:
        path: the file.
        number: place in the order of the scan.
        detector: ``curved`` or ``flat``.
        columns: number of columns of the detector.
        rows: number of rows of the detector.
        column_spacing: distance of the columns, on the detector.
        row_spacing: distance of the rows, on the detector.
        angle: of the source, radians, from the top and against the clock as seen from the table.
        z: of the source, towards the gantry.
        source_distance: source to axis of rotation.
        detector_distance: source to detector.
        center: column and row, from 0, that the ray through the axis meets.
        shift: how far the flying focal spot is from where the source is taken to be.
        mu_water: linear attenuation of water, 1/mm; None when it is not stated.
    """

    path: Path
    number: int
    detector: str
    columns: int
    rows: int
    column_spacing: float
    row_spacing: float
    angle: float
    z: float
    source_distance: float
    detector_distance: float
    center: tuple[float, float]
    shift: float
    mu_water: float | None
    _pixels: tuple[Any, float, float]

    def lines(self) -> np.ndarray:
        """Return line integrals (columns, rows).

        Raises:
            InputError: they cannot be decoded, or are not of the detector's size.
        """
        syntax, slope, intercept = self._pixels
        stored = read_pixels(self.path, syntax)
        # Files have a column of the detector in each row of the image; some are written the other way round.
        if stored.shape == (self.rows, self.columns):
            stored = stored.T
        if stored.shape != (self.columns, self.rows):
            expected = f"{self.columns} columns and {self.rows} rows of the detector"
            raise InputError("of the wrong shape", where=self.path.name, expected=expected, got=stored.shape)
        return stored.astype(np.float64) * slope + intercept


def read_view(path: Path) -> View:
    """Read the header of a projection, not its pixels.

    Raises:
        InputError: not DICOM-CT-PD, damaged, or a detector or values of another kind.
    """
    dataset = _header(path)
    try:
        found = {name: _value(dataset, tag, form) for name, (tag, form) in _TAGS.items()}
        slope, intercept = (float(dataset.get(k, d)) for k, d in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
        number, size = int(dataset.InstanceNumber), (int(dataset.Rows), int(dataset.Columns))
        syntax = syntax_of(dataset)
    except Exception as error:  # pydicom raises whatever a damaged value provokes
        raise InputError("cannot be read as DICOM-CT-PD", where=path.name, got=type(error).__name__) from None
    missing = [name for name in _NEEDED if found[name] is None]
    if missing:
        raise InputError(
            "not a DICOM-CT-PD projection", where=path.name, expected=f"the attributes {', '.join(missing)}"
        )
    rows, columns = int(found["rows"]), int(found["columns"])
    lengths = [found[k] for k in ("column_spacing", "row_spacing", "source_distance", "detector_distance")]
    numbers = [*lengths, found["angle"], found["z"], slope, intercept]
    if not np.isfinite(numbers).all() or min(lengths) <= 0 or {rows, columns} != set(size) or min(size) < 1:
        raise InputError("sizes or positions that cannot be", where=path.name, mend="copy the scan again")
    shape = str(found["shape"] or "CYLINDRICAL").upper()
    if shape not in ("CYLINDRICAL", "FLAT"):
        raise InputError("a detector that is not read", where=path.name, expected="CYLINDRICAL or FLAT", got=shape[:20])
    if str(found["log"] or "YES").upper() != "YES":
        raise InputError("not line integrals", where=path.name, expected="LogFlag YES")
    column, row = found["central_element"] or ((columns + 1) / 2, (rows + 1) / 2)
    turn, along, radius = (float(found[k] or 0.0) for k in ("shift_angle", "shift_z", "shift_radius"))
    water = found["mu_water"]
    return View(
        path=path,
        number=number,
        detector="flat" if shape == "FLAT" else "curved",
        columns=columns,
        rows=rows,
        column_spacing=lengths[0],
        row_spacing=lengths[1],
        angle=float(found["angle"]),
        z=float(found["z"]),
        source_distance=lengths[2],
        detector_distance=lengths[3],
        center=(float(column) - 1.0, float(row) - 1.0),
        shift=max(abs(turn) * lengths[2], abs(along), abs(radius)),
        mu_water=None if water is None or not 0.01 < float(water) < 0.1 else float(water),
        _pixels=(syntax, slope, intercept),
    )


def _header(path: Path) -> Any:
    from pydicom import dcmread

    if not is_dicom(path):
        raise InputError("not a DICOM file", where=path.name, expected="DICM at byte 128")
    tags = [*_PUBLIC, *(tag for tag, _ in _TAGS.values())]
    try:
        with open_dicom(path) as file, quiet_pydicom():
            return dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True)
    except InputError:
        raise
    except Exception as error:  # as above
        raise InputError("cannot be read as DICOM", where=path.name, got=type(error).__name__) from None


def _value(dataset: Any, tag: int, form: str) -> Any:
    """Return a number, two, or a text; None when it is missing. Files without stated types hold bytes."""
    if tag not in dataset:
        return None
    value = dataset[tag].value
    if isinstance(value, bytes) and form in ("s", "d"):
        value = value.decode("ascii").strip("\0 ")
    elif isinstance(value, bytes):
        read = struct.unpack(f"<{form}", value)
        value = read if len(read) > 1 else read[0]
    if form == "s":
        return str(value).strip() or None
    return tuple(float(x) for x in value) if form == "2f" else float(value)
