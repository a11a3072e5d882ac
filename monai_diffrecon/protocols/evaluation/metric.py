# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of a metric that compares a reconstruction with its ground truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from monai_diffrecon.protocols.geometry import VolumeGeometry
from monai_diffrecon.protocols.plugin import Plugin


class Metric(Plugin, ABC):
    """One number per case, computed if the ground truth is known. The constructor needs no option.

    Attributes:
        name: its name in tables, records and MLflow: letters, digits and ``_``.
        title: its name for readers; the name if it is empty.
        unit: its unit, or nothing.
        higher_is_better: False for an error.
        digits: digits behind the point in reports.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    digits: ClassVar[int] = 3

    @abstractmethod
    def __call__(
        self,
        volume: Tensor,
        reference: Tensor,
        *,
        geometry: VolumeGeometry,
        data_range: float,
        mask: Tensor | None = None,
    ) -> float:
        """Return the number; NaN where it is not defined.

        Args:
            volume: the reconstruction (1, X, Y, Z), real, finite, in physical units.
            reference: the truth, of the same shape and unit.
            geometry: where both lie.
            data_range: peak-to-peak intensity of the truth.
            mask: (1, X, Y, Z), bool, the region of interest; None for the whole volume.
        """
