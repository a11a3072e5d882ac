# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Building blocks of samplers, for built-in and third-party samplers alike."""

from monai_diffrecon.protocols import ClassicalSampler
from monai_diffrecon.sampling.ladder_sampler import LadderSampler
from monai_diffrecon.sampling.step_parts import corrected_estimate, fresh

__all__ = ["ClassicalSampler", "LadderSampler", "corrected_estimate", "fresh"]
