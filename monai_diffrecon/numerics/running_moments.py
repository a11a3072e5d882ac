# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Mean and spread of volumes that come one after the other."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningMoments:
    """Mean and standard deviation in one pass, without keeping the volumes (Welford 1962).

    Of complex volumes the variance is the mean of ``|x - mean|^2``, that of both components together.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self._squares: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Take one more volume, of any shape, the same each time."""
        self.count += 1
        if self.mean is None or self._squares is None:
            self.mean, self._squares = x.clone(), torch.zeros_like(x.real if x.is_complex() else x)
            return
        before = x - self.mean
        self.mean = self.mean + before / self.count
        after = x - self.mean
        # Of complex numbers too: both differences point the same way.
        self._squares = self._squares + (before * after.conj()).real

    def std(self) -> Tensor:
        """Return the unbiased standard deviation (n - 1) of two or more volumes.

        Raises:
            ValueError: fewer than two.
        """
        if self._squares is None or self.count < 2:
            raise ValueError("a standard deviation needs two volumes")
        return (self._squares.clamp_min(0.0) / (self.count - 1)).sqrt()
