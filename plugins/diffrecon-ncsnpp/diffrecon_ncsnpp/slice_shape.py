# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The shape that a network of several levels takes."""

from __future__ import annotations

from torch import Tensor

from monai_diffrecon.errors import InputError


def check_slices(x: Tensor, channels: int, multiple: int, where: str) -> None:
    """Check slices (B, C, H, W).

    Args:
        x: the slices.
        channels: the channels of the network.
        multiple: H and W must be multiples of it.
        where: name of the network for messages.

    Raises:
        InputError: other channels, or a size that cannot be halved as often as the network does.
    """
    if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % multiple or x.shape[3] % multiple:
        raise InputError(
            "slices of a wrong shape",
            where=where,
            expected=f"(B, {channels}, H, W) with H and W multiples of {multiple}",
            got=tuple(x.shape),
            mend="pad the slices, or denoise them in windows of such a size",
        )
