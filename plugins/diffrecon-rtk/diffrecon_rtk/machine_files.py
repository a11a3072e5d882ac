# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Projections and geometries as machines store them, read by RTK."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from diffrecon_rtk.geometry_xml import ROOT, read_geometry
from diffrecon_rtk.rtk_filters import load_rtk, reason_of
from diffrecon_rtk.trajectory import ConeView, Trajectory
from monai_diffrecon.errors import InputError

#: Varian OBI, Varian TrueBeam and ProBeam, Elekta Synergy, and images of ITK.
OBI, TRUEBEAM, ELEKTA, IMAGES = (".hnd", ".hnc"), (".xim",), (".his",), (".mha", ".tif", ".tiff")
#: What RTK takes from Varian's geometries; without one of them it crashes.
_OBI_NUMBERS = (
    "CalibratedSAD",
    "CalibratedSID",
    "CalibratedDetectorOffsetX",
    "CalibratedDetectorOffsetY",
    "DetectorPosLat",
)
_TRUEBEAM_NUMBERS = ("SAD", "SID")
#: No projection has more pixels for each byte of its file.
_MOST_PIXELS_PER_BYTE = 1000

Result = TypeVar("Result")


@dataclass(frozen=True)
class Stack:
    """Projections as RTK reads them.

    Attributes:
        values: (views, rows, columns), float32. Elekta's counts are turned to grow with the beam, without four pixels
            at each border, as RTK does.
        spacing: (du, dv) in mm.
        center: of the pixels, (u, v) in mm.
    """

    values: np.ndarray
    spacing: tuple[float, float]
    center: tuple[float, float]


def read_stack(files: Sequence[Path]) -> Stack:
    """Return projections, one per file or all in one, without any conversion to line integrals.

    Raises:
        InputError: a file that RTK refuses, or sizes that differ.
    """
    itk, rtk = load_rtk()
    for file in files:
        if file.suffix in TRUEBEAM:
            _check_xim(file)
    reader = rtk.ProjectionsReader[itk.Image[itk.F, 3]].New()
    reader.SetFileNames([str(file) for file in files])
    reader.ComputeLineIntegralOff()
    where = files[0].name
    _asked(reader.UpdateOutputInformation, where)
    region = reader.GetOutput().GetLargestPossibleRegion()
    size = [int(n) for n in region.GetSize()]
    if np.prod(size) > _MOST_PIXELS_PER_BYTE * sum(file.stat().st_size for file in files):
        raise InputError("more pixels than the files can hold", where=where, got=" x ".join(map(str, size)))
    _asked(reader.Update, where)
    image = reader.GetOutput()
    if not np.array_equal(itk.array_from_matrix(image.GetDirection()), np.eye(3)):
        raise InputError("projections whose axes are turned", where=where, expected="the identity as direction")
    du, dv = (float(d) for d in list(image.GetSpacing())[:2])
    u, v = list(image.GetOrigin())[:2]
    # The index of the first pixel is not 0 where RTK cut the borders.
    i, j = list(image.GetLargestPossibleRegion().GetIndex())[:2]
    center = (float(u + (i + (size[0] - 1) / 2) * du), float(v + (j + (size[1] - 1) / 2) * dv))
    return Stack(itk.array_from_image(image), (du, dv), center)


def read_machine_geometry(path: Path, files: Sequence[Path]) -> Trajectory:
    """Return where source and detector were.

    Args:
        path: RTK's geometry; or, of Varian's projections, ``ProjectionInfo.xml`` or ``Scan.xml`` beside them; or, of
            Elekta's, ``_Frames.xml`` of XVI 5.
        files: the projections, whose headers hold Varian's angles.

    Raises:
        InputError: a geometry of no such kind, or a damaged one.
    """
    try:
        with path.open("rb") as file:
            own = ROOT.encode() in file.read(4096)
    except OSError as error:
        raise InputError("cannot be read", where=path.name, got=error.strerror or str(error)) from None
    if own:
        return read_geometry(path, path.name)
    _, rtk = load_rtk()
    kind = files[0].suffix
    if kind in ELEKTA:
        reader = rtk.ElektaXVI5GeometryXMLFileReader.New()
        reader.SetFilename(str(path))
        _asked(reader.GenerateOutputInformation, path.name)
    elif kind in OBI + TRUEBEAM:
        _check_numbers(path, _OBI_NUMBERS if kind in OBI else _TRUEBEAM_NUMBERS)
        reader = (rtk.VarianObiGeometryReader if kind in OBI else rtk.VarianProBeamGeometryReader).New()
        reader.SetXMLFileName(str(path))
        reader.SetProjectionsFileNames([str(file) for file in files])
        _asked(reader.UpdateOutputData, path.name)
    else:
        raise InputError("not a geometry of RTK", where=path.name, expected=f"<{ROOT}>", mend="write one with RTK")
    return _trajectory(reader.GetGeometry())


def _trajectory(geometry: Any) -> Trajectory:
    """Return the scan of RTK's geometry."""
    columns = [
        geometry.GetSourceToIsocenterDistances(),
        geometry.GetSourceToDetectorDistances(),
        np.rad2deg(geometry.GetGantryAngles()),
        geometry.GetProjectionOffsetsX(),
        geometry.GetProjectionOffsetsY(),
        np.rad2deg(geometry.GetOutOfPlaneAngles()),
        np.rad2deg(geometry.GetInPlaneAngles()),
        geometry.GetSourceOffsetsX(),
        geometry.GetSourceOffsetsY(),
    ]
    rows = np.array(columns, dtype=np.float64).T.tolist()
    return Trajectory(tuple(ConeView(*row) for row in rows), geometry.GetRadiusCylindricalDetector())


def _asked(step: Callable[[], Result], where: str) -> Result:
    """Return what RTK does, or its error in one line."""
    try:
        return step()
    except RuntimeError as error:
        raise InputError("RTK cannot read it", where=where, got=reason_of(error)[:200]) from None


def _check_numbers(path: Path, tags: Sequence[str]) -> None:
    """Refuse an XML file that lacks one of the elements, with a number in it."""
    text = path.read_bytes().decode("utf-8", "replace")
    for tag in tags:
        if not re.search(rf"<{tag}(\s[^>]*)?>\s*[-+]?\d+(\.\d*)?([eE][-+]?\d+)?\s*</{tag}>", text):
            raise InputError("not a geometry of Varian", where=path.name, expected=f"a number in <{tag}>")


def _check_xim(file: Path) -> None:
    """Refuse a file whose table of lengths is not that of its pixels: RTK would write beyond the image."""
    try:
        with file.open("rb") as stream:
            _, columns, rows, _, _, compressed, table = struct.unpack("<7i", stream.read(36)[8:])
    except (OSError, struct.error):
        columns = rows = compressed = table = 0
    if min(columns, rows) < 1 or columns % 4 or compressed != 1 or table != columns * (rows - 1) // 4:
        raise InputError("damaged, or not a compressed image of Varian", where=file.name)
