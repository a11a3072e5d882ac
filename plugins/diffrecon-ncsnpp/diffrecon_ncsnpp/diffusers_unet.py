# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The unconditional U-Net of the library diffusers, with the call of a bundle's network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from diffrecon_ncsnpp.slice_shape import check_slices
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer

_WHERE = "network_def#config"


class DiffusersUNet(nn.Module):
    """``UNet2DModel`` of diffusers: what it returns as ``.sample``, for one tensor or two.

    Args:
        config: the model's ``config.json``; entries that start with an underscore are ignored.
        default_timestep: timestep assumed when the network is called with one tensor.

    Raises:
        ConfigError: diffusers is not installed, or the config is not that of an unconditional ``UNet2DModel``.
    """

    def __init__(self, config: Mapping[str, Any], default_timestep: int = 10) -> None:
        super().__init__()
        try:
            model: Any = import_module("diffusers").UNet2DModel
        except ImportError:
            raise ConfigError(
                "the library diffusers is not installed",
                where="network_def",
                mend="pip install 'diffrecon-ncsnpp[diffusers]'",
            ) from None
        kind = config.get("_class_name", "UNet2DModel")
        if kind != "UNet2DModel":
            raise ConfigError("another network", where=_WHERE, expected="UNet2DModel", got=kind)
        options = {k: v for k, v in config.items() if not k.startswith("_")}
        if unknown := sorted(options.keys() - inspect.signature(model.__init__).parameters.keys()):
            raise ConfigError("options that UNet2DModel does not have", where=_WHERE, got=", ".join(unknown))
        if options.get("class_embed_type") or options.get("num_class_embeds"):
            raise ConfigError("a network with class labels", where=_WHERE, expected="an unconditional one")
        self.in_channels = options.get("in_channels", 3)
        outputs = options.get("out_channels", 3)
        if outputs not in (self.in_channels, 2 * self.in_channels):
            raise ConfigError(
                "wrong out_channels",
                where=_WHERE,
                expected=f"{self.in_channels} or {2 * self.in_channels}",
                got=outputs,
            )
        self.default_timestep = check_integer(default_timestep, "network_def#default_timestep", low=0)
        try:
            self.unet: Any = model(**options)
        except (TypeError, ValueError, IndexError) as error:
            raise ConfigError(f"UNet2DModel refused its options: {error}", where=_WHERE) from None
        self.multiple = 2 ** (len(self.unet.config.down_block_types) - 1)

    def forward(self, x: Tensor, timesteps: Tensor | float | None = None) -> Tensor:
        """Return what the network predicts: noise, velocity or the clean slices, as its scheduler says.

        Args:
            x: slices (B, C, H, W) with H and W multiples of ``2 ** (levels - 1)``, scaled as in the training.
            timesteps: one number or one a slice (B,); ``default_timestep`` when None.

        Returns:
            The prediction, (B, C, H, W); of twice the channels the first half.

        Raises:
            InputError: a size that cannot be halved as often as the network does, or other channels.
        """
        check_slices(x, self.in_channels, self.multiple, "DiffusersUNet")
        steps = torch.as_tensor(self.default_timestep if timesteps is None else timesteps, device=x.device)
        return self.unet(x, steps.reshape(-1).expand(x.shape[0])).sample[:, : self.in_channels]
