# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Stop at the first non-finite value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.errors import NumericalError
from monai_diffrecon.numerics.planes import to_slices


class NonFiniteGuard:
    """Handler that names the step, the slice and the component that made the first non-finite voxel.

    Network outputs are checked at the call, before the prior uses them.
    """

    def attach(self, engine: Any) -> None:
        """Attach to a reconstruction engine."""
        engine.add_event_handler(StepEvents.DENOISED, self._after_prior)
        engine.add_event_handler(StepEvents.CORRECTED, self._after_hook)
        engine.add_event_handler(StepEvents.CONSISTENT, self._after_step)

    def _after_prior(self, engine: Any) -> None:
        self._check(engine.state.estimate, f"prior {type(engine.prior).__name__}", engine)

    def _after_hook(self, engine: Any) -> None:
        where = f"consistency {type(engine.consistency).__name__}, {engine.state.hook}"
        self._check(engine.state.corrected, where, engine)

    def _after_step(self, engine: Any) -> None:
        self._check(engine.state.recon.x, f"sampler {type(engine.sampler).__name__}", engine)

    @staticmethod
    def _check(x: Tensor, where: str, engine: Any) -> None:
        # A sum is much quicker than a test of every voxel, but it may overflow for large numbers.
        if bool(torch.isfinite(x.detach().sum())):
            return
        finite = torch.isfinite(x.detach())
        if bool(finite.all()):
            return
        plane = engine.sampler.plane_at(engine.recon.step)
        bad = ~to_slices(finite, plane).flatten(1).all(dim=1)
        first, step = int(bad.nonzero()[0]), min(engine.recon.step + 1, len(engine.ladder))
        raise NumericalError(
            f"{int((~finite).sum())} voxels are not finite at step {step}, sigma "
            f"{engine.sigma:.4g}, in {int(bad.sum())} {plane} slices, the first of them {first}",
            where=where,
            mend="lower the tuning parameters (rho, threshold) or check the measurement's scale",
        )
