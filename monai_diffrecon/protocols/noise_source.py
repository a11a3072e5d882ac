# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of a noise source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from monai_diffrecon.protocols.plugin import Plugin


@dataclass(frozen=True)
class Draw:
    """One batch of slices of noise that a step will ask for.

    Attributes:
        stream: name of the stream.
        first: first slice of the batch.
        stop: slice after the last.
    """

    stream: str
    first: int
    stop: int


class NoiseSource(Plugin, ABC):
    """Standard normal volumes that depend only on (seed, case, stream, step, slice).

    A noise level sigma is the standard deviation of each real component: ``x = x0 + sigma n`` with complex n whose real
    and imaginary part both have unit variance.

    Neither batching, nor worker count, nor an interruption changes them.

    Args:
        seed: seed of the run.
        case: name of the case.

    Attributes:
        ordered: the numbers depend on the order in which they are asked for, so that a run cannot be resumed; for
            the reproduction of published code alone.
    """

    ordered: ClassVar[bool] = False

    def __init__(self, seed: int = 0, case: str = "") -> None:
        self.seed, self.case = int(seed), case

    @abstractmethod
    def volume(
        self, shape: tuple[int, ...], step: int, *, stream: str = "sampler", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return a volume (C, X, Y, Z) of unit-variance noise for this step and stream.

        Complex noise has unit variance in each component.
        """

    @abstractmethod
    def uniform(self, step: int, *, stream: str) -> float:
        """Return one uniform number in [0, 1) for this step and stream."""

    def announce(self, draws: Sequence[Draw], step: int, *, shape: tuple[int, ...], plane: str) -> None:
        """Hear what a step will ask for, in the order of the published code.

        Does nothing unless overridden: only a source whose numbers depend on when they are drawn must know.

        Args:
            draws: batches of slices in order.
            step: the step.
            shape: shape of the volume (C, X, Y, Z).
            plane: plane of the slices.
        """
