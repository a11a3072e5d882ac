# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Thick slices as weighted means of thin ones, and their cubic interpolation."""

from __future__ import annotations

import math

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import ndtr

#: FWHM of a Gaussian in units of its standard deviation.
_FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))


def slice_count(extent: float, thickness: float, gap: float) -> int:
    """Return how many whole slices of ``thickness`` mm, ``gap`` mm apart, fit into ``extent`` mm."""
    return max(math.floor((extent - thickness) / (thickness + gap) + 1.0 + 1e-6), 0)


def slice_weights(fine: int, spacing: float, count: int, thickness: float, gap: float, profile: str) -> np.ndarray:
    """Return the matrix (count, fine) of a slice-selection profile; each row sums to 1.

    Slice m is centred at ``m (thickness + gap) + thickness / 2`` mm from the edge of the first voxel. A boxcar
    weighs a voxel by its exact overlap; a Gaussian of FWHM ``thickness`` by its integral over the voxel.
    """
    edges = np.arange(fine + 1) * spacing
    centre = np.arange(count)[:, None] * (thickness + gap) + thickness / 2
    if profile == "boxcar":
        cumulative = np.clip(edges[None] - (centre - thickness / 2), 0.0, thickness)
    else:
        cumulative = ndtr((edges[None] - centre) * _FWHM / thickness)
    weights = np.diff(cumulative, axis=1)
    return weights / weights.sum(axis=1, keepdims=True)


def cubic_interpolation(fine: int, spacing: float, count: int, thickness: float, gap: float) -> np.ndarray:
    """Return the matrix (fine, count) of cubic-spline interpolation at the thin slices' centres.

    Beyond the centres of the first and last thick slice the nearest value is held.
    """
    at = (np.arange(fine) + 0.5) * spacing
    knots = np.arange(count) * (thickness + gap) + thickness / 2
    if count == 1:
        return np.ones((fine, 1))
    at = np.clip(at, knots[0], knots[-1])
    return CubicSpline(knots, np.eye(count), bc_type="not-a-knot" if count > 3 else "natural")(at)


def profile_samples(thickness: float, voxel: float, profile: str) -> tuple[np.ndarray, np.ndarray]:
    """Return points (mm from the centre) of a slice-selection profile at most ``voxel`` mm apart, and their weights.

    A Gaussian of FWHM ``thickness`` is cut at 1.5 of it from the centre. The weights sum to 1.
    """
    extent = thickness * (1.0 if profile == "boxcar" else 3.0)
    count = max(math.ceil(extent / voxel - 1e-6), 1)
    edges = (np.arange(count + 1) / count - 0.5) * extent
    weights = np.diff(edges if profile == "boxcar" else ndtr(edges * _FWHM / thickness))
    return (edges[1:] + edges[:-1]) / 2, weights / weights.sum()
