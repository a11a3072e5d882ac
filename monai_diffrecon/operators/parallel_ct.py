# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Parallel-beam CT with one sparse matrix for all slices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from monai_diffrecon.errors.options import check_choice, check_integer, check_number
from monai_diffrecon.numerics.ct.back_projection import back_projection, pixel_coordinates, ramp_filter
from monai_diffrecon.numerics.ct.joseph import JOSEPH_BYTES, JOSEPH_VERSION, ray_entries
from monai_diffrecon.numerics.ct.parallel_geometry import (
    bin_positions,
    joseph_matrix,
    measured_arc,
    missing_bins,
    parallel_rays,
    redundancy_weights,
    view_weights,
)
from monai_diffrecon.numerics.ct.scan_angles import scan_angles
from monai_diffrecon.operators._sparse_projector import SparseProjector
from monai_diffrecon.protocols import VolumeGeometry


class ParallelCT(SparseProjector):
    """Line integrals of every axial slice: intensity times mm, measurement (views, detectors, Z).

    The matrix (Joseph 1982) and its transpose are stored once and shared by all slices, so the adjoint is exact
    and a volume costs one product of a sparse with a dense matrix. Above ``memory_limit_gb`` a few views at a time
    are built at every use: the same numbers, slower. A matrix that took long to build is kept on disk
    (``numerics.matrix_cache``).

    Args:
        geometry: the volume.
        views: number of views, equally spaced over ``arc``.
        angles: angles in degrees; wins over ``views``.
        arc: degrees the views cover, end excluded; less than 180 is a limited angle.
        first_angle: angle of the first view in degrees.
        angles_unit: ``degrees`` or ``radians``, of all three. None is degrees, but numbers that look like radians
            are refused.
        detectors: detector bins; None covers the slice's diagonal.
        detector_spacing: distance of the bins in mm; None is the smaller pixel size.
        detector_offset: how far the detector's centre is from the shadow of the axis of rotation, in mm. Filtered
            back-projection of a full circle makes up for a detector that is too short on one side; of a shorter arc
            it takes the missing rays for 0.
        filter: window of the filtered back-projection, ``ramp`` or ``hann``.
        memory_limit_gb: do not build matrices that need more than this at their peak.

    Raises:
        ConfigError: a wrong option, or angles that look like radians.
        ResourceError: one view alone would need more memory than the limit; the message has the estimate.
    """

    name = "parallel_ct"

    def __init__(
        self,
        geometry: VolumeGeometry,
        views: int | None = None,
        angles: Sequence[float] | None = None,
        arc: float = 180.0,
        first_angle: float = 0.0,
        detectors: int | None = None,
        detector_spacing: float | None = None,
        filter: str = "ramp",
        memory_limit_gb: float = 4.0,
        detector_offset: float = 0.0,
        angles_unit: str | None = None,
    ) -> None:
        shape = (geometry.shape[0], geometry.shape[1])
        spacing = (geometry.spacing[0], geometry.spacing[1])
        degrees = scan_angles(views, angles, arc, first_angle, angles_unit)
        window = check_choice(filter, "operator#filter", ("ramp", "hann"))
        width = min(spacing) if detector_spacing is None else detector_spacing
        width = check_number(width, "operator#detector_spacing", low=0.0, open_low=True)
        offset = check_number(detector_offset, "operator#detector_offset")
        diagonal = math.hypot(shape[0] * spacing[0], shape[1] * spacing[1])
        if detectors is None:
            detectors = math.ceil((diagonal + 2.0 * abs(offset)) / width) + 1
        bins = check_integer(detectors, "operator#detectors", low=1)
        super().__init__(geometry, len(degrees), bins, memory_limit_gb)
        self.filter, self.degrees = window, degrees
        self.detector_spacing, self.detector_offset = width, offset
        self.pixel_area = spacing[0] * spacing[1]
        radians = np.deg2rad(np.asarray(degrees, dtype=np.float64))
        entries = ray_entries(shape, spacing, parallel_rays(radians, bins, width, offset))
        key = (JOSEPH_VERSION, self.name, shape, spacing, degrees, bins, width, offset)
        self._prepare(entries, JOSEPH_BYTES, memory_limit_gb, key)
        positions = bin_positions(bins, width, offset)
        self._first_bin, self._padding, bin_weights = float(positions[0]), (0, 0), np.ones(bins)
        if measured_arc(radians, 2.0 * np.pi)[1] >= 2.0 * np.pi:
            self._padding = missing_bins(positions, diagonal / 2)
            bin_weights = redundancy_weights(positions, diagonal / 2)
        self.view_weights: Tensor
        self.register_buffer("view_weights", torch.from_numpy(view_weights(radians)), persistent=False)
        self.bin_weights: Tensor
        self.register_buffer("bin_weights", torch.from_numpy(bin_weights), persistent=False)

    def _view_matrix(self, first: int, last: int) -> csr_array:
        (nx, ny, _), (dx, dy, _) = self.geometry.shape, self.geometry.spacing
        radians = np.deg2rad(np.asarray(self.degrees[first:last], dtype=np.float64))
        bins = self.measurement_shape[1]
        return joseph_matrix((nx, ny), (dx, dy), radians, bins, self.detector_spacing, self.detector_offset)

    def initial(self, y: Tensor) -> Tensor:
        """Return the filtered back-projection (1, X, Y, Z) of a sinogram (Kak and Slaney 1988, section 3.3).

        A ray stands for ``detector_spacing`` mm of width; its weights sum to its lengths in the pixels.
        """
        counted = F.pad(y * self.bin_weights.to(y.dtype)[:, None], (0, 0, *self._padding))
        filtered = ramp_filter(counted, self.detector_spacing, self.filter)
        weighted = filtered * self.view_weights.to(y.dtype)[:, None, None]
        if self._padding == (0, 0):
            return self.adjoint(weighted) * (self.detector_spacing / self.pixel_area)
        return back_projection(weighted, math.prod(self.geometry.shape[:2]), self._locate).reshape(self.volume_shape)

    def _locate(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the bins of the padded detector at which the pixels are seen, and weights of 1 (X * Y, views)."""
        radians = np.deg2rad(np.asarray(self.degrees[first:last]))
        across, _ = pixel_coordinates(self.geometry.shape[:2], self.geometry.spacing[:2], radians)
        first_bin = self._first_bin - self._padding[0] * self.detector_spacing
        return (across - first_bin) / self.detector_spacing, np.ones_like(across)
