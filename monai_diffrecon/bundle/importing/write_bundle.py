# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Writing an imported bundle, in one step."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from monai_diffrecon.bundle.importing.imported_bundle import ImportedBundle
from monai_diffrecon.bundle.importing.metadata import metadata_of
from monai_diffrecon.bundle.importing.model_card import licence_file, model_card
from monai_diffrecon.bundle.score_network import load_score_network
from monai_diffrecon.errors import InputError, ResourceError
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.numerics.hashing import sha256_file

#: The configs of the committed bundles, without a network.
TEMPLATE = files("monai_diffrecon.bundle.importing") / "template"
_METADATA = Path("configs", "metadata.json")


def check_target(target: str | Path, *, force: bool) -> Path:
    """Return the folder to write; nothing is touched.

    Raises:
        InputError: there is something already, and ``force`` is not given or it is no bundle.
    """
    path = Path(target).resolve()
    if path.exists() and not force:
        raise InputError("already there", where=f"bundle {path.name}", mend="choose another folder, or use --force")
    if path.exists() and not (path / _METADATA).is_file():
        raise InputError(
            "already exists and is not a bundle",
            where=f"bundle {path.name}",
            expected=f"a folder with {_METADATA}, which --force may replace",
            mend="name another folder",
        )
    return path


def write_bundle(bundle: ImportedBundle, target: Path) -> None:
    """Write a bundle beside ``target``, load it for a check, and rename it; an older bundle is replaced.

    Raises:
        InputError: the folder cannot be written.
        ResourceError: the disk is full.
    """
    with _in_place(target) as root:
        with as_file(TEMPLATE) as template:
            shutil.copytree(template, root, dirs_exist_ok=True)
        (root / "models").mkdir()
        (root / "docs").mkdir()
        atomic_write(root / "models/model.pt", lambda path: torch.save(bundle.state_dict, path))
        inference = json.loads((root / "configs/inference.json").read_text(encoding="utf-8"))
        # As the committed file is laid out: the order of its ids is that of a reconstruction.
        inference["network_def"], inference["bundle_root"]["name"] = bundle.network_def, bundle.name
        _write(root / "configs/inference.json", _json(inference, indent=4))
        metadata = metadata_of(bundle, sha256_file(root / "models/model.pt"))
        _write(root / _METADATA, _json(metadata, indent=2, sort_keys=True))
        _write(root / "docs/README.md", model_card(bundle))
        _write(root / "LICENSE", licence_file(bundle))
        load_score_network(root, device="cpu")


def _json(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, **options) + "\n"


def _write(path: Path, text: str) -> None:
    atomic_write(path, _writer(text))


def _writer(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text, encoding="utf-8")


@contextmanager
def _in_place(target: Path) -> Iterator[Path]:
    """Give a new folder beside ``target`` that takes its place at the end, or is removed on an error."""
    token = secrets.token_hex(6)
    fresh, old = (target.with_name(f".{target.name}.{token}.{end}") for end in ("tmp", "old"))
    try:
        fresh.mkdir(parents=True)
        yield fresh
        if target.exists():
            os.rename(target, old)
        os.rename(fresh, target)
    except OSError as error:
        where = f"bundle {target.name}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError("the disk is full", where=where, mend="free some space") from error
        raise InputError("cannot be written", where=where, got=error.strerror, mend="name another folder") from error
    finally:
        if old.exists() and not target.exists():
            os.rename(old, target)
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
