# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Position of the voxels according to a NIfTI header, and notices about it."""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel.spatialimages import HeaderDataError

#: Code of the unit of length (nifti1.h, NIFTI_UNITS) -> mm; 0 says none, and is written for mm.
_UNITS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_NAMES = {1: "meters", 3: "micrometers"}
#: Voxels beyond these (mm) are of no patient.
_SMALLEST, _LARGEST = 0.02, 50.0
#: Largest distance (mm) between where sform and qform put a voxel that is put down to rounding.
_APART = 0.1
#: No position is so far away (mm).
_FAR = 1e9


def affine_of_header(image: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the affine (4, 4) in mm, and sentences for whoever uses the image.

    The sform where its code is not 0, else the qform, as nibabel does; in the header's unit of length.

    Args:
        image: a nibabel image with the header of NIfTI-1 or -2.
    """
    header = image.header
    code = int(header["xyzt_units"]) & 7
    factor, notices = _UNITS.get(code, 1.0), []
    scale = np.diag([factor, factor, factor, 1.0])
    affine = scale @ np.asarray(image.affine, dtype=np.float64)
    if factor != 1.0:
        notices.append(f"the header's unit of length is {_NAMES[code]}: positions were converted to mm")
    elif code not in _UNITS:
        notices.append(f"the header's unit of length is unknown (code {code}): mm are assumed")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if sizes.min() < _SMALLEST or sizes.max() > _LARGEST:
        text = " x ".join(f"{size:.3g}" for size in sizes)
        notices.append(f"voxels of {text} mm: check the header's unit of length")
    if not says_orientation(header):
        notices.append(
            "the header says no orientation (qform and sform code 0): axes are taken as they are stored, and the image "
            "may be mirrored"
        )
    elif header["sform_code"] and header["qform_code"]:
        notices += _difference(header, affine, scale, image.shape[:3])
    return affine, tuple(notices)


def says_orientation(header: Any) -> bool:
    """Say whether a header of NIfTI says where its axes point."""
    return bool(header["sform_code"] or header["qform_code"])


def _difference(header: Any, sform: np.ndarray, scale: np.ndarray, shape: tuple[int, ...]) -> list[str]:
    """Return what is to be said of a qform that contradicts the sform."""
    with np.errstate(all="ignore"):
        try:
            qform = scale @ np.asarray(header.get_qform(), dtype=np.float64)
        except (HeaderDataError, ValueError):
            qform = np.full((4, 4), np.nan)
    if not (np.abs(qform) < _FAR).all():
        return ["the header's qform is damaged: the sform is used"]
    corners = np.stack([*np.meshgrid(*((0, n - 1) for n in shape), indexing="ij"), np.ones((2, 2, 2))]).reshape(4, 8)
    apart = float(np.linalg.norm(((sform - qform) @ corners)[:3], axis=0).max())
    if not apart > _APART:
        return []
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        return [
            "WARNING: the header's sform and qform are mirror images of one another, left and right may be swapped: "
            "the sform is used"
        ]
    return [f"the header's sform and qform differ by up to {apart:.3g} mm: the sform is used"]
