# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Prepare volumes for training: RAS+, 1 mm, scaled to network units, cropped to the head, one .npy each.

    python scripts/prepare_training_data.py DATA OUT

DATA holds the folders ``mr/`` (images) and ``mr_labels/`` (label maps). Written to OUT: the volumes and
``datalist.json`` with the sections ``training`` and ``validation`` that ``SlicePatches`` reads.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation, Spacing
from tqdm import tqdm

#: Volumes with isotropic voxels near 1 mm: every plane. Weights favour T1.
VOLUMES = {
    "ljubx07_T1": 1.0,
    "brainchop_T1": 2.0,
    "niimath_T1_brain": 1.0,
    "seg3d_T1": 2.0,
    "niivue_fsnorm_T1_brain": 1.0,
    "niivue_fsbrain_T1_brain": 1.0,
    "ljubx07_T2": 0.3,
    "clinical_T2": 0.3,
}
#: Scans with thick axial slices: the axial network only.
AXIAL = {"ljubl01_T1W": 1.0, "ljubl03_T1W": 1.0, "ljubl04_T1W": 1.0, "ljubl19_T1W": 1.0, "ljubl20_T1W": 1.0}
VALIDATION = {"ljubx19_T1": 1.0}


def load(path: Path, spacing: tuple[float, float, float], mode: str | int) -> np.ndarray:
    """Return a volume (X, Y, Z) in RAS+ at ``spacing`` mm; -1 keeps an axis as it is."""
    read = Compose(
        [
            LoadImage(image_only=True, ensure_channel_first=False),
            EnsureChannelFirst(),
            Orientation(axcodes="RAS", labels=None),
            Spacing(pixdim=spacing, mode=mode),
        ]
    )
    return np.asarray(torch.as_tensor(read(path)))[0]


def crop(volume: np.ndarray, mask: np.ndarray, margin: int = 6) -> np.ndarray:
    """Return the bounding box of ``mask`` with a margin in voxels."""
    box = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(hit[0] - margin, 0), hit[-1] + 1 + margin))
    return volume[tuple(box)]


def image(path: Path, spacing: tuple[float, float, float]) -> np.ndarray:
    """Return an image in network units: the 99.5th percentile of the head is 1."""
    volume = np.clip(load(path, spacing, 3), 0, None)  # cubic splines keep the sharpness of finer voxels
    head = volume > 0.02 * volume.max()
    scaled = volume / np.percentile(volume[head], 99.5)
    return np.ascontiguousarray(crop(scaled, scaled > 0.05)).astype(np.float16)


def main() -> None:
    """Prepare everything that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with mr/ and mr_labels/")
    parser.add_argument("out", type=Path, help="folder for the prepared volumes")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    every = ["sagittal", "coronal", "axial"]
    sections: dict[str, list[dict]] = {"training": [], "validation": []}
    jobs = [("training", n, w, every) for n, w in VOLUMES.items()]
    jobs += [("training", n, w, ["axial"]) for n, w in AXIAL.items()]
    jobs += [("validation", n, w, every) for n, w in VALIDATION.items()]
    for section, name, weight, planes in tqdm(jobs, desc="images"):
        spacing = (1.0, 1.0, 1.0 if planes == every else -1.0)
        np.save(args.out / f"{name}.npy", image(args.data / "mr" / f"{name}.nii.gz", spacing))
        sections[section].append({"file": f"{name}.npy", "planes": planes, "weight": weight})
    for path in tqdm(sorted((args.data / "mr_labels").glob("*.nii.gz")), desc="label maps"):
        labels = load(path, (1.0, 1.0, 1.0), "nearest").astype(np.int64)
        values, index = np.unique(labels, return_inverse=True)
        index = index.reshape(labels.shape).astype(np.uint8)
        name = path.name.removesuffix(".nii.gz")
        np.save(args.out / f"{name}.npy", np.ascontiguousarray(crop(index, labels > 0)))
        sections["training"].append({"file": f"{name}.npy", "planes": every, "labels": values.tolist()})
    (args.out / "datalist.json").write_text(json.dumps(sections, indent=1) + "\n")


if __name__ == "__main__":
    main()
