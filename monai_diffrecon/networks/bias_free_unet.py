# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A compact 2D denoising network that scales with its input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution, ResidualUnit
from torch import Tensor, nn
from torch.nn import functional as F

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.networks._slices import levels_of, padded_to


def _units(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(
        *[
            ResidualUnit(2, channels, channels, subunits=2, norm=None, act="RELU", bias=False, last_conv_only=True)
            for _ in range(count)
        ]
    )


class BiasFreeUNet(nn.Module):
    """Residual U-Net without biases and normalization: ``D(a x, a sigma) = a D(x, sigma)`` for every ``a > 0``.

    It needs no data-dependent preconditioning, is blind to the unit of intensity, and generalizes over noise
    levels (Mohan et al. 2020, arXiv 1906.05478; the noise-level map is that of Zhang et al. 2021, DRUNet,
    arXiv 2008.13751). A pixel-unshuffle in front makes a slice four times cheaper.

    Args:
        in_channels: channels of a slice.
        channels: features of each level, finest first.
        units: residual units a level, on the way down and on the way up.
        bottleneck_units: residual units of the coarsest level.
        unshuffle: factor of the pixel-unshuffle.
        default_sigma: noise level assumed when the network is called with one tensor.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128),
        units: int = 2,
        bottleneck_units: int = 4,
        unshuffle: int = 2,
        default_sigma: float = 0.05,
    ) -> None:
        super().__init__()
        if len(channels) < 1 or min(channels) < 1 or units < 1 or bottleneck_units < 1 or unshuffle < 1:
            raise ConfigError(
                "sizes of a network must be positive",
                where="network_def",
                got=f"channels {list(channels)}, units {units}, {bottleneck_units}, unshuffle {unshuffle}",
            )
        self.unshuffle = unshuffle
        self.default_sigma = default_sigma
        self.multiple = unshuffle * 2 ** (len(channels) - 1)
        fine, coarse = tuple(channels[:-1]), tuple(channels[1:])
        pixels = in_channels * unshuffle**2
        self.head = Convolution(2, pixels + 1, channels[0], kernel_size=3, conv_only=True, bias=False)
        self.down_units = nn.ModuleList(_units(c, units) for c in fine)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2, bias=False) for a, b in zip(fine, coarse, strict=True))
        self.bottleneck = _units(channels[-1], bottleneck_units)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, stride=2, bias=False) for a, b in zip(fine, coarse, strict=True)
        )
        self.up_units = nn.ModuleList(_units(c, units) for c in fine)
        self.tail = Convolution(2, channels[0], pixels, kernel_size=3, conv_only=True, bias=False)

    def forward(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """Return the denoised slices.

        Args:
            x: noisy slices (B, C, H, W), any H and W.
            sigma: noise level, one number or one a slice; ``default_sigma`` when None.

        Returns:
            E[x0 | x], (B, C, H, W), in the precision of ``x``.
        """
        height, width = x.shape[-2:]
        padded, level = padded_to(x, self.multiple), levels_of(x, sigma, self.default_sigma)
        h = F.pixel_unshuffle(padded, self.unshuffle)
        level_map = level.expand(-1, 1, *h.shape[-2:])
        h = self.head(torch.cat((h, level_map), dim=1).contiguous(memory_format=torch.channels_last))
        skips = []
        for units, down in zip(self.down_units, self.downs, strict=True):
            h = units(h)
            skips.append(h)
            h = down(h)
        h = self.bottleneck(h)
        for up, units in zip(reversed(self.ups), reversed(self.up_units), strict=True):
            h = units(up(h) + skips.pop())
        residual = F.pixel_shuffle(self.tail(h).to(x.dtype), self.unshuffle)
        return x + residual[..., :height, :width]
