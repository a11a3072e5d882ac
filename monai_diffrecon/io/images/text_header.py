# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Formats with a header of lines of text and voxels behind it, or in another file: what NRRD and MetaImage share.

They are read here rather than by ITK, which follows a header to any file, allocates what it declares, and does not say
which fields were missing.
"""

from __future__ import annotations

import bz2
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monai_diffrecon.errors import InputError

#: Bytes of a header; deflate makes nothing smaller than this.
_LONGEST, _SMALLEST_RATIO = 1 << 20, 1032


@dataclass(frozen=True)
class StoredVoxels:
    """Where voxels lie and how they are stored.

    Attributes:
        path: the file with them.
        offset: bytes before them.
        shape: along each axis, the fastest first.
        dtype: their type, with its byte order.
        encoding: ``raw``, ``deflate`` (zlib or gzip), ``bzip2`` or ``text``.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    encoding: str

    def read(self) -> np.ndarray:
        """Return them, in the order of the axes.

        Raises:
            InputError: truncated or damaged.
        """
        count, where = math.prod(self.shape), self.path.name
        needed, held = count * self.dtype.itemsize, self.path.stat().st_size - self.offset
        least = {"raw": needed, "text": 2 * count - 1}.get(self.encoding, needed // _SMALLEST_RATIO)
        if self.offset < 0 or held < least:
            raise _damaged(where, f"{least} bytes", f"{held} bytes")
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            data = stream.read(needed if self.encoding == "raw" else held)
        if self.encoding == "text":
            try:
                values = np.array(data.split(), dtype=np.float64)
            except ValueError:
                raise _damaged(where, "numbers", "other text") from None
            if values.size != count:
                raise _damaged(where, f"{count} numbers", f"{values.size}")
            return values.reshape(self.shape, order="F")
        if self.encoding != "raw":
            data = _unpacked(data, needed, self.encoding, where)
        return np.frombuffer(data, self.dtype).reshape(self.shape, order="F")


def _unpacked(packed: bytes, needed: int, encoding: str, where: str) -> bytes:
    """Return so many bytes of what is compressed, read to its end, where the checksum stands."""
    unpack = bz2.BZ2Decompressor() if encoding == "bzip2" else zlib.decompressobj(wbits=47)
    try:
        data = unpack.decompress(packed, needed + 1)
    except (zlib.error, OSError, EOFError) as error:
        raise _damaged(where, encoding, type(error).__name__) from None
    if len(data) != needed or not unpack.eof:
        raise _damaged(where, f"{needed} bytes", f"{len(data)} bytes" if len(data) <= needed else "more")
    return data


def _damaged(where: str, expected: str, got: str) -> InputError:
    mend = "check that the file is complete"
    return InputError("truncated, or a damaged header", where=where, expected=expected, got=got, mend=mend)


def read_lines(path: Path, is_last: Callable[[str], bool]) -> tuple[list[str], int]:
    """Return the lines of a header, without spaces around them, and the number of bytes up to its end.

    Args:
        path: the file.
        is_last: says of a line whether it ends the header; the end of the file does, too.
    """
    lines: list[str] = []
    at = 0
    with path.open("rb") as stream:
        while at < _LONGEST and (line := stream.readline(_LONGEST - at)):
            at += len(line)
            lines.append(line.decode("utf-8", "replace").strip())
            if is_last(lines[-1]):
                break
    return lines, at


def beside(path: Path, name: str) -> Path:
    """Return the file that a header names, which must lie in the header's own folder.

    Raises:
        InputError: in another folder, a link out of it, several files, or missing.
    """
    found = path.parent / name
    inside = not set(name) & set("/\\\0") and name not in ("", ".", "..")
    if not inside or (found.is_symlink() and found.resolve().parent != path.parent.resolve()):
        raise InputError(
            "names a file outside of its folder, which is not read",
            where=path.name,
            expected="one file in the same folder",
            mend="put the files into one folder, and name the data file without a path",
        )
    if not found.is_file():
        raise InputError(
            "the file with its voxels is missing",
            where=path.name,
            expected="one file in the same folder",
            mend="copy both files",
        )
    return found


def numbers(text: str, count: int, where: str) -> list[float]:
    """Return the numbers of a field.

    Raises:
        InputError: not so many finite ones.
    """
    try:
        found = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if len(found) != count or not all(map(math.isfinite, found)):
        raise InputError("a damaged header", where=where, expected=f"{count} numbers", got=repr(text[:40]))
    return found


def whole_numbers(text: str, where: str) -> list[int]:
    """Return the whole numbers of a field.

    Raises:
        InputError: other text.
    """
    try:
        return [int(part) for part in text.split()]
    except ValueError:
        raise InputError("a damaged header", where=where, expected="whole numbers", got=repr(text[:40])) from None


def turned(affine: np.ndarray) -> np.ndarray:
    """Return a 4 x 4 affine (mm) to LPS as one to RAS+, or the other way round."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
