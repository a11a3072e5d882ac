# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Position and orientation of a volume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Padding:
    """The voxels of an image without a measurement, for example outside a CT scanner's circular field of view.

    Attributes:
        values: (X, Y, Z), float32, what these voxels hold, in the image's unit; NaN where something was measured.
        affine: 4 x 4 voxel-to-world matrix (mm, RAS+) of ``values``, row by row: the image may be resampled, they
            are not.
        floor: value in their place while the scan is reconstructed, in the image's unit.
    """

    values: Tensor
    affine: tuple[tuple[float, ...], ...]
    floor: float = -1000.0


Plane = Literal["sagittal", "coronal", "axial"]

#: Plane -> spatial axis (0 = X, 1 = Y, 2 = Z) along which its slices are stacked.
PLANE_AXIS: dict[str, int] = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True)
class VolumeGeometry:
    """Shape and voxel size of a volume in RAS+ order.

    Attributes:
        shape: voxels along (X, Y, Z).
        spacing: voxel size along (X, Y, Z) in mm.
        affine: 4 x 4 voxel-to-world matrix in mm, row by row, or None when it is not known how the volume lies: it is
            written without an orientation then, and not as DICOM.
        gaps: what lies unmeasured between neighbouring voxels along (X, Y, Z) in mm, part of the spacing; negative
            where slices overlap.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    affine: tuple[tuple[float, ...], ...] | None = None
    gaps: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def part(self, axis: int, first: int, end: int) -> VolumeGeometry:
        """Return the geometry of the slices ``first`` to before ``end`` along an axis (0, 1, 2)."""
        shape = [*self.shape]
        shape[axis] = end - first
        affine = self.affine
        if affine is not None:
            affine = tuple((*row[:3], row[3] + first * row[axis]) if i < 3 else row for i, row in enumerate(affine))
        return replace(self, shape=(shape[0], shape[1], shape[2]), affine=affine)
