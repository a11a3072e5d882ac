# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Parallel-beam CT as the published codes of DiffusionMBIR, TPDM and DDS have it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from diffrecon_published.rotation_geometry import (
    ROTATION_VERSION,
    padded_size,
    rotation_back_projection,
    rotation_entries,
    rotation_matrix,
)
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_integer, check_number
from monai_diffrecon.numerics.ct.back_projection import ramp_filter
from monai_diffrecon.numerics.ct.scan_angles import MOST_VIEWS
from monai_diffrecon.numerics.sparse_matrix import SparseMatrix
from monai_diffrecon.operators._sparse_projector import SparseProjector
from monai_diffrecon.protocols import VolumeGeometry

#: Bytes an entry takes at the peak, 8 of them twice: the list of views and its stack, or a matrix and its transpose.
_PEAK_BYTES = 16

#: Pixels count as square when their sides differ by less than this, relative.
_SQUARE = 0.01


class RotationCT(SparseProjector):
    """Rotate-and-sum projections of every axial slice: sums of intensities, measurement (views, P, Z).

    For comparison with published results (DiffusionMBIR, arXiv 2211.10655; TPDM, arXiv 2303.08440; DDS,
    arXiv 2303.05754); for other work ``parallel_ct`` has lengths in mm and any detector. Slices are square, W x W,
    and their detector covers the diagonal with ``P = ceil(sqrt(2) W)`` bins, one pixel wide. A slice (C, X, Y) is
    the published image with rows along X, columns along Y, so the view at 0 degrees sums along X.
    ``rotation_geometry`` has :func:`to_published_layout` for sinograms (Z, 1, P, views).

    ``adjoint`` is exact. What the published codes call A^T is :meth:`back_projection`, about ``pi / (2 views)``
    times as large; the published weights of regularizers and data terms belong to that scale.

    Args:
        geometry: the volume; square slices of square pixels.
        views: number of views, two or more, equally spaced over 180 degrees, end excluded.
        angles: two angles or more in degrees; wins over ``views``. Limited angle: 0, 1, 2, ...
        memory_limit_gb: do not build matrices that need more than this at their peak, but a few views at a time at
            every use: the same numbers, slower.

    Raises:
        ConfigError: a wrong option.
        InputError: slices or pixels that are not square.
        ResourceError: one view alone would need more memory than the limit; the message has the estimate.
    """

    name = "rotation_ct"

    def __init__(
        self,
        geometry: VolumeGeometry,
        views: int | None = None,
        angles: Sequence[float] | None = None,
        memory_limit_gb: float = 4.0,
    ) -> None:
        degrees = _angles(views, angles)
        width = _square_width(geometry)
        super().__init__(geometry, len(degrees), padded_size(width)[0], memory_limit_gb)
        self.degrees = degrees
        self.smear: SparseMatrix | None = None
        radians = np.deg2rad(np.asarray(degrees, dtype=np.float64))
        entries = np.array([sum(rotation_entries(width, theta)) for theta in radians[:, None]], dtype=np.float64)
        if self._prepare(entries, _PEAK_BYTES, memory_limit_gb, (ROTATION_VERSION, self.name, width, degrees)):
            self.smear = SparseMatrix(self._view_smear(0, len(degrees)))

    def _view_matrix(self, first: int, last: int) -> csr_array:
        return rotation_matrix(self.geometry.shape[0], np.deg2rad(np.asarray(self.degrees[first:last])))

    def _view_smear(self, first: int, last: int) -> csr_array:
        """Return the columns of some views in the published back-projection, scaled for all of them."""
        radians = np.deg2rad(np.asarray(self.degrees[first:last]))
        return rotation_back_projection(self.geometry.shape[0], radians, len(self.degrees))

    def back_projection(self, y: Tensor) -> Tensor:
        """Return B y (1, X, Y, Z), the published stand-in for A^T y: read every view at the pixels, unfiltered.

        B is ``pi / (2 views)`` times the adjoint up to interpolation (a few per cent): B A is not symmetric.

        Raises:
            InputError: a sinogram of the wrong shape or type.
        """
        self._check(y, self.measurement_shape, self.complex_measurement, "measurement")
        if self.smear is not None:
            return self.smear(y.flatten(0, 1)).reshape(self.volume_shape)
        image = y.new_zeros((self.geometry.shape[0] * self.geometry.shape[1], self.geometry.shape[2]))
        for first, last, part in self._rebuilt(self._view_smear):
            image = image + self._on_device(part)(y[first:last].flatten(0, 1))
        return image.reshape(self.volume_shape)

    def filtered_back_projection(self, y: Tensor) -> Tensor:
        """Return the published filtered back-projection (1, X, Y, Z): B of the ramp-filtered views, doubled.

        The scale is right for views that cover 180 degrees; it is not adapted to limited angles.

        Raises:
            InputError: a sinogram of the wrong shape or type.
        """
        self._check(y, self.measurement_shape, self.complex_measurement, "measurement")
        return self.back_projection(2.0 * ramp_filter(y, 1.0))

    def initial(self, y: Tensor) -> Tensor:
        """Return the filtered back-projection (1, X, Y, Z)."""
        return self.filtered_back_projection(y)


def _square_width(geometry: VolumeGeometry) -> int:
    """Return the pixels along both sides of the axial slices."""
    if geometry.shape[0] != geometry.shape[1]:
        raise InputError(
            "the axial slices are not square",
            where="operator rotation_ct",
            expected="as many voxels along X as along Y",
            got=geometry.shape[:2],
            mend="pad or crop the volume, or use parallel_ct",
        )
    if abs(geometry.spacing[0] / geometry.spacing[1] - 1.0) > _SQUARE:
        raise InputError(
            "the pixels of the axial slices are not square",
            where="operator rotation_ct",
            expected="the same spacing along X and Y",
            got=f"{geometry.spacing[0]:g} and {geometry.spacing[1]:g} mm",
            mend="resample the volume, or use parallel_ct",
        )
    return geometry.shape[0]


def _angles(views: int | None, angles: object) -> tuple[float, ...]:
    """Return the angles in degrees that the options describe.

    One view is none: the published back-projection finds a view at ``2 i / (views - 1) - 1``.
    """
    if angles is not None:
        if isinstance(angles, str) or not isinstance(angles, Iterable):
            raise ConfigError("not a list", where="operator#angles", expected="angles in degrees", got=repr(angles))
        listed = tuple(check_number(a, "operator#angles") for a in angles)
        if len(listed) < 2:
            raise ConfigError("too few views", where="operator#angles", expected="two angles or more", got=len(listed))
        return listed
    if views is None:
        raise ConfigError("no view", where="operator#views", expected="a number of views, or operator#angles")
    count = check_integer(views, "operator#views", low=2, high=MOST_VIEWS)
    return tuple(180.0 * i / count for i in range(count))
