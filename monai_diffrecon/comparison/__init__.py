# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A volume against the truth: metrics, calibration, and their pictures."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.comparison.builtin_metrics import MAE, NMSE, PSNR, SSIM, VIF
else:
    __getattr__ = lazy(__name__)
