# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Images of a volume as both protocols send them: in the order of the acquisition, with directions in LPS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from diffrecon_mri.orientation import closest_ras, lps_to_ras
from monai_diffrecon.protocols import VolumeGeometry

#: Largest stored value of uint16: 12 bits, as the images of most scanners.
LARGEST = 4095
#: Fields that images have from the first acquisition.
_COPIED = ("measurement_uid", "acquisition_time_stamp", "patient_table_position", "physiology_time_stamp")
_COUNTERS = ("contrast", "phase", "repetition", "set")
#: What the public servers of this protocol set, and the scanner's side reads.
_FIXED: dict[str, str | list[str]] = {
    "DataRole": "Image",
    "ImageType": ["DERIVED", "PRIMARY", "M"],
    "ImageProcessingHistory": ["monai_diffrecon"],
    "ImageComments": "Reconstructed by monai_diffrecon; for research, not for clinical use",
    "SequenceDescriptionAdditional": "diffrecon",
    "Keep_image_geometry": "1",
}

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class StreamImage:
    """A slice, or a volume.

    Attributes:
        data: magnitude, float32 or uint16 (slices, rows, columns); columns run along the readout.
        position: voxel n // 2 along the axes within slices, and across them of a volume: the centre of the field of
            view of a Fourier transform, as the position of an acquisition; LPS, mm.
        read_dir: direction of the columns' index, LPS.
        phase_dir: that of the rows' index.
        slice_dir: that of the slices' index.
        field_of_view: along these, mm.
        image_index: number, from 1.
        slice: number of the slice, from 0.
        copied: fields of the first acquisition.
        meta: meta attributes.
    """

    data: np.ndarray
    position: Vector
    read_dir: Vector
    phase_dir: Vector
    slice_dir: Vector
    field_of_view: Vector
    image_index: int
    slice: int
    copied: Mapping[str, Any]
    meta: Mapping[str, str | list[str]]


def images_of(
    volume: Tensor,
    geometry: VolumeGeometry,
    directions: np.ndarray | None,
    first: Any,
    meta: Mapping[str, str | list[str]],
    *,
    whole: bool = False,
    dtype: str = "float32",
) -> list[StreamImage]:
    """Return the images of a volume.

    Args:
        volume: complex or real (1, X, Y, Z), RAS+ order.
        geometry: its geometry.
        directions: columns (3, 3) along readout, phase encoding and slices of the scan, RAS+; None if unknown: then
            the directions of the images are those of X, Y and Z, and the position is 0.
        first: header of the first acquisition.
        meta: attributes of all images.
        whole: one 3D image instead of one for each slice.
        dtype: ``float32``, or ``uint16``: from 0 to 4095, with ``RescaleSlope`` in the attributes.
    """
    array = (volume.abs() if volume.is_complex() else volume)[0].float().cpu().numpy()
    order, flips = closest_ras(np.eye(3) if directions is None else directions)
    array, affine = _as_acquired(array, geometry, order, flips)
    meta = {**meta, **_FIXED}
    if dtype == "uint16":
        slope = float(array.max()) / LARGEST or 1.0
        array = np.rint(np.clip(array / slope, 0, LARGEST)).astype(np.uint16)
        middle = {"WindowCenter": str((LARGEST + 1) // 2), "WindowWidth": str(LARGEST + 1)}
        meta |= {"RescaleSlope": repr(slope), "RescaleIntercept": "0", **middle}
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    unit = affine[:3, :3] / spacing
    lps = np.eye(3) if geometry.affine is None else lps_to_ras(unit)  # the map is its own inverse
    read, phase, across = (_vector(lps[:, axis]) for axis in range(3))
    meta |= {"ImageRowDir": [f"{v:.18f}" for v in read], "ImageColumnDir": [f"{v:.18f}" for v in phase]}
    copied = {name: _plain(first[name]) for name in _COPIED} | {name: int(first["idx"][name]) for name in _COUNTERS}
    stacked = np.ascontiguousarray(array.transpose(2, 1, 0))
    columns, rows, count = array.shape
    depth = count if whole else 1
    images = []
    for index, start in enumerate(range(0, count, depth)):
        centre = affine @ [columns // 2, rows // 2, count // 2 if whole else start, 1]
        images.append(
            StreamImage(
                data=stacked[start : start + depth],
                position=_vector(np.zeros(3) if geometry.affine is None else lps_to_ras(centre[:3])),
                read_dir=read,
                phase_dir=phase,
                slice_dir=across,
                field_of_view=_vector(spacing * [columns, rows, depth]),
                image_index=index + 1,
                slice=index,
                copied=copied,
                meta=meta,
            )
        )
    return images


def _as_acquired(
    array: np.ndarray, geometry: VolumeGeometry, order: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> tuple[np.ndarray, np.ndarray]:
    """Return an array (X, Y, Z) with its axes along readout, phase encoding and slices, and the affine of that."""
    known = np.diag([*geometry.spacing, 1.0]) if geometry.affine is None else np.array(geometry.affine, np.float64)
    axes = [order.index(axis) for axis in range(3)]
    affine = known.copy()
    affine[:3, :3] = known[:3, axes]
    array = array.transpose(axes)
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
            array = np.flip(array, axis)
    return array, affine


def _vector(values: np.ndarray) -> Vector:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _plain(value: Any) -> Any:
    return tuple(value.tolist()) if isinstance(value, np.ndarray) else value.item()
