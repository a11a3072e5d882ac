# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A transform that brings an image to a voxel size that a network knows."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from monai_diffrecon import registry
from monai_diffrecon.engine.recipe import as_spec
from monai_diffrecon.engine.voxel_size import MOST_FINER
from monai_diffrecon.errors import InputError
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.io.measurement.metatensor import affine_of, from_tensor, geometry_of, to_tensor
from monai_diffrecon.numerics.pixel_range import PixelRange, nearest_pixel
from monai_diffrecon.numerics.planes import check_plane
from monai_diffrecon.numerics.resampling import apply_along, resampled_start, resampling_matrix
from monai_diffrecon.privacy.redaction import redact
from monai_diffrecon.protocols import PLANE_AXIS, Measurement, Operator, VolumeGeometry

#: Voxel sizes match within 0.1 %; detail is lost where voxels become larger by 5 %.
_SAME, _COARSER = 1e-3, 1.05


class ResampleInPlaned(MapTransform):
    """Resamples each image to the network's spacing within a plane; across the plane it stays as it is.

    For thick slices, the plane is theirs, whatever the network's plane: nothing is interpolated across the slices, and
    their gap is kept. Otherwise it is the network's plane.

    For a network of a range of voxel sizes, an image within the range stays as it is, and another one is brought to
    the nearest size of the range.

    Down-sampling does not alias: see :func:`~monai_diffrecon.numerics.resampling.resampling_matrix`. An image without
    negative values stays so. If voxels become larger, a notice about the lost detail is logged.

    Args:
        keys: keys of the images, ``MetaTensor`` (1, X, Y, Z).
        plane: plane of the network.
        spacing: voxel size (mm) within the plane, or a range.
        enabled: False passes everything through unchanged.
        operator: spec of the operator that measured the images; None if they are volumes.
        simulate: the images are volumes, to be measured by the operator.
    """

    def __init__(
        self,
        keys: KeysCollection,
        plane: str,
        spacing: Sequence[float],
        *,
        enabled: bool = True,
        operator: Any = None,
        simulate: bool = False,
    ) -> None:
        super().__init__(keys)
        self.plane = check_plane(plane)
        self.spacing = spacing if isinstance(spacing, PixelRange) else [float(s) for s in spacing]
        self.enabled = check_flag(enabled, "resample")
        simulated = check_flag(simulate, "simulate")
        self.operator = None if operator is None or simulated else as_spec(operator, "operator")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample.

        Raises:
            InputError: a measurement with its own operator or weights instead of an image; or voxels that would become
                much finer than the measured ones, or be interpolated across gaps.
        """
        out = dict(data)
        for key in self.key_iterator(out) if self.enabled else ():
            measured = from_tensor(out[key])
            if measured.operator is not None or measured.weights is not None:
                raise InputError(
                    f"a measurement with its own {'operator' if measured.operator else 'weights'} cannot be resampled",
                    where=str(key),
                    mend="omit --resample; for raw MRI, request the voxel size from the reader "
                    "(--reader \"{'name': 'fastmri', 'spacing': 1.0}\"), otherwise use networks of that size",
                )
            plane, spacing = self._grid(measured.geometry)
            wanted = list(spacing)
            wanted.insert(PLANE_AXIS[plane], measured.geometry.spacing[PLANE_AXIS[plane]])
            out[key] = to_tensor(_resampled(measured, wanted, str(key)))
            note_preparation(out, key, {"resample": {"plane": plane, "spacing": spacing}})
        return out

    def _grid(self, geometry: VolumeGeometry) -> tuple[str, list[float]]:
        """Return the plane to resample in, and the voxel size within it."""
        plane = None
        if self.operator is not None:
            cls = registry.load("operators", self.operator["name"])
            assert issubclass(cls, Operator)
            plane = cls.measured_plane(geometry, **{k: v for k, v in self.operator.items() if k != "name"})
        if isinstance(self.spacing, PixelRange):
            plane = plane or self.plane
            return plane, list(nearest_pixel(self.spacing, [geometry.spacing[axis] for axis in _axes(plane)]))
        if plane is None or plane == self.plane:
            return self.plane, self.spacing
        sizes = dict(zip(_axes(self.plane), self.spacing, strict=True))
        # A network has no voxel size along its own axis; with square pixels, use that of the other axes.
        square = self.spacing[0] if len(set(self.spacing)) == 1 else None
        return plane, [sizes.get(axis, square or geometry.spacing[axis]) for axis in _axes(plane)]


def _axes(plane: str) -> list[int]:
    return [axis for axis in range(3) if axis != PLANE_AXIS[plane]]


def _resampled(measured: Measurement, wanted: Sequence[float], where: str) -> Measurement:
    """Return an image with voxels of ``wanted`` mm, and a notice where they are larger than they were."""
    old = measured.geometry
    changed = [axis for axis in range(3) if abs(wanted[axis] / old.spacing[axis] - 1.0) > _SAME]
    for axis in changed:
        _check_measured(old, axis, wanted[axis], where)
    x, affine, gaps = measured.data.as_subclass(Tensor), affine_of(old), list(old.gaps)
    for axis in changed:
        size, spacing, target = old.shape[axis], old.spacing[axis], wanted[axis]
        x = apply_along(resampling_matrix(size, spacing, target), x, axis + 1)
        direction = affine[:3, axis] / np.linalg.norm(affine[:3, axis])
        affine[:3, 3] += direction * resampled_start(size, spacing, target)
        affine[:3, axis] = direction * target
        gaps[axis] = 0.0
    if not x.is_complex() and bool((measured.data >= 0).all()):
        x = x.clamp_min(0.0)
    lost = [axis for axis in changed if wanted[axis] > _COARSER * old.spacing[axis]]
    notices = measured.notices
    if lost:
        axes, before, after = "XYZ", old.spacing, wanted
        sizes = ", ".join(f"{before[a]:.3g} mm to {after[a]:.3g} mm along {axes[a]}" for a in lost)
        notices += (f"the image was resampled to larger voxels; finer detail is lost: {sizes}",)
    return replace(measured, data=x, geometry=geometry_of(x.shape[1:], affine, gaps), notices=notices)


def _check_measured(geometry: VolumeGeometry, axis: int, target: float, where: str) -> None:
    """Refuse to interpolate much finer voxels than measured."""
    spacing, gap, name = geometry.spacing[axis], geometry.gaps[axis], "XYZ"[axis]
    plane = next(plane for plane, across in PLANE_AXIS.items() if across == axis)
    reconstruct = f'reconstruct thin slices instead (the default task, operator {{"name": "slice_thickness"}}), {plane}'
    if spacing > MOST_FINER * target * (1.0 + _SAME):
        raise InputError(
            f"would be interpolated {spacing / target:.1f} times finer along {name} than it was measured",
            where=where,
            expected=f"voxels of at most {MOST_FINER * target:.3g} mm along {name}",
            got=f"{spacing:.3g} mm",
            mend=f"{reconstruct} ones if these are slices; otherwise use networks of the image's voxel size",
        )
    if gap > 0.0:
        raise InputError(
            f"would be interpolated across the gaps of its slices along {name}",
            where=where,
            expected="no gaps",
            got=f"{gap:.3g} mm",
            mend=f"{reconstruct} ones",
        )


def note_preparation(data: dict[Any, Any], key: Hashable, step: dict[str, Any]) -> None:
    """Append a step to ``<key>_preparation``, a JSON list: MONAI's collation keeps texts as they are.

    Args:
        data: the case's dict, which is changed.
        key: key of the scan.
        step: name of the step -> its options.
    """
    name = f"{key}_preparation"
    data[name] = json.dumps([*json.loads(data.get(name, "[]")), redact(step)])
