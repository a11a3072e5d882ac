# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Gradient clipping."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import IterationEvents


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
