# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of a metric of image quality, which is measured in reconstructions of phantoms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from monai_diffrecon.protocols.geometry import VolumeGeometry
from monai_diffrecon.protocols.operator import Operator
from monai_diffrecon.protocols.plugin import Plugin


@dataclass(frozen=True)
class Site:
    """A place in a phantom where something is measured.

    Attributes:
        kind: what is there: ``lesion``, ``disc``, ``rod``, ``wire``, ``bars``, ``uniform``.
        centre: world coordinates (mm).
        radius: of what is there, or of the region that is uniform (mm).
        half_length: along ``axis`` (mm).
        contrast: intensity above the surroundings, in the unit of the volume.
        axis: the world axis (0, 1, 2) along which it does not change, within ``half_length``; None for a lesion.
        frequency: of bars, in line pairs per mm.
        name: what kind of lesion, for readers.
    """

    kind: str
    centre: tuple[float, float, float]
    radius: float
    half_length: float
    contrast: float = 0.0
    axis: int | None = None
    frequency: float = 0.0
    name: str = ""


@dataclass(frozen=True)
class PhantomScan:
    """One reconstruction of a phantom.

    Attributes:
        phantom: name of the phantom.
        realization: number of the noise realization.
        volume: the reconstruction (1, X, Y, Z), real, finite, in physical units.
        truth: the phantom, of the same shape and unit.
        geometry: where both lie; its affine is diagonal.
        sites: where something is measured.
        without: the phantom without the signals at the sites (1, X, Y, Z), or None if there are no signals.
        present: the signals are present; otherwise ``truth`` is ``without``.
        operator: the forward operator, or None if it is unknown.
    """

    phantom: str
    realization: int
    volume: Tensor
    truth: Tensor
    geometry: VolumeGeometry
    sites: tuple[Site, ...]
    without: Tensor | None = None
    present: bool = True
    operator: Operator | None = None


@dataclass(frozen=True)
class Finding:
    """One number, with the interval that its uncertainty allows.

    Attributes:
        key: its name in tables: letters, digits and ``_``.
        value: the number; NaN where it is not defined.
        low: lower end of the 95 % interval; NaN without one.
        high: upper end.
        setting: what it was measured at, for example ``{"diameter": 4.0, "contrast": 40.0}``.
        n: how many independent measurements it is from.
    """

    key: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    setting: dict[str, Any] = field(default_factory=dict)
    n: int = 1


@dataclass(frozen=True)
class Curve:
    """A curve of one method.

    Attributes:
        key: name of the diagram that the curves of all methods share.
        x: ascending.
        y: of the same length.
        setting: as of a finding.
    """

    key: str
    x: np.ndarray
    y: np.ndarray
    setting: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """An image of one method.

    Attributes:
        key: name of the row that the pictures of all methods share, on one grey scale.
        image: (H, W), as it is displayed: rows from the top.
        reference: what it should look like, or None.
        signed: zero is the middle of the scale.
        columns: captions of its parts, from left to right.
    """

    key: str
    image: np.ndarray
    reference: np.ndarray | None = None
    signed: bool = False
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class QualityResult:
    """What a metric found of one method.

    Attributes:
        findings: numbers.
        curves: curves.
        pictures: images.
        warnings: what a reader must know, a sentence each.
    """

    findings: tuple[Finding, ...] = ()
    curves: tuple[Curve, ...] = ()
    pictures: tuple[Picture, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quantity:
    """What a key of findings, curves or pictures means.

    Attributes:
        title: for readers.
        unit: of the value, or of the y axis; nothing for none.
        better: ``higher``, ``lower``, a number that is best, or None where there is no better.
        digits: digits behind the point.
        axis: label of the x axis of a curve.
    """

    title: str
    unit: str = ""
    better: str | float | None = None
    digits: int = 2
    axis: str = ""


class PhantomMetric(Plugin, ABC):
    """Numbers, curves and pictures of one method, from its reconstructions of phantoms.

    Attributes:
        name: its name in tables: letters, digits and ``_``.
        question: the section of the report: ``contrast``, ``resolution``, ``noise`` or ``invented``.
        kinds: kinds of sites that it measures; it gets the scans of the phantoms that have one.
        quantities: key -> what it means, for each key that the result has.
        method: one paragraph on how it is measured, with its source.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    quantities: ClassVar[dict[str, Quantity]]
    method: ClassVar[str]

    @abstractmethod
    def __call__(self, scans: Sequence[PhantomScan]) -> QualityResult:
        """Measure.

        Args:
            scans: reconstructions by one method, of all phantoms and realizations that have a site of ``kinds``.
        """
