# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Sparse matrices that took long to build, kept on disk.

The folder is ``DIFFRECON_CACHE_DIR`` (``off``: no cache), else ``$XDG_CACHE_HOME/monai_diffrecon``, else
``~/.cache/monai_diffrecon``; it holds at most ``DIFFRECON_CACHE_GB`` (default 2) and loses what was used longest ago.
A file is named by a hash of the geometry and holds numbers only: nothing in it says whose data it was used for.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from monai_diffrecon.errors import ConfigError

logger = logging.getLogger(__name__)

#: A matrix that takes fewer seconds to build is not worth a file.
WORTH_SECONDS = 1.0

#: A temporary file this old (seconds) belongs to a process that was killed.
_STALE = 24 * 3600.0


def cached_matrix(key: tuple[object, ...], build: Callable[[], csr_array]) -> csr_array:
    """Return the matrix of a key from the cache, else build it, and keep it when that took long.

    A file that does not hold what its hash says is built anew; a folder that cannot be used is no cache.

    Args:
        key: everything the matrix depends on, a version of the code that builds it too; its ``repr`` is hashed.
        build: returns the matrix: float32, int32 indices.

    Raises:
        ConfigError: ``DIFFRECON_CACHE_GB`` is no number.
    """
    folder, limit = _folder(), _limit_bytes()
    if folder is None:
        return build()
    path = folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()}.npz"
    found = _read(path)
    if found is not None:
        return found
    started = time.perf_counter()
    matrix = build()
    size = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    if time.perf_counter() - started >= WORTH_SECONDS and size <= limit:
        try:
            _write(path, matrix)
            _shrink(folder, limit)
        except OSError as error:
            logger.info("no matrix is kept on disk: %s", error.strerror)
    return matrix


def _folder() -> Path | None:
    """Return the cache's folder, or None when it is switched off or there is no home."""
    named = os.environ.get("DIFFRECON_CACHE_DIR", "")
    if named.lower() == "off":
        return None
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if named:
            return Path(named).expanduser()
        return (Path(base) if base else Path.home() / ".cache") / "monai_diffrecon"
    except RuntimeError:  # no home directory
        return None


def _limit_bytes() -> float:
    text = os.environ.get("DIFFRECON_CACHE_GB") or "2"
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not limit >= 0.0:
        raise ConfigError("out of range", where="DIFFRECON_CACHE_GB", expected="a number from 0 (GB)", got=repr(text))
    return limit * 1e9


def _digest(shape: np.ndarray, matrix: csr_array) -> np.ndarray:
    digest = hashlib.sha256(repr(shape.tolist()).encode())
    for part in (matrix.indptr, matrix.indices, matrix.data):
        digest.update(np.ascontiguousarray(part).data)
    return np.frombuffer(digest.digest(), dtype=np.uint8)


def _read(path: Path) -> csr_array | None:
    """Return the matrix of a file, or None when there is none or it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as parts:
            shape, digest = parts["shape"], parts["sha256"]
            starts, columns, values = parts["indptr"], parts["indices"], parts["data"]
        _check_parts(shape, starts, columns, values)
        matrix = csr_array((values, columns, starts), shape=(int(shape[0]), int(shape[1])))
        if not np.array_equal(digest, _digest(shape, matrix)):
            raise ValueError("another hash")
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file can raise nearly anything
        logger.info("the kept matrix cannot be used and is built anew: %s", type(error).__name__)
        return None
    with contextlib.suppress(OSError):  # a folder that is only read from
        os.utime(path)
    return matrix


def _check_parts(shape: np.ndarray, starts: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
    """Check what the product relies on: an index out of range would read foreign memory.

    Raises:
        ValueError: no matrix.
    """
    good = shape.shape == (2,) and starts.shape == (int(shape[0]) + 1,) and columns.shape == values.shape
    good = good and [part.dtype.str for part in (starts, columns, values)] == ["<i4", "<i4", "<f4"]
    good = good and int(starts[0]) == 0 and int(starts[-1]) == columns.size and bool((np.diff(starts) >= 0).all())
    good = good and (columns.size == 0 or (int(columns.min()) >= 0 and int(columns.max()) < int(shape[1])))
    if not good:
        raise ValueError("no matrix")


def _write(path: Path, matrix: csr_array) -> None:
    """Write a file in one step: readers see none or all of it. No fsync: what a crash damages is built anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = np.array(matrix.shape, dtype=np.int64)
    descriptor, temporary = tempfile.mkstemp(suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(
                file,
                shape=shape,
                sha256=_digest(shape, matrix),
                indptr=matrix.indptr,
                indices=matrix.indices,
                data=matrix.data,
            )
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _shrink(folder: Path, limit: float) -> None:
    """Remove what was used longest ago until the folder is within its limit, and what killed processes left."""
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process shrinks too
            state = path.stat()
            if path.suffix == ".npz" and len(path.stem) == 64:
                files.append((state.st_mtime, state.st_size, path))
            elif path.suffix == ".tmp" and state.st_mtime < time.time() - _STALE:
                path.unlink()
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size
