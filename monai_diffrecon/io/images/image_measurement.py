# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Images of other software as measurements, and what all their readers refuse alike."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.checks import check_affine
from monai_diffrecon.io.straight import check_straight
from monai_diffrecon.io.voxels import in_ras
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.protocols import Measurement

#: Notice of a file that does not say which way its axes run.
UNKNOWN_ORIENTATION = "the file states no orientation: axes are taken as they are stored, and the image may be mirrored"


def has_suffix(path: Path, suffixes: Sequence[str]) -> bool:
    """Say whether it is a file of such a name; never raises."""
    try:
        return path.name.lower().endswith(tuple(suffixes)) and path.is_file()
    except OSError:
        return False


def check_file(path: Path, suffixes: Sequence[str], kind: str) -> None:
    """Refuse a file that is not there or has another name.

    Raises:
        InputError: it is.
    """
    if not path.is_file():
        raise InputError("no such file", where=path.name)
    if not has_suffix(path, suffixes):
        raise InputError(f"not {kind}", where=path.name, expected=" or ".join(suffixes), got=path.suffix)


def check_axes(shape: Sequence[int], dtype: Any, where: str) -> None:
    """Refuse what is not one volume of real numbers, before its voxels are read.

    Args:
        shape: voxels along each axis; further axes must have length 1.
        dtype: type of the voxels.
        where: name of the file, for messages.

    Raises:
        InputError: vectors, colours, time series, complex numbers, or no volume.
    """
    if len(shape) < 3 or min(shape) < 1 or math.prod(shape[3:]) != 1:
        raise InputError(
            "not a single volume",
            where=where,
            expected="three axes, and one value per voxel",
            got=f"shape {tuple(map(int, shape))}",
            mend="split it into one file per volume or component",
        )
    if np.dtype(dtype).kind not in "iuf":
        raise InputError("not real numbers", where=where, got=str(dtype))


def image_measurement(
    voxels: np.ndarray,
    affine: np.ndarray,
    files: Sequence[Path],
    notices: Sequence[str] = (),
    *,
    oriented: bool,
    leaning: bool,
) -> Measurement:
    """Return an image in RAS+ order, in arbitrary units.

    Args:
        voxels: (X, Y, Z) in the file's order of axes, real, as the file scales them.
        affine: 4 x 4 voxel-to-world matrix of that order, RAS+, mm.
        files: the file, and those that belong to it.
        notices: what is to be said of its header.
        oriented: the file says where its axes point.
        leaning: do not refuse a sheared stack.

    Raises:
        InputError: no such affine, a sheared stack, or voxels that are not finite.
    """
    where = files[0].name
    check_affine(affine, where)
    with np.errstate(over="ignore"):  # what float32 does not hold is refused as infinite
        data, geometry = in_ras(voxels.astype(np.float32), affine, where, oriented=oriented)
    if not leaning:
        check_straight(geometry, where)
    hashes = [sha256_file(path) for path in files]
    return Measurement(
        data=data,
        geometry=geometry,
        source_sha256=hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
        notices=(*notices, *(() if oriented else (UNKNOWN_ORIENTATION,))),
    )
