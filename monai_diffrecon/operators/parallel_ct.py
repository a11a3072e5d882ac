# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Parallel-beam CT with one sparse matrix for all slices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError, ResourceError
from monai_diffrecon.numerics.option_checks import check_choice, check_integer, check_number
from monai_diffrecon.numerics.parallel_geometry import joseph_entries, joseph_matrix, view_weights
from monai_diffrecon.numerics.ramp_filter import ramp_filter
from monai_diffrecon.numerics.sparse import SparseMatrix
from monai_diffrecon.protocols import Operator, VolumeGeometry

#: Bytes an entry takes at the peak: the list of views and its concatenation (row, column, value: 12 each), and the
#: matrix (8). What stays is the pair: 16.
_PEAK_BYTES = 32


class ParallelCT(Operator):
    """Line integrals of every axial slice: intensity times mm, measurement (views, detectors, Z).

    The matrix (Joseph 1982) and its transpose are stored once and shared by all slices, so the adjoint is exact
    and a volume costs one product of a sparse with a dense matrix.

    Args:
        geometry: the volume.
        views: number of views, equally spaced over ``arc``.
        angles: angles in degrees; wins over ``views``.
        arc: degrees the views cover, end excluded.
        first_angle: angle of the first view in degrees.
        detectors: detector bins; None covers the slice's diagonal.
        detector_spacing: distance of the bins in mm; None is the smaller pixel size.
        filter: window of the filtered back-projection, ``ramp`` or ``hann``.
        memory_limit_gb: refuse to build matrices that need more than this at their peak.

    Raises:
        ConfigError: a wrong option.
        ResourceError: the matrices would need more memory than the limit; the message has the estimate.
    """

    slice_plane = "axial"

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
    ) -> None:
        shape = (geometry.shape[0], geometry.shape[1])
        spacing = (geometry.spacing[0], geometry.spacing[1])
        degrees = _angles(views, angles, arc, first_angle)
        window = check_choice(filter, "operator#filter", ("ramp", "hann"))
        width = min(spacing) if detector_spacing is None else detector_spacing
        width = check_number(width, "operator#detector_spacing", low=0.0, open_low=True)
        if detectors is None:
            detectors = math.ceil(math.hypot(shape[0] * spacing[0], shape[1] * spacing[1]) / width) + 1
        bins = check_integer(detectors, "operator#detectors", low=1)
        limit = check_number(memory_limit_gb, "operator#memory_limit_gb", low=0.0, open_low=True)
        radians = np.deg2rad(np.asarray(degrees, dtype=np.float64))
        needed = _PEAK_BYTES * joseph_entries(shape, spacing, radians, bins, width) / 1e9
        if needed > limit:
            raise ResourceError(
                "the system matrix would be too large",
                where="operator parallel_ct",
                expected=f"at most {limit:g} GB",
                got=f"about {needed:.2g} GB",
                mend="use fewer views or detectors, or raise operator#memory_limit_gb",
            )
        super().__init__(geometry, (len(degrees), bins, geometry.shape[2]))
        self.filter, self.degrees = window, degrees
        self.detector_spacing, self.pixel_area = width, spacing[0] * spacing[1]
        matrix = joseph_matrix(shape, spacing, radians, bins, width)
        self.matrix = SparseMatrix(matrix)
        self.transposed = SparseMatrix(matrix.T.tocsr())
        self.view_weights: Tensor
        self.register_buffer("view_weights", torch.from_numpy(view_weights(radians)), persistent=False)

    @property
    def volume_dtype(self) -> torch.dtype:
        """Data type the matrix computes in: float32, or float64 after ``double()``; others are converted."""
        return self.matrix.values.dtype

    def slice_axis(self, plane: str) -> int | None:
        """Return the axis of the measurement along which the slices of ``plane`` are apart, or None."""
        return -1 if plane == self.slice_plane else None

    def _forward(self, x: Tensor) -> Tensor:
        return self.matrix(x[0].flatten(0, 1)).reshape(self.measurement_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.transposed(y.flatten(0, 1)).reshape(self.volume_shape)

    def initial(self, y: Tensor) -> Tensor:
        """Return the filtered back-projection (1, X, Y, Z) of a sinogram (Kak and Slaney 1988, section 3.3).

        A ray stands for ``detector_spacing`` mm of width; its weights sum to its lengths in the pixels.
        """
        self._check(y, self.measurement_shape, self.complex_measurement, "measurement")
        filtered = ramp_filter(y, self.detector_spacing, self.filter)
        weighted = filtered * self.view_weights.to(y.dtype)[:, None, None]
        return self.adjoint(weighted) * (self.detector_spacing / self.pixel_area)


def _angles(views: int | None, angles: object, arc: float, first_angle: float) -> tuple[float, ...]:
    """Return the angles in degrees that the options describe."""
    if angles is not None:
        if isinstance(angles, str) or not isinstance(angles, Iterable):
            raise ConfigError("no list", where="operator#angles", expected="angles in degrees", got=repr(angles))
        listed = tuple(check_number(a, "operator#angles") for a in angles)
        if not listed:
            raise ConfigError("no view", where="operator#angles", expected="one angle or more", got="none")
        return listed
    if views is None:
        raise ConfigError("no view", where="operator#views", expected="a number of views, or operator#angles")
    count = check_integer(views, "operator#views", low=1)
    whole = check_number(arc, "operator#arc", low=0.0, high=360.0, open_low=True)
    first = check_number(first_angle, "operator#first_angle")
    return tuple(first + whole * i / count for i in range(count))
