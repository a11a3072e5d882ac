# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""MONAI's diffusion network as a denoiser of whole slices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional as F

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.networks._slices import levels_of, padded_to

#: Octaves of waves of a position.
POSITION_OCTAVES = 3


class PreconditionedUNet(nn.Module):
    """``D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)`` around MONAI's ``DiffusionModelUNet``.

    The preconditioning is that of Karras et al. 2022 (arXiv 2206.00364, equation 7 and table 1). Normalization,
    attention and a large ``sigma_max`` let it draw a whole slice from noise, which a local network cannot; in
    exchange it knows one size of slice best, the one it was trained on. A pixel-unshuffle in front makes a
    slice cheaper by its square.

    With ``position`` it is told where in the volume each pixel lies, so that slices that are drawn side by side, or in
    perpendicular planes, agree on what is there; one network then serves all planes. It gets the coordinates and waves
    of them in :data:`POSITION_OCTAVES` octaves (Tancik et al. 2020, arXiv 2006.10739).

    Args:
        in_channels: channels of a slice.
        channels: features of each level, finest first.
        attention_levels: levels with self-attention.
        res_blocks: residual blocks a level.
        unshuffle: factor of the pixel-unshuffle.
        sigma_data: standard deviation of the training data, network units.
        norm_groups: groups of the normalization; divides every number of channels.
        head_channels: channels of an attention head.
        default_sigma: noise level assumed when the network is called with one tensor.
        position: the network is told the position of its pixels.

    Raises:
        ConfigError: sizes that do not fit together.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (64, 96, 128),
        attention_levels: Sequence[bool] = (False, True, True),
        res_blocks: int = 1,
        unshuffle: int = 4,
        sigma_data: float = 0.3,
        norm_groups: int = 16,
        head_channels: int = 32,
        default_sigma: float = 0.05,
        position: bool = False,
    ) -> None:
        super().__init__()
        if len(channels) != len(attention_levels) or unshuffle < 1 or res_blocks < 1 or not sigma_data > 0:
            raise ConfigError(
                "inconsistent network sizes",
                where="network_def",
                expected="one attention flag per level, positive numbers",
                got=f"channels {list(channels)}, attention_levels {list(attention_levels)}, unshuffle {unshuffle}, "
                f"res_blocks {res_blocks}, sigma_data {sigma_data}",
            )
        self.unshuffle, self.sigma_data, self.default_sigma = unshuffle, sigma_data, default_sigma
        self.multiple = unshuffle * 2 ** (len(channels) - 1)
        pixels = in_channels * unshuffle**2
        self.position = check_flag(position, "network_def#position")
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=pixels + (3 * (1 + 2 * POSITION_OCTAVES) if self.position else 0),
            out_channels=pixels,
            channels=tuple(channels),
            attention_levels=tuple(check_flag(level, "network_def#attention_levels") for level in attention_levels),
            num_res_blocks=res_blocks,
            norm_num_groups=norm_groups,
            num_head_channels=head_channels,
            use_flash_attention=True,
        )

    def forward(self, x: Tensor, sigma: Tensor | float | None = None, position: Tensor | None = None) -> Tensor:
        """Return the denoised slices.

        Args:
            x: noisy slices (B, C, H, W), any H and W.
            sigma: noise level, one number or one a slice; ``default_sigma`` when None.
            position: of each pixel along X, Y, Z, -1 to 1 in the volume, (B, 3, H, W); None is the middle of it.

        Returns:
            E[x0 | x], (B, C, H, W), in the precision of ``x``.
        """
        height, width = x.shape[-2:]
        padded, level = padded_to(x, self.multiple), levels_of(x, sigma, self.default_sigma)
        variance = level**2 + self.sigma_data**2
        h = F.pixel_unshuffle(padded / variance.sqrt(), self.unshuffle)
        if self.position:
            at = x.new_zeros(len(x), 3, height, width) if position is None else position.to(x)
            h = torch.cat((h, *_waves(F.avg_pool2d(padded_to(at, self.multiple), self.unshuffle))), dim=1)
        # the sinusoidal embedding is made for steps 0..1000, c_noise = ln(sigma) / 4 is about -1.5..1
        time = 250.0 * level.log().reshape(-1)
        h = self.unet(h.contiguous(memory_format=torch.channels_last), time)
        output = F.pixel_shuffle(h.to(x.dtype), self.unshuffle)[..., :height, :width]
        c_out = level * self.sigma_data / variance.sqrt()
        return x * (self.sigma_data**2 / variance) + c_out * output


def _waves(position: Tensor) -> list[Tensor]:
    """Return a position (B, 3, H, W) and its waves."""
    angles = [math.pi * 2**octave * position for octave in range(POSITION_OCTAVES)]
    return [position, *(wave(angle) for angle in angles for wave in (torch.sin, torch.cos))]
