# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The published layout of NCSN++ weights: names, and the options of the network that shapes show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diffrecon_ncsnpp.ncsnpp import NCSNpp
from diffrecon_ncsnpp.state_dicts import most_common
from monai_diffrecon.errors import InputError

_NAME = re.compile(r"all_modules\.(\d+)\.(.+)")
_NIN = re.compile(r"(all_modules\.\d+\.NIN_\d)\.(weight|bias)")
#: Unused by the network; its ends are the noise levels of the training.
SIGMAS = "sigmas"
#: Not trained, hence not among the averaged weights.
FREQUENCIES = "all_modules.0.W"
_FIRST_BLOCK = 4


def published_shapes(network: NCSNpp) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return published name -> (our name, shape as published) of every tensor, in the order of registration.

    Only the 1 x 1 layers of the attention differ: they are published as ``NIN_k.W`` (in, out) and ``NIN_k.b``.
    """
    shapes = {}
    for name, tensor in network.state_dict().items():
        published, shape = name, tuple(tensor.shape)
        if match := _NIN.fullmatch(name):
            published = f"{match[1]}.{'W' if match[2] == 'weight' else 'b'}"
            shape = shape[::-1]
        shapes[published] = name, shape
    return shapes


def infer_options(tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """Return the options of :class:`NCSNpp` that the shapes of published weights show.

    Where several tensors show the same number, most of them decide; the comparison of all names and shapes, which
    follows, then names the odd one.

    Raises:
        InputError: not the layout of NCSN++.
    """
    modules: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _NAME.fullmatch(name):
            modules.setdefault(int(match[1]), {})[match[2]] = tensor
    kinds = {place: _kind(parts) for place, parts in modules.items() if place >= _FIRST_BLOCK}
    pyramids = sorted(place for place, kind in kinds.items() if kind == "pyramid")
    lead = [modules.get(place, {}) for place in range(_FIRST_BLOCK)]
    channels = most_common(
        [*_sizes(lead[0], 0, "W"), *_sizes(lead[3], 0, "weight", "bias"), *_quarters(lead[1], "bias")],
        "channels",
        where,
    )
    first_pyramid = modules[pyramids[0]] if pyramids else {}
    last = [t.shape[0] for t in modules[max(modules)].values() if t.ndim == 4]
    inputs = most_common(
        [*_sizes(lead[3], 1, "weight"), *_sizes(first_pyramid, 1, "Conv2d_0.weight"), *last], "in_channels", where
    )
    starts = [_FIRST_BLOCK, *(place + 1 for place in pyramids)]
    blocks = _blocks_per_level(kinds, pyramids)
    mult: list[int] = []
    for start, end in zip(starts, [*pyramids, starts[-1] + blocks], strict=True):
        residual = [modules[p] for p in range(start, end) if kinds.get(p) == "residual"]
        widths = [n for parts in residual for n in _sizes(parts, 0, "Conv_1.weight", "Conv_1.bias", "Dense_0.bias")]
        mult.append(most_common(widths, f"the width of level {len(mult)}", where))
    if blocks < 1 or channels < 1 or any(width % channels for width in mult):
        raise InputError(
            "not the layout of NCSN++",
            where=where,
            expected="levels whose widths are multiples of that of the first convolution",
            got=f"widths {mult} after {channels}, {blocks} residual blocks a level",
        )
    return {
        "in_channels": inputs,
        "channels": channels,
        "channel_mult": [width // channels for width in mult],
        "num_res_blocks": blocks,
        "attention_levels": [level for level, start in enumerate(starts) if kinds.get(start + 1) == "attention"],
    }


def _kind(parts: Mapping[str, Tensor]) -> str:
    if any(name.startswith("NIN_") for name in parts):
        return "attention"
    if any(name.startswith("Conv2d_0.") for name in parts):
        return "pyramid"
    return "residual" if any(name.startswith(("Conv_", "Dense_", "GroupNorm_")) for name in parts) else "other"


def _blocks_per_level(kinds: Mapping[int, str], pyramids: list[int]) -> int:
    if pyramids:  # the blocks of the first level, and the one that halves
        return sum(kinds.get(place) == "residual" for place in range(_FIRST_BLOCK, pyramids[0])) - 1
    return (sum(kind == "residual" for kind in kinds.values()) - 3) // 2  # n down, 2 in the middle, n + 1 up


def _sizes(parts: Mapping[str, Tensor], axis: int, *names: str) -> list[int]:
    return [parts[name].shape[axis] for name in names if name in parts and parts[name].ndim > axis]


def _quarters(parts: Mapping[str, Tensor], name: str) -> list[int]:
    return [size // 4 for size in _sizes(parts, 0, name)]
