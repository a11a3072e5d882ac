# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Unconditional volumes: one plane, two planes, two planes and a borrowed third, beside a real brain.

    python scripts/study_unconditional.py [--size 96] [--steps 25] [--output docs/results/unconditional.md]

Neighbouring slices of a real volume differ as much along every axis. How much they differ along each axis of a sample,
relative to the real volume, says whether the slices agree: 1 is as smooth as real, above 1 is rougher.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from monai_diffrecon.engine.unconditional_cases import UnconditionalCases
from monai_diffrecon.evaluation.montage import preview
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.nifti import read_volume

ROOT = Path(__file__).resolve().parent.parent
BOTH = {"auxiliary_bundle": "../brain_mr_t1_coronal"}
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("axial plane alone", {}),
    ("axial plane alone, slerp noise", {"noise": {"name": "slerp"}}),
    ("axial and coronal", BOTH | {"prior": {"name": "perpendicular", "K": 2}}),
    ("axial, coronal, sagittal (borrowed)", BOTH),
]


def parsed(overrides: dict[str, Any]) -> ConfigParser:
    """Return the configuration of the axial bundle that generates."""
    root = ROOT / "bundles" / "brain_mr_t1_axial"
    config = ConfigParser()
    config.read_config([str(root / "configs/inference.json"), str(root / "configs/tasks/generate.json")])
    config.update({"bundle_root": str(root), **overrides})
    return config


def roughness(x: Tensor) -> list[float]:
    """Return the mean absolute difference of neighbours along X, Y and Z over the volume's mean magnitude."""
    return [float(x.diff(dim=axis).abs().mean() / x.abs().mean()) for axis in (1, 2, 3)]


def main() -> None:
    """Sample, measure, draw, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--real", type=Path, nargs="+", default=[ROOT / "examples" / "colin27_t1.nii.gz"])
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    folder = ROOT / "outputs" / "unconditional"
    folder.mkdir(parents=True, exist_ok=True)
    real = []
    for path in args.real:
        volume, _ = read_volume(path)
        first = [(n - args.size) // 2 for n in volume.shape[1:]]
        x, y, z = (slice(f, f + args.size) for f in first)
        real.append(roughness(volume[:, x, y, z]))
    usual = torch.tensor(real).mean(dim=0)
    lines = [
        f"{args.size}^3 voxels, {args.steps} steps of Heun's method; real: central part of "
        + ", ".join(path.name for path in args.real),
        "",
        "| sample | network calls a slice | roughness along x, of real | along y | along z | seconds |",
        "|---|---|---|---|---|---|",
        f"| real, absolute | | {' | '.join(f'{u:.3f}' for u in usual)} | |",
    ]
    print("\n".join(lines), flush=True)
    case = UnconditionalCases([args.size] * 3)[0]
    for label, overrides in ROWS:
        inferer = parsed({"sampler#steps": args.steps} | overrides).get_parsed_content("inferer")
        done = inferer.reconstruct(case["image"], case=case["case"])
        ratio = torch.tensor(roughness(done.volume)) / usual
        cells = " | ".join(f"{r:.2f}" for r in ratio)
        lines.append(f"| {label} | {done.report.denoiser_calls} | {cells} | {done.report.seconds:.0f} |")
        print(lines[-1], flush=True)
        name = label.replace(",", "").replace("(", "").replace(")", "").replace(" ", "_")
        preview(done.volume, folder / f"{name}.png")
    if args.output is not None:
        text = "\n".join(lines) + "\n"
        atomic_write(args.output, lambda path: path.write_text(text))


if __name__ == "__main__":
    main()
