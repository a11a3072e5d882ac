# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Calibration: whether the spread of samples matches their distance from the reference.

An interval of nominal 90 % is calibrated if it contains the reference in 90 % of the voxels. There are two methods:

* from mean and standard deviation of the samples. A few samples give only a rough mean and spread: with
  ``num_samples`` it is Student's prediction interval of one more draw, otherwise the Gaussian interval.
* from the rank of the reference among the samples, which assumes no shape (rank histogram: Hamill 2001). If reference
  and samples are draws of one distribution, all ranks from 0 to n are equally likely.

Errors of neighbouring voxels are correlated, so the number of voxels does not tell how certain a coverage is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from monai_diffrecon.comparison.case_metrics import check_mask
from monai_diffrecon.errors import InputError

#: Nominal coverages from 50 to 99 %.
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Coverage:
    """Nominal coverages of central intervals and how often they contained the reference.

    Attributes:
        nominal: nominal coverages, 0 to 1, ascending.
        observed: part of the voxels whose reference lay inside, one for each.
        voxels: number of voxels.
    """

    nominal: tuple[float, ...]
    observed: tuple[float, ...]
    voxels: int

    def at(self, level: float) -> float:
        """Return the observed coverage of a requested nominal one."""
        return self.observed[self.nominal.index(level)]

    @property
    def expected_calibration_error(self) -> float:
        """Mean absolute difference of observed and nominal coverage; 0 is calibrated."""
        pairs = zip(self.nominal, self.observed, strict=True)
        return float(np.mean([abs(observed - nominal) for nominal, observed in pairs]))


def interval_coverage(
    mean: Tensor,
    std: Tensor,
    reference: Tensor,
    *,
    mask: Tensor | None = None,
    num_samples: int | None = None,
    levels: Sequence[float] = LEVELS,
) -> Coverage:
    """Return the coverage of ``mean +- q std``.

    Args:
        mean: posterior mean, real, any shape.
        std: standard deviation of one draw, 0 or more, of the same shape.
        reference: the truth.
        mask: voxels that count (not 0); None for all.
        num_samples: number of samples behind mean and std, for Student's intervals; None: both are exact.
        levels: nominal coverages, above 0 and below 1.

    Raises:
        InputError: other shapes, numbers that are not finite, no voxel, a level out of range, or fewer than 2 samples.
    """
    nominal, inside = _checked(levels), _inside(mask, reference)
    mean, std, reference = (_values(name, v, inside) for name, v in (("mean", mean), ("std", std), ("", reference)))
    if bool((std < 0).any()):
        raise InputError("below 0", where="calibration, std")
    if num_samples is not None and num_samples < 2:
        raise InputError("too few samples", where="calibration", expected="2 or more", got=num_samples)
    error = (reference - mean).abs()
    observed = []
    for level in nominal:
        if num_samples is None:
            width = float(special.ndtri(0.5 + level / 2))
        else:
            width = float(special.stdtrit(num_samples - 1, 0.5 + level / 2)) * (1 + 1 / num_samples) ** 0.5
        observed.append(float((error <= width * std).double().mean()))
    return Coverage(nominal, tuple(observed), int(error.numel()))


def rank_histogram(samples: Sequence[Tensor], reference: Tensor, *, mask: Tensor | None = None) -> tuple[float, ...]:
    """Return how often the reference has each rank among n samples: n + 1 fractions that sum to 1.

    A reference that equals m samples has any of m + 1 ranks, and counts as so much of each.

    Args:
        samples: two or more draws, real, of the shape of the reference.
        reference: the truth.
        mask: voxels that count (not 0); None for all.

    Raises:
        InputError: fewer than 2 samples, other shapes, numbers that are not finite, or no voxel.
    """
    if len(samples) < 2:
        raise InputError("too few samples", where="calibration", expected="2 or more", got=len(samples))
    inside = _inside(mask, reference)
    truth = _values("", reference, inside)
    below, equal = torch.zeros_like(truth, dtype=torch.long), torch.zeros_like(truth, dtype=torch.long)
    for index, sample in enumerate(samples):
        values = _values(f"sample {index}", sample, inside)
        below += values < truth
        equal += values == truth
    bins = len(samples) + 1
    pairs = torch.bincount(below * bins + equal, minlength=bins * bins).double().reshape(bins, bins)
    counts = torch.zeros(bins, dtype=torch.float64)
    for low, ties in pairs.nonzero().tolist():
        counts[low : low + ties + 1] += pairs[low, ties] / (ties + 1)
    return tuple((counts / counts.sum()).tolist())


def rank_coverage(
    samples: Sequence[Tensor], reference: Tensor, *, mask: Tensor | None = None, levels: Sequence[float] = LEVELS
) -> Coverage:
    """Return the coverage of central intervals by the ranks of the reference.

    A rank r among n samples only means that the reference's quantile lies in [r, r + 1] / (n + 1); it counts by the
    fraction of this cell inside the central interval. Even an outlier beyond all samples may lie inside an interval
    wider than (n - 1) / (n + 1), so 8 samples say little above 78 %.

    Args:
        samples: two or more draws, real, of the shape of the reference.
        reference: the truth.
        mask: voxels that count (not 0); None for all.
        levels: nominal coverages, above 0 and below 1.

    Raises:
        InputError: see :func:`rank_histogram`, or a level out of range.
    """
    nominal = _checked(levels)
    parts = np.asarray(rank_histogram(samples, reference, mask=mask))
    edges = np.linspace(0.0, 1.0, parts.size + 1)
    observed = []
    for level in nominal:
        low, high = 0.5 - level / 2, 0.5 + level / 2
        overlap = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0.0, None) * parts.size
        observed.append(float(parts @ overlap))
    return Coverage(nominal, tuple(observed), int(_inside(mask, reference).sum()))


def _checked(levels: Sequence[float]) -> tuple[float, ...]:
    nominal = tuple(sorted(float(level) for level in levels))
    if not nominal or not 0.0 < nominal[0] <= nominal[-1] < 1.0:
        raise InputError("no nominal coverage", where="calibration, levels", expected="above 0, below 1", got=levels)
    return nominal


def _inside(mask: Tensor | None, reference: Tensor) -> Tensor:
    """Return the voxels that count, as truth values."""
    if mask is None:
        return torch.ones(tuple(reference.shape), dtype=torch.bool)
    return check_mask(mask.detach(), reference).cpu()


def _values(name: str, x: Tensor, inside: Tensor) -> Tensor:
    """Return the voxels of a volume that count, in double precision."""
    where = f"calibration, {name or 'reference'}"
    if x.shape != inside.shape or x.is_complex():
        raise InputError(
            "not on the grid of the reference", where=where, expected=f"real {tuple(inside.shape)}", got=tuple(x.shape)
        )
    values = x.detach().as_subclass(Tensor).cpu().double()[inside]
    if not bool(torch.isfinite(values).all()):
        raise InputError("voxels that are not finite", where=where)
    return values
