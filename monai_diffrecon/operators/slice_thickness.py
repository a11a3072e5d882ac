# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Thick slices: the forward model of z-super-resolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_choice, check_number
from monai_diffrecon.numerics.axis_filter import along_axis, reach_of, without_tails
from monai_diffrecon.numerics.planes import check_plane, thick_plane
from monai_diffrecon.operators._slice_profile import cubic_interpolation, slice_count, slice_weights
from monai_diffrecon.protocols import PLANE_AXIS, Operator, VolumeGeometry

#: Largest drift of the last slice (mm) that is put down to rounding in an image's header.
_DRIFT = 0.1
#: No slice is so thick (mm).
_WIDEST = 1e6
#: Most thin slices: the operator's matrices have the square of their number of entries.
_MOST_SLICES = 8192
#: Slices up to so many times the target's spacing hardly leave anything to reconstruct.
_THIN = 1.2


class SliceThickness(Operator):
    """Means over the slice-selection profile along one axis: thin slices in, thick slices out.

    The first thick slice starts at the edge of the first voxel; a remainder too small for a whole slice is not
    measured. Measurement: (1, X, Y, M) for axial slices, the thick axis wherever ``plane`` stacks its slices.
    (TPDM, arXiv 2303.08440, section 4.1, has the boxcar without a gap.)

    Args:
        geometry: the volume of thin slices.
        thickness: thickness of a measured slice in mm (full width at half maximum of a Gaussian profile).
        gap: gap between measured slices in mm.
        profile: ``boxcar`` or ``gaussian``.
        plane: plane of the thick slices; None: as the header of a measured image says it by gaps or by the largest
            voxels, and axial where it does not.
        target_spacing: spacing of the thin slices in mm, when the volume is derived from a measured image.
    """

    family = "image"
    initial_kind = "interpolation"

    def __init__(
        self,
        geometry: VolumeGeometry,
        thickness: float | None = None,
        gap: float = 0.0,
        profile: str = "boxcar",
        plane: str | None = None,
        target_spacing: float | None = None,
    ) -> None:
        plane = check_plane("axial" if plane is None else plane, "operator#plane")
        axis = PLANE_AXIS[plane]
        if thickness is None:
            raise ConfigError("not known", where="operator#thickness", expected="mm", mend="set operator#thickness")
        thickness = check_number(thickness, "operator#thickness", low=0.0, high=_WIDEST, open_low=True)
        gap = check_number(gap, "operator#gap", low=0.0, high=_WIDEST)
        check_choice(profile, "operator#profile", ("boxcar", "gaussian"))
        fine, spacing = geometry.shape[axis], geometry.spacing[axis]
        if target_spacing is not None:
            target = check_number(target_spacing, "operator#target_spacing", low=0.0, high=_WIDEST, open_low=True)
            if abs(target / spacing - 1.0) > 0.02:
                raise ConfigError(
                    "the thin slices of the volume have another thickness",
                    where="operator#target_spacing",
                    expected=f"{spacing:g} mm",
                    got=f"{target:g} mm",
                    mend="resample the volume first",
                )
        _check_count(fine)
        fits = thickness >= spacing * (1 - 1e-6)
        count = slice_count(fine * spacing, thickness, gap) if fits else 0
        if count < 1:
            raise ConfigError(
                "slice thickness does not fit the volume",
                where="operator#thickness",
                expected=f"{spacing:g} to {fine * spacing:g} mm",
                got=f"{thickness:g} mm",
            )
        shape = [1, *geometry.shape]
        shape[1 + axis] = count
        super().__init__(geometry, tuple(shape))
        self.thick_plane, self.axis, self.thickness, self.gap = plane, axis, thickness, gap
        weights = slice_weights(fine, spacing, count, self.thickness, self.gap, profile)
        spline = cubic_interpolation(fine, spacing, count, self.thickness, self.gap)
        self.weights: Tensor
        self.spline: Tensor
        self.gram: Tensor
        # Small matrices: kept in double precision and cast to the volume's type on every call.
        for name, matrix in (("weights", weights), ("spline", spline), ("gram", weights.T @ weights)):
            self.register_buffer(name, without_tails(torch.from_numpy(matrix)))
        self._reach = reach_of(self.gram)

    @classmethod
    def resolve_options(cls, measurement: VolumeGeometry, **options: Any) -> dict[str, Any]:
        """Return the options with what the measured image says: plane, thickness, gap; thin slices of 1 mm by default.

        Args:
            measurement: geometry of the thick slices.
            options: the constructor's options, complete or not.

        Raises:
            ConfigError: an option is wrong, ``thickness + gap`` is not the distance of the image's slices, or they
                overlap.
        """
        plane = cls.measured_plane(measurement, **options)
        axis = PLANE_AXIS[plane]
        distance, count = measurement.spacing[axis], measurement.shape[axis]
        said = measurement.gaps[axis]
        if said < 0.0 and options.get("thickness") is None and "gap" not in options:
            raise ConfigError(
                "the image's slices overlap, which this operator does not model",
                where="operator#thickness",
                expected=f"slices of at most {distance:g} mm",
                got=f"{distance - said:g} mm",
                mend=f"set operator#thickness {distance:g} to treat them as contiguous slices",
            )
        options = {"gap": said, **options} if said > 0.0 else options
        gap = check_number(options.get("gap", 0.0), "operator#gap", low=0.0, high=_WIDEST)
        thickness, target = options.get("thickness"), options.get("target_spacing")
        thickness = check_number(
            distance - gap if thickness is None else thickness, "operator#thickness", low=0.0, open_low=True
        )
        target = check_number(
            1.0 if target is None else target, "operator#target_spacing", low=0.0, high=_WIDEST, open_low=True
        )
        if abs(thickness + gap - distance) * count > _DRIFT:
            raise ConfigError(
                "the image has another slice spacing",
                where="operator#thickness",
                expected=f"thickness + gap = {distance:g} mm",
                got=f"{thickness + gap:g} mm",
                mend="omit operator#thickness, or correct operator#gap",
            )
        from_header = {} if plane == "axial" else {"plane": plane}
        return {**options, **from_header, "thickness": thickness, "target_spacing": target}

    @classmethod
    def measured_plane(cls, measurement: VolumeGeometry, **options: Any) -> str:
        """Return the plane of the thick slices: the option, or what the header says, or else axial."""
        plane = options.get("plane")
        return check_plane((thick_plane(measurement) or "axial") if plane is None else plane, "operator#plane")

    @classmethod
    def notices(cls, measurement: VolumeGeometry, **options: Any) -> tuple[str, ...]:
        """Say that slices are thin already."""
        options = cls.resolve_options(measurement, **options)
        thickness, target = options["thickness"], options["target_spacing"]
        if thickness > _THIN * target or float(options.get("gap", 0.0)) > (_THIN - 1.0) * target:
            return ()
        plane = options.get("plane") or "axial"
        return (
            f"the {plane} slices are {thickness:.3g} mm thick and slices of {target:.3g} mm are "
            "asked for: there is next to nothing to reconstruct, the volume comes out as it was measured",
        )

    @classmethod
    def volume_geometry(cls, measurement: VolumeGeometry, **options: Any) -> VolumeGeometry:
        """Return the geometry of the thin slices behind a thick-slice image; both start at the same edge.

        Args:
            measurement: geometry of the thick slices.
            options: the constructor's options; what is missing is filled in by :meth:`resolve_options`.

        Raises:
            ConfigError: an option is wrong.
            InputError: the slices are no thicker than the target.
        """
        options = cls.resolve_options(measurement, **options)
        axis = PLANE_AXIS[options.get("plane") or "axial"]
        thickness, gap, spacing = options["thickness"], float(options.get("gap", 0.0)), options["target_spacing"]
        if thickness < spacing * (1 - 1e-6):
            raise InputError(
                "slices are already thinner than the target",
                where="operator#target_spacing",
                expected=f"at most {thickness:g} mm",
                got=f"{spacing:g} mm",
            )
        extent = measurement.shape[axis] * (thickness + gap) - gap
        shape, voxel = list(measurement.shape), list(measurement.spacing)
        _check_count(extent / spacing)
        # A remainder is rounded up: the thin slices must hold every whole thick slice.
        shape[axis] = int(np.ceil(extent / spacing - 1e-6))
        voxel[axis] = spacing
        affine = None if measurement.affine is None else _rescale(measurement.affine, axis, spacing, thickness)
        return VolumeGeometry((shape[0], shape[1], shape[2]), (voxel[0], voxel[1], voxel[2]), affine)

    def measured_geometry(self) -> VolumeGeometry:
        """Return the geometry of the thick-slice image."""
        shape, voxel, gaps = list(self.measurement_shape[1:]), list(self.geometry.spacing), [0.0, 0.0, 0.0]
        spacing = voxel[self.axis]
        voxel[self.axis], gaps[self.axis] = self.thickness + self.gap, self.gap
        affine = self.geometry.affine
        if affine is not None:
            affine = _rescale(affine, self.axis, voxel[self.axis], spacing, first=self.thickness)
        return VolumeGeometry(
            (shape[0], shape[1], shape[2]), (voxel[0], voxel[1], voxel[2]), affine, (gaps[0], gaps[1], gaps[2])
        )

    def slice_axis(self, plane: str) -> int | None:
        """Return the axis of the measurement along which the slices of ``plane`` are apart, or None."""
        return 1 + PLANE_AXIS[plane] if PLANE_AXIS[plane] != self.axis else None

    def restricted(self, plane: str, first: int, end: int) -> SliceThickness:
        """Return the operator of some slices of a plane across the thick ones."""
        return self.cut(plane, first, end)

    def _forward(self, x: Tensor) -> Tensor:
        return along_axis(self.weights, x, 1 + self.axis)

    def _adjoint(self, y: Tensor) -> Tensor:
        return along_axis(self.weights.T, y, 1 + self.axis)

    def normal(self, x: Tensor) -> Tensor:
        """Return A^T A x by one matrix along the thick axis."""
        self._check(x, self.volume_shape, self.complex_volume, "volume")
        return along_axis(self.gram, x, 1 + self.axis, self._reach)

    def initial(self, y: Tensor) -> Tensor:
        """Return the cubic-spline interpolation (1, X, Y, Z) of the thick slices at their positions."""
        return along_axis(self.spline, y, 1 + self.axis)

    def norm(self) -> float:
        """Return ||A^T A||, the largest eigenvalue of the Gram matrix along the axis."""
        return float(torch.linalg.matrix_norm(self.weights.double(), 2) ** 2)


def _check_count(slices: float) -> None:
    """Refuse more thin slices than there is memory for, or than any scan has."""
    if not slices <= _MOST_SLICES:
        raise ConfigError(
            "too many thin slices",
            where="operator#target_spacing",
            expected=f"at most {_MOST_SLICES}",
            got=f"{slices:.6g}",
            mend="check the voxel size of the image, or raise operator#target_spacing",
        )


def _rescale(
    affine: tuple[tuple[float, ...], ...], axis: int, spacing: float, old: float, *, first: float | None = None
) -> tuple[tuple[float, ...], ...]:
    """Return an affine with voxels of ``spacing`` mm along ``axis`` whose first voxel starts where the old one did.

    ``old`` and ``first`` are the extents (mm) of the old and the new first voxel; ``first`` is ``spacing``
    unless slices lie apart.
    """
    matrix = np.array(affine, dtype=np.float64)
    direction = matrix[:3, axis] / np.linalg.norm(matrix[:3, axis])
    matrix[:3, 3] += direction * ((spacing if first is None else first) - old) / 2
    matrix[:3, axis] = direction * spacing
    return tuple(tuple(float(v) for v in row) for row in matrix)
