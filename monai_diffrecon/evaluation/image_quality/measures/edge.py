# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The transfer function from the edge of a disc or cylinder.

Sources: Richard et al., Med Phys 39:4115, 2012 (task transfer function); Chen et al., Med Phys 41:071909, 2014
(contrast to noise it needs); Samei et al., AAPM TG-233, Med Phys 46:e735, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares
from scipy.signal.windows import tukey
from scipy.special import erf

from monai_diffrecon.errors import InputError, NumericalError

from .arrays import checked, checked_number, checked_spacing
from .frequency import Curve


@dataclass(frozen=True)
class EdgeTransfer:
    """A transfer function measured on an edge, and what speaks for it.

    Attributes:
        transfer: modulus, 1 at zero, up to the lowest Nyquist frequency of the pixels; NaN when ``reason`` is not
            empty.
        distance: (n,): distance of the profile's bins to the centre, mm.
        profile: (n,): the edge spread function, in intensities.
        contrast: measured step, inside minus outside.
        recovery: the measured step divided by the true one; NaN if that was not told.
        noise: standard deviation of one image: of the differences from the mean image, or, of a single image, of its
            pixels outside the disc.
        contrast_to_noise: ``|contrast| sqrt(N) / noise``, that of the mean image. Below about 15 the function is
            unreliable (Chen et al. 2014); infinite without noise.
        reason: why there is none.
    """

    transfer: Curve
    distance: np.ndarray
    profile: np.ndarray
    contrast: float
    recovery: float
    noise: float
    contrast_to_noise: float
    reason: str = ""


def task_transfer(
    images: ArrayLike,
    spacing: Sequence[float],
    centre: Sequence[float],
    radius: float,
    contrast: float | None = None,
    *,
    reach: float | None = None,
    bin_width: float | None = None,
) -> EdgeTransfer:
    """Return the transfer function of a disc's edge; of one image with a strong edge, that is the MTF.

    The mean image's pixels are sorted by their distance to the centre into bins, which oversample the edge; the
    differences of neighbouring bins are the line spread function, and the modulus of its Fourier transform is the
    result. Bins and differences each multiply it by a sinc of their width, which is divided out. The edge is taken as
    straight: that needs a radius of several widths of the blur.

    Args:
        images: (H, W) or (N, H, W): realizations or neighbouring slices of one disc.
        spacing: pixel size of the two axes, mm.
        centre: row and column, in pixels and parts of them; see :func:`fit_disc`.
        radius: of the disc, mm.
        contrast: true step, inside minus outside, for ``recovery``; None if it is not known.
        reach: distance from the edge, to both sides, that counts, mm. Flanks of the line spread function beyond it are
            lost, and noise grows with it. None is 0.8 of the radius, or less where the image ends earlier.
        bin_width: mm; None is a quarter of the smaller pixel.

    Returns:
        The function, the profile, and the contrast-to-noise ratio by which a caller may refuse it.

    Raises:
        InputError: arrays of another shape, no pixel size, lengths out of range, or a disc that the image cuts.
    """
    where = "task_transfer"
    stack, sizes, position = _stack(images, spacing, centre, where)
    distances = _distances(stack.shape[1:], sizes, position)
    border = min((min(c, n - 1 - c) + 0.5) * d for c, n, d in zip(position, stack.shape[1:], sizes, strict=True))
    checked_number(radius, where, "radius", max(sizes), border - max(sizes))
    half = checked_number(
        min(0.8 * radius, border - radius) if reach is None else reach, where, "reach", 2 * max(sizes), radius
    )
    if radius + half > border + 1e-9:
        raise InputError("reach out of range", where=where, expected=f"at most {border - radius:g} mm", got=half)
    width = checked_number(min(sizes) / 4 if bin_width is None else bin_width, where, "bin width", 0.0, half / 4)
    mean = stack.mean(axis=0)
    distance, profile = _profile(mean, distances, radius, half, width)

    outside = (distances > radius + half / 2) & (distances <= radius + half)
    inside = (distances < radius - half / 2) & (distances >= radius - half)
    step = float(mean[inside].mean() - mean[outside].mean())
    if len(stack) > 1:
        near = distances <= radius + half
        noise = math.sqrt(float((stack - mean)[:, near].var(axis=0).mean()) * len(stack) / (len(stack) - 1))
    else:
        noise = float(mean[outside].std(ddof=1))
    ratio = abs(step) * math.sqrt(len(stack)) / noise if noise > 0 else (math.inf if step else math.nan)

    frequency = np.linspace(0.0, 0.5 / max(sizes), 1 + math.ceil(2 * half / max(sizes)))
    line = np.diff(profile)
    area = float(line.sum())
    reason = "" if area else "no edge: the profile ends as it begins"
    value = np.full(len(frequency), math.nan) if reason else _modulus(line, width, frequency)
    return EdgeTransfer(
        transfer=Curve(frequency, value),
        distance=distance,
        profile=profile,
        contrast=step,
        recovery=step / contrast if contrast else math.nan,
        noise=noise,
        contrast_to_noise=ratio,
        reason=reason,
    )


def fit_disc(
    images: ArrayLike, spacing: Sequence[float], centre: Sequence[float], radius: float
) -> tuple[tuple[float, float], float]:
    """Return the centre and the radius of a disc, fitted to parts of a pixel.

    The model is a constant step with a Gaussian edge of free width; pixels within 1.8 radii of the first centre count.

    Args:
        images: (H, W) or (N, H, W), averaged first.
        spacing: pixel size of the two axes, mm.
        centre: row and column to begin with, within about a third of the radius.
        radius: to begin with, mm.

    Returns:
        The centre, row and column in pixels, and the radius, mm.

    Raises:
        InputError: arrays of another shape, or no pixel size.
        NumericalError: the fit fails, or leaves the neighbourhood.
    """
    where = "fit_disc"
    stack, sizes, position = _stack(images, spacing, centre, where)
    mean = stack.mean(axis=0)
    near = _distances(mean.shape, sizes, position) <= 1.8 * checked_number(radius, where, "radius", max(sizes))
    rows, columns = (grid[near] for grid in np.indices(mean.shape, dtype=np.float64))
    values = mean[near]
    first = _distances(mean.shape, sizes, position)[near]
    inner, outer = first < 0.7 * radius, first > 1.3 * radius
    if not (inner.any() and outer.any()):
        raise InputError("no pixels on both sides of the edge", where=where, expected="a disc inside the image")
    low, high = float(values[outer].mean()), float(values[inner].mean())
    scale = abs(high - low) or 1.0

    def residual(p: np.ndarray) -> np.ndarray:
        r = np.hypot((rows - p[0]) * sizes[0], (columns - p[1]) * sizes[1])
        edge = 0.5 * (1.0 - erf((r - p[2]) / (math.sqrt(2.0) * p[3])))
        return (p[4] + p[5] * edge - values) / scale

    start = [*position, radius, max(sizes), low, high - low]
    bounds = ([-np.inf] * 3 + [0.1 * min(sizes), -np.inf, -np.inf], [np.inf] * 3 + [radius, np.inf, np.inf])
    found = least_squares(residual, start, bounds=bounds, x_scale=[1, 1, 1, 1, scale, scale])
    moved = math.hypot((found.x[0] - position[0]) * sizes[0], (found.x[1] - position[1]) * sizes[1])
    if not found.success or moved > radius or not 0.5 * radius < found.x[2] < 1.5 * radius or high == low:
        raise NumericalError(
            "no disc found", where=where, expected="a disc near the centre given", mend="give its centre"
        )
    return (float(found.x[0]), float(found.x[1])), float(found.x[2])


def _stack(
    images: ArrayLike, spacing: Sequence[float], centre: Sequence[float], where: str
) -> tuple[np.ndarray, tuple[float, ...], tuple[float, float]]:
    x = checked(images, (2, 3), where)
    stack = x[None] if x.ndim == 2 else x
    if len(centre) != 2 or not all(0 <= c <= n - 1 for c, n in zip(centre, stack.shape[1:], strict=True)):
        raise InputError("centre outside the image", where=where, expected="row and column", got=tuple(centre))
    return stack, checked_spacing(spacing, 2, where), (float(centre[0]), float(centre[1]))


def _distances(shape: Sequence[int], spacing: Sequence[float], centre: Sequence[float]) -> np.ndarray:
    rows, columns = np.indices(tuple(shape), sparse=True)
    return np.hypot((rows - centre[0]) * spacing[0], (columns - centre[1]) * spacing[1])


def _profile(
    image: np.ndarray, distances: np.ndarray, radius: float, reach: float, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the centres of bins of ``width`` about the edge, and the intensity there.

    The mean of a bin stands at the mean distance of its pixels, which is not its centre: values at the centres are
    interpolated between those, and empty bins are bridged.
    """
    bins = 2 * round(reach / width)
    start = radius - bins / 2 * width
    index = np.floor((distances - start) / width).astype(np.int64)
    kept = (index >= 0) & (index < bins)
    count = np.bincount(index[kept], minlength=bins)
    filled = count > 0
    at = np.bincount(index[kept], distances[kept], bins)[filled] / count[filled]
    value = np.bincount(index[kept], image[kept], bins)[filled] / count[filled]
    centres = start + (np.arange(bins) + 0.5) * width
    return centres, np.interp(centres, at, value)


def _modulus(line: np.ndarray, width: float, frequency: np.ndarray) -> np.ndarray:
    """Return the modulus of the Fourier transform of a line spread function in steps of ``width``, 1 at zero."""
    line = line * tukey(len(line), 0.25)
    at = np.arange(len(line)) * width
    transform = np.abs(np.exp(-2j * np.pi * np.outer(frequency, at)) @ line)
    return transform / transform[0] / np.sinc(frequency * width) ** 2
