# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cartesian MRI slice by slice, single- and multi-coil."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.numerics.mri.fourier import AXIAL
from monai_diffrecon.operators._cartesian import CartesianEncoding, drawn_mask, encoded_shape, given_mask
from monai_diffrecon.protocols import VolumeGeometry


class CartesianMRI(CartesianEncoding):
    """Undersampled k-space of every axial slice: orthonormal, centred, (coils, X, Y, Z), 0 where not measured.

    ``A x = M F (S x)`` with coil maps S (SENSE, Pruessmann et al. 1999). The classical
    estimate is zero-filled, with partial Fourier too: no homodyne filter, since a real volume's adjoint holds what the
    Hermitian symmetry of its spectrum says, and a complex volume's phase is the prior's business.

    Args:
        geometry: the volume.
        mask: sampling mask (X, Y) of 0 and 1, or (X, Y, Z) with a mask for each slice, zero frequency at N // 2; wins
            over the generated one.
        mask_type: ``uniform1d``, ``gaussian1d``, ``gaussian2d`` or ``poisson``.
        acceleration: total over measured points.
        center_fraction: part of each phase-encoded axis that is always measured.
        mask_seed: seed of the mask.
        coil_maps: complex coil sensitivities (coils, X, Y, Z); None is a single coil of sensitivity 1.
        complex_volume: the volume is complex; otherwise the adjoint takes the real part.
        partial_fourier: part of the first phase-encoded axis (X, or Y of the 1d masks) that may be measured, above
            0.5; what is left out lies at its low end, and the centre is measured in any case. The acceleration is
            still that of the whole, as far as enough points are left.
        encoded: samples of k-space along X, Y, Z when they are more than the voxels, as with readout oversampling: the
            volume is the middle of a wider field of view, in which there is nothing else. The mask is of this size.
        mask_per_slice: draw another mask for each slice, of the seeds from ``mask_seed`` on: k-t sampling where the
            third axis is time (docs/joint.md).
    """

    slice_plane = "axial"

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
        encoded: Sequence[int] | None = None,
        mask_per_slice: bool = False,
    ) -> None:
        samples = encoded_shape(encoded, geometry.shape, AXIAL)
        shape = (samples[0], samples[1])
        if mask is not None:
            sampled = given_mask(mask, shape, samples, partial_fourier)
        else:
            count = samples[2] if check_flag(mask_per_slice, "operator#mask_per_slice") else 1
            drawn = [
                drawn_mask(mask_type, shape, acceleration, center_fraction, mask_seed + index, partial_fourier)
                for index in range(count)
            ]
            sampled = torch.stack(drawn, -1) if mask_per_slice else drawn[0]
        super().__init__(
            geometry,
            sampled,
            masked=AXIAL,
            transformed=AXIAL,
            encoded=samples,
            coil_maps=coil_maps,
            complex_volume=complex_volume,
        )

    def slice_axis(self, plane: str) -> int | None:
        """Return the axis of the measurement along which the slices of ``plane`` are apart, or None."""
        return -1 if plane == self.slice_plane else None

    def restricted(self, plane: str, first: int, end: int) -> CartesianMRI:
        """Return the operator of some axial slices."""
        part = self.cut(plane, first, end)
        for name in ("mask", "coil_maps"):
            kept = getattr(self, name)
            if kept is not None and kept.ndim > 2:  # of each slice
                setattr(part, name, kept[..., first:end])
        return part
