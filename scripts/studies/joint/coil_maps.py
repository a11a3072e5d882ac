# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What coil maps that are refined during the reconstruction are worth, by the number of calibration lines.

    python scripts/studies/joint/coil_maps.py [--centres 8 12 20] [--slices 1] [--write docs/results]

Axial slices of the example brain with a smooth phase, eight synthetic coils, a quarter of the lines. The maps are those
that the readers estimate; the settings are those of the task ``raw_mri``.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffrecon_mri.coil_maps import SMALLEST_CALIBRATION, espirit_maps, low_resolution_maps
from diffrecon_mri.synthetic_maps import birdcage_maps, smooth_phase
from monai_diffrecon import Measurement, VolumeGeometry, load
from monai_diffrecon.comparison.volume_metrics import psnr
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.numerics.mri.fourier import AXIAL, centred_fft

ROOT = Path(__file__).resolve().parents[3]
COILS, NOISE, ACCELERATION, FIRST_SLICE = 8, 0.015, 4, 100
CG = {"name": "conjugate_gradient", "iterations": 10}
STEPS = {"as estimated": CG, "refined": {"name": "refined_coil_maps", "step": CG}}


def measured_lines(count: int, centre: int) -> Tensor:
    """Return which lines are measured: the central ones, and others at random, fewer outwards."""
    distance = np.abs(np.arange(count) - count // 2)
    central = slice(count // 2 - centre // 2, count // 2 - centre // 2 + centre)
    weight = (1.0 - distance / (0.5 * count + 1.0)) ** 1.5
    weight[central] = 0.0
    lines = np.zeros(count, bool)
    lines[central] = True
    others = round(count / ACCELERATION) - centre
    lines[np.random.default_rng(0).choice(count, others, replace=False, p=weight / weight.sum())] = True
    return torch.from_numpy(lines)


def angle_between(maps: Tensor, true: Tensor, inside: Tensor) -> float:
    """Return the root mean square angle (degrees) between maps (coils, X, Y, Z) as vectors over the coils."""
    agreement = (maps.conj() * true).sum(0).abs() / (maps.norm(dim=0) * true.norm(dim=0)).clamp_min(1e-12)
    return float(torch.rad2deg(torch.arccos(agreement[inside].clamp(max=1.0))).square().mean().sqrt())


def rows(truth: Tensor, centre: int) -> list[str]:
    """Return the rows of the table of a number of central lines."""
    true, found = birdcage_maps(COILS, tuple(truth.shape)), []
    lines = measured_lines(truth.shape[1], centre)
    mask = lines.expand(truth.shape[:2])
    generator = torch.Generator().manual_seed(0)
    y = centred_fft(true * truth * smooth_phase(tuple(truth.shape), seed=3), AXIAL)
    noise = torch.randn(y.shape, dtype=y.dtype, generator=generator)
    y = (y + 2**0.5 * NOISE * noise) * mask[:, :, None]
    maps = {"low_resolution": low_resolution_maps(y, centre), "true": true}
    if centre >= SMALLEST_CALIBRATION:
        maps["espirit"] = espirit_maps(y, min(centre, 24))
    for name, given in sorted(maps.items()):
        angle = angle_between(given, true, truth > 0.1)
        scores: list[float] = []
        for step in STEPS.values():
            overrides = {"prior": "slices", "auxiliary_bundle": "none", "consistency": step}
            spec = {"name": "cartesian_mri", "mask": mask, "coil_maps": given, "complex_volume": True}
            measurement = Measurement(y, VolumeGeometry(tuple(truth.shape)), spec, NOISE)
            volume = load("brain_mr", task="raw_mri", overrides=overrides).reconstruct(measurement).volume
            scores.append(psnr(volume.abs(), truth[None], float(truth.max())))
            print(centre, name, angle, scores, flush=True)
        cells = " | ".join(f"{score:.1f}" for score in scores)
        found.append(f"| {centre} of {int(lines.sum())} | `{name}` | {angle:.1f} | {cells} |")
    return found


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--centres", type=int, nargs="+", default=[8, 12, 20], help="calibration lines")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--write", type=Path, help="folder for coil_maps.md")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    volume, _ = read_volume(ROOT / "examples" / "colin27_t1.nii.gz")
    part = volume[0, 24:160, 31:183, FIRST_SLICE : FIRST_SLICE + args.slices]
    truth = part / torch.quantile(part[part > 0.01 * part.max()], 0.995)
    x, y, z = truth.shape
    heading = f"""# Refined coil maps

Written by `scripts/studies/joint/coil_maps.py`. {x} x {y} x {z} voxels of colin27_t1, with a smooth phase, measured by
{COILS} synthetic coils (birdcage), 1 in {ACCELERATION} lines, with noise of {100 * NOISE:g} % of the bright voxels.
Task `raw_mri` of `brain_mr` with axial slices alone. The angle is that between estimated and true maps, as vectors over
the coils, root mean square over the brain; it is 90 degrees where there are no maps: ESPIRiT leaves out voxels of which
it is not sure, and a few bright ones cost much. PSNR (dB) of the magnitude, without rescaling, for maps as they were
given, and with `refined_coil_maps`, whose options are the defaults.

| calibration lines | maps given | angle (degrees) | as given | refined |
|---|---|---|---|---|
"""
    text = heading + "\n".join(row for centre in args.centres for row in rows(truth, centre)) + "\n"
    print(text)
    if args.write is not None:
        atomic_write(args.write / "coil_maps.md", lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
