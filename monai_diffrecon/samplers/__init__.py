# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Samplers, and the classical methods that serve as their starts and baselines."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.samplers.admm_tv import ADMMTV
    from monai_diffrecon.samplers.annealed import AnnealedSampler
    from monai_diffrecon.samplers.cg_sense import CGSense
    from monai_diffrecon.samplers.cubic import CubicInterpolation
    from monai_diffrecon.samplers.ddim import DDIMSampler
    from monai_diffrecon.samplers.heun import HeunSampler
    from monai_diffrecon.samplers.initial import InitialEstimate
    from monai_diffrecon.samplers.predictor_corrector import PredictorCorrectorSampler
    from monai_diffrecon.samplers.sirt import SIRT
else:
    __getattr__ = lazy(__name__)
