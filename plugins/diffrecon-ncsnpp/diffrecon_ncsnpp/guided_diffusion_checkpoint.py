# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Importer of the checkpoints of guided diffusion, which DDS uses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffrecon_ncsnpp.guided_diffusion_unet import GuidedDiffusionUNet
from diffrecon_ncsnpp.state_dicts import (
    check_agreement,
    check_declared,
    check_tensors,
    listed,
    most_common,
    tensors_of,
)
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.protocols import CheckpointImporter, ImportedNetwork

_WHERE = "import guided_diffusion"
_SHAPES = ("in_channels", "out_channels", "channels", "channel_mult", "num_res_blocks", "attention_levels")
_STYLES = ("resblock_updown", "scale_shift_norm")
# What no shape shows, with the values of DDS.
_NETWORK_DEFAULTS: dict[str, Any] = {"head_channels": 64}
_DENOISER_DEFAULTS: dict[str, Any] = {
    "prediction_type": "epsilon",
    "num_train_timesteps": 1000,
    "schedule": "linear_beta",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "data_range": [0.0, 1.0],
}
_DOUBLING = re.compile(r"[12]\.(in_layers\.0|conv)\.weight")


class GuidedDiffusionImporter(CheckpointImporter):
    """Checkpoints of guided-diffusion (ADM) U-Nets: DDS, without class labels.

    The file is a plain state dict (of averaged or last weights; it does not say which).
    """

    API_VERSION: ClassVar[int] = 1

    def recognises(self, content: Mapping[str, Any]) -> bool:
        """Say whether the content is a state dict with the names of an ADM U-Net."""
        return {"time_embed.0.weight", "input_blocks.0.0.weight"} <= {str(k).removeprefix("module.") for k in content}

    def convert(self, content: Mapping[str, Any], **declared: Any) -> ImportedNetwork:
        """Return the network that a checkpoint holds.

        Args:
            content: the content of the file.
            declared: options of :class:`GuidedDiffusionUNet` are compared with the file, but for ``head_channels``
                (64 unless declared), which no shape shows. ``prediction_type``, ``num_train_timesteps``,
                ``schedule``, ``beta_start``, ``beta_end`` and ``data_range`` describe the training, as the denoiser
                ``ddpm`` names them; without them it is that of DDS.

        Raises:
            ConfigError: an unknown declared name.
            InputError: another layout, or tensors missing, superfluous, of a wrong shape or not finite.
        """
        check_declared(declared, (*_SHAPES, *_STYLES, *_NETWORK_DEFAULTS, *_DENOISER_DEFAULTS), _WHERE)
        if not self.recognises(content):
            raise InputError(
                "not a checkpoint of guided diffusion",
                where=_WHERE,
                expected="a state dict with time_embed.0.weight and input_blocks.0.0.weight",
                got=f"entries {listed([str(k) for k in content])}",
            )
        tensors = tensors_of(content, _WHERE, prefix="module.")
        if "label_emb.weight" in tensors:
            raise InputError("a network with class labels", where=_WHERE, expected="none", got="label_emb.weight")
        options = _infer_options(tensors)
        check_agreement(declared, options, _WHERE)
        options.update({k: declared.get(k, v) for k, v in _NETWORK_DEFAULTS.items()})
        try:
            with torch.device("meta"):
                network = GuidedDiffusionUNet(**options)
        except ConfigError as error:
            raise InputError(f"not the layout of guided diffusion: {error}", where=_WHERE, got=options) from None
        check_tensors(tensors, {k: tuple(v.shape) for k, v in network.state_dict().items()}, _WHERE)
        assumed = [k for k in (*_NETWORK_DEFAULTS, *_DENOISER_DEFAULTS) if k not in declared]
        training = {k: declared.get(k, v) for k, v in _DENOISER_DEFAULTS.items()}
        notes = [f"assumed the values of DDS for {', '.join(assumed)}"] if assumed else []
        if options["out_channels"] > options["in_channels"]:
            notes.append("the second half of the output is a learned variance and is not used")
        return ImportedNetwork(
            network_def={"_target_": "diffrecon_ncsnpp.guided_diffusion_unet.GuidedDiffusionUNet", **options},
            state_dict={k: v.to(torch.float32, copy=True).contiguous() for k, v in tensors.items()},
            denoiser={"name": "ddpm", **training, "data_range": list(training["data_range"])},
            channels=options["in_channels"],
            notes=tuple(notes),
        )


def _infer_options(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options of the U-Net that shapes show; most of the tensors of a level decide its width."""
    first = tensors["input_blocks.0.0.weight"]
    embed = [tensors[k] for k in ("time_embed.0.bias", "time_embed.2.bias") if k in tensors]
    channels = most_common((t.numel() // 4 for t in embed), "channels", _WHERE)
    last = [tensors[k].shape[0] for k in ("out.2.weight", "out.2.bias") if k in tensors and tensors[k].ndim]
    down, up = _stages(tensors, "input_blocks"), _stages(tensors, "output_blocks")
    # A halving residual block looks like any other; a doubling one is the second in its stage.
    doublings = [parts for parts in up.values() if any(_DOUBLING.fullmatch(name) for name in parts)]
    count = len(doublings) + 1
    blocks = len(up) // count - 1
    if first.ndim != 4 or channels < 1 or blocks < 1:
        raise InputError(
            "not the layout of guided diffusion",
            where=_WHERE,
            got=f"{len(up)} output_blocks, {len(doublings)} of which double the size; "
            f"input_blocks.0.0.weight {tuple(first.shape)}",
        )
    levels = [[down.get(n * (blocks + 1) + i, {}) for i in range(1, blocks + 1)] for n in range(count)]
    widths = [_width(level, n) for n, level in enumerate(levels)]
    condition = most_common(
        (parts["0.emb_layers.1.bias"].numel() for parts in levels[0] if "0.emb_layers.1.bias" in parts),
        "scale_shift_norm",
        _WHERE,
    )
    ratios = [width / channels for width in widths]
    return {
        "in_channels": first.shape[1],
        "out_channels": most_common(last, "out_channels", _WHERE),
        "channels": channels,
        "channel_mult": [int(r) if r.is_integer() else r for r in ratios],
        "num_res_blocks": blocks,
        "attention_levels": [
            n for n, level in enumerate(levels) if any(k.startswith("1.") for parts in level for k in parts)
        ],
        "resblock_updown": not any(k.endswith(".conv.weight") for parts in doublings for k in parts),
        "scale_shift_norm": condition == 2 * widths[0],
    }


def _stages(tensors: Mapping[str, Tensor], part: str) -> dict[int, dict[str, Tensor]]:
    """Return place -> the tensors there, of ``input_blocks`` or ``output_blocks``."""
    stages: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(rf"{part}\.(\d+)\.(.+)", name):
            stages.setdefault(int(match[1]), {})[match[2]] = tensor
    return stages


def _width(level: Sequence[Mapping[str, Tensor]], n: int) -> int:
    names = ("0.in_layers.2.bias", "0.out_layers.3.bias", "0.out_layers.0.bias")
    sizes = (parts[name].numel() for parts in level for name in names if name in parts)
    return most_common(sizes, f"the width of level {n}", _WHERE)
