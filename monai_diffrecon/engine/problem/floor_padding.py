# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Padding of CT images, reconstructed as the floor of the network's window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.numerics.padding import AIR, padding_mask
from monai_diffrecon.protocols import Measurement, Padding

_NAMED = 3  # values of padding in a notice


def without_padding_of(measured: Measurement, intensity: Mapping[str, Any]) -> Measurement:
    """Return a CT image with its padding replaced by the floor; any other image unchanged.

    Args:
        measured: what a reader returned, or this function.
        intensity: intensity map of the network. The floor is the low end of its window, or air if that is lower.
    """
    window = intensity["map"] == "window"
    x, said = measured.data, measured.padding
    image = measured.operator is None and x.ndim == 4 and not x.is_complex()
    if not image or not (measured.unit == "HU" or (window and measured.unit == "arbitrary")):
        return measured
    floor = min(AIR, float(intensity["low"])) if window else AIR
    if said is not None and said.values.shape != x.shape[1:]:  # resampled since
        return measured
    mask = padding_mask(x[0], floor)
    if said is None and not bool(mask.any()):
        return measured
    values = torch.full(x.shape[1:], torch.nan) if said is None else said.values
    mask |= ~values.isnan()
    found = mask & (x[0] != floor)
    if not bool(found.any()):
        return measured
    affine = tuple(tuple(float(v) for v in row) for row in affine_of(measured.geometry))
    some = torch.unique(x[0][found]).tolist()
    named = ", ".join(f"{v:g}" for v in some[:_NAMED]) + (", ..." if len(some) > _NAMED else "")
    notice = (
        f"{int(found.sum())} voxels of padding ({named} HU) are reconstructed as {floor:g} HU and restored afterwards"
    )
    return replace(
        measured,
        data=torch.where(mask, floor, x),
        padding=Padding(torch.where(found, x[0].float(), values), affine, floor),
        notices=(*measured.notices, notice),
    )
