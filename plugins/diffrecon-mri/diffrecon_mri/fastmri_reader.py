# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reader of fastMRI files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import torch
from torch import Tensor

from diffrecon_mri.acquired import Acquired, to_measurement
from diffrecon_mri.encoded_grid import same_of_all, with_empty_slices, with_spacing, without_oversampling
from diffrecon_mri.hdf5_files import find_dataset, has_members, opened, read_text, sha256
from diffrecon_mri.ismrmrd.header import parse_header
from diffrecon_mri.kspace_noise import estimated_noise_std
from diffrecon_mri.orientation import UNKNOWN_ORIENTATION, directions_of
from monai_diffrecon.errors import InputError
from monai_diffrecon.errors.options import check_choice, check_integer, check_number
from monai_diffrecon.protocols import Measurement, MeasurementReader


class FastMRIReader(MeasurementReader):
    """Raw MRI in the layout of the fastMRI data set (.h5): Cartesian 2D slices, single- and multi-coil.

    Zbontar et al. 2018, arXiv 1811.08839. ``kspace`` is (slices, coils, readout, phase) or (slices, readout, phase).
    The readout is cropped to the reconstructed field of view of the header, as fastMRI crops its images; the phase axis
    is not, since its lines may be missing. A sample was measured when the mask, if there is one, says so and it is not
    0 in all coils. The files do not say which way the volume faces: ``axes`` does, and without it the orientation is
    unknown. Nothing about the subject, the study or dates is read.

    Args:
        axes: directions in which readout, phase and slice index grow: three of R or L, A or P, S or I. None: unknown;
            they are taken as X, Y and Z.
        coil_maps: ``espirit``, or ``low_resolution`` where the calibration region is too small for that.
        calibration: largest width of the calibration region, samples.
        noise_std: noise level in the units of the data; None estimates it from the outer k-space.
        spacing: voxel size (mm) wanted along readout and phase: k-space is cropped or zero-padded, and the field of
            view stays, so it is met to within half a voxel over all. None keeps what was measured.
    """

    API_VERSION: ClassVar[int] = 1

    def __init__(
        self,
        axes: str | None = None,
        coil_maps: str = "espirit",
        calibration: int = 24,
        noise_std: float | None = None,
        spacing: float | None = None,
    ) -> None:
        self.oriented = axes is not None
        self.directions = directions_of("RAS" if axes is None else axes, "reader#axes")
        self.method = check_choice(coil_maps, "reader#coil_maps", ("espirit", "low_resolution"))
        self.width = check_integer(calibration, "reader#calibration", low=4)
        self.noise_std = None if noise_std is None else check_number(noise_std, "reader#noise_std", low=0.0)
        self.spacing = None if spacing is None else check_number(spacing, "reader#spacing", low=0.0, open_low=True)

    def recognises(self, path: Path) -> bool:
        """Say whether the file is HDF5 with a member ``kspace``."""
        return has_members(Path(path), "kspace")

    def read(self, path: Path) -> Measurement:
        """Return what was measured, in the order that ``axes`` says.

        Raises:
            InputError: damaged, of another layout, several coils without a calibration region, or a voxel size wanted
                of a file that does not say its own.
        """
        path = Path(path)
        where = path.name
        with opened(path) as file:
            kspace, mask, header = _members(file, where)
        measured = _measured(kspace, mask, where)
        counts, notices = with_empty_slices(measured.float(), measured.any(2, keepdim=True).float(), where)
        k = torch.from_numpy(np.ascontiguousarray(kspace.transpose(1, 2, 3, 0))) * measured
        n0, n1, n2 = k.shape[1:]
        kept, spacing = n0, (1.0, 1.0, 1.0)
        if header is not None:
            e = parse_header(header, where)
            kept = min(max(round(n0 * e.recon.fov[0] / e.encoded.fov[0]), 1), n0)
            spacing = (e.encoded.fov[0] / n0, e.encoded.fov[1] / n1, e.encoded.fov[2] / e.encoded.matrix[2])
        elif self.spacing is not None:
            raise InputError(
                "no voxel size from which to come to another",
                where=where,
                expected="the field of view, in the member 'ismrmrd_header'",
                mend="leave the reader's option spacing out, and the voxels are taken for 1 mm",
            )
        affine = np.eye(4)
        affine[:3, :3] = self.directions * np.array(spacing)
        # Where it lies is not known, only how: its middle is put to the origin.
        affine[:3, 3] = -affine[:3, :3] @ np.array([kept // 2, n1 // 2, n2 // 2])
        level = estimated_noise_std(k, False) if self.noise_std is None else self.noise_std
        acquired = Acquired(
            kspace=k,
            counts=same_of_all(counts),
            affine=affine,
            voxels=kept,
            located=self.oriented,
            volumetric=False,
            noise_std=level,
            notices=(*_assumptions(self.oriented, None if header is None else spacing[2]), *notices),
        )
        acquired = without_oversampling(acquired)
        acquired = acquired if self.spacing is None else with_spacing(acquired, self.spacing, where)
        return to_measurement(acquired, method=self.method, width=self.width, source=sha256(path), where=where)


def _assumptions(oriented: bool, thickness: float | None) -> list[str]:
    """Return what is taken for granted, since the file does not say it."""
    said = []
    if not oriented:
        said.append(f"{UNKNOWN_ORIENTATION}; the reader's option axes says it")
    if thickness is None:
        said.append("the file does not say its voxel size: 1 mm is assumed along each axis")
    else:
        said.append(f"the file does not say how far apart its slices are: {thickness:g} mm is assumed, their thickness")
    return said


def _members(file: h5py.File, where: str) -> tuple[np.ndarray, np.ndarray | None, Any]:
    """Return k-space (slices, coils, readout, phase), the mask or None, and the header or None."""
    member = find_dataset(file, "kspace", where)
    if member is None:
        raise InputError("not a fastMRI file", where=where, expected="a member 'kspace'", got=", ".join(sorted(file)))
    if member.dtype.kind != "c" or member.ndim not in (3, 4) or 0 in member.shape:
        raise InputError(
            "not k-space of fastMRI's layout",
            where=where,
            expected="complex (slices, coils, readout, phase) or (slices, readout, phase)",
            got=f"{member.dtype} {member.shape}",
        )
    kspace = member[:].astype(np.complex64)
    stored = find_dataset(file, "mask", where)
    mask = None if stored is None else np.atleast_1d(stored[()])
    if mask is not None and mask.dtype.kind not in "biuf":
        raise InputError("a mask of no numbers", where=where, got=mask.dtype)
    header = read_text(file, "ismrmrd_header", where)
    return kspace if kspace.ndim == 4 else kspace[:, None], mask, header


def _measured(kspace: np.ndarray, mask: np.ndarray | None, where: str) -> Tensor:
    """Return where was measured (readout, phase, slices): what the mask says, and is not 0 in all coils."""
    if not np.isfinite(kspace).all():
        raise InputError("samples that are not finite", where=where, mend="repair the measurement")
    filled = (kspace != 0).any(axis=1)
    if mask is None:
        lines = filled.any(1)
        used = lines.any(1)  # a slice that is 0 throughout says nothing
        if not (lines[used] == lines.any(0)).all():
            raise InputError(
                "missing encoding lines: the slices were not measured alike", where=where, expected="one mask for all"
            )
    else:
        filled &= _stored_mask(mask, filled.shape, where)
    return torch.from_numpy(np.ascontiguousarray(filled.transpose(1, 2, 0)))


def _stored_mask(mask: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Return a mask of columns, of samples, or of the samples of each slice, as one that broadcasts to ``shape``."""
    for kind in (shape[2:], shape[1:], shape):
        if mask.size == np.prod(kind) and tuple(n for n in mask.shape if n > 1) == tuple(n for n in kind if n > 1):
            return mask.reshape(kind) != 0
    raise InputError("a mask of another length", where=where, expected=shape[-1], got=mask.shape)
