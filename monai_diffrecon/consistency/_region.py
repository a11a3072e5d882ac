# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A region of interest on the grid of a volume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon import slabs
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.protocols import VolumeGeometry

_WHERE = "consistency#region"


def check_region(region: object) -> tuple[Tensor, np.ndarray] | None:
    """Return which voxels of a mask are not 0, (X, Y, Z), and its affine; None for None.

    Args:
        region: ``{"voxels": (X, Y, Z), "affine": 4 x 4}`` in RAS+ order, or None.

    Raises:
        ConfigError: something else.
    """
    if region is None:
        return None
    given: Any = region if isinstance(region, Mapping) else {}
    voxels, affine = given.get("voxels"), given.get("affine")
    if isinstance(voxels, np.ndarray | Tensor) and voxels.ndim == 3 and np.shape(affine) == (4, 4):
        return torch.as_tensor(voxels) != 0, np.asarray(affine, dtype=np.float64)
    raise ConfigError(
        "not a region",
        where=_WHERE,
        expected='{"voxels": a mask (X, Y, Z), "affine": 4 x 4}, as monai_diffrecon.load_region returns it',
        got=type(region).__name__,
        mend="give the mask's file as --keep of the preset conservative",
    )


def on_grid(mask: Tensor, affine: np.ndarray, geometry: VolumeGeometry) -> Tensor:
    """Return whether the nearest voxel of a mask is in the region, (1, X, Y, Z), bool; outside of the mask none is.

    Args:
        mask: (X, Y, Z), bool.
        affine: its voxel-to-world matrix.
        geometry: of the volume, or of this slab of it.

    Raises:
        InputError: it is not known how the volume lies, or the region is elsewhere.
    """
    if geometry.affine is None:
        raise InputError(
            "a region, but it is not known how the volume lies", where=_WHERE, expected="a scan with an affine"
        )
    nx, ny, nz = geometry.shape
    matrix = np.linalg.solve(affine, np.asarray(geometry.affine))[:3]
    y, z = np.arange(ny)[:, None, None], np.arange(nz)[None, :, None]
    plane = y * matrix[:, 1] + z * matrix[:, 2] + matrix[:, 3]  # of x = 0, (Y, Z, 3)
    known, size, inside = mask.numpy(), np.array(mask.shape), np.zeros((1, nx, ny, nz), dtype=bool)
    for x in range(nx):  # little memory
        index = np.rint(plane + x * matrix[:, 0]).astype(np.int64)
        there = np.all((index >= 0) & (index < size), axis=-1)
        inside[0, x][there] = known[tuple(index[there].T)]
    if not slabs.largest(float(inside.any())):
        raise InputError(
            "no voxel of the region lies in the volume",
            where=_WHERE,
            expected="a mask of the same subject in the same position",
            mend="draw it on a reconstruction, or correct its affine",
        )
    return torch.from_numpy(inside)
