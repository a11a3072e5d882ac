# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Mean and spread of samples drawn one by one, with a state that can be saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.engine.posterior.posterior_samples import seen_part
from monai_diffrecon.engine.posterior.running_moments import RunningMoments
from monai_diffrecon.engine.run_report import PosteriorSpread
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import Operator

_MOMENTS = ("whole", "measured", "null")


class SampleAccumulator:
    """Takes samples in order and keeps running sums only, unless ``keep``, so memory does not grow with them.

    Differences from the first sample are summed: they deviate from their mean as the samples do, and are exact where
    all samples agree.

    Args:
        operator: the forward operator, for the split of the deviations.
        keep: keep every sample.

    Attributes:
        count: samples taken so far.
    """

    def __init__(self, operator: Operator, *, keep: bool = False) -> None:
        self.operator, self.keep = operator, keep
        self.count = 0
        self._first: Tensor | None = None
        self._moments = {name: RunningMoments() for name in _MOMENTS}
        self._samples: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """Take the next sample (C, X, Y, Z).

        Raises:
            ConfigError: the second sample equals the first.
        """
        if self._first is None:
            self._first = x
        else:
            if self.count == 1:
                if torch.equal(x, self._first):
                    raise ConfigError(
                        "sampler and noise source give the same sample twice",
                        where="inferer#num_samples",
                        expected="1",
                        mend="use a sampler that draws noise, such as heun or ddim, and the noise source independent",
                    )
                for moments in self._moments.values():
                    moments.add(torch.zeros_like(x))
            difference = x - self._first
            seen = seen_part(self.operator, difference)
            for name, part in zip(_MOMENTS, (difference, seen, difference - seen), strict=True):
                self._moments[name].add(part)
        self._samples += [x] if self.keep else []
        self.count += 1

    def result(self) -> tuple[Tensor, PosteriorSpread | None]:
        """Return the mean (C, X, Y, Z) and the spread, None for one sample."""
        if self._first is None:
            raise ValueError("no sample yet")
        mean = self._moments["whole"].mean
        if mean is None:
            return self._first, None
        std, measured, null = (self._moments[name].std() for name in _MOMENTS)
        return self._first + mean, PosteriorSpread(self.count, std, measured, null, tuple(self._samples))

    def state_dict(self) -> dict[str, Any]:
        """Return the state as numbers and tensors."""
        return {
            "count": self.count,
            "first": {} if self._first is None else {"x": self._first},
            "moments": {name: moments.state_dict() for name, moments in self._moments.items()},
            "samples": {str(index): x for index, x in enumerate(self._samples)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the accumulator from ``state``."""
        self.count = int(state["count"])
        self._first = state["first"].get("x")
        for name, moments in self._moments.items():
            moments.load_state_dict(state["moments"][name])
        self._samples = [state["samples"][str(index)] for index in range(len(state["samples"]))]
