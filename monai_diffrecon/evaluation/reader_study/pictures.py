# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Slices as grey pictures without metadata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.image as mpimg
import numpy as np
from scipy import ndimage
from torch import Tensor

from monai_diffrecon.protocols import PLANE_AXIS

#: Pictures are enlarged to at least so many pixels on their longer side.
_PIXELS = 512


def common_window(volumes: Sequence[Tensor]) -> tuple[float, float]:
    """Return the 0.1th and 99.9th percentile of all voxels of some volumes together; their order does not matter."""
    values = np.concatenate([volume.numpy().ravel() for volume in volumes])
    low, high = (float(v) for v in np.percentile(values, (0.1, 99.9)))
    return low, high if high > low else low + 1.0


def write_slice(
    path: Path, volume: Tensor, plane: str, index: int, *, spacing: Sequence[float], window: tuple[float, float]
) -> None:
    """Write a slice as PNG without metadata, in plain RAS orientation (the patient's right on the right).

    Args:
        path: file to write.
        volume: (1, X, Y, Z), real.
        plane: plane of the slice.
        index: number of the slice.
        spacing: voxel size along (X, Y, Z) in mm: pictures are in true proportions.
        window: intensities shown black and white.
    """
    view = volume[0].select(PLANE_AXIS[plane], index).numpy().astype(np.float64)
    sizes = [s for axis, s in enumerate(spacing) if axis != PLANE_AXIS[plane]]
    finest = min(sizes)
    extent = max(n * s / finest for n, s in zip(view.shape, sizes, strict=True))
    factor = max(_PIXELS / extent, 1.0)
    view = ndimage.zoom(view, [factor * s / finest for s in sizes], order=1, grid_mode=True, mode="nearest")
    # As bytes: the image writer would else window by itself.
    grey = np.clip((view.T - window[0]) / (window[1] - window[0]), 0.0, 1.0)
    picture = np.repeat((255 * grey + 0.5).astype(np.uint8)[::-1, :, None], 3, axis=2)
    nothing: dict[str, Any] = {"Software": None}
    mpimg.imsave(path, np.ascontiguousarray(picture), format="png", metadata=nothing)
