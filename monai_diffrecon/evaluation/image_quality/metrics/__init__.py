# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of image quality as plugins."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.evaluation.image_quality.metrics.detectability import Detectability
    from monai_diffrecon.evaluation.image_quality.metrics.false_lesions import FalseLesions
    from monai_diffrecon.evaluation.image_quality.metrics.lesion_survival import LesionSurvival
    from monai_diffrecon.evaluation.image_quality.metrics.noise_power import NoisePowerMetric
    from monai_diffrecon.evaluation.image_quality.metrics.null_space import NullSpace
    from monai_diffrecon.evaluation.image_quality.metrics.ring_correlation import RingCorrelationMetric
    from monai_diffrecon.evaluation.image_quality.metrics.transfer import LinePairs, PointTransfer, TaskTransfer
else:
    __getattr__ = lazy(__name__)
