# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes as NRRD files."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.images.text_header import turned
from monai_diffrecon.io.voxels import voxels_to_write
from monai_diffrecon.protocols import VolumeGeometry, VolumeOrigin, VolumeWriter


class NRRDWriter(VolumeWriter):
    """Writes ``.nrrd``, float32 in gzip, in LPS as 3D Slicer and ITK do; the header contains only the geometry.

    Without an affine it states the voxel size alone.
    """

    suffix: ClassVar[str] = ".nrrd"

    def write(self, path: Path, volume: Tensor, geometry: VolumeGeometry, origin: VolumeOrigin) -> tuple[Path, ...]:
        """Write the file."""
        array = voxels_to_write(volume, geometry, path.name)
        lines = ["NRRD0004", "type: float", "dimension: 3", "sizes: " + " ".join(map(str, geometry.shape))]
        if geometry.affine is None:
            lines.append("spacings: " + " ".join(map(str, geometry.spacing)))
        else:
            lps = turned(np.array(geometry.affine))
            lines += ["space: left-posterior-superior", f"space origin: {_vector(lps[:3, 3])}"]
            lines.append("space directions: " + " ".join(_vector(axis) for axis in lps[:3, :3].T))
        lines += ["kinds: domain domain domain", "endian: little", "encoding: gzip", "", ""]
        packed = gzip.compress(array.astype("<f4").tobytes(order="F"), 1, mtime=0)
        atomic_write(path, lambda temporary: temporary.write_bytes("\n".join(lines).encode() + packed))
        return (path,)


def _vector(numbers: np.ndarray) -> str:
    return "(" + ",".join(str(value) for value in numbers.tolist()) + ")"
