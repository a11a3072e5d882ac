# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reader of BART's k-space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from diffrecon_mri.acquired import Acquired, to_measurement
from diffrecon_mri.encoded_grid import same_of_all, with_empty_slices
from diffrecon_mri.hdf5_files import sha256
from diffrecon_mri.kspace_noise import estimated_noise_std
from diffrecon_mri.orientation import UNKNOWN_ORIENTATION, directions_of
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_choice, check_integer, check_number
from monai_diffrecon.protocols import Measurement, MeasurementReader

#: BART's dimensions: readout, phase, partition, coil, frames of a series, and slices of a 2D acquisition.
_COIL, _TIME, _SLICE = 3, 10, 13
_LONGEST_HEADER = 1 << 16


class BARTReader(MeasurementReader):
    """K-space of BART (.cfl with .hdr beside it): Cartesian, 2D slices, 3D and series of one slice, multi-coil or not.

    Complex numbers in single precision, first dimension fastest (mrirecon.github.io/bart); the dimensions are readout,
    phase, partition, coil and, the 14th, slices of a 2D acquisition. More than one partition is a 3D acquisition. A
    sample was measured when it is not 0 in all coils. The files contain neither geometry nor noise level. Frames of one
    slice (11th dimension) become the third axis, as far apart as pixels are (docs/joint.md).

    Args:
        voxel_size: mm along readout, phase and partition or slice; one number for all. None assumes 1 mm.
        axes: directions in which these grow: three of R or L, A or P, S or I. None: unknown.
        maps: .cfl file with coil maps of the same dimensions, one set (``bart ecalib -m 1``). None estimates them.
        coil_maps: how: ``espirit``, or ``low_resolution`` where the calibration region is too small for that.
        calibration: largest width of the calibration region, samples.
        noise_std: noise level in the units of the data; None estimates it from the outer k-space.
    """

    API_VERSION: ClassVar[int] = 1

    def __init__(
        self,
        voxel_size: float | Sequence[float] | None = None,
        axes: str | None = None,
        maps: str | None = None,
        coil_maps: str = "espirit",
        calibration: int = 24,
        noise_std: float | None = None,
    ) -> None:
        self.sized, self.oriented, self.maps = voxel_size is not None, axes is not None, maps
        sizes = (
            list(voxel_size) if isinstance(voxel_size, (list, tuple)) else [1.0 if voxel_size is None else voxel_size]
        )
        sizes = sizes * 3 if len(sizes) == 1 else sizes
        if len(sizes) != 3:
            raise ConfigError(
                "no voxel size", where="reader#voxel_size", expected="one number or three", got=len(sizes)
            )
        self.voxel_size = [check_number(size, "reader#voxel_size", low=0.0, open_low=True) for size in sizes]
        self.directions = directions_of("RAS" if axes is None else axes, "reader#axes")
        self.method = check_choice(coil_maps, "reader#coil_maps", ("espirit", "low_resolution"))
        self.width = check_integer(calibration, "reader#calibration", low=4)
        self.noise_std = None if noise_std is None else check_number(noise_std, "reader#noise_std", low=0.0)

    def recognises(self, path: Path) -> bool:
        """Say whether the file is a .cfl whose header is one of BART."""
        try:
            return path.suffix.lower() == ".cfl" and path.is_file() and _lines(path)[:1] == ["# Dimensions"]
        except OSError:
            return False

    def read(self, path: Path) -> Measurement:
        """Return what was measured.

        Raises:
            InputError: no such file, damaged, other dimensions (sets of maps, frames of several slices), nothing but
                zeros, or several coils without a calibration region.
            ConfigError: ``axes`` of a series, which has no third direction.
        """
        path = Path(path)
        where = path.name
        array, frames = _read(path)
        volumetric = array.shape[2] > 1
        if volumetric and array.shape[4] > 1:
            raise InputError("partitions, and slices or frames", where=where, expected="one of both", got=array.shape)
        if frames and self.oriented:
            raise ConfigError("a series has no third direction", where="reader#axes", mend="omit it")
        k = _coils_first(array)
        measured = (k != 0).any(0)
        if not bool(measured.any()):
            raise InputError("nothing was measured", where=where)
        counts, notices = (
            measured.float(),
            [] if self.oriented else [f"{UNKNOWN_ORIENTATION}; the reader's option axes says it"],
        )
        if not self.sized:
            notices.append("the file does not say its voxel size: 1 mm is assumed along each axis, see voxel_size")
        if not volumetric:
            counts, empty = with_empty_slices(counts, measured.any(2, keepdim=True).float(), where)
            counts = same_of_all(counts)
            notices += empty
        maps = None if self.maps is None else _maps(Path(self.maps), array.shape, frames)
        affine = np.eye(4)
        size = [*self.voxel_size[:2], min(self.voxel_size[:2])] if frames else self.voxel_size
        affine[:3, :3] = self.directions * np.array(size)
        # Where it lies is not known: its middle is put to the origin.
        affine[:3, 3] = -affine[:3, :3] @ np.array([n // 2 for n in k.shape[1:]])
        acquired = Acquired(
            kspace=k,
            counts=counts,
            affine=affine,
            voxels=k.shape[1],
            located=self.oriented,
            volumetric=volumetric,
            noise_std=estimated_noise_std(k, volumetric) if self.noise_std is None else self.noise_std,
            maps=maps,
            frames=frames,
            notices=tuple(notices),
        )
        return to_measurement(acquired, method=self.method, width=self.width, source=sha256(path), where=where)


def _lines(path: Path) -> list[str]:
    with path.with_suffix(".hdr").open("rb") as stream:
        return stream.read(_LONGEST_HEADER).decode("utf-8", "replace").splitlines()


def _read(path: Path) -> tuple[np.ndarray, bool]:
    """Return the array (readout, phase, partition, coils, slices or frames) of a file, and whether it has frames."""
    where = path.name
    if not path.is_file() or not path.with_suffix(".hdr").is_file():
        raise InputError("no such file", where=where, expected=f"{path.stem}.cfl and {path.stem}.hdr beside it")
    lines = _lines(path)
    sizes = lines[1].split() if lines[:1] == ["# Dimensions"] and len(lines) > 1 else []
    shape = [int(n) for n in sizes if n.isdecimal() and len(n) < 10]
    if path.suffix.lower() != ".cfl" or len(shape) != len(sizes) or not 1 <= len(shape) <= 16 or 0 in shape:
        raise InputError("not a file of BART", where=where, expected="# Dimensions in the .hdr beside it, and a .cfl")
    shape += [1] * (16 - len(shape))
    needed, held = 8 * math.prod(shape), path.stat().st_size
    if needed != held:
        raise InputError("of the wrong length", where=where, expected=f"{needed} bytes", got=f"{held} bytes")
    others = [n for i, n in enumerate(shape) if i > _COIL and i not in (_TIME, _SLICE)]
    if max(others) > 1 or min(shape[_TIME], shape[_SLICE]) > 1:
        raise InputError(
            "several images",
            where=where,
            expected="readout, phase, partition, coil, and frames (11th dimension) or slices (14th)",
            got=" ".join(map(str, shape)),
            mend="extract one, for example with bart slice",
        )
    array = np.fromfile(path, "<c8").reshape((*shape[:4], shape[_TIME] * shape[_SLICE]), order="F")
    if not np.isfinite(array).all():
        raise InputError("samples that are not finite", where=where, mend="repair the measurement")
    return array, shape[_TIME] > 1


def _coils_first(array: np.ndarray) -> Tensor:
    """Return (coils, readout, phase, partition or slice); one of the last two has length 1."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(3, 0, 1, 2, 4))).flatten(3)


def _maps(path: Path, shape: tuple[int, ...], frames: bool) -> Tensor:
    maps, _ = _read(path)
    maps = maps.repeat(shape[4], 4) if frames and maps.shape[4] == 1 else maps
    if maps.shape != shape:
        raise InputError("coil maps of another shape", where=path.name, expected=shape, got=maps.shape)
    return _coils_first(maps)
