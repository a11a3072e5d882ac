# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The slices of one plane."""

from __future__ import annotations

from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import SamplerState, ScorePrior


class SlicesPrior(ScorePrior):
    """Every slice of one plane is denoised independently (DiffusionMBIR, arXiv 2211.10655; DDS, arXiv 2303.05754).

    The slices are independent: couple them by the data consistency step (``z_tv``) or by a second plane.
    """

    in_slabs = True
    min_planes = 1
    max_planes = 1

    def denoise(self, x: Tensor, sigma: float, state: SamplerState) -> Tensor:
        """Return the clean estimate of the volume ``x`` (C, X, Y, Z) at noise level ``sigma``."""
        if not self.planes:
            raise ConfigError("used before bind(planes)", where="prior slices")
        return self.planes[0](x, sigma)

    def planes_at(self, step: int) -> tuple[int, ...]:
        """Return the indices of the planes whose networks are called at this step."""
        return (0,)
