# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Checks of the output of a wrapped network."""

from __future__ import annotations

from torch import Tensor

from monai_diffrecon.errors import InputError


def checked(output: Tensor, x: Tensor, where: str, *, learned_variance: bool = False) -> Tensor:
    """Return a network's output if it has the shape of its input, which broadcasting would hide.

    Args:
        output: what the network returned.
        x: the slices (B, C, H, W) it was given.
        where: the config id for messages.
        learned_variance: twice the channels are fine; the second half is a variance, and dropped.

    Raises:
        InputError: another shape.
    """
    if learned_variance and output.ndim == x.ndim and output.shape[1] == 2 * x.shape[1]:
        output = output[:, : x.shape[1]]
    if output.shape != x.shape:
        raise InputError(
            "the network's output and input differ in shape",
            where=where,
            expected=tuple(x.shape),
            got=tuple(output.shape),
            mend="check in_channels and out_channels of network_def",
        )
    return output
