# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Print the hash of the voxels that the default of each bundle and task makes of a crop of the example scan.

    python scripts/hash_defaults.py [--root CHECKOUT] [--output FILE.json] [--against FILE.json]

A change of the code that is to keep the voxels is run before and after, on one machine: ``--root`` names another
checkout whose package and bundles are run, ``--against`` a file that was written before. One thread. Voxels of the
example stand in for HU, and for voxels of 1.5 mm: what is compared is the arithmetic, not the picture.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "colin27_t1.nii.gz"
_BRAIN = ("z_super_resolution", "accelerated_mri", "sparse_view_ct")
_BODY = ("sparse_view_ct", "limited_angle_ct")
#: bundle -> voxel size (mm), tasks; None is the bundle's own default, without a scan.
BUNDLES: dict[str, tuple[float, tuple[str | None, ...]]] = {
    "brain_mr": (1.0, _BRAIN[:2]),
    "brain_mr_t1_axial": (1.0, _BRAIN),
    "brain_mr_t1_coronal": (1.0, _BRAIN),
    "body_mr": (1.0, _BRAIN[:2]),
    "materials_ct": (1.0, _BODY[:1]),
    "body_ct": (1.5, _BODY),
    "body_ct_axial": (1.5, _BODY),
    "body_ct_coronal": (1.5, _BODY),
    "head_mr_t1_2mm": (2.0, (None,)),
    "head_mr_t1_2mm_axial": (2.0, (None,)),
    "head_mr_t1_2mm_coronal": (2.0, (None,)),
}
STEPS = 6  # of the generating default, which has 80


def crop(path: Path, spacing: float) -> None:
    """Write 56 x 64 x 40 voxels of the example; for CT its intensities as HU."""
    data = np.asarray(nib.load(EXAMPLE).dataobj, np.float32)[62:118, 80:144, 70:110]
    if spacing == 1.5:
        data = data / data.max() * 1400.0 - 1000.0
    nib.save(nib.Nifti1Image(data, np.diag([spacing, spacing, spacing, 1.0])), path)


def run(root: Path, bundle: str, task: str | None, image: Path, output: Path) -> str:
    """Run a bundle by its documented command, and return the hash of the volume."""
    folder = root / "bundles" / bundle
    configs = [str(folder / "configs" / "inference.json")]
    options = ["--image", str(image), "--case_name", "crop"]
    if task is None:
        options = ["--shape", "[32,32,32]", "--sampler#steps", str(STEPS)]
    else:
        configs.append(str(folder / "configs" / "tasks" / f"{task}.json"))
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", str(configs), *options]
    command += ["--bundle_root", str(folder), "--output_dir", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, cwd=image.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{bundle}, {task}: {done.stderr[-2000:]}")
    (volume,) = output.glob("*_recon.nii.gz")
    voxels = np.ascontiguousarray(nib.load(volume).dataobj, np.float32)
    return hashlib.sha256(voxels.tobytes()).hexdigest()


def main() -> int:
    """Run every bundle and task; return 1 when a hash differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout to run")
    parser.add_argument("--output", type=Path, help="file for the hashes")
    parser.add_argument("--against", type=Path, help="hashes that were written before")
    args = parser.parse_args()
    before = json.loads(args.against.read_text()) if args.against else {}
    hashes: dict[str, str] = {}
    for bundle, (spacing, tasks) in BUNDLES.items():
        for task in tasks:
            with tempfile.TemporaryDirectory() as folder:
                image = Path(folder) / "crop.nii.gz"
                crop(image, spacing)
                name = f"{bundle} {task or 'default'}"
                hashes[name] = run(args.root.resolve(), bundle, task, image, Path(folder) / "out")
            same = "" if not before else ("same" if before.get(name) == hashes[name] else "DIFFERENT")
            print(f"{name:45} {hashes[name][:16]} {same}", flush=True)
    if args.output is not None:
        args.output.write_text(json.dumps(hashes, indent=2) + "\n")
    return int(bool(before) and before != hashes)


if __name__ == "__main__":
    raise SystemExit(main())
