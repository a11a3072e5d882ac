# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""All numbers that compare one reconstruction with its truth; the protocol is ``docs/evaluation_protocol.md``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.comparison.axis_detail import high_frequency_ratio, jump_ratio, thick_slice_borders
from monai_diffrecon.comparison.image_metrics import masked_mae, masked_nmse, masked_psnr, masked_ssim
from monai_diffrecon.comparison.third_party_metrics import compute_third_party
from monai_diffrecon.comparison.visual_information import visual_information
from monai_diffrecon.comparison.volume_metrics import default_data_range, volume_metrics
from monai_diffrecon.errors import InputError
from monai_diffrecon.protocols import PLANE_AXIS, VolumeGeometry


def case_metrics(
    x: Tensor,
    reference: Tensor,
    geometry: VolumeGeometry,
    *,
    operator: Mapping[str, Any] | None = None,
    mask: Tensor | None = None,
    data_range: float | None = None,
    vif: bool = False,
    known: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return the metrics of a reconstruction.

    Args:
        x: volume (1, X, Y, Z), real.
        reference: the truth, of the same shape and unit.
        geometry: their common geometry.
        operator: spec of the operator; for thick slices it gives their borders and axis.
        mask: (1, X, Y, Z), true within the region of interest.
        data_range: peak-to-peak intensity; None takes the reference's.
        vif: compute the visual information fidelity as well (needs torchmetrics).
        known: result of ``volume_metrics`` with the same data range, to avoid computing it again.

    Returns:
        Those of :func:`~monai_diffrecon.comparison.volume_metrics.volume_metrics`; ``ssim`` (mean of the planes);
        ``high_frequency_ratio`` and ``jump_ratio`` along the slices; ``<metric>_mask``; ``vif``. NaN where undefined.
        Those of installed packages, where finite.

    Raises:
        InputError: volumes that cannot be compared, or a mask of another shape or without a voxel.
        ConfigError: ``vif`` without torchmetrics.
    """
    metrics = dict(volume_metrics(x, reference, data_range) if known is None else known)
    span = default_data_range(reference) if data_range is None else float(data_range)
    metrics["ssim"] = sum(metrics[f"ssim_{plane}"] for plane in PLANE_AXIS) / len(PLANE_AXIS)
    metrics |= _along_slices(x, reference, geometry, operator or {})
    if vif:
        metrics["vif"] = visual_information(x, reference, span)
    inside = None if mask is None else check_mask(mask, reference)
    if inside is not None:
        metrics |= _within(x, reference, inside, span)
    return metrics | compute_third_party(x, reference, geometry, data_range=span, mask=inside)


def check_mask(mask: Tensor, reference: Tensor) -> Tensor:
    """Return a mask as bool.

    Raises:
        InputError: another shape than the reference's, or no voxel in it.
    """
    inside = mask.as_subclass(Tensor) != 0
    if inside.shape != reference.shape:
        raise InputError(
            "a mask on another grid",
            where="mask",
            expected=tuple(reference.shape),
            got=tuple(inside.shape),
            mend="resample it to the grid of the reference",
        )
    if not bool(inside.any()):
        raise InputError("an empty mask", where="mask", mend="leave it out")
    return inside


def _along_slices(
    x: Tensor, reference: Tensor, geometry: VolumeGeometry, operator: Mapping[str, Any]
) -> dict[str, float]:
    axis, cutoff, borders = PLANE_AXIS["axial"], 0.25, None
    if operator.get("name") == "slice_thickness" and operator.get("thickness"):
        axis = PLANE_AXIS[operator.get("plane") or "axial"]
        thickness, gap = float(operator["thickness"]), float(operator.get("gap", 0.0))
        spacing = geometry.spacing[axis]
        borders = thick_slice_borders(geometry.shape[axis], spacing, thickness, gap)
        cutoff = min(cutoff, 0.5 * spacing / (thickness + gap))  # the thick slices' Nyquist frequency
    return {
        "high_frequency_ratio": high_frequency_ratio(x, reference, axis + 1, cutoff),
        "jump_ratio": jump_ratio(x, reference, axis + 1, borders),
    }


def _within(x: Tensor, reference: Tensor, mask: Tensor, span: float) -> dict[str, float]:
    metrics = {
        "psnr_mask": masked_psnr(x, reference, mask, span),
        "nmse_mask": masked_nmse(x, reference, mask),
        "mae_mask": masked_mae(x, reference, mask),
    }
    for plane in PLANE_AXIS:
        metrics[f"ssim_{plane}_mask"] = masked_ssim(x, reference, mask, span, plane)
    return metrics


def foreground(reference: Tensor) -> Tensor:
    """Return the mask of the body: where a reference exceeds its minimum by more than 1 % of its range."""
    low = float(reference.min())
    return (reference - low).as_subclass(Tensor) > 0.01 * default_data_range(reference)


def finite_or_none(value: float | None) -> float | None:
    """Return a number in a form that JSON supports."""
    return None if value is None or not math.isfinite(value) else float(value)


def magnitude(volume: Tensor) -> Tensor:
    """Return a volume, or the magnitude of a complex one."""
    plain = torch.as_tensor(volume).as_subclass(Tensor)
    return plain.abs() if plain.is_complex() else plain
