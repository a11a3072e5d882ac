# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of every step."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Events

from monai_diffrecon.engine.reconstruction_engine import StepEvents


class StepMetrics:
    """Handler that computes the relative data residual after each step and keeps the history.

    Writes ``engine.state.metrics["residual"]`` = ``||A x - y|| / ||y||`` and appends to ``history``.

    Args:
        every: steps between computations; always computed at the last step.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = max(int(every), 1)
        self.history: list[dict[str, float]] = []
        self._size = 1.0

    def attach(self, engine: Any) -> None:
        """Attach to a reconstruction engine."""
        engine.add_event_handler(Events.STARTED, self._measure)
        engine.add_event_handler(StepEvents.STEP_COMPLETED, self)

    def _measure(self, engine: Any) -> None:
        self._size = max(engine.problem.operator.measured_norm(engine.problem.measurement), 1e-30)

    @torch.no_grad()
    def __call__(self, engine: Any) -> None:
        """Compute and record."""
        recon = engine.state.recon
        if recon.step % self.every and recon.step != len(engine.ladder):
            return
        residual = engine.residual_norm() / self._size
        engine.state.metrics["residual"] = residual
        self.history.append({"step": recon.step, "sigma": engine.ladder[recon.step - 1], "residual": residual})
