# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The complete state of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class SamplerState:
    """Content of a checkpoint; nothing else determines the rest of the run.

    Attributes:
        x: the volume iterate, (C, X, Y, Z), in network units.
        sigma: noise level of ``x`` (variance-exploding: ``x = x0 + sigma n``), in network units.
        step: number of completed steps.
        seed: seed of the noise source.
        case: name of the case, part of the noise key.
        memory: variables that a plugin keeps over the steps, by the plugin's ``memory_key``.
        plane: plane of the network called in this step, when a sampler says it; not part of a checkpoint.
    """

    x: Tensor
    sigma: float
    step: int = 0
    seed: int = 0
    case: str = ""
    memory: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    plane: str = ""
