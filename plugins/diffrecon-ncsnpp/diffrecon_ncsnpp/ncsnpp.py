# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The score network NCSN++ in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrecon_ncsnpp.ncsnpp_blocks import (
    LAST_GAIN,
    AttentionBlock,
    FourierEmbedding,
    PyramidDown,
    ResidualBlock,
    conv3x3,
    group_norm,
    initialized,
)
from diffrecon_ncsnpp.slice_shape import check_slices
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer, check_number


class NCSNpp(nn.Module):
    """``s(x, sigma)``, the score of slices in [0, 1] at a noise level (Song et al. 2021, arXiv 2011.13456).

    The continuous-time VE variant that DiffusionMBIR (arXiv 2211.10655) and TPDM (arXiv 2303.08440) use: Fourier
    embedding of ``ln sigma``, BigGAN blocks, binomial resampling, residual input pyramid, output divided by sigma.
    The defaults are those of the published networks. Parameters have the published names, ``all_modules.N...``.

    Args:
        in_channels: channels of a slice.
        channels: features of the finest level (``nf``).
        channel_mult: features of each level, as multiples of ``channels``, finest first.
        num_res_blocks: residual blocks of a level on the way down; on the way up it has one more.
        attention_levels: levels (0 is the finest) with self-attention beside that of the bottleneck.
        fourier_scale: standard deviation of the frequencies of the embedding; a checkpoint brings its own.
        default_sigma: noise level assumed when the network is called with one tensor.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 4,
        attention_levels: Sequence[int] = (),
        fourier_scale: float = 16.0,
        default_sigma: float = 0.1,
    ) -> None:
        super().__init__()
        self.in_channels = check_integer(in_channels, "network_def#in_channels", low=1)
        nf = check_integer(channels, "network_def#channels", low=4)
        blocks = check_integer(num_res_blocks, "network_def#num_res_blocks", low=1)
        mult = [check_integer(m, "network_def#channel_mult", low=1) for m in channel_mult]
        attended = set(attention_levels)
        if not mult or not attended <= set(range(len(mult))):
            raise ConfigError(
                "levels that are not there",
                where="network_def#channel_mult, attention_levels",
                expected="at least one level, attention at some of them, counted from 0",
                got=f"{list(channel_mult)}, {list(attention_levels)}",
            )
        scale = check_number(fourier_scale, "network_def#fourier_scale", low=0.0, open_low=True)
        self.default_sigma = check_number(default_sigma, "network_def#default_sigma", low=0.0, open_low=True)
        self.multiple = 2 ** (len(mult) - 1)
        lead = [
            FourierEmbedding(nf, scale),
            initialized(nn.Linear(2 * nf, 4 * nf)),
            initialized(nn.Linear(4 * nf, 4 * nf)),
        ]
        self.all_modules = nn.ModuleList([*lead, conv3x3(self.in_channels, nf)])
        self._add_encoder(nf, mult, blocks, attended)
        self._add_decoder(nf, mult, blocks, attended)

    def _add(self, module: nn.Module) -> int:
        """Append to the published flat list; return the place."""
        self.all_modules.append(module)
        return len(self.all_modules) - 1

    def _add_encoder(self, nf: int, mult: list[int], blocks: int, attended: set[int]) -> None:
        # The forward pass follows these places, so that no size met at run time decides what is called.
        self._down: list[list[tuple[int, int | None]]] = []  # of each level: (block, attention)
        self._shrink: list[tuple[int, int]] = []  # between levels: (halving block, pyramid)
        self._skips = [nf]
        width, pyramid = nf, self.in_channels
        for level, factor in enumerate(mult):
            places = []
            for _ in range(blocks):
                block = self._add(ResidualBlock(width, nf * factor, 4 * nf))
                width = nf * factor
                places.append((block, self._add(AttentionBlock(width)) if level in attended else None))
                self._skips.append(width)
            self._down.append(places)
            if level < len(mult) - 1:
                halving = self._add(ResidualBlock(width, width, 4 * nf, "down"))
                self._shrink.append((halving, self._add(PyramidDown(pyramid, width))))
                pyramid = width
                self._skips.append(width)
        bottleneck = (ResidualBlock(width, width, 4 * nf), AttentionBlock(width), ResidualBlock(width, width, 4 * nf))
        self._bottleneck = [self._add(module) for module in bottleneck]

    def _add_decoder(self, nf: int, mult: list[int], blocks: int, attended: set[int]) -> None:
        self._up: list[tuple[list[int], int | None, int | None]] = []  # of each level: (blocks, attention, doubling)
        width, skips = nf * mult[-1], list(self._skips)
        for level, factor in reversed(list(enumerate(mult))):
            places = []
            for _ in range(blocks + 1):
                places.append(self._add(ResidualBlock(width + skips.pop(), nf * factor, 4 * nf)))
                width = nf * factor
            attention = self._add(AttentionBlock(width)) if level in attended else None
            doubling = self._add(ResidualBlock(width, width, 4 * nf, "up")) if level else None
            self._up.append((places, attention, doubling))
        self._norm = self._add(group_norm(width))
        self._last = self._add(conv3x3(width, self.in_channels, LAST_GAIN))

    def forward(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """Return the score of noisy slices.

        Args:
            x: slices (B, C, H, W) with H and W multiples of ``2 ** (levels - 1)``, network units.
            sigma: noise level, one number or one a slice (B,), network units; ``default_sigma`` when None.

        Returns:
            The gradient of the log density, (B, C, H, W).

        Raises:
            InputError: a size that cannot be halved as often as the network does, or other channels.
        """
        check_slices(x, self.in_channels, self.multiple, "NCSNpp")
        given = self.default_sigma if sigma is None else sigma
        levels = torch.as_tensor(given, dtype=x.dtype, device=x.device).reshape(-1).expand(x.shape[0])
        net = self.all_modules
        embedding = net[2](F.silu(net[1](net[0](levels))))
        pyramid = 2.0 * x - 1.0
        h, skips = self._encode(net[3](pyramid), pyramid, embedding)
        first, attention, second = self._bottleneck
        h = net[second](net[attention](net[first](h, embedding)), embedding)
        for blocks, attend, doubling in self._up:
            for block in blocks:
                h = net[block](torch.cat((h, skips.pop()), dim=1), embedding)
            if attend is not None:
                h = net[attend](h)
            if doubling is not None:
                h = net[doubling](h, embedding)
        return net[self._last](F.silu(net[self._norm](h))) / levels[:, None, None, None]

    def _encode(self, h: Tensor, pyramid: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the features of the coarsest level, and those that the way up will take."""
        net, skips = self.all_modules, [h]
        for level, places in enumerate(self._down):
            for block, attention in places:
                h = net[block](h, embedding)
                if attention is not None:
                    h = net[attention](h)
                skips.append(h)
            if level < len(self._shrink):
                halving, step = self._shrink[level]
                h = pyramid = (net[step](pyramid) + net[halving](h, embedding)) * math.sqrt(0.5)
                skips.append(h)
        return h, skips
