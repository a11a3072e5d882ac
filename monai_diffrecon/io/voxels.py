# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The voxels of an image between a file and a volume in RAS+ order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.protocols import VolumeGeometry


def in_ras(voxels: Any, affine: np.ndarray, where: str, *, oriented: bool) -> tuple[Tensor, VolumeGeometry]:
    """Return a volume (1, X, Y, Z), float32, and where it lies; axes are flipped and swapped, never resampled.

    Args:
        voxels: (X, Y, Z), real, in the file's order of axes: an array, or what nibabel reads when it is asked for.
        affine: 4 x 4 voxel-to-world matrix of that order, RAS+, mm.
        where: name of the file, for messages.
        oriented: the file says where its axes point; otherwise they stay as they are stored, and the affine is None.

    Raises:
        InputError: voxels that are not finite.
    """
    image = nib.Nifti1Image(voxels, affine)
    image = nib.as_closest_canonical(image) if oriented else image
    array = np.ascontiguousarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    bad = int(array.size - np.count_nonzero(np.isfinite(array)))
    if bad:
        raise InputError(
            "voxels that are not finite",
            where=where,
            expected="numbers",
            got=f"{bad} voxels of NaN or infinity",
            mend="replace them, for example by the background value",
        )
    geometry = geometry_of(array.shape, image.affine)
    return torch.from_numpy(array[None]), geometry if oriented else replace(geometry, affine=None)


def voxels_to_write(volume: Tensor, geometry: VolumeGeometry, where: str) -> np.ndarray:
    """Return the voxels (X, Y, Z), float32, of a volume that can be written.

    Args:
        volume: (1, X, Y, Z), real.
        geometry: its geometry.
        where: name of the file, for messages.

    Raises:
        InputError: not a volume of that geometry, or voxels that are not finite.
    """
    if tuple(volume.shape) != (1, *geometry.shape) or volume.is_complex():
        raise InputError(
            "volume and geometry do not match",
            where=where,
            expected=f"real numbers of shape {(1, *geometry.shape)}",
            got=f"{str(volume.dtype).removeprefix('torch.')} of shape {tuple(volume.shape)}",
        )
    array: np.ndarray = volume.detach().as_subclass(Tensor)[0].to("cpu", torch.float32).numpy()
    if not all(np.isfinite(part).all() for part in array):
        raise InputError("voxels that are not finite", where=where, mend="do not write this volume")
    return array
