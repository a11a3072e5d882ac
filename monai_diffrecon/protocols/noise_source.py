# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of a noise source."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class NoiseSource(ABC):
    """Standard normal volumes that depend only on (seed, case, stream, step, slice).

    Neither batching, nor worker count, nor an interruption changes them.
    """

    @abstractmethod
    def volume(
        self, shape: tuple[int, ...], step: int, *, stream: str = "sampler", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return a volume (C, X, Y, Z) of unit-variance noise for this step and stream."""

    @abstractmethod
    def uniform(self, step: int, *, stream: str) -> float:
        """Return one uniform number in [0, 1) for this step and stream."""
