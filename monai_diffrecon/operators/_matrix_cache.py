# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Sparse matrices that took long to build, kept on disk.

The folder is ``DIFFRECON_CACHE_DIR`` (``off``: no cache), else the user's cache folder of the system
(``$XDG_CACHE_HOME/monai_diffrecon`` or ``~/.cache/monai_diffrecon`` on Linux); it holds at most ``DIFFRECON_CACHE_GB``
(default 2) and loses what was used longest ago. A file is named by a hash of the geometry and holds numbers only:
nothing in it says whose data it was used for.
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

from platformdirs import user_cache_path
from scipy.sparse import csr_array, load_npz, save_npz

from monai_diffrecon.errors import ConfigError

logger = logging.getLogger(__name__)

#: A matrix that takes fewer seconds to build is not worth a file.
WORTH_SECONDS = 1.0

#: A temporary file this old (seconds) belongs to a process that was killed.
_STALE = 24 * 3600.0


def cached_matrix(key: tuple[object, ...], build: Callable[[], csr_array]) -> csr_array:
    """Return the matrix of a key from the cache, else build it, and keep it when that took long.

    A damaged file is built anew; a folder that cannot be used is no cache.

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
            logger.info("projector matrices are not cached on disk: %s", error.strerror)
    return matrix


def _folder() -> Path | None:
    """Return the cache's folder, or None when it is switched off or there is no home."""
    named = os.environ.get("DIFFRECON_CACHE_DIR", "")
    if named.lower() == "off":
        return None
    try:
        folder = Path(named).expanduser() if named else user_cache_path("monai_diffrecon", appauthor=False)
    except RuntimeError:
        return None
    return None if folder.parts[:1] == ("~",) else folder  # what older platformdirs say without a home


def _limit_bytes() -> float:
    text = os.environ.get("DIFFRECON_CACHE_GB") or "2"
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not limit >= 0.0:
        raise ConfigError("out of range", where="DIFFRECON_CACHE_GB", expected="a number from 0 (GB)", got=repr(text))
    return limit * 1e9


def _read(path: Path) -> csr_array | None:
    """Return the matrix of a file, or None when there is none or it is damaged, which the zip's checksums tell."""
    try:
        with path.open("rb") as file:
            matrix = csr_array(load_npz(file))
        matrix.check_format(full_check=True)  # an index out of range would read foreign memory
        if [part.dtype.str for part in (matrix.indptr, matrix.indices, matrix.data)] != ["<i4", "<i4", "<f4"]:
            raise ValueError("of another type")
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file can raise nearly anything
        logger.info("the cached matrix cannot be used and is rebuilt: %s", type(error).__name__)
        return None
    with contextlib.suppress(OSError):  # a folder that is only read from
        os.utime(path)
    return matrix


def _write(path: Path, matrix: csr_array) -> None:
    """Write a file in one step: readers see none or all of it. No fsync: what a crash damages is built anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            save_npz(file, matrix, compressed=False)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
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
