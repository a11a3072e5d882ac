# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Projections of synchrotrons and micro-CT in the DXchange layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_choice, check_integer, check_number
from monai_diffrecon.io.dxchange.fields import Exchange, read_exchange
from monai_diffrecon.io.dxchange.pixels import stated_pixel_size
from monai_diffrecon.io.measurement.hdf5_parts import open_hdf5
from monai_diffrecon.numerics.ct.rotation_center import rotation_center
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.protocols import Measurement, MeasurementReader, VolumeGeometry

_ORIENTATION = (
    "the file does not say how the object lay, nor from which side the detector is seen: the volume's orientation "
    "stays unknown, and it may be a mirror image"
)
#: Opposite projections that are less alike than this are not of one axis, or leave doubts.
_UNLIKE, _DOUBTFUL = 0.8, 0.95
#: So far may rows disagree on the axis (columns), and pairs be from half a turn (degrees), without doubts.
_SPREAD, _MISMATCH = 0.5, 4.0
#: The object is cut off when the border of the detector shows this part of what its middle shows.
_CUT_OFF = 0.05


class DXchangeReader(MeasurementReader):
    """Parallel-beam projections in the DXchange layout (Scientific Data Exchange, De Carlo et al. 2014), as TomoPy's.

    ``/exchange/data`` (views, rows, columns), ``data_white``, ``data_dark`` and ``theta`` of one HDF5 file become line
    integrals ``-ln((p - d) / (w - d))`` (views, columns, rows) with means of the white and dark fields; each detector
    row is a slice. Counts below the noise of the dark fields are clipped. What is assumed or found stands in the
    notices. Options that select are applied while reading, so that a part of a large file needs little memory.

    Args:
        pixel_size: of the detector at the object, mm. None takes what the file states, or else 1 and the unit
            ``arbitrary``: values are per pixel then.
        center: column of the axis of rotation; 0 is the middle of the first column, as TomoPy counts. None finds it
            from projections half a turn apart.
        rows: detector rows to read, first and stop (excluded). None reads all.
        views: number of views to keep of those measured, spread evenly. None keeps all.
        binning: mean of the line integrals of so many pixels along rows and columns; what is left over at the end is
            dropped.
        angles_unit: ``degrees`` or ``radians`` of ``theta``. None takes what the file says, degrees without a word, but
            numbers that look like radians are refused then.
    """

    def __init__(
        self,
        pixel_size: float | None = None,
        center: float | None = None,
        rows: Sequence[int] | None = None,
        views: int | None = None,
        binning: int = 1,
        angles_unit: str | None = None,
    ) -> None:
        size = "reader#pixel_size"
        self.pixel_size = None if pixel_size is None else check_number(pixel_size, size, low=0.0, open_low=True)
        self.center = None if center is None else check_number(center, "reader#center", low=0.0)
        self.rows = None if rows is None else _range(rows)
        self.views = None if views is None else check_integer(views, "reader#views", low=1)
        self.binning = check_integer(binning, "reader#binning", low=1)
        units = ("degrees", "radians")
        self.unit = None if angles_unit is None else check_choice(angles_unit, "reader#angles_unit", units)

    def recognises(self, path: Path) -> bool:
        """Say whether the file is HDF5 with a dataset ``/exchange/data`` of its own."""
        try:
            with open_hdf5(path) as parts:
                return parts.dataset(parts.file, "exchange/data") is not None
        except (InputError, OSError):
            return False

    def read(self, path: Path) -> Measurement:
        """Return the line integrals (views, columns, rows).

        Raises:
            InputError: damaged, incomplete, of another layout, without a beam somewhere, or the axis of rotation or the
                unit of the angles cannot be told.
            ConfigError: an option that does not fit to the file.
        """
        path = Path(path)
        with open_hdf5(path) as parts:
            scan = read_exchange(parts, self.rows, self.unit)
            stated = stated_pixel_size(parts) if self.pixel_size is None else None
            center, found = self._center(scan, path.name)
            kept = self._kept(len(scan.degrees))
            lines = self._binned(scan, kept)
        notices = [_ORIENTATION, *scan.notices]
        if self.pixel_size is not None:
            across = along = self.pixel_size
        elif stated is not None:
            across, along = stated.across, stated.along
            notices.append(f"the pixel size was taken from {stated.source}: {across:.6g} mm at the object")
        else:
            across = along = 1.0
            notices.append("the file does not state its pixel size: 1 is assumed, and values are per pixel")
        notices += [found] if found else []
        notices += scan.clipped(len(kept))
        notices += _cut_off(lines)
        _, columns, rows = lines.shape
        n = self.binning
        # The middle of the kept columns, from the axis, both counted in pixels as measured.
        offset = (columns * n - 1) / 2 - center
        spec: dict[str, Any] = {
            "name": "parallel_ct",
            "angles": [scan.degrees[i] for i in kept],
            "angles_unit": "degrees",
            "detectors": columns,
            "detector_spacing": n * across,
            "detector_offset": offset * across,
        }
        return Measurement(
            data=torch.from_numpy(lines),
            geometry=VolumeGeometry((columns, columns, rows), (n * across, n * across, n * along)),
            operator=spec,
            unit="arbitrary" if self.pixel_size is None and stated is None else "1/mm",
            source_sha256=sha256_file(path),
            notices=tuple(notices),
        )

    def _center(self, scan: Exchange, where: str) -> tuple[float, str | None]:
        """Return the column of the axis, and what to say of it when it was found."""
        last = scan.columns - 1
        if self.center is not None:
            return check_number(self.center, "reader#center", low=0.0, high=last), None
        mend = "give the column of the axis of rotation by the reader's option center"
        found = rotation_center(np.asarray(scan.degrees), lambda i: scan.lines([i])[0])
        if found is None:
            expected = "projections half a turn apart"
            raise InputError("the rotation axis cannot be determined", where=where, expected=expected, mend=mend)
        if found.agreement < _UNLIKE or not 0.0 <= found.column <= last:
            raise InputError(
                "the rotation axis cannot be determined",
                where=where,
                expected="projections half a turn apart that are mirror images",
                got=f"a correlation of {found.agreement:.2f}",
                mend=mend,
            )
        said = f"the axis of rotation was found at column {found.column:.2f} of 0 to {last}"
        if found.agreement < _DOUBTFUL or found.spread > _SPREAD or found.mismatch > _MISMATCH:
            said += ", which is uncertain: compare the volumes of several values of the reader's option center"
        return found.column, said

    def _kept(self, measured: int) -> list[int]:
        if self.views is None:
            return list(range(measured))
        count = check_integer(self.views, "reader#views", low=1, high=measured)
        return [i * measured // count for i in range(count)]

    def _binned(self, scan: Exchange, kept: list[int]) -> np.ndarray:
        """Return line integrals (views, columns, rows), float32."""
        n = check_integer(self.binning, "reader#binning", low=1, high=min(scan.columns, scan.rows))
        rows, columns = scan.rows // n, scan.columns // n
        lines = np.empty((len(kept), columns, rows), dtype=np.float32)
        for start in range(0, len(kept), scan.block):
            part = scan.lines(kept[start : start + scan.block], count=True)[:, : rows * n, : columns * n]
            mean = part.reshape(-1, rows, n, columns, n).mean(axis=(2, 4))
            lines[start : start + scan.block] = mean.transpose(0, 2, 1)
        return lines


def _range(rows: Sequence[int]) -> tuple[int, int]:
    if not isinstance(rows, Sequence) or len(rows) != 2:
        raise ConfigError("not a range", where="reader#rows", expected="[first, stop]", got=repr(rows)[:80])
    first = check_integer(rows[0], "reader#rows", low=0)
    return first, check_integer(rows[1], "reader#rows", low=first + 1)


def _cut_off(lines: np.ndarray) -> list[str]:
    """Return what to say when the object reaches beyond the detector."""
    profile = lines.mean(axis=(0, 2))
    width = max(len(profile) // 100, 1)
    border = max(abs(profile[:width].mean()), abs(profile[-width:].mean()))
    if border <= _CUT_OFF * abs(profile).max():
        return []
    return [
        "the object reaches beyond the detector, or the beam changed between projections and white fields: values are "
        "not quantitative, least of all near the border"
    ]
