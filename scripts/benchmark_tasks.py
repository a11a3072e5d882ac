# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Both planes against 3D ADMM-TV at its best weight, for each task, on a volume of your choice.

    python scripts/benchmark_tasks.py mri --source examples/colin27_t1.nii.gz [--slices 60 110] [--output FILE.md]

ADMM-TV is given every weight of a grid and two numbers of iterations, and judged by the truth: the best row is the
rival. The reconstruction by
diffusion priors uses the bundle's overlay as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_diffrecon.evaluation.metrics import volume_metrics
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement import affine_of, geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume

ROOT = Path(__file__).resolve().parent.parent
TASKS = {"zsr": "z_super_resolution", "mri": "accelerated_mri", "ct": "sparse_view_ct"}
#: lambda / ||A^T A||, network units.
WEIGHTS = {"zsr": (0.001, 0.003, 0.01), "mri": (0.003, 0.01, 0.03, 0.1), "ct": (0.0003, 0.001, 0.003, 0.01)}
RHO = {"zsr": 0.3, "mri": 0.3, "ct": 0.1}
ITERATIONS = (30, 150)


def parsed(task: str, image: Path, **overrides: Any) -> ConfigParser:
    """Return the axial bundle's configuration for a task."""
    root = ROOT / "bundles" / "brain_mr_t1_axial"
    config = ConfigParser()
    config.read_config([str(root / "configs/inference.json"), str(root / f"configs/tasks/{TASKS[task]}.json")])
    config.update({"bundle_root": str(root), "image": str(image), "case_name": "case", **overrides})
    return config


def main() -> None:
    """Measure, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--source", type=Path, default=ROOT / "examples" / "colin27_t1.nii.gz")
    parser.add_argument("--slices", type=int, nargs=2, default=None, metavar=("FIRST", "END"), help="axial slices used")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    folder = ROOT / "outputs" / f"benchmark_{args.task}"
    folder.mkdir(parents=True, exist_ok=True)
    volume, geometry = read_volume(args.source)
    first, end = args.slices or (0, volume.shape[-1])
    volume = volume[..., first:end].contiguous()
    part = folder / "volume.nii.gz"
    write_volume(part, volume, geometry_of(volume.shape[1:], affine_of(geometry)))

    tv = [
        (
            f"3D ADMM-TV, weight {w:g}, {n} iterations",
            {"sampler": {"name": "admm_tv", "rho": RHO[args.task], "threshold": w / RHO[args.task], "iterations": n}},
        )
        for w in WEIGHTS[args.task]
        for n in ITERATIONS
    ]
    both = {"auxiliary_bundle": "../brain_mr_t1_coronal"}
    methods: list[tuple[str, dict[str, Any]]] = [
        ("classical estimate", {"sampler": {"name": "initial"}}),
        *tv,
        ("axial plane alone", {}),
        ("both planes (default)", both),
    ]
    lines = [
        f"{args.source.name}, axial slices {first}-{end - 1}, {TASKS[args.task]}, {torch.get_num_threads()} threads",
        "",
        "| method | passes | PSNR (dB) | SSIM axial | coronal | sagittal | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    measurement = parsed(args.task, part).get_parsed_content("dataset")[0]["image"]
    for name, overrides in methods:
        done = parsed(args.task, part, **overrides).get_parsed_content("inferer").reconstruct(measurement, case="case")
        m = volume_metrics(done.volume, volume)
        ssim = " | ".join(f"{m[f'ssim_{p}']:.4f}" for p in ("axial", "coronal", "sagittal"))
        calls, seconds = done.report.denoiser_calls, done.report.seconds
        lines.append(f"| {name} | {calls} | {m['psnr']:.2f} | {ssim} | {seconds:.0f} |")
        print(lines[-1], flush=True)
    if args.output is not None:
        text = "\n".join(lines) + "\n"
        atomic_write(args.output, lambda path: path.write_text(text))


if __name__ == "__main__":
    main()
