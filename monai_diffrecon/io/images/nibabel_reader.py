# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Images of neuroimaging software that nibabel reads: FreeSurfer, Analyze, MINC."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
from nibabel.externals.netcdf import netcdf_file
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.minc1 import Minc1File
from nibabel.minc2 import Minc2File
from nibabel.spm2analyze import Spm2AnalyzeHeader

from monai_diffrecon.errors import DiffReconError, InputError
from monai_diffrecon.io.images.image_measurement import check_axes, check_file, has_suffix, image_measurement
from monai_diffrecon.io.images.text_header import beside
from monai_diffrecon.io.measurement.hdf5_heaps import check_heaps
from monai_diffrecon.io.measurement.hdf5_parts import SIGNATURE, HDF5Parts, open_hdf5
from monai_diffrecon.io.nifti import check_size
from monai_diffrecon.io.nifti_header import affine_of_header, says_orientation
from monai_diffrecon.protocols import Measurement, MeasurementReader

_SUFFIXES = (".mgz", ".mgh", ".mnc", ".hdr")
#: Where a header of FreeSurfer says that it says an orientation; size of a header of Analyze, and where NIfTI differs.
_GOOD_RAS, _ANALYZE, _MAGIC = 28, 348, 344


@dataclass(frozen=True)
class _Image:
    """What a file holds: its voxels (X, Y, Z, ...) in its order of axes, and their affine (RAS+, mm)."""

    voxels: np.ndarray
    affine: np.ndarray
    files: Sequence[Path]
    oriented: bool = True
    notices: Sequence[str] = ()


class NibabelReader(MeasurementReader):
    """A volume of FreeSurfer, Analyze or MINC: an image without a known unit.

    ``.mgz`` and ``.mgh``; ``.mnc``, MINC 1 and 2; ``.hdr`` with ``.img`` beside it, Analyze 7.5, whose orientation is
    unknown, or a NIfTI pair.
    """

    def recognises(self, path: Path) -> bool:
        """Say whether it is a file of that name; a ``.hdr`` must also begin as those of Analyze."""
        try:
            return has_suffix(path, _SUFFIXES) and (path.suffix.lower() != ".hdr" or _is_analyze(path))
        except OSError:
            return False

    def read(self, path: Path) -> Measurement:
        """Return the image (1, X, Y, Z).

        Raises:
            InputError: no such file, damaged, not a volume, not real numbers, or some of them not finite; or axes that
                are not at right angles.
        """
        path = Path(path)
        check_file(path, _SUFFIXES, "an image of FreeSurfer, Analyze or MINC")
        read: dict[str, Callable[[Path], _Image]] = {".mnc": _read_minc, ".hdr": _read_pair}
        try:
            with np.errstate(all="ignore"):
                image = read.get(path.suffix.lower(), _read_mgh)(path)
        except DiffReconError:
            raise
        except Exception as error:  # nibabel raises whatever a damaged header provokes, and quotes it
            raise InputError(
                "cannot be read",
                where=path.name,
                got=type(error).__name__,
                mend="check that the file is complete and has the right file name extension",
            ) from None
        return image_measurement(
            image.voxels.reshape(image.voxels.shape[:3]),
            image.affine,
            image.files,
            image.notices,
            oriented=image.oriented,
            leaning=self.leaning,
        )


def _is_analyze(path: Path) -> bool:
    with path.open("rb") as stream:
        return _ANALYZE in {int.from_bytes(first := stream.read(4), "little"), int.from_bytes(first, "big")}


def _voxels(header: Any, path: Path, where: str) -> np.ndarray:
    """Return the scaled voxels that a nibabel header speaks of, which lie in a file that can hold them."""
    proxy = nib.arrayproxy.ArrayProxy(str(path), header, mmap=False)
    check_axes(proxy.shape, proxy.dtype, where)
    check_size(proxy, path)
    return np.asarray(proxy)


def _read_mgh(path: Path) -> _Image:
    with gzip.open(path) if path.suffix.lower() == ".mgz" else path.open("rb") as stream:
        header = MGHHeader.from_fileobj(stream)
        stream.seek(_GOOD_RAS)
        # Otherwise nibabel supplies the usual orientation of FreeSurfer.
        oriented = int.from_bytes(stream.read(2), "big", signed=True) > 0
    return _Image(_voxels(header, path, path.name), header.get_affine(), [path], oriented)


def _read_pair(path: Path) -> _Image:
    upper = path.with_suffix(".IMG")
    voxels = beside(path, upper.name if upper.exists() else f"{path.stem}.img")
    with path.open("rb") as stream:
        head = stream.read(_MAGIC + 4)
    if len(head) < _MAGIC + 4:
        raise InputError("truncated", where=path.name, expected=f"{_ANALYZE} bytes", got=f"{len(head)} bytes")
    if head[_MAGIC : _MAGIC + 3] == b"ni1":
        image = nib.Nifti1Pair.from_file_map(
            {"header": nib.FileHolder(str(path)), "image": nib.FileHolder(str(voxels))}, mmap=False
        )
        affine, notices = affine_of_header(image)
        array = _voxels(image.header, voxels, path.name)
        return _Image(array, affine, [path, voxels], says_orientation(image.header), notices)
    # Not as an image of SPM: that reads a .mat file beside it as well.
    header = Spm2AnalyzeHeader.from_fileobj(io.BytesIO(head), check=False)
    affine = np.diag([*np.abs(header.get_zooms()[:3]), 1.0])
    return _Image(_voxels(header, voxels, path.name), affine, [path, voxels], oriented=False)


def _read_minc(path: Path) -> _Image:
    with path.open("rb") as stream:
        hdf5 = stream.read(len(SIGNATURE)) == SIGNATURE
    if hdf5:
        check_heaps(path)
        with open_hdf5(path) as parts:
            _check_minc2(parts)
            return _minc(_Minc2(parts.file), path)
    # In memory, so that no damaged length asks for more than there is.
    return _minc(Minc1File(netcdf_file(io.BytesIO(path.read_bytes()))), path)


def _check_minc2(parts: HDF5Parts) -> None:
    """Refuse links, and datasets of more than the file holds, of all that nibabel reads."""
    dimensions = parts.group("minc-2.0/dimensions")
    links = [] if dimensions is None else [dimensions.get(name, getlink=True) for name in dimensions]
    if not all(isinstance(link, h5py.HardLink) for link in links):
        raise InputError("a link, which is not followed", where=f"{parts.where}#minc-2.0/dimensions")
    for name in ("image", "image-min", "image-max"):
        parts.dataset(parts.file, f"minc-2.0/image/0/{name}")


class _Minc2(Minc2File):
    """A file of MINC 2, whose scales belong to the first axes of the image if they do not say to which, as in libminc.

    nibabel takes them for scales of the last axes.
    """

    def _get_dimensions(self, var: h5py.Dataset) -> list[str]:
        names = super()._get_dimensions(var)
        return names or list(getattr(self, "_dim_names", ()))[: len(var.shape)]


def _minc(file: Any, path: Path) -> _Image:
    check_axes(file.get_data_shape(), file.get_data_dtype(), path.name)
    affine = file.get_affine()
    if affine.shape != (4, 4):
        raise InputError(
            "does not say which axis is which",
            where=path.name,
            expected="xspace, yspace and zspace among its dimensions (attribute dimorder of MINC 2)",
            mend="write it again with the MINC tools, or give it as NIfTI",
        )
    return _Image(file.get_scaled_data(), affine, [path])
