# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Passes all slices of a volume through a 2D network, batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from monai_diffrecon import distributed, slabs
from monai_diffrecon.engine.devices.placement import network_device
from monai_diffrecon.engine.devices.precision import PRECISIONS, autocast_dtype, resolved_precision, tf32
from monai_diffrecon.engine.memory.batch_size import chosen_batch_size
from monai_diffrecon.engine.memory.memory_estimate import fitting_slices
from monai_diffrecon.engine.memory.out_of_memory import is_out_of_memory, release_memory
from monai_diffrecon.engine.plugin_checks import check_like
from monai_diffrecon.errors import ConfigError, NumericalError
from monai_diffrecon.errors.options import check_choice
from monai_diffrecon.numerics.planes import check_plane, from_slices, slice_positions, to_slices, turned, turned_back
from monai_diffrecon.protocols import PLANE_AXIS, Denoiser, PlaneDenoiser

logger = logging.getLogger(__name__)


class BatchedPlaneDenoiser(PlaneDenoiser):
    """Denoises the slices of one plane in batches; the volume may stay on the CPU while slices visit a GPU.

    A plane larger than ``window`` is covered by overlapping windows with Gaussian blending (MONAI's sliding
    window); a smaller one passes through the convolutional network whole, which is faster and has no seams. For a
    network that needs multiples of a size (attribute ``multiple``), slices are padded with their edge voxels. A network
    with the attribute ``position`` is told where in the volume each pixel lies.

    A batch that runs out of memory is halved, and the run continues with smaller batches: the voxels are the same,
    within the rounding of another batch size. The network's output for finite slices must be finite; on a CPU each
    batch is checked, on a GPU the whole plane once, since the processor waits for the GPU at every check.

    Args:
        denoiser: the slice denoiser.
        plane: plane of its slices.
        batch_size: slices (or windows) per network call; ``auto`` takes 8 on a CPU, and as many on a GPU as it needs.
        window: largest slice (height, width) processed whole, or None for no limit.
        overlap: overlap of neighbouring windows, a fraction of the window.
        device: device of the network; None takes that of its weights.
        precision: ``float32``, or ``bfloat16``, ``float16``, ``tf32`` (CUDA only) or ``auto`` for the network's matrix
            products, which is faster on processors that support it; the volume keeps its type.
        name: the bundle's name, for messages.

    Attributes:
        batch_size: current number of slices per network call; 0 until ``auto`` has chosen it at the first call.
        fallbacks: fallbacks used for lack of memory, as text.
        first_slice: index in the whole volume of the first slice.
        total_slices: slices of the whole volume; None for those it is given.
        network_calls: batches of slices or windows passed through the network so far.
        symmetry: of the square, 0 to 7: how slices are turned before the network sees them; undone after it.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        plane: str,
        *,
        batch_size: int | str = 8,
        window: Sequence[int] | None = None,
        overlap: float = 0.25,
        device: torch.device | str | None = None,
        precision: str = "float32",
        name: str = "",
    ) -> None:
        check_choice(precision, "inferer#precision", PRECISIONS)
        batch_size, chosen = (0, True) if batch_size == "auto" else (int(batch_size), False)
        self.name = name
        if batch_size < 1 and not chosen:
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
        self.device = network_device(denoiser.network, device)
        self.precision = resolved_precision(precision, self.device)
        self.multiple = int(getattr(denoiser.network, "multiple", 1))
        self.network_calls = 0
        self.fallbacks: list[str] = []
        self._wanted, self._slices = batch_size, batch_size
        self.first_slice = self.symmetry = 0
        self.total_slices: int | None = None
        self.position = bool(getattr(denoiser.network, "position", False))
        if self.position and not denoiser.takes_position:
            raise ConfigError(
                "the network takes the position of its pixels, which this denoiser does not pass on",
                where=f"bundle {name}",
                expected="a denoiser with takes_position, such as direct",
                got=type(denoiser).__name__,
            )

    def for_plane(self, plane: str) -> BatchedPlaneDenoiser:
        """Return a denoiser of another plane that uses the same network and counts its own calls."""
        return BatchedPlaneDenoiser(
            self.denoiser,
            plane,
            batch_size=self.batch_size or "auto",
            window=self.window,
            overlap=self.overlap,
            device=self.device,
            precision=self.precision,
            name=self.name,
        )

    def halve(self) -> bool:
        """Halve the batches from now on; return False if they are already single slices.

        Starts from the largest batch so far, so that the next attempt needs less memory.
        """
        now = min(self.batch_size, self._slices)
        if now <= 1:
            return False
        self.batch_size = now // 2
        note = (
            f"out of memory: slices of the {self.plane} plane denoised {self.batch_size} at a time "
            f"instead of {self._wanted}"
        )
        self.fallbacks = [note]
        logger.warning(note)
        return True

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Denoise a volume (C, X, Y, Z) at noise level ``sigma``; same shape, device and type out.

        The network takes real slices: the real and imaginary parts of a complex volume are denoised separately, each
        with noise of level ``sigma`` (score-MRI: Chung and Ye 2022, arXiv 2110.05243, section 3.3).

        The batches are shared out among the processes of a run, unless gradients are needed.
        """
        if x.is_complex():
            return torch.complex(self(x.real, sigma), self(x.imag, sigma))
        slices = to_slices(x, self.plane)
        self._slices = len(slices)
        if not self.batch_size:
            self._choose_batch_size(slices)
        self._wanted = self._wanted or self.batch_size  # of a resumed run
        if torch.is_grad_enabled() and x.requires_grad:
            cat = torch.cat([done for _, done in self._batches(slices, sigma)])
            self._check_plane(cat, slices, sigma)
            return from_slices(cat, self.plane)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        rows = to_slices(out, self.plane)  # a view: one volume in memory instead of two
        alone = slabs.peers() is not None  # each process has slices of its own
        ranges = [(0, len(slices))] if alone else distributed.share(len(slices), self._wanted)
        for start, done in self._batches(slices, sigma, *(ranges[0] if alone else distributed.own_share(ranges))):
            rows[start : start + len(done)] = done
        if not alone:
            distributed.share_rows(rows, ranges)
        self._check_plane(rows, slices, sigma)
        return out

    def _choose_batch_size(self, slices: Tensor) -> None:
        height, width = slices.shape[-2:]
        if self.window is not None:
            height, width = min(height, self.window[0]), min(width, self.window[1])
        limit = fitting_slices(self.denoiser.network, self.device, height, width)
        chosen = chosen_batch_size(self.device, len(slices), height, width, limit)
        self.batch_size = self._wanted = chosen if slabs.peers() is not None else distributed.from_first(chosen)

    def _batches(
        self, slices: Tensor, sigma: float, start: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the first index and the denoised slices (B, C, H, W) of each batch, on the device of ``slices``."""
        slices = slices[:end]
        while start < len(slices):
            done, left = None, len(slices) - start
            # A slice by itself is computed by other kernels, with other round-off: it joins the batch before, unless
            # memory was short.
            size = left if 1 < self.batch_size == self._wanted == left - 1 else self.batch_size
            try:
                done = self._checked(slices[start : start + size], start, sigma)
            except Exception as error:
                if not (is_out_of_memory(error) and self.halve()):
                    raise
            if done is None:  # here the error, and with it what its traceback kept alive, is gone
                release_memory(self.device)
                continue
            yield start, done
            start += len(done)

    def _checked(self, batch: Tensor, start: int, sigma: float) -> Tensor:
        given = turned(batch.to(self.device), self.symmetry).contiguous()
        placed = given
        if self.position:
            shape = list(batch.shape[-2:])
            shape.insert(PLANE_AXIS[self.plane], len(batch))
            at = slice_positions(self.plane, shape, self.first_slice + start, self.total_slices or self._slices)
            placed = torch.cat((given, turned(at.to(given), self.symmetry)), dim=1)
        done = check_like(self._batch(placed, sigma), given, self._where)
        if self.device.type == "cpu":
            self._check(done, given, start, sigma)
        return turned_back(done, self.symmetry).to(batch.device)

    def _check_plane(self, done: Tensor, given: Tensor, sigma: float) -> None:
        """Check all slices at once, unless each batch was checked."""
        if self.device.type != "cpu":
            self._check(done, given, 0, sigma)

    def _check(self, done: Tensor, given: Tensor, first: int, sigma: float) -> None:
        check_network_output(
            done,
            given,
            where=self._where,
            plane=self.plane,
            first=self.first_slice + first,
            sigma=sigma,
            precision=self.precision,
        )

    @property
    def _where(self) -> str:
        return f"network of the {self.plane} plane" + (f" ({self.name})" if self.name else "")

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
        height, width = batch.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        if any(padding):
            batch = functional.pad(batch, padding, mode="replicate")
        with self._arithmetic():
            denoised = self._differentiable(batch, sigma).to(batch.dtype)
        self.network_calls += 1
        return denoised[..., :height, :width]

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Compute in the precision."""
        kind, dtype = self.device.type, autocast_dtype(self.precision)
        with ExitStack() as stack:
            if self.precision == "tf32":
                stack.enter_context(tf32(True))
            if dtype is not None or torch.amp.is_autocast_available(kind):
                stack.enter_context(torch.autocast(kind, dtype, enabled=dtype is not None))
            yield

    def _differentiable(self, batch: Tensor, sigma: float) -> Tensor:
        given = (batch[:, :-3], sigma, batch[:, -3:]) if self.position else (batch, sigma)
        if torch.is_grad_enabled() and batch.requires_grad:
            # Guidance differentiates through all slices: activations are kept for one batch and computed twice.
            return torch.as_tensor(checkpoint(self.denoiser, *given, use_reentrant=False))
        denoised: Tensor = self.denoiser(*given)
        return denoised


def innermost(plane: PlaneDenoiser) -> Any:
    """Return the denoiser that calls the network, below those of slabs, the disk and complex volumes."""
    found: Any = plane
    while hasattr(found, "inner"):
        found = found.inner
    return found


def check_network_output(
    done: Tensor, given: Tensor, *, where: str, plane: str, first: int, sigma: float, precision: str
) -> None:
    """Refuse non-finite output of slices whose input was finite.

    Args:
        done: denoised slices (B, C, H, W).
        given: the input slices, same shape.
        where: the network, for the message.
        plane: plane of the slices.
        first: index of the first of them in the volume.
        sigma: noise level.
        precision: that of the network's matrix products.

    Raises:
        NumericalError: the network returned a non-finite value; the message names the first such slice.
    """
    # A sum is cheap, but may overflow even if every value is finite, so a full check follows.
    if bool(torch.isfinite(done.detach().sum())):
        return
    bad, spoilt = ((~torch.isfinite(x.detach())).flatten(1).sum(dim=1) for x in (done, given))
    blamed = torch.nonzero((bad > 0) & (spoilt == 0)).flatten().tolist()
    if not blamed:
        return
    raise NumericalError(
        f"the network returned {int(bad[blamed[0]])} non-finite values for {plane} slice {first + blamed[0]}, "
        f"whose input was finite, at sigma {sigma:.4g}",
        where=where,
        mend="set precision to float32"
        if precision != "float32"
        else "check the weights of the bundle and the scale of the measurement",
    )
