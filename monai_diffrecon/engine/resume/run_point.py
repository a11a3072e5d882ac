# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""State of a run, as stored in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from monai_diffrecon.engine.run_report import RunTotals
from monai_diffrecon.protocols import SamplerState

#: Fields of the sampler state that persist between steps.
_STATE = ("x", "sigma", "step", "seed", "case", "memory")


@dataclass
class RunPoint:
    """A run between two steps.

    Attributes:
        state: of the sampler, after ``state.step`` steps of the sample under way.
        sample: index of that sample.
        samples: state of the accumulator of the previous samples.
        totals: accumulated cost so far, including this sample.
        steps: metrics of this sample's steps so far.
        seconds: wall time so far.
        batch_sizes: plane -> current number of slices per network call.
        circumstances: what may change the last bits of a voxel only: threads, device, processor.
        fallbacks: fallbacks used so far.
        runs: ids of the MLflow runs that tracked it, the latest last.
        resumed: number of times the run was resumed from a checkpoint.
        prepared: what was found before the first step, such as the choice of an option that is tuned.
    """

    state: SamplerState
    sample: int = 0
    samples: dict[str, Any] = field(default_factory=dict)
    totals: RunTotals = field(default_factory=RunTotals)
    steps: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    batch_sizes: dict[str, int] = field(default_factory=dict)
    circumstances: dict[str, Any] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    resumed: int = 0
    prepared: dict[str, Any] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as nested dicts of tensors and plain values."""
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("state", "totals")}
        state = {name: getattr(self.state, name) for name in _STATE}
        return {**rest, "state": state, "totals": asdict(self.totals)}

    @classmethod
    def from_state_dict(cls, saved: Mapping[str, Any]) -> RunPoint:
        """Return the point stored by ``state_dict``."""
        rest = {name: value for name, value in saved.items() if name not in ("state", "totals")}
        totals = dict(saved["totals"])
        totals["ladder"] = tuple(totals["ladder"])
        return cls(state=SamplerState(**saved["state"]), totals=RunTotals(**totals), **rest)
