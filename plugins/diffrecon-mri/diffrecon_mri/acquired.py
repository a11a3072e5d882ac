# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cartesian k-space as acquired, and the measurement that it becomes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffrecon_mri.coil_maps import SMALLEST_CALIBRATION, calibration_width, espirit_maps, low_resolution_maps
from diffrecon_mri.orientation import closest_ras, flip_kspace, ras_affine, reverse_frequencies
from monai_diffrecon.errors import InputError
from monai_diffrecon.protocols import PLANE_AXIS, Measurement, VolumeGeometry

#: No receiver counts so far.
_LARGEST = 1e15


@dataclass(frozen=True)
class Acquired:
    """Centred orthonormal k-space in the order of the acquisition.

    Attributes:
        kspace: complex64 (coils, readout, phase, slice or partition), 0 where not measured.
        counts: how often each entry was measured, float32 (readout, phase, 1 or partition).
        affine: 4 x 4 voxel-to-world matrix of the array's axes in RAS+, mm.
        located: the affine says where the volume lies, not only its voxel size.
        volumetric: the third axis is Fourier-encoded, too.
        noise_std: standard deviation of each real component of an entry measured once; 0 when unknown.
        calibration: separate calibration data of the shape of ``kspace``, or None.
        calibrated: where those were measured, (readout, phase, 1 or partition), or None.
    """

    kspace: Tensor
    counts: Tensor
    affine: np.ndarray
    located: bool
    volumetric: bool
    noise_std: float
    calibration: Tensor | None = None
    calibrated: Tensor | None = None


def centred_fft_along(x: Tensor, dim: int) -> Tensor:
    """Return the centred orthonormal transform along one axis."""
    return torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(x, dim=dim), dim=dim, norm="ortho"), dim=dim)


def centred_ifft_along(k: Tensor, dim: int) -> Tensor:
    """Return the inverse of :func:`centred_fft_along`."""
    return torch.fft.fftshift(torch.fft.ifft(torch.fft.ifftshift(k, dim=dim), dim=dim, norm="ortho"), dim=dim)


def geometry_of(affine: np.ndarray, shape: tuple[int, ...], *, located: bool) -> VolumeGeometry:
    """Return the geometry of a volume in RAS+ order."""
    spacing = [float(s) for s in np.linalg.norm(affine[:3, :3], axis=0)]
    rows = tuple(tuple(float(v) for v in row) for row in affine)
    x, y, z = (int(n) for n in shape)
    return VolumeGeometry((x, y, z), (spacing[0], spacing[1], spacing[2]), rows if located else None)


def to_measurement(acquired: Acquired, *, method: str, width: int, source: str, where: str) -> Measurement:
    """Return the measurement in RAS+ order, with coil maps.

    Slices across Z are measured by ``cartesian_mri``; the rest by ``cartesian_mri_3d``. Slices across X or Y go there
    by a transform along the slices, which keeps the noise as it is, and the mask is one of the two axes in the plane.

    Args:
        acquired: the k-space.
        method: ``espirit`` or ``low_resolution`` coil maps.
        width: largest width of the calibration region, samples.
        source: hash of the file.
        where: name of the file, for messages.

    Raises:
        InputError: several coils without a calibration region.
    """
    check_samples(acquired.kspace, where)
    if acquired.calibration is not None:
        check_samples(acquired.calibration, where)
    shape = acquired.kspace.shape[1:]
    order, _ = closest_ras(acquired.affine[:3, :3])
    affine = ras_affine(acquired.affine, (shape[0], shape[1], shape[2]))
    a = _to_ras(acquired)
    # The axis along which whole slices can be taken out: the slices, or the readout of a 3D acquisition.
    free = order.index(0 if a.volumetric else 2)
    maps = _coil_maps(a, free, method, width, where) if a.kspace.shape[0] > 1 else None
    plane = next(name for name, axis in PLANE_AXIS.items() if axis == free)
    counts = a.counts
    operator: dict[str, Any] = {"name": "cartesian_mri", "coil_maps": maps, "complex_volume": True}
    data = a.kspace
    if a.volumetric or free != 2:
        operator |= {"name": "cartesian_mri_3d", "readout": plane}
        data = data if a.volumetric else centred_fft_along(data, free - 3)
    mask = counts.amax(free) > 0
    most = float(counts.max())
    weights = None
    # Where the mask says measured and the counts differ: averages, or the end of an asymmetric readout.
    if not bool((counts == most * mask.unsqueeze(free)).all()):
        weights = (counts / most).expand(data.shape).contiguous()
    return Measurement(
        data=data.contiguous(),
        geometry=geometry_of(affine, data.shape[1:], located=a.located),
        operator=operator | {"mask": mask},
        noise_std=a.noise_std / most**0.5,
        weights=weights,
        unit="arbitrary",
        source_sha256=source,
    )


def check_samples(kspace: Tensor, where: str) -> None:
    """Refuse samples whose transforms and squares single precision cannot hold.

    Raises:
        InputError: some of them are.
    """
    if not bool((kspace.abs() < _LARGEST).all()):
        raise InputError("samples that are no signal", where=where, expected=f"numbers below {_LARGEST:g}")


def _to_ras(a: Acquired) -> Acquired:
    """Return the acquisition with its axes permuted and flipped to X, Y, Z."""
    order, flips = closest_ras(a.affine[:3, :3])

    def turned(x: Tensor | None, *, phases: bool) -> Tensor | None:
        if x is None:
            return None
        for axis, flip in enumerate(flips):
            dim = axis - 3
            if flip and axis == 2 and not a.volumetric:
                x = x.flip(dim)
            elif flip:
                x = flip_kspace(x, dim) if phases else reverse_frequencies(x, dim)
        return x.permute(*range(x.ndim - 3), *(x.ndim - 3 + axis for axis in order))

    kspace, counts = turned(a.kspace, phases=True), turned(a.counts, phases=False)
    assert kspace is not None
    assert counts is not None
    return replace(
        a,
        kspace=kspace,
        counts=counts,
        calibration=turned(a.calibration, phases=True),
        calibrated=turned(a.calibrated, phases=False),
    )


def _coil_maps(a: Acquired, free: int, method: str, width: int, where: str) -> Tensor:
    """Return coil maps (coils, X, Y, Z), found slice by slice across the axis ``free``."""
    separate = a.calibration is not None and a.calibrated is not None
    data = a.calibration if separate else a.kspace
    measured = a.calibrated if separate else a.counts
    assert data is not None
    assert measured is not None
    mask = measured.amin(free) > 0 if a.volumetric and bool(measured.amin(free).any()) else measured.amax(free) > 0
    found = calibration_width(mask, width)
    if method == "espirit" and found < SMALLEST_CALIBRATION:
        accelerated = not bool((a.counts.amax(free) > 0).all())
        raise InputError(
            "acceleration without a calibration region" if accelerated else "no calibration region",
            where=where,
            expected=f"the central {SMALLEST_CALIBRATION} x {SMALLEST_CALIBRATION} samples or more, measured in full",
            got=f"{found} x {found}",
            mend="use the reader's option coil_maps: low_resolution, or give coil maps of your own",
        )
    hybrid = centred_ifft_along(data, free - 3) if a.volumetric else data
    slices = hybrid.movedim(free - 3, -1)
    maps = (
        espirit_maps(slices, found, where=where) if method == "espirit" else low_resolution_maps(slices, max(found, 4))
    )
    return maps.movedim(-1, free - 3).contiguous()
