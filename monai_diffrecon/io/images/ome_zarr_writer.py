# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes as OME-Zarr images."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.io.atomic import atomic_folder
from monai_diffrecon.io.voxels import voxels_to_write
from monai_diffrecon.protocols import VolumeGeometry, VolumeOrigin, VolumeWriter

#: Voxels along the longest axis of the coarsest level, and along each axis of a chunk.
_COARSEST, _CHUNK = 128, 64


class OMEZarrWriter(VolumeWriter):
    """Writes ``<case>.ome.zarr`` (NGFF 0.4, Zarr 2): float32 with the axes z, y, x, each level half as fine.

    Scale and translation of NGFF 0.4 have no directions: they are those of the voxel grid, whose axes x, y and z point
    to the right, to the front and upwards as closely as a grid of that orientation can. The whole affine (voxel x, y, z
    to RAS+, mm) is the attribute ``monai_diffrecon``, which other software does not read. Needs the package zarr.
    """

    def check(self, geometry: VolumeGeometry, where: str) -> None:
        """Refuse to begin without the package zarr.

        Raises:
            ConfigError: it is not installed.
        """
        if find_spec("zarr") is None:
            raise ConfigError(
                "zarr is not installed", where=where, expected="zarr 3 (Python 3.11)", mend="pip install 'zarr>=3.1'"
            )

    def write(self, path: Path, volume: Tensor, geometry: VolumeGeometry, origin: VolumeOrigin) -> tuple[Path, ...]:
        """Write the folder."""
        self.check(geometry, path.name)
        # NGFF counts the slowest axis first.
        level = torch.from_numpy(voxels_to_write(volume, geometry, path.name)).permute(2, 1, 0)
        levels = [level]
        while max(levels[-1].shape) > _COARSEST:
            size = [min(n, 2) for n in levels[-1].shape]
            levels.append(torch.nn.functional.avg_pool3d(levels[-1][None], size, ceil_mode=True)[0])
        attributes = _attributes(geometry, origin.case, [tuple(level.shape) for level in levels])
        name = f"{origin.case}.ome.zarr"
        atomic_folder(path, lambda temporary: _write(temporary / name, levels, attributes), path.name)
        return tuple(sorted(file for file in path.rglob("*") if file.is_file()))


def _write(folder: Path, levels: list[Tensor], attributes: dict[str, Any]) -> None:
    import zarr  # optional
    from numcodecs import Zlib

    group = zarr.create_group(folder, zarr_format=2, attributes=attributes)
    for number, level in enumerate(levels):
        group.create_array(
            str(number),
            data=level.numpy(),
            chunks=tuple(min(n, _CHUNK) for n in level.shape),
            compressors=Zlib(level=1),
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )


def _attributes(geometry: VolumeGeometry, name: str, shapes: list[tuple[int, ...]]) -> dict[str, Any]:
    """Return the metadata of the levels (NGFF 0.4, multiscales) and the affine."""
    start = (0.0, 0.0, 0.0) if geometry.affine is None else tuple(row[3] for row in geometry.affine[:3])
    spacing, first = geometry.spacing[::-1], start[::-1]
    datasets, factor = [], [1, 1, 1]
    for number, shape in enumerate(shapes):
        scale = [s * f for s, f in zip(spacing, factor, strict=True)]
        # The first voxel is the mean of so many, whose middle it has.
        shift = [x + s * (f - 1) / 2 for x, s, f in zip(first, spacing, factor, strict=True)]
        transforms = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
        datasets.append({"path": str(number), "coordinateTransformations": transforms})
        factor = [f * min(n, 2) for f, n in zip(factor, shape, strict=True)]
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    multiscale = {"version": "0.4", "name": name, "axes": axes, "datasets": datasets, "type": "mean"}
    return {"multiscales": [multiscale], "monai_diffrecon": {"affine": geometry.affine, "space": "RAS+"}}
