# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The U-Net of guided diffusion (ADM) in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffrecon_ncsnpp.guided_diffusion_blocks import (
    ADMAttentionBlock,
    ADMResample,
    ADMResidualBlock,
    adm_norm,
    timestep_embedding,
    zeroed,
)
from diffrecon_ncsnpp.slice_shape import check_slices
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_flag, check_integer, check_number


class GuidedDiffusionUNet(nn.Module):
    """The noise in slices of a variance-preserving diffusion (Dhariwal and Nichol 2021, arXiv 2105.05233).

    The network of DDS (arXiv 2303.05754), unconditional. Parameters have the published names, ``input_blocks...``.

    Args:
        in_channels: channels of a slice.
        out_channels: channels of the last layer; with twice those of a slice the second half is a learned
            variance, which is not returned.
        channels: base number of features.
        channel_mult: features of each level, as multiples of ``channels``, finest first; fractions are fine.
        num_res_blocks: residual blocks of a level on the way down; on the way up it has one more.
        attention_levels: levels (0 is the finest) with self-attention beside that of the bottleneck.
        head_channels: features of a head of attention.
        resblock_updown: residual blocks halve and double the size, instead of plain convolutions.
        scale_shift_norm: the timestep scales and shifts normalized features, instead of being added.
        default_timestep: timestep assumed when the network is called with one tensor.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        channels: int = 256,
        channel_mult: Sequence[float] = (1, 1, 2, 2, 4, 4),
        num_res_blocks: int = 1,
        attention_levels: Sequence[int] = (4,),
        head_channels: int = 64,
        resblock_updown: bool = True,
        scale_shift_norm: bool = True,
        default_timestep: int = 10,
    ) -> None:
        super().__init__()
        self.in_channels = check_integer(in_channels, "network_def#in_channels", low=1)
        self.channels = check_integer(channels, "network_def#channels", low=1)
        self.default_timestep = check_integer(default_timestep, "network_def#default_timestep", low=0)
        widths = [check_number(m, "network_def#channel_mult", low=0.0, open_low=True) * channels for m in channel_mult]
        if out_channels not in (in_channels, 2 * in_channels):
            raise ConfigError(
                "wrong out_channels",
                where="network_def#out_channels",
                expected=f"{in_channels} or {2 * in_channels}",
                got=out_channels,
            )
        attended = set(attention_levels)
        if not widths or not attended <= set(range(len(widths))) or any(width % 1 for width in widths):
            raise ConfigError(
                "levels that are not there, or of no whole number of features",
                where="network_def#channel_mult, attention_levels",
                got=f"{list(channel_mult)}, {list(attention_levels)}",
            )
        self.multiple = 2 ** (len(widths) - 1)
        self._heads = check_integer(head_channels, "network_def#head_channels", low=1)
        self._scale_shift = check_flag(scale_shift_norm, "network_def#scale_shift_norm")
        self._updown = check_flag(resblock_updown, "network_def#resblock_updown")
        blocks = check_integer(num_res_blocks, "network_def#num_res_blocks", low=1)
        self.time_embed = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, 4 * channels)
        )
        self._build([int(width) for width in widths], blocks, attended, out_channels)

    def _build(self, widths: list[int], blocks: int, attended: set[int], outputs: int) -> None:
        width, skips = widths[0], [widths[0]]
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(self.in_channels, width, 3, padding=1)])])
        for level, wanted in enumerate(widths):
            for _ in range(blocks):
                self.input_blocks.append(nn.ModuleList(self._stage(width, wanted, level in attended)))
                width = wanted
                skips.append(width)
            if level < len(widths) - 1:
                self.input_blocks.append(nn.ModuleList([self._resampling(width, "down")]))
                skips.append(width)
        self.middle_block = nn.ModuleList([*self._stage(width, width, True), *self._stage(width, width, False)])
        self.output_blocks = nn.ModuleList()
        for level, wanted in reversed(list(enumerate(widths))):
            for i in range(blocks + 1):
                stage = self._stage(width + skips.pop(), wanted, level in attended)
                width = wanted
                if level and i == blocks:
                    stage.append(self._resampling(width, "up"))
                self.output_blocks.append(nn.ModuleList(stage))
        self.out = nn.Sequential(adm_norm(width), nn.SiLU(), zeroed(nn.Conv2d(width, outputs, 3, padding=1)))

    def _stage(self, inputs: int, outputs: int, attention: bool) -> list[nn.Module]:
        block = ADMResidualBlock(inputs, outputs, 4 * self.channels, None, self._scale_shift)
        return [block, ADMAttentionBlock(outputs, self._heads)] if attention else [block]

    def _resampling(self, width: int, direction: str) -> nn.Module:
        if self._updown:
            return ADMResidualBlock(width, width, 4 * self.channels, direction, self._scale_shift)
        return ADMResample(width, direction)

    def forward(self, x: Tensor, timesteps: Tensor | float | None = None) -> Tensor:
        """Return the noise in slices.

        Args:
            x: slices (B, C, H, W) with H and W multiples of ``2 ** (levels - 1)``, scaled as in the training.
            timesteps: one number or one a slice (B,); ``default_timestep`` when None.

        Returns:
            The predicted noise, (B, C, H, W).

        Raises:
            InputError: a size that cannot be halved as often as the network does, or other channels.
        """
        check_slices(x, self.in_channels, self.multiple, "GuidedDiffusionUNet")
        steps = torch.as_tensor(self.default_timestep if timesteps is None else timesteps, device=x.device)
        embedded = timestep_embedding(steps.reshape(-1).expand(x.shape[0]), self.channels)
        embedding = self.time_embed(embedded.to(x.dtype))
        h, skips = x, []
        for stage in self.input_blocks:
            h = _through(stage, h, embedding)
            skips.append(h)
        h = _through(self.middle_block, h, embedding)
        for stage in self.output_blocks:
            h = _through(stage, torch.cat((h, skips.pop()), dim=1), embedding)
        return self.out(h)[:, : self.in_channels]


def _through(stage: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    for layer in stage.children():
        h = layer(h, embedding) if isinstance(layer, ADMResidualBlock) else layer(h)
    return h
