# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Parallel-beam CT with one sparse matrix for all slices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError, ResourceError
from monai_diffrecon.numerics.option_checks import check_choice, check_integer, check_number
from monai_diffrecon.numerics.parallel_geometry import joseph_entries, joseph_matrix, view_weights
from monai_diffrecon.numerics.ramp_filter import ramp_filter
from monai_diffrecon.numerics.sparse import to_torch_csr
from monai_diffrecon.protocols import Operator, VolumeGeometry


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
        memory_limit_gb: refuse a matrix pair larger than this.
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
        filter: str = "ramp",  # noqa: A002 - the field's word
        memory_limit_gb: float = 4.0,
    ) -> None:
        shape, spacing = geometry.shape[:2], geometry.spacing[:2]
        degrees = _angles(views, angles, arc, first_angle)
        if detector_spacing is None:
            detector_spacing = min(spacing)
        check_number(detector_spacing, "operator#detector_spacing", low=0.0, open_low=True)
        if detectors is None:
            detectors = math.ceil(math.hypot(shape[0] * spacing[0], shape[1] * spacing[1]) / detector_spacing) + 1
        check_integer(detectors, "operator#detectors", low=1)
        needed = 2 * 8 * joseph_entries((shape[0], shape[1]), len(degrees), detectors) / 1e9
        if needed > check_number(memory_limit_gb, "operator#memory_limit_gb", low=0.0):
            raise ResourceError(
                "the system matrix would be too large",
                where="operator parallel_ct",
                expected=f"at most {memory_limit_gb:g} GB",
                got=f"about {needed:.1f} GB",
                mend="use fewer views or detectors, or raise operator#memory_limit_gb",
            )
        super().__init__(geometry, (len(degrees), detectors, geometry.shape[2]))
        self.filter = check_choice(filter, "operator#filter", ("ramp", "hann"))
        self.detector_spacing, self.pixel_area = float(detector_spacing), spacing[0] * spacing[1]
        self.degrees = degrees
        radians = np.deg2rad(np.asarray(degrees, dtype=np.float64))
        matrix = joseph_matrix(
            (shape[0], shape[1]), (spacing[0], spacing[1]), radians, detectors, self.detector_spacing
        )
        self.matrix: Tensor
        self.transpose: Tensor
        self.view_weights: Tensor
        self.register_buffer("matrix", to_torch_csr(matrix), persistent=False)
        self.register_buffer("transpose", to_torch_csr(matrix.T.tocsr()), persistent=False)
        self.register_buffer("view_weights", torch.from_numpy(view_weights(radians)), persistent=False)

    def _forward(self, x: Tensor) -> Tensor:
        pixels = x[0].reshape(-1, self.volume_shape[3])
        return (self.matrix @ pixels).reshape(self.measurement_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        rays = y.reshape(-1, self.volume_shape[3])
        return (self.transpose @ rays).reshape(self.volume_shape)

    def initial(self, y: Tensor) -> Tensor:
        """Return the filtered back-projection (1, X, Y, Z) of a sinogram (Kak and Slaney 1988, section 3.3).

        A ray stands for ``detector_spacing`` mm of width; its weights sum to its lengths in the pixels.
        """
        self._check(y, self.measurement_shape, self.complex_measurement, "measurement")
        filtered = ramp_filter(y, self.detector_spacing, self.filter)
        weighted = filtered * self.view_weights.to(y.dtype)[:, None, None]
        return self._adjoint(weighted) * (self.detector_spacing / self.pixel_area)


def _angles(
    views: int | None, angles: Sequence[float] | None, arc: float, first_angle: float
) -> tuple[float, ...]:
    """Return the angles in degrees that the options describe."""
    if angles is not None:
        listed = tuple(check_number(a, "operator#angles") for a in angles)
        if not listed:
            raise ConfigError("no view", where="operator#angles", expected="one angle or more", got="none")
        return listed
    if views is None:
        raise ConfigError("no view", where="operator#views", expected="a number of views, or operator#angles")
    count = check_integer(views, "operator#views", low=1)
    check_number(arc, "operator#arc", low=0.0, high=360.0, open_low=True)
    check_number(first_angle, "operator#first_angle")
    return tuple(first_angle + arc * i / count for i in range(count))
