# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Several samples of one posterior: their names, the plugins that can draw them, and their measured part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient
from monai_diffrecon.protocols import NoiseSource, Operator, Sampler

#: Conjugate gradients of the split: most iterations, and the part of the residual that is left.
SPLIT_ITERATIONS, SPLIT_TOLERANCE = 50, 1e-4


def seen_part(operator: Operator, d: Tensor) -> Tensor:
    """Return ``A^+ A d``: the part of a volume (C, X, Y, Z) that the operator sees.

    By conjugate gradients on the normal equations from 0. For an ill-posed operator (CT) these iterations recover the
    well-determined part; weakly determined components count as not seen.
    """
    zero = torch.zeros_like(d)
    return conjugate_gradient(
        operator.normal, operator.normal(d), zero, iterations=SPLIT_ITERATIONS, tolerance=SPLIT_TOLERANCE
    )


def sample_case(case: str, index: int) -> str:
    """Return the case in the noise's key of a sample: that of the run itself for the first."""
    return case if index == 0 else f"{case}#sample{index}"


def check_can_sample(sampler: Sampler, noise: NoiseSource, specs: dict[str, Any], count: int) -> None:
    """Refuse several samples from a deterministic method.

    Args:
        sampler: the sampler.
        noise: the noise source.
        specs: their specs, for the message.
        count: number of samples.

    Raises:
        ConfigError: the sampler draws no noise, or the source has one sequence only.
    """
    if count == 1:
        return
    if not (sampler.calls_network and sampler.stochastic):
        raise ConfigError(
            f"several samples of {specs['sampler']['name']}, which always gives the same volume",
            where="inferer#num_samples",
            expected="1",
            got=count,
            mend="use a sampler that draws noise, such as heun or ddim",
        )
    if not noise.resumable:
        raise ConfigError(
            f"several samples with the noise source {specs['noise']['name']}, which has one sequence only",
            where="inferer#num_samples",
            expected="1",
            got=count,
            mend="use the noise source independent",
        )
