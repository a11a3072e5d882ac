# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of a noise source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from monai_diffrecon.protocols.plugin import Plugin
from monai_diffrecon.slabs import Slab


class NoiseSource(Plugin, ABC):
    """Standard normal volumes that depend only on (seed, case, stream, step, slice).

    A noise level sigma is the standard deviation of each real component: ``x = x0 + sigma n`` with complex n whose real
    and imaginary part both have unit variance.

    Neither batching, nor worker count, nor an interruption changes them.

    Args:
        seed: seed of the run.
        case: name of the case.

    Attributes:
        resumable: the numbers do not depend on the order in which they are asked for. False for one generator that
            is read on and on: such a run is not resumed, and draws one sample only.
    """

    resumable: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__dict__.get("ordered"):  # what it was called before
            cls.resumable = False
        if "volume" in cls.__dict__ and "slab" not in cls.__dict__:
            cls.slab = NoiseSource.slab  # type: ignore[method-assign]  # a short cut of other volumes

    def __init__(self, seed: int = 0, case: str = "") -> None:
        self.seed, self.case = int(seed), case

    @abstractmethod
    def volume(
        self, shape: tuple[int, ...], step: int, *, stream: str = "sampler", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return a volume (C, X, Y, Z) of unit-variance noise for this step and stream.

        Complex noise has unit variance in each component.
        """

    def slab(
        self,
        shape: tuple[int, ...],
        step: int,
        slab: Slab,
        *,
        stream: str = "sampler",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Return a slab of :meth:`volume`; overridden where the volume need not be drawn for it.

        Args:
            shape: shape (C, X, Y, Z) of the whole volume.
            step: the step.
            slab: the slab.
            stream: what the noise is for.
            dtype: real or complex.
        """
        return slab.of(self.volume(shape, step, stream=stream, dtype=dtype)).clone()

    def measurement(
        self, shape: tuple[int, ...], step: int, *, stream: str = "sampler", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return independent unit-variance noise in the shape of a measurement, which has any number of axes.

        A source overrides this if its volumes have dependent voxels, or always four axes: detectors and receivers add
        independent noise whatever the noise of the volume is.
        """
        return self.volume(shape, step, stream=stream, dtype=dtype)

    @abstractmethod
    def uniform(self, step: int, *, stream: str) -> float:
        """Return one uniform number in [0, 1) for this step and stream."""
