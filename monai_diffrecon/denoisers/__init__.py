# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Adapters that turn a network of any parameterization into a slice denoiser."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.denoisers.ddpm import DDPMDenoiser
    from monai_diffrecon.denoisers.direct import DirectDenoiser
    from monai_diffrecon.denoisers.edm import EDMDenoiser
    from monai_diffrecon.denoisers.ve_score import VEScoreDenoiser
else:
    __getattr__ = lazy(__name__)
