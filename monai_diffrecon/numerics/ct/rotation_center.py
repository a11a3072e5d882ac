# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Where the axis of rotation lies on the detector, from projections half a turn apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

#: Views further than this (degrees) from half a turn apart say too little of the axis.
_FARTHEST = 8.0
#: Pairs whose mismatch (degrees) is no more than this above the smallest are as good as the best.
_AS_GOOD = 0.05
#: So many pairs of views, and rows of them, suffice.
_PAIRS, _ROWS = 8, 32
#: A row with less than this part of the strongest row's edges shows no object.
_FAINT = 0.1
#: Shifts are found to this part of a column, of edges smoothed over so many columns (standard deviation).
_UPSAMPLING, _SMOOTHING = 50, 2.0


@dataclass(frozen=True)
class RotationCenter:
    """The axis of rotation as seen by the detector.

    Attributes:
        column: its place in columns, 0 is the middle of the first one.
        spread: half the distance between the quartiles of what rows and pairs say, columns.
        agreement: correlation of a projection with its mirrored opposite at that place, median; 1 when they are alike.
        mismatch: how far the pairs are from half a turn apart, degrees.
    """

    column: float
    spread: float
    agreement: float
    mismatch: float


def rotation_center(degrees: np.ndarray, view: Callable[[int], np.ndarray]) -> RotationCenter | None:
    """Find the axis of rotation by registering projections with their mirrored opposites, row by row.

    A parallel projection half a turn on is the same one mirrored at the axis. Where no view is exactly opposite to
    another, as at the end of a scan over 180 degrees less a step, the object's drift across the missing degrees is
    measured between neighbouring views and taken out. Works for detectors that see the whole object.

    Args:
        degrees: angles of the views, (V,).
        view: returns the line integrals (rows, columns) of a view.

    Returns:
        The median over rows and pairs; None when no views are half a turn apart, to within 8 degrees.
    """
    pairs = _opposite_pairs(degrees)
    if not pairs:
        return None
    columns: list[float] = []
    agreements: list[float] = []
    for first, second, mismatch in pairs:
        a, b = _some_rows(view(first)), _some_rows(view(second))[:, ::-1]
        width = a.shape[1]
        shifts = _shifts(a, b)
        if abs(mismatch) > 1e-6:
            # At the pair's two ends, so that the mean is the drift in the middle of what lies between them.
            drift = [_drift(a, view, degrees, first, 1), _drift(b, view, degrees, second, -1)]
            shifts = shifts + mismatch * np.mean(drift, axis=0)
        edges = np.square(_edges(a)).sum(axis=1)
        seen = edges >= _FAINT * edges.max()
        columns += ((shifts[seen] + width - 1) / 2).tolist()
        agreements += [_agreement(x, y, s) for x, y, s in zip(a[seen], b[seen], shifts[seen], strict=True)]
    low, middle, high = np.percentile(columns, [25, 50, 75])
    worst = max(abs(mismatch) for _, _, mismatch in pairs)
    return RotationCenter(float(middle), float(high - low) / 2, float(np.median(agreements)), worst)


def _opposite_pairs(degrees: np.ndarray) -> list[tuple[int, int, float]]:
    """Return pairs of views, and how much more than half a turn lies between them (degrees), of the best ones."""
    found: dict[tuple[int, int], tuple[int, int, float]] = {}
    for i, angle in enumerate(degrees):
        mismatch = _turned(degrees - angle - 180.0)
        j = int(np.argmin(np.abs(mismatch)))
        if i != j and abs(mismatch[j]) <= _FARTHEST:
            found.setdefault((min(i, j), max(i, j)), (i, j, float(mismatch[j])))
    pairs = sorted(found.values(), key=lambda pair: pair[0])
    smallest = min((abs(pair[2]) for pair in pairs), default=0.0)
    pairs = [pair for pair in pairs if abs(pair[2]) <= smallest + _AS_GOOD]
    return [pairs[i] for i in sorted(set(np.linspace(0, len(pairs) - 1, _PAIRS).round().astype(int)))] if pairs else []


def _drift(image: np.ndarray, view: Callable[[int], np.ndarray], degrees: np.ndarray, i: int, sense: int) -> np.ndarray:
    """Return how far each row of view i moves in a degree (rows,); ``sense`` -1: ``image`` is the mirrored one."""
    step = _turned(degrees - degrees[i])
    j = int(np.argmin(np.where(np.abs(step) > 1e-6, np.abs(step), np.inf)))
    return _shifts(_some_rows(view(j))[:, ::sense], image) / step[j]


def _some_rows(image: np.ndarray) -> np.ndarray:
    rows = np.linspace(0, len(image) - 1, min(len(image), _ROWS)).round().astype(int)
    return image[rows].astype(np.float64)


def _turned(degrees: np.ndarray) -> np.ndarray:
    """Return angles modulo a turn, from -180 up to 180."""
    return (degrees + 180.0) % 360.0 - 180.0


def _shifts(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Return by how many columns each row of ``moving`` has to move to lie on that of ``fixed``, (rows,)."""
    from skimage.registration import phase_cross_correlation  # costs the start of the program too much

    padding = ((0, 0), (0, fixed.shape[1]))
    pairs = zip(*(np.pad(_edges(image), padding) for image in (fixed, moving)), strict=True)
    # Not whitened: at low doses most frequencies hold noise alone.
    options = {"upsample_factor": _UPSAMPLING, "normalization": None}
    found = [phase_cross_correlation(a, b, **options)[0][0] if a.any() and b.any() else 0.0 for a, b in pairs]
    return np.asarray(found, dtype=np.float64)


def _edges(image: np.ndarray) -> np.ndarray:
    """Return the slope along the rows, which depends neither on a level nor on where the detector ends."""
    return gaussian_filter1d(image, _SMOOTHING, axis=1, order=1, mode="nearest")


def _agreement(fixed: np.ndarray, moving: np.ndarray, shift: float) -> float:
    """Return the correlation of two smoothed rows where they overlap, ``moving`` moved; 0 without any."""
    at = np.arange(len(fixed), dtype=np.float64)
    inside = (at - shift >= 0) & (at - shift <= len(fixed) - 1)
    a, b = gaussian_filter1d(fixed, _SMOOTHING), gaussian_filter1d(moving, _SMOOTHING)
    a, b = a[inside], np.interp(at[inside] - shift, at, b)
    if len(a) < 3 or not (a.std() and b.std()):
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
