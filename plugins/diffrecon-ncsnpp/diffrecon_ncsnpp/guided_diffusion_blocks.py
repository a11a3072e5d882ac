# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The parts of the ADM U-Net (Dhariwal and Nichol 2021, arXiv 2105.05233, section 3 and appendix)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_diffrecon.errors import ConfigError


def adm_norm(channels: int) -> nn.GroupNorm:
    """Return the normalization: 32 groups, eps 1e-5."""
    if channels % 32:
        raise ConfigError(
            "channels that cannot be split into groups",
            where="network_def#channels, channel_mult",
            expected="multiples of 32 at every level",
            got=channels,
        )
    return nn.GroupNorm(32, channels)


def zeroed(layer: nn.Conv2d | nn.Conv1d) -> nn.Module:
    """Return a layer that starts as zero, as the ends of all residual branches do."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def timestep_embedding(timesteps: Tensor, features: int) -> Tensor:
    """Embed timesteps (B,), which may be fractions, as cosines and sines (B, features) in float32.

    (Vaswani et al. 2017, arXiv 1706.03762, section 3.5; cosines first, longest period 10000.)
    """
    half = features // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    phase = timesteps.float()[:, None] * torch.exp(-math.log(10000.0) * exponents)[None]
    return F.pad(torch.cat((phase.cos(), phase.sin()), dim=1), (0, features % 2))


class ADMResidualBlock(nn.Module):
    """Two convolutions; the timestep scales and shifts what is between them; may halve or double the size."""

    def __init__(self, inputs: int, outputs: int, embedding: int, resample: str | None, scale_shift: bool) -> None:
        super().__init__()
        self.resample, self.scale_shift = resample, scale_shift
        self.in_layers = nn.Sequential(adm_norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * outputs if scale_shift else outputs))
        # The third layer is a dropout in the training, without weights; its place keeps the published names.
        end = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.out_layers = nn.Sequential(adm_norm(outputs), nn.SiLU(), nn.Identity(), end)
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map features (B, C, H, W) at an embedded timestep (B, E)."""
        h = self._resampled(self.in_layers[1](self.in_layers[0](x)))
        h = self.in_layers[2](h)
        condition = self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1.0 + scale) + shift)
        else:
            h = self.out_layers(h + condition)
        return self.skip_connection(self._resampled(x)) + h

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.resample == "up" else x


class ADMAttentionBlock(nn.Module):
    """Self-attention of several heads over all pixels, with a skip."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        if channels % head_channels:
            raise ConfigError(
                "attention that cannot be split into heads",
                where="network_def#head_channels",
                expected=f"a divisor of {channels}",
                got=head_channels,
            )
        self.heads = channels // head_channels
        self.norm = adm_norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C, H, W)."""
        tokens = x.flatten(2)
        # Published order of the output channels: head, then query, key and value, then the features of a head.
        qkv = self.qkv(self.norm(tokens)).unflatten(1, (self.heads, 3, -1)).transpose(3, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(2)).transpose(2, 3).flatten(1, 2)
        return x + self.proj_out(mixed).reshape(x.shape)


class ADMResample(nn.Module):
    """Halving by a convolution of stride 2, or doubling and a convolution: networks without ``resblock_updown``."""

    def __init__(self, channels: int, direction: str) -> None:
        super().__init__()
        down = direction == "down"
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if down else None
        self.conv = None if down else nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to half or twice the size."""
        if self.op is not None:
            return self.op(x)
        doubled = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return doubled if self.conv is None else self.conv(doubled)
