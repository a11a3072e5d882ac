# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Writing a volume as a derived DICOM series."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.atomic import atomic_folder, atomic_write
from monai_diffrecon.io.dicom.attributes import common_attributes, quantized
from monai_diffrecon.io.dicom.template import derived_uid
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.io.voxels import voxels_to_write
from monai_diffrecon.numerics.hashing import sha256_file, sha256_tensor
from monai_diffrecon.protocols import VolumeGeometry

_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"


def write_series(
    folder: str | Path,
    volume: Tensor,
    geometry: VolumeGeometry,
    *,
    case: str,
    unit: str = "arbitrary",
    template: Any = None,
    description: str = "monai_diffrecon reconstruction",
    derivation: str = "Reconstructed by monai_diffrecon; for research, not for clinical use",
    entropy: str | None = None,
    keep_identity: bool = False,
    uids_of_entropy: bool = False,
) -> str:
    """Write a volume as a series of CT or MR images (PS3.3 A.3, A.4), one file a slice along Z, and return its hash.

    The images are de-identified: named by the case, without dates, private attributes or UIDs of the source but its
    frame of reference, which lets a viewer lay them over it. They are stored as a display expects an axial slice,
    first pixel right and in front; every voxel keeps its position.
    The folder appears when all is written, and replaces one of the same name.

    Args:
        folder: folder to make; its parent must exist.
        volume: (1, X, Y, Z), real, in ``unit``.
        geometry: where it lies; any affine in RAS+ whose axes are perpendicular.
        case: pseudonym, for the patient's name and ID.
        unit: as of ``Measurement``; a CT image unless it is ``arbitrary``, or ``template`` says otherwise.
        template: header of the source, a mapping as of ``Measurement.header`` or a pydicom data set; only what
            :data:`~monai_diffrecon.io.dicom.template.ALLOWED` lists is taken from it.
        description: the series' description, at most 64 characters.
        derivation: how the images came about, at most 1024 characters.
        entropy: text that new UIDs are made from, together with all that is written: equal input, equal UIDs.
            None makes random ones.
        keep_identity: keep patient and study of ``template``, a pydicom data set then.
        uids_of_entropy: new UIDs are made from ``entropy`` alone, which must tell everything apart: a volume that was
            computed again, and differs in its last bits, is the same series.

    Returns:
        sha256 of the sorted hashes of the files, in hexadecimal.

    Raises:
        InputError: not such a volume, not finite, sheared, of unknown orientation, or the folder cannot be written.
        ConfigError: identity is to be kept, and the template has none; or a text is too long.
    """
    folder = Path(folder)
    array = _checked(volume, geometry, folder.name)
    for where, text, longest in (
        ("case", case, 64),
        ("description", description, 64),
        ("derivation", derivation, 1024),
    ):
        if not text or len(text) > longest:
            raise ConfigError("text of the wrong length", where=where, expected=f"1 to {longest}", got=len(text))
    attributes = common_attributes(template, unit, case, keep_identity=keep_identity)
    attributes |= {"SeriesDescription": description, "DerivationDescription": derivation}
    stored, slope, intercept = quantized(array, unit)
    attributes |= {"RescaleSlope": slope, "RescaleIntercept": intercept, "RescaleType": "HU" if unit == "HU" else "US"}
    attributes |= {"PixelRepresentation": int(stored.dtype.kind == "i")} | _plane(geometry)
    entropy = secrets.token_hex(16) if entropy is None else entropy
    content = json.dumps([sha256_tensor(volume), affine_of(geometry).tolist(), attributes], sort_keys=True)
    content = "" if uids_of_entropy else content
    attributes.setdefault("StudyInstanceUID", derived_uid("study", entropy, case))
    attributes["SeriesInstanceUID"] = derived_uid("series", entropy, content)
    attributes.setdefault("FrameOfReferenceUID", derived_uid("frame", entropy, content))

    def write(temporary: Path) -> None:
        for k, position in enumerate(_positions(geometry)):
            image = attributes | {
                "SOPInstanceUID": derived_uid("image", entropy, content, str(k)),
                "InstanceNumber": k + 1,
                "ImagePositionPatient": position,
            }
            dataset = _dataset(image, np.ascontiguousarray(stored[::-1, ::-1, k].T))
            atomic_write(temporary / f"{k + 1:04d}.dcm", partial(dataset.save_as, enforce_file_format=True))

    atomic_folder(folder, write, f"DICOM series {folder.name}")
    return series_sha256(folder)


def check_oriented(geometry: VolumeGeometry, where: str) -> None:
    """Refuse a volume of which it is not known how it lies: DICOM images say where right and left are.

    Raises:
        InputError: no affine.
    """
    if geometry.affine is None:
        raise InputError(
            "an unknown orientation, which DICOM cannot represent",
            where=where,
            expected="a scan with known orientation",
            mend="tell the reader (fastmri: --reader \"{'name': 'fastmri', 'axes': 'RAS'}\"), "
            "or write NIfTI: --output_format nifti",
        )


def series_sha256(folder: str | Path) -> str:
    """Return the sha256 of the sorted hashes of a written series' files, in hexadecimal."""
    hashes = sorted(sha256_file(path) for path in Path(folder).glob("*.dcm"))
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _checked(volume: Tensor, geometry: VolumeGeometry, where: str) -> np.ndarray:
    """Return the voxels (X, Y, Z) of a volume that can be written, float64."""
    array = voxels_to_write(volume, geometry, where).astype(np.float64)
    check_oriented(geometry, where)
    axes = affine_of(geometry)[:3, :3]
    axes = axes / np.linalg.norm(axes, axis=0)
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        raise InputError(
            "axes that are not perpendicular, which DICOM cannot represent",
            where=where,
            mend="resample the volume to perpendicular axes",
        )
    return array


def _plane(geometry: VolumeGeometry) -> dict[str, Any]:
    """Return size, spacing and orientation of the slices; rows run to the left, columns to the back."""
    affine = _lps(geometry)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = -(affine[:3, :2] / spacing[:2])
    return {
        "Rows": geometry.shape[1],
        "Columns": geometry.shape[0],
        "ImageOrientationPatient": [_decimal(v) for v in cosines.T.reshape(-1)],
        "PixelSpacing": [_decimal(spacing[1]), _decimal(spacing[0])],
        "SliceThickness": _decimal(spacing[2] - geometry.gaps[2]),
        "SpacingBetweenSlices": _decimal(spacing[2]),
    }


def _positions(geometry: VolumeGeometry) -> list[list[str]]:
    """Return the position (mm, LPS) of the first pixel of every slice."""
    x, y, z = geometry.shape
    corners = np.array([[x - 1, y - 1, k, 1] for k in range(z)])
    return [[_decimal(v) for v in position[:3]] for position in corners @ _lps(geometry).T]


def _lps(geometry: VolumeGeometry) -> np.ndarray:
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_of(geometry)


def _decimal(value: float) -> str:
    """Return a number as a decimal string of DICOM, at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return str(format_number_as_ds(round(float(value), 9) + 0.0))  # + 0.0: no negative zero


def _dataset(attributes: Mapping[str, Any], pixels: np.ndarray) -> Any:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = attributes["SOPClassUID"]
    meta.MediaStorageSOPInstanceUID = attributes["SOPInstanceUID"]
    meta.TransferSyntaxUID = UID(_EXPLICIT_LITTLE)
    meta.ImplementationClassUID = derived_uid("monai_diffrecon")
    meta.ImplementationVersionName = "MONAI_DIFFRECON"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    return dataset
