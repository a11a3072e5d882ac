# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""All slices of a volume through a 2D network, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.option_checks import check_choice
from monai_diffrecon.numerics.planes import check_plane, from_slices, to_slices
from monai_diffrecon.protocols import Denoiser, PlaneDenoiser

PRECISIONS = ("float32", "bfloat16", "float16")


class BatchedPlaneDenoiser(PlaneDenoiser):
    """Denoises the slices of one plane in batches; the volume may stay on the CPU while slices visit a GPU.

    A plane larger than ``window`` is covered by overlapping windows with Gaussian blending (MONAI's sliding
    window); a smaller one goes through the convolutional network whole, which is faster and has no seams. A network
    whose attribute ``multiple`` says that it takes multiples of a size only gets slices padded by their last voxels.

    Args:
        denoiser: the slice denoiser.
        plane: plane of its slices.
        batch_size: slices (or windows) a network call.
        window: largest (height, width) in one piece, or None for no limit.
        overlap: overlap of neighbouring windows, a fraction of the window.
        device: where the network computes; None: where its weights are.
        precision: ``float32``, or ``bfloat16`` or ``float16`` for the network's products, which is faster
            where the processor knows it; the volume stays as it is.

    Attributes:
        network_calls: batches of slices or windows that went through the network so far.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        plane: str,
        *,
        batch_size: int = 8,
        window: Sequence[int] | None = None,
        overlap: float = 0.25,
        device: torch.device | str | None = None,
        precision: str = "float32",
    ) -> None:
        self.dtype = getattr(torch, check_choice(precision, "inferer#precision", PRECISIONS))
        self.precision = precision
        if batch_size < 1:
            raise ConfigError("no slice in a batch", where="inferer#sw_batch_size", expected=">= 1", got=batch_size)
        if not 0.0 <= overlap < 1.0:
            raise ConfigError("overlap out of range", where="inferer#overlap", expected="0 <= overlap < 1", got=overlap)
        if window is not None and (len(window) != 2 or min(window) < 1):
            raise ConfigError("not a window", where="inferer#window", expected="[height, width]", got=window)
        self.denoiser = denoiser
        self.plane = check_plane(plane)
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        self.batch_size, self.overlap = batch_size, overlap
        self.window = None if window is None else (int(window[0]), int(window[1]))
        self.device = device
        self.multiple = int(getattr(denoiser.network, "multiple", 1))
        self.network_calls = 0

    def for_plane(self, plane: str) -> BatchedPlaneDenoiser:
        """Return a denoiser of another plane that uses the same network and counts its own calls."""
        return BatchedPlaneDenoiser(
            self.denoiser,
            plane,
            batch_size=self.batch_size,
            window=self.window,
            overlap=self.overlap,
            device=self.device,
            precision=self.precision,
        )

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Denoise a volume (C, X, Y, Z) at noise level ``sigma``; same shape, device and type out.

        The network knows real slices: a complex volume is denoised as its real and its imaginary part, each of
        which carries noise of the level ``sigma`` (score-MRI: Chung and Ye 2022, arXiv 2110.05243, section 3.3).
        """
        if x.is_complex():
            return torch.complex(self(x.real, sigma), self(x.imag, sigma))
        slices = to_slices(x, self.plane)
        device = self.device or x.device
        batches = []
        for batch in slices.split(self.batch_size):
            batches.append(self._batch(batch.to(device).contiguous(), sigma).to(x.device))
        return from_slices(torch.cat(batches), self.plane)

    def _batch(self, batch: Tensor, sigma: float) -> Tensor:
        if self.window is None or (batch.shape[-2] <= self.window[0] and batch.shape[-1] <= self.window[1]):
            return self._call(batch, sigma)
        roi = tuple(min(n, w) for n, w in zip(batch.shape[-2:], self.window, strict=True))
        covered = sliding_window_inference(
            batch,
            roi_size=roi,
            sw_batch_size=self.batch_size,
            predictor=lambda windows: self._call(windows, sigma),
            overlap=self.overlap,
            mode="gaussian",
        )
        return torch.as_tensor(covered)

    def _call(self, batch: Tensor, sigma: float) -> Tensor:
        self.network_calls += 1
        height, width = batch.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        if any(padding):
            batch = functional.pad(batch, padding, mode="replicate")
        with torch.autocast(batch.device.type, self.dtype, enabled=self.precision != "float32"):
            denoised = self._differentiable(batch, sigma).to(batch.dtype)
        return denoised[..., :height, :width]

    def _differentiable(self, batch: Tensor, sigma: float) -> Tensor:
        if torch.is_grad_enabled() and batch.requires_grad:
            # Guidance differentiates through all slices: activations are kept for one batch, and computed twice.
            return torch.as_tensor(checkpoint(self.denoiser, batch, sigma, use_reentrant=False))
        denoised: Tensor = self.denoiser(batch, sigma)
        return denoised
