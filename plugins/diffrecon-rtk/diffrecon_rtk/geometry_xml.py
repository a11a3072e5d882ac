# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""RTK's geometry files, read without RTK: nothing in them is trusted, and a damaged one is one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from diffrecon_rtk.rtk_filters import projection_matrices
from diffrecon_rtk.trajectory import ConeView, Trajectory
from monai_diffrecon.errors import InputError, IntegrityError

_WHERE = "operator#geometry_file"
#: Name of the outermost element.
ROOT = "RTKThreeDCircularGeometry"
_VIEW, _MATRIX, _RADIUS = "Projection", "Matrix", "RadiusCylindricalDetector"
_VERSION = "3"
_MOST_BYTES = 64 * 2**20
#: Tag -> field of ConeView.
_FIELDS = {
    "SourceToIsocenterDistance": "source_to_isocenter",
    "SourceToDetectorDistance": "source_to_detector",
    "GantryAngle": "gantry_angle",
    "ProjectionOffsetX": "projection_offset_x",
    "ProjectionOffsetY": "projection_offset_y",
    "OutOfPlaneAngle": "out_of_plane_angle",
    "InPlaneAngle": "in_plane_angle",
    "SourceOffsetX": "source_offset_x",
    "SourceOffsetY": "source_offset_y",
}


def read_geometry(path: object, where: str | None = None) -> Trajectory:
    """Return the scan that a file of RTK's ThreeDCircularProjectionGeometryXMLFileWriter describes.

    The matrix of each projection, where there is one, must agree with its parameters.

    Args:
        path: the file.
        where: what to call it in messages; its path unless given.

    Raises:
        InputError: no such file, no such geometry, or a damaged one.
        IntegrityError: the file declares entities, which no geometry needs.
    """
    if not isinstance(path, (str, Path)) or not str(path):
        raise InputError("no path", where=_WHERE, expected="a file written by RTK", got=repr(path))
    where = where or f"{_WHERE}, {path}"
    try:
        if Path(path).stat().st_size > _MOST_BYTES:
            raise InputError("too large for a geometry", where=where, expected="at most 64 MB")
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError("cannot be read", where=where, got=error.strerror or str(error)) from None
    reader = _Reader(where)
    parser = expat.ParserCreate()
    parser.EntityDeclHandler = reader.entity
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise InputError("damaged, or not XML", where=reader.where, got=str(error)) from None
    return reader.trajectory()


class _Reader:
    """The handlers of one parse. A value holds for all later projections, as in RTK's reader."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._open: list[str] = []
        self._text: list[str] = []
        self._values: dict[str, float] = {}
        self._radius = 0.0
        self._views: list[ConeView] = []
        self._matrix: list[float] | None = None
        self._matrices: dict[int, list[float]] = {}

    def entity(self, *declared: Any) -> None:
        """Refuse: entities are how a small file becomes a large one, or reads another."""
        raise IntegrityError("refused, since it declares an entity", where=self.where, got=declared[0])

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Begin an element, if it may be here."""
        if not self._open:
            if tag != ROOT:
                raise InputError("not a geometry of RTK", where=self.where, expected=f"<{ROOT}>", got=f"<{tag:.60}>")
            if attributes.get("version") != _VERSION:
                raise InputError(
                    "another version of RTK's geometry",
                    where=self.where,
                    expected=_VERSION,
                    got=attributes.get("version", "none"),
                    mend="write it again with RTK 2",
                )
        elif not (
            (self._open == [ROOT] and (tag in (_VIEW, _RADIUS) or tag in _FIELDS))
            or (self._open == [ROOT, _VIEW] and (tag == _MATRIX or tag in _FIELDS))
        ):
            raise InputError("an element that is not known here", where=self.where, got=f"<{tag:.60}>")
        self._open.append(tag)
        self._text = []

    def text(self, part: str) -> None:
        """Collect the text of an element."""
        self._text.append(part)

    def end(self, tag: str) -> None:
        """Take what the element said."""
        self._open.pop()
        if tag == _VIEW:
            self._add_view()
        elif tag == _MATRIX:
            self._matrix = self._numbers(tag, 12)
        elif tag == _RADIUS:
            (self._radius,) = self._numbers(tag, 1)
        elif tag in _FIELDS:
            (self._values[_FIELDS[tag]],) = self._numbers(tag, 1)

    def _numbers(self, tag: str, count: int) -> list[float]:
        words = "".join(self._text).split()
        try:
            numbers = [float(w) for w in words]
        except ValueError:
            numbers = []
        if len(numbers) != count or not all(math.isfinite(n) for n in numbers):
            raise InputError(
                f"wrong content of <{tag}>",
                where=f"{self.where}, projection {len(self._views)}",
                expected=f"{count} finite numbers" if count > 1 else "a finite number",
                got=repr(" ".join(words)[:60]),
            )
        return numbers

    def _add_view(self) -> None:
        where = f"{self.where}, projection {len(self._views)}"
        for tag in ("SourceToIsocenterDistance", "SourceToDetectorDistance"):
            value = self._values.get(_FIELDS[tag], 0.0)
            if not value > 0.0:
                raise InputError(f"wrong <{tag}>", where=where, expected="above 0 (a cone beam)", got=value)
        if self._matrix is not None:
            self._matrices[len(self._views)] = self._matrix
            self._matrix = None
        self._views.append(ConeView(**{"gantry_angle": 0.0, **self._values}))

    def trajectory(self) -> Trajectory:
        """Return the scan that was read."""
        if not self._views:
            raise InputError("no projection", where=self.where, expected="one <Projection> or more")
        if self._radius < 0.0:
            raise InputError(f"wrong <{_RADIUS}>", where=self.where, expected="0 or more", got=self._radius)
        scan = Trajectory(tuple(self._views), self._radius)
        computed = projection_matrices(scan)
        for view, numbers in self._matrices.items():
            given = np.reshape(numbers, (3, 4))
            if np.abs(given - computed[view]).max() > 1e-6 * np.abs(computed[view]).max():
                raise InputError(
                    "the matrix is not that of the parameters",
                    where=f"{self.where}, projection {view}",
                    mend="remove <Matrix>, or correct the parameters",
                )
        return scan
