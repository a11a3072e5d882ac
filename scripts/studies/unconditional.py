# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Unconditional heads: one plane, the other, and both (TPDM), beside real ones.

    python scripts/studies/unconditional.py [--steps 80] [--real HEAD.nii.gz ...] [--output FILE.md]

How much neighbouring voxels differ along an axis, relative to the volume's mean, says whether the slices across that
axis agree: slices that know nothing of each other differ more than a real head's. It is measured within the head, where
the volume is above a tenth of its maximum, along X, Y and Z.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Spacing
from torch import Tensor

from monai_diffrecon.engine.transforms.unconditional_cases import UnconditionalCases
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.io.nifti import read_volume

ROOT = Path(__file__).resolve().parents[2]
SIZE, SPACING = 96, 2.0
ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("axial plane alone", "axial", {"auxiliary_bundle": None}),
    ("coronal plane alone", "coronal", {"auxiliary_bundle": None}),
    ("axial and coronal in turn", "axial", {}),
]


def parsed(plane: str, overrides: dict[str, Any]) -> ConfigParser:
    """Return the configuration of a bundle that draws heads."""
    root = ROOT / "bundles" / f"head_mr_t1_2mm_{plane}"
    config = ConfigParser()
    config.read_config(str(root / "configs" / "inference.json"))
    config.update({"bundle_root": str(root), **overrides})
    return config


def roughness(x: Tensor) -> list[float]:
    """Return the mean absolute difference of neighbours along X, Y and Z over the mean, within the head."""
    inside = x > 0.1 * x.max()
    out = []
    for axis in (1, 2, 3):
        n = x.shape[axis] - 1
        both = inside.narrow(axis, 0, n) & inside.narrow(axis, 1, n)
        out.append(float(x.diff(dim=axis).abs()[both].mean() / x[inside].mean()))
    return out


def real_head(path: Path) -> Tensor:
    """Return the upper 192 mm of a head at 2 mm, (1, 96, 96, 96) at most."""
    volume, geometry = read_volume(path)
    resample = Spacing(pixdim=(SPACING,) * 3, mode="bilinear")
    x = resample(MetaTensor(volume, affine=torch.as_tensor(affine_of(geometry)))).as_subclass(Tensor)
    first = [max((n - SIZE) // 2, 0) for n in x.shape[1:3]] + [max(x.shape[3] - SIZE, 0)]
    a, b, c = (slice(f, f + SIZE) for f in first)
    return x[:, a, b, c]


def draw(volumes: dict[str, Tensor], path: Path) -> None:
    """Draw an axial, a coronal and a sagittal slice of every volume, a row each."""
    figure = Figure(figsize=(6.2, 2.15 * len(volumes)), layout="constrained", facecolor="black")
    axes = figure.subplots(len(volumes), 3, squeeze=False)
    for row, (label, x) in zip(axes, volumes.items(), strict=True):
        top = float(x.flatten().kthvalue(int(0.998 * x.numel())).values)
        i, j, k = (n // 2 for n in x.shape[1:])
        planes = {"axial": x[0, :, :, k + 8], "coronal": x[0, :, j], "sagittal": x[0, i]}
        for ax, (plane, image) in zip(row, planes.items(), strict=True):
            ax.imshow(image.T.flip(0).numpy(), cmap="gray", vmin=0, vmax=top)
            ax.set_title(f"{label}: {plane}" if plane == "axial" else plane, fontsize=7, color="white")
            ax.set_axis_off()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Sample, measure, draw, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--real", type=Path, nargs="+", default=[ROOT / "examples" / "colin27_t1.nii.gz"])
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    heads = {path.name.split(".")[0]: real_head(path) for path in args.real}
    measured = {name: roughness(x) for name, x in heads.items()}
    usual = torch.tensor(list(measured.values())).mean(dim=0)
    lines = [
        "# Volumes without a measurement",
        "",
        f"{SIZE} x {SIZE} x {SIZE} voxels of {SPACING:g} mm, {args.steps} steps of Heun's method with churn, "
        f"{args.samples} samples per row; differences of neighbouring voxels within the head, divided by its mean.",
        "",
        "| volume | network calls per slice | along X | along Y | along Z | seconds |",
        "|---|---|---|---|---|---|",
        *(f"| real, {name} | | {' | '.join(f'{v:.3f}' for v in rough)} | |" for name, rough in measured.items()),
    ]
    print("\n".join(lines), flush=True)
    cases = UnconditionalCases([SIZE] * 3, [SPACING] * 3, count=args.samples)
    pictures: dict[str, Tensor] = {}
    for label, plane, overrides in ROWS:
        inferer = parsed(plane, {"sampler#steps": args.steps, **overrides}).get_parsed_content("inferer")
        rough, seconds, calls = [], 0.0, 0
        for case in cases:
            done = inferer.reconstruct(case["image"], case=case["case"])
            rough.append(roughness(done.volume))
            seconds, calls = seconds + done.report.seconds / len(cases), done.report.denoiser_calls
            if label not in pictures:
                pictures[label] = done.volume
            elif label == ROWS[-1][0]:
                pictures[f"{label}, {case['case']}"] = done.volume
        mean = torch.tensor(rough).mean(dim=0)
        cells = " | ".join(f"{v:.3f} ({v / u:.2f} x real)" for v, u in zip(mean.tolist(), usual.tolist(), strict=True))
        lines.append(f"| {label} | {calls} | {cells} | {seconds:.0f} |")
        print(lines[-1], flush=True)
    pictures["real, " + next(iter(heads))] = next(iter(heads.values()))
    folder = ROOT / "outputs" / "unconditional"
    folder.mkdir(parents=True, exist_ok=True)
    draw(pictures, folder / "unconditional.png")
    if args.output is not None:
        text = "\n".join(lines) + "\n"
        atomic_write(args.output, lambda path: path.write_text(text))
        atomic_write(ROOT / "docs" / "pictures" / "unconditional.png", lambda path: draw(pictures, path))


if __name__ == "__main__":
    main()
