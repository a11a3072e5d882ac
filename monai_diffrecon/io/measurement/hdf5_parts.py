# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reading parts of an untrusted HDF5 file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from monai_diffrecon.errors import InputError, IntegrityError
from monai_diffrecon.io.measurement.hdf5_heaps import check_heaps

#: Attributes longer than this are not read.
LARGEST_ATTRIBUTE = 1 << 20
#: How many times the file's size all its compressed datasets may have together; the others once.
LARGEST_RATIO = 100
#: Filters that every build of HDF5 or h5py has: deflate, shuffle, fletcher32, lzf.
_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF)
_DAMAGED = (
    OSError,
    RuntimeError,
    AttributeError,
    KeyError,
    ValueError,
    TypeError,
    MemoryError,
    OverflowError,
    EOFError,
)

SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: Bytes that MATLAB writes before it (version 7.3).
MATLAB_BLOCK = 512


@contextmanager
def open_hdf5(path: Path) -> Iterator[HDF5Parts]:
    """Open a file to read parts of it; whatever HDF5 says of a damaged one is an InputError.

    Raises:
        InputError: no such file, not HDF5, truncated or damaged.
    """
    if not path.is_file():
        raise InputError("no such file", where=path.name)
    try:
        with path.open("rb") as stream:
            start = stream.read(MATLAB_BLOCK + len(SIGNATURE))
            if SIGNATURE not in (start[: len(SIGNATURE)], start[MATLAB_BLOCK:]):
                mend = "check that the file is what its name says, or leave out its reader"
                raise InputError("not an HDF5 file", where=path.name, mend=mend)
        # Without locks: the file may lie on a medium that has none.
        with h5py.File(path, "r", locking=False) as file:
            yield HDF5Parts(file, path)
    except _DAMAGED as error:
        text = " ".join(str(error).replace(str(path), path.name).split())[:200]
        raise InputError(
            "cannot be read as HDF5",
            where=path.name,
            got=text or type(error).__name__,
            mend="check that the file is complete",
        ) from None


class HDF5Parts:
    """Attributes and datasets of an open file, each checked before it is read.

    Links into other files and soft links are refused, so are datasets whose bytes lie elsewhere, and datasets that
    declare more than the file can hold: a hostile file must not make its reader allocate.

    Args:
        file: the open file.
        path: its path, for its size and for messages.
    """

    def __init__(self, file: h5py.File, path: Path) -> None:
        self.file, self.path, self.where, self.size = file, path, path.name, path.stat().st_size
        self._declared = {True: 0, False: 0}

    def group(self, name: str) -> h5py.Group | None:
        """Return a group, or None when there is none of that name.

        Raises:
            InputError: a link, or no group.
        """
        found = self._object(self.file, name)
        if found is not None and not isinstance(found, h5py.Group):
            raise InputError("not a group", where=f"{self.where}#{name}", got=type(found).__name__)
        return found

    def attribute(self, owner: h5py.Group | h5py.Dataset, name: str, *, required: bool = True) -> Any:
        """Return an attribute: a string, a number, or an array of numbers.

        Raises:
            InputError: too long, of another type, or missing and required.
        """
        at = f"{self.where}#{owner.name.strip('/')}@{name}".replace("#@", "@")
        if name not in owner.attrs:
            if required:
                raise InputError("a missing key", where=at, mend="write the file with write_measurement")
            return None
        found = owner.attrs.get_id(name)
        kind = found.get_type()
        if found.get_storage_size() > LARGEST_ATTRIBUTE or kind.get_size() > LARGEST_ATTRIBUTE:
            raise InputError("an attribute that is too long", where=at, expected=f"at most {LARGEST_ATTRIBUTE} bytes")
        # Strings of variable length are pointers into a heap, which HDF5 follows wherever a damaged file sends it.
        if isinstance(kind, h5py.h5t.TypeStringID) and not kind.is_variable_str() and found.shape == ():
            text = np.empty((), dtype=f"S{kind.get_size()}")
            found.read(text)
            return bytes(text[()]).decode("utf-8")
        if isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID) and found.dtype.kind in "iuf":
            array = np.empty(found.shape, dtype=found.dtype)
            found.read(array)
            return array
        raise InputError("of the wrong type", where=at, expected="numbers, or fixed-length text")

    def text(self, owner: h5py.Group | h5py.Dataset, name: str) -> str | None:
        """Return an attribute that is one text, of a variable length too, or None when it is none or too long.

        Raises:
            InputError: the heap in which it lies is damaged.
        """
        if name not in owner.attrs:
            return None
        found = owner.attrs.get_id(name)
        kind = found.get_type()
        if not isinstance(kind, h5py.h5t.TypeStringID) or math.prod(found.shape or (1,)) != 1:
            return None
        if kind.is_variable_str():
            check_heaps(self.path)
        elif kind.get_size() > LARGEST_ATTRIBUTE:
            return None
        value = np.asarray(owner.attrs[name]).reshape(-1)[0]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def array(self, owner: h5py.Group, name: str, dtypes: tuple[str, ...]) -> np.ndarray | None:
        """Return a dataset in native byte order, or None when there is none of that name.

        Args:
            owner: the group, or the file.
            name: name of the dataset.
            dtypes: data types it may have.

        Raises:
            InputError: a link, no dataset, of another type, or larger than the file can hold.
            IntegrityError: its bytes are not those of its attribute ``sha256``.
        """
        found = self.dataset(owner, name, dtypes)
        if found is None:
            return None
        at = f"{self.where}#{found.name.strip('/')}"
        native = found.dtype.newbyteorder("=")
        array = np.ascontiguousarray(found[()]).reshape(found.shape).astype(native, copy=False)
        expected, got = self.attribute(found, "sha256"), sha256_array(array)
        if expected != got:
            raise IntegrityError(
                "the data were changed",
                where=at,
                expected=f"sha256 {expected:.16}...",
                got=f"{got:.16}...",
                mend="restore the file",
            )
        return array

    def dataset(self, owner: h5py.Group, name: str, dtypes: tuple[str, ...] | None = None) -> h5py.Dataset | None:
        """Return a dataset that can be read without harm, or None when there is none of that name.

        Args:
            owner: the group, or the file.
            name: name of the dataset, or its path.
            dtypes: data types it may have; None for any.

        Raises:
            InputError: a link, no dataset, of another type, or larger than the file can hold.
        """
        found = self._object(owner, name)
        if found is None:
            return None
        at = f"{self.where}#{f'{owner.name}/{name}'.strip('/')}"
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            raise InputError("not a dataset", where=at, got=type(found).__name__)
        if dtypes is not None and found.dtype.newbyteorder("=").name not in dtypes:
            raise InputError("of the wrong type", where=at, expected=" or ".join(dtypes), got=str(found.dtype))
        self._check_size(found, at)
        return found

    def _object(self, owner: h5py.Group, name: str) -> Any:
        for part in name.split("/"):
            link = owner.get(part, getlink=True) if isinstance(owner, h5py.Group) else None
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                raise InputError("a link, which is not followed", where=f"{self.where}#{name}", got=type(link).__name__)
            owner = owner[part]
        return owner

    def _check_size(self, dataset: h5py.Dataset, at: str) -> None:
        """Compare what a dataset declares with what the file can hold."""
        if dataset.is_virtual or dataset.external:
            raise InputError("its data are in other files, which are not read", where=at)
        creation = dataset.id.get_create_plist()
        filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
        if not set(filters) <= set(_FILTERS):
            raise InputError("compressed by an unknown filter", where=at, expected="gzip or lzf")
        stored = dataset.id.get_storage_size()
        needed = math.prod(dataset.shape) * dataset.dtype.itemsize
        chunk = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
        limit = self.size * (LARGEST_RATIO if filters else 1)
        self._declared[bool(filters)] += needed
        if stored > self.size or (needed and not stored) or max(self._declared[bool(filters)], chunk) > limit:
            raise InputError(
                "declares more data than the file contains",
                where=at,
                expected=f"at most {limit} bytes",
                got=f"{needed} bytes",
                mend="check that the file is complete",
            )


def sha256_array(array: np.ndarray) -> str:
    """Return the sha256 of an array's elements, row by row and little-endian."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return hashlib.sha256(little.reshape(-1).view(np.uint8).data).hexdigest()
