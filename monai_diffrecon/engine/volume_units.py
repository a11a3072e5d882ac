# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Between the unit of a volume and what its operator acts on."""

from __future__ import annotations

from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.attenuation import MU_WATER
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.protocols import Operator

#: What an operator acts on is in the volume's own unit.
SAME = IntensityMap(scale=1.0)
#: Hounsfield units by linear attenuation in 1/mm: ``HU = 1000 (mu / mu_water - 1)``.
HU_OF_ATTENUATION = IntensityMap(scale=1000.0 / MU_WATER, offset=-1000.0)


def unit_map(operator: Operator, unit: str) -> IntensityMap:
    """Return the map from what the operator acts on to the volume's unit.

    Of a volume in HU an image (thick slices, say) is in HU as well; any other real measurement consists of line
    integrals of linear attenuation, where air is 0.

    Args:
        operator: the operator.
        unit: the volume's: ``HU``, ``1/mm`` or ``arbitrary``.

    Raises:
        InputError: HU with a complex measurement.
    """
    if unit != "HU":
        return SAME
    if operator.complex_measurement:
        raise InputError(
            "a complex measurement of a volume in HU",
            where=f"operator {type(operator).__name__}",
            expected="a CT operator, or another unit",
        )
    return SAME if measures_image(operator) else HU_OF_ATTENUATION


def check_magnitudes(volume: Tensor, where: str) -> None:
    """Refuse a volume most of which is negative, where only magnitudes have a meaning.

    Args:
        volume: real, any shape.
        where: what it came from, for messages.

    Raises:
        InputError: more than half of its energy lies below 0.
    """
    total = float(volume.square().sum())
    negative = float(volume.clamp(max=0.0).square().sum()) / total if total else 0.0
    if negative > 0.5:
        raise InputError(
            "a volume of mostly negative values",
            where=where,
            expected="magnitudes of 0 or more",
            got=f"{negative:.0%} of the energy below 0",
            mend="shift the volume before it is measured",
        )


def measures_image(operator: Operator) -> bool:
    """Say whether a measurement is an image in the unit of the volume, thick slices for instance."""
    image = (1, *operator.measured_geometry().shape)
    return not operator.complex_measurement and operator.measurement_shape == image
