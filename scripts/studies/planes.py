# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Which planes, in which turn: z-super-resolution (5 mm to 1 mm), MRI and CT of one volume.

    python scripts/studies/planes.py VOLUME.nii.gz [--crop X0 X1 Y0 Y1 Z0 Z1] [--tasks zsr mri ct] [--output FILE.md]

Defaults are chosen on a validation subject, never on the demonstration's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume

ROOT = Path(__file__).resolve().parents[2]
OTHER = {"axial": "coronal", "coronal": "axial"}
TASKS = {"zsr": "z_super_resolution", "mri": "accelerated_mri", "ct": "sparse_view_ct"}
SHARE = {"sagittal": "coronal"}


def turns(k: int | str, *primary: str, share: bool = True) -> dict[str, Any]:
    """Return the spec of a perpendicular prior."""
    spec: dict[str, Any] = {"name": "perpendicular", "K": k, "primary": list(primary)}
    return spec | ({"share": SHARE} if share else {})


#: label, bundle, is the other bundle there, overrides
ROWS: dict[str, list[tuple[str, str, bool, dict[str, Any]]]] = {
    "zsr": [
        ("cubic", "axial", False, {"sampler": "cubic"}),
        ("axial alone", "axial", False, {}),
        ("coronal alone", "coronal", False, {}),
        ("coronal, every 3rd step axial", "axial", True, {"prior": turns(3, "coronal", share=False)}),
        ("coronal and sagittal in turn", "coronal", False, {"prior": turns(2, "coronal", "sagittal")}),
        ("coronal and sagittal, every 3rd axial", "axial", True, {"prior": turns(3, "coronal", "sagittal")}),
        ("coronal and sagittal, every 5th axial", "axial", True, {"prior": turns(5, "coronal", "sagittal")}),
        ("mean of three planes at each step", "axial", True, {"prior": turns("average", "coronal")}),
        ("default, uncorrelated corrections", "axial", True, {"consistency": "conjugate_gradient"}),
        ("default", "axial", True, {}),
    ],
}
ROWS["mri"] = ROWS["ct"] = [
    ("ADMM-TV start", "axial", False, {"start": True}),
    ("axial alone", "axial", False, {}),
    ("coronal alone", "coronal", False, {}),
    ("axial and coronal in turn", "axial", True, {"prior": turns(2, "axial", share=False)}),
    ("axial, coronal, axial, sagittal", "axial", True, {"prior": turns(2, "axial")}),
    ("axial, coronal, sagittal", "axial", True, {"prior": turns(2, "axial", "coronal", "sagittal")}),
    ("default", "axial", True, {}),
]


def parsed(task: str, plane: str, both: bool, image: Path, overrides: dict[str, Any]) -> ConfigParser:
    """Return a bundle's configuration for a task."""
    root = ROOT / "bundles" / f"brain_mr_t1_{plane}"
    config = ConfigParser()
    config.read_config([str(root / "configs/inference.json"), str(root / f"configs/tasks/{TASKS[task]}.json")])
    config.update({"bundle_root": str(root), "image": str(image), "case_name": "case"})
    config.update({"auxiliary_bundle": f"../brain_mr_t1_{OTHER[plane]}" if both else "none"})
    if overrides.get("start"):
        overrides = {"sampler": config["sampler"]["start"]}
    config.update(overrides)
    return config


def seam(x: Tensor, truth: Tensor, thick: int = 5) -> float:
    """Return the mean jump at the borders of thick slices over that inside them, relative to the truth's; 1 is none."""
    ratios = []
    for volume in (x, truth):
        jumps = volume.diff(dim=-1).abs().mean(dim=(0, 1, 2))
        border = torch.arange(len(jumps)) % thick == thick - 1
        ratios.append(float(jumps[border].mean() / jumps[~border].mean()))
    return ratios[0] / ratios[1]


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--crop", type=int, nargs=6, default=None, help="first and end of x, y, z")
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=sorted(TASKS, reverse=True))
    parser.add_argument("--steps", type=int, default=None, help="levels; those of the bundle unless given")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    folder = ROOT / "outputs" / "planes"
    folder.mkdir(parents=True, exist_ok=True)
    volume, geometry = read_volume(args.source)
    if args.crop is not None:
        a, b, c, d, e, f = args.crop
        volume = volume[:, a:b, c:d, e:f].contiguous()
    part = folder / "volume.nii.gz"
    write_volume(part, volume, geometry_of(volume.shape[1:], affine_of(geometry)))
    crop = f", voxels {args.crop}" if args.crop else ""
    text = f"# Planes and their order\n\n{args.source.name}{crop}, {torch.get_num_threads()} threads\n"
    for task in args.tasks:
        extra = (" seam |", "---|") if task == "zsr" else ("", "")
        lines = [
            "",
            f"### {TASKS[task]}",
            "",
            f"| planes | passes | PSNR (dB) | SSIM axial | coronal | sagittal |{extra[0]} seconds |",
            f"|---|---|---|---|---|---|---|{extra[1]}",
        ]
        print("\n".join(lines), flush=True)
        measurement = parsed(task, "axial", False, part, {}).get_parsed_content("dataset")[0]["image"]
        for label, plane, both, overrides in ROWS[task]:
            more = {"sampler#steps": args.steps} if args.steps and not {"sampler", "start"} & set(overrides) else {}
            inferer = parsed(task, plane, both, part, overrides | more).get_parsed_content("inferer")
            done = inferer.reconstruct(measurement, case="case")
            truth = volume[..., : done.volume.shape[-1]]
            m = volume_metrics(done.volume, truth)
            jump = f"{seam(done.volume, truth):.2f} | " if task == "zsr" else ""
            ssim = " | ".join(f"{m[f'ssim_{p}']:.4f}" for p in ("axial", "coronal", "sagittal"))
            calls, seconds = done.report.denoiser_calls, done.report.seconds
            lines.append(f"| {label} | {calls} | {m['psnr']:.2f} | {ssim} | {jump}{seconds:.0f} |")
            print(lines[-1], flush=True)
        text += "\n".join(lines) + "\n"
    if args.output is not None:
        atomic_write(args.output, lambda path: path.write_text(text))


if __name__ == "__main__":
    main()
