# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Arrays in the files of a folder, which a text names: TIFF, ``.npy``, ``.npz``, ``.mat``, HDF5 and tables."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from monai_diffrecon.errors import DiffReconError, InputError
from monai_diffrecon.io.measurement.hdf5_parts import LARGEST_RATIO, MATLAB_BLOCK, SIGNATURE, open_hdf5
from monai_diffrecon.io.projections.tiff import open_tiffs
from monai_diffrecon.numerics.ct.scan_angles import MOST_VIEWS

#: Types of the numbers that are read; no complex ones, texts or objects.
NUMBERS = (
    *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)
_MATLAB = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "single", "double")
#: Headers of arrays in npz files are not longer than that.
_HEADER = 1 << 16


def find_files(folder: Path, name: str, where: str) -> list[Path]:
    """Return the files of a folder that a name stands for, numbers within names in their order.

    Args:
        folder: the folder; what lies outside of it is not read.
        name: path from the folder; the last part may have the wildcards ``*`` and ``?``.
        where: place of the name for messages.

    Raises:
        InputError: none, more than a million, or they lie elsewhere.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise InputError("a path that leaves the folder", where=where, expected="a path within the folder")
    try:
        beside = sorted((folder / path.parent).iterdir(), key=_natural) if set("*?") & set(path.name) else []
        found = [p for p in beside if fnmatchcase(p.name, path.name)] or [folder / path]
        inside = all(p.resolve().is_relative_to(folder.resolve()) for p in found)
        files = all(p.is_file() for p in found)
    except (OSError, RuntimeError, ValueError):
        inside, files = True, False
    if not inside:
        raise InputError("a path that leaves the folder", where=where, expected="a path within the folder")
    if not files or len(found) > MOST_VIEWS:
        raise InputError("no such file", where=where, expected="the path of a file from the folder of the description")
    return found


def open_array(files: list[Path], key: str) -> Any:
    """Return what the files hold: an array, or what is read when it is indexed by views and rows.

    Args:
        files: one, or one TIFF file a view.
        key: name of the array within a file of several; empty for the only one.

    Raises:
        InputError: another format, damaged, no numbers, no array of that name, or more than the file can hold.
    """
    first = files[0]
    kind = "tiff" if first.suffix.lower() in (".tif", ".tiff") else first.suffix.lower()
    if kind == "tiff":
        return open_tiffs(files)
    if len(files) > 1:
        raise InputError("several files", where=first.name, expected="one file, or TIFF files of one view each")
    read = _READERS.get(kind)
    if read is None:
        expected = f".tif or {', '.join(_READERS)}"
        raise InputError("an unknown format", where=first.name, expected=expected, got=first.suffix[:20])
    try:
        return check_numbers(read(first, key), first.name)
    except DiffReconError:
        raise
    except Exception as error:  # whatever numpy, scipy and zipfile say of a damaged file
        raise _damaged(first, error) from None


def check_numbers(array: Any, where: str) -> Any:
    """Return an array of real numbers.

    Raises:
        InputError: of another type, or empty.
    """
    if array.dtype.newbyteorder("=").name not in NUMBERS:
        raise InputError("of the wrong type", where=where, expected="real numbers", got=str(array.dtype)[:40])
    if 0 in array.shape:
        raise InputError("of the wrong shape", where=where, expected="numbers", got=array.shape)
    return array


def check_held(declared: int, size: int, where: str) -> None:
    """Refuse what declares more bytes than a file of that size can hold, compressed.

    Raises:
        InputError: it does.
    """
    if declared > LARGEST_RATIO * size:
        raise InputError(
            "declares more data than the file contains",
            where=where,
            expected=f"at most {LARGEST_RATIO * size} bytes",
            got=f"{declared} bytes",
            mend="check that the file is complete",
        )


def _npy(path: Path, key: str) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _npz(path: Path, key: str) -> np.ndarray:
    with zipfile.ZipFile(path) as file:
        names = [n.removesuffix(".npy") for n in file.namelist()]
        info = file.getinfo(f"{_choose(path, key, names)}.npy")
        check_held(info.file_size, path.stat().st_size, path.name)
        with file.open(info) as stream:  # what the header declares is allocated before anything is read
            version = np.lib.format.read_magic(stream)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, _, dtype = header(stream, max_header_size=_HEADER)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize > info.file_size:
            raise ValueError("declares more data than the file contains")
        with file.open(info) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False, max_header_size=_HEADER)


def _mat(path: Path, key: str) -> np.ndarray:
    from scipy.io import loadmat, whosmat  # costs the start of the program too much

    with path.open("rb") as stream:
        start = stream.read(MATLAB_BLOCK + len(SIGNATURE))
    if start[MATLAB_BLOCK:] == SIGNATURE:
        return _hdf5(path, key).T  # MATLAB's first index runs fastest
    if not start.startswith(b"MATLAB 5"):  # of version 4 scipy allocates what a damaged file declares
        raise ValueError("neither version 5 nor 7.3")
    found = {name: (shape, kind) for name, shape, kind in whosmat(path)}
    name = _choose(path, key, [n for n in found if found[n][1] in _MATLAB])
    shape = found[name][0]
    check_held(math.prod(shape), path.stat().st_size, path.name)
    return np.asarray(loadmat(path, variable_names=[name])[name])


def _hdf5(path: Path, key: str) -> np.ndarray:
    with open_hdf5(path) as parts:
        names = [n for n in parts.file if not n.startswith("#")]  # MATLAB's own
        name = key if key else _choose(path, key, names)
        found = parts.dataset(parts.file, name, NUMBERS)
        if found is None:
            raise _missing(path, name, names)
        return np.asarray(found[()])


def _table(path: Path, key: str) -> np.ndarray:
    text = path.read_text(encoding="utf-8").replace(",", " ").replace(";", " ")
    rows = [line.split("#")[0].split() for line in text.splitlines()]
    return np.asarray([[float(x) for x in row] for row in rows if row], dtype=np.float64)


_READERS: dict[str, Callable[[Path, str], np.ndarray]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".mat": _mat,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".txt": _table,
    ".csv": _table,
}


def _choose(path: Path, key: str, names: list[str]) -> str:
    """Return the name of an array of a file: the key, or the only one."""
    if not key and len(names) == 1:
        return names[0]
    if key not in names:
        raise _missing(path, key, names)
    return key


def _missing(path: Path, key: str, names: list[str]) -> InputError:
    expected = ", ".join(f"#{n[:40]}" for n in names[:8]) or "arrays of real numbers"
    return InputError("no such array", where=path.name, expected=expected, got=f"#{key[:40]}")


def _damaged(path: Path, error: Exception) -> InputError:
    text = " ".join(str(error).replace(str(path), path.name).split())[:200]
    mend = "check that the file is complete, and what its name says"
    return InputError("cannot be read", where=path.name, got=text or type(error).__name__, mend=mend)


def _natural(path: Path) -> list[Any]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]
