# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Fan-beam CT, every axial slice its own fan, with one sparse matrix for all slices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_choice, check_integer, check_number
from monai_diffrecon.numerics.ct.back_projection import ramp_filter
from monai_diffrecon.numerics.ct.fan_geometry import FanGeometry, fan_back_projection, fan_ray_weights
from monai_diffrecon.numerics.ct.joseph import JOSEPH_BYTES, JOSEPH_VERSION, ray_entries, ray_matrix
from monai_diffrecon.numerics.ct.scan_angles import scan_angles, scan_distances
from monai_diffrecon.operators._sparse_projector import SparseProjector
from monai_diffrecon.protocols import VolumeGeometry


class FanCT(SparseProjector):
    """Line integrals of every axial slice along a fan: intensity times mm, measurement (views, detectors, Z).

    At the angle b the source is at ``(sin b, -cos b)`` times its distance and the detector's axis points along
    ``(cos b, sin b)``, so that the central ray is the one of ``parallel_ct`` at b, and a far source gives
    ``parallel_ct``. The matrix (Joseph 1982), its memory and its cache are as there.

    Filtered back-projection weighs rays by how often they are measured: half on a full circle; Parker's weights
    (1982) on an arc of at least 180 degrees plus ``fan_angle``, in Silver's form (2000) when it is longer. An arc
    below that is a limited angle: no weights of Parker, all rays count the same, and what the missing rays would
    have shown is missing.

    Args:
        geometry: the volume.
        source_distance: source to axis of rotation in mm; the source stays outside the image.
        detector_distance: source to detector in mm, ``source_distance`` or more.
        detector: ``flat``, or ``curved``: an arc about the source.
        views: number of views, equally spaced over ``arc``.
        angles: angles in degrees; wins over ``views``.
        arc: degrees the views cover, end excluded.
        first_angle: angle of the first view in degrees.
        angles_unit: ``degrees`` or ``radians``, of all three. None is degrees, but numbers that look like radians
            are refused.
        detectors: detector bins; None covers the slice's diagonal.
        detector_spacing: distance of the bins in mm, along the flat detector or the arc of the curved one; None is
            the smaller pixel size, magnified.
        detector_offset: how far the detector's centre is from the central ray, in mm along the detector. Filtered
            back-projection of a full circle makes up for a detector that is too short on one side; of a shorter arc
            it takes the missing rays for 0.
        filter: window of the filtered back-projection, ``ramp`` or ``hann``.
        memory_limit_gb: do not build matrices that need more than this at their peak, but a few views at a time at
            every use: the same numbers, slower.

    Raises:
        ConfigError: a wrong option, a source within the image, or angles that look like radians.
        ResourceError: one view alone would need more memory than the limit; the message has the estimate.
    """

    name = "fan_ct"

    def __init__(
        self,
        geometry: VolumeGeometry,
        source_distance: float,
        detector_distance: float,
        detector: str = "flat",
        views: int | None = None,
        angles: Sequence[float] | None = None,
        arc: float = 360.0,
        first_angle: float = 0.0,
        detectors: int | None = None,
        detector_spacing: float | None = None,
        detector_offset: float = 0.0,
        filter: str = "ramp",
        memory_limit_gb: float = 4.0,
        angles_unit: str | None = None,
    ) -> None:
        degrees = scan_angles(views, angles, arc, first_angle, angles_unit)
        window = check_choice(filter, "operator#filter", ("ramp", "hann"))
        curved = check_choice(detector, "operator#detector", ("flat", "curved")) == "curved"
        pixels = min(geometry.spacing[:2])
        radius = math.hypot(geometry.shape[0] * geometry.spacing[0], geometry.shape[1] * geometry.spacing[1]) / 2
        source, far = scan_distances(source_distance, detector_distance, radius)
        width = pixels * far / source if detector_spacing is None else detector_spacing
        width = check_number(width, "operator#detector_spacing", low=0.0, open_low=True)
        offset = check_number(detector_offset, "operator#detector_offset")
        if detectors is None:
            edge = math.asin(radius / source)
            half = far * (edge if curved else math.tan(edge))
            detectors = math.ceil(2.0 * (half + abs(offset)) / width) + 1
        bins = check_integer(detectors, "operator#detectors", low=1)
        super().__init__(geometry, len(degrees), bins, memory_limit_gb)
        self.filter, self.degrees = window, degrees
        angles_in_radians = tuple(float(a) for a in np.deg2rad(degrees))
        self.fan = FanGeometry(angles_in_radians, source, far, bins, width, offset, curved)
        self._radius = radius
        widest = float(np.abs(self.fan.fan_angles()).max())
        if widest >= math.pi / 2:
            raise ConfigError(
                "the detector extends around the source",
                where="operator#detectors",
                expected="rays less than 90 degrees from the central one",
                got=f"{math.degrees(widest):.4g} degrees",
                mend="use fewer detectors or a smaller detector_spacing",
            )
        entries = ray_entries(geometry.shape[:2], geometry.spacing[:2], self.fan.rays())
        key = (JOSEPH_VERSION, self.name, geometry.shape[:2], geometry.spacing[:2], self.fan)
        self._prepare(entries, JOSEPH_BYTES, memory_limit_gb, key)
        self.ray_weights: Tensor
        weights = torch.from_numpy(fan_ray_weights(self.fan, radius))
        self.register_buffer("ray_weights", weights, persistent=False)

    @property
    def fan_angle(self) -> float:
        """Angle of the fan in degrees: of the rays that meet the image. A short scan is 180 plus this, or more."""
        return 2.0 * math.degrees(self.fan.half_fan(self._radius))

    def _view_matrix(self, first: int, last: int) -> csr_array:
        return ray_matrix(self.geometry.shape[:2], self.geometry.spacing[:2], self.fan.rays(first, last))

    def initial(self, y: Tensor) -> Tensor:
        """Return the filtered back-projection (1, X, Y, Z) of a sinogram (Kak and Slaney 1988, section 3.4)."""
        before, after = self.fan.missing_bins(self._radius)
        weighted = F.pad(y * self.ray_weights.to(y.dtype)[..., None], (0, 0, before, after))
        fan = self.fan.padded(before, after)
        at_axis = fan.detector_spacing * fan.source_distance / fan.detector_distance
        step = fan.detector_spacing / fan.detector_distance if fan.curved else 0.0
        filtered = ramp_filter(weighted, at_axis, self.filter, fan_step=step)
        image = fan_back_projection(filtered, fan, self.geometry.shape[:2], self.geometry.spacing[:2])
        return image.reshape(self.volume_shape)
