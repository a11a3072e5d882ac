# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The volumes that a page shows, and those of a case in its folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.errors import InputError, IntegrityError
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.numerics.intensity import looks_like_hounsfield
from monai_diffrecon.numerics.resampling import corner_distance
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.tracking.provenance import record_path, verify_record

logger = logging.getLogger(__name__)

#: What a layer shows: it decides on its colours and window, and what is subtracted from what.
Kind = Literal["input", "reconstruction", "interval", "truth", "spread", "phase"]

_RECON = re.compile(r"_recon\.nii(\.gz)?$", re.IGNORECASE)
#: Files of a case, in their order on a page: end of the name -> title and kind.
KNOWN: dict[str, tuple[str, Kind]] = {
    "input": ("measured input", "input"),
    "estimate": ("classical estimate", "input"),
    "recon": ("reconstruction", "reconstruction"),
    "low": ("interval, lower end", "interval"),
    "high": ("interval, upper end", "interval"),
    "truth": ("truth", "truth"),
    "std": ("spread", "spread"),
    "phase": ("phase", "phase"),
}
#: Voxels of two grids that lie closer than this (voxels) are the same.
_APART = 0.1


@dataclass(frozen=True)
class Layer:
    """A volume of a page.

    Attributes:
        title: what it is.
        kind: how it is shown.
        volume: (1, X, Y, Z), real, on the grid of the page.
    """

    title: str
    kind: Kind
    volume: Tensor


@dataclass(frozen=True)
class CaseLayers:
    """Everything that the page of a case shows.

    Attributes:
        name: name of the case, or a general word when a file says none.
        layers: the volumes, in their order on the page.
        geometry: their grid.
        unit: ``HU``, or what the record says.
    """

    name: str
    layers: tuple[Layer, ...]
    geometry: VolumeGeometry
    unit: str


def reconstructions_in(output: Path) -> list[Path]:
    """Return the reconstruction that is named, or those in a folder or, of a cohort, in its folders.

    Raises:
        InputError: there is none.
    """
    if not output.exists():
        raise InputError("no such file or folder", where="OUTPUT", got=output.name)
    if not output.is_dir():
        return [output]
    found = sorted(p for depth in ("*", "*/*") for p in output.glob(depth) if _RECON.search(p.name) and p.is_file())
    if not found:
        raise InputError(
            "no reconstruction there",
            where="OUTPUT",
            expected="an output folder with *_recon.nii.gz, or one such file",
            got="a folder without one" if any(output.iterdir()) else "an empty folder",
        )
    return found


def case_name(output: Path) -> str | None:
    """Return the name of the case of a file ``<case>_recon.nii.gz``, None for any other name."""
    name = _RECON.sub("", output.name)
    return None if name == output.name else name


def gather(
    output: Path, *, scans: Mapping[str, tuple[Kind, str | Path]] | None = None, unit: str | None = None
) -> CaseLayers:
    """Return the volumes of a case.

    Args:
        output: its reconstruction. Further files of the case beside it are found by their names (:data:`KNOWN`).
        scans: title -> kind and scan, shown too; an input on another grid is shown by its nearest voxels.
        unit: of the intensities; None takes that of the record, or HU where values are those of CT.

    Raises:
        InputError: no such volume, or a file that does not lie where it does.
    """
    volume, geometry = read_volume(output)
    name, record = case_name(output), record_path(output)
    if record.is_file():
        try:
            said = verify_record(record)["source"]["unit"]
            unit = said if unit is None and said != "arbitrary" else unit
        except IntegrityError as error:
            logger.warning("%s is shown although it is not as its record says: %s", output.name, error.what)
    found = [Layer(*KNOWN["recon"], volume)]
    for end, (title, kind) in KNOWN.items() if name is not None else ():
        beside = output.with_name(_RECON.sub(rf"_{end}.nii\1", output.name))
        if end != "recon" and beside.is_file():
            found.append(Layer(title, kind, on_grid(*read_volume(beside), geometry, beside.name, kind)))
    for title, (kind, path) in (scans or {}).items():
        found = [layer for layer in found if layer.title != title]
        found.append(Layer(title, kind, on_grid(*_image(Path(path)), geometry, Path(path).name, kind)))
    found.sort(key=lambda layer: get_args(Kind).index(layer.kind))
    return CaseLayers(name or "reconstruction", tuple(found), geometry, unit or unit_of(volume))


def unit_of(volume: Tensor) -> str:
    """Return ``HU`` for a volume with the values of CT, else ``arbitrary``."""
    return "HU" if looks_like_hounsfield(volume) else "arbitrary"


def on_grid(volume: Tensor, geometry: VolumeGeometry, target: VolumeGeometry, where: str, kind: Kind) -> Tensor:
    """Return a volume on the grid of the reconstruction; an input of another grid by its nearest voxels.

    Args:
        volume: (1, X, Y, Z).
        geometry: where it lies.
        target: the grid of the reconstruction.
        where: name for messages.
        kind: only an ``input`` may have another grid.

    Raises:
        InputError: another grid, or another place altogether.
    """
    source, wanted = affine_of(geometry), affine_of(target)
    if geometry.shape == target.shape and corner_distance(wanted, source, target.shape) <= _APART:
        return volume
    mapping = np.linalg.solve(source, wanted)  # from voxels of the grid to those of the volume
    nearest, within = [], []
    i, j, k = np.ogrid[: target.shape[0], : target.shape[1], : target.shape[2]]
    for axis in range(3):
        at = mapping[axis, 0] * i + mapping[axis, 1] * j + mapping[axis, 2] * k + mapping[axis, 3]
        index = np.floor(at + 0.5 + 1e-6).astype(np.int32)
        last = geometry.shape[axis] - 1
        within.append((index >= 0) & (index <= last))
        nearest.append(np.clip(index, 0, last))
    inside = within[0] & within[1] & within[2]
    if kind != "input" or not inside.any():
        raise InputError(
            "not on the grid of the reconstruction",
            where=where,
            expected=f"{target.shape} voxels at the same position",
            got=f"{geometry.shape} voxels" + ("" if inside.any() else ", elsewhere"),
            mend="resample it to the reconstruction's grid",
        )
    array = volume[0].numpy()
    return torch.from_numpy(np.where(inside, array[tuple(nearest)], array.min()))[None]


def _image(path: Path) -> tuple[Tensor, VolumeGeometry]:
    """Read an image with the reader that recognizes it.

    Raises:
        InputError: it is raw data, or complex.
    """
    measured = read_scan(path)[1]
    if measured.operator is not None or measured.data.is_complex():
        raise InputError(
            "not an image",
            where=path.name,
            expected="a volume of real numbers",
            got="raw data" if measured.operator is not None else "complex numbers",
            mend="give a classical reconstruction of it instead",
        )
    return measured.data.as_subclass(Tensor), measured.geometry
