# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Tests whether a network expects slices as given, flipped or transposed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from monai_diffrecon.bundle.importing.orientation_report import FLIPS, OrientationReport
from monai_diffrecon.errors import InputError, NumericalError
from monai_diffrecon.numerics.noise import keyed_normal
from monai_diffrecon.numerics.planes import to_slices
from monai_diffrecon.protocols import Denoiser

#: Noise levels (network units) beyond which a sample in [0, 1] tells nothing: no noise, or nothing but noise.
USEFUL = (0.01, 10.0)


def turn(slices: Tensor, orientation: int) -> Tensor:
    """Return slices (N, C, H, W) in one of eight orientations: flips along H and W, then the transpose."""
    flips, transposed = FLIPS[orientation % 4], orientation >= 4
    flipped = slices.flip([2 + axis for axis in flips])
    return (flipped.transpose(2, 3) if transposed else flipped).contiguous()


def noise_levels(sigma_min: float, sigma_max: float, count: int = 5) -> list[float]:
    """Return noise levels of the network, evenly spaced in their logarithm."""
    low, high = max(sigma_min, USEFUL[0]), min(sigma_max, USEFUL[1])
    if low >= high:
        low, high = sigma_min, sigma_max
    return [math.exp(math.log(low) + i / (count - 1) * math.log(high / low)) for i in range(count)]


def choose_slices(
    volume: Tensor, plane: str, count: int, multiple: int, window: tuple[int, int] | None = None
) -> Tensor:
    """Return slices (count, 1, H, W) of a volume (1, X, Y, Z), spread over those with much in them.

    They are cropped about their centre to a size that the network takes, and to ``window``.

    Raises:
        InputError: the slices are smaller than that, or all alike.
    """
    slices = to_slices(volume, plane)
    largest = window or tuple(slices.shape[2:])
    height, width = (min(n, m) // multiple * multiple for n, m in zip(slices.shape[2:], largest, strict=True))
    if not (height and width):
        raise InputError(
            "its slices are smaller than the network takes",
            where="--sample",
            expected=f"at least {multiple} voxels in each direction",
            got=tuple(slices.shape[2:]),
        )
    top, left = ((n - m) // 2 for n, m in zip(slices.shape[2:], (height, width), strict=True))
    slices = slices[:, :, top : top + height, left : left + width]
    content = slices.flatten(1).std(dim=1)
    if float(content.max()) == 0.0:
        raise InputError("empty slices", where="--sample", mend="give a volume like the network's training data")
    full = (content >= content.median()).nonzero().flatten()
    full = full[content[full] > 0]
    if count < len(full):  # the middle of each of ``count`` parts
        full = full[((torch.arange(count) + 0.5) * len(full) / count).long()]
    return slices[full].contiguous()


@torch.no_grad()
def score_matching_loss(
    denoiser: Callable[[Tensor, float], Tensor], clean: Tensor, noise: Tensor, sigma: float
) -> float:
    """Return ``E||D(x0 + sigma n, sigma) - x0||^2 / (D sigma^2)``, which is ``E||sigma s + n||^2 / D`` of a score s.

    It is 1 if the noise is left unchanged, and tends to 0 if the network predicts the slice. (Vincent 2011; Song et al.
    2021, arXiv 2011.13456, equation 7.)

    Args:
        denoiser: ``D(x, sigma)`` of one slice a call.
        clean: slices (N, C, H, W), network units.
        noise: as many standard normal numbers.
        sigma: noise level, network units.

    Raises:
        NumericalError: it is not finite.
    """
    pairs = zip(clean.split(1), noise.split(1), strict=True)
    losses = [((denoiser(x + sigma * n, sigma) - x) / sigma).square().mean().double() for x, n in pairs]
    loss = float(torch.stack(losses).mean())
    if not math.isfinite(loss):
        raise NumericalError(f"the loss is not finite at sigma {sigma:g}", where="orientation test")
    return loss


def check_orientation(
    denoiser: Denoiser,
    slices: Tensor,
    plane: str,
    *,
    levels: int = 5,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> OrientationReport:
    """Measure the score-matching loss of slices in eight orientations.

    The noise is turned with the slice, so that the losses of a network without a preferred orientation are equal,
    and differences are far smaller than the spread of the losses themselves.

    Args:
        denoiser: the denoiser of the network.
        slices: (N, 1, H, W) of the given plane in RAS+ order, network units; of sizes that the network takes.
        plane: plane of the slices.
        levels: noise levels, evenly spaced in their logarithm over the network's range.
        seed: seed of the noise.
        device: where to compute.
    """
    sigmas = noise_levels(denoiser.sigma_min, denoiser.sigma_max, levels)
    denoiser = denoiser.to(device)
    losses = torch.zeros(8, levels, dtype=torch.float64)
    with tqdm(total=losses.numel() * len(slices), desc="orientation test", unit="slice", disable=None) as bar:
        for level, sigma in enumerate(sigmas):
            # A slice and its noise have the same key whatever else is tested.
            noise = torch.cat(
                [
                    keyed_normal((1, *slices.shape[1:]), torch.float32, seed, "orientation", level, i)
                    for i in range(len(slices))
                ]
            )
            for orientation in range(8):
                clean, turned = (turn(t, orientation).to(device) for t in (slices, noise))
                losses[orientation, level] = score_matching_loss(denoiser, clean, turned, sigma)
                bar.update(len(slices))
    # Of one in a few voxels when they are many: torch.quantile takes no more than 2^24.
    bright = float(slices.flatten()[:: 1 + slices.numel() // 2**22].abs().quantile(0.99))
    return OrientationReport(plane, len(slices), tuple(sigmas), tuple(map(tuple, losses.tolist())), bright)
