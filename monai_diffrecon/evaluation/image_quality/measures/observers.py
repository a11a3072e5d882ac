# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Linear model observers: channelized Hotelling, and non-prewhitening with an eye filter.

Sources: Barrett et al., PNAS 90:9758, 1993; Gallas and Barrett, J Opt Soc Am A 20:1725, 2003; Burgess, J Opt Soc Am A
11:1237, 1994.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft
from scipy.linalg import cho_solve

from monai_diffrecon.errors import InputError

from .arrays import checked
from .eye import EyeFilter
from .observation import Groups, Moments, Observation, Scheme, flat, observe, regions_of, separation

#: Share of its variance that a channel must have for itself; below, it is rounding.
LEAST_UNEXPLAINED = 1e-12


def channelized_hotelling(
    present: ArrayLike,
    absent: ArrayLike,
    channels: np.ndarray,
    *,
    scheme: Scheme = "leave_one_out",
    groups: Groups | None = None,
    seed: int = 0,
) -> Observation:
    """Return the scores of the channelized Hotelling observer.

    With channel outputs v, the template is ``K^-1 (mean v1 - mean v0)``, K the mean of the two classes' covariances;
    the score is its product with v, measured from the middle between the training means, so that scores of several
    templates are comparable.

    Args:
        present: (N1, H, W): regions with the signal.
        absent: (N0, H, W): regions without.
        channels: (H W, m), see :mod:`~monai_diffrecon.evaluation.image_quality.measures.channels`.
        scheme: ``leave_one_out`` scores each group by the template of all others; ``split`` trains on a random half of
            the groups and scores the other, so that scores are independent given the template; ``resubstitution``
            trains and scores on all, and flatters.
        groups: labels of the N1 and of the N0 regions: regions of one volume share one, in both classes, and are left
            out together. None: each region is a group.
        seed: of the halves.

    Raises:
        InputError: arrays that do not fit each other, or too few regions for the channels.
    """
    where = "channelized_hotelling"
    both = [flat(x, where) for x in (present, absent)]
    matrix = checked(channels, (2,), where)
    if any(x.shape[1] != len(matrix) for x in both):
        got = f"{both[0].shape[1]}, {both[1].shape[1]} and {len(matrix)}"
        raise InputError("pixels of regions and channels differ", where=where, expected="as many", got=got)
    regions = regions_of(both[0] @ matrix, both[1] @ matrix, groups, where)

    def train(one: Moments, zero: Moments) -> np.ndarray:
        covariance = (one.covariance + zero.covariance) / 2
        scale = np.sqrt(np.maximum(np.diag(covariance), 1e-300))  # channels may be of very different strength
        try:
            factor = np.linalg.cholesky(covariance / np.outer(scale, scale))
            unexplained = np.diag(factor).min() ** 2  # variance of a channel that those before it leave
        except np.linalg.LinAlgError:
            unexplained = 0.0
        if unexplained < LEAST_UNEXPLAINED:
            mend = "give more regions, or fewer channels"
            expected = f"more than {len(scale)} independent regions"
            raise InputError("the covariance of the channels is singular", where=where, expected=expected, mend=mend)
        return cho_solve((factor, True), (one.mean - zero.mean) / scale) / scale

    return observe(regions, train, scheme, seed, where)


def non_prewhitening(
    present: ArrayLike,
    absent: ArrayLike,
    *,
    signal: ArrayLike | None = None,
    eye: EyeFilter | None = None,
    scheme: Scheme = "leave_one_out",
    groups: Groups | None = None,
    seed: int = 0,
) -> Observation:
    """Return the scores of the non-prewhitening matched filter, with or without an eye filter.

    The template is the signal filtered by the square of the eye filter: once for the expectation, once for what is
    seen.

    Args:
        present: (N1, H, W): regions with the signal.
        absent: (N0, H, W): regions without.
        signal: (H, W): the known signal; None takes the mean difference of the regions trained on.
        eye: the eye filter; None is a flat one.
        scheme: as for :func:`channelized_hotelling`; without effect when the signal is known, as nothing is trained.
        groups: as there.
        seed: of the halves.

    Raises:
        InputError: arrays that do not fit each other.
    """
    where = "non_prewhitening"
    shape = np.shape(present)[1:]
    regions = regions_of(flat(present, where), flat(absent, where), groups, where)
    known = None if signal is None else checked(signal, (2,), where)
    if known is not None and known.shape != shape:
        raise InputError("signal of another shape", where=where, expected=shape, got=known.shape)

    def seen(difference: np.ndarray) -> np.ndarray:
        if eye is None:
            return difference
        padded = tuple(2 * n for n in shape)  # no signal comes back on the other side
        spectrum = fft.rfft2(difference.reshape(shape), padded) * eye.response(padded)[:, : padded[1] // 2 + 1] ** 2
        return fft.irfft2(spectrum, padded)[: shape[0], : shape[1]].ravel()

    if known is not None:
        template = seen(known.ravel())
        scores = (regions.present @ template, regions.absent @ template)
        return Observation(*scores, regions.groups if regions.grouped else None, separation(*scores))
    return observe(regions, lambda one, zero: seen(one.mean - zero.mean), scheme, seed, where, covariance=False)
