# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Noise level of k-space for which no noise was scanned."""

from __future__ import annotations

from statistics import median

from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.kspace_noise import estimate_noise_std


def estimated_noise_std(kspace: Tensor, volumetric: bool) -> float:
    """Return the median over the coils of the level in the outer k-space, or 0 where too little was measured.

    Args:
        kspace: complex (coils, readout, phase, slice or partition).
        volumetric: the third axis is Fourier-encoded, too.
    """
    for axes in ((-3, -2, -1) if volumetric else (-3, -2), (-3,)):
        try:
            return median(estimate_noise_std(coil[None], axes) for coil in kspace)
        except InputError:
            continue
    return 0.0
