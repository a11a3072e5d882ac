# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The operator's own classical estimate."""

from __future__ import annotations

from torch import Tensor

from monai_diffrecon.samplers.classical import ClassicalSampler


class InitialEstimate(ClassicalSampler):
    """Filtered back-projection, zero filling or interpolation: what the operator calls its initial estimate."""

    def estimate(self, measurement: Tensor) -> Tensor:
        """Return the volume (C, X, Y, Z) of a measurement."""
        return self.problem.operator.initial(measurement)
