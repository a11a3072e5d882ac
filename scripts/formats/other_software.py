# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A volume that lies askew, and other software that writes or reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np

from monai_diffrecon.io.find_reader import read_scan

SHAPE = (37, 34, 33)
VALUES = np.random.default_rng(0).integers(-900, 1500, SHAPE).astype(np.int16)
#: First axis to the left, second upwards, third to the front, all askew; RAS+, mm.
AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])
AFFINE[:3, :3] = np.array([[-0.96, 0.28, 0.0], [0.0, 0.0, 1.0], [0.28, 0.96, 0.0]]) * [0.7, 0.9, 2.0]
AFFINE[:3, 3] = 40.25, -20.5, 7.125
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Voxels and affine in RAS+ order; None for an unknown orientation.
Volume = tuple[np.ndarray, "np.ndarray | None"]


def ours(path: Path, spec: Any = "auto") -> Volume:
    """Return voxels and affine as our readers have them."""
    measured = read_scan(path, spec)[1]
    return measured.data[0].numpy(), None if measured.geometry.affine is None else np.array(measured.geometry.affine)


def in_ras(array: np.ndarray, affine: np.ndarray) -> Volume:
    """Return an image in RAS+ order."""
    image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(array, dtype=np.float64), affine))
    return np.asarray(image.dataobj), image.affine


def sitk_write(path: Path, compress: bool = False) -> Path:
    """Write the volume by SimpleITK; it takes MINC's RAS for its own LPS."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(VALUES.transpose(2, 1, 0))
    lps = AFFINE if path.suffix == ".mnc" else LPS @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=compress)
    return path


def sitk_read(path: Path) -> Volume:
    """Read a volume by SimpleITK."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    affine = affine if path.suffix == ".mnc" else LPS @ affine
    return in_ras(sitk.GetArrayFromImage(image).transpose(2, 1, 0), affine)


def pynrrd_read(path: Path) -> Volume:
    """Read a volume by pynrrd."""
    import nrrd

    array, header = nrrd.read(str(path))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.array(header["space directions"]).T, header["space origin"]
    return in_ras(array, LPS @ affine if header["space"].startswith("left-posterior") else affine)


def surfa_read(path: Path) -> Volume:
    """Read a volume by surfa, FreeSurfer's own package."""
    import surfa

    with mock.patch("numpy.fromstring", lambda data, dtype: np.frombuffer(data, dtype).copy()):  # gone from numpy 2.3
        volume = surfa.load_volume(str(path))
    return in_ras(volume.data, np.array(volume.geom.vox2world.matrix))


def ome_zarr_read(path: Path) -> Volume:
    """Read the finest level by ome-zarr, and our attribute by zarr."""
    import zarr
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    (image,) = path.glob("*.ome.zarr")
    (node,) = Reader(parse_url(image))()
    affine = np.array(zarr.open_group(image, mode="r").attrs["monai_diffrecon"]["affine"])
    (transforms,) = node.metadata["coordinateTransformations"][:1]
    np.testing.assert_allclose(transforms[0]["scale"], np.linalg.norm(affine[:3, :3], axis=0)[::-1])
    np.testing.assert_allclose(transforms[1]["translation"], affine[:3, 3][::-1])
    return np.asarray(node.data[0]).transpose(2, 1, 0), affine


def apart(first: Volume, second: Volume) -> tuple[float, float]:
    """Return the largest difference of voxels over their range, and of the places of corners, mm."""
    (a, place), (b, other) = first, second
    if a.shape != b.shape or place is None or other is None:
        return np.inf, np.inf
    corners = np.stack([*np.meshgrid(*((0, n - 1) for n in a.shape), indexing="ij"), np.ones((2, 2, 2))]).reshape(4, 8)
    scale = max(float(np.ptp(b)), 1e-9)
    return float(np.abs(a - b).max() / scale), float(np.linalg.norm(((place - other) @ corners)[:3], axis=0).max())
