# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Noise in the order of the published code, from one generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from monai_diffrecon.errors import ResumeMismatchError
from monai_diffrecon.numerics.noise import draw_normal
from monai_diffrecon.numerics.planes import from_slices, to_slices
from monai_diffrecon.protocols import NoiseSource


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


class SequentialNoise(NoiseSource):
    """One generator, read in the order of the published code: to reproduce its numbers, and for nothing else.

    With ``torch.manual_seed(seed)`` before the published sampler, and CPU float32, both draw the same numbers. What
    ``published_predictor_corrector`` asks for in a step is drawn batch of slices by batch of slices when it announces
    the step. The numbers depend on the batches, and a run cannot be resumed: ``independent`` is the source to work
    with.

    Args:
        seed: seed of the generator.
        case: name of the case; it does not change the numbers.
    """

    resumable: ClassVar[bool] = False

    def __init__(self, seed: int = 0, case: str = "") -> None:
        super().__init__(seed, case)
        self._generator = torch.Generator().manual_seed(self.seed)
        self._kept: dict[tuple[int, str], Tensor] = {}
        self._uniforms: dict[tuple[int, str], float] = {}
        self._next = 0
        self._layout = ""

    def announce(self, draws: Sequence[Draw], step: int, *, shape: tuple[int, ...], plane: str) -> None:
        """Draw what a step will ask for, in the order of the published code.

        Args:
            draws: batches of slices in order.
            step: the step.
            shape: shape of the volume (C, X, Y, Z).
            plane: plane of the slices.

        Raises:
            ResumeMismatchError: the steps before it were not drawn.
        """
        if step > self._next:
            raise ResumeMismatchError(
                "the numbers of earlier steps were not drawn",
                where="noise sequential",
                expected=f"step {self._next}",
                got=f"step {step}",
                mend='start the run anew, or use the noise "independent"',
            )
        self._next = step + 1
        # The published code asks for noise "like" a chunk of the volume, which is laid out in memory as the step before
        # left it: torch fills a tensor in the order of its strides.
        stored = to_slices(torch.empty(shape), self._layout or plane).contiguous()
        slices = to_slices(from_slices(stored, self._layout or plane), plane)
        self._layout = plane
        self._kept = {}
        pieces: dict[str, list[Tensor]] = {}
        for draw in draws:
            piece = torch.empty_like(slices[draw.first : draw.stop]).normal_(generator=self._generator)
            pieces.setdefault(draw.stream, []).append(piece)
        for stream, drawn in pieces.items():
            self._kept[step, stream] = from_slices(torch.cat(drawn), plane)

    def volume(
        self, shape: tuple[int, ...], step: int, *, stream: str = "sampler", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return the announced noise (C, X, Y, Z), or the generator's next numbers.

        The published codes know real volumes only: complex noise, of unit variance in each component, is never the
        announced one.
        """
        kept = self._kept.get((step, stream))
        if kept is not None and kept.shape == torch.Size(shape) and not dtype.is_complex:
            return kept.to(dtype)
        return draw_normal(tuple(shape), dtype, self._generator)

    def uniform(self, step: int, *, stream: str) -> float:
        """Return one uniform number in (0, 1], drawn when a step first asks for it.

        It is ``1 - torch.rand(1)``: the published code takes the primary plane when the number drawn is above 1/K.
        """
        if (step, stream) not in self._uniforms:
            self._uniforms[step, stream] = 1.0 - float(torch.rand(1, generator=self._generator))
        return self._uniforms[step, stream]
