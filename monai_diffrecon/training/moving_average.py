# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Moving average of the weights that can be resumed."""

from __future__ import annotations

from typing import Any

from ignite.engine import Events
from ignite.handlers import EMAHandler


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
