# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""NIfTI files as measured images."""

from __future__ import annotations

from pathlib import Path

from monai_diffrecon.io.hashing import sha256_file
from monai_diffrecon.io.nifti import is_nifti_name, read_image
from monai_diffrecon.io.straight import check_straight
from monai_diffrecon.protocols import Measurement, MeasurementReader


class NIfTIReader(MeasurementReader):
    """A NIfTI volume, ``.nii`` or ``.nii.gz``: an image in RAS+ order whose unit the file does not say."""

    def recognises(self, path: Path) -> bool:
        """Say whether it is a file of that name."""
        try:
            return is_nifti_name(path) and path.is_file()
        except OSError:
            return False

    def read(self, path: Path) -> Measurement:
        """Return the image (1, X, Y, Z).

        Raises:
            InputError: no such file, damaged, not a volume, not real numbers, or some of them not finite;
                or axes that are not at right angles.
        """
        volume, geometry, notices = read_image(path)
        if not self.leaning:
            check_straight(geometry, path.name)
        return Measurement(data=volume, geometry=geometry, source_sha256=sha256_file(path), notices=notices)
