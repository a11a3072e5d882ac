# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Shows slices to the networks in all orientations, one after the other."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from ignite.engine import Events

from monai_diffrecon.engine.planes.batched_plane_denoiser import innermost
from monai_diffrecon.protocols import PLANE_AXIS, VolumeGeometry


class Flips:
    """Handler that turns the slices of a plane before its network sees them, and back after it.

    The n-th step in which a plane takes part has the n-th symmetry: of the square, all eight in turn, and of oblong
    pixels the four flips. An error that a network makes in one orientation only is then not repeated in the next step
    (arXiv 2312.01831). It depends on nothing but the step, so a resumed run goes on with the same ones.
    """

    def __init__(self) -> None:
        self._uses: Counter[int] = Counter()
        self._counted = 0

    def attach(self, engine: Any) -> None:
        """Attach to a reconstruction engine."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._turn)

    def _turn(self, engine: Any) -> None:
        prior, step = engine.prior, engine.recon.step
        for before in range(self._counted, step):  # of a resumed run, all at once
            self._uses.update(prior.planes_at(before))
        self._counted = step
        for index in prior.planes_at(step):
            plane = prior.planes[index]
            count = symmetries(engine.problem.operator.geometry, plane.plane)
            innermost(plane).symmetry = self._uses[index] % count


def symmetries(geometry: VolumeGeometry, plane: str) -> int:
    """Return how many symmetries the slices of a plane have: 8, or 4 where their pixels are not square."""
    height, width = (size for axis, size in enumerate(geometry.spacing) if axis != PLANE_AXIS[plane])
    return 8 if math.isclose(height, width, rel_tol=1e-3) else 4
