# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cartesian MRI with two phase-encoded axes, single- and multi-coil."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from monai_diffrecon.numerics.mri.fourier import VOLUME
from monai_diffrecon.numerics.planes import check_plane
from monai_diffrecon.operators._cartesian import CartesianEncoding, drawn_mask, encoded_shape, given_mask
from monai_diffrecon.protocols import PLANE_AXIS, VolumeGeometry


class CartesianMRI3D(CartesianEncoding):
    """Undersampled k-space of a whole volume: orthonormal, centred, (coils, X, Y, Z), 0 where not measured.

    ``A x = M F (S x)`` with coil maps S (SENSE, Pruessmann et al. 1999) and F over all three axes. The readout is
    measured in full when the mask runs over the two phase-encoded axes. Data transformed along the readout already
    (hybrid space) must be transformed back first. The classical estimate is zero-filled, with partial Fourier too.

    Args:
        geometry: the volume.
        mask: sampling mask of 0 and 1, (n1, n2) over the phase-encoded axes in the order X, Y, Z, or (X, Y, Z), zero
            frequency at N // 2; wins over the generated one.
        mask_type: ``uniform1d`` and ``gaussian1d`` select among the second phase-encoded axis, ``gaussian2d`` and
            ``poisson`` among both.
        acceleration: total over measured points.
        center_fraction: part of each phase-encoded axis that is always measured.
        mask_seed: seed of the mask.
        coil_maps: complex coil sensitivities (coils, X, Y, Z); None is a single coil of sensitivity 1.
        complex_volume: the volume is complex; otherwise the adjoint takes the real part.
        partial_fourier: part of the first phase-encoded axis (the second of the 1d masks) that may be measured, above
            0.5; what is left out lies at its low end, and the centre is measured in any case.
        readout: the plane whose slices are stacked along the readout: ``sagittal`` (X), ``coronal`` (Y) or
            ``axial`` (Z).
        encoded: samples of k-space along X, Y, Z when they are more than the voxels, as of ``cartesian_mri``.
    """

    def __init__(
        self,
        geometry: VolumeGeometry,
        mask: Tensor | Sequence[Sequence[int]] | None = None,
        mask_type: str = "poisson",
        acceleration: float = 8.0,
        center_fraction: float = 0.08,
        mask_seed: int = 0,
        coil_maps: Tensor | None = None,
        complex_volume: bool = False,
        partial_fourier: float = 1.0,
        readout: str = "sagittal",
        encoded: Sequence[int] | None = None,
    ) -> None:
        axis_of_readout = PLANE_AXIS[check_plane(readout, "operator#readout")] - 3
        first, second = (axis for axis in VOLUME if axis != axis_of_readout)
        samples = encoded_shape(encoded, geometry.shape, VOLUME)
        shape = (samples[first], samples[second])
        super().__init__(
            geometry,
            drawn_mask(mask_type, shape, acceleration, center_fraction, mask_seed, partial_fourier)
            if mask is None
            else given_mask(mask, shape, samples, partial_fourier),
            masked=(first, second),
            transformed=VOLUME,
            encoded=samples,
            coil_maps=coil_maps,
            complex_volume=complex_volume,
        )
        self.readout = readout
