# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Which scans to reconstruct."""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.find_reader import AUTO, readers_of, recognisers
from monai_diffrecon.io.hashing import keyed_name


def list_cases(
    image: str | None = None,
    dataset_dir: str | None = None,
    reference: str | None = None,
    case_name: str | None = None,
    output_dir: str = ".",
    reader: Any = AUTO,
) -> list[dict[str, Any]]:
    """Return the data list of a run: one dict ``{"image", "case"[, "reference"]}`` a scan.

    Args:
        image: one scan; wins over ``dataset_dir``.
        dataset_dir: folder whose scans are the cases, by name: files and folders that a reader recognises. A folder
            that is a scan itself (a DICOM series) is one case.
        reference: the truth of ``image``, for metrics.
        case_name: name of the one case (letters, digits, ``.``, ``_``, ``-``); None names every case by a keyed
            hash of its path, so that no identifier in a file name leaves the machine.
        output_dir: folder that keeps the key.
        reader: ``auto``, or the reader of all scans (not of the reference).

    Raises:
        InputError: nothing to reconstruct, or a file is missing.
        PluginError: no such reader.
    """
    if image is not None:
        paths = [Path(image).expanduser()]
    elif dataset_dir is not None:
        paths = _scans(Path(dataset_dir).expanduser(), reader)
    else:
        paths = []
    if not paths:
        folder = None if dataset_dir is None else Path(dataset_dir).expanduser()
        there = "neither" if folder is None else "a folder without scans" if folder.is_dir() else "no such folder"
        raise InputError(
            "nothing to reconstruct",
            where="image, dataset_dir",
            expected="a scan or a folder of them",
            got=there,
            mend="pass --image scan.nii.gz or --dataset_dir folder",
        )
    named = [("image", p) for p in paths] + ([("reference", Path(reference).expanduser())] if reference else [])
    for where, path in named:
        if not path.exists():
            raise InputError("no such file", where=where, got=path.name)
    if case_name is not None and not re.fullmatch(r"\w[\w.\-]*", str(case_name), flags=re.ASCII):
        raise InputError(
            "not a name of files", where="case_name", expected="letters, digits, '.', '_', '-'", got=repr(case_name)
        )
    if case_name is not None and len(paths) > 1:
        raise InputError("one name for several cases", where="case_name", expected="1 case", got=len(paths))
    if reference and len(paths) > 1:
        raise InputError("one reference for several cases", where="reference", expected="1 case", got=len(paths))
    key = case_key(output_dir) if case_name is None else ""
    cases = []
    for path in paths:
        # A number from the command line is a name too.
        name = f"case-{keyed_name(str(path.resolve()), key)}" if case_name is None else str(case_name)
        cases.append({"image": str(path), "case": name})
    if reference:
        cases[0]["reference"] = str(Path(reference).expanduser())
    return cases


def _scans(folder: Path, spec: Any) -> list[Path]:
    """Return the scans in a folder, by name."""
    if not folder.is_dir():
        return []
    readers = readers_of(spec)
    found = {path: recognisers(path, readers) for path in sorted(folder.glob("[!.]*"))}
    whole = recognisers(folder, readers)
    # The files of a folder that is a scan itself are its slices.
    parts = {path for path, names in found.items() if path.is_file() and set(names) & set(whole)}
    return ([folder] if whole else []) + [path for path, names in found.items() if names and path not in parts]


def case_key(output_dir: str | Path) -> str:
    """Return the key of case names: ``DIFFRECON_CASE_KEY``, or a random one kept in ``output_dir``."""
    from_environment = os.environ.get("DIFFRECON_CASE_KEY")
    if from_environment:
        return from_environment
    path = Path(output_dir) / ".case_key"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another process may make it at the same time: the first one wins.
    with suppress(FileExistsError), os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(16))
    return path.read_text().strip()
