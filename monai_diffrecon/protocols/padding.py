# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Padding values of CT images."""

from __future__ import annotations

from dataclasses import dataclass

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
