# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Common base of the Cartesian MRI operators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon import slabs
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_flag, check_integer, check_number
from monai_diffrecon.numerics.mri.coil_maps import check_coil_maps
from monai_diffrecon.numerics.mri.fourier import centred_fft, centred_ifft
from monai_diffrecon.numerics.mri.kspace_grid import centred_resize
from monai_diffrecon.numerics.mri.sampling_masks import sampling_mask
from monai_diffrecon.protocols import Operator, VolumeGeometry


class CartesianEncoding(Operator):
    """``A x = M F P (S x)``: coil maps S, zero-padding P, a centred orthonormal Fourier transform F, a mask M (SENSE).

    Args:
        geometry: the volume.
        mask: bool mask over the two masked axes or all three, zero frequency at N // 2.
        masked: the two axes (of X, Y, Z as -3, -2, -1) over which a mask of two axes runs, in order.
        transformed: the axes of F; those beside the masked ones are measured in full.
        encoded: samples of k-space along X, Y, Z, see :func:`encoded_shape`.
        coil_maps: complex coil sensitivities (coils, X, Y, Z); None is a single coil of sensitivity 1.
        complex_volume: the volume is complex; otherwise the adjoint takes the real part.
    """

    family = "mri"
    initial_kind = "zero_filled"
    measurement_axes = ("coils", "X", "Y", "Z")

    def __init__(
        self,
        geometry: VolumeGeometry,
        mask: Tensor,
        *,
        masked: tuple[int, int],
        transformed: tuple[int, ...],
        encoded: tuple[int, int, int],
        coil_maps: Tensor | None,
        complex_volume: bool,
    ) -> None:
        super().__init__(
            geometry,
            (1 if coil_maps is None else check_coil_maps(coil_maps, geometry.shape), *encoded),
            complex_measurement=True,
            complex_volume=check_flag(complex_volume, "operator#complex_volume"),
        )
        self._whole = next(axis for axis in (-3, -2, -1) if axis not in masked)
        self._masked, self._transformed = masked if mask.ndim == 2 else transformed, transformed
        self._padded = [axis for axis in transformed if encoded[axis] != geometry.shape[axis]]
        self.mask: Tensor
        self.coil_maps: Tensor | None
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("coil_maps", coil_maps, persistent=False)

    @property
    def acceleration(self) -> float:
        """Total over measured points, as the mask has it."""
        return self.mask.numel() / max(int(self.mask.sum()), 1)

    @property
    def _samples(self) -> Tensor:
        """The mask over X, Y and Z, of length 1 where it is the same all along."""
        return self.mask.unsqueeze(self._whole) if self.mask.ndim == 2 else self.mask

    def _maps(self) -> Sequence[Tensor | None]:
        """The maps coil by coil: one at a time needs a few volumes, all at once a few for each coil."""
        return [None] if self.coil_maps is None else self.coil_maps.split(1)

    def _to_volume(self, images: Tensor, maps: Tensor | None) -> Tensor:
        """Return the adjoint of the weighting by a coil and the padding, real unless the volume is complex.

        Overwrites ``images``.
        """
        for axis in self._padded:
            images = centred_resize(images, axis, self.geometry.shape[axis])
        if maps is not None:
            images = images.mul_(maps.conj().to(images.dtype))
        return images if self.complex_volume else images.real

    def _to_coil(self, x: Tensor, maps: Tensor | None) -> Tensor:
        x = x if maps is None else maps.to(torch.promote_types(x.dtype, torch.complex64)) * x
        for axis in self._padded:
            x = centred_resize(x, axis, self.measurement_shape[axis])
        return x

    def _encoded(self, x: Tensor, maps: Tensor | None) -> Tensor:
        return centred_fft(self._to_coil(x, maps), self._transformed).mul_(self._samples)

    def _forward(self, x: Tensor) -> Tensor:
        first, *others = self._maps()
        if not others:
            return self._encoded(x, first)
        y = x.new_empty(self.measurement_shape, dtype=torch.promote_types(x.dtype, torch.complex64))
        for coil, maps in enumerate((first, *others)):
            y[coil : coil + 1] = self._encoded(x, maps)
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        def image(coil: int) -> Tensor:
            return centred_ifft(y[coil : coil + 1] * self._samples, self._transformed)

        return _total(self._to_volume(image(coil), maps) for coil, maps in enumerate(self._maps()))

    def normal(self, x: Tensor) -> Tensor:
        """Return A^T A x over the masked axes alone: along the others, and of the shifts, nothing is left."""
        self._check(x, self.volume_shape, self.complex_volume, "volume")
        unshifted = torch.fft.ifftshift(self._samples, dim=self._masked)

        def image(maps: Tensor | None) -> Tensor:
            k = torch.fft.fftn(self._to_coil(x, maps), dim=self._masked, norm="ortho").mul_(unshifted)
            return torch.fft.ifftn(k, dim=self._masked, norm="ortho")

        return _total(self._to_volume(image(maps), maps) for maps in self._maps())

    def residual_norm(self, x: Tensor, y: Tensor) -> float:
        """Return ``||A x - y||``, coil by coil."""
        self._check(x, self.volume_shape, self.complex_volume, "volume")
        self._check(y, self.measurement_shape, True, "measurement")
        parts = [
            torch.linalg.vector_norm(self._encoded(x, maps).sub_(y[coil : coil + 1]))
            for coil, maps in enumerate(self._maps())
        ]
        return slabs.norm(torch.stack(parts))

    def initial(self, y: Tensor) -> Tensor:
        """Return the zero-filled image, or the SENSE adjoint over the sum of squared sensitivities."""
        estimate = self._adjoint(y)
        if self.coil_maps is None:
            return estimate
        power = _total(maps.abs().square() for maps in self.coil_maps.split(1))
        seen = power > 1e-6 * slabs.largest(power.max())
        return torch.where(seen, estimate / power.clamp_min(1e-12), torch.zeros_like(estimate))

    def norm(self) -> float:
        """Return ||A^T A||: known for a single coil, by power iteration otherwise.

        A single complex coil has the eigenvalues 0 and 1. A real image has a Hermitian spectrum, so A^T A weighs
        each frequency by the mean of the mask there and at the opposite frequency.
        """
        if self.coil_maps is not None or self._padded:
            return super().norm()
        weights = torch.fft.ifftshift(self._samples, dim=self._masked).double()
        if not self.complex_volume:
            weights = (weights + weights.flip(self._masked).roll([1] * len(self._masked), self._masked)) / 2
        return slabs.largest(float(weights.max()))


def _total(volumes: Iterable[Tensor]) -> Tensor:
    """Return the sum of volumes, contiguous; the first one is overwritten."""
    parts = iter(volumes)
    total = next(parts).contiguous()
    for part in parts:
        total.add_(part)
    return total


def encoded_shape(
    encoded: Sequence[int] | None, shape: tuple[int, int, int], axes: Sequence[int]
) -> tuple[int, int, int]:
    """Return the samples of k-space along X, Y, Z: those of the option ``encoded``, or one a voxel.

    More samples than voxels along an axis are oversampling: they encode a field of view that is as much wider, whose
    middle the volume is. Voxel N // 2 lies at sample N // 2 of the wider one.

    Args:
        encoded: the option.
        shape: voxels.
        axes: the Fourier-encoded axes (of -3, -2, -1).

    Raises:
        ConfigError: not three numbers, fewer samples than voxels, or more where nothing is encoded.
    """
    if encoded is None:
        return shape
    values = tuple(encoded) if isinstance(encoded, list | tuple) else ()
    lowest = all(type(v) is int and v >= n for v, n in zip(values, shape, strict=False))
    if len(values) != 3 or not lowest or any(values[i] != shape[i] for i in (-3, -2, -1) if i not in axes):
        raise ConfigError(
            "k-space samples that do not fit this volume",
            where="operator#encoded",
            expected=f"three integers, at least {shape}, and equal along the slices of a 2D acquisition",
            got=repr(encoded)[:60],
        )
    return values[0], values[1], values[2]


def drawn_mask(
    mask_type: str,
    shape: tuple[int, int],
    acceleration: float,
    center_fraction: float,
    mask_seed: int,
    partial_fourier: float,
) -> Tensor:
    """Return the mask (n1, n2) that the options of an operator describe.

    Raises:
        ConfigError: an option out of its range.
    """
    return torch.from_numpy(
        sampling_mask(
            mask_type,
            shape,
            check_number(acceleration, "operator#acceleration", low=1.0),
            check_number(center_fraction, "operator#center_fraction", low=0.0, high=1.0),
            check_integer(mask_seed, "operator#mask_seed", low=0),
            partial_fourier=check_number(partial_fourier, "operator#partial_fourier", low=0.5, high=1.0, open_low=True),
        )
    )


def given_mask(
    mask: Tensor | Sequence[Sequence[int]], shape: tuple[int, int], whole: tuple[int, ...], partial_fourier: float
) -> Tensor:
    """Return a mask that the user gave, as bool.

    Args:
        mask: the mask.
        shape: samples along the two axes over which a mask runs that is the same all across.
        whole: samples along X, Y, Z, of a mask that is not.
        partial_fourier: the option, which has no meaning here.

    Raises:
        ConfigError: no table of 0 and 1 of this shape, nothing is measured, or a partial Fourier fraction beside it.
    """
    if partial_fourier != 1.0:
        raise ConfigError(
            "only applies to a generated mask",
            where="operator#partial_fourier",
            expected="1.0 with operator#mask",
            got=repr(partial_fourier),
            mend="remove the points from the mask",
        )
    values = _as_tensor(mask)
    if values is None or values.is_complex():
        raise ConfigError("not a mask", where="operator#mask", expected=f"0 and 1 of shape {shape}", got=_kind(mask))
    if tuple(values.shape) not in (shape, whole):
        raise ConfigError(
            "of the wrong shape",
            where="operator#mask",
            expected=f"{shape}, the same for all that lies across, or {whole}",
            got=tuple(values.shape),
        )
    sampled = values != 0
    if not bool((sampled == values).all()):
        other = values[sampled != values][0]
        raise ConfigError("not a mask", where="operator#mask", expected="0 and 1", got=f"{float(other):g}")
    if not bool(sampled.any()):
        raise ConfigError("nothing is measured", where="operator#mask", expected="at least one point that is not 0")
    return sampled


def _as_tensor(mask: object) -> Tensor | None:
    try:
        return torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError):
        return None


def _kind(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else repr(value)[:60]
