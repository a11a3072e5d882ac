# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reader of a folder of cone-beam projections."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from diffrecon_rtk.machine_files import ELEKTA, IMAGES, OBI, TRUEBEAM, Stack, read_machine_geometry, read_stack
from diffrecon_rtk.trajectory import Detector, Trajectory, options_of, sides_at_axis
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_choice, check_integer, check_number
from monai_diffrecon.numerics.ct.flat_field import count_floor, flat_field_line_integrals
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.protocols import Measurement, MeasurementReader, VolumeGeometry

_SUFFIXES = OBI + TRUEBEAM + ELEKTA + IMAGES
_ORIENTATION = "the files do not say how the patient lay: the volume's orientation stays unknown"


class RTKProjectionsReader(MeasurementReader):
    """A folder of cone-beam projections with their geometry, read by RTK, for ``cone_beam_ct``.

    Projections are the files ending in .his (Elekta), .hnd, .hnc, .xim (Varian), .mha or .tif, in the order of the
    numbers in their names; the geometry is an XML file of RTK or of the machine. Counts p become line integrals
    ``-ln((p - d) / (w - d))`` with weights ``(p - d) / mean(w - d)``, the inverse variances of photons. Nothing about
    the patient is read.

    Args:
        geometry: name of the geometry in the folder. None: its only .xml file.
        flat: the counts w without the object: a number, or the name of an image in the folder. None: the projections
            are line integrals.
        dark: the counts d without the beam, likewise.
        views: number of views to keep of those measured, spread evenly. None keeps all.
        binning: mean of the line integrals of so many pixels along rows and columns; what is left over at the end is
            dropped.
        shape: voxels of the volume. None: as many as hold what the detector sees.
        spacing: voxel size in mm. None: of the (binned) pixels at the isocentre.
        unit: ``HU`` or ``1/mm``, of the volume.
    """

    API_VERSION: ClassVar[int] = 1

    def __init__(
        self,
        geometry: str | None = None,
        flat: float | str | None = None,
        dark: float | str = 0.0,
        views: int | None = None,
        binning: int = 1,
        shape: Sequence[int] | None = None,
        spacing: float | None = None,
        unit: str = "HU",
    ) -> None:
        self.geometry = geometry
        self.flat = flat if flat is None or isinstance(flat, str) else check_number(flat, "reader#flat", low=0.0)
        self.dark = dark if isinstance(dark, str) else check_number(dark, "reader#dark", low=0.0)
        self.views = None if views is None else check_integer(views, "reader#views", low=1)
        self.binning = check_integer(binning, "reader#binning", low=1)
        self.shape = None if shape is None else _shape(shape)
        size = "reader#spacing"
        self.spacing = None if spacing is None else check_number(spacing, size, low=0.0, open_low=True)
        self.unit = check_choice(unit, "reader#unit", ("HU", "1/mm"))

    def recognises(self, path: Path) -> bool:
        """Say whether it is a folder with an XML file and projections."""
        suffixes = {file.suffix for file in path.iterdir()} if path.is_dir() else set()
        return ".xml" in suffixes and not suffixes.isdisjoint(_SUFFIXES)

    def read(self, path: Path) -> Measurement:
        """Return the line integrals (views, columns, rows).

        Raises:
            InputError: no projections, no geometry or one of another number of views, damaged files, or pixels without
                a beam.
            ConfigError: an option that does not fit to the files.
        """
        path = Path(path)
        geometry, files = self._geometry(path), self._projections(path)
        scan = read_machine_geometry(geometry, files)
        stack = read_stack(files)
        count = len(stack.values)
        if len(scan.views) != count:
            raise InputError(
                "the geometry is of another number of views", where=geometry.name, expected=count, got=len(scan.views)
            )
        kept = list(range(count))
        if self.views is not None:
            check_integer(self.views, "reader#views", low=1, high=count)
            kept = [i * count // self.views for i in range(self.views)]
        scan = replace(scan, views=tuple(scan.views[i] for i in kept))
        lines, weights, notices = self._lines(path, stack, kept, files[0])
        detector, binned = self._binned(stack, [lines] if weights is None else [lines, weights])
        fields = [path / field for field in (self.flat, self.dark) if isinstance(field, str)]
        hashes = [sha256_file(file) for file in (geometry, *files, *(fields if weights is not None else ()))]
        return Measurement(
            data=binned[0],
            geometry=self._volume(scan, detector),
            operator={"name": "cone_beam_ct", **options_of(scan, detector)},
            weights=None if weights is None else binned[1],
            unit=self.unit,
            source_sha256=hashlib.sha256("".join(hashes).encode()).hexdigest(),
            notices=(_ORIENTATION, *notices),
        )

    def _geometry(self, path: Path) -> Path:
        found = sorted(path.glob("*.xml")) if self.geometry is None else [path / self.geometry]
        if len(found) != 1:
            raise InputError(
                "no geometry" if not found else "several geometries",
                where=path.name,
                expected="one .xml file",
                got=", ".join(file.name for file in found)[:120] or None,
                mend="name it by the reader's option geometry",
            )
        return found[0]

    def _projections(self, path: Path) -> list[Path]:
        fields = {field for field in (self.flat, self.dark) if isinstance(field, str)}
        found = path.iterdir() if path.is_dir() else ()
        files = [file for file in found if file.suffix in _SUFFIXES and file.name not in fields]
        kinds = sorted({file.suffix for file in files})
        if len(kinds) != 1:
            expected = f"files of one kind, {', '.join(_SUFFIXES)}"
            raise InputError("no projections", where=path.name, expected=expected, got=", ".join(kinds) or None)
        return sorted(files, key=lambda file: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", file.name)])

    def _lines(
        self, path: Path, stack: Stack, kept: list[int], first: Path
    ) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
        """Return line integrals and weights (views, rows, columns), and what is to be said of them."""
        values = stack.values[kept]
        if not np.isfinite(values).all():
            raise InputError("numbers that are not finite", where=first.name, mend="repair the measurement")
        if self.flat is None:
            if first.suffix not in IMAGES:
                raise InputError(
                    "counts, of which the beam is not known",
                    where=first.name,
                    mend="give the counts without an object by the reader's option flat",
                )
            return values, None, []
        dark, white = (self._field(path, field, stack) for field in (self.dark, self.flat))
        beam = white - dark
        if not (beam > 0.0).all():
            raise InputError(
                "a flat field that is not brighter than the dark field",
                where="reader#flat",
                expected="a beam in each pixel",
                got=f"none in {np.count_nonzero(beam <= 0.0)} of {beam.size}",
            )
        floor = count_floor(beam, dark[None])
        lines, low = flat_field_line_integrals(values, beam, dark, floor)
        weights = np.maximum(values - dark, floor) / beam.mean()
        return lines, weights, [f"{low} of {lines.size} counts are clipped: the beam is lost there"] if low else []

    def _field(self, path: Path, field: float | str, stack: Stack) -> np.ndarray:
        """Return a flat or dark field (rows, columns), the mean of its frames."""
        shape = stack.values.shape[1:]
        if not isinstance(field, str):
            return np.full(shape, field)
        if not (path / field).is_file():
            raise InputError("no such file in the folder", where=field)
        frames = read_stack([path / field]).values
        if frames.shape[1:] != shape:
            raise InputError("of the wrong size", where=field, expected=shape, got=frames.shape[1:])
        return frames.mean(axis=0, dtype=np.float64)

    def _binned(self, stack: Stack, arrays: list[np.ndarray]) -> tuple[Detector, list[torch.Tensor]]:
        """Return the detector, and means of its pixels (views, columns, rows)."""
        n = check_integer(self.binning, "reader#binning", low=1, high=min(stack.values.shape[1:]))
        rows, columns = (size // n for size in stack.values.shape[1:])
        (du, dv), (u, v) = stack.spacing, stack.center
        lost_u, lost_v = stack.values.shape[2] - n * columns, stack.values.shape[1] - n * rows
        center = (u - lost_u / 2 * du, v - lost_v / 2 * dv)
        means = [
            a[:, : rows * n, : columns * n].reshape(-1, rows, n, columns, n).mean(axis=(2, 4)).transpose(0, 2, 1)
            for a in arrays
        ]
        detector = Detector((columns, rows), (n * du, n * dv), center)
        return detector, [torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in means]

    def _volume(self, scan: Trajectory, detector: Detector) -> VolumeGeometry:
        first = scan.views[0]
        shrunk = first.source_to_isocenter / first.source_to_detector
        spacing = self.spacing or shrunk * min(detector.spacing)
        if self.shape is not None:
            return VolumeGeometry(self.shape, (spacing,) * 3)
        left, right = sides_at_axis(scan, detector)
        seen = max(-left, right)
        radius = first.source_to_isocenter * math.sin(math.atan(seen / first.source_to_isocenter))
        across = max(math.ceil(2.0 * radius / spacing), 1)
        height = math.ceil(shrunk * detector.pixels[1] * detector.spacing[1] / spacing)
        return VolumeGeometry((across, across, height), (spacing,) * 3)


def _shape(shape: Sequence[int]) -> tuple[int, int, int]:
    if not isinstance(shape, Sequence) or len(shape) != 3:
        raise ConfigError("not a shape", where="reader#shape", expected="[nx, ny, nz]", got=repr(shape)[:80])
    nx, ny, nz = (check_integer(n, "reader#shape", low=1) for n in shape)
    return nx, ny, nz
