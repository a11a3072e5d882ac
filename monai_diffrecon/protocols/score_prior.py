# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of a score prior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols.denoiser import PlaneDenoiser
from monai_diffrecon.protocols.noise_source import NoiseSource
from monai_diffrecon.protocols.operator import Operator
from monai_diffrecon.protocols.plugin import Plugin
from monai_diffrecon.protocols.sampler_state import SamplerState


class ScorePrior(Plugin, ABC):
    """A volume-level denoiser made of one or several plane denoisers.

    ``bind`` hands over the plane denoisers (primary first) and the noise source before the first step; the
    options of the constructor are the user's alone.
    """

    #: Fewest plane denoisers the prior can work with, and most (None: any number).
    min_planes: int = 1
    max_planes: int | None = 1

    planes: tuple[PlaneDenoiser, ...] = ()
    noise: NoiseSource | None = None

    def bind(self, planes: Sequence[PlaneDenoiser], noise: NoiseSource | None = None) -> None:
        """Take the plane denoisers, primary first, and the noise source.

        Raises:
            ConfigError: too few or too many planes, or one plane twice.
        """
        names = [p.plane for p in planes]
        most = self.max_planes if self.max_planes is not None else len(names)
        if not self.min_planes <= len(names) <= most:
            raise ConfigError(
                f"{type(self).__name__} works with {self.min_planes} to {self.max_planes or 'any number of'} planes",
                where="prior",
                got=f"{len(names)} ({', '.join(names) or 'none'})",
                mend="add an auxiliary_bundle of another plane" if len(names) < self.min_planes else "remove a bundle",
            )
        if len(set(names)) != len(names):
            raise ConfigError(
                "two networks for the same plane",
                where="auxiliary_bundle",
                expected="a bundle of another plane",
                got=", ".join(names),
            )
        self.planes = tuple(planes)
        self.noise = noise

    def observe(self, operator: Operator) -> None:
        """Learn how the volume was measured, before ``bind``; nothing unless overridden."""

    @abstractmethod
    def denoise(self, x: Tensor, sigma: float, state: SamplerState) -> Tensor:
        """Return the clean estimate of the volume ``x`` (C, X, Y, Z) at noise level ``sigma``."""

    @abstractmethod
    def planes_at(self, step: int) -> tuple[int, ...]:
        """Return the indices of the planes whose networks are called at this step (for time estimates)."""
