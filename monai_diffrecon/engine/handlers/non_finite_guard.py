# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Stop at the first non-finite value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_diffrecon import slabs
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.errors import NumericalError
from monai_diffrecon.numerics.planes import to_slices
from monai_diffrecon.protocols import PLANE_AXIS


class NonFiniteGuard:
    """Handler that names the step, the slice and the component that made the first non-finite voxel.

    Network outputs are checked at the call, before the prior uses them. On a GPU the voxels are counted there, and
    the counts are read once a step, since the processor waits for the GPU at every reading.
    """

    def __init__(self) -> None:
        self._counted: list[tuple[Tensor, str, str]] = []

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
        if engine.state.hook == "on_result":  # after the last step
            self._read(engine)

    def _after_step(self, engine: Any) -> None:
        self._check(engine.state.recon.x, f"sampler {type(engine.sampler).__name__}", engine)
        self._read(engine)

    def _check(self, x: Tensor, where: str, engine: Any) -> None:
        plane = engine.sampler.plane_at(engine.recon.step)
        if x.device.type != "cpu":
            self._counted.append((_not_finite(x, plane), where, plane))
            return
        # A sum is much quicker than a test of every voxel, but it may overflow for large numbers.
        if bool(torch.isfinite(x.detach().sum())):
            return
        _refuse(_not_finite(x, plane), where, plane, engine)

    def _read(self, engine: Any) -> None:
        counted, self._counted = self._counted, []
        if counted and any(torch.stack([counts.sum() for counts, _, _ in counted]).tolist()):
            for counts, where, plane in counted:
                _refuse(counts, where, plane, engine)


def _not_finite(x: Tensor, plane: str) -> Tensor:
    """Return the number of non-finite voxels in each slice of a plane."""
    return to_slices(~torch.isfinite(x.detach()), plane).flatten(1).sum(dim=1)


def _refuse(counts: Tensor, where: str, plane: str, engine: Any) -> None:
    bad = counts.nonzero().flatten().tolist()
    if not bad:
        return
    first = bad[0] + slabs.first_slice(1 + PLANE_AXIS[plane])
    step = min(engine.recon.step + 1, len(engine.ladder))
    raise NumericalError(
        f"{int(counts.sum())} voxels are not finite at step {step}, sigma "
        f"{engine.sigma:.4g}, in {len(bad)} {plane} slices, the first of them {first}",
        where=where,
        mend="lower the tuning parameters (rho, threshold) or check the measurement's scale",
    )
