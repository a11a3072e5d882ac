# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Atomic writing of files."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from monai_diffrecon.errors import InputError, ResourceError
from monai_diffrecon.errors.uncaught import chain_of

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
_PROBE = 1 << 20  # bytes
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}\.tmp[.\w]*")


def atomic_write(path: str | Path, write: Callable[[Path], object]) -> None:
    """Write a file in one step: temporary file in the same folder, fsync, rename, fsync of the folder.

    Readers see the old file or the new one, also after a crash or a power cut. The temporary file keeps the
    suffix, because writers choose the format by it, and is removed when anything fails.

    Args:
        path: the file to make or replace; its folder must exist.
        write: writes the whole file to the path it is given.

    Raises:
        InputError: the folder is missing or may not be written.
        ResourceError: the disk is full.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(
            "no folder to write to", where=path.name, expected="an existing folder", mend="create the folder first"
        )
    # Not mkstemp: it would leave the file readable by its owner alone, whatever the umask says.
    temporary = path.with_name(f".{secrets.token_hex(6)}.tmp{full_suffix(path)}")
    try:
        write(temporary)
        _fsync(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise told(error, path.name) from error
    except RuntimeError as error:
        refused = _refusal(temporary)
        temporary.unlink(missing_ok=True)
        if refused is None:
            raise
        raise told(refused, path.name) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name != "nt":  # Windows cannot open a folder, and keeps a rename in its journal.
        _fsync(path.parent, os.O_RDONLY)


def atomic_folder(folder: Path, write: Callable[[Path], object], where: str) -> None:
    """Write a folder in one step: a temporary folder beside it gets its name when it is complete.

    Args:
        folder: the folder to make or replace; its parent must exist.
        write: writes the files to the folder it is given, which exists.
        where: what messages call it.

    Raises:
        InputError: the parent is missing or may not be written.
        ResourceError: the disk is full.
    """
    if not folder.parent.is_dir():
        raise InputError("no folder to write to", where=folder.name, mend="create its parent folder first")
    temporary = folder.with_name(f".{secrets.token_hex(6)}.tmp")
    old = folder.with_name(f"{temporary.name}.old")
    try:
        temporary.mkdir()
        write(temporary)
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise told(error, where) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_folder(path: str | Path) -> Path:
    """Make a folder and those above it, unless it is there, and return it.

    Raises:
        InputError: it may not be made, or a file has its name.
        ResourceError: the disk is full.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise told(error, f"folder {path.name}") from error
    return path


def remove_leftovers(folder: str | Path, *, older_than: float = 3600.0) -> int:
    """Remove what writers that were killed have left, and return how many; it may hold a patient's voxels.

    Args:
        folder: where :func:`atomic_write` was writing files, or ``write_series`` folders.
        older_than: seconds; younger ones may belong to a writer at work.
    """
    oldest, removed = time.time() - older_than, 0
    for path in Path(folder).glob(".*.tmp*"):
        with suppress(OSError):
            if _TEMPORARY.fullmatch(path.name) and path.stat().st_mtime < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed += 1
    return removed


def write_json(path: str | Path, obj: Any) -> None:
    """Write an object as JSON (UTF-8, indented, keys in order), atomically.

    Raises:
        InputError: it holds what JSON cannot say, NaN for instance, or see :func:`atomic_write`.
    """
    try:
        text = json.dumps(obj, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError("cannot be written as JSON", where=Path(path).name, got=str(error)) from None
    atomic_write(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def full_suffix(path: Path) -> str:
    """Return the suffix of a file, ``.nii.gz`` and its like in one piece."""
    return "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix


def told(error: OSError, where: str) -> Exception:
    """Return an error of ours for what a user can mend, else the error itself.

    Args:
        error: what the operating system said.
        where: what was to be written, without its folder.
    """
    # pydicom raises another error, without a number, from that of the operating system.
    error_of_system = next((e for e in chain_of(error) if isinstance(e, OSError) and e.errno), error)
    if error_of_system.errno in _FULL:
        return ResourceError("the disk is full", where=where, mend="free some space, or choose another output_dir")
    if error_of_system.errno in _REFUSED:
        mend = "name a folder that you may write to"
        return InputError("cannot be written", where=where, got=error_of_system.strerror, mend=mend)
    return error


def _refusal(temporary: Path) -> OSError | None:
    """Return why the disk takes no more, or None when it does: the RuntimeError of ``torch.save`` does not say."""
    try:
        with temporary.open("ab") as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
