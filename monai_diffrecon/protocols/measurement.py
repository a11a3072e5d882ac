# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Measured or simulated data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from monai_diffrecon.protocols.geometry import Padding, VolumeGeometry


@dataclass(frozen=True)
class Measurement:
    """A measurement y with everything needed to reconstruct from it.

    Attributes:
        data: y, float32 or complex64, without a batch axis. A measured image is (1, X, Y, Z) in RAS+ order.
        geometry: the volume to reconstruct; of a measured image without an operator, the image itself.
        operator: spec ``{"name": ..., **options}`` of the operator that measured it; options are JSON values, or
            tensors (a mask, coil maps, a trajectory). None for an image whose operator the config names.
        noise_std: standard deviation of the noise on each entry (each real component), in the units of ``data``; 0 when
            unknown or noiseless. With weights, that of an entry of weight 1.
        weights: inverse variances relative to ``noise_std**-2``, real, of the shape of ``data``; 0 for an entry to
            ignore. None for equal weights.
        unit: unit of the volume's intensity: ``HU``, ``1/mm`` (linear attenuation) or ``arbitrary``.
        source_sha256: hash of the file or volume it came from, or None.
        header: DICOM attributes of the source that a derived series may repeat, keyword -> text; none of them says
            who or when. None when the source is no DICOM.
        notices: what whoever uses the result should know of the scan, a sentence each, without anything that names a
            patient or a file. Each is logged before the run, and stands in the record and in MLflow.
        padding: the voxels of a CT image that hold no measurement, if its file says so; None when it does not.
        simulated: the operator itself made the data within this run, so that no scanner's phase is in them; not kept in
            files.
    """

    data: Tensor
    geometry: VolumeGeometry
    operator: dict[str, Any] | None = None
    noise_std: float = 0.0
    weights: Tensor | None = None
    unit: str = "arbitrary"
    source_sha256: str | None = None
    header: dict[str, str] | None = None
    notices: tuple[str, ...] = ()
    padding: Padding | None = None
    simulated: bool = False
