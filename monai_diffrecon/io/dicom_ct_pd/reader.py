# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Helical DICOM-CT-PD scans, rebinned to a fan beam for each slice."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_integer, check_number
from monai_diffrecon.io.dicom.header import dicom_files, is_projection
from monai_diffrecon.io.dicom_ct_pd.view import View, read_view
from monai_diffrecon.numerics.ct.attenuation import MU_WATER
from monai_diffrecon.numerics.ct.helical import single_slice_rebinning
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.protocols import Measurement, MeasurementReader, VolumeGeometry

_REBINNED = (
    "each slice is a fan beam that was rebinned from the helix: that rays lean to the slices is ignored beyond the "
    "middle of their way, and what changes quickly along the axis is blurred"
)
_POSITION = "the files do not say how the patient lay: head first and on the back is assumed"


class DicomCTPDReader(MeasurementReader):
    """A helical scan in the open format DICOM-CT-PD (Chen et al. 2015, Med. Phys. 42, 6964): a folder, a file a view.

    Views are rebinned to a full turn of fan-beam views of each slice, of the turn that is nearest
    (``numerics.ct.helical``), for ``fan_ct``. Positions are those of the headers. When the attenuation of water is
    stated, line integrals are scaled to that of this package, and the unit is HU. Ignored are the displacements of a
    flying focal spot, the photon statistics, and what the cone angle does beyond single-slice rebinning.

    Args:
        views: number of angles to keep of those of a turn, spread evenly; other files are not decoded. None keeps all.
        slice_spacing: distance of the slices, mm. None: that of the detector rows at the axis.
        slices: slices to rebin, first and stop (excluded), of those that a whole turn covers. None takes all.
    """

    def __init__(
        self, views: int | None = None, slice_spacing: float | None = None, slices: list[int] | None = None
    ) -> None:
        self.views = None if views is None else check_integer(views, "reader#views", low=1)
        spacing = "reader#slice_spacing"
        self.spacing = None if slice_spacing is None else check_number(slice_spacing, spacing, low=0.0, open_low=True)
        if slices is not None and (not isinstance(slices, list | tuple) or len(slices) != 2):
            raise ConfigError("not a range", where="reader#slices", expected="[first, stop]", got=repr(slices)[:80])
        self.slices = slices

    def recognises(self, path: Path) -> bool:
        """Say whether it is a folder whose first DICOM file is a projection."""
        try:
            return path.is_dir() and is_projection(dicom_files(path)[0])
        except (InputError, OSError):
            return False

    def read(self, path: Path) -> Measurement:
        """Return line integrals (views, columns, slices) of a fan beam.

        Raises:
            InputError: no folder of projections, damaged, of several scanners, not a helix, or too fast a table.
            ConfigError: an option that does not fit to the scan.
        """
        path = Path(path)
        if not path.is_dir():
            raise InputError("not a folder of projections", where=path.name, expected="a folder, a file for each view")
        views = sorted(map(read_view, dicom_files(path)), key=lambda view: view.number)
        first = views[0]
        _check_one_scanner(views, path.name)
        turn = _views_of_a_turn(views, path.name)
        feed = abs(views[-1].z - first.z) / (len(views) - 1) * turn
        magnified = first.source_distance / first.detector_distance
        at_axis = first.row_spacing * magnified
        if not 0.0 < feed <= first.rows * at_axis:
            expected = f"above 0 up to {first.rows * at_axis:.4g} mm, the height of the detector at the axis"
            raise InputError(
                "a table feed that cannot be rebinned", where=path.name, expected=expected, got=f"{feed:.4g} mm"
            )
        spacing = self.spacing or at_axis
        positions = np.array([view.z for view in views])
        if np.abs(positions - np.linspace(first.z, views[-1].z, len(views))).max() > feed / 2:
            raise InputError("a table that does not move evenly", where=path.name, expected="a helix")
        heights = self._heights(positions, feed, spacing, path.name)
        kept = turn if self.views is None else check_integer(self.views, "reader#views", low=1, high=turn)
        bins = [k * turn // kept for k in range(kept)]
        columns = np.arange(first.columns) - first.center[0]
        scale = 1.0 if first.mu_water is None else MU_WATER / first.mu_water
        fan, reach = _fan(first, columns * first.column_spacing)
        lines = np.empty((kept, first.columns, len(heights)), dtype=np.float32)
        for k, start in enumerate(bins):
            of_bin = views[start::turn]
            distance = np.abs(positions[start::turn, None] - heights)
            nearest = distance.argmin(axis=0)
            for i in np.unique(nearest):
                view, chosen = of_bin[i], nearest == i
                lines[k][:, chosen] = scale * single_slice_rebinning(
                    view.lines(), fan, reach, view.source_distance, heights[chosen] - view.z, view.row_spacing,
                    view.center[1],
                )  # fmt: skip
        # The file's axes (left-handed) run to the patient's left, front and head: mirrored, they are RAS+.
        angles = [round((180.0 - math.degrees(views[i].angle)) % 360.0, 9) for i in bins]
        pixel = first.column_spacing * magnified
        side = max(math.floor(2.0 * first.source_distance * math.sin(np.abs(fan).max()) / pixel), 1)
        shift = max(view.shift for view in views)
        notices = [_REBINNED, _POSITION]
        if shift > 0.0:
            notices.append(f"the flying focal spot is ignored: it moves by up to {shift:.2g} mm")
        hashes = sorted(sha256_file(view.path) for view in views)
        return Measurement(
            data=torch.from_numpy(lines),
            geometry=VolumeGeometry((side, side, len(heights)), (pixel, pixel, spacing)),
            operator={
                "name": "fan_ct",
                "source_distance": first.source_distance,
                "detector_distance": first.detector_distance,
                "detector": first.detector,
                "angles": angles,
                "angles_unit": "degrees",
                "detectors": first.columns,
                "detector_spacing": first.column_spacing,
                "detector_offset": ((first.columns - 1) / 2 - first.center[0]) * first.column_spacing,
            },
            unit="1/mm" if first.mu_water is None else "HU",
            source_sha256=hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
            notices=tuple(notices),
        )

    def _heights(self, positions: np.ndarray, feed: float, spacing: float, where: str) -> np.ndarray:
        """Return z of the slices that a whole turn covers, or of those that are wanted."""
        low, high = float(positions.min()) + feed / 2, float(positions.max()) - feed / 2
        if high < low:
            raise InputError("less than a turn", where=where, expected="a helix of more than one turn")
        heights = low + spacing * np.arange(math.floor((high - low) / spacing + 1e-6) + 1)
        if self.slices is None:
            return heights
        first = check_integer(self.slices[0], "reader#slices", low=0, high=len(heights) - 1)
        return heights[first : check_integer(self.slices[1], "reader#slices", low=first + 1, high=len(heights))]


def _fan(view: View, across: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the angles of the columns in the fan, and how far they are from the source (mm)."""
    far = view.detector_distance
    if view.detector == "curved":
        return across / far, np.full(len(across), far)
    return np.arctan(across / far), np.hypot(across, far)


def _check_one_scanner(views: list[View], where: str) -> None:
    """Refuse views of detectors that differ, of which a fan beam can have only one."""
    sizes = {(v.detector, v.columns, v.rows) for v in views}
    lengths = np.array([[v.column_spacing, v.row_spacing, v.source_distance, v.detector_distance] for v in views])
    centers = np.array([v.center for v in views])
    if len(sizes) > 1 or np.ptp(lengths, axis=0).max() > 0.1 or np.ptp(centers, axis=0).max() > 0.01:
        raise InputError("views of several detectors", where=where, expected="a folder with the views of one")


def _views_of_a_turn(views: list[View], where: str) -> int:
    """Return after how many views the angles repeat."""
    angles = np.array([view.angle for view in views])
    steps = (np.diff(angles) + np.pi) % (2 * np.pi) - np.pi
    step = float(np.abs(np.median(steps))) if len(steps) else 0.0
    turn = round(2 * np.pi / step) if step > 2 * np.pi / len(views) else 0
    again = (angles[turn:] - angles[:-turn] + np.pi) % (2 * np.pi) - np.pi if turn else np.array([np.inf])
    if np.abs(again).max() > step / 2:
        expected = "more than a turn of equal steps, in the order of InstanceNumber, none missing"
        raise InputError("angles that are not those of a helix", where=where, expected=expected)
    return turn
