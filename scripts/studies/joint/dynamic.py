# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A series of one slice, with and without a prior along time.

    python scripts/studies/joint/dynamic.py [--frames 8] [--thresholds 0.003 0.01 0.03 0.1] [--write docs/results]

An axial slice of the example brain, of which a part moves to and fro and another lights up, as after a contrast agent.
Each frame is measured by an eighth of the lines. Rows differ in one thing at a time: the same lines for all frames or
others for each, no network, frames by themselves, or with total variation along time (task ``dynamic``).
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from monai_diffrecon import Measurement, VolumeGeometry, load
from monai_diffrecon.comparison.volume_metrics import psnr, ssim
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.operators import CartesianMRI

ROOT = Path(__file__).resolve().parents[3]
NOISE, SHIFT, BRIGHTER = 0.01, 2.5, 0.5
CG = {"name": "conjugate_gradient"}


def moving(image: Tensor, frames: int) -> Tensor:
    """Return a series (1, X, Y, T) of an image (X, Y): a smooth displacement and a light, each over one period."""
    sizes = image.shape
    x, y = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in sizes), indexing="ij")
    near = torch.exp(-((x - 0.2).square() + (y + 0.1).square()) / 0.18)
    lit = torch.exp(-((x + 0.25).square() + (y - 0.2).square()) / 0.01)
    series = []
    for frame in range(frames):
        by = 2 * SHIFT * math.sin(2 * math.pi * frame / frames) * near
        points = torch.stack([y + 0.6 * by / sizes[1], x + by / sizes[0]], -1)[None]
        moved = grid_sample(image[None, None], points, align_corners=True, padding_mode="border")[0, 0]
        light = BRIGHTER * math.exp(-(((frame / frames - 0.4) / 0.15) ** 2))
        series.append(moved + light * lit)
    return torch.stack(series, -1)[None]


def rows(truth: Tensor, thresholds: Sequence[float]) -> list[str]:
    """Return the rows of the table."""
    geometry = VolumeGeometry(tuple(truth.shape[1:]))
    single: dict[str, Any] = {"consistency": CG}
    methods: list[tuple[str, dict[str, Any], bool]] = [
        ("3D total variation, no network", {"sampler": {"name": "admm_tv", "rho": 0.3, "threshold": 0.03}}, True),
        ("each frame by itself, the same lines", single, False),
        ("each frame by itself", single, True),
        ("`dynamic`, the same lines", {}, False),
    ]
    for threshold in thresholds:
        name = f"`dynamic`, threshold {threshold:g}"
        methods.append((name, {"consistency#regularizers#0#threshold": threshold}, True))
    found = []
    for name, overrides, different in methods:
        spec = {"name": "cartesian_mri", "mask_type": "gaussian1d", "acceleration": 8, "mask_per_slice": different}
        operator = CartesianMRI(geometry, **{key: value for key, value in spec.items() if key != "name"})
        y = operator(truth)
        noise = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0))
        measurement = Measurement(y + 2**0.5 * NOISE * (y != 0) * noise, geometry, spec, NOISE)
        volume = load("brain_mr", task="dynamic", overrides=overrides).reconstruct(measurement).volume
        found.append(f"| {name} | {psnr(volume, truth, 1.0):.2f} | {ssim(volume, truth, 'axial', 1.0):.4f} |")
        print(found[-1], flush=True)
    return found


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.003, 0.01, 0.03, 0.1])
    parser.add_argument("--write", type=Path, help="folder for dynamic.md")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    image = read_volume(ROOT / "examples" / "colin27_t1.nii.gz")[0][0, 48:144, 64:160, 90]
    truth = moving(image / torch.quantile(image[image > 0.01 * image.max()], 0.995), args.frames)
    size = " x ".join(map(str, truth.shape[1:3]))
    heading = f"""# A series with a prior along time

Written by `scripts/studies/joint/dynamic.py`. {size} pixels of an axial slice of colin27_t1, {args.frames} frames, in
which a part moves by up to {SHIFT:g} pixels and a spot lights up; one coil, an eighth of the lines of each frame, noise
of {100 * NOISE:g} % of the bright voxels. Task `dynamic` of `brain_mr`. Unless the row says otherwise, each frame has
other lines. PSNR (dB) and SSIM for a data range of 1.

| | PSNR | SSIM |
|---|---|---|
"""
    text = heading + "\n".join(rows(truth, args.thresholds)) + "\n"
    if args.write is not None:
        atomic_write(args.write / "dynamic.md", lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
