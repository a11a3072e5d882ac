# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The parts of NCSN++ (Song et al. 2021, arXiv 2011.13456, appendix H; blocks of BigGAN with a rescaled skip).

Submodules have the names of the published checkpoints, so that an import renames next to nothing.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrecon_ncsnpp.fir_resampling import fir_blur, fir_downsample, fir_upsample
from monai_diffrecon.errors import ConfigError

#: Gain of the weights that end a residual branch: the branch starts as almost nothing (init scale 1e-10).
LAST_GAIN = 1e-5
_NIN_GAIN = math.sqrt(0.1)
_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the normalization of NCSN++: up to 32 groups of four channels or more, eps 1e-6."""
    groups = min(channels // 4, 32)
    if groups < 1 or channels % groups:
        raise ConfigError(
            "channels that cannot be split into groups",
            where="network_def#channels",
            expected=f"4 or more, divisible by {max(groups, 1)}",
            got=channels,
        )
    return nn.GroupNorm(groups, channels, eps=1e-6)


def conv3x3(inputs: int, outputs: int, gain: float = 1.0) -> nn.Conv2d:
    """Return a 3 x 3 convolution that keeps the size, initialized as NCSN++ is."""
    return initialized(nn.Conv2d(inputs, outputs, 3, padding=1), gain)


def initialized(layer: _Layer, gain: float = 1.0) -> _Layer:
    """Initialize by variance scaling over the fan average, uniform (Glorot and Bengio 2010); biases are zero."""
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class FourierEmbedding(nn.Module):
    """Random Fourier features of ``ln sigma`` (Tancik et al. 2020, arXiv 2006.10739)."""

    W: Tensor

    def __init__(self, features: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("W", torch.randn(features) * scale)

    def forward(self, sigma: Tensor) -> Tensor:
        """Embed noise levels (B,) as (B, 2 features)."""
        # In float32 also when the weights are not: frequencies of 16 turn rounding into another phase.
        phase = 2.0 * math.pi * sigma.float().log()[:, None] * self.W.float()[None]
        return torch.cat((phase.sin(), phase.cos()), dim=1).to(self.W.dtype)


class ResidualBlock(nn.Module):
    """Two convolutions, the noise level added between them, and a skip; halves or doubles the size on demand."""

    def __init__(self, inputs: int, outputs: int, embedding: int, resample: str | None = None) -> None:
        super().__init__()
        self.resample = {None: None, "down": fir_downsample, "up": fir_upsample}[resample]
        self.GroupNorm_0 = group_norm(inputs)
        self.Conv_0 = conv3x3(inputs, outputs)
        self.Dense_0 = initialized(nn.Linear(embedding, outputs))
        self.GroupNorm_1 = group_norm(outputs)
        self.Conv_1 = conv3x3(outputs, outputs, LAST_GAIN)
        self.Conv_2 = initialized(nn.Conv2d(inputs, outputs, 1)) if inputs != outputs or resample else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map features (B, C, H, W) at an embedded noise level (B, E)."""
        h = F.silu(self.GroupNorm_0(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.Conv_0(h) + self.Dense_0(F.silu(embedding))[:, :, None, None]
        h = self.Conv_1(F.silu(self.GroupNorm_1(h)))
        if self.Conv_2 is not None:
            x = self.Conv_2(x)
        return (x + h) * math.sqrt(0.5)


class AttentionBlock(nn.Module):
    """Self-attention of one head over all pixels, with a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(channels)
        self.NIN_0 = initialized(nn.Linear(channels, channels), _NIN_GAIN)
        self.NIN_1 = initialized(nn.Linear(channels, channels), _NIN_GAIN)
        self.NIN_2 = initialized(nn.Linear(channels, channels), _NIN_GAIN)
        self.NIN_3 = initialized(nn.Linear(channels, channels), LAST_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C, H, W)."""
        tokens = self.GroupNorm_0(x).flatten(2).transpose(1, 2)[:, None]
        mixed = F.scaled_dot_product_attention(self.NIN_0(tokens), self.NIN_1(tokens), self.NIN_2(tokens))
        h = self.NIN_3(mixed)[:, 0].transpose(1, 2).reshape(x.shape)
        return (x + h) * math.sqrt(0.5)


class PyramidDown(nn.Module):
    """The input pyramid's step: filter, then a 3 x 3 convolution of stride 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.Conv2d_0 = initialized(nn.Conv2d(inputs, outputs, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/2, W/2), H and W even."""
        return self.Conv2d_0(fir_blur(x, padding=2))
