# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Metrics where MONAI's handlers expect them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Events


class MetricsOfCases:
    """Handler that exposes the metrics of the cases to an evaluator's other handlers.

    ``engine.state.metrics`` holds those of the latest case (none if it failed or has no reference) and, at the end of
    the epoch, the means over the cases that have them. ``engine.state.metric_details`` holds (cases, 1), with NaN for
    missing values. Entries of other handlers are kept.

    Args:
        of_all: returns the rows of the cases of all processes, given those of this one.
    """

    def __init__(self, of_all: Callable[[list[dict[str, float]]], list[dict[str, float]]] = list) -> None:
        self.of_all = of_all
        self._rows: list[dict[str, float]] = []

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator, before the handlers that use the metrics."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._case)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _begin(self, engine: Any) -> None:
        self._show(engine, {})
        self._rows = []

    def _case(self, engine: Any) -> None:
        row = dict(engine.state.output.get("metrics") or {})
        self._show(engine, row)
        self._rows += [row] if engine.state.batch is not None else []  # otherwise another process has the case

    def _end(self, engine: Any) -> None:
        self._rows = self.of_all(self._rows)
        means, details = {}, {}
        for name in dict.fromkeys(name for row in self._rows for name in row):
            values = [row.get(name, math.nan) for row in self._rows]
            details[name] = torch.tensor(values)[:, None]
            known = [value for value in values if not math.isnan(value)]
            means[name] = sum(known) / len(known) if known else math.nan
        self._show(engine, means)
        engine.state.metric_details = {**engine.state.metric_details, **details}

    def _show(self, engine: Any, metrics: dict[str, float]) -> None:
        ours = {name for row in self._rows for name in row}
        others = {name: value for name, value in engine.state.metrics.items() if name not in ours}
        engine.state.metrics = {**others, **metrics}
