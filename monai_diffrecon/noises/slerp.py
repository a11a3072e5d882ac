# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Noise that varies smoothly from slice to slice."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.numerics.noise import keyed_normal, keyed_uniform, slerp_path, white_noise
from monai_diffrecon.numerics.planes import check_plane, from_slices
from monai_diffrecon.protocols import PLANE_AXIS, NoiseSource


class SlerpNoise(NoiseSource):
    """Two slices of noise and the great circle between them (ISCS, arXiv 2602.04162).

    Neighbouring slices have nearly the same noise, so a 2D network that denoises them one by one makes nearly the
    same choices: slices agree without a penalty along z. Each slice alone is standard normal.

    Args:
        seed: seed of the run.
        case: name of the case.
        plane: plane of the slices between which the noise varies smoothly.
    """

    def __init__(self, seed: int = 0, case: str = "", plane: str = "axial") -> None:
        super().__init__(seed, case)
        self.plane = check_plane(plane, "noise#plane")

    def volume(
        self, shape: tuple[int, ...], step: int, *, stream: str = "sampler", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return unit-variance noise (C, X, Y, Z); complex noise has unit variance in each component."""
        axis = 1 + PLANE_AXIS[self.plane]
        slice_shape = tuple(n for i, n in enumerate(shape) if i != axis)
        first, last = (keyed_normal(slice_shape, dtype, self.seed, self.case, stream, step, end) for end in (0, 1))
        return from_slices(slerp_path(first, last, shape[axis]), self.plane)

    def measurement(
        self, shape: tuple[int, ...], step: int, *, stream: str = "sampler", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return independent unit-variance noise of any shape."""
        return white_noise(shape, dtype, self.seed, self.case, stream, step)

    def uniform(self, step: int, *, stream: str) -> float:
        """Return one uniform number in [0, 1)."""
        return keyed_uniform(self.seed, self.case, stream, step)
