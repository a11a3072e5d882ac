# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Radial and spiral acquisitions of an ISMRMRD file."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from diffrecon_mri.acquired import check_samples, geometry_of
from diffrecon_mri.coil_maps import SMALLEST_CALIBRATION, calibration_width, espirit_maps, low_resolution_maps
from diffrecon_mri.encoded_grid import resampling_notice, voxels_of
from diffrecon_mri.ismrmrd.acquisitions import Acquisitions
from diffrecon_mri.ismrmrd.cartesian import slice_positions, stack_affine
from diffrecon_mri.ismrmrd.header import check_amount
from diffrecon_mri.noncartesian.operator import NoncartesianMRI
from diffrecon_mri.orientation import UNKNOWN_ORIENTATION, closest_ras, flip_phase, ras_affine
from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.mri.fourier import centred_fft
from monai_diffrecon.protocols import Measurement, VolumeGeometry


def to_measurement(
    acquisitions: Acquisitions,
    *,
    unit: str,
    spacing: float | None,
    method: str,
    width: int,
    source: str,
    where: str,
) -> Measurement:
    """Return the measurement of ``noncartesian_mri`` in RAS+ order, with coil maps from the gridded centre of k-space.

    The voxels have the encoded resolution, or the wanted one; the volume has the reconstructed field of view. Samples
    beyond that resolution (the ends of spokes that overshoot) are left out.

    Args:
        acquisitions: what the file holds.
        unit: of the stored trajectory: ``cycles_per_voxel`` of the encoded matrix, ``cycles_per_fov`` of the encoded
            field of view, or ``auto``: per voxel when no number is above 0.5.
        spacing: wanted voxel size within the slices, mm; None for the encoded one.
        method: ``espirit`` or ``low_resolution`` coil maps.
        width: largest width of the calibration region, samples.
        source: hash of the file.
        where: name of the file, for messages.

    Raises:
        InputError: no 2D trajectory, one that differs between slices, slices that are not axial, or several coils
            without a calibration region.
    """
    a, e = acquisitions, acquisitions.encoding
    if e.encoded.matrix[2] > 1 or int(a.heads["idx"]["kspace_encode_step_2"].max()) > 0:
        raise InputError("a non-Cartesian 3D acquisition", where=where, expected="2D slices")
    positions, slice_of = slice_positions(a.heads, volumetric=False, where=where)
    size = [max(round(e.encoded.matrix[i] * e.recon.fov[i] / e.encoded.fov[i]), 1) for i in range(2)]
    check_amount(math.prod(size) * len(positions), sum(d.size for d in a.data), where)
    k, data = _stacked(a, slice_of, where)
    check_samples(data, where)
    if unit == "cycles_per_voxel" or (unit == "auto" and float(k.abs().max()) <= 0.5 + 1e-6):
        k = k * torch.tensor(size, dtype=torch.float64)
    else:
        k = k * torch.tensor([e.recon.fov[i] / e.encoded.fov[i] for i in range(2)], dtype=torch.float64)
    size_mm = np.array([e.encoded.fov[i] / e.encoded.matrix[i] for i in range(2)])
    notices, scale = [], 1.0
    if spacing is not None:
        wanted = voxels_of((size[0], size[1]), size_mm, spacing, where)
        growth = np.array(size) / wanted
        if wanted != size:
            notices.append(resampling_notice(size_mm, size_mm * growth))
        # The transform of noncartesian_mri is divided by the root of the number of voxels.
        size, size_mm, scale = wanted, size_mm * growth, float(growth.prod()) ** -0.5
    inside = (k.abs() <= torch.tensor(size, dtype=torch.float64) / 2 * (1 + 1e-6)).all(1)
    k, data = k[inside], data[:, inside] * scale
    voxel = (float(size_mm[0]), float(size_mm[1]), e.encoded.fov[2])
    shape = (size[0], size[1], len(positions))
    affine, located = stack_affine(a.heads, positions, shape, voxel, volumetric=False, where=where)
    order, flips = closest_ras(affine[:3, :3])
    if order[2] != 2:
        plane = "sagittal" if order[0] == 2 else "coronal"
        raise InputError(
            f"{plane} non-Cartesian slices", where=where, expected="axial ones, or a Cartesian acquisition"
        )
    for axis in range(2):
        if flips[axis]:
            k[:, axis] = -k[:, axis]
            data = data * flip_phase(k[:, axis], size[axis], size[axis]).to(data)[:, None]
    data = data.flip(-1) if flips[2] else data
    k = k[:, list(order[:2])]
    geometry = geometry_of(ras_affine(affine, shape), tuple(shape[i] for i in order), located=located)
    maps = _coil_maps(k, data, geometry, method, width, where) if data.shape[0] > 1 else None
    return Measurement(
        data=data.contiguous(),
        geometry=geometry,
        operator={"name": "noncartesian_mri", "trajectory": k.float(), "coil_maps": maps, "complex_volume": True},
        noise_std=(a.noise_std or 0.0) * scale,
        unit="arbitrary",
        source_sha256=source,
        notices=(*notices, *(() if located else (UNKNOWN_ORIENTATION,))),
    )


def _stacked(a: Acquisitions, slice_of: dict[int, int], where: str) -> tuple[Tensor, Tensor]:
    """Return the trajectory (samples, 2), float64, and the data (coils, samples, slices)."""
    if a.trajectories[0].shape[1] != 2:
        raise InputError(
            "no 2D trajectory in the acquisitions", where=where, expected=2, got=a.trajectories[0].shape[1]
        )
    slices = np.array([slice_of[int(s)] for s in a.heads["idx"]["slice"]])
    members = [np.flatnonzero(slices == z) for z in range(len(slice_of))]
    # Spokes are told apart by their counters; files that leave those at 0 by the order of acquisition.
    steps, averages = a.heads["idx"]["kspace_encode_step_1"], a.heads["idx"]["average"]
    members = [m[np.lexsort((averages[m], steps[m]))] for m in members]
    if len({len(m) for m in members}) != 1:
        raise InputError("the slices have different numbers of spokes", where=where, got=[len(m) for m in members])
    trajectories = [np.concatenate([a.trajectories[i] for i in m]) for m in members]
    first = trajectories[0]
    tolerance = 1e-4 * max(float(np.abs(first).max()), 1e-12)
    if any(t.shape != first.shape or float(np.abs(t - first).max()) > tolerance for t in trajectories):
        raise InputError("the trajectory differs between slices", where=where, expected="one trajectory for all slices")
    data = np.stack([np.concatenate([a.data[i] for i in m], axis=1) for m in members], -1)
    return torch.from_numpy(first.astype(np.float64)), torch.from_numpy(data)


def _coil_maps(k: Tensor, data: Tensor, geometry: VolumeGeometry, method: str, width: int, where: str) -> Tensor:
    x, y = geometry.shape[:2]
    mask = torch.zeros(x, y, dtype=torch.bool)
    index = k.round().long() + torch.tensor([x // 2, y // 2])
    index = torch.minimum(index.clamp_min(0), torch.tensor([x - 1, y - 1]))
    mask[index[:, 0], index[:, 1]] = True
    found = calibration_width(mask, width)
    if method == "espirit" and found < SMALLEST_CALIBRATION:
        raise InputError(
            "no calibration region",
            where=where,
            expected=f"samples in each cell of the central {SMALLEST_CALIBRATION} x {SMALLEST_CALIBRATION} or more",
            got=f"{found} x {found}",
            mend="use the reader's option coil_maps: low_resolution, or give coil maps of your own",
        )
    kspace = gridded_centre(k, data, geometry, found)
    return (
        espirit_maps(kspace, found, where=where) if method == "espirit" else low_resolution_maps(kspace, max(found, 4))
    )


def gridded_centre(k: Tensor, data: Tensor, geometry: VolumeGeometry, width: int) -> Tensor:
    """Return the Cartesian k-space (coils, X, Y, Z) around the centre, by density-compensated gridding.

    Samples fade out between a radius that holds the central ``width`` x ``width`` square and 1.5 times that.

    Args:
        k: trajectory (samples, 2), cycles per field of view.
        data: samples (coils, samples, Z).
        geometry: the volume.
        width: width of the square that is to be right.
    """
    radius = k.norm(dim=1) / (width / math.sqrt(2.0) + 1.0)
    near = radius < 1.5
    gate = (0.5 + 0.5 * torch.cos(math.pi * (2.0 * (radius[near] - 1.0)).clamp(0.0, 1.0))).float()
    # Coils stand behind each other as slices: one transform for all.
    x, y, z = geometry.shape
    stack = VolumeGeometry((x, y, z * data.shape[0]))
    gridding = NoncartesianMRI(stack, trajectory=k[near], complex_volume=True)
    samples = (data[:, near] * gate[:, None]).movedim(0, -1).reshape(1, int(near.sum()), -1)
    images = gridding.initial(samples)[0].reshape(*geometry.shape, data.shape[0])
    return centred_fft(images.movedim(-1, 0))
