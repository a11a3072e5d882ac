# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""From the axes of an acquisition to RAS+, in image space and in k-space."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError

#: Anatomical letter -> (RAS axis, sign).
_LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}

#: Notice of a scan whose file does not say which way its axes run.
UNKNOWN_ORIENTATION = (
    "the file does not say how the subject lies: its axes are taken for X, Y and Z, its slices for axial ones, and the "
    "volume's orientation stays unknown"
)


def lps_to_ras(vector: np.ndarray) -> np.ndarray:
    """Return a vector (3,) or columns (3, n) of the patient system of DICOM and ISMRMRD in RAS+."""
    return np.array([-1.0, -1.0, 1.0]).reshape(3, *[1] * (np.ndim(vector) - 1)) * np.asarray(vector, dtype=np.float64)


def directions_of(letters: object, where: str) -> np.ndarray:
    """Return unit columns (3, 3) in RAS+ of three letters such as ``RAS``: where the indices of an array grow.

    Raises:
        ConfigError: not three letters of R L A P S I, one for each axis.
    """
    columns = np.zeros((3, 3))
    known = isinstance(letters, str) and len(letters) == 3 and all(c in _LETTERS for c in letters)
    if not known or len({_LETTERS[c][0] for c in str(letters)}) != 3:
        raise ConfigError(
            "no directions", where=where, expected="three of R or L, A or P, S or I, such as RAS", got=repr(letters)
        )
    for column, letter in enumerate(str(letters)):
        axis, sign = _LETTERS[letter]
        columns[axis, column] = sign
    return columns


def closest_ras(directions: np.ndarray) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Return which axis of an array lies closest to X, Y and Z, and which axes of the array have to be flipped.

    Args:
        directions: columns (3, 3) along the axes of the array, RAS+.
    """
    unit = directions / np.linalg.norm(directions, axis=0)
    best = max(itertools.permutations(range(3)), key=lambda p: sum(abs(unit[x, p[x]]) for x in range(3)))
    flips = [False, False, False]
    for x, axis in enumerate(best):
        flips[axis] = bool(unit[x, axis] < 0)
    return (best[0], best[1], best[2]), (flips[0], flips[1], flips[2])


def ras_affine(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the affine of an array after the flips and the permutation of :func:`closest_ras`."""
    order, flips = closest_ras(affine[:3, :3])
    out = np.array(affine, dtype=np.float64)
    for axis, flip in enumerate(flips):
        if flip:
            out[:3, 3] += out[:3, axis] * (shape[axis] - 1)
            out[:3, axis] *= -1
    out[:3, :3] = out[:3, list(order)]
    return out


def flip_kspace(k: Tensor, dim: int, voxels: int | None = None) -> Tensor:
    """Return the centred k-space of the image flipped along ``dim``: all of it, or its middle ``voxels``."""
    n = k.shape[dim]
    frequencies = torch.arange(n, dtype=torch.float64) - n // 2
    phase = flip_phase(frequencies, n, n if voxels is None else voxels)
    return reverse_frequencies(k, dim) * phase.to(k).reshape([n, *[1] * (-dim - 1)])


def reverse_frequencies(k: Tensor, dim: int) -> Tensor:
    """Return an array over centred frequencies along ``dim`` with k and -k exchanged; for a mask, all of a flip."""
    flipped = k.flip(dim)
    return flipped.roll(1, dim) if k.shape[dim] % 2 == 0 else flipped


def flip_phase(frequencies: Tensor, n: int, voxels: int) -> Tensor:
    """Return by what to multiply at frequencies k of a flipped image, cycles per field of view of ``n`` voxels.

    Flipping an even number of voxels moves the voxel of index N // 2 by one.
    """
    shift = 1.0 if voxels % 2 == 0 else 0.0
    return torch.polar(torch.ones_like(frequencies), 2.0 * math.pi * shift * frequencies / n)
