# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of a consistency step."""

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar

from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols.noise_source import NoiseSource
from monai_diffrecon.protocols.operator import Problem
from monai_diffrecon.protocols.plugin import Plugin
from monai_diffrecon.protocols.sampler_state import SamplerState


class ConsistencyStep(Plugin, ABC):
    """Enforces data consistency. Override the hooks needed; the others do nothing.

    Variables that persist over the steps belong in ``state.memory[self.memory_key]``.
    """

    memory_key: str = "consistency"
    #: Whether the hooks read ``state.x``. Where not, a sampler may give a state without it (a tensor on the device
    #: ``meta``), which spares a volume. True again for a subclass with hooks of its own that does not say it.
    reads_iterate: ClassVar[bool] = True
    _problem: Problem | None = None
    noise: NoiseSource | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a subclass that overrides a hook say anew that it does not read the iterate."""
        super().__init_subclass__(**options)
        if "reads_iterate" not in vars(cls) and {"on_estimate", "on_iterate"} & vars(cls).keys():
            cls.reads_iterate = True

    def bind(self, problem: Problem, noise: NoiseSource | None = None) -> None:
        """Take the inverse problem, and the noise source for a step that draws, before the first step."""
        self._problem, self.noise = problem, noise

    @property
    def problem(self) -> Problem:
        """The bound inverse problem.

        Raises:
            ConfigError: ``bind`` was not called.
        """
        if self._problem is None:
            raise ConfigError("used before bind(problem)", where=f"consistency {type(self).__name__}")
        return self._problem

    def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
        """Correct the clean estimate (C, X, Y, Z) (DDS, DDNM, ADMM-TV on Tweedie's estimate)."""
        return x0

    def on_iterate(self, x: Tensor, state: SamplerState) -> Tensor:
        """Correct the noisy iterate (C, X, Y, Z) (DiffusionMBIR)."""
        return x

    def guidance(self, x: Tensor, x0: Tensor, state: SamplerState) -> Tensor | None:
        """Return what to subtract from the iterate: a gradient through the denoiser (DPS, TPDM), or None."""
        return None

    def on_result(self, x: Tensor, state: SamplerState) -> Tensor:
        """Correct the result (C, X, Y, Z) after the last step."""
        return x
