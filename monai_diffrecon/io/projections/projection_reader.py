# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Projections as a measurement: the axis of rotation, the views and rows that are kept, binning, rings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_choice, check_flag, check_integer, check_number
from monai_diffrecon.io.projections.scan import ProjectionScan
from monai_diffrecon.numerics.ct.rings import without_rings
from monai_diffrecon.numerics.ct.rotation_center import rotation_center
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


@dataclass(frozen=True)
class PixelSize:
    """A pixel size and where it comes from.

    Attributes:
        across: distance of the columns in mm.
        along: distance of the rows in mm.
        source: the field of the file, and what was made of it.
    """

    across: float
    along: float
    source: str


@dataclass(frozen=True)
class Fan:
    """A fan beam.

    Attributes:
        source_distance: source to axis of rotation, mm.
        detector_distance: source to detector, mm.
        detector: ``flat`` or ``curved``.
    """

    source_distance: float
    detector_distance: float
    detector: str = "flat"


class ProjectionReader(MeasurementReader):
    """What readers of projections share: they differ in how they find projections, fields and angles.

    Args:
        pixel_size: of the detector at the object (fan beam: of the detector itself), mm. None takes what the scan
            states, or else 1 and the unit ``arbitrary``: values are per pixel then.
        center: column of the axis of rotation; 0 is the middle of the first column, as TomoPy counts. None takes what
            the scan states, or finds it from projections half a turn apart.
        rows: detector rows to read, first and stop (excluded). None reads all.
        views: number of views to keep of those measured, spread evenly. None keeps all.
        binning: mean of the line integrals of so many pixels along rows and columns; what is left over at the end is
            dropped.
        angles_unit: ``degrees`` or ``radians``. None takes what the scan says, degrees without a word, but numbers
            that look like radians are refused then.
        rings: take out rings of uneven pixels (``numerics.ct.rings``). None does what the scan says, or else not.
    """

    def __init__(
        self,
        pixel_size: float | None = None,
        center: float | None = None,
        rows: Sequence[int] | None = None,
        views: int | None = None,
        binning: int = 1,
        angles_unit: str | None = None,
        rings: bool | None = None,
    ) -> None:
        size = "reader#pixel_size"
        self.pixel_size = None if pixel_size is None else check_number(pixel_size, size, low=0.0, open_low=True)
        self.center = None if center is None else check_number(center, "reader#center", low=0.0)
        self.rows = None if rows is None else _range(rows)
        self.views = None if views is None else check_integer(views, "reader#views", low=1)
        self.binning = check_integer(binning, "reader#binning", low=1)
        units = ("degrees", "radians")
        self.unit = None if angles_unit is None else check_choice(angles_unit, "reader#angles_unit", units)
        self.rings = None if rings is None else check_flag(rings, "reader#rings")

    def chosen_rows(self, measured: int) -> tuple[int, int]:
        """Return the first and the stop of the rows that are wanted of so many.

        Raises:
            ConfigError: there are not that many.
        """
        first, stop = self.rows or (0, measured)
        return first, check_integer(stop, "reader#rows", low=1, high=measured)

    def measurement(
        self,
        scan: ProjectionScan,
        where: str,
        sha256: str,
        stated: PixelSize | None = None,
        center: float | None = None,
        fan: Fan | None = None,
        rings: bool = False,
    ) -> Measurement:
        """Return line integrals (views, columns, rows) with an operator ``parallel_ct`` or ``fan_ct``.

        Args:
            scan: the projections.
            where: name of the scan for messages.
            sha256: hash of its files.
            stated: the pixel size that it states.
            center: the column of the axis that it states.
            fan: None for parallel beams.
            rings: whether it asks for rings to be taken out.

        Raises:
            InputError: numbers that are not finite, or no axis can be found.
            ConfigError: an option that does not fit to the scan.
        """
        column, found = self._center(scan, where, center, fan)
        kept = self._kept(len(scan.degrees))
        lines = self._binned(scan, kept)
        notices = [_ORIENTATION, *scan.notices(len(kept))]
        if self.pixel_size is not None:
            across = along = self.pixel_size
        elif stated is not None:
            across, along = stated.across, stated.along
            notices.append(f"the pixel size was taken from {stated.source}: {across:.6g} mm")
        else:
            across = along = 1.0
            notices.append("the file does not state its pixel size: 1 is assumed, and values are per pixel")
        notices += [found] if found else []
        notices += _cut_off(lines)
        if rings if self.rings is None else self.rings:
            lines = without_rings(lines)
        _, columns, rows = lines.shape
        n = self.binning
        spec: dict[str, Any] = {
            "name": "parallel_ct",
            "angles": [scan.degrees[i] for i in kept],
            "angles_unit": "degrees",
            "detectors": columns,
            "detector_spacing": n * across,
            # The middle of the kept columns, from the axis, both counted in pixels as measured.
            "detector_offset": ((columns * n - 1) / 2 - column) * across,
        }
        if fan is not None:
            spec |= {"name": "fan_ct", **vars(fan)}
            across, along = (size * fan.source_distance / fan.detector_distance for size in (across, along))
            if rows > 1:
                notices.append("each row is taken for a fan of its own: that rays lean to the slices is ignored")
        return Measurement(
            data=torch.from_numpy(lines),
            geometry=VolumeGeometry((columns, columns, rows), (n * across, n * across, n * along)),
            operator=spec,
            unit="arbitrary" if self.pixel_size is None and stated is None else "1/mm",
            source_sha256=sha256,
            notices=tuple(notices),
        )

    def _center(
        self, scan: ProjectionScan, where: str, stated: float | None, fan: Fan | None
    ) -> tuple[float, str | None]:
        """Return the column of the axis, and what to say of it when it was found or assumed."""
        last = scan.columns - 1
        if self.center is not None:
            return check_number(self.center, "reader#center", low=0.0, high=last), None
        if stated is not None:
            return check_number(stated, f"{where}#center", low=0.0, high=last), None
        if fan is not None:
            return last / 2, "the central ray is assumed to meet the middle of the detector"
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

    def _binned(self, scan: ProjectionScan, kept: list[int]) -> np.ndarray:
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
