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
from diffrecon_mri.hdf5_files import find_dataset, has_members, opened, read_text, sha256
from diffrecon_mri.kspace_level import estimated_noise_std
from diffrecon_mri.mrd_cartesian import without_oversampling
from diffrecon_mri.mrd_header import parse_header
from diffrecon_mri.orientation import directions_of
from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.option_checks import check_choice, check_integer, check_number
from monai_diffrecon.protocols import Measurement, MeasurementReader


class FastMRIReader(MeasurementReader):
    """Raw MRI in the layout of the fastMRI data set (.h5): Cartesian 2D slices, single- and multi-coil.

    Zbontar et al. 2018, arXiv 1811.08839. ``kspace`` is (slices, coils, readout, phase) or (slices, readout, phase).
    The readout is cropped in image space to the reconstructed field of view of the header, as fastMRI crops its images;
    the phase axis is not, since its lines may be missing. The files do not say where the volume lies, nor which way it
    faces: ``axes`` does. Nothing about the subject, the study or dates is read.

    Args:
        axes: directions in which readout, phase and slice index grow: three of R or L, A or P, S or I.
        coil_maps: ``espirit``, or ``low_resolution`` where the calibration region is too small for that.
        calibration: largest width of the calibration region, samples.
        noise_std: noise level in the units of the data; None estimates it from the outer k-space.
    """

    API_VERSION: ClassVar[int] = 1

    def __init__(
        self,
        axes: str = "RAS",
        coil_maps: str = "espirit",
        calibration: int = 24,
        noise_std: float | None = None,
    ) -> None:
        self.directions = directions_of(axes, "reader#axes")
        self.method = check_choice(coil_maps, "reader#coil_maps", ("espirit", "low_resolution"))
        self.width = check_integer(calibration, "reader#calibration", low=4)
        self.noise_std = None if noise_std is None else check_number(noise_std, "reader#noise_std", low=0.0)

    def recognises(self, path: Path) -> bool:
        """Say whether the file is HDF5 with a member ``kspace``."""
        return has_members(Path(path), "kspace")

    def read(self, path: Path) -> Measurement:
        """Return what was measured, in the order that ``axes`` says.

        Raises:
            InputError: damaged, of another layout, or several coils without a calibration region.
        """
        path = Path(path)
        where = path.name
        with opened(path) as file:
            kspace, mask, header = _members(file, where)
        columns = _columns(kspace, mask, where)
        k = torch.from_numpy(np.ascontiguousarray(kspace.transpose(1, 2, 3, 0))) * columns[:, None]
        n0, n1 = k.shape[1:3]
        kept, spacing = n0, (1.0, 1.0, 1.0)
        if header is not None:
            e = parse_header(header, where)
            kept = min(max(round(n0 * e.recon.fov[0] / e.encoded.fov[0]), 1), n0)
            spacing = (e.encoded.fov[0] / n0, e.encoded.fov[1] / n1, e.encoded.fov[2] / e.encoded.matrix[2])
        k = without_oversampling(k, kept)
        affine = np.eye(4)
        affine[:3, :3] = self.directions * np.array(spacing)
        counts = columns.float().expand(kept, n1).reshape(kept, n1, 1)
        level = estimated_noise_std(k, False) if self.noise_std is None else self.noise_std
        acquired = Acquired(k, counts, affine, located=False, volumetric=False, noise_std=level)
        return to_measurement(acquired, method=self.method, width=self.width, source=sha256(path), where=where)


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


def _columns(kspace: np.ndarray, mask: np.ndarray | None, where: str) -> Tensor:
    """Return which columns (phase,) were measured: what the mask says, else those that are not 0."""
    if not np.isfinite(kspace).all():
        raise InputError("samples that are not finite", where=where, mend="repair the measurement")
    filled = (kspace != 0).any(axis=(1, 2))
    if mask is None:
        columns = filled.any(0)
        used = filled.any(1)  # a slice that is 0 throughout says nothing
        if not (filled[used] == columns).all():
            raise InputError(
                "missing encoding lines: the slices were not measured alike", where=where, expected="one mask for all"
            )
    elif mask.size != kspace.shape[-1]:
        raise InputError("a mask of another length", where=where, expected=kspace.shape[-1], got=mask.shape)
    else:
        # Columns at the edges that are 0 were padded, not measured.
        columns = (mask.reshape(-1) != 0) & filled.any(0)
    if not columns.any():
        raise InputError("nothing was measured", where=where)
    return torch.from_numpy(columns)
