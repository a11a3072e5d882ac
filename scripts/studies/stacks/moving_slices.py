# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A head that moves during three thick stacks: how well single slices are found, and what it is worth.

    python scripts/studies/stacks/moving_slices.py VOLUME [--motion 0.5 1 2 4] [--write docs/results]

The head drifts: the motion of each slice (mm and degrees about each axis) is that of the slice before, and a random
step, scaled so that the spread over the slices is the one that is asked for. Volumes are made by ADMM-TV of the stacks
aligned as wholes, of the slices aligned, and with the motion as it was, the best that can be had.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from simulated_stacks import PLANES, errors_of, measured
from study import head_and_box, on_grid

from monai_diffrecon import Measurement, combine_stacks, load
from monai_diffrecon.comparison.volume_metrics import psnr
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of
from monai_diffrecon.operators._stack_points import mean_pose

THICKNESS, NOISE = 5, 0.01


def drift(count: int, spread: float, centre: np.ndarray, seed: int) -> np.ndarray:
    """Return the motion (count, 4, 4) of each slice: mm and degrees, of this standard deviation about their mean."""
    walk = np.cumsum(np.random.default_rng(seed).normal(size=(count, 6)), axis=0)
    walk = spread * (walk - walk.mean(0)) / walk.std(0)
    out = np.tile(np.eye(4), (count, 1, 1))
    out[:, :3, :3] = Rotation.from_euler("xyz", walk[:, :3], degrees=True).as_matrix()
    out[:, :3, 3] = walk[:, 3:] + centre - out[:, :3, :3] @ centre
    return out


def run(head: np.ndarray, box: tuple[slice, ...], spread: float) -> str:
    """Return a row of the table."""
    truth = head[box]
    centre, scans, true = (np.array(truth.shape) - 1) / 2, [], []
    for k, plane in enumerate(PLANES):
        count = truth.shape[("sagittal", "coronal", "axial").index(plane)] // THICKNESS
        true.append(drift(count, spread, centre, seed=k))
        voxels, affine = measured(head, box, plane, THICKNESS, true[-1], NOISE, seed=k)
        scans.append(Measurement(torch.from_numpy(voxels)[None], geometry_of(voxels.shape, affine)))
    moved, cells = np.concatenate(true), []
    for motion, known in (("stacks", None), ("slices", None), ("none", torch.from_numpy(moved))):
        try:
            found = combine_stacks(scans, motion=motion, poses=known)
        except InputError:
            cells.append("refused")
            continue
        assert found.operator is not None
        poses = found.operator["poses"].numpy()
        # Only the places of slices against each other can be known: the volume is put where the head was on average.
        poses = mean_pose(moved @ np.linalg.inv(poses)) @ poses
        found.operator["poses"] = torch.from_numpy(poses)
        placed = [errors_of(one, other, truth.shape).mean() for one, other in zip(poses, moved, strict=True)]
        made = load("brain_mr", task="stacks", method="admm_tv", overrides={"sampler#threshold": 0.03}).reconstruct(
            found
        )
        volume = on_grid(made.volume.as_subclass(torch.Tensor).float(), affine_of(made.geometry), truth.shape)
        where = "" if known is not None else f"{np.median(placed):.2f} / {np.quantile(placed, 0.9):.2f} mm, "
        said = ", warns" if any("fit badly" in notice for notice in found.notices) else ""
        cells.append(f"{where}{psnr(volume, torch.from_numpy(truth)[None]):.1f} dB{said}")
    row = f"| {spread:g} | " + " | ".join(cells) + " |"
    print(row, flush=True)
    return row


def main() -> None:
    """Move, combine, reconstruct, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", type=Path)
    parser.add_argument("--size", type=int, nargs=3, default=(60, 70, 60), help="most voxels of the head")
    parser.add_argument("--motion", type=float, nargs="+", default=(0.5, 1.0, 2.0, 4.0), help="spreads, mm and degrees")
    parser.add_argument("--write", type=Path, help="folder of the page")
    args = parser.parse_args()
    head, box = head_and_box(args.volume, tuple(args.size))
    lines = [
        "# A head that moves during its stacks",
        "",
        f"Written by `scripts/studies/stacks/moving_slices.py`: {args.volume.name.split('.')[0]}, "
        f"{' x '.join(str(side.stop - side.start) for side in box)} voxels of 1 mm, three "
        f"orthogonal stacks of {THICKNESS} mm slices, noise "
        f"of {100 * NOISE:g} %. Every slice is measured at another place of a random walk. Errors of places are the "
        "median and the 90 % quantile over the slices, of the mean over points of the head; volumes are made by "
        "ADMM-TV. `warns` is the notice that the stacks fit badly.",
        "",
        "| spread of the motion (mm, degrees) | `motion: stacks` | `motion: slices` | motion known (`poses`) |",
        "|---|---|---|---|",
        *(run(head, box, spread) for spread in args.motion),
    ]
    if args.write:
        atomic_write(args.write / "moving_slices.md", lambda p: p.write_text("\n".join(lines) + "\n", encoding="utf-8"))


if __name__ == "__main__":
    main()
