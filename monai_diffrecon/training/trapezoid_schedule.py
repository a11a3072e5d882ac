# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Learning rate: warm up, hold, decay."""

from __future__ import annotations

from typing import Any

from ignite.engine import Events
from torch.optim import Optimizer


class TrapezoidSchedule:
    """Handler that sets the learning rate before each iteration.

    Rises over ``warmup`` iterations, holds, and falls linearly to 0 over the last ``decay`` of ``total``
    iterations (Zhai et al. 2022, arXiv 2106.04560, section 3.5). It reads the engine's iteration and keeps no
    state, so a training prolonged from a checkpoint of the plateau loses nothing.

    Args:
        optimizer: the optimizer to drive; its present learning rate is the height of the plateau.
        total: iterations in all.
        warmup: iterations of the rise.
        decay: iterations of the fall.
    """

    def __init__(self, optimizer: Optimizer, total: int, warmup: int = 200, decay: int = 0) -> None:
        self.optimizer, self.base = optimizer, [group["lr"] for group in optimizer.param_groups]
        self.total, self.warmup, self.decay = total, max(warmup, 1), decay

    def factor(self, iteration: int) -> float:
        """Return the factor at ``iteration``, counted from 1."""
        fall = (self.total - iteration + 1) / self.decay if self.decay > 0 else 1.0
        return max(0.0, min(1.0, iteration / self.warmup, fall))

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Set the learning rate of every group."""
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * self.factor(engine.state.iteration)
