# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a measurement says about its volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.protocols import VolumeGeometry

#: Key of the metadata in which a measurement that is no image carries the geometry of its volume.
META_KEY = "diffrecon"


def geometry_of(shape: Sequence[int], affine: Any = None) -> VolumeGeometry:
    """Return the geometry of an image of spatial ``shape`` with a 4 x 4 ``affine`` in RAS+ (None: 1 mm)."""
    matrix = np.eye(4) if affine is None else np.asarray(torch.as_tensor(affine).cpu(), dtype=np.float64)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    return VolumeGeometry(
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        affine=tuple(tuple(float(v) for v in row) for row in matrix),
    )


def affine_of(geometry: VolumeGeometry) -> np.ndarray:
    """Return the 4 x 4 affine of a geometry; a diagonal one when it has none."""
    if geometry.affine is not None:
        return np.asarray(geometry.affine, dtype=np.float64)
    return np.diag([*geometry.spacing, 1.0])


def describe_volume(geometry: VolumeGeometry, noise_std: float) -> dict[str, Any]:
    """Return the metadata that lets a measurement say its volume's geometry and its noise level."""
    return {
        "volume_shape": list(geometry.shape),
        "volume_affine": affine_of(geometry).tolist(),
        "noise_std": float(noise_std),
    }


def volume_of(meta: dict[str, Any]) -> tuple[VolumeGeometry, float] | None:
    """Return the geometry and noise level a measurement's metadata carries, or None."""
    block = meta.get(META_KEY)
    if not isinstance(block, dict):
        return None
    return geometry_of(block["volume_shape"], np.asarray(block["volume_affine"])), float(block["noise_std"])


def check_finite(x: Tensor, where: str) -> Tensor:
    """Return ``x`` if every entry is finite.

    Raises:
        InputError: some are not.
    """
    if not bool(torch.isfinite(torch.view_as_real(x) if x.is_complex() else x).all()):
        raise InputError("entries that are not finite", where=where, mend="repair the measurement")
    return x
