# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Slices per network call, chosen by device and plane."""

from __future__ import annotations

import math

import torch

#: Slices per call on a CPU, and the fewest on a GPU with enough memory.
DEFAULT = 8
#: Pixels per call from which on larger batches no longer make a large GPU faster, by estimate.
_PIXELS = 2**22


def chosen_batch_size(device: torch.device, count: int, height: int, width: int, limit: int | None = None) -> int:
    """Return the number of slices per network call: 8 on a CPU; on a GPU, batches of equal size with 2^22 pixels.

    Args:
        device: where the network computes.
        count: number of slices of the plane.
        height: pixels of a slice, or of a window.
        width: as for ``height``.
        limit: largest number that fits into the memory; None for no limit.
    """
    if device.type != "cuda":
        return DEFAULT
    most = max(1, min(max(_PIXELS // (height * width), DEFAULT), count))
    most = most if limit is None else max(1, min(most, limit))
    return math.ceil(count / math.ceil(count / most))
