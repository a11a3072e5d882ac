# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Writers of simulated ISMRMRD and fastMRI files, for tests and benchmarks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import ismrmrd.xsd as mrd
import numpy as np
import torch
from torch import Tensor

from diffrecon_mri.ismrmrd.simulated_header import simulated_header
from diffrecon_mri.noncartesian.nufft import nufft
from diffrecon_mri.orientation import closest_ras, directions_of, lps_to_ras

#: Dwell time of simulated samples, microseconds.
_DWELL = 5.0


@dataclass(frozen=True)
class Receiver:
    """The noise of a simulated acquisition.

    Attributes:
        std: standard deviation of each real component of each sample.
        covariance: its covariance between coils (coils, coils), complex Hermitian; wins over ``std``.
        scans: noise acquisitions to write.
        seed: seed of the noise.
    """

    std: float = 0.0
    covariance: Tensor | None = None
    scans: int = 0
    seed: int = 0


def write_ismrmrd(
    path: Path,
    volume: Tensor,
    coil_maps: Tensor | None = None,
    *,
    affine: np.ndarray | None = None,
    axes: str = "RAS",
    mask: Tensor | None = None,
    trajectory: Tensor | None = None,
    shot: int | None = None,
    volumetric: bool = False,
    oversampling: float = 2.0,
    acceleration: float = 1.0,
    receiver: Receiver | None = None,
    subject: str = "",
) -> None:
    """Write an ISMRMRD file of a simulated acquisition.

    Args:
        path: file to write.
        volume: complex (X, Y, Z) in RAS+ order.
        coil_maps: complex (coils, X, Y, Z); None for a single coil.
        affine: 4 x 4 voxel-to-world matrix of the volume, mm; None for 1 mm.
        axes: which axes of the volume readout, phase and slices run along, and in which direction: RAS, ALS, ...
        mask: measured lines (phase,), or (phase, partition) of a 3D acquisition; None for all.
        trajectory: (samples, 2) along readout and phase, cycles per field of view; makes the acquisition radial.
        shot: samples of an acquisition of the trajectory; None for all in one.
        volumetric: Fourier-encode the slices, too.
        oversampling: of the Cartesian readout.
        acceleration: what the header says of the first phase encoding.
        receiver: the noise; None for none.
        subject: name of the subject to write into the header, to see that no reader repeats it.
    """
    receiver = receiver or Receiver()
    images, frame = _acquisition_frame(volume, coil_maps, affine, axes)
    coils, n0, n1, n2 = images.shape
    over = 1.0 if trajectory is not None else oversampling
    wide = round(n0 * over)
    noise = _Noise(receiver, coils)
    spacing = np.linalg.norm(frame[:3, :3], axis=0)
    unit = frame[:3, :3] / spacing
    directions = {name: tuple(lps_to_ras(unit[:, i])) for i, name in enumerate(("read_dir", "phase_dir", "slice_dir"))}
    lines = _acquisitions(images, mask, trajectory, shot, wide=wide, volumetric=volumetric)
    acquisitions = [
        _acquisition(noise.draw(wide), scan, flag=ismrmrd.ACQ_IS_NOISE_MEASUREMENT) for scan in range(receiver.scans)
    ]
    for number, (samples, k, (step1, third)) in enumerate(lines):
        centre = [n0 // 2, n1 // 2, n2 // 2 if volumetric else third, 1]
        acquisitions.append(
            _acquisition(
                samples.numpy() + noise.draw(samples.shape[1]),
                number,
                trajectory=k,
                counters={"kspace_encode_step_1": step1, ("kspace_encode_step_2" if volumetric else "slice"): third},
                fields={
                    **directions,
                    "position": tuple(lps_to_ras((frame @ centre)[:3])),
                    "center_sample": 0 if k is not None else wide // 2,
                },
            )
        )
    with ismrmrd.File(path, "w") as file:
        dataset = file["dataset"]
        dataset.header = simulated_header(
            (n0, n1, n2), spacing, wide, volumetric, trajectory is not None, acceleration, subject
        )
        dataset.acquisitions = acquisitions


def write_fastmri(
    path: Path,
    volume: Tensor,
    coil_maps: Tensor | None = None,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    axes: str = "RAS",
    mask: Tensor | None = None,
    oversampling: float = 2.0,
    receiver: Receiver | None = None,
    header: bool = True,
    store_mask: bool = True,
    subject: str = "",
) -> None:
    """Write a file in the layout of fastMRI: ``kspace``, and when given ``mask`` and ``ismrmrd_header``.

    Args:
        path: file to write.
        volume: complex (X, Y, Z).
        coil_maps: complex (coils, X, Y, Z); None writes single-coil k-space (slices, readout, phase).
        spacing: voxel size of the volume, mm.
        axes: as for :func:`write_ismrmrd`.
        mask: measured columns (phase,); None for all.
        oversampling: of the readout.
        receiver: the noise; noise acquisitions have no place in the format.
        header: write the ISMRMRD header.
        store_mask: write the mask; without it, only the zeros show it.
        subject: name of the subject for the header and the attributes.
    """
    receiver = receiver or Receiver()
    images, frame = _acquisition_frame(volume, coil_maps, np.diag([*spacing, 1.0]), axes)
    coils, n0, n1, n2 = images.shape
    wide = round(n0 * oversampling)
    k = _fft(_padded(images, wide), (1, 2))
    k = k + torch.from_numpy(_Noise(receiver, coils).draw(wide * n1 * n2)).reshape(k.shape)
    measured = torch.ones(n1, dtype=torch.bool) if mask is None else mask.bool()
    stored = (k * measured[:, None]).permute(3, 0, 1, 2).numpy().astype(np.complex64)
    xml = mrd.ToXML(
        simulated_header((n0, n1, n2), np.linalg.norm(frame[:3, :3], axis=0), wide, False, False, 1.0, subject)
    )
    with h5py.File(path, "w") as file:
        file["kspace"] = stored if coil_maps is not None else stored[:, 0]
        if mask is not None and store_mask:
            file["mask"] = measured.numpy().astype(np.float32)
        if header:
            file["ismrmrd_header"] = xml
        file.attrs["patient_id"] = subject


class _Noise:
    """Draws noise of a receiver, coil by coil correlated."""

    def __init__(self, receiver: Receiver, coils: int) -> None:
        covariance = receiver.covariance
        covariance = receiver.std**2 * torch.eye(coils) if covariance is None else covariance
        quiet = not bool(covariance.abs().any())
        self._factor = None if quiet else torch.linalg.cholesky(covariance.to(torch.complex128)).numpy()
        self._rng = np.random.default_rng(receiver.seed)
        self._coils = coils

    def draw(self, count: int) -> np.ndarray:
        if self._factor is None:
            return np.zeros((self._coils, count), np.complex64)
        real, imaginary = self._rng.standard_normal((2, self._coils, count))
        return (self._factor @ (real + 1j * imaginary)).astype(np.complex64)


def _acquisition_frame(
    volume: Tensor, coil_maps: Tensor | None, affine: np.ndarray | None, axes: str
) -> tuple[Tensor, np.ndarray]:
    """Return coil images (coils, readout, phase, slice), and the affine of these axes in RAS+."""
    images = volume.to(torch.complex64)[None]
    images = images if coil_maps is None else coil_maps * images
    order, flips = closest_ras(directions_of(axes, "axes"))
    frame = np.eye(4) if affine is None else np.array(affine, dtype=np.float64)
    out = frame.copy()
    for x, axis in enumerate(order):
        out[:3, axis] = frame[:3, x]
    images = images.permute(0, *(1 + order.index(axis) for axis in range(3)))
    for axis, flip in enumerate(flips):
        if flip:
            images = images.flip(1 + axis)
            out[:3, 3] += out[:3, axis] * (images.shape[1 + axis] - 1)
            out[:3, axis] *= -1
    return images, out


def _acquisitions(
    images: Tensor, mask: Tensor | None, trajectory: Tensor | None, shot: int | None, *, wide: int, volumetric: bool
) -> list[tuple[Tensor, np.ndarray | None, tuple[int, int]]]:
    """Return (samples (coils, n), trajectory or None, (line, slice or partition)) of each acquisition."""
    _, n0, n1, n2 = images.shape
    if trajectory is not None:
        k = trajectory.double() / torch.tensor([n0, n1], dtype=torch.float64)
        y = nufft(images.movedim(-1, 1), (2.0 * math.pi * k).T.contiguous())
        count = int(k.shape[0])
        shot = shot or count
        starts = range(0, count, shot)
        return [
            (y[:, z, start : start + shot], k[start : start + shot].numpy(), (number, z))
            for z in range(n2)
            for number, start in enumerate(starts)
        ]
    full = _fft(_padded(images, wide), (1, 2, 3) if volumetric else (1, 2))
    measured = torch.ones(n1, dtype=torch.bool) if mask is None else mask.bool()
    measured = measured if measured.ndim == 2 else measured[:, None].expand(n1, n2)
    return [(full[:, :, j, z], None, (j, z)) for z in range(n2) for j in range(n1) if bool(measured[j, z])]


def _padded(images: Tensor, wide: int) -> Tensor:
    n = images.shape[1]
    out = images.new_zeros((images.shape[0], wide, *images.shape[2:]))
    start = wide // 2 - n // 2
    out[:, start : start + n] = images
    return out


def _fft(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, dims), dim=dims, norm="ortho"), dims)


def _acquisition(
    samples: np.ndarray,
    number: int,
    *,
    trajectory: np.ndarray | None = None,
    flag: int | None = None,
    counters: dict[str, int] | None = None,
    fields: dict[str, Any] | None = None,
) -> Any:
    k = None if trajectory is None else trajectory.astype(np.float32)
    acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples, np.complex64), k, scan_counter=number)
    acquisition.sample_time_us = _DWELL
    for name, value in (fields or {}).items():
        setattr(acquisition, name, value)
    for name, value in (counters or {}).items():
        setattr(acquisition.idx, name, value)
    if flag is not None:
        acquisition.setFlag(flag)
    return acquisition
