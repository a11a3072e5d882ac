# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Random 2D patches of prepared volumes, in one anatomical plane."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import affine_transform
from torch.utils.data import Dataset

from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.planes import check_plane
from monai_diffrecon.protocols.geometry import PLANE_AXIS
from monai_diffrecon.training.label_contrast import random_means, render_labels


class SlicePatches(Dataset):
    """Patches drawn by a counter: item ``i`` of epoch ``e`` is the same whenever it is asked for.

    Args:
        datalist: file written by ``scripts/prepare_training_data.py``; its folder holds the volumes.
        plane: plane of the slices.
        patch_size: height and width of a patch.
        length: items an epoch.
        section: ``training`` or ``validation``.
        seed: seed of the draw.
        flip: mirror patches left to right (the first axis of axial and coronal slices; sagittal ones have none).
        foreground: smallest part of a patch that must not be empty, for most patches.
        label_fraction: part of the patches rendered from label maps, where there are any.
        t1_probability: part of those rendered with a T1-weighted contrast; the others have any contrast.
        contrast: strength of the random gamma, gain and shading, 1 for full.
        warp: largest relative change of size; turns go up to as many radians. 0 for none.
    """

    def __init__(
        self,
        datalist: str,
        plane: str,
        patch_size: int = 96,
        length: int = 4000,
        section: str = "training",
        seed: int = 0,
        flip: bool = True,
        foreground: float = 0.1,
        label_fraction: float = 0.25,
        t1_probability: float = 0.7,
        contrast: float = 1.0,
        warp: float = 0.0,
    ) -> None:
        self.plane = check_plane(plane, "dataset#plane")
        path = Path(datalist)
        if not path.is_file():
            raise InputError(
                "no data list",
                where="dataset#datalist",
                expected="a file written by scripts/prepare_training_data.py",
                got=path.name,
                mend="run that script and pass --datalist",
            )
        rows = [r for r in json.loads(path.read_text()).get(section, ()) if plane in r["planes"]]
        if not rows:
            raise InputError(f"no volume with {plane} slices in section {section}", where="dataset#datalist")
        self.images = [self._load(path.parent, r) for r in rows if "labels" not in r]
        self.label_maps = [(self._load(path.parent, r), np.asarray(r["labels"])) for r in rows if "labels" in r]
        weights = np.array([r.get("weight", 1.0) for r in rows if "labels" not in r])
        self.weights = weights / weights.sum()
        self.patch_size, self.length, self.seed = patch_size, length, seed
        self.flip = flip and plane != "sagittal"
        self.foreground, self.label_fraction, self.t1_probability = foreground, label_fraction, t1_probability
        self.contrast, self.warp = contrast, warp
        self.epoch = 0

    def _load(self, folder: Path, row: dict[str, Any]) -> np.ndarray:
        return np.moveaxis(np.load(folder / row["file"], mmap_mode="r"), PLANE_AXIS[self.plane], 0)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return one patch (1, H, W) in network units."""
        rng = np.random.Generator(np.random.PCG64((self.seed, self.epoch, int(index))))
        if self.label_maps and (not self.images or rng.random() < self.label_fraction):
            volume, labels = self.label_maps[rng.integers(len(self.label_maps))]
            patch = render_labels(
                self._crop(volume, rng), random_means(labels, rng, t1_probability=self.t1_probability), rng
            )
        else:
            volume = self.images[rng.choice(len(self.images), p=self.weights)]
            patch = self._crop(volume, rng).astype(np.float32)
        if self.warp:
            patch = _warped(patch, rng, self.warp)
        return torch.from_numpy(_augment(patch, rng, flip=self.flip, contrast=self.contrast))[None]

    def _crop(self, volume: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        size = self.patch_size
        for attempt in range(8):
            plane = volume[rng.integers(volume.shape[0])]
            top, left = (int(rng.integers(max(n - size, 0) + 1)) for n in plane.shape)
            patch = plane[top : top + size, left : left + size]
            if attempt == 7 or np.count_nonzero(patch > 0.02) >= self.foreground * size * size:
                break
        return _pad(np.asarray(patch), (size, size))


def _pad(patch: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    missing = [n - m for n, m in zip(shape, patch.shape, strict=True)]
    return np.pad(patch, [(m // 2, m - m // 2) for m in missing]) if any(missing) else patch


def _warped(patch: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    angle = rng.uniform(-strength, strength)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn * rng.uniform(1 - strength, 1 + strength, size=2)
    center = (np.array(patch.shape) - 1) / 2
    return affine_transform(patch, matrix, center - matrix @ center, order=1)


def _augment(patch: np.ndarray, rng: np.random.Generator, *, flip: bool, contrast: float = 1.0) -> np.ndarray:
    if flip and rng.random() < 0.5:
        patch = patch[::-1]
    if rng.random() < 0.5:
        patch = np.clip(patch, 0.0, None) ** np.float32(1 + contrast * rng.uniform(-0.25, 0.3))
    if rng.random() < 0.3:
        ramps = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in patch.shape), indexing="ij")
        a, b, c = (contrast * rng.uniform(-0.2, 0.2, size=3)).astype(np.float32)
        patch = patch * (1 + a * ramps[0] + b * ramps[1] + c * ramps[0] * ramps[1])
    return np.ascontiguousarray(patch * np.float32(1 + contrast * rng.uniform(-0.3, 0.3)))
