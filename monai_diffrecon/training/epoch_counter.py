# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Pass the epoch number to a dataset."""

from __future__ import annotations

from typing import Any

from ignite.engine import Events


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
