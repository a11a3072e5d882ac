# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Calibration of posterior samples: coverage of nominal intervals on a part of the example brain.

    python scripts/studies/uncertainty.py [--size 80] [--samples 8] [--calls 20] [--output docs/studies/uncertainty.md]

MRI 8 times faster (Poisson disc) and 5 mm slices to 1 mm, each by several samplers. The intervals are Student's
prediction intervals from mean and standard deviation of the samples, and central intervals from the rank of the truth
among them. Voxels of the head count (above 5 % of the largest). With ``--output`` a picture of the curves of each task
is written beside the table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import Tensor

from monai_diffrecon.comparison.calibration import Coverage, interval_coverage, rank_coverage
from monai_diffrecon.comparison.calibration_picture import draw_calibration
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.engine.run_report import Reconstruction
from monai_diffrecon.engine.transforms.simulate_measurement import SimulateMeasurementd
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.presets.overlays import METHOD, overlay_path

ROOT = Path(__file__).resolve().parents[2]
TASKS = {"MRI 8x": "accelerated_mri", "5 mm slices": "z_super_resolution"}
#: Where dds_tpdm starts.
PRESET = {"sigma_start": "$0.2 if @integrals else 0.5", "start": "$@tv_start if @integrals else 'initial'"}
SAMPLERS: dict[str, dict[str, Any]] = {
    "dds_tpdm (ddim, eta 1)": {},
    "ddim, eta 0.5": {"sampler#eta": 0.5},
    "ddim, eta 0": {"sampler#eta": 0.0},
    "ddim, eta 0, from noise": {"sampler#eta": 0.0, "sampler#start": "noise", "sampler#sigma_start": 2.0},
    "heun": {"sampler": {"name": "heun", "steps": "$max(@calls // 2, 1)", **PRESET}},
}
SHOWN = (0.5, 0.8, 0.9, 0.95)


def brain(size: int) -> Tensor:
    """Return a central part of the example brain, ``size`` x ``size`` x ``size / 2`` voxels rounded to thick slices."""
    volume, _ = read_volume(ROOT / "examples" / "colin27_t1.nii.gz")
    shape = (size, size, max(size // 10, 1) * 5)
    x, y, z = (slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(volume.shape[1:], shape, strict=True))
    return volume[:, x, y, z].contiguous()


def sample(task: str, overrides: dict[str, Any], truth: Tensor, noise: float) -> Reconstruction:
    """Return the mean, spread and samples of one sampler on one task."""
    root = ROOT / "bundles" / "brain_mr_t1_axial"
    config = ConfigParser()
    files = [root / "configs" / "inference.json", root / "configs" / "tasks" / f"{task}.json"]
    config.read_config([str(file) for file in (*files, overlay_path(METHOD, "dds_tpdm", root, where="study"))])
    config.update({"bundle_root": str(root), "auxiliary_bundle": "../brain_mr_t1_coronal", **overrides})
    inferer = config.get_parsed_content("inferer")
    simulate = SimulateMeasurementd(["image"], config.get_parsed_content("operator"), noise=noise)
    return inferer.reconstruct(simulate({"image": MetaTensor(truth)})["image"], case="study")


def row(label: str, done: Reconstruction, truth: Tensor, mask: Tensor) -> tuple[str, Coverage, Coverage]:
    """Return a line of the table, and the coverage by both kinds of intervals."""
    spread = done.spread
    assert spread is not None
    student = interval_coverage(done.volume, spread.std, truth, mask=mask, num_samples=spread.count)
    ranks = rank_coverage(spread.samples, truth, mask=mask)
    peak = float(truth.max())
    error = float((done.volume - truth)[mask].square().mean().sqrt()) / peak
    parts = (spread.std, spread.std_measured, spread.std_null)
    spreads = [float(part[mask].square().mean().sqrt()) / peak for part in parts]
    psnr = [volume_metrics(x, truth)["psnr"] for x in (spread.samples[0], done.volume)]
    cells = [f"{psnr[0]:.2f}", f"{psnr[1]:.2f}", f"{100 * error:.2f}", *(f"{100 * s:.2f}" for s in spreads)]
    cells += [f"{100 * student.at(level):.0f}" for level in SHOWN]
    cells += [f"{c.expected_calibration_error:.3f}" for c in (student, ranks)]
    return f"| {label} | {' | '.join(cells)} | {done.report.seconds:.0f} |", student, ranks


def main() -> None:
    """Sample, count, draw, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--calls", type=int, default=20, help="network calls per slice and sample")
    parser.add_argument("--noise", type=float, default=0.01, help="relative to the measured entries")
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS.values()), default=list(TASKS.values()))
    parser.add_argument("--samplers", nargs="+", type=int, default=list(range(len(SAMPLERS))), metavar="N")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
    truth = brain(args.size)
    mask = truth > 0.05 * truth.max()
    lines = [
        "# Calibration of samples",
        "",
        f"{' x '.join(map(str, truth.shape[1:]))} voxels of the example brain, {args.samples} samples of {args.calls} "
        f"network calls per slice, {100 * args.noise:g} % noise. Error and standard deviation: root mean square over "
        "the head in % of the largest voxel; for calibrated samples the standard deviation is the error divided by the "
        "root of 1 + 1 / samples. Coverage of Student's intervals in %; ECE from these intervals and from ranks.",
    ]
    chosen = [list(SAMPLERS.items())[i] for i in args.samplers]
    shown = " | ".join(f"{100 * level:g} %" for level in SHOWN)
    for title, task in TASKS.items():
        if task not in args.tasks:
            continue
        head = f"| {title} | PSNR of one | of the mean | error | std | measured | null | {shown} | ECE | by ranks | s |"
        lines += ["", head, "|---" * head.count(" |") + "|"]
        print("\n".join(lines[-2:]), flush=True)
        curves = {}
        for label, overrides in chosen:
            options = {"calls": args.calls, "num_samples": args.samples, "keep_samples": True, **overrides}
            line, student, _ = row(label, sample(task, options, truth, args.noise), truth, mask)
            lines.append(line)
            print(line, flush=True)
            curves[label] = student
        if args.output is not None:
            picture = args.output.with_name(f"{args.output.stem}_{task}.png")
            draw_calibration(curves, picture, title=f"{title}, {args.samples} samples")
            lines += ["", f"![calibration]({picture.name})"]
    if args.output is not None:
        text = "\n".join(lines) + "\n"
        atomic_write(args.output, lambda path: path.write_text(text))


if __name__ == "__main__":
    main()
