# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Running mean and spread of volumes."""

from __future__ import annotations

from collections.abc import Mapping

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
        """Add one volume; all must have the same shape."""
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

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors; empty before the first volume."""
        if self.mean is None or self._squares is None:
            return {}
        return {"count": torch.tensor(self.count), "mean": self.mean, "squares": self._squares}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the moments from ``state``."""
        self.count = int(state["count"]) if state else 0
        self.mean, self._squares = state.get("mean"), state.get("squares")
