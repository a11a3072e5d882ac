# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How close a reconstruction is to its reference.

Protocol, the same for every method and number in this package:

* Intensities are compared in physical units as they are: no rescaling, clipping, masking or registration.
* The data range of PSNR and SSIM is the maximum minus the minimum of the *reference volume*, one number for
  all its slices, unless the caller gives one (the width of a CT window for instance).
* ``psnr``, ``nmse`` and ``mae`` are over all voxels of the volume.
* ``psnr_<plane>`` and ``ssim_<plane>`` are means over the slices of a plane. Slices whose reference is empty
  (spans at most 1 % of the data range) are left out, since an empty slice is easy and would flatter all.
* SSIM is that of Wang et al. 2004 (Gaussian window of 1.5 voxels).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_diffrecon.comparison import image_metrics
from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.planes import check_plane, to_slices
from monai_diffrecon.protocols import PLANE_AXIS


def default_data_range(reference: Tensor) -> float:
    """Return the maximum minus the minimum of the reference.

    Raises:
        InputError: the reference is constant.
    """
    low, high = reference.aminmax()
    span = float(high) - float(low)
    if not span > 0:
        raise InputError(
            "a constant reference has no data range", where="reference", mend="give another reference or a data_range"
        )
    return span


def psnr(x: Tensor, reference: Tensor, data_range: float | None = None) -> float:
    """Return the peak signal-to-noise ratio over the volume, in dB."""
    span = _check(x, reference, data_range)
    return image_metrics.psnr(x, reference, span)


def ssim(x: Tensor, reference: Tensor, plane: str, data_range: float | None = None) -> float:
    """Return the mean structural similarity of a plane's slices that are not empty.

    Args:
        x: volume (1, X, Y, Z).
        reference: volume of the same shape and unit.
        plane: ``sagittal``, ``coronal`` or ``axial``.
        data_range: see the protocol above.

    Returns:
        NaN when all slices are empty, or smaller than SSIM's window of 11 voxels.

    Raises:
        InputError: other shapes, voxels that are not finite, or no data range.
    """
    check_plane(plane)
    return _plane_metrics(x, reference, _check(x, reference, data_range), plane)[f"ssim_{plane}"]


def volume_metrics(x: Tensor, reference: Tensor, data_range: float | None = None) -> dict[str, float]:
    """Return all metrics of a volume by the protocol of this module.

    Args:
        x: volume (1, X, Y, Z), real.
        reference: volume of the same shape and unit.
        data_range: peak-to-peak intensity for PSNR and SSIM; None takes the reference's.

    Returns:
        ``psnr`` (dB), ``nmse``, ``mae`` (intensity unit), ``psnr_<plane>`` (dB) and ``ssim_<plane>``; a
        mean over slices is NaN when there are none to take it over.

    Raises:
        InputError: other shapes, voxels that are not finite, or no data range.
    """
    span = _check(x, reference, data_range)
    metrics = {
        "psnr": image_metrics.psnr(x, reference, span),
        "nmse": image_metrics.nmse(x, reference),
        "mae": image_metrics.mae(x, reference),
    }
    for plane in PLANE_AXIS:
        metrics |= _plane_metrics(x, reference, span, plane)
    return metrics


def _plane_metrics(x: Tensor, reference: Tensor, span: float, plane: str) -> dict[str, float]:
    axis = PLANE_AXIS[plane] + 1
    kept = image_metrics.filled_slices(reference, span, plane).nonzero()[:, 0]
    x, reference = x.index_select(axis, kept), reference.index_select(axis, kept)
    metrics = {f"psnr_{plane}": math.nan, f"ssim_{plane}": math.nan}
    if len(kept):
        metrics[f"psnr_{plane}"] = float(image_metrics.slice_psnr(x, reference, span, plane).mean())
        if min(to_slices(x, plane).shape[2:]) >= image_metrics.SSIM_WINDOW:
            metrics[f"ssim_{plane}"] = float(image_metrics.slice_ssim(x, reference, span, plane).mean())
    return metrics


def _check(x: Tensor, reference: Tensor, data_range: float | None) -> float:
    """Return the data range, after checking both volumes."""
    if x.ndim != 4 or x.shape[0] != 1 or x.shape != reference.shape:
        raise InputError(
            "volumes that cannot be compared",
            where="metrics",
            expected="two volumes (1, X, Y, Z)",
            got=f"{tuple(x.shape)} and {tuple(reference.shape)}",
            mend="resample one to the grid of the other",
        )
    for name, volume in (("reconstruction", x), ("reference", reference)):
        if volume.is_complex():
            raise InputError("complex volumes cannot be compared", where=name, mend="take the magnitude")
        if not bool(torch.isfinite(volume).all()):
            raise InputError("voxels that are not finite", where=name)
    span = default_data_range(reference) if data_range is None else float(data_range)
    if not (math.isfinite(span) and span > 0):
        raise InputError("no data range", where="data_range", expected="a finite number above 0", got=span)
    return span
