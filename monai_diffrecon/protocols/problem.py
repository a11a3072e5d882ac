# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""One inverse problem, in network units."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from monai_diffrecon.protocols.operator import Operator


@dataclass(frozen=True)
class Problem:
    """The measurement equation ``y = A x + noise`` that a run solves.

    Attributes:
        operator: the forward operator A.
        measurement: y, scaled so that x is in network units.
        noise_std: standard deviation of the noise on each entry of y (each real component), in the units of
            ``measurement``; 0 for noiseless data.
    """

    operator: Operator
    measurement: Tensor
    noise_std: float = 0.0
