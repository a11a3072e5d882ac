# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes as NIfTI files."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.protocols import VolumeGeometry, VolumeOrigin, VolumeWriter


class NIfTIWriter(VolumeWriter):
    """Writes ``.nii.gz``, float32; the header contains only the geometry."""

    suffix: ClassVar[str] = ".nii.gz"

    def write(self, path: Path, volume: Tensor, geometry: VolumeGeometry, origin: VolumeOrigin) -> tuple[Path, ...]:
        """Write the file, see :func:`~monai_diffrecon.io.nifti.write_volume`."""
        write_volume(path, volume, geometry)
        return (path,)
