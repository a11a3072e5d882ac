# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A thick-slice scan, as a file and as what a host hands over, and its reconstruction by the bundle itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigParser

#: Slices of 5 mm whose axes run as DICOM's: to the left, to the back and upwards.
AFFINE = np.array([[-1.0, 0, 0, 40], [0, -1.0, 0, 30], [0, 0, 5.0, -20], [0, 0, 0, 1]])
#: Options of a run that takes no time; each plane is denoised once.
QUICK = {"sampler#steps": 2, "perpendicular#K": 2, "operator#target_spacing": 1.0, "inferer#progress": False}


@dataclass(frozen=True)
class Scan:
    """The scan.

    Attributes:
        voxels: (X, Y, Z) as stored.
        path: its file.
        expected: the volume (1, X, Y, Z) in RAS+ order, by the bundle's own parts.
        affine: where that lies.
    """

    voxels: np.ndarray
    path: Path
    expected: np.ndarray
    affine: np.ndarray


def make_family(make_bundle: Callable[..., Path], folder: Path) -> Path:
    """Write a bundle of axial slices with its sibling of coronal ones, and return its root."""
    import json

    for plane, seed in (("axial", 0), ("coronal", 1)):
        root = make_bundle(folder / f"family_{plane}", plane, seed, auxiliary=["family_coronal"] * (plane == "axial"))
        config = ConfigParser.load_config_file(root / "configs/inference.json")
        parser = ConfigParser(config)
        for name, value in QUICK.items():
            parser[name] = value
        (root / "configs/inference.json").write_text(json.dumps(parser.get()))
    return folder / "family_axial"


def make_scan(root: Path, folder: Path) -> Scan:
    """Write the scan and reconstruct it."""
    voxels = np.random.default_rng(0).uniform(0.0, 900.0, (16, 24, 4)).astype(np.int16)
    path = folder / "scan.nii.gz"
    nib.save(nib.Nifti1Image(voxels, AFFINE), path)
    parser: Any = ConfigParser()
    parser.read_config(str(root / "configs/inference.json"))
    parser.update({"bundle_root": str(root), "device": "cpu"})
    data = parser.get_parsed_content("preprocessing")({"image": str(path)})
    done = parser.get_parsed_content("inferer").reconstruct(data["image"])
    return Scan(voxels, path, done.volume.numpy(), np.asarray(done.geometry.affine))
