# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reader of Siemens raw data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from diffrecon_mri.acquired import to_measurement
from diffrecon_mri.encoded_grid import with_spacing, without_oversampling
from diffrecon_mri.hdf5_files import sha256
from diffrecon_mri.ismrmrd.cartesian import assemble
from diffrecon_mri.kspace_noise import estimated_noise_std
from diffrecon_twix.acquisitions import ALL, read_acquisitions
from diffrecon_twix.protocol import Protocol
from diffrecon_twix.twix_file import TwixFile, looks_like_twix
from monai_diffrecon.errors import InputError
from monai_diffrecon.errors.options import check_choice, check_flag, check_integer, check_number
from monai_diffrecon.protocols import Measurement, MeasurementReader


class TwixReader(MeasurementReader):
    """Raw MRI of Siemens scanners, twix (.dat) of VB, VD, VE and XA: Cartesian 2D slices and 3D slabs.

    Noise lines of the measurement make its noise white. Readout oversampling is removed. Nothing about the subject,
    the study or dates is read.

    Args:
        echo: which echo to read, of several.
        average: which average to read, of several, or ``mean``.
        repetition: which repetition, of several.
        phase: which phase of the heart, say, of several.
        set: which set, of several.
        measurement: which measurement of the file; -1 is the last, and those before it are adjustments.
        coil_maps: ``espirit``, or ``low_resolution`` where the calibration region is too small for that.
        calibration: largest width of the calibration region, samples.
        allow_missing: lines that are missing without an acceleration in the protocol were left out on purpose.
        noise_std: noise level in the units of the data, after prewhitening; None estimates it from the outer k-space.
        spacing: voxel size (mm) wanted along the Fourier-encoded axes: k-space is cropped or zero-padded, and the field
            of view stays, so it is met to within half a voxel over all. None keeps what was measured.
    """

    API_VERSION: ClassVar[int] = 1

    def __init__(
        self,
        echo: int | None = None,
        average: int | str | None = None,
        repetition: int | None = None,
        phase: int | None = None,
        set: int | None = None,
        measurement: int = -1,
        coil_maps: str = "espirit",
        calibration: int = 24,
        allow_missing: bool = False,
        noise_std: float | None = None,
        spacing: float | None = None,
    ) -> None:
        given = {"echo": echo, "average": average, "repetition": repetition, "phase": phase, "set": set}
        # All averages are taken as one image, and averaged.
        self.wanted: dict[str, int | None] = {
            name: ALL
            if name == "average" and value == "mean"
            else None
            if value is None
            else check_integer(value, f"reader#{name}", low=0)
            for name, value in given.items()
        }
        self.measurement = check_integer(measurement, "reader#measurement", low=-64)
        self.method = check_choice(coil_maps, "reader#coil_maps", ("espirit", "low_resolution"))
        self.width = check_integer(calibration, "reader#calibration", low=4)
        self.allow_missing = check_flag(allow_missing, "reader#allow_missing")
        self.noise_std = None if noise_std is None else check_number(noise_std, "reader#noise_std", low=0.0)
        self.spacing = None if spacing is None else check_number(spacing, "reader#spacing", low=0.0, open_low=True)

    def recognises(self, path: Path) -> bool:
        """Say whether the file begins as Siemens raw data do."""
        return looks_like_twix(Path(path))

    def read(self, path: Path) -> Measurement:
        """Return what was measured, in RAS+ order: ``cartesian_mri`` or ``cartesian_mri_3d``.

        Raises:
            InputError: damaged, incomplete, of another kind, or of an acquisition that is not supported.
        """
        path = Path(path)
        where = path.name
        if not path.is_file():
            raise InputError("no such file", where=where)
        with path.open("rb") as stream:
            file = TwixFile(stream, self.measurement, where)
            protocol = Protocol(file)
            acquisitions = read_acquisitions(file, protocol, self.wanted)
        acquired = assemble(acquisitions, allow_missing=self.allow_missing or protocol.elliptical, where=where)
        level = self.noise_std
        level = estimated_noise_std(acquired.kspace, acquired.volumetric) if level is None else level
        acquired = without_oversampling(replace(acquired, noise_std=level))
        acquired = acquired if self.spacing is None else with_spacing(acquired, self.spacing, where)
        return to_measurement(acquired, method=self.method, width=self.width, source=sha256(path), where=where)
