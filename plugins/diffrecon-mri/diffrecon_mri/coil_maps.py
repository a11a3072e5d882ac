# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Coil sensitivities from k-space: ESPIRiT, or low-resolution images."""

from __future__ import annotations

import numpy as np
import torch
from sigpy.mri.app import EspiritCalib
from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.mri.fourier import centred_ifft

#: Width of ESPIRiT's kernels, samples.
KERNEL_WIDTH = 6
#: Smallest calibration region from which ESPIRiT's kernels are found.
SMALLEST_CALIBRATION = 12


def calibration_width(sampled: Tensor, limit: int = 24) -> int:
    """Return the width of the largest centred square of a mask (n1, n2) that is measured in full, up to ``limit``."""
    width = 0
    for candidate in range(1, min(limit, *sampled.shape) + 1):
        if not bool(sampled[_centre(sampled.shape[0], candidate), _centre(sampled.shape[1], candidate)].all()):
            break
        width = candidate
    return width


def calibration_box(sampled: Tensor, limit: int = 24) -> tuple[int, tuple[int, int]]:
    """Return the width of the largest square around the centre that is measured in full, and what makes it central.

    Partial echoes and partial Fourier leave little on one side of the centre: the square may lie beside it, as long as
    it holds it. The square is central after a roll by the second number along each axis.

    Args:
        sampled: mask (n1, n2).
        limit: largest width.
    """
    n1, n2 = sampled.shape
    missing = (~sampled).float()[None, None]
    for width in range(min(limit, n1, n2), 0, -1):
        free = torch.nn.functional.max_pool2d(missing, width, 1)[0, 0] == 0
        starts = free.nonzero() - torch.tensor([n1 // 2, n2 // 2])
        starts = starts[((starts <= 0) & (starts > -width)).all(1)] + width // 2
        if len(starts):
            best = starts[starts.abs().sum(1).argmin()]
            return width, (-int(best[0]), -int(best[1]))
    return 0, (0, 0)


def espirit_maps(
    kspace: Tensor, width: int = 24, *, crop: float = 0.95, threshold: float = 0.02, where: str = "coil maps"
) -> Tensor:
    """Return the coil maps (coils, X, Y, Z) of each axial slice by ESPIRiT, complex64.

    Uecker et al. 2014, doi 10.1002/mrm.24751, as sigpy computes it. The sum of the squared magnitudes is 1, or 0 where
    the largest eigenvalue is no more than ``crop``. ESPIRiT leaves the phase of each voxel open: it is that of a
    virtual coil, the combination of coils that holds most of the energy (Buehrer et al. 2007, doi 10.1002/mrm.21237).

    Args:
        kspace: centred k-space of axial slices (coils, X, Y, Z); only the calibration region is looked at.
        width: width of the calibration region along X and Y, samples.
        crop: eigenvalue up to which there is no object.
        threshold: singular values of the calibration matrix to keep, relative to the largest.
        where: what is being read, for messages.

    Raises:
        InputError: the calibration region is too small.
    """
    if width < SMALLEST_CALIBRATION or width > min(kspace.shape[1:3]):
        raise InputError(
            "no calibration region",
            where=where,
            expected=f"the central {SMALLEST_CALIBRATION} x {SMALLEST_CALIBRATION} samples or more, measured in full",
            got=f"{width} x {width}",
            mend="use the reader's option coil_maps: low_resolution, or give coil maps of your own",
        )
    k = kspace.detach().cpu().to(torch.complex64)
    centre = k[:, _centre(k.shape[1], width), _centre(k.shape[2], width)]
    reference = _virtual_coil(centre)
    maps = torch.zeros_like(k)
    for z in range(k.shape[-1]):
        if not bool(centre[..., z].any()):
            continue  # nothing was measured here: no maps
        # sigpy divides by the first coil's magnitude, which may be 0 somewhere.
        with np.errstate(divide="ignore", invalid="ignore"):
            app = EspiritCalib(
                np.ascontiguousarray(k[..., z].numpy()),
                calib_width=width,
                thresh=threshold,
                kernel_width=KERNEL_WIDTH,
                crop=crop,
                show_pbar=False,
            )
            found = np.nan_to_num(app.run())
        maps[..., z] = torch.from_numpy(found)
    phase = torch.einsum("c,cxyz->xyz", reference.conj(), maps)
    maps = maps * torch.where(phase.abs() > 0, phase.conj() / phase.abs().clamp_min(1e-12), torch.ones_like(phase))
    return _normalized(maps)


def low_resolution_maps(kspace: Tensor, width: int = 24, *, floor: float = 0.05) -> Tensor:
    """Return the low-resolution coil images over their root sum of squares (coils, X, Y, Z), complex64.

    The fallback for calibration regions too small for ESPIRiT. The phase of the object is in the maps, at low
    resolution. 0 where the sum is below ``floor`` of its maximum.

    Args:
        kspace: centred k-space of axial slices (coils, X, Y, Z).
        width: samples to use along X and Y; they are apodized by a Hann window.
        floor: part of the maximum below which there is no object.
    """
    k = kspace.to(torch.complex64)
    window = torch.outer(_hann(k.shape[1], width), _hann(k.shape[2], width)).to(k.device)
    images = centred_ifft(k * window[:, :, None])
    power = images.abs().square().sum(0)
    return _normalized(torch.where(power > floor**2 * power.max(), images, torch.zeros_like(images)))


def _normalized(maps: Tensor) -> Tensor:
    root = maps.abs().square().sum(0).sqrt()
    return torch.where(root > 0, maps / root.clamp_min(1e-20), torch.zeros_like(maps))


def _virtual_coil(centre: Tensor) -> Tensor:
    """Return the weights (coils,) of the combination of coils with most energy: the first principal component."""
    samples = centre.flatten(1).to(torch.complex128)
    return torch.linalg.eigh(samples @ samples.mH).eigenvectors[:, -1].to(torch.complex64)


def _centre(n: int, width: int) -> slice:
    start = n // 2 - width // 2
    return slice(start, start + width)


def _hann(n: int, width: int) -> Tensor:
    distance = (torch.arange(n) - n // 2).abs() / (width / 2 + 1)
    return torch.where(distance < 1, 0.5 + 0.5 * torch.cos(torch.pi * distance), torch.zeros(n))
