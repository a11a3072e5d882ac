# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Stop at the first value that is not a number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.engine.step_events import StepEvents
from monai_diffrecon.errors import NumericalError


class NonFiniteGuard:
    """Handler that names the step and the component that made the first non-finite voxel."""

    def attach(self, engine: Any) -> None:
        """Attach to a reconstruction engine."""
        engine.add_event_handler(StepEvents.DENOISED, self._after_prior)
        engine.add_event_handler(StepEvents.CONSISTENT, self._after_step)

    def _after_prior(self, engine: Any) -> None:
        self._check(engine.state.estimate, "prior", type(engine.prior).__name__, engine)

    def _after_step(self, engine: Any) -> None:
        self._check(engine.state.recon.x, "consistency", type(engine.consistency).__name__, engine)

    @staticmethod
    def _check(x: Tensor, component: str, name: str, engine: Any) -> None:
        if bool(torch.isfinite(x).all()):
            return
        bad = int((~torch.isfinite(x)).sum())
        raise NumericalError(
            f"{bad} voxels are not finite at step {engine.state.iteration}, sigma "
            f"{engine.ladder[engine.state.iteration - 1]:.4g}",
            where=f"{component} {name}",
            mend="lower the tuning parameters (rho, threshold) or check the measurement's scale",
        )
