# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Opening HDF5 files, with errors that name the file and not its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from monai_diffrecon.errors import InputError


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
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:  # HDF5's own messages hold the whole path
        raise InputError(
            "truncated or damaged", where=path.name, got=type(error).__name__, mend="copy it again"
        ) from error


def has_members(path: Path, *names: str) -> bool:
    """Say whether a file is HDF5 and holds these members; never raises."""
    try:
        if not (path.is_file() and h5py.is_hdf5(path)):
            return False
        with h5py.File(path, "r") as file:
            return all(name in file for name in names)
    except Exception:  # whatever is wrong with it, it is not ours
        return False


def sha256(path: Path) -> str:
    """Return the hash of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
