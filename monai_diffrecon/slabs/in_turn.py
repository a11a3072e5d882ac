# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Slabs one after the other in a single process.

A slab runs until it asks the others something. Then it is abandoned, and run once more when the answer is known: only
one slab is in memory at a time, and what it runs must do the same every time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError, PluginError
from monai_diffrecon.slabs.slab import Peers, Slab, within

T = TypeVar("T")

#: Returns the answer to a question; it may read it from the disk.
Answer = Callable[[], object]


class Question(BaseException, ABC):  # not an Exception: plugins must not catch it
    """What a slab asks the others; ends its run."""

    @abstractmethod
    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """Return what gives each slab its answer.

        Args:
            questions: of all slabs, of this class.
        """


@dataclass(eq=False)
class _Reduced(Question):
    value: Tensor
    reduce: Callable[[Tensor], Tensor]

    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        values = torch.stack([question.value for question in questions if isinstance(question, _Reduced)])
        answer = self.reduce(values)
        return [answer.clone for _ in questions]


class TurnPeers(Peers):
    """Slabs whose turns come one after the other, and that solve linear systems by themselves: few questions.

    Args:
        slabs: all slabs.
        index: which of them this one is.
        answers: what was answered so far, in order.
    """

    solves_together: ClassVar[bool] = False

    def __init__(self, slabs: Sequence[Slab], index: int, answers: Sequence[Answer]) -> None:
        super().__init__(slabs, index)
        self._answers = iter(list(answers))

    def ask(self, question: Question) -> object:
        """Return the answer to a question, or end this turn with it."""
        answer = next(self._answers, None)
        if answer is None:
            raise question
        return answer()

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over the slabs."""
        return self.ask(_Reduced(value.clone(), lambda values: values.sum(dim=0)))  # type: ignore[return-value]

    def largest(self, value: Tensor) -> Tensor:
        """Return the maximum over the slabs."""
        return self.ask(_Reduced(value.clone(), lambda values: values.amax(dim=0)))  # type: ignore[return-value]

    def swap(self, pieces: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Refuse: what looks at neighbouring slices does so in each iteration of a solver.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "a part of the method looks at neighbouring slices, across the slabs of the volume",
            where="inferer#volume_store",
            expected="a method that leaves the slabs apart, such as conjugate_gradient",
            got="total variation across the slabs, or the phase of a complex volume",
            mend="choose consistency conjugate_gradient and sampler#start initial (complex: channels), "
            "or set volume_store to null",
        )


def run_in_turn(
    task: Callable[[Slab], T],
    slabs: Sequence[Slab],
    *,
    keep: Callable[[int, T], object],
    peers: Callable[[Sequence[Slab], int, list[Answer]], Peers],
    answers: list[list[Answer]],
) -> list[object]:
    """Run a task on each slab, and return the results in the order of the slabs.

    Args:
        task: what to do; it may be run many times, and must do the same each time.
        slabs: the slabs.
        keep: puts the result of the slab of an index away, and returns what to keep of it in memory.
        peers: makes what a slab sees of the others.
        answers: of each slab, the answers to the first questions; those to the others are appended.

    Raises:
        PluginError: the slabs ask different questions.
    """
    while True:
        questions, results = [], []
        for index, slab in enumerate(slabs):
            try:
                with within(peers(slabs, index, answers[index])):
                    result = task(slab)
                results.append(keep(index, result))
            except Question as question:
                questions.append(question.with_traceback(None))
        if not questions:
            return results
        if results or len({type(question) for question in questions}) > 1:
            raise PluginError("the slabs of a volume do not ask the same", where="slabs")
        for mine, answer in zip(answers, questions[0].answers(questions), strict=True):
            mine.append(answer)
