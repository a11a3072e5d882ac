# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Sampling masks of Cartesian MRI: which points of k-space are measured."""

from __future__ import annotations

import math

import numpy as np

from monai_diffrecon.errors import ConfigError

MASKS = ("uniform1d", "gaussian1d", "gaussian2d", "poisson")


def sampling_mask(
    kind: str,
    shape: tuple[int, int],
    acceleration: float,
    center_fraction: float,
    seed: int,
    *,
    partial_fourier: float = 1.0,
) -> np.ndarray:
    """Return a mask (X, Y) of exactly ``1 / acceleration`` of the points, zero frequency at N // 2.

    With partial Fourier only the upper part of the first phase-encoded axis is drawn from, and the centre; when fewer
    points are left there than the acceleration asks for, all of them are taken.

    Args:
        kind: ``uniform1d`` and ``gaussian1d`` select lines along Y; ``gaussian2d`` and ``poisson`` (variable
            density) select points.
        shape: k-space points (X, Y).
        acceleration: total points over measured points, 1 or more.
        center_fraction: part of each phase-encoded axis that is always measured.
        seed: seed of the draw.
        partial_fourier: part of the first phase-encoded axis (X, or Y of the one-dimensional kinds) that may be
            measured, above 0.5 and at most 1.

    Raises:
        ConfigError: unknown kind, or a centre larger than what may be measured.
    """
    if kind not in MASKS:
        raise ConfigError("unknown mask", where="operator#mask_type", expected=", ".join(MASKS), got=repr(kind))
    rng = np.random.Generator(np.random.PCG64(seed))
    one_dimensional = kind.endswith("1d")
    points = (1, shape[1]) if one_dimensional else shape
    centre = _centre(points, center_fraction)
    allowed = _kept(points, partial_fourier) | centre
    count = min(max(round(points[0] * points[1] / acceleration), 1), int(allowed.sum()))
    if int(centre.sum()) > count:
        raise ConfigError(
            "the centre alone exceeds the number of samples",
            where="operator#center_fraction",
            expected=f"at most {count} points",
            got=int(centre.sum()),
            mend="lower center_fraction or acceleration",
        )
    if kind == "poisson":
        chosen = _poisson_disc(points, count, centre, allowed, rng)
    else:
        chosen = _weighted(_density(points, kind), count, centre, allowed, rng)
    return np.broadcast_to(chosen, shape).copy()


def _radius(points: tuple[int, int]) -> np.ndarray:
    """Return the distance from the centre, 1 at the middle of an edge."""
    axes = [(np.arange(n) - n // 2) / max(n / 2, 1) for n in points]
    return np.hypot(axes[0][:, None], axes[1][None])


def _centre(points: tuple[int, int], fraction: float) -> np.ndarray:
    mask = np.zeros(points, dtype=bool)
    box = []
    for n in points:
        width = n if n == 1 else round(n * fraction)
        start = n // 2 - width // 2
        box.append(slice(start, start + width))
    mask[tuple(box)] = True
    return mask


def _kept(points: tuple[int, int], partial_fourier: float) -> np.ndarray:
    """Return the points that partial Fourier leaves: the upper part of the first axis that is phase-encoded."""
    mask = np.ones(points, dtype=bool)
    axis = 0 if points[0] > 1 else 1
    left_out = points[axis] - math.ceil(points[axis] * partial_fourier - 1e-9)
    mask[(slice(left_out), slice(None)) if axis == 0 else (slice(None), slice(left_out))] = False
    return mask


def _density(points: tuple[int, int], kind: str) -> np.ndarray:
    if kind == "uniform1d":
        return np.ones(points)
    return np.exp(-0.5 * (_radius(points) / 0.35) ** 2) + 0.02


def _weighted(
    density: np.ndarray, count: int, centre: np.ndarray, allowed: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw without replacement, so that the acceleration is the one asked for."""
    mask = centre.copy().ravel()
    if int(mask.sum()) == count:  # an axis of one point leaves nothing to draw from
        return mask.reshape(centre.shape)
    free = np.flatnonzero(~mask & allowed.ravel())
    weights = density.ravel()[free]
    drawn = rng.choice(free, size=count - int(mask.sum()), replace=False, p=weights / weights.sum())
    mask[drawn] = True
    return mask.reshape(centre.shape)


def _poisson_disc(
    points: tuple[int, int], count: int, centre: np.ndarray, allowed: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw points no closer than a radius that grows outwards (Bridson 2007; Cook 1986), then trim to ``count``.

    The radius that gives ``count`` points is found by bisection over one fixed random order.
    """
    order = rng.permutation(points[0] * points[1])
    growth = 0.5 + 2.0 * _radius(points)
    low, high = 0.0, 4.0 * np.sqrt(points[0] * points[1] / count)
    for _ in range(8):
        middle = (low + high) / 2
        if int(_throw(points, middle * growth, order, centre, allowed).sum()) > count:
            low = middle
        else:
            high = middle
    mask = _throw(points, low * growth, order, centre, allowed)
    optional = np.flatnonzero((mask & ~centre).ravel())
    surplus = int(mask.sum()) - count
    if surplus > 0:
        mask.ravel()[rng.permutation(optional)[:surplus]] = False
    elif surplus < 0:
        free = np.flatnonzero((~mask & allowed).ravel())
        mask.ravel()[rng.permutation(free)[:-surplus]] = True
    return mask


def _throw(
    points: tuple[int, int], radius: np.ndarray, order: np.ndarray, centre: np.ndarray, allowed: np.ndarray
) -> np.ndarray:
    """Take the allowed points in ``order``, each unless it lies within the radius of one taken before."""
    blocked, mask = centre | ~allowed, centre.copy()
    # Squared distances of grid points are whole numbers, so few different discs occur.
    squares = np.floor(radius**2).astype(int).ravel()[order].tolist()
    rows, columns = (a.tolist() for a in np.divmod(order, points[1]))
    discs: dict[int, np.ndarray] = {}
    is_blocked = memoryview(blocked)  # reads single elements several times faster than the array
    for i, j, square in zip(rows, columns, squares, strict=True):
        if is_blocked[i, j]:
            continue
        mask[i, j] = True
        n = math.isqrt(square)
        if square not in discs:
            offsets = np.arange(-n, n + 1)
            discs[square] = offsets[:, None] ** 2 + offsets**2 <= square
        top, left = max(i - n, 0), max(j - n, 0)
        part = blocked[top : i + n + 1, left : j + n + 1]
        part |= discs[square][top - i + n :, left - j + n :][: part.shape[0], : part.shape[1]]
    return mask
