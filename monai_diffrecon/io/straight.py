# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Sheared (gantry-tilted) stacks are refused, or resampled to a straight one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.numerics.planes import thick_plane
from monai_diffrecon.protocols import PLANE_AXIS, Measurement, VolumeGeometry


def check_straight(geometry: VolumeGeometry, where: str, *, image: bool = True) -> None:
    """Refuse an affine whose axes are not at right angles.

    Args:
        geometry: of an image, or of the volume behind a measurement.
        where: name for messages.
        image: it can be corrected.

    Raises:
        InputError: they are not, by more than a header's rounding.
    """
    lean = lean_of(geometry)
    if lean is None:
        return
    mend = "straighten it by another tool (dcm2niix writes a file with Tilt in its name beside it; or SimpleITK)"
    correctable = image and lean.axis is not None
    raise InputError(
        "a sheared (gantry-tilted) stack" if correctable else "a sheared affine",
        where=where,
        expected="axes at right angles",
        got=f"{lean.degrees:.1f} degrees off",
        mend=f"resample it with --correct_tilt true, or {mend}" if correctable else mend,
    )


def corrected_tilt(measured: Measurement, where: str) -> tuple[Measurement, float | None]:
    """Return an image on a straight grid, with a notice, and by how many degrees it leaned; or as it is and None.

    Raises:
        InputError: it leans, and no shift of slices makes it straight; or it is no real image.
    """
    lean = lean_of(measured.geometry)
    if lean is None:
        return measured, None
    image = measured.operator is None and measured.weights is None and not measured.data.is_complex()
    if not image or lean.axis is None:
        check_straight(measured.geometry, where, image=image)
    assert lean.axis is not None
    x, affine = straighten(measured.data, measured.geometry, lean.axis)
    notice = f"the stack was sheared by {lean.degrees:.1f} degrees (gantry tilt) and was resampled to a straight stack"
    geometry = geometry_of(x.shape[1:], affine, measured.geometry.gaps)
    return replace(measured, data=x, geometry=geometry, notices=(*measured.notices, notice)), lean.degrees


#: What is put down to rounding in a header: this cosine, or this displacement of the far end (mm).
_COSINE, _DISPLACEMENT = 1e-3, 0.1
#: No gantry leans further (degrees).
_STEEPEST = 45.0


@dataclass(frozen=True)
class Lean:
    """How the axes of an image lean.

    Attributes:
        axis: the axis of the slices, whose direction leans; None when two directions within any slices do, so that no
            shift of slices makes the image straight, or when it is more than any gantry does.
        degrees: between the axes that lean most, from the right angle.
    """

    axis: int | None
    degrees: float


def lean_of(geometry: VolumeGeometry) -> Lean | None:
    """Return how the axes of an image lean, or None where they are at right angles but for a header's rounding."""
    if geometry.affine is None:
        return None
    columns = np.asarray(geometry.affine, dtype=np.float64)[:3, :3]
    sizes = np.linalg.norm(columns, axis=0)
    extents = sizes * np.maximum(np.asarray(geometry.shape) - 1, 1)
    cosines = np.abs((columns / sizes).T @ (columns / sizes))
    leaning = {
        pair: float(cosines[pair])
        for pair in combinations(range(3), 2)
        if cosines[pair] > _COSINE and cosines[pair] * min(extents[list(pair)]) > _DISPLACEMENT
    }
    if not leaning:
        return None
    degrees = float(np.degrees(np.arcsin(min(max(leaning.values()), 1.0))))
    upright = [axis for axis in (2, 1, 0) if degrees <= _STEEPEST and all(axis in pair for pair in leaning)]
    thick = thick_plane(geometry)
    if thick is not None and PLANE_AXIS[thick] in upright:
        upright.insert(0, PLANE_AXIS[thick])
    return Lean(upright[0] if upright else None, degrees)


def straighten(x: Tensor, geometry: VolumeGeometry, axis: int) -> tuple[Tensor, np.ndarray]:
    """Shift each slice within its plane, by cubic convolution (Keys 1981), so that all lie upon one another.

    Args:
        x: the image (1, X, Y, Z), real.
        geometry: where it lies; its affine is not None.
        axis: axis along which the slices are stacked.

    Returns:
        The image on a straight grid that covers the slices, the image's minimum where nothing was measured; and the
        4 x 4 affine of that grid. Its slices are as far apart as those of the image along their normal.
    """
    affine = np.asarray(geometry.affine, dtype=np.float64)
    first, second = (other for other in range(3) if other != axis)
    step, count = affine[:3, axis], geometry.shape[axis]
    normal = np.cross(affine[:3, first], affine[:3, second])
    normal *= np.sign(normal @ step) / np.linalg.norm(normal)
    straight = affine.copy()
    straight[:3, axis] = normal * (step @ normal)
    low, high = float(x.min()), float(x.max())
    slices = list(torch.movedim(x[0].to(torch.float64) - low, axis, 0))
    for dim, along in ((0, first), (1, second)):
        size = float(np.linalg.norm(affine[:3, along]))
        shift = float(step @ affine[:3, along]) / size**2  # voxels from slice to slice
        start = min(0.0, (count - 1) * shift)
        length = geometry.shape[along] + int(np.ceil(abs((count - 1) * shift) - 1e-6))
        straight[:3, 3] += affine[:3, along] * start
        for k, values in enumerate(slices):
            matrix = torch.from_numpy(_cubic(geometry.shape[along], np.arange(length) + start - k * shift))
            slices[k] = torch.movedim(torch.tensordot(matrix, values, dims=([1], [dim])), 0, dim)
    moved = torch.movedim(torch.stack(slices), 0, axis)[None] + low
    return moved.clamp(low, high).to(x.dtype), straight


def _cubic(size: int, at: np.ndarray) -> np.ndarray:
    """Return the matrix (positions, size) of cubic convolution at positions in samples; 0 beyond the ends."""
    distance = np.abs(at[:, None] - np.arange(size))
    near = (1.5 * distance - 2.5) * distance**2 + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))
