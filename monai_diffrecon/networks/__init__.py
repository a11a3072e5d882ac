# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Score networks."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet
    from monai_diffrecon.networks.by_noise_level import ByNoiseLevel
    from monai_diffrecon.networks.preconditioned_unet import PreconditionedUNet
else:
    __getattr__ = lazy(__name__)
