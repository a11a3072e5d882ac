# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Samplers, and the classical methods that serve as their starts and baselines."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.samplers.classical.admm_tv import ADMMTV
    from monai_diffrecon.samplers.classical.cg_least_squares import CGLeastSquares
    from monai_diffrecon.samplers.classical.cg_least_squares import (
        CGLeastSquares as CGSense,  # former name, for one release
    )
    from monai_diffrecon.samplers.classical.initial import CubicInterpolation, InitialEstimate
    from monai_diffrecon.samplers.classical.sirt import SIRT
    from monai_diffrecon.samplers.ddim import DDIMSampler
    from monai_diffrecon.samplers.heun import HeunSampler
    from monai_diffrecon.samplers.pnp_hqs import PnPHQSSampler
    from monai_diffrecon.samplers.pnp_hqs import PnPHQSSampler as AnnealedSampler  # former name, for one release
    from monai_diffrecon.samplers.predictor_corrector import PredictorCorrectorSampler
else:
    __getattr__ = lazy(__name__)
