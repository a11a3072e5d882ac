# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cartesian k-space as acquired, and the measurement that it becomes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from diffrecon_mri.coil_maps import SMALLEST_CALIBRATION, calibration_box, espirit_maps, low_resolution_maps
from diffrecon_mri.orientation import closest_ras, flip_kspace, ras_affine, reverse_frequencies
from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.mri.fourier import centred_fft, centred_ifft
from monai_diffrecon.numerics.mri.kspace_grid import centred_resize
from monai_diffrecon.protocols import PLANE_AXIS, Measurement, VolumeGeometry

#: No receiver counts so far.
_LARGEST = 1e15


@dataclass(frozen=True)
class Acquired:
    """Centred orthonormal k-space in the order of the acquisition.

    Attributes:
        kspace: complex64 (coils, readout, phase, slice or partition), 0 where not measured.
        counts: how often each entry was measured, float32 (readout, phase, slice or partition; 1 when all slices are
            alike).
        affine: 4 x 4 voxel-to-world matrix of the volume in the array's order of axes, RAS+, mm.
        voxels: of the volume along the readout; fewer than samples with readout oversampling.
        located: the affine says where the volume lies, not only its voxel size.
        volumetric: the third axis is Fourier-encoded, too.
        noise_std: standard deviation of each real component of an entry measured once; 0 when unknown.
        calibration: separate calibration data of the shape of ``kspace``, or None.
        calibrated: where those were measured, of the shape of ``counts``, or None.
        maps: coil maps (coils, readout, phase, slice or partition) of the volume, or None to estimate them.
        frames: the third axis is time: one set of maps is estimated, from the mean of the frames.
        notices: sentences for ``Measurement.notices``.
    """

    kspace: Tensor
    counts: Tensor
    affine: np.ndarray
    voxels: int
    located: bool
    volumetric: bool
    noise_std: float
    calibration: Tensor | None = None
    calibrated: Tensor | None = None
    maps: Tensor | None = None
    frames: bool = False
    notices: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the volume in the array's order of axes."""
        return self.voxels, int(self.kspace.shape[2]), int(self.kspace.shape[3])


def geometry_of(affine: np.ndarray, shape: tuple[int, ...], *, located: bool) -> VolumeGeometry:
    """Return the geometry of a volume in RAS+ order; without an affine when it is not known how it lies."""
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
        InputError: several coils without a calibration region, or slices across X or Y of different masks.
    """
    check_samples(acquired.kspace, where)
    if acquired.calibration is not None:
        check_samples(acquired.calibration, where)
    order, _ = closest_ras(acquired.affine[:3, :3])
    affine = ras_affine(acquired.affine, acquired.shape)
    shape = tuple(acquired.shape[axis] for axis in order)
    a = _to_ras(acquired)
    # The axis along which whole slices can be taken out: the slices, or the readout of a 3D acquisition.
    free = order.index(0 if a.volumetric else 2)
    maps = a.maps
    if maps is None and a.kspace.shape[0] > 1:
        maps = _coil_maps(a, shape, free, method, width, where)
    plane = next(name for name, axis in PLANE_AXIS.items() if axis == free)
    mask, counts = a.counts > 0, a.counts
    alike = bool((mask == mask.narrow(free, 0, 1)).all())
    operator: dict[str, Any] = {"name": "cartesian_mri", "coil_maps": maps, "complex_volume": True}
    data = a.kspace
    if a.volumetric or free != 2:
        operator |= {"name": "cartesian_mri_3d", "readout": plane}
    if not a.volumetric and free != 2:
        if not alike:
            raise InputError(f"{plane} slices of different masks", where=where, expected="one mask for all")
        data, counts = centred_fft(data, (free - 3,)), counts.amin(free, keepdim=True)
    if tuple(data.shape[1:]) != shape:
        operator["encoded"] = list(data.shape[1:])
    most = float(counts.max())
    # Where something was measured and the counts differ: averages.
    weights = None if bool((counts[counts > 0] == most).all()) else (counts / most).expand(data.shape).contiguous()
    return Measurement(
        data=data.contiguous(),
        geometry=geometry_of(affine, shape, located=a.located),
        operator=operator | {"mask": mask.select(free, 0) if alike else mask},
        noise_std=a.noise_std / most**0.5,
        weights=weights,
        unit="arbitrary",
        source_sha256=source,
        notices=a.notices,
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
                x = flip_kspace(x, dim, a.shape[axis]) if phases else reverse_frequencies(x, dim)
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
        maps=None if a.maps is None else _turned_image(a.maps, order, flips),
    )


def _turned_image(x: Tensor, order: tuple[int, ...], flips: tuple[bool, ...]) -> Tensor:
    """Return images (coils, readout, phase, slice or partition) with their axes permuted and flipped to X, Y, Z."""
    x = x.flip([axis + 1 for axis, flip in enumerate(flips) if flip])
    return x.permute(0, *(axis + 1 for axis in order)).contiguous()


def _coil_maps(a: Acquired, shape: tuple[int, ...], free: int, method: str, width: int, where: str) -> Tensor:
    """Return coil maps (coils, X, Y, Z) of a volume, found slice by slice across the axis ``free``."""
    separate = a.calibration is not None and a.calibrated is not None
    data = a.calibration if separate else a.kspace
    measured = a.calibrated if separate else a.counts
    assert data is not None
    assert measured is not None
    if a.frames:  # what is missing in one is measured in another
        measured = measured.expand(data.shape[1:]).sum(-1, keepdim=True)
        data = data.sum(-1, keepdim=True) / measured.clamp_min(1)
        frames, shape = shape[-1], (*shape[:2], 1)
    mask = measured.amin(free) > 0
    if a.volumetric and not bool(mask.any()):  # a partial echo
        mask = measured.amax(free) > 0
    found, shift = calibration_box(mask, width)
    if method == "espirit" and found < SMALLEST_CALIBRATION:
        accelerated = not bool((a.counts.amax(free) > 0).all())
        raise InputError(
            "acceleration without a calibration region" if accelerated else "no calibration region",
            where=where,
            expected=f"the central {SMALLEST_CALIBRATION} x {SMALLEST_CALIBRATION} samples or more, measured in full",
            got=f"{found} x {found}",
            mend="use the reader's option coil_maps: low_resolution, or give coil maps of your own",
        )
    hybrid = centred_resize(centred_ifft(data, (free - 3,)), free - 3, shape[free]) if a.volumetric else data
    slices = hybrid.movedim(free - 3, -1)
    if method == "espirit":
        # Maps do not change when k-space is shifted.
        maps = espirit_maps(slices.roll(shift, (-3, -2)), found, where=where)
    else:
        maps = low_resolution_maps(slices, max(found, 4))
    maps = maps.movedim(-1, free - 3)
    for axis in range(3):
        maps = centred_resize(maps, axis - 3, shape[axis])
    return (maps.expand(*maps.shape[:-1], frames) if a.frames else maps).contiguous()
