# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes as MetaImage files."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.images.text_header import turned
from monai_diffrecon.io.voxels import voxels_to_write
from monai_diffrecon.protocols import VolumeGeometry, VolumeOrigin, VolumeWriter


class MetaImageWriter(VolumeWriter):
    """Writes ``.mha``, compressed float32; the header contains only the geometry.

    Without an affine it states the voxel size alone, which other software takes for an image along the axes of LPS.
    """

    suffix: ClassVar[str] = ".mha"

    def write(self, path: Path, volume: Tensor, geometry: VolumeGeometry, origin: VolumeOrigin) -> tuple[Path, ...]:
        """Write the file."""
        array = voxels_to_write(volume, geometry, path.name)
        packed = zlib.compress(array.astype("<f4").tobytes(order="F"), 1)
        fields = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False"}
        fields |= {"CompressedData": "True", "CompressedDataSize": str(len(packed))}
        if geometry.affine is not None:
            lps = turned(np.array(geometry.affine))
            fields["TransformMatrix"] = _text((lps[:3, :3] / geometry.spacing).T)
            fields |= {"Offset": _text(lps[:3, 3]), "CenterOfRotation": "0 0 0"}
        fields |= {"ElementSpacing": _text(np.array(geometry.spacing)), "DimSize": _text(np.array(geometry.shape))}
        fields |= {"ElementType": "MET_FLOAT", "ElementDataFile": "LOCAL"}
        head = "".join(f"{key} = {value}\n" for key, value in fields.items()).encode()
        atomic_write(path, lambda temporary: temporary.write_bytes(head + packed))
        return (path,)


def _text(numbers: np.ndarray) -> str:
    return " ".join(str(value) for value in numbers.reshape(-1).tolist())
