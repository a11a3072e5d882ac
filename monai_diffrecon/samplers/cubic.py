# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Interpolation of thick slices."""

from __future__ import annotations

from monai_diffrecon.samplers.initial import InitialEstimate


class CubicInterpolation(InitialEstimate):
    """The operator's interpolation, for operators whose measurement is an image, such as ``slice_thickness``."""

    def __init__(self) -> None:
        super().__init__("interpolation")
