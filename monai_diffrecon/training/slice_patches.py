# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Random 2D patches of prepared volumes, in one anatomical plane or in all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import affine_transform
from torch.utils.data import Dataset

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.numerics.pixel_range import MOST_OBLONG
from monai_diffrecon.numerics.planes import check_plane, slice_positions
from monai_diffrecon.protocols.geometry import PLANE_AXIS
from monai_diffrecon.training.label_contrast import random_means, render_labels

#: Smallest pixel that a scan is resampled to, in its own pixels: finer ones would be smooth images only.
FINEST = 0.6


class SlicePatches(Dataset):
    """Patches drawn by a counter: item ``i`` of epoch ``e`` is the same whenever it is asked for.

    Args:
        datalist: file written by ``scripts/prepare_training_data.py``; its folder holds the volumes.
        plane: plane of the slices, or ``any``: each patch of a random plane of its volume.
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
        spacing_range: smallest and largest pixel size in mm: half of the patches keep the pixels of their scan, the
            others are resampled to a random size, sometimes another one along each axis; pixels are refined by up to
            ``1 / FINEST``. None: every patch keeps its pixels. Needs ``spacing`` in the data list.
        position: patches come with where they are, as three more channels: of each pixel the position along X, Y, Z,
            -1 to 1, in a cube of ``patch_size`` voxels. Patches are then slices of such a cube, which lies in the
            volume at random; only for volumes that are larger, and keep their pixels.
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
        spacing_range: Sequence[float] | None = None,
        position: bool = False,
    ) -> None:
        self.section = section
        self.planes = tuple(PLANE_AXIS) if plane == "any" else (check_plane(plane, "dataset#plane"),)
        if spacing_range is not None and not 0 < spacing_range[0] < spacing_range[1]:
            raise ConfigError("not a range", where="dataset#spacing_range", expected="low < high", got=spacing_range)
        path = Path(datalist)
        if not path.is_file():
            raise InputError(
                "no data list",
                where="dataset#datalist",
                expected="a file written by scripts/prepare_training_data.py",
                got=path.name,
                mend="run that script and pass --datalist",
            )
        sections = json.loads(path.read_text())
        rows = [r for r in sections.get(section, ()) if set(self.planes) & set(r["planes"])]
        if not rows:
            raise InputError(f"no volume with {plane} slices in section {section}", where="dataset#datalist")
        if spacing_range is not None and any("spacing" not in r for r in rows):
            raise InputError("spacing_range needs the spacing of every volume", where="dataset#datalist")
        self.images = [self._load(path.parent, r) for r in rows if "labels" not in r]
        self.label_maps = [self._load(path.parent, r) for r in rows if "labels" in r]
        self.spacing_range = spacing_range
        weights = np.array([r.get("weight", 1.0) for r in rows if "labels" not in r])
        self.weights = weights / weights.sum()
        self.patch_size, self.length, self.seed = patch_size, length, seed
        self.flip = check_flag(flip, "dataset#flip")
        self.foreground, self.label_fraction, self.t1_probability = foreground, label_fraction, t1_probability
        self.contrast, self.warp = contrast, warp
        self.position = check_flag(position, "dataset#position")
        shapes = [v.voxels.shape for v in (*self.images, *self.label_maps)]
        if self.position and (spacing_range is not None or any(min(shape) < patch_size for shape in shapes)):
            raise ConfigError(
                "positions are in a cube",
                where="dataset#position",
                expected=f"volumes of {patch_size} voxels or more along every axis, no spacing_range",
                got=min(shapes),
            )
        self.epoch = 0

    def whole(self) -> tuple[list[PreparedVolume], np.ndarray]:
        """Return the images that have slices of all planes, and the probabilities that they are drawn with.

        Raises:
            InputError: there are none.
        """
        found = [(v, w) for v, w in zip(self.images, self.weights, strict=True) if set(v.planes) == set(PLANE_AXIS)]
        if not found:
            raise InputError("no volume with slices of all planes", where="dataset#datalist", got=self.section)
        weights = np.array([w for _, w in found])
        return [v for v, _ in found], weights / weights.sum()

    def _load(self, folder: Path, row: dict[str, Any]) -> PreparedVolume:
        return PreparedVolume(
            np.load(folder / row["file"], mmap_mode="r"),
            tuple(p for p in self.planes if p in row["planes"]),
            row.get("spacing", (1.0, 1.0, 1.0)),
            np.asarray(row.get("labels", ())),
        )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return one patch (1, H, W) in network units, with ``position`` (4, H, W)."""
        rng = np.random.Generator(np.random.PCG64((self.seed, self.epoch, int(index))))
        rendered = bool(self.label_maps) and (not self.images or rng.random() < self.label_fraction)
        if rendered:
            volume = self.label_maps[rng.integers(len(self.label_maps))]
        else:
            volume = self.images[rng.choice(len(self.images), p=self.weights)]
        # One plane draws nothing, so that the patches of a network of one plane stay what they were.
        plane = volume.planes[rng.integers(len(volume.planes))] if len(volume.planes) > 1 else volume.planes[0]
        native = tuple(s for axis, s in enumerate(volume.spacing) if axis != PLANE_AXIS[plane])
        wanted = native if self.spacing_range is None else _draw_spacing(native, self.spacing_range, rng)
        stack = np.moveaxis(volume.voxels, PLANE_AXIS[plane], 0)
        first, stop = 0, len(stack)
        if self.position:
            first = int(rng.integers(len(stack) - self.patch_size + 1))
            stop = first + self.patch_size
        index, patch = self._crop(stack[first:stop], rng, native, wanted)
        if rendered:
            patch = render_labels(patch, random_means(volume.labels, rng, t1_probability=self.t1_probability), rng)
        patch = patch.astype(np.float32)
        if wanted != native:
            patch = _resampled(patch, (self.patch_size, self.patch_size))
        if self.warp:
            patch = _warped(patch, rng, self.warp)
        flip = self.flip and plane != "sagittal"
        drawn = torch.from_numpy(_augment(patch, rng, flip=flip, contrast=self.contrast))[None]
        if not self.position:
            return drawn
        mirrored = self.flip and plane == "sagittal" and rng.random() < 0.5  # of a head seen in a mirror
        index = self.patch_size - 1 - index if mirrored else index
        shape = [self.patch_size] * 3
        shape[PLANE_AXIS[plane]] = 1
        return torch.cat((drawn, slice_positions(plane, shape, index, self.patch_size)[0]))

    def _crop(
        self, volume: np.ndarray, rng: np.random.Generator, native: tuple[float, ...], wanted: tuple[float, ...]
    ) -> tuple[int, np.ndarray]:
        size = [max(round(self.patch_size * w / n), 2) for n, w in zip(native, wanted, strict=True)]
        for attempt in range(8):
            index = int(rng.integers(volume.shape[0]))
            plane = volume[index]
            top, left = (int(rng.integers(max(n - m, 0) + 1)) for n, m in zip(plane.shape, size, strict=True))
            patch = plane[top : top + size[0], left : left + size[1]]
            if attempt == 7 or np.count_nonzero(patch > 0.02) >= self.foreground * size[0] * size[1]:
                break
        return index, padded(np.asarray(patch), size)


@dataclass(frozen=True)
class PreparedVolume:
    """A volume of a data list.

    Attributes:
        voxels: (X, Y, Z) in network units, or the indices of labels.
        planes: the planes of its slices.
        spacing: voxel size along X, Y, Z in mm.
        labels: the labels of a label map; empty for an image.
    """

    voxels: np.ndarray
    planes: tuple[str, ...]
    spacing: Sequence[float]
    labels: np.ndarray


def _draw_spacing(native: tuple[float, ...], limits: Sequence[float], rng: np.random.Generator) -> tuple[float, ...]:
    """Return a pixel size: that of the scan half of the time, otherwise log-uniform, one in three not square."""
    if rng.random() < 0.5:
        return native
    low, high = max(limits[0], FINEST * max(native)), limits[1]
    first = float(np.exp(rng.uniform(np.log(low), np.log(max(low, high)))))
    drawn = [first, first]
    if rng.random() < 1 / 3:
        drawn[rng.integers(2)] *= float(rng.uniform(1.0, MOST_OBLONG))
    return tuple(min(s, max(high, n)) for s, n in zip(drawn, native, strict=True))


def _resampled(patch: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return ``patch`` on a grid of ``shape`` pixels: cubic, averaging over the new pixel where that is larger."""
    tensor = torch.from_numpy(np.ascontiguousarray(patch))[None, None]
    return F.interpolate(tensor, size=shape, mode="bicubic", antialias=True, align_corners=False)[0, 0].numpy()


def padded(patch: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return a patch in the middle of zeros."""
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
