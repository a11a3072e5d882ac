# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Selection of the scans to reconstruct."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from itertools import compress
from pathlib import Path
from typing import Any

from monai_diffrecon.errors import InputError, IntegrityError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.io.atomic import told
from monai_diffrecon.io.find_reader import AUTO, readers_of, recognisers
from monai_diffrecon.numerics.hashing import keyed_name
from monai_diffrecon.tracking.provenance import outputs_in

logger = logging.getLogger(__name__)

_KEY_FILE = ".case_key"


def list_cases(
    image: str | None = None,
    dataset_dir: str | None = None,
    reference: str | None = None,
    case_name: str | None = None,
    output_dir: str = ".",
    reader: Any = AUTO,
) -> list[dict[str, Any]]:
    """Return the data list of a run: one dict ``{"image", "case"[, "reference"]}`` a scan; empty without any option.

    No message names a file, since others may read the log.

    Args:
        image: one scan; wins over ``dataset_dir``.
        dataset_dir: folder whose scans are the cases, sorted by name: files and folders that a reader recognises. A
            folder that is itself a scan (a DICOM series) is one case. Outputs of earlier runs are skipped.
        reference: the ground truth of ``image``, for metrics.
        case_name: name of the one case (letters, digits, ``.``, ``_``, ``-``); None names every case by a keyed
            hash of its path, so that identifiers in file names stay on the machine.
        output_dir: folder that keeps the key.
        reader: ``auto``, or the reader of all scans (not of the reference).

    Raises:
        InputError: a folder without scans, a missing file, a folder that holds a scan twice through a link, or a value
            that is not a path.
        IntegrityError: the key is lost or damaged.
        ResourceError: no disk space left for the key.
        PluginError: no such reader.
    """
    name = None if case_name is None else check_case_name(case_name, "case_name")
    folder = None if dataset_dir is None else path_option(dataset_dir, "dataset_dir")
    truth = None if reference is None else path_option(reference, "reference")
    scan = None if image is None else path_option(image, "image")
    if scan is None and folder is None:
        return []
    paths = [scan] if scan is not None else _scans(folder, reader) if folder is not None else []
    if not paths:
        there = folder is not None and folder.is_dir()
        raise nothing_to_reconstruct("a folder without scans" if there else "no such folder")
    named = [("image", p) for p in paths] + ([] if truth is None else [("reference", truth)])
    for where, path in named:
        if not path.exists():
            raise InputError(
                "no such file",
                where=where,
                got="a folder without this file" if path.parent.is_dir() else "a folder that does not exist",
                mend="check the path",
            )
    if case_name is not None and len(paths) > 1:
        raise InputError("one name for several cases", where="case_name", expected="1 case", got=len(paths))
    if truth is not None and len(paths) > 1:
        raise InputError("one reference for several cases", where="reference", expected="1 case", got=len(paths))
    names = case_names(paths, case_key(output_dir)) if name is None else [name]
    if name is None:  # the output of a run that was killed before it wrote its record
        kept = [not path.name.startswith(tuple(f"{other}_" for other in names)) for path in paths]
        paths, names = list(compress(paths, kept)), list(compress(names, kept))
    cases = [{"image": str(path), "case": case} for path, case in zip(paths, names, strict=True)]
    if truth is not None:
        cases[0]["reference"] = str(truth)
    return cases


def nothing_to_reconstruct(got: str) -> InputError:
    """Return the error for a run without scans."""
    return InputError(
        "nothing to reconstruct",
        where="image, dataset_dir",
        expected="a scan or a folder of them",
        got=got,
        mend="pass --image scan.nii.gz or --dataset_dir folder",
    )


def check_case_name(name: object, where: str) -> str:
    """Return the name of a case as a string; an integer becomes its digits.

    Args:
        name: what the user gave.
        where: the config id for messages.

    Raises:
        InputError: not a string (``1e3`` is read as a number), or not valid in file names.
    """
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.\-]*", name, flags=re.ASCII):
        raise InputError(
            "not a valid name for files",
            where=where,
            expected="a string of letters, digits, '.', '_', '-'",
            got=f"{type(name).__name__} {name!r}",
            mend=None if isinstance(name, str) else "put it in quotes",
        )
    return name


def _scans(folder: Path, spec: Any) -> list[Path]:
    """Return the scans in a folder, sorted by name, without the outputs of earlier runs."""
    if not folder.is_dir():
        return []
    # The record of a DICOM series stands two folders above it.
    written = set().union(*(outputs_in(place) for place in (folder, *folder.resolve().parents[:2])))
    if folder.resolve() in written:
        return []
    readers = readers_of(spec)
    there = sorted(folder.glob("[!.]*"))
    found = {path: recognisers(path, readers) for path in there if path.resolve() not in written}
    if len(found) < len(there):
        logger.info(
            "dataset_dir: %d outputs of earlier runs, according to their records, are skipped", len(there) - len(found)
        )
    whole = recognisers(folder, readers)
    # The files of a folder that is itself a scan are its slices.
    parts = {path for path, names in found.items() if path.is_file() and set(names) & set(whole)}
    return ([folder] if whole else []) + [path for path, names in found.items() if names and path not in parts]


def case_names(paths: Sequence[Path], key: str) -> list[str]:
    """Return the names of cases: ``case-`` and a keyed hash of the path, symbolic links followed.

    Raises:
        InputError: two paths lead to the same file, so one case would replace the other.
    """
    names = [f"case-{keyed_name(str(path.resolve()), key)}" for path in paths]
    twice = len(names) - len(set(names))
    if twice:
        raise InputError(
            "the same scan twice",
            where="dataset_dir",
            expected="each scan once",
            got=f"{twice} links to scans in the same folder",
            mend="remove the links",
        )
    return names


def case_key(output_dir: str | Path) -> str:
    """Return the key of case names: ``DIFFRECON_CASE_KEY``, or that of :func:`folder_key`, with its errors."""
    return os.environ.get("DIFFRECON_CASE_KEY") or folder_key(output_dir)


def folder_key(output_dir: str | Path) -> str:
    """Return the random key that is kept in ``output_dir``.

    Raises:
        IntegrityError: the key file is empty; cases would get other names than before.
        InputError: ``output_dir`` is not a writable folder.
        ResourceError: the disk is full.
    """
    path = path_option(output_dir, "output_dir") / _KEY_FILE
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _make_key(path)
        except OSError as error:
            raise told(error, "output_dir") from error
    return _read_key(path)


def _make_key(path: Path) -> None:
    """Write a random key to a file, unless it exists."""
    # Another process may create it at the same time: the first one wins, and nobody reads half a key.
    whole = path.with_name(f".{secrets.token_hex(6)}.tmp")
    try:
        with os.fdopen(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(16))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            _put(whole, path)
    finally:
        whole.unlink(missing_ok=True)


def known_key(output_dir: str | Path) -> str | None:
    """Return the key of case names like :func:`case_key`, or None if there is none yet.

    Raises:
        IntegrityError: the key file is empty or cannot be read.
        InputError: ``output_dir`` is not a path.
    """
    path = path_option(output_dir, "output_dir") / _KEY_FILE
    return os.environ.get("DIFFRECON_CASE_KEY") or (_read_key(path) if path.exists() else None)


def _put(whole: Path, path: Path) -> None:
    """Rename a file unless the name is taken."""
    try:
        os.link(whole, path)
    except FileExistsError:
        raise
    except OSError:  # on a file system without hard links the key is empty for a moment
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(whole.read_text())


def _read_key(path: Path) -> str:
    try:
        key, got = path.read_text(encoding="utf-8").strip(), "an empty file"
    except (OSError, UnicodeDecodeError) as error:
        key, got = "", (error.strerror if isinstance(error, OSError) else None) or "a file that is no text"
    if not key:
        raise IntegrityError(
            "the key of the case names is lost",
            where=_KEY_FILE,
            got=got,
            mend="restore it, or choose another output_dir",
        )
    if os.name == "posix" and path.stat().st_mode & 0o077:
        logger.warning("%s: other users can read the key of the case names. Fix: chmod 600 %s", _KEY_FILE, _KEY_FILE)
    return key
