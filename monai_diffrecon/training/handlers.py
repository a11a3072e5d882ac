# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Gradient clipping."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.engines import IterationEvents
from torch.optim import Optimizer


class GradientClip:
    """Handler that clips the gradient norm of the trainer's network between backward pass and update.

    Args:
        max_norm: largest Euclidean norm.
    """

    def __init__(self, max_norm: float = 1.0) -> None:
        self.max_norm = max_norm

    def attach(self, engine: Any) -> None:
        """Attach to a ``monai.engines.SupervisedTrainer``."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Clip in place."""
        torch.nn.utils.clip_grad_norm_(engine.network.parameters(), self.max_norm)


class EpochCounter:
    """Handler that sets ``dataset.epoch`` before each epoch, from 0.

    Args:
        dataset: any object whose items depend on its attribute ``epoch``.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Set the epoch."""
        self.dataset.epoch = engine.state.epoch - 1


class MovingAverage(EMAHandler):
    """Ignite's moving average of the weights, whose warm-up follows the engine's iteration.

    Ignite counts the warm-up from 0 in every process: a training resumed from a checkpoint would warm up once
    more, and forget the average it restored. The averaged network is ``ema_model``.
    """

    def attach(self, engine: Any, *args: Any, **kwargs: Any) -> None:
        """Attach to a trainer; arguments as for ``ignite.handlers.EMAHandler``."""
        super().attach(engine, *args, **kwargs)
        # At the epoch's start, since handlers of the engine's start restore the iteration.
        engine.add_event_handler(Events.EPOCH_STARTED, self._follow)

    def _follow(self, engine: Any) -> None:
        scheduler = getattr(self, "momentum_scheduler", None)  # there is none without a warm-up
        if scheduler is not None:
            scheduler.event_index = engine.state.iteration


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
