# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What samplers are made of, for the authors of samplers: built-in ones use it as a third party's do."""

from monai_diffrecon.protocols import ClassicalSampler
from monai_diffrecon.sampling.corrected_estimate import corrected_estimate, fresh
from monai_diffrecon.sampling.ladder_sampler import LadderSampler

__all__ = ["ClassicalSampler", "LadderSampler", "corrected_estimate", "fresh"]
