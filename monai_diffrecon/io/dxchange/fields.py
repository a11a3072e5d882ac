# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The projections, fields and angles of a DXchange file, checked before they are read."""

from __future__ import annotations

from dataclasses import dataclass, field

import h5py
import numpy as np

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_integer
from monai_diffrecon.io.measurement.hdf5_parts import HDF5Parts
from monai_diffrecon.numerics.ct.flat_field import count_floor, flat_field_line_integrals
from monai_diffrecon.numerics.ct.scan_angles import MOST_VIEWS, scan_angles

_COUNTS = ("uint8", "uint16", "uint32", "int16", "int32", "float32", "float64")
_ANGLES = ("float32", "float64", "int32", "int64")
_UNITS = {
    **dict.fromkeys(("degrees", "degree", "deg", "\u00b0"), "degrees"),
    **dict.fromkeys(("radians", "radian", "rad"), "radians"),
}
#: Bytes of the counts, as floats, that are worked on at once.
_AT_ONCE = 1 << 26


@dataclass
class Exchange:
    """What was measured, of the rows that are wanted; lines are read when asked for.

    Attributes:
        data: the projections (views, rows, columns).
        degrees: angles of the views.
        first: first row.
        beam: mean of the white fields less ``dark``, (rows, columns).
        dark: mean of the dark fields, (rows, columns).
        floor: counts below which nothing was measured, (rows, columns).
        where: name of the dataset for messages.
        notices: what is assumed.
    """

    data: h5py.Dataset
    degrees: tuple[float, ...]
    first: int
    beam: np.ndarray
    dark: np.ndarray
    floor: np.ndarray
    where: str
    notices: tuple[str, ...] = ()
    _low: int = field(default=0, init=False)

    @property
    def rows(self) -> int:
        """Number of rows that are wanted."""
        return int(self.beam.shape[0])

    @property
    def columns(self) -> int:
        """Number of columns."""
        return int(self.beam.shape[1])

    @property
    def block(self) -> int:
        """Number of views to read at once."""
        return max(_AT_ONCE // (8 * self.beam.size), 1)

    def lines(self, views: list[int], *, count: bool = False) -> np.ndarray:
        """Return line integrals (views, rows, columns).

        Args:
            views: which ones, rising.
            count: count what is clipped.

        Raises:
            InputError: counts that are not finite.
        """
        whole = views[-1] - views[0] == len(views) - 1  # much faster than a list
        chosen = slice(views[0], views[-1] + 1) if whole else views
        counts = _finite(self.data[chosen, self.first : self.first + self.rows], self.where)
        lines, low = flat_field_line_integrals(counts, self.beam, self.dark, self.floor)
        self._low += low if count else 0
        return lines

    def clipped(self, views: int) -> list[str]:
        """Return what to say of the counts that were clipped in so many views."""
        if not self._low:
            return []
        total = views * self.beam.size
        return [
            f"{self._low} of {total} counts lie within the noise of the dark fields: their line integrals are clipped"
        ]


def read_exchange(parts: HDF5Parts, rows: tuple[int, int] | None, unit: str | None) -> Exchange:
    """Return the scan of a file; of the projections only the shape is looked at.

    Args:
        parts: the open file.
        rows: first and stop of the rows that are wanted; None for all.
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
    first, stop = rows or (0, data.shape[1])
    check_integer(stop, "reader#rows", low=1, high=data.shape[1])
    whites, darks = (_frames(parts, name, data, slice(first, stop)) for name in ("data_white", "data_dark"))
    if whites is None:
        raise InputError(
            "no white fields", where=parts.where, expected="a dataset /exchange/data_white, the beam without the object"
        )
    notices = []
    if darks is None:
        darks = np.zeros((1, *whites.shape[1:]))
        notices.append("the file has no dark fields: 0 is assumed")
    dark = darks.mean(axis=0)
    beam = whites.mean(axis=0) - dark
    if not (beam > 0.0).all():
        row, column = np.argwhere(beam <= 0.0)[0]
        raise InputError(
            "white fields that are not brighter than the dark fields",
            where=f"{parts.where}#exchange/data_white",
            expected="a beam in each pixel",
            got=f"none in {np.count_nonzero(beam <= 0.0)} of {beam.size}, first in row {first + row}, column {column}",
            mend="select other rows by the reader's option rows, or fill in dead pixels",
        )
    degrees = _degrees(parts, data.shape[0], unit)
    return Exchange(data, degrees, first, beam, dark, count_floor(beam, darks), where, tuple(notices))


def _dataset(parts: HDF5Parts, name: str, dtypes: tuple[str, ...]) -> h5py.Dataset | None:
    return parts.dataset(parts.file, f"exchange/{name}", dtypes)


def _finite(values: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise InputError("numbers that are not finite", where=where, mend="repair the measurement")
    return values.astype(np.float64)


def _frames(parts: HDF5Parts, name: str, data: h5py.Dataset, rows: slice) -> np.ndarray | None:
    """Return white or dark fields (frames, rows, columns), or None when there are none."""
    found = _dataset(parts, name, _COUNTS)
    if found is None or 0 in found.shape[:-2]:
        return None
    where = f"{parts.where}#exchange/{name}"
    if found.ndim not in (2, 3) or found.shape[-2:] != data.shape[1:]:
        expected = f"(frames, {data.shape[1]}, {data.shape[2]}), as the projections"
        raise InputError("of the wrong shape", where=where, expected=expected, got=found.shape)
    frames = _finite(found[..., rows, :], where)
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
    angles = _finite(np.asarray(found[()]).reshape(-1), where)
    try:
        degrees = scan_angles(None, angles.tolist(), 180.0, 0.0, unit)
    except ConfigError as error:
        raise InputError(error.what, where=where, expected=error.expected, got=error.got, mend=mend) from None
    return tuple(round(angle, 9) for angle in degrees)
