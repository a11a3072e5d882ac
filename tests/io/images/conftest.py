# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""ITK, which writes and reads files that our readers and writers are compared with."""

from __future__ import annotations

import importlib
import locale
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_diffrecon.protocols import VolumeGeometry

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def oblique(shape: tuple[int, int, int] = (7, 6, 5)) -> VolumeGeometry:
    """Return a volume that lies askew, off centre, closest to RAS+."""
    affine = np.array(
        [[0.56, -0.48, 0.0, -91.5], [0.42, 0.64, 0.0, 20.125], [0.0, 0.0, 3.0, -333.3], [0.0, 0.0, 0.0, 1.0]]
    )
    return VolumeGeometry(shape, (0.7, 0.8, 3.0), tuple(tuple(row) for row in affine.tolist()))


def _io(itk: Any, path: Path) -> Any:
    kinds = {".nrrd": "Nrrd", ".nhdr": "Nrrd", ".mha": "Meta", ".mhd": "Meta", ".mnc": "MINC", ".hdr": "Nifti"}
    return getattr(itk, f"{kinds[path.suffix]}ImageIO").New()


@pytest.fixture(scope="session")
def itk() -> Iterator[SimpleNamespace]:
    """Those modules of itk that are needed: all of it takes long, and its warnings come from C code."""
    found: dict[str, Any] = {}
    before = locale.setlocale(locale.LC_ALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = "MetaImageIO NrrdImageIO NiftiImageIO MINCImageIO ImageFileReader ImageFileWriter PyBuffer Matrix"
        for name in names.split():
            found |= vars(importlib.import_module(f"itk.itk{name}Python"))
    yield SimpleNamespace(**{k.removeprefix("itk"): v for k, v in found.items() if k.startswith("itk")})
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="session")
def itk_write(itk: Any) -> Callable[..., None]:
    """Return a function that writes an int16 array (X, Y, Z) with an affine (RAS+) by ITK."""

    def write(path: Path, array: np.ndarray, affine: np.ndarray, *, compress: bool = False) -> None:
        image = itk.PyBufferISS3.GetImageViewFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
        lps = affine if path.suffix == ".mnc" else LPS @ affine  # ITK 5 takes MINC's RAS for LPS
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        directions = image.GetDirection().GetVnlMatrix()
        for i in range(3):
            for j in range(3):
                directions.put(i, j, float(lps[i, j] / spacing[j]))
        image.SetDirection(itk.MatrixD33(directions))
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        writer = itk.ImageFileWriterISS3.New()
        writer.SetImageIO(_io(itk, path))
        writer.SetUseCompression(compress)
        writer.SetFileName(str(path))
        writer.SetInput(image)
        writer.Update()

    return write


@pytest.fixture(scope="session")
def itk_read(itk: Any) -> Callable[[Path], tuple[np.ndarray, np.ndarray]]:
    """Return a function that reads the voxels (X, Y, Z) and the affine of an image by ITK, in RAS+ order."""

    def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
        reader = itk.ImageFileReaderIF3.New()
        reader.SetImageIO(_io(itk, path))
        reader.SetFileName(str(path))
        reader.Update()
        image = reader.GetOutput()
        matrix = image.GetDirection().GetVnlMatrix()
        affine = np.eye(4)
        for i in range(3):
            affine[:3, i] = [matrix.get(j, i) * image.GetSpacing()[i] for j in range(3)]
        affine[:3, 3] = list(image.GetOrigin())
        array = np.array(itk.PyBufferIF3.GetArrayViewFromImage(image)).transpose(2, 1, 0)
        found = nib.as_closest_canonical(nib.Nifti1Image(array, LPS @ affine))
        return np.asarray(found.dataobj), found.affine

    return read


@pytest.fixture(scope="session")
def images() -> SimpleNamespace:
    """The functions above: test files cannot import one another."""
    return SimpleNamespace(oblique=oblique, LPS=LPS)
