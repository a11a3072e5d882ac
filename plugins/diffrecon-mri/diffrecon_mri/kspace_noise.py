# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The noise of a receive array: its covariance, prewhitening, and its level when no noise was scanned.

A noise level is the standard deviation of each real component, as ``Measurement.noise_std`` has it; the variance of a
complex number is twice its square.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from monai_diffrecon.errors import InputError

#: A normal number lies within this many standard deviations half of the time.
_QUARTILE = 0.6744897501960817


def noise_covariance(samples: Tensor) -> Tensor:
    """Return the covariance (coils, coils) of each real component, ``E[n n^H] / 2``, in double precision.

    Args:
        samples: complex noise (coils, N) of mean 0, N at least the number of coils.

    Raises:
        InputError: no such samples, or some not finite.
    """
    if not samples.is_complex() or samples.ndim != 2 or samples.shape[1] < samples.shape[0] or not samples.numel():
        raise InputError(
            "not noise of a coil array",
            where="noise samples",
            expected="complex (coils, N) with N of at least the number of coils",
            got=f"{str(samples.dtype).removeprefix('torch.')} {tuple(samples.shape)}",
        )
    if not bool(torch.isfinite(torch.view_as_real(samples)).all()):
        raise InputError("entries that are not finite", where="noise samples")
    wide = samples.to(torch.complex128)
    return wide @ wide.mH / (2 * samples.shape[1])


def prewhitening_matrix(samples: Tensor) -> Tensor:
    """Return W (coils, coils), complex128, so that ``W n`` has unit variance in each real component, coil by coil.

    ``W = L^-1`` with the Cholesky factor L of the covariance (Pruessmann et al. 2001, Magn. Reson. Med. 46(4), 638,
    appendix A). W is applied to the k-space and to the coil maps; the noise level is 1 afterwards.

    Args:
        samples: complex noise (coils, N) of mean 0, of the same bandwidth and scale as the k-space.

    Raises:
        InputError: no such samples, or coils that are copies of each other.
    """
    covariance = noise_covariance(samples)
    factor, info = torch.linalg.cholesky_ex(covariance)
    # Round-off alone may let the factor of a singular matrix pass.
    diagonal = factor.diagonal().real
    if int(info) != 0 or not bool((diagonal > 1e-7 * covariance.diagonal().real.sqrt()).all()):
        raise InputError(
            "the noise of the coils is linearly dependent",
            where="noise samples",
            expected="a covariance of full rank",
            mend="exclude redundant coils, or acquire more noise",
        )
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    return torch.linalg.solve_triangular(factor, identity, upper=False)


def prewhiten(data: Tensor, matrix: Tensor) -> Tensor:
    """Return k-space or coil maps (coils, ...) with the coils mixed by a matrix of :func:`prewhitening_matrix`."""
    return torch.einsum("ij,j...->i...", matrix.to(data), data)


def estimate_noise_std(kspace: Tensor, axes: Sequence[int] = (-3, -2), outer: float = 0.2) -> float:
    """Return the noise level of k-space from its corners, where little signal is left.

    The median of the magnitudes of all real components there, over 0.6745: a few large entries do not matter. The
    signal that is left makes it too large, so take axes along which the data reach far, a readout above all.

    Args:
        kspace: complex (coils, X, Y, Z), zero frequency in the middle of ``axes``. Entries that are 0 were not
            measured and do not count. One number for all coils: prewhiten before, or hand over one coil at a time.
        axes: Fourier axes; an entry counts when it is in the outer part of each.
        outer: outer part of each axis, both ends together, above 0 and at most 1.

    Raises:
        InputError: not complex, no such part, or fewer than 100 measured entries in it.
    """
    if not kspace.is_complex() or not 0.0 < outer <= 1.0:
        raise InputError(
            "not k-space with an outer part",
            where="noise estimate",
            expected="complex numbers, 0 < outer <= 1",
            got=f"{str(kspace.dtype).removeprefix('torch.')}, outer {outer:g}",
        )
    corner = kspace
    for axis in axes:
        n = kspace.shape[axis]
        position = torch.arange(n, device=kspace.device)
        width = max(round(outer * n / 2), 1)
        corner = corner.index_select(axis, position[(position < width) | (position >= n - width)])
    measured = corner[corner != 0]
    if measured.numel() < 100:
        raise InputError(
            "too few measured entries to estimate the noise",
            where="noise estimate",
            expected="100",
            got=measured.numel(),
            mend="set noise_std, fewer axes or a larger outer part",
        )
    return float(torch.view_as_real(measured).abs().double().median()) / _QUARTILE


def estimated_noise_std(kspace: Tensor, volumetric: bool) -> float:
    """Return the median over the coils of the level in the outer k-space, or 0 where too little was measured.

    Args:
        kspace: complex (coils, readout, phase, slice or partition).
        volumetric: the third axis is Fourier-encoded, too.
    """
    for axes in ((-3, -2, -1) if volumetric else (-3, -2), (-3,)):
        try:
            return median(estimate_noise_std(coil[None], axes) for coil in kspace)
        except InputError:
            continue
    return 0.0
