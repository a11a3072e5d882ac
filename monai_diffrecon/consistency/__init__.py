# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Data consistency steps."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.consistency.admm import ADMMStep
    from monai_diffrecon.consistency.admm_iterate import ADMMIterateStep
    from monai_diffrecon.consistency.conjugate_gradient import ConjugateGradientStep
    from monai_diffrecon.consistency.conservative import ConservativeStep
    from monai_diffrecon.consistency.dps import DPSStep
    from monai_diffrecon.consistency.none import NoConsistency
else:
    __getattr__ = lazy(__name__)
