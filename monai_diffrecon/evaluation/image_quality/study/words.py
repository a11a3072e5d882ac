# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Units and directions of quantities, for readers."""

from __future__ import annotations

from monai_diffrecon.evaluation.image_quality.phantoms.phantom import INTENSITIES
from monai_diffrecon.protocols import Quantity


def unit_for(modality: str) -> str:
    """Return the unit of intensities; nothing where they have none."""
    unit = INTENSITIES[modality][2]
    return "" if unit == "arbitrary" else unit


def unit_of(quantity: Quantity, unit: str) -> str:
    """Return the unit of a quantity, with that of intensities in its place.

    Args:
        quantity: the quantity.
        unit: of intensities.
    """
    return quantity.unit.replace("intensity", unit or "intensity")


def better_of(quantity: Quantity) -> str:
    """Return ``higher``, ``lower``, ``nearer to 1``, or nothing where no value is better."""
    if isinstance(quantity.better, float):
        return f"nearer to {quantity.better:g}"
    return quantity.better or ""
