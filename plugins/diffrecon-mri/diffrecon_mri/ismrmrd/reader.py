# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reader of ISMRMRD files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import diffrecon_mri.acquired as cartesian
import diffrecon_mri.ismrmrd.noncartesian as noncartesian
from diffrecon_mri.encoded_grid import with_spacing, without_oversampling
from diffrecon_mri.hdf5_files import has_members, sha256
from diffrecon_mri.ismrmrd.acquisitions import Acquisitions, against_encoding, read_acquisitions
from diffrecon_mri.ismrmrd.cartesian import assemble
from diffrecon_mri.kspace_noise import estimated_noise_std
from monai_diffrecon.errors import InputError
from monai_diffrecon.errors.options import check_choice, check_flag, check_integer, check_number
from monai_diffrecon.protocols import Measurement, MeasurementReader

#: Siemens' directions belong to a forward Fourier transform, and siemens_to_ismrmrd copies them.
SIEMENS = (
    "Siemens data in ISMRMRD: directions were taken as siemens_to_ismrmrd writes them; if another converter has turned "
    "them, the image is turned by 180 degrees within its slices: then set the reader's option transform to inverse"
)
#: Of a trajectory nothing says whether the converter has turned it.
SIEMENS_TRAJECTORY = (
    "Siemens data in ISMRMRD with a trajectory: converters differ in its sign, and the image may be turned by 180 "
    "degrees within its slices; compare it with the scanner's, and set the reader's option transform"
)


class ISMRMRDReader(MeasurementReader):
    """Raw MRI in the vendor-neutral format ISMRMRD (.h5): Cartesian 2D and 3D, radial and spiral 2D.

    Inati et al. 2017, doi 10.1002/mrm.26089. Noise acquisitions make the noise white, of standard deviation 1 before
    averages. Readout oversampling is removed. Nothing about the subject, the study or dates is read.

    Args:
        contrast: which contrast (echo) to read.
        phase: which phase of the heart, say.
        repetition: which repetition.
        set: which set.
        coil_maps: ``espirit``, or ``low_resolution`` where the calibration region is too small for that.
        calibration: largest width of the calibration region, samples.
        allow_missing: lines that are missing without an acceleration in the header were left out on purpose.
        trajectory_unit: of a stored trajectory: ``cycles_per_voxel``, ``cycles_per_fov`` or ``auto``.
        noise_std: noise level without noise acquisitions, in the units of the data; None estimates it.
        spacing: voxel size (mm) wanted along the Fourier-encoded axes: k-space is cropped or zero-padded, and the field
            of view stays, so it is met to within half a voxel over all. None keeps what was measured.
        transform: of k-space, that makes the image along the directions of the file: ``inverse``, ``forward``, or
            ``auto``: forward for Cartesian scans of Siemens, whose scanners make images so, and inverse for others.
    """

    API_VERSION: ClassVar[int] = 1

    def __init__(
        self,
        contrast: int = 0,
        phase: int = 0,
        repetition: int = 0,
        set: int = 0,
        coil_maps: str = "espirit",
        calibration: int = 24,
        allow_missing: bool = False,
        trajectory_unit: str = "auto",
        noise_std: float | None = None,
        spacing: float | None = None,
        transform: str = "auto",
    ) -> None:
        given = {"contrast": contrast, "phase": phase, "repetition": repetition, "set": set}
        self.counters = {name: check_integer(value, f"reader#{name}", low=0) for name, value in given.items()}
        self.method = check_choice(coil_maps, "reader#coil_maps", ("espirit", "low_resolution"))
        self.width = check_integer(calibration, "reader#calibration", low=4)
        self.allow_missing = check_flag(allow_missing, "reader#allow_missing")
        units = ("auto", "cycles_per_voxel", "cycles_per_fov")
        self.unit = check_choice(trajectory_unit, "reader#trajectory_unit", units)
        self.noise_std = None if noise_std is None else check_number(noise_std, "reader#noise_std", low=0.0)
        self.spacing = None if spacing is None else check_number(spacing, "reader#spacing", low=0.0, open_low=True)
        self.transform = check_choice(transform, "reader#transform", ("auto", "inverse", "forward"))

    def recognises(self, path: Path) -> bool:
        """Say whether the file is HDF5 with ISMRMRD's ``/dataset/xml`` and ``/dataset/data``."""
        return has_members(Path(path), "dataset/xml", "dataset/data")

    def read(self, path: Path) -> Measurement:
        """Return what was measured, in RAS+ order: ``cartesian_mri``, ``cartesian_mri_3d`` or ``noncartesian_mri``.

        Raises:
            InputError: damaged, incomplete, of another kind, or of an acquisition that is not supported.
        """
        path = Path(path)
        return self.measurement_of(read_acquisitions(path, self.counters), source=sha256(path), where=path.name)

    def measurement_of(self, acquisitions: Acquisitions, *, source: str, where: str) -> Measurement:
        """Return what was measured, as :meth:`read`.

        Args:
            acquisitions: the acquisitions of the image.
            source: hash of where they come from.
            where: name of the file, for messages.

        Raises:
            InputError: incomplete, or of an acquisition that is not supported.
        """
        encoding = acquisitions.encoding
        unsaid = self.transform == "auto" and "siemens" in encoding.vendor
        on_grid = encoding.trajectory == "cartesian"
        if self.transform == "forward" or (unsaid and on_grid):
            heads = against_encoding(acquisitions.heads, volumetric=encoding.encoded.matrix[2] > 1)
            acquisitions = replace(acquisitions, heads=heads)
        measured = self._measured(acquisitions, source, where)
        notices = (SIEMENS if on_grid else SIEMENS_TRAJECTORY,) if unsaid else ()
        return replace(measured, notices=(*measured.notices, *notices))

    def _measured(self, acquisitions: Acquisitions, source: str, where: str) -> Measurement:
        if acquisitions.noise_std is None and self.noise_std is not None:
            acquisitions = replace(acquisitions, noise_std=self.noise_std)
        kind = acquisitions.encoding.trajectory
        if kind == "cartesian":
            acquired = assemble(acquisitions, allow_missing=self.allow_missing, where=where)
            if acquisitions.noise_std is None:
                acquired = replace(acquired, noise_std=estimated_noise_std(acquired.kspace, acquired.volumetric))
            acquired = without_oversampling(acquired)
            acquired = acquired if self.spacing is None else with_spacing(acquired, self.spacing, where)
            return cartesian.to_measurement(acquired, method=self.method, width=self.width, source=source, where=where)
        if kind in ("radial", "goldenangle", "spiral", "other"):
            return noncartesian.to_measurement(
                acquisitions,
                unit=self.unit,
                spacing=self.spacing,
                method=self.method,
                width=self.width,
                source=source,
                where=where,
            )
        raise InputError(
            "an unsupported trajectory",
            where=where,
            expected="cartesian, radial, goldenangle, spiral or other",
            got=kind,
        )
