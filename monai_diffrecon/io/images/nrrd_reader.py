# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""NRRD files as measured images."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.images.image_measurement import check_axes, check_file, has_suffix, image_measurement
from monai_diffrecon.io.images.text_header import StoredVoxels, beside, numbers, read_lines, turned, whole_numbers
from monai_diffrecon.protocols import Measurement, MeasurementReader

_SUFFIXES = (".nrrd", ".nhdr")
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_ENCODINGS = {"raw": "raw", "gzip": "deflate", "gz": "deflate", "bzip2": "bzip2", "bz2": "bzip2"}
_ENCODINGS |= dict.fromkeys(("text", "txt", "ascii"), "text")
#: Space -> signs of its axes in LPS. The others, such as scanner-xyz, say nothing of the subject.
_SPACES = {"right-anterior-superior": (-1, -1, 1), "left-anterior-superior": (1, -1, 1)}
_SPACES |= {"left-posterior-superior": (1, 1, 1)}
_SPACES |= {"".join(word[0] for word in name.split("-")): signs for name, signs in _SPACES.items()}
_UNITS = {"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}
#: Kinds of axes along which voxels lie in space.
_SPATIAL = ("domain", "space", "???", "none")
_VECTOR = re.compile(r"none|\(([^)]*)\)")


class NRRDReader(MeasurementReader):
    """An NRRD volume, ``.nrrd``, or ``.nhdr`` with its voxels in a file beside it: an image without a known unit.

    Positions are in the space of the header: RAS, LAS or LPS; in any other space, or without directions, the
    orientation is unknown. Comments and key/value pairs, which may name a subject, are not read.
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
        check_file(path, _SUFFIXES, "an NRRD file")
        lines, end = read_lines(path, lambda line: not line)
        if not lines or not re.fullmatch("NRRD000[1-5]", lines[0]):
            raise InputError("not an NRRD file", where=path.name, expected="NRRD0001 to NRRD0005 in its first line")
        fields = {}
        for line in lines[1:]:
            key, colon, value = line.partition(": ")
            if colon and not line.startswith("#") and ":=" not in key:
                key = re.sub("^(data|byte|line)(file|skip)$", r"\1 \2", key.strip().lower())
                fields[key] = value.strip()
        stored = _stored(fields, path, end)
        vectors = _vectors(fields, stored.shape, path.name)
        axes = [i for i, vector in enumerate(vectors) if vector is not None]
        shape = [stored.shape[i] for i in axes]
        others = [n for i, n in enumerate(stored.shape) if i not in axes and len(axes) >= 3]
        check_axes([*shape, *others], stored.dtype, path.name)
        affine, oriented, notices = _affine(fields, [v for v in vectors if v is not None], path.name)
        return image_measurement(
            stored.read().reshape(shape, order="F"),
            affine,
            [path] if stored.path == path else [path, stored.path],
            notices,
            oriented=oriented,
            leaning=self.leaning,
        )


def _stored(fields: dict[str, str], path: Path, end: int) -> StoredVoxels:
    missing = [key for key in ("type", "dimension", "sizes", "encoding") if key not in fields]
    if missing:
        raise InputError("not an NRRD file", where=path.name, expected=", ".join(missing), got="no such line")
    shape = tuple(whole_numbers(fields["sizes"], path.name))
    if whole_numbers(fields["dimension"], path.name) != [len(shape)]:
        expected = fields["dimension"][:9]
        raise InputError("a damaged header", where=f"{path.name}#sizes", expected=expected, got=len(shape))
    kind = next((code for code, names in _TYPES.items() if fields["type"].lower() in names), None)
    encoding = _ENCODINGS.get(fields["encoding"].lower())
    if kind is None or encoding is None:
        got = f"{fields['type'][:20]}, {fields['encoding'][:20]}"
        raise InputError("unknown type or encoding", where=path.name, expected="numbers, raw, gzip, bzip2", got=got)
    name, file, offset = fields.get("data file"), path, end
    if name is not None:
        if name.split()[0:1] == ["LIST"] or "%" in name:
            mend = "save it as one .nrrd"
            raise InputError("voxels in several files", where=path.name, expected="one file", mend=mend)
        file, offset = beside(path, name), 0
    dtype = np.dtype(kind).newbyteorder(">" if fields.get("endian", "little").lower() == "big" else "<")
    skipped = [whole_numbers(fields.get(key, "0"), path.name) for key in ("byte skip", "line skip")]
    if skipped[1] != [0] or len(skipped[0]) != 1 or skipped[0][0] < -1 or (skipped[0] != [0] and encoding != "raw"):
        raise InputError("a header of another file to skip", where=path.name, mend="save it as one .nrrd")
    offset += skipped[0][0]
    if skipped[0] == [-1]:  # the voxels end the file
        offset = file.stat().st_size - math.prod(shape) * dtype.itemsize
    return StoredVoxels(file, offset, shape, dtype, encoding)


def _vectors(fields: dict[str, str], shape: tuple[int, ...], where: str) -> list[np.ndarray | None]:
    """Return the step along each axis, None for an axis that is none of space; without directions only its length."""
    vectors: list[np.ndarray | None]
    if "space directions" in fields:
        found = _VECTOR.finditer(fields["space directions"])
        vectors = [None if m[1] is None else np.array(numbers(m[1], 3, where)) for m in found]
    else:
        sizes = numbers(re.sub("nan", "1", fields.get("spacings", "1 " * len(shape)), flags=re.I), len(shape), where)
        kinds = fields.get("kinds", "domain " * len(shape)).lower().split()
        vectors = [np.array([s, 0.0, 0.0]) if k in _SPATIAL else None for s, k in zip(sizes, kinds, strict=False)]
        if len(vectors) == len(shape) > 3:
            vectors = [v if n > 1 else None for v, n in zip(vectors, shape, strict=True)]
    if len(vectors) != len(shape):
        raise InputError("a damaged header", where=where, expected=f"{len(shape)} axes", got=len(vectors))
    return vectors


def _affine(fields: dict[str, str], vectors: list[np.ndarray], where: str) -> tuple[np.ndarray, bool, list[str]]:
    """Return the affine (RAS+, mm) of the axes of space, whether it says how they lie, and what is assumed."""
    signs, notices = _SPACES.get(fields.get("space", "").lower()), []
    units = {unit.strip().lower() for unit in re.findall(r'"([^"]*)"', fields.get("space units", '"mm"'))} - {""}
    unit = _UNITS.get(" ".join(units), 0.0)
    if not unit:
        unit = 1.0
        notices.append("the header's unit of length is unknown: mm are assumed")
    columns = unit * np.stack(vectors, axis=1)
    if "space directions" not in fields or signs is None:
        if not fields.keys() & {"space directions", "spacings"}:
            notices.append("the header states no voxel size: voxels of 1 mm are assumed")
        return np.diag([*np.linalg.norm(columns, axis=0), 1.0]), False, notices
    if "space origin" not in fields:
        notices.append("the header has no space origin: an origin of 0 is assumed")
    origin = unit * np.array(numbers(fields.get("space origin", "0 0 0").strip("()"), 3, where))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, origin
    return turned(np.diag([*signs, 1.0]) @ affine), True, notices
