# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The projections, fields and angles of a DXchange file, checked before they are read."""

from __future__ import annotations

from collections.abc import Callable

import h5py
import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.hdf5_parts import HDF5Parts
from monai_diffrecon.io.projections.scan import ProjectionScan, finite, mean_fields, view_degrees
from monai_diffrecon.numerics.ct.scan_angles import MOST_VIEWS

_COUNTS = ("uint8", "uint16", "uint32", "int16", "int32", "float32", "float64")
_ANGLES = ("float32", "float64", "int32", "int64")
_UNITS = {
    **dict.fromkeys(("degrees", "degree", "deg", "\u00b0"), "degrees"),
    **dict.fromkeys(("radians", "radian", "rad"), "radians"),
}


def read_exchange(parts: HDF5Parts, chosen_rows: Callable[[int], tuple[int, int]], unit: str | None) -> ProjectionScan:
    """Return the scan of a file; of the projections only the shape is looked at.

    Args:
        parts: the open file.
        chosen_rows: returns the first and the stop of the rows that are wanted of so many.
        unit: of the angles; None takes what the file says.

    Raises:
        InputError: something is missing, of a wrong shape, not finite, or without a beam.
        ConfigError: rows that the file does not have.
    """
    data = _dataset(parts, "data", _COUNTS)
    if data is None:
        raise InputError("not a DXchange file", where=parts.where, expected="a dataset /exchange/data")
    where = f"{parts.where}#exchange/data"
    if data.ndim != 3 or not all(data.shape) or data.shape[0] > MOST_VIEWS:
        raise InputError("of the wrong shape", where=where, expected="(views, rows, columns)", got=data.shape)
    first, stop = chosen_rows(data.shape[1])
    whites, darks = (_frames(parts, name, data, slice(first, stop)) for name in ("data_white", "data_dark"))
    if whites is None:
        raise InputError(
            "no white fields", where=parts.where, expected="a dataset /exchange/data_white, the beam without the object"
        )
    fields = mean_fields(whites, darks, first, f"{parts.where}#exchange/data_white")
    return ProjectionScan(data, _degrees(parts, data.shape[0], unit), first, stop, where, fields)


def _dataset(parts: HDF5Parts, name: str, dtypes: tuple[str, ...]) -> h5py.Dataset | None:
    return parts.dataset(parts.file, f"exchange/{name}", dtypes)


def _frames(parts: HDF5Parts, name: str, data: h5py.Dataset, rows: slice) -> np.ndarray | None:
    """Return white or dark fields (frames, rows, columns), or None when there are none."""
    found = _dataset(parts, name, _COUNTS)
    if found is None or 0 in found.shape[:-2]:
        return None
    where = f"{parts.where}#exchange/{name}"
    if found.ndim not in (2, 3) or found.shape[-2:] != data.shape[1:]:
        expected = f"(frames, {data.shape[1]}, {data.shape[2]}), as the projections"
        raise InputError("of the wrong shape", where=where, expected=expected, got=found.shape)
    frames = finite(found[..., rows, :], where)
    return frames if frames.ndim == 3 else frames[None]


def _degrees(parts: HDF5Parts, views: int, unit: str | None) -> tuple[float, ...]:
    """Return the angles in degrees."""
    found, where = _dataset(parts, "theta", _ANGLES), f"{parts.where}#exchange/theta"
    mend = "state degrees or radians by the reader's option angles_unit"
    if found is None:
        raise InputError("no angles", where=parts.where, expected="a dataset /exchange/theta")
    if found.size != views:
        raise InputError("of the wrong shape", where=where, expected=f"({views},), one per view", got=found.shape)
    said = parts.text(found, "units") or parts.text(found, "unit")
    if unit is None and said is not None:
        unit = _UNITS.get(said.strip().lower())
        if unit is None:
            raise InputError(
                "an unknown unit", where=f"{where}@units", expected="degrees or radians", got=said[:40], mend=mend
            )
    return view_degrees(found[()], unit, where)
