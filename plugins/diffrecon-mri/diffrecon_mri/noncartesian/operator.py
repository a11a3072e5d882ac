# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Non-Cartesian MRI, single- and multi-coil."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffrecon_mri.noncartesian.density_compensation import density_compensation
from diffrecon_mri.noncartesian.nufft import apply_toeplitz, nufft, nufft_adjoint, toeplitz_kernel
from diffrecon_mri.noncartesian.trajectories import radial, spiral
from monai_diffrecon import slabs
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_choice, check_flag, check_integer, check_number
from monai_diffrecon.numerics.mri.coil_maps import check_coil_maps
from monai_diffrecon.protocols import Operator, VolumeGeometry

#: Complex numbers that one convolution of the normal operator may hold.
_CHUNK = 1 << 23


class NoncartesianMRI(Operator):
    """Radial, spiral or any other k-space samples of every axial slice, (coils, samples, Z), one trajectory for all.

    ``A x = F (S x)`` with coil maps S and ``(F x)_j = sum_n x_n exp(-2 pi i k_j . (n - N // 2) / N) / sqrt(X Y)``,
    which at integer k is the centred orthonormal transform of ``cartesian_mri``. By FINUFFT (Barnett et al. 2019,
    doi 10.1137/18M120885X) at a relative error of 1e-6, or 1e-12 for double precision; SENSE with any trajectory is
    Pruessmann et al. 2001, doi 10.1002/mrm.1241.

    Args:
        geometry: the volume.
        trajectory: k (samples, 2) along X and Y, cycles per field of view, within [-N/2, N/2]; wins over a
            generated one.
        pattern: ``radial``, ``golden_radial`` or ``spiral``.
        spokes: number of spokes.
        interleaves: number of spirals.
        turns: turns of each spiral; None for full sampling.
        samples: samples a spoke or spiral; None for twice the larger of X and Y a spoke, one a cycle on a
            spiral's edge.
        coil_maps: complex coil sensitivities (coils, X, Y, Z); None is a single coil of sensitivity 1.
        complex_volume: the volume is complex; otherwise the adjoint takes the real part.
    """

    family = "mri"
    slice_plane = "axial"

    def __init__(
        self,
        geometry: VolumeGeometry,
        trajectory: Tensor | None = None,
        pattern: str = "golden_radial",
        spokes: int = 64,
        interleaves: int = 16,
        turns: float | None = None,
        samples: int | None = None,
        coil_maps: Tensor | None = None,
        complex_volume: bool = False,
    ) -> None:
        size = (geometry.shape[0], geometry.shape[1])
        if trajectory is None:
            check_choice(pattern, "operator#pattern", ("radial", "golden_radial", "spiral"))
            count = None if samples is None else check_integer(samples, "operator#samples", low=1)
            if pattern == "spiral":
                interleaves = check_integer(interleaves, "operator#interleaves", low=1)
                full = max(size) / (2.0 * interleaves)
                turns = full if turns is None else check_number(turns, "operator#turns", low=0.0, open_low=True)
                count = count if count is not None else max(math.ceil(math.pi * max(size) * turns), 1)
                trajectory = spiral(size, interleaves, turns, count)
            else:
                spokes = check_integer(spokes, "operator#spokes", low=1)
                count = 2 * max(size) if count is None else count
                trajectory = radial(size, spokes, count, golden=pattern == "golden_radial")
        k = _checked(trajectory, size)
        coils = 1 if coil_maps is None else check_coil_maps(coil_maps, geometry.shape)
        super().__init__(
            geometry,
            (coils, int(k.shape[0]), geometry.shape[2]),
            complex_measurement=True,
            complex_volume=check_flag(complex_volume, "operator#complex_volume"),
        )
        self.points: Tensor
        self.coil_maps: Tensor | None
        # Single-precision transforms round the points themselves; rounded once here, all maps see the same ones.
        points = (2.0 * math.pi * k / torch.tensor(size, dtype=torch.float64)).T
        self.register_buffer("points", points.float().contiguous(), persistent=False)
        self.register_buffer("coil_maps", coil_maps, persistent=False)
        self._kernels: dict[torch.dtype, Tensor] = {}
        self._weights: Tensor | None = None

    @property
    def density(self) -> Tensor:
        """Density compensation (samples,), of Pipe and Menon; cached."""
        if self._weights is None:
            self._weights = density_compensation(self.points, self.geometry.shape[:2])
        return self._weights

    def slice_axis(self, plane: str) -> int | None:
        """Return the axis of the measurement along which the slices of ``plane`` are apart, or None."""
        return -1 if plane == self.slice_plane else None

    def restricted(self, plane: str, first: int, end: int) -> NoncartesianMRI:
        """Return the operator of some axial slices, of the same trajectory."""
        part = self.cut(plane, first, end)
        part._kernels = dict(self._kernels)
        if self.coil_maps is not None:
            part.coil_maps = self.coil_maps[..., first:end]
        return part

    def _tocheck_coil_maps(self, x: Tensor) -> Tensor:
        """Return coil images (coils, Z, X, Y)."""
        x = x.to(torch.promote_types(x.dtype, torch.complex64))
        return (x if self.coil_maps is None else self.coil_maps.to(x.dtype) * x).movedim(-1, 1)

    def _to_volume(self, images: Tensor) -> Tensor:
        """Return the adjoint of :meth:`_to_coils`, real unless the volume is complex."""
        images = images.movedim(1, -1)
        if self.coil_maps is not None:
            images = (self.coil_maps.conj().to(images.dtype) * images).sum(0, keepdim=True)
        return (images if self.complex_volume else images.real).contiguous()

    def _forward(self, x: Tensor) -> Tensor:
        return nufft(self._tocheck_coil_maps(x), self.points).movedim(1, -1).contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._to_volume(nufft_adjoint(y.movedim(-1, 1), self.points, self.geometry.shape[:2]))

    def normal(self, x: Tensor) -> Tensor:
        """Return A^T A x as a convolution on the doubled grid: two FFTs for each coil and slice."""
        self._check(x, self.volume_shape, self.complex_volume, "volume")
        kernel = self._kernel(x.dtype.to_real() if x.is_complex() else x.dtype)
        images = self._tocheck_coil_maps(x)
        step = max(_CHUNK // (kernel.numel() * images.shape[0]), 1)
        parts = [apply_toeplitz(part, kernel) for part in images.split(step, dim=1)]
        return self._to_volume(torch.cat(parts, 1))

    def _kernel(self, dtype: torch.dtype) -> Tensor:
        kernel = self._kernels.get(dtype)
        if kernel is None or kernel.device != self.points.device:
            kernel = toeplitz_kernel(self.points, self.geometry.shape[:2]).to(dtype)
            self._kernels[dtype] = kernel
        return kernel

    def initial(self, y: Tensor) -> Tensor:
        """Return the density-compensated adjoint, over the sum of squared sensitivities with coil maps."""
        weights = self.density.to(device=y.device, dtype=y.real.dtype)
        estimate = self._adjoint(y * weights[:, None])
        if self.coil_maps is None:
            return estimate
        power = self.coil_maps.abs().square().sum(0, keepdim=True).to(y.real.dtype)
        seen = power > 1e-6 * slabs.largest(power.max())
        return torch.where(seen, estimate / power.clamp_min(1e-12), torch.zeros_like(estimate))


def _checked(trajectory: object, size: tuple[int, int]) -> Tensor:
    """Return a trajectory (samples, 2) in double precision.

    Raises:
        ConfigError: of another shape, not finite, or outside of what the volume's voxels can show.
    """
    try:
        k = torch.as_tensor(trajectory).double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"not a tensor: {error}", where="operator#trajectory", expected="(samples, 2)") from error
    if k.ndim != 2 or k.shape[1] != 2 or not k.shape[0]:
        raise ConfigError(
            "of the wrong shape", where="operator#trajectory", expected="(samples, 2)", got=tuple(k.shape)
        )
    if not bool(torch.isfinite(k).all()):
        raise ConfigError("entries that are not finite", where="operator#trajectory")
    limit = torch.tensor(size, dtype=torch.float64) / 2.0
    if bool((k.abs() > limit * (1.0 + 1e-6)).any()):
        raise ConfigError(
            "samples beyond the resolution of the volume",
            where="operator#trajectory",
            expected=f"cycles per field of view within +-{size[0] / 2:g} and +-{size[1] / 2:g}",
            got=f"up to {float(k[:, 0].abs().max()):.6g} and {float(k[:, 1].abs().max()):.6g}",
            mend="leave these samples out, or choose smaller voxels",
        )
    return torch.minimum(torch.maximum(k, -limit), limit)
