# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Denoises complex volumes with networks for real slices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_choice, check_number
from monai_diffrecon.numerics.axis_filter import gaussian_mean
from monai_diffrecon.protocols import Operator, PlaneDenoiser

MODES = ("phase", "channels")


class ComplexPlaneDenoiser(PlaneDenoiser):
    """Denoises complex volumes ``x = x0 + sigma n``, with noise n of unit variance in each real component.

    ``phase``: the network is a prior of magnitudes, and the phase is smooth. The volume is rotated by the phase of its
    own low-pass, so that the signal is real and positive; the network denoises the real part; the imaginary part,
    small then, is shrunk by a Wiener filter ``v / (v + sigma^2)`` whose signal variance v is estimated around each
    voxel (Lee 1980, IEEE TPAMI 2(2), 165); both are rotated back. A constant phase of the volume changes nothing. For
    gradients the phase and the filter count as constants. In ``scripts/studies/complex_volumes.py`` the filter comes
    within 0.3 dB of a network call for the imaginary part, which costs twice as much, and beats keeping, dropping or
    uniformly shrinking it; the phase of the iterate beats that of the zero-filled image, and 2 mm beat 4 and 8.

    ``channels``: real and imaginary part are denoised as two slices (score-MRI: Chung and Ye 2022, arXiv 2110.05243,
    section 3.3), or as two channels of one slice by a network that has two. A network of one channel must have been
    trained on signed parts: one trained on magnitudes takes what is negative for noise, and fails (same script).

    Args:
        inner: denoiser of real volumes.
        mode: ``phase`` or ``channels``.
        spacing: voxel size (mm).
        channels: channels of the network, 1 or 2.
        width: standard deviation (mm) of the Gaussian low-pass that makes the phase.
        neighbourhood: standard deviation (mm) of the Gaussian over which the variance v is taken.

    Raises:
        ConfigError: an option out of its range, or a network of two channels whose mode is not ``channels``.
    """

    def __init__(
        self,
        inner: PlaneDenoiser,
        mode: str,
        spacing: Sequence[float],
        *,
        channels: int = 1,
        width: float = 2.0,
        neighbourhood: float = 3.0,
    ) -> None:
        self.mode = check_choice(mode, "inferer#complex", MODES)
        if channels == 2 and mode != "channels":
            raise ConfigError(
                "the network has two channels, the real and the imaginary part",
                where="inferer#complex",
                expected="channels",
                got=repr(mode),
            )
        self.inner, self.channels = inner, channels
        self.spacing = tuple(float(s) for s in spacing)
        self.width = check_number(width, "inferer#complex#width", low=0.0, open_low=True)
        self.neighbourhood = check_number(neighbourhood, "inferer#complex#neighbourhood", low=0.0, open_low=True)
        self.plane, self.sigma_min, self.sigma_max = inner.plane, inner.sigma_min, inner.sigma_max

    @property
    def network_calls(self) -> int:
        """Batches of slices or windows passed through the network so far."""
        return int(getattr(self.inner, "network_calls", 0))

    @property
    def batch_size(self) -> int:
        """Slices a network call now."""
        return int(getattr(self.inner, "batch_size", 1))

    @property
    def fallbacks(self) -> list[str]:
        """Fallbacks used for lack of memory, as text."""
        return list(getattr(self.inner, "fallbacks", ()))

    def halve(self) -> bool:
        """Halve the batches of slices from now on; return False when that is not possible."""
        halve = getattr(self.inner, "halve", None)
        return bool(halve()) if callable(halve) else False

    def for_plane(self, plane: str) -> ComplexPlaneDenoiser:
        """Return a denoiser of another plane that uses the same network."""
        return ComplexPlaneDenoiser(
            self.inner.for_plane(plane),
            self.mode,
            self.spacing,
            channels=self.channels,
            width=self.width,
            neighbourhood=self.neighbourhood,
        )

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Denoise a complex volume (1, X, Y, Z) at noise level ``sigma`` of each real component; same shape out."""
        if self.channels == 2:
            real, imaginary = self.inner(torch.cat([x.real, x.imag]), sigma).chunk(2)
            return torch.complex(real, imaginary)
        if self.mode == "channels":
            return torch.complex(self.inner(x.real, sigma), self.inner(x.imag, sigma))
        phase = self._phase(x)
        rotated = x * phase.conj()
        real = self.inner(rotated.real.contiguous(), sigma)
        return torch.complex(real, self._shrink(rotated.imag, sigma)) * phase

    @torch.no_grad()
    def _phase(self, x: Tensor) -> Tensor:
        """Return the smooth phase of a volume as numbers of magnitude 1."""
        low = self._blur(x, self.width)
        return torch.where(low == 0, torch.ones_like(low), low.sgn())

    def _shrink(self, imaginary: Tensor, sigma: float) -> Tensor:
        """Return what of the imaginary part is more than noise."""
        with torch.no_grad():
            power = self._blur(imaginary.square(), self.neighbourhood)
            share = (power - sigma**2).clamp_min(0.0) / power.clamp_min(torch.finfo(power.dtype).tiny)
        return share * imaginary

    def _blur(self, x: Tensor, width: float) -> Tensor:
        """Return the Gaussian mean around each voxel; at the edges, of the voxels that are there."""
        if x.is_complex():
            return torch.complex(self._blur(x.real, width), self._blur(x.imag, width))
        for axis, spacing in enumerate(self.spacing, start=1):
            x = gaussian_mean(x, width / spacing, axis)
        return x


def planes_for(
    operator: Operator, planes: Sequence[PlaneDenoiser], scores: Sequence[ScoreNetwork], mode: str
) -> list[PlaneDenoiser]:
    """Return plane denoisers for the volumes of an operator: as they are when these are real.

    Args:
        operator: the forward operator.
        planes: one denoiser a network.
        scores: the networks, in the same order.
        mode: how complex volumes are denoised, one of :data:`MODES`.

    Raises:
        ConfigError: a network of two channels for a real volume, or for the mode ``phase``.
    """
    if operator.complex_volume:
        spacing = operator.geometry.spacing
        return [
            ComplexPlaneDenoiser(plane, mode, spacing, channels=score.channels)
            for plane, score in zip(planes, scores, strict=True)
        ]
    for score in scores:
        if score.channels != 1:
            raise ConfigError(
                f"the network has {score.channels} channels, and the volume is real",
                where=f"bundle {score.name}",
                expected="an operator with complex_volume",
                mend="set operator#complex_volume to true, or take a network of one channel",
            )
    return list(planes)
