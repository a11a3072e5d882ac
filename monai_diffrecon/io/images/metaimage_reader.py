# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""MetaImage files as measured images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.images.image_measurement import check_axes, check_file, has_suffix, image_measurement
from monai_diffrecon.io.images.text_header import StoredVoxels, beside, numbers, read_lines, turned, whole_numbers
from monai_diffrecon.protocols import Measurement, MeasurementReader

_SUFFIXES = (".mha", ".mhd")
_TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4"}
_TYPES |= {"ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}
#: Older names of fields.
_NAMES = {"Rotation": "TransformMatrix", "Orientation": "TransformMatrix", "Position": "Offset", "Origin": "Offset"}
_NAMES |= {"ElementSize": "ElementSpacing", "ElementByteOrderMSB": "BinaryDataByteOrderMSB"}
_UNITS = {"mm": 1.0, "cm": 10.0, "um": 0.001}


class MetaImageReader(MeasurementReader):
    """A MetaImage volume, ``.mha``, or ``.mhd`` with its voxels in a file beside it: an image without a known unit.

    Positions are in LPS, as ITK has them. Without a ``TransformMatrix`` the orientation is unknown. Lines that name a
    subject are not kept.
    """

    def recognises(self, path: Path) -> bool:
        """Say whether it is a file of that name."""
        return has_suffix(path, _SUFFIXES)

    def read(self, path: Path) -> Measurement:
        """Return the image (1, X, Y, Z).

        Raises:
            InputError: no such file, damaged, not a volume, not real numbers, or some of them not finite; voxels in
                another folder; or axes that are not at right angles.
        """
        path = Path(path)
        check_file(path, _SUFFIXES, "a MetaImage file")
        lines, end = read_lines(path, lambda line: line.startswith("ElementDataFile"))
        fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
        fields = {_NAMES[key]: value for key, value in fields.items() if key in _NAMES} | fields
        stored = _stored(fields, path, end)
        check_axes(stored.shape, stored.dtype, path.name)
        affine, notices = _affine(fields, len(stored.shape), path.name)
        scale, shift = (
            numbers(fields.get(f"ElementToIntensityFunction{name}", default), 1, path.name)[0]
            for name, default in (("Slope", "1"), ("Offset", "0"))
        )
        voxels = stored.read().reshape(stored.shape[:3], order="F")
        if (scale, shift) != (1.0, 0.0):
            voxels = voxels * scale + shift
            notices.append(f"stored values are multiplied by {scale:g}, plus {shift:g}, as the header says")
        return image_measurement(
            voxels,
            affine,
            [path] if stored.path == path else [path, stored.path],
            notices,
            oriented="TransformMatrix" in fields,
            leaning=self.leaning,
        )


def _stored(fields: dict[str, str], path: Path, end: int) -> StoredVoxels:
    missing = [key for key in ("NDims", "DimSize", "ElementType", "ElementDataFile") if key not in fields]
    if missing:
        raise InputError("not a MetaImage file", where=path.name, expected=", ".join(missing), got="no such line")
    shape, name = whole_numbers(fields["DimSize"], path.name), fields["ElementDataFile"]
    if whole_numbers(fields["NDims"], path.name) != [len(shape)]:
        raise InputError("a damaged header", where=f"{path.name}#DimSize", expected=fields["NDims"][:9], got=len(shape))
    channels = whole_numbers(fields.get("ElementNumberOfChannels", "1"), path.name)
    kind = _TYPES.get(fields["ElementType"].removeprefix("MET_"))
    if channels != [1] or kind is None:
        got = f"{fields['ElementType'][:40]}, {channels[:1]} channels"
        raise InputError("not one number per voxel", where=path.name, expected="one channel", got=got)
    if name == "LIST" or "%" in name:
        raise InputError("voxels in several files", where=path.name, expected="one file", mend="save it as one .mha")
    file = path if name.upper() == "LOCAL" else beside(path, name)
    dtype = np.dtype(kind).newbyteorder(">" if fields.get("BinaryDataByteOrderMSB", "False").lower() == "true" else "<")
    offset = end if file == path else 0
    encoding = "deflate" if fields.get("CompressedData", "False").lower() == "true" else "raw"
    if fields.get("BinaryData", "True").lower() == "false":
        encoding = "text"
    header = whole_numbers(fields.get("HeaderSize", "0"), path.name)
    if header == [-1]:  # the voxels end the file
        offset = file.stat().st_size - math.prod(shape) * dtype.itemsize
    elif header != [0]:
        offset = header[0] if header else -1
    return StoredVoxels(file, offset, tuple(shape), dtype, encoding)


def _affine(fields: dict[str, str], axes: int, where: str) -> tuple[np.ndarray, list[str]]:
    """Return the affine (RAS+, mm), and what is assumed."""
    notices = []
    for key, text in (("ElementSpacing", "voxels of 1 mm are assumed"), ("Offset", "an origin of 0 is assumed")):
        if key not in fields and (key != "Offset" or "TransformMatrix" in fields):
            notices.append(f"the header has no {key}: {text}")
    unit = _UNITS.get(fields.get("DistanceUnits", "mm").lower(), 0.0)
    if not unit:
        unit = 1.0
        notices.append("the header's unit of length is unknown: mm are assumed")
    spacing = np.abs(numbers(fields.get("ElementSpacing", "1 " * axes), axes, where))
    origin = numbers(fields.get("Offset", "0 " * axes), axes, where)
    identity = " ".join(str(v) for v in np.eye(axes).reshape(-1))
    # Row by row the directions of the axes, each a column of the affine.
    rows = np.array(numbers(fields.get("TransformMatrix", identity), axes**2, where)).reshape(axes, axes)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = unit * rows[:3, :3].T * spacing[:3], unit * np.array(origin[:3])
    return turned(affine), notices
