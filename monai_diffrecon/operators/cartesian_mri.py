# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cartesian MRI, single- and multi-coil."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.fourier import AXIAL, centred_fft, centred_ifft
from monai_diffrecon.numerics.option_checks import check_flag, check_integer, check_number
from monai_diffrecon.numerics.sampling_masks import sampling_mask
from monai_diffrecon.protocols import Operator, VolumeGeometry


class CartesianMRI(Operator):
    """Undersampled k-space of every axial slice: orthonormal, centred, (coils, X, Y, Z), 0 where not measured.

    ``A x = M F (S x)`` with coil maps S (SENSE, Pruessmann et al. 1999); one mask for all slices.

    Args:
        geometry: the volume.
        mask: sampling mask (X, Y), zero frequency at N // 2; wins over the generated one.
        mask_type: ``uniform1d``, ``gaussian1d``, ``gaussian2d`` or ``poisson``.
        acceleration: total over measured points.
        center_fraction: part of each phase-encoded axis that is always measured.
        mask_seed: seed of the mask.
        coil_maps: complex coil sensitivities (coils, X, Y, Z); None is a single coil of sensitivity 1.
        complex_volume: the volume is complex; otherwise the adjoint takes the real part.
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
    ) -> None:
        shape = (geometry.shape[0], geometry.shape[1])
        if mask is None:
            check_number(acceleration, "operator#acceleration", low=1.0)
            check_number(center_fraction, "operator#center_fraction", low=0.0, high=1.0)
            seed = check_integer(mask_seed, "operator#mask_seed", low=0)
            mask = torch.from_numpy(sampling_mask(mask_type, shape, acceleration, center_fraction, seed))
        sampled = torch.as_tensor(mask) != 0
        if tuple(sampled.shape) != shape:
            raise ConfigError("of the wrong shape", where="operator#mask", expected=shape, got=tuple(sampled.shape))
        if not bool(sampled.any()):
            raise ConfigError("nothing is measured", where="operator#mask", expected="a point that is not 0")
        super().__init__(
            geometry,
            (1 if coil_maps is None else _coils(coil_maps, geometry.shape), *geometry.shape),
            complex_measurement=True,
            complex_volume=check_flag(complex_volume, "operator#complex_volume"),
        )
        self.mask: Tensor
        self.coil_maps: Tensor | None
        self.register_buffer("mask", sampled, persistent=False)
        self.register_buffer("coil_maps", coil_maps, persistent=False)

    @property
    def acceleration(self) -> float:
        """Total over measured points, as the mask has it."""
        return self.mask.numel() / max(int(self.mask.sum()), 1)

    def _to_volume(self, images: Tensor) -> Tensor:
        """Return the adjoint of the coil weighting, real unless the volume is complex."""
        if self.coil_maps is not None:
            images = (self.coil_maps.conj().to(images.dtype) * images).sum(0, keepdim=True)
        return images if self.complex_volume else images.real

    def _to_coils(self, x: Tensor) -> Tensor:
        return x if self.coil_maps is None else self.coil_maps.to(torch.promote_types(x.dtype, torch.complex64)) * x

    def slice_axis(self, plane: str) -> int | None:
        """Return the axis of the measurement along which the slices of ``plane`` are apart, or None."""
        return -1 if plane == self.slice_plane else None

    def _forward(self, x: Tensor) -> Tensor:
        return centred_fft(self._to_coils(x)) * self.mask[:, :, None]

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._to_volume(centred_ifft(y * self.mask[:, :, None])).contiguous()

    def normal(self, x: Tensor) -> Tensor:
        """Return A^T A x without the shifts of the centred transforms, which cancel."""
        self._check(x, self.volume_shape, self.complex_volume, "volume")
        unshifted = torch.fft.ifftshift(self.mask)[:, :, None]
        k = torch.fft.fft2(self._to_coils(x), dim=AXIAL, norm="ortho") * unshifted
        return self._to_volume(torch.fft.ifft2(k, dim=AXIAL, norm="ortho")).contiguous()

    def initial(self, y: Tensor) -> Tensor:
        """Return the zero-filled image, or the SENSE adjoint over the sum of squared sensitivities."""
        self._check(y, self.measurement_shape, self.complex_measurement, "measurement")
        estimate = self._adjoint(y)
        if self.coil_maps is None:
            return estimate
        power = self.coil_maps.abs().square().sum(0, keepdim=True)
        return torch.where(power > 1e-6 * power.max(), estimate / power.clamp_min(1e-12), torch.zeros_like(estimate))

    def norm(self) -> float:
        """Return ||A^T A||: known for a single coil, by power iteration otherwise.

        A single complex coil has the eigenvalues 0 and 1. A real image has a Hermitian spectrum, so A^T A weighs
        each frequency by the mean of the mask there and at the opposite frequency.
        """
        if self.coil_maps is not None:
            return super().norm()
        weights = torch.fft.ifftshift(self.mask).double()
        if not self.complex_volume:
            weights = (weights + weights.flip(0, 1).roll((1, 1), (0, 1))) / 2
        return float(weights.max())


def _coils(coil_maps: Tensor, shape: tuple[int, int, int]) -> int:
    """Return the number of coils.

    Raises:
        ConfigError: no complex maps (coils, X, Y, Z) of this volume.
    """
    if isinstance(coil_maps, Tensor) and coil_maps.is_complex() and coil_maps.ndim == 4:
        coils = int(coil_maps.shape[0])
        if coils > 0 and tuple(coil_maps.shape[1:]) == tuple(shape):
            return coils
    described = f"{coil_maps.dtype} {tuple(coil_maps.shape)}" if isinstance(coil_maps, Tensor) else repr(coil_maps)
    raise ConfigError(
        "not coil maps of this volume",
        where="operator#coil_maps",
        expected=f"a complex tensor (coils, {', '.join(map(str, shape))})",
        got=described,
    )
