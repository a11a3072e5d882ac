# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The pack that readers get: pairs of volumes, blinded and in random order."""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, IntegrityError
from monai_diffrecon.evaluation.reader_study.form import write_form
from monai_diffrecon.evaluation.reader_study.pictures import common_window, write_slice
from monai_diffrecon.evaluation.reader_study.plan import StudyItem, plan_items, write_key
from monai_diffrecon.evaluation.reader_study.sheet import write_sheet
from monai_diffrecon.evaluation.reader_study.spec import StudyCase, StudySpec
from monai_diffrecon.io.atomic import write_json
from monai_diffrecon.io.file_validation import read_json, validated
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.protocols import PLANE_AXIS, VolumeGeometry

MANIFEST_SCHEMA = "reader-study-pack 1"
#: Every file and folder of a pack has this time, which hides the order of creation (1980-01-01, UTC).
_TIME = 315532800
#: Slices are drawn from this middle part of the axis.
_MIDDLE = (0.2, 0.8)
_INSTRUCTIONS = """Reader study

For each item, in the order of their numbers, look at A and B (and at the reference, where there is one): as volumes
(*.nii.gz) or as slices (*.png, both in the same window). Then fill in its row of scores.csv, or open form.html in a
browser, which shows the slices and saves the same sheet:

  reader       your name or number (once is enough)
  preference   A, B or = for no difference
  A_..., B_... a score from {low} (worst) to {high} (best) for each of: {criteria}

Leave what you cannot judge empty. Which method is A changes at random from item to item, and some pairs come twice.
Do not change the columns pack and item.
"""


def export_pack(spec: StudySpec, output: str | Path, key: str | Path, *, seed: int | None = None) -> int:
    """Write the pack and, elsewhere, its key; return the number of items.

    The pack shows no name of a method or case. Its manifest holds the sha256 of the key, so that the assignment can
    neither be read from the pack nor changed after the readings.

    Args:
        spec: the study.
        output: folder of the pack, new or empty.
        key: file of the key, outside of the pack.
        seed: of sides, order, repeats and slices; None draws one. The seed reveals the assignment.

    Raises:
        ConfigError: the key is inside the pack.
        InputError: pack or key exist, or volumes that cannot be compared.
    """
    output, key = Path(output), Path(key)
    if output.resolve() in key.resolve().parents or key.resolve() == output.resolve():
        raise ConfigError(
            "the key is inside the pack", where="--key", expected="a file elsewhere", mend="choose another folder"
        )
    for where, path in (("--output", output), ("--key", key)):
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise InputError("exists already", where=where, got=path.name, mend="name another")
    if not key.parent.is_dir():
        raise InputError("not a folder that can be written", where="--key", expected="an existing folder")
    seed = secrets.randbits(63) if seed is None else seed
    generator = random.Random(seed)
    items = plan_items(spec, generator)
    positions = {case.name: _positions(spec, generator) for case in spec.cases}
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.with_name(f".{secrets.token_hex(6)}.tmp")
    cases = {case.name: case for case in spec.cases}
    try:
        for item in items:
            _write_item(folder / "items" / item.item, item, cases[item.case], spec, positions[item.case])
        files = _hashes(folder)
        commitment = write_key(key, items, seed=seed, pack_sha256=_digest(files), spec=spec)
        numbers = [item.item for item in items]
        write_sheet(folder / "scores.csv", commitment, numbers, spec.criteria)
        write_form(folder / "form.html", commitment, numbers, spec.criteria, spec.scale)
        low, high = spec.scale
        text = _INSTRUCTIONS.format(low=low, high=high, criteria=", ".join(spec.criteria))
        (folder / "README.txt").write_text(text, encoding="utf-8")
        manifest = {"schema": MANIFEST_SCHEMA, "key_sha256": commitment, "items": len(items), "files": files}
        write_json(folder / "manifest.json", manifest)
        for path in [*folder.rglob("*"), folder]:
            os.utime(path, (_TIME, _TIME))
        if output.is_dir():
            output.rmdir()
        os.replace(folder, output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        key.unlink(missing_ok=True)
        raise
    return len(items)


def check_pack(folder: str | Path, pack_sha256: str, commitment: str) -> None:
    """Check that a pack is complete and that a key belongs to it.

    Args:
        folder: the pack.
        pack_sha256: hash of its volumes and pictures by the key.
        commitment: sha256 of the key's file.

    Raises:
        InputError: no pack.
        IntegrityError: the key of another pack, or changed files.
    """
    folder = Path(folder)
    try:
        manifest = read_json(folder / "manifest.json", "manifest.json")
        told, files = manifest["key_sha256"], validated(dict[str, str], manifest["files"], "files")
    except (DiffReconError, KeyError, TypeError):
        raise InputError(
            "not a pack", where="--pack", expected="a folder with manifest.json", got=folder.name
        ) from None
    if told != commitment:
        raise IntegrityError(
            "the key belongs to another pack or was changed",
            where=folder.name,
            expected=f"sha256 {told[:16]}...",
            got=f"{commitment[:16]}...",
        )
    if _digest(files) != pack_sha256 or _hashes(folder) != files:
        raise IntegrityError("volumes or pictures were changed", where=folder.name, mend="use the pack as exported")


def _positions(spec: StudySpec, generator: random.Random) -> dict[str, list[float]]:
    """Return where the slices of a case lie, 0 to 1 along each plane's axis: the same for all its pairs."""
    if spec.positions is not None:
        return {plane: list(spec.positions) for plane in spec.planes}
    count = spec.slices_per_plane
    return {plane: sorted(generator.uniform(*_MIDDLE) for _ in range(count)) for plane in spec.planes}


def _write_item(
    folder: Path, item: StudyItem, case: StudyCase, spec: StudySpec, positions: Mapping[str, list[float]]
) -> None:
    paths = {"A": case.volumes[item.A], "B": case.volumes[item.B]}
    if case.reference is not None:
        paths["reference"] = case.reference
    read = {side: read_volume(path) for side, path in paths.items()}
    volumes = {side: volume for side, (volume, _) in read.items()}
    # One header for all items of a case: round-off in an affine could tell a method.
    first = case.reference or case.volumes[min(case.volumes)]
    geometry = replace(read_volume(first)[1], gaps=(0.0, 0.0, 0.0))
    for side, (_, other) in read.items():
        _check_same_grid(geometry, other, f"case {case.name}, {getattr(item, side, side)}")
    shown: list[Tensor] = [volumes["reference"]] if "reference" in volumes else [volumes["A"], volumes["B"]]
    window = spec.window or common_window(shown)
    folder.mkdir(parents=True)
    for side, volume in volumes.items():
        write_volume(folder / f"{side}.nii.gz", volume, geometry)
        for plane, fractions in positions.items():
            for number, fraction in enumerate(fractions, start=1):
                index = round(fraction * (geometry.shape[PLANE_AXIS[plane]] - 1))
                path = folder / f"{side}_{plane}_{number}.png"
                write_slice(path, volume, plane, index, spacing=geometry.spacing, window=window)


def _check_same_grid(first: VolumeGeometry, second: VolumeGeometry, where: str) -> None:
    if first.shape != second.shape or not np.allclose(affine_of(first), affine_of(second), atol=1e-2):
        raise InputError(
            "not on the grid of the other volumes",
            where=where,
            expected=first.shape,
            got=second.shape if first.shape != second.shape else "another affine",
            mend="resample it",
        )


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every volume and picture."""
    paths = sorted((folder / "items").rglob("*"))
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths if path.is_file()}


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
