# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Checks the installed packages from an empty folder, as a user meets them, and prints a line with the result.

    python check_installation.py EXAMPLE [--depth MM] [options of diffrecon reconstruct]

Every module imports, the bundles are found by name, and ``diffrecon reconstruct thick.nii.gz`` makes 1 mm of a 5 mm
scan of the example (or of its middle ``--depth`` mm): volume, record and page are there, on the right grid, and
closer to it than cubic interpolation.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import affine_transform

import monai_diffrecon

DIFFRECON = Path(sys.executable).with_name("diffrecon")
THICK = 5


def import_all() -> int:
    """Import every module of the package, and return how many there are."""
    names = [info.name for info in pkgutil.walk_packages(monai_diffrecon.__path__, "monai_diffrecon.")]
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    return len(names)


def thick_slices(example: Path, depth: int | None) -> tuple[nib.Nifti1Image, np.ndarray]:
    """Return a scan of 5 mm slices, and the truth (X, Y, Z) in voxels of 1 mm."""
    image = nib.load(example)
    whole = image.get_fdata(dtype=np.float32)
    size = (depth or whole.shape[2]) // THICK * THICK
    first = (whole.shape[2] - size) // 2
    truth = whole[:, :, first : first + size]
    affine = image.affine @ np.diag([1, 1, THICK, 1])
    affine[:3, 3] = nib.affines.apply_affine(image.affine, [0, 0, first + (THICK - 1) / 2])
    return nib.Nifti1Image(truth.reshape(*truth.shape[:2], -1, THICK).mean(-1), affine), truth


def psnr(volume: np.ndarray, truth: np.ndarray) -> float:
    """Return the PSNR in dB, of volumes (X, Y, Z)."""
    return float(20 * np.log10(truth.max() / np.sqrt(np.mean((volume - truth) ** 2))))


def only(pattern: str) -> Path:
    """Return the only file of the default output folder that matches."""
    (file,) = Path("reconstruction").glob(pattern)
    return file


def main() -> None:
    """Run the checks in the working directory, which should be empty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("example", type=Path)
    parser.add_argument("--depth", type=int)
    arguments, options = parser.parse_known_args()
    root = Path(monai_diffrecon.__file__).resolve().parent
    if not root.is_relative_to(Path(sys.prefix).resolve()):
        sys.exit(f"the package is not that of the environment: {root}")
    modules = import_all()
    listed = subprocess.run([DIFFRECON, "bundles"], check=True, capture_output=True, text=True).stdout
    if "brain_mr" not in listed:
        sys.exit("no bundle brain_mr")

    scan, truth = thick_slices(arguments.example, arguments.depth)
    nib.save(scan, "thick.nii.gz")
    started = time.monotonic()
    subprocess.run([DIFFRECON, "reconstruct", "thick.nii.gz", *options], check=True)
    seconds = time.monotonic() - started

    only("*_recon.provenance.json")
    only("*_view.html")
    reconstruction = nib.load(only("*_recon.nii.gz"))
    offset = -(THICK - 1) / 2 / THICK
    cubic = affine_transform(
        scan.get_fdata(), [1, 1, 1 / THICK], [0, 0, offset], output_shape=truth.shape, order=3, mode="nearest"
    )
    gained = psnr(reconstruction.get_fdata(), truth) - psnr(cubic, truth)
    first_slice = nib.affines.apply_affine(scan.affine, [0, 0, offset])
    if not np.allclose(reconstruction.affine[:3, 3], first_slice, atol=1e-3) or gained <= 0:
        sys.exit(f"not the right volume: {gained:+.2f} dB over cubic interpolation, affine {reconstruction.affine}")
    print(f"{modules} modules, reconstructed in {seconds:.0f} s, {gained:+.2f} dB over cubic interpolation")


if __name__ == "__main__":
    main()
