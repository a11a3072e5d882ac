# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The rays and the system matrix of parallel-beam CT."""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import csr_array

from monai_diffrecon.numerics.ct.joseph import Rays, ray_matrix


def bin_positions(detectors: int, detector_spacing: float, detector_offset: float = 0.0) -> np.ndarray:
    """Return the centres of the bins along the detector (mm), (D,); ``detector_offset`` moves them all."""
    return (np.arange(detectors) - (detectors - 1) / 2) * detector_spacing + detector_offset


def parallel_rays(angles: np.ndarray, detectors: int, detector_spacing: float, detector_offset: float = 0.0) -> Rays:
    """Return the rays ``x cos(theta) + y sin(theta) = s`` of views at ``angles`` (radians), each (V, D)."""
    offsets = bin_positions(detectors, detector_spacing, detector_offset)
    whole = (len(angles), detectors)
    return Rays(
        np.broadcast_to(np.cos(angles)[:, None], whole),
        np.broadcast_to(np.sin(angles)[:, None], whole),
        np.broadcast_to(offsets[None], whole),
    )


def joseph_matrix(
    shape: tuple[int, int],
    spacing: tuple[float, float],
    angles: np.ndarray,
    detectors: int,
    detector_spacing: float,
    detector_offset: float = 0.0,
) -> csr_array:
    """Return line integrals through an image by Joseph's method (1982).

    A ray of angle theta and offset s runs along ``x cos(theta) + y sin(theta) = s``; the image is centred on the
    axis of rotation, the detector too unless it has an offset.

    Args:
        shape: pixels (X, Y).
        spacing: pixel size (mm).
        angles: angles in radians, (V,).
        detectors: detector bins.
        detector_spacing: distance of the bins (mm).
        detector_offset: how far the detector's centre is from the axis' shadow (mm).

    Returns:
        Matrix (V * detectors, X * Y) in mm, float32, row-major pixels, int32 indices.
    """
    return ray_matrix(shape, spacing, parallel_rays(angles, detectors, detector_spacing, detector_offset))


def view_weights(angles: np.ndarray, period: float = np.pi) -> np.ndarray:
    """Return the angular step (radians) each view stands for in filtered back-projection, (V,).

    Angles are taken modulo ``period``: parallel beams 180 degrees apart are the same, fan beams come back after 360.
    The part a limited arc leaves out (:func:`measured_arc`) is no view's, and the views at its ends get their other
    neighbour's step.
    """
    if len(angles) == 1:
        return np.array([period])
    order, gaps, left_out = _gaps(angles, period)
    if left_out is not None:
        gaps[left_out] = (gaps[left_out - 1] + gaps[(left_out + 1) % len(gaps)]) / 2
    weights = np.empty(len(angles))
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights


def measured_arc(angles: np.ndarray, period: float) -> tuple[float, float]:
    """Return the start and the length of the arc that views cover (radians); a closed one has the length ``period``.

    Every view covers half a step on either side. A largest gap of more than three times the second largest is the
    part a limited arc leaves out. (Golden angles leave gaps of at most 2.62 times another.)
    """
    order, gaps, left_out = _gaps(angles, period)
    if left_out is None:
        return 0.0, period
    before, after = gaps[left_out - 1] / 2, gaps[(left_out + 1) % len(gaps)] / 2
    first = float(np.mod(angles, period)[order[(left_out + 1) % len(gaps)]])
    return first - after, period - float(gaps[left_out]) + before + after


def redundancy_weights(offsets: np.ndarray, radius: float) -> np.ndarray:
    """Return weights (D,) for rays that a full circle measures twice, at ``s`` and at ``-s``: each pair sums to 2.

    An offset detector that is too short on one side measures the rays beyond that side once: they count twice, and
    the weight falls smoothly to 0 at the short end (after Wang 2002, "X-ray micro-CT with a displaced detector
    array"). All weights are 1 when both sides reach ``radius`` or the sides differ by a bin at most (a quarter
    offset): then there is nothing to make up for.

    Args:
        offsets: places of a view's bins, counted from the shadow of the axis of rotation (mm), equally spaced, rising.
        radius: the outermost place at which the image is seen (mm).
    """
    if missing_bins(offsets, radius) == (0, 0):
        return np.ones(len(offsets))
    left, right = -float(offsets[0]), float(offsets[-1])
    short = min(left, right)
    towards_long = offsets if right > left else -offsets
    if short <= 0.0:
        return np.where(towards_long > 0.0, 2.0, 1.0)
    return 1.0 + np.sin(np.pi / 2 * np.clip(towards_long / short, -1.0, 1.0))


def missing_bins(offsets: np.ndarray, radius: float) -> tuple[int, int]:
    """Return the bins that the short side of an offset detector lacks, (before, after); one of them is 0.

    A filtered view is not 0 beyond the detector: where :func:`redundancy_weights` end, zeros must follow up to
    ``radius`` before the ramp filter. Both are 0 when those weights are 1, and when the image is not seen at all.
    """
    left, right = -float(offsets[0]), float(offsets[-1])
    if len(offsets) == 1 or not -radius < min(left, right) < radius:
        return 0, 0
    spacing = (right + left) / (len(offsets) - 1)
    if abs(right - left) <= spacing * (1.0 + 1e-9):
        return 0, 0
    count = math.ceil((radius - min(left, right)) / spacing) + 1
    return (count, 0) if right > left else (0, count)


def _gaps(angles: np.ndarray, period: float) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Return the order of the views, the gap after each in that order, and which gap no view stands for."""
    folded = np.mod(angles, period)
    order = np.argsort(folded, kind="stable")
    gaps = np.diff(folded[order], append=folded[order[0]] + period)
    if len(angles) < 2:
        return order, gaps, None
    second, largest = np.sort(gaps)[-2:]
    return order, gaps, int(np.argmax(gaps)) if 1e-9 < second < largest / 3.0 else None
