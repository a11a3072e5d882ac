# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Scores of an observer, for regions it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from monai_diffrecon.errors import InputError

from .arrays import checked

Scheme = Literal["leave_one_out", "split", "resubstitution"]
Groups = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True)
class Observation:
    """Scores of regions by an observer; a higher score speaks for the signal.

    Attributes:
        present: (n1,): scores of the regions with the signal.
        absent: (n0,): scores of those without.
        groups: labels of both; None without groups. With halves, only the scored half is here.
        plug_in: d' of the template trained and tested on all regions: too high for few regions, see
            :mod:`~monai_diffrecon.evaluation.image_quality.measures.detection`.
    """

    present: np.ndarray
    absent: np.ndarray
    groups: tuple[np.ndarray, np.ndarray] | None
    plug_in: float


@dataclass(frozen=True)
class Regions:
    """Features of both classes, (n1, m) and (n0, m), with their groups."""

    present: np.ndarray
    absent: np.ndarray
    groups: tuple[np.ndarray, np.ndarray]
    grouped: bool


@dataclass(frozen=True)
class Moments:
    """Mean (m,) of a class, and the sum of its outer products about it (m, m), if that is needed."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray | None

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance (m, m)."""
        assert self.scatter is not None
        return self.scatter / (self.count - 1)

    def without(self, x: np.ndarray) -> Moments:
        """Return the moments of the others: a downdate of low rank instead of all sums again."""
        count = self.count - len(x)
        if not len(x) or count < 1:
            return Moments(count, self.mean, self.scatter)
        centred = x - self.mean
        shift = -centred.sum(axis=0) / count
        scatter = None if self.scatter is None else self.scatter - centred.T @ centred - count * np.outer(shift, shift)
        return Moments(count, self.mean + shift, scatter)


#: From the moments of both classes to a template (m,).
Train = Callable[[Moments, Moments], np.ndarray]


def observe(
    regions: Regions, train: Train, scheme: Scheme, seed: int, where: str, *, covariance: bool = True
) -> Observation:
    """Return scores and the plug-in d'.

    Args:
        regions: features of both classes and their groups.
        train: makes a template of the moments of those trained on.
        scheme: which regions that are.
        seed: of the halves.
        where: the function, for messages.
        covariance: whether ``train`` needs covariances.

    Raises:
        InputError: too few regions or groups, or an unknown scheme.
    """
    both, labels = (regions.present, regions.absent), regions.groups
    means = [x.mean(axis=0) for x in both]
    sums = [
        Moments(len(x), mean, (x - mean).T @ (x - mean) if covariance else None)
        for x, mean in zip(both, means, strict=True)
    ]
    everything = train(*sums)
    plug_in = separation(*(x @ everything for x in both))
    scored = [np.full(len(x), np.nan) for x in both]
    kinds = np.unique(np.concatenate(labels))
    members = [_members(label, kinds) for label in labels]
    for out in _folds(labels, kinds, scheme, seed, where):
        tested = [np.concatenate([of_kind[k] for k in out]) for of_kind in members]
        if scheme == "resubstitution":
            kept, template = sums, everything
        else:
            kept = [m.without(x[t]) for m, x, t in zip(sums, both, tested, strict=True)]
            if min(m.count for m in kept) < 2:
                raise InputError("too few regions", where=where, expected="2 of each class to train on")
            template = train(*kept)
        middle = float((kept[0].mean + kept[1].mean) @ template) / 2
        for score, x, t in zip(scored, both, tested, strict=True):
            score[t] = x[t] @ template - middle
    used = [~np.isnan(score) for score in scored]
    if not all(u.any() for u in used):
        raise InputError("a half without one of the classes", where=where, expected="more groups")
    return Observation(
        scored[0][used[0]],
        scored[1][used[1]],
        (labels[0][used[0]], labels[1][used[1]]) if regions.grouped else None,
        plug_in,
    )


def _members(label: np.ndarray, kinds: np.ndarray) -> list[np.ndarray]:
    """Return the indices of each group's regions."""
    order = np.argsort(label, kind="stable")
    return np.split(order, np.searchsorted(label[order], kinds[1:]))


def _folds(
    labels: tuple[np.ndarray, np.ndarray], kinds: np.ndarray, scheme: Scheme, seed: int, where: str
) -> Iterator[np.ndarray]:
    """Yield the numbers of the groups to leave out of the training and score, fold by fold."""
    if scheme == "leave_one_out":
        yield from np.arange(len(kinds))[:, None]
    elif scheme == "resubstitution":
        yield np.arange(len(kinds))
    elif scheme == "split":
        # Groups of one class only are halved for themselves, so that neither half lacks a class.
        generator = np.random.default_rng(seed)
        member = np.isin(kinds, labels[0]) + 2 * np.isin(kinds, labels[1])
        yield np.concatenate(
            [(k := generator.permutation(np.flatnonzero(member == c)))[: len(k) // 2] for c in (1, 2, 3)]
        )
    else:
        raise InputError("unknown scheme", where=where, expected="leave_one_out, split, resubstitution", got=scheme)


def separation(present: np.ndarray, absent: np.ndarray) -> float:
    """Return the difference of the mean scores in units of the root of their mean variance."""
    variance = (present.var(ddof=1) + absent.var(ddof=1)) / 2
    return float((present.mean() - absent.mean()) / np.sqrt(variance)) if variance > 0 else float("nan")


def flat(x: ArrayLike, where: str) -> np.ndarray:
    """Return regions (n, H, W) as (n, H W)."""
    array = checked(x, (3,), where, least=2)
    return array.reshape(len(array), -1)


def regions_of(present: np.ndarray, absent: np.ndarray, groups: Groups | None, where: str) -> Regions:
    """Return features (n1, m) and (n0, m) with their groups, each region its own without any.

    Raises:
        InputError: features of different number, or labels that do not fit.
    """
    if present.shape[1] != absent.shape[1]:
        raise InputError("regions of different size", where=where, expected=present.shape[1], got=absent.shape[1])
    if groups is None:
        numbers = np.arange(len(present)), len(present) + np.arange(len(absent))
        return Regions(present, absent, numbers, grouped=False)
    labels = np.asarray(groups[0]), np.asarray(groups[1])
    if labels[0].shape != (len(present),) or labels[1].shape != (len(absent),):
        got = f"{labels[0].shape} and {labels[1].shape}"
        raise InputError(
            "labels do not fit the regions", where=where, expected=f"{len(present)}, {len(absent)}", got=got
        )
    return Regions(present, absent, labels, grouped=True)
