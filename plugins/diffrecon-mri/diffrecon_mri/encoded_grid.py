# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""From k-space as encoded to k-space of the wanted voxels: readout oversampling and voxel size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from diffrecon_mri.acquired import Acquired
from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.mri.fourier import centred_fft, centred_ifft
from monai_diffrecon.numerics.mri.kspace_grid import centred_affine, centred_resize, crop_or_pad_kspace

#: No voxel is made finer than this part of what was measured.
_FINEST = 0.25
#: Part of the energy that is nothing: rounding.
_NOTHING = 1e-9


def without_oversampling(a: Acquired) -> Acquired:
    """Return k-space of the volume's field of view where each readout was measured in full; else all as it is.

    The samples of a readout of which a part is missing cannot be had for another field of view: the operator encodes
    the wider one then.
    """
    if a.voxels == a.kspace.shape[1]:
        return a
    images = centred_ifft(a.kspace, (1,))
    inside = centred_resize(images, 1, a.voxels)
    if not all(c is None or bool((c == c[:1]).all()) for c in (a.counts, a.calibrated)):
        # Samples of exact signals may be 0 as well: then they belong to an image with nothing outside, unlike gaps.
        energy, within = (float(x.abs().double().square().sum()) for x in (images, inside))
        if energy - within > _NOTHING * energy:
            return a

    def along(counts: Tensor) -> Tensor:
        return counts.amax(0, keepdim=True).expand(a.voxels, -1, -1)

    calibration = a.calibration
    if calibration is not None:
        calibration = centred_fft(centred_resize(centred_ifft(calibration, (1,)), 1, a.voxels), (1,))
    return replace(
        a,
        kspace=centred_fft(inside, (1,)),
        counts=along(a.counts),
        calibration=calibration,
        calibrated=None if a.calibrated is None else along(a.calibrated),
    )


def voxels_of(shape: tuple[int, ...], size: np.ndarray, spacing: float, where: str) -> list[int]:
    """Return how many voxels of the wanted size fill the field of view along each axis.

    Args:
        shape: voxels along the Fourier-encoded axes.
        size: of those, mm.
        spacing: wanted, mm.
        where: name of the file, for messages.

    Raises:
        InputError: far finer voxels than were measured, or none.
    """
    wanted = [round(n * float(d) / spacing) for n, d in zip(shape, size, strict=True)]
    if min(wanted) < 2 or spacing < _FINEST * float(min(size)):
        raise InputError(
            "a voxel size that this scan cannot be given",
            where=where,
            expected=f"at least {_FINEST * float(min(size)):.3g} mm, and two voxels in the field of view",
            got=f"spacing {spacing:g} mm",
            mend="give the reader's option spacing another value, or leave it out",
        )
    return wanted


def with_spacing(a: Acquired, spacing: float, where: str) -> Acquired:
    """Return k-space cropped or zero-padded so that voxels have the wanted size along Fourier-encoded axes.

    The field of view stays, and an integer number of voxels fills it: their size is the wanted one to within half a
    voxel over that number. Padded samples count as not measured.

    Args:
        a: the k-space.
        spacing: wanted voxel size, mm.
        where: name of the file, for messages.

    Raises:
        InputError: see :func:`voxels_of`.
    """
    axes = (0, 1, 2) if a.volumetric else (0, 1)
    size = np.linalg.norm(a.affine[:3, :3], axis=0)
    shape = list(a.shape)
    for axis, n in zip(axes, voxels_of(a.shape[: len(axes)], size[: len(axes)], spacing, where), strict=True):
        shape[axis] = n
    samples = [round(k * new / old) for k, new, old in zip(a.kspace.shape[1:], shape, a.shape, strict=True)]
    growth = [k / new for k, new in zip(a.kspace.shape[1:], samples, strict=True)]

    def resized(x: Tensor, resize: Callable[[Tensor, int, int], Tensor]) -> Tensor:
        for axis in axes:
            x = resize(x, axis - 3, samples[axis])
        return x

    notices = a.notices
    if samples != list(a.kspace.shape[1:]):
        notices += (resampling_notice(size[: len(axes)], size[: len(axes)] * np.array(growth[: len(axes)])),)
    return replace(
        a,
        kspace=resized(a.kspace, crop_or_pad_kspace),
        counts=resized(a.counts, centred_resize),
        affine=centred_affine(a.affine, a.shape, shape, growth),
        voxels=shape[0],
        noise_std=a.noise_std / math.prod(growth) ** 0.5,
        calibration=None if a.calibration is None else resized(a.calibration, crop_or_pad_kspace),
        calibrated=None if a.calibrated is None else resized(a.calibrated, centred_resize),
        notices=notices,
    )


def resampling_notice(old: np.ndarray, new: np.ndarray) -> str:
    """Return what is to be known of a volume of other voxels than were measured."""
    sizes = [" x ".join(f"{s:.3g}" for s in sizes) for sizes in (old, new)]
    said = f"measured at {sizes[0]} mm, and k-space cropped or padded to {sizes[1]} mm, as the reader's option asks"
    return said + (": detail beyond the measured comes from the prior alone" if bool((new < 0.99 * old).any()) else "")


def with_empty_slices(counts: Tensor, said: Tensor, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Return the counts with those of empty slices, and a notice when there are any.

    A sample that is exactly 0 in all coils was not measured: converters pad with zeros what a partial echo or an
    elliptical shutter leaves out. A slice of zeros throughout says nothing, and counts as its file says.

    Args:
        counts: how often samples that are not 0 were measured, (readout, phase, slices).
        said: how often they were measured if all samples count, of the same shape.
        where: name of the file, for messages.

    Raises:
        InputError: nothing but zeros.
    """
    empty = ~(counts > 0).flatten(0, 1).any(0)
    number = int(empty.sum())
    if number == len(empty):
        raise InputError("nothing was measured", where=where)
    notice = f"{number} of {len(empty)} slices hold nothing but zeros, and are taken for empty"
    return torch.where(empty, said, counts), (notice,) if number else ()


def same_of_all(counts: Tensor) -> Tensor:
    """Return counts (readout, phase, slices) with one entry along the slices when these were measured alike."""
    return counts[..., :1] if bool((counts == counts[..., :1]).all()) else counts
