# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Visual information fidelity, by torchmetrics."""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch
from torch import Tensor

from monai_diffrecon.comparison.image_metrics import filled_slices
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.planes import to_slices
from monai_diffrecon.protocols import PLANE_AXIS

#: Smallest slice for which the four scales of the metric can be computed.
LEAST_SLICE = 41
_BATCH = 8


def check_available(where: str = "vif") -> None:
    """Refuse the metric when torchmetrics is not installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("torchmetrics") is None:
        raise ConfigError(
            "needs torchmetrics, which is not installed", where=where, mend="pip install 'monai-diffrecon[evaluation]'"
        )


def visual_information(x: Tensor, reference: Tensor, data_range: float) -> float:
    """Return the visual information fidelity in the pixel domain (Sheikh and Bovik 2006, IEEE TIP 15(2)).

    Intensities are mapped so that the reference's minimum is 0 and the data range 255, for which the metric's noise
    variance of 2 is meant. The mean is over the slices of the three planes that are not empty.

    Args:
        x: volume (1, X, Y, Z).
        reference: volume of the same shape.
        data_range: peak-to-peak intensity.

    Returns:
        NaN when slices are smaller than 41 x 41 voxels.

    Raises:
        ConfigError: torchmetrics is not installed.
    """
    check_available()
    from torchmetrics.functional.image import visual_information_fidelity

    low, means = float(reference.min()), []
    for plane in PLANE_AXIS:
        kept = filled_slices(reference, data_range, plane)
        a, b = ((to_slices(v, plane)[kept].float() - low) * (255.0 / data_range) for v in (x, reference))
        if not len(a) or min(a.shape[2:]) < LEAST_SLICE:
            return math.nan
        values = [
            float(visual_information_fidelity(p, q)) * len(p)
            for p, q in zip(torch.split(a, _BATCH), torch.split(b, _BATCH), strict=True)
        ]
        means.append(sum(values) / len(a))
    return sum(means) / len(means)
