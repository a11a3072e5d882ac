# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reading HDF5 files that someone else made, with errors that name the file and not its folder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.hdf5_heaps import check_heaps

#: How many times the file's size a compressed dataset may have, or one whose entries share their bytes.
_LARGEST_RATIO = 100
#: Largest XML header.
_LONGEST_TEXT = 16 << 20
#: Rows of a table that are read at once.
_ROWS = 32
_DAMAGED = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; what HDF5 cannot read in it becomes an error that names the file.

    Raises:
        InputError: missing, truncated, or no HDF5.
    """
    if not path.is_file():
        raise InputError("no such file", where=path.name)
    if not h5py.is_hdf5(path):
        raise InputError("not an HDF5 file", where=path.name, mend="copy it again: its beginning is damaged")
    check_heaps(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except _DAMAGED as error:  # HDF5's own messages hold the whole path
        raise InputError(
            "truncated or damaged", where=path.name, got=type(error).__name__, mend="copy it again"
        ) from error


def has_members(path: Path, *names: str) -> bool:
    """Say whether a file is HDF5 and holds these members, in itself; never raises."""
    try:
        if not (path.is_file() and h5py.is_hdf5(path)):
            return False
        with h5py.File(path, "r") as file:
            return all(_inside(file, name) for name in names)
    except Exception:  # whatever is wrong with it, it is not ours
        return False


def find_dataset(file: h5py.File, name: str, where: str) -> h5py.Dataset | None:
    """Return a dataset that may be read without harm, or None when there is none of that name.

    Raises:
        InputError: no dataset, a link, bytes in another file, or more than the file can hold.
    """
    if name not in file and file.get(name, getlink=True) is None:
        return None
    found = file[name] if _inside(file, name) else None
    if not isinstance(found, h5py.Dataset) or found.shape is None or found.is_virtual or found.external:
        raise InputError("no dataset of the file itself", where=f"{where}#{name}")
    stored, needed = found.id.get_storage_size(), math.prod(found.shape) * found.dtype.itemsize
    chunk, size = math.prod(found.chunks or (0,)) * found.dtype.itemsize, Path(file.filename).stat().st_size
    packed = found.id.get_create_plist().get_nfilters() > 0
    if stored > size or (needed and not stored) or max(needed, chunk) > size * (_LARGEST_RATIO if packed else 1):
        raise InputError(
            "declares more data than the file contains",
            where=f"{where}#{name}",
            got=f"{needed} bytes",
            mend="check that the file is complete",
        )
    return found


def read_text(file: h5py.File, name: str, where: str) -> str | bytes | None:
    """Return a text, alone or the first of a list, or None when there is none of that name.

    Raises:
        InputError: no text, too long, or as :func:`find_dataset`.
    """
    found = find_dataset(file, name, where)
    if found is None:
        return None
    value = found[()] if found.shape == () else found[0] if found.size == 1 else None
    if not isinstance(value, str | bytes) or len(value) > _LONGEST_TEXT:
        raise InputError("no text", where=f"{where}#{name}")
    return value


def read_table(file: h5py.File, name: str, where: str) -> np.ndarray | None:
    """Return a table whose entries may be lists, or None when there is none of that name.

    Raises:
        InputError: no table, lists of more data than the file can hold, or as :func:`find_dataset`.
    """
    found = find_dataset(file, name, where)
    if found is None:
        return None
    if found.ndim != 1 or found.dtype.names is None:
        raise InputError("no table", where=f"{where}#{name}", got=f"{found.ndim} axes")
    limit, held = _LARGEST_RATIO * Path(file.filename).stat().st_size, 0
    lists = [field for field in found.dtype.names if found.dtype[field].kind == "O"]
    parts = []
    for start in range(0, found.size, _ROWS):
        part = found[start : start + _ROWS]
        held += sum(np.asarray(row).nbytes for field in lists for row in part[field])
        # Many rows may point to the same bytes.
        if held > limit:
            raise InputError("declares more data than the file contains", where=f"{where}#{name}")
        parts.append(part)
    return np.concatenate(parts) if parts else found[()]


def _inside(file: h5py.File, name: str) -> bool:
    """Say whether a member is the file's own: no soft link, and none into another file."""
    owner: h5py.Group = file
    for part in name.split("/"):
        if not isinstance(owner, h5py.Group) or not isinstance(owner.get(part, getlink=True), h5py.HardLink):
            return False
        owner = owner[part]
    return True


def sha256(path: Path) -> str:
    """Return the hash of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
