# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reading scans and writing volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.io import find_reader, nifti
from monai_diffrecon.io.measurement.checks import check_affine
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.protocols import Measurement, VolumeGeometry


def read_scan(path: str | Path, reader: Any = find_reader.AUTO) -> Measurement:
    """Read a file or folder with the installed reader that recognises it.

    Args:
        path: a NIfTI file, a DICOM series, a measurement file, raw data of a scanner.
        reader: ``auto``, or a reader, its class, its name, or ``{"name": ..., **options}``.

    Returns:
        The measurement; an image is (1, X, Y, Z), float32, in RAS+ order.

    Raises:
        InputError: no such file, none or several readers recognise it, or it is damaged.
        PluginError: no such reader.
    """
    return find_reader.read_scan(path_option(path, "path"), reader)[1]


def write_volume(path: str | Path, volume: Any, affine: Any = None, *, dtype: str = "float32") -> None:
    """Write a volume as NIfTI, atomically; the header holds its geometry only.

    Args:
        path: file to write, ``.nii`` or ``.nii.gz``.
        volume: array or tensor (X, Y, Z) or (1, X, Y, Z), real, in RAS+ order.
        affine: voxel-to-world matrix (4, 4), in mm, or a :class:`~monai_diffrecon.VolumeGeometry`; None: voxels of
            1 mm without an orientation.
        dtype: ``float32``, or ``int16``, which rounds to a 65535th of the range.

    Raises:
        InputError: not such a volume or affine, or the folder cannot be written.
        ConfigError: another ``dtype``.
    """
    x = as_tensor(volume, "volume")
    x = x[None] if x.ndim == 3 else x
    if x.ndim != 4 or x.shape[0] != 1:
        raise InputError("not a volume", where="volume", expected="(X, Y, Z) or (1, X, Y, Z)", got=tuple(x.shape))
    nifti.write_volume(path_option(path, "path"), x, geometry_from(x.shape[1:], affine), dtype=dtype)


def as_tensor(value: Any, where: str) -> Tensor:
    """Return an array as a tensor; tensors are returned unchanged.

    Raises:
        InputError: not an array of numbers.
    """
    if isinstance(value, Tensor):
        return value.detach()
    array = np.asarray(value)
    if array.dtype.kind not in "iufc":
        raise InputError("not an array of numbers", where=where, got=f"{type(value).__name__} of {array.dtype}")
    # A copy: torch accepts no other byte order or negative strides, and must not share the caller's memory.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def geometry_from(shape: Any, affine: Any) -> VolumeGeometry:
    """Return the geometry of a volume of shape (X, Y, Z).

    Args:
        shape: voxels along the axes.
        affine: a matrix (4, 4), a geometry, or None for voxels of 1 mm without an orientation.

    Raises:
        InputError: no such matrix, or the geometry of another shape.
    """
    shape = tuple(int(n) for n in shape)
    if affine is None:
        return VolumeGeometry(shape)
    if isinstance(affine, VolumeGeometry):
        if affine.shape != shape:
            raise InputError("the geometry of another volume", where="geometry", expected=shape, got=affine.shape)
        return affine
    matrix = as_tensor(affine, "affine").to("cpu", torch.float64).numpy()
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError("not an affine", where="affine", expected="a matrix (4, 4)", got=f"shape {matrix.shape}")
    check_affine(matrix, "affine")
    return geometry_of(shape, matrix)
