# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reading and writing volumes as NIfTI."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from torch import Tensor

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.atomic import atomic_write, full_suffix
from monai_diffrecon.io.measurement.checks import check_affine
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.io.nifti_header import affine_of_header, says_orientation
from monai_diffrecon.io.straight import check_straight
from monai_diffrecon.io.voxels import in_ras, voxels_to_write
from monai_diffrecon.numerics.hashing import sha256_tensor, tensor_digest
from monai_diffrecon.protocols import VolumeGeometry

logger = logging.getLogger(__name__)

#: Data types on disk.
DTYPES = ("float32", "int16")
_SUFFIXES = (".nii", ".nii.gz")
_UNKNOWN, _SCANNER = 0, 1  # NIFTI_XFORM_UNKNOWN, NIFTI_XFORM_SCANNER_ANAT
#: Voxels that a volume must have, and bytes of its file, to be hashed in parts; voxels of a part.
LARGE, _SMALL, _PART = 2**26, 2**20, 2**25
#: First number of a NIfTI-2 header: its size.
_NIFTI_2 = 540
#: Deflate makes nothing smaller than this; bytes that may follow the voxels.
_SMALLEST_RATIO, _TRAILING = 1032, 1 << 20
_UNREADABLE = (ImageFileError, HeaderDataError, WrapStructError, OverflowError, OSError, EOFError, ValueError)


def read_volume(path: str | Path, volume: int | None = None) -> tuple[Tensor, VolumeGeometry]:
    """Read a volume in RAS+ order; axes are flipped and swapped, never resampled.

    Args:
        path: a NIfTI file of three axes; further axes must have length 1, but for one if ``volume`` is given.
        volume: which volume of a file of several (X, Y, Z, T), from 0; None for the only one.

    Returns:
        The volume (1, X, Y, Z), float32, in the file's intensity units, and where it lies (mm). Without an orientation
        (qform and sform code 0) axes stay as they are stored, and the affine is None.

    Raises:
        InputError: no such file, damaged, not a volume, not real numbers, or some of them not finite; or axes that are
            not at right angles.
    """
    voxels, geometry, notices = read_image(path, volume)
    check_straight(geometry, Path(path).name)
    for line in notices:
        logger.warning("%s: %s", Path(path).name, line)
    return voxels, geometry


def read_image(
    path: str | Path, volume: int | None = None, series: int | None = None
) -> tuple[Tensor, VolumeGeometry, tuple[str, ...]]:
    """Read a volume as :func:`read_volume`, but whether or not its axes are at right angles.

    Args:
        path: as of :func:`read_volume`.
        volume: as of :func:`read_volume`.
        series: which slice, from 0, to take out of all volumes of a file of several: the third axis is time then. Axes
            stay as they are stored, and the affine is None; frames are as far apart as the smaller pixel size.

    Returns:
        The volume, where it lies, and what is to be said of its header.

    Raises:
        InputError: as :func:`read_volume`.
    """
    path = Path(path)
    where = path.name
    _check_suffix(path)
    if not path.is_file():
        raise InputError("no such file", where=where)
    try:
        image = _open(path)
        _check_header(image, where, volume, series)
        check_size(image.dataobj, path)
        if series is not None:
            return _series(image, series, where)
        # Without trailing axes, and in RAS+ with the affine that belongs to it.
        affine, notices = affine_of_header(image)
        check_affine(affine, where)
        image = nib.funcs.squeeze_image(image)
        if image.ndim > 3:  # the last axis is the one of several volumes
            image = nib.funcs.squeeze_image(image.slicer[..., volume])
        oriented = says_orientation(image.header)
        voxels, geometry = in_ras(image.dataobj, affine, where, oriented=oriented)
    except (*_UNREADABLE, zlib.error) as error:
        raise InputError(
            "cannot be read as NIfTI",
            where=where,
            got=" ".join(str(error).replace(str(path), where).split())[:200] or type(error).__name__,
            mend="check that the file is complete and has the right file name extension",
        ) from None
    return voxels, geometry, notices


def write_volume(path: str | Path, volume: Tensor, geometry: VolumeGeometry, *, dtype: str = "float32") -> None:
    """Write a volume as NIfTI, atomically; the header says nothing but the geometry.

    Args:
        path: file to write, ``.nii`` or ``.nii.gz``.
        volume: (1, X, Y, Z), real, in RAS+ order.
        geometry: where it lies; without an affine the file says no orientation (qform and sform code 0).
        dtype: ``float32`` keeps the values; ``int16`` halves the file, with an error of at most half of
            (max - min) / 65535, by a slope and an intercept in the header.

    Raises:
        InputError: not such a volume, some voxels not finite, or the folder cannot be written.
        ConfigError: another ``dtype``.
    """
    path = Path(path)
    _check_suffix(path)
    if dtype not in DTYPES:
        raise ConfigError("unknown data type", where="dtype", expected=" or ".join(DTYPES), got=repr(dtype))
    array = voxels_to_write(volume, geometry, path.name)
    affine = affine_of(geometry)
    image = nib.Nifti1Image(array, affine)
    code = _UNKNOWN if geometry.affine is None else _SCANNER
    image.set_qform(affine, code=code)
    image.set_sform(affine, code=code)
    image.header.set_xyzt_units("mm")
    image.set_data_dtype(dtype)
    atomic_write(path, image.to_filename)


def voxels_sha256(path: str | Path) -> str:
    """Return the hash of the voxels that :func:`read_volume` reads.

    A large volume as :func:`write_volume` writes it is read several times, a part of each row at a time, instead of
    being held in memory as a whole.

    Args:
        path: as of :func:`read_volume`.

    Raises:
        InputError: as :func:`read_volume`.
    """
    path = Path(path)
    image = _open(path) if is_nifti_name(path) and path.is_file() and path.stat().st_size > _SMALL else None
    if image is None or math.prod(image.shape) <= LARGE or not _as_written(image):
        return sha256_tensor(read_volume(path)[0])
    (nx, ny, nz), offset = image.shape, int(image.dataobj.offset)
    check_size(image.dataobj, path)
    digest, width = tensor_digest(torch.float32, (1, nx, ny, nz)), max(_PART // (ny * nz), 1)
    for first in range(0, nx, width):
        part = np.empty((min(width, nx - first), ny, nz), dtype="<f4")
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            stream.seek(offset)
            for k in range(nz):
                rows = np.frombuffer(stream.read(4 * nx * ny), dtype="<f4").reshape(ny, nx)
                part[:, :, k] = rows[:, first : first + width].T
        digest.update(part.data)
    return digest.hexdigest()


def _as_written(image: Any) -> bool:
    """Say whether voxels are as :func:`write_volume` writes them: float32, three axes, in RAS+ order."""
    slope, intercept = image.header.get_slope_inter()
    turned = says_orientation(image.header) and nib.aff2axcodes(image.affine) != ("R", "A", "S")
    plain = image.ndim == 3 and image.get_data_dtype() == np.dtype("<f4") and slope in (None, 1.0) and not intercept
    return plain and not turned


def is_nifti_name(path: Path) -> bool:
    """Say whether a file has the name of a NIfTI file."""
    return path.name.lower().endswith(_SUFFIXES)


def _check_suffix(path: Path) -> None:
    if not is_nifti_name(path):
        raise InputError("not a NIfTI file", where=path.name, expected=" or ".join(_SUFFIXES), got=full_suffix(path))


def _open(path: Path) -> Any:
    """Return the image, its voxels not yet read; as what its header says, never as one of nibabel's other formats."""
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
        first = stream.read(4)
    sizes = (int.from_bytes(first, "little"), int.from_bytes(first, "big"))
    kind = nib.Nifti2Image if _NIFTI_2 in sizes else nib.Nifti1Image
    return kind.from_filename(path, mmap=False)


def check_size(voxels: Any, path: Path) -> None:
    """Compare what a header declares with what a file holds, before that is allocated.

    Args:
        voxels: nibabel's proxy of the voxels.
        path: the file with them.

    Raises:
        InputError: too short, or far too long for a compressed file.
    """
    offset = int(voxels.offset)
    needed = offset + math.prod(int(n) for n in voxels.shape) * voxels.dtype.itemsize
    packed, size = path.suffix.lower() in (".gz", ".mgz"), path.stat().st_size
    held = size
    if packed and needed <= size * _SMALLEST_RATIO:
        held = _unpacked_size(path, needed + _TRAILING)
    if offset < 0 or needed > held or (packed and held > needed + _TRAILING):
        raise InputError(
            "truncated, or a damaged header",
            where=path.name,
            expected=f"{needed} bytes",
            got=f"{held} bytes" if held <= needed else "more",
            mend="copy the file again",
        )


def _unpacked_size(path: Path, limit: int) -> int:
    """Return how many bytes are compressed in a file, read to the end, where the checksum stands, or beyond a limit.

    nibabel stops at the last voxel and would miss a damage.
    """
    size = 0
    with gzip.open(path) as stream:
        while size <= limit and (part := stream.read(1 << 20)):
            size += len(part)
    return size


def _series(image: Any, index: int, where: str) -> tuple[Tensor, VolumeGeometry, tuple[str, ...]]:
    """Return a slice of all volumes, see :func:`read_image`."""
    affine, _ = affine_of_header(image)
    check_affine(affine, where)
    dx, dy, _ = np.linalg.norm(affine[:3, :3], axis=0)
    frames = np.asarray(image.dataobj[:, :, index], dtype=np.float32).reshape(*image.shape[:2], -1)
    volume, geometry = in_ras(frames, np.diag([dx, dy, min(dx, dy), 1.0]), where, oriented=False)
    return volume, geometry, ("the third axis is time: axes are as stored, and the result has no orientation",)


def _check_header(image: Any, where: str, volume: int | None, series: int | None) -> None:
    """Refuse what cannot be a volume, or the one that was asked for, before its voxels are read."""
    shape = tuple(int(n) for n in image.shape)
    further = [n for n in shape[3:] if n != 1]
    if len(shape) < 3 or len(further) > 1 or 0 in shape or (further and image.get_data_dtype().kind not in "iuf"):
        raise InputError("not a volume", where=where, expected="three axes", got=f"shape {shape}")
    count = math.prod(further)
    if series is not None and not (further and 0 <= series < shape[2]):
        raise InputError(
            "no such series" if further else "no series",
            where=where,
            expected=f"a slice from 0 to {shape[2] - 1}" if further else "a file of several volumes (X, Y, Z, T)",
            got=series if further else f"shape {shape}",
        )
    if volume is None and series is None and further:
        raise InputError(
            "several volumes",
            where=where,
            expected="three axes",
            got=f"shape {shape}: {count} volumes, numbered from 0 to {count - 1}",
            mend="""choose one, --reader '{"name":"nifti","volume":0}', or a slice of all by its option series""",
        )
    if volume is not None and not 0 <= volume < count:
        raise InputError("no such volume", where=where, expected=f"0 to {count - 1}", got=volume)
    if image.get_data_dtype().kind not in "iuf":
        raise InputError("not real numbers", where=where, got=str(image.get_data_dtype()))
    check_affine(np.asarray(image.affine, dtype=np.float64), where)
