# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The founding methods beside their successors, on three tasks: PSNR, SSIM a plane, network calls, seconds.

    python scripts/benchmarks/methods.py [--steps 200] [--tasks zsr mri ct] [--output FILE.md]

The reference presets run with ``--steps`` noise levels instead of the published 2000: their cost is two network calls
a level, half of TPDM's with gradients. The example brain is cropped so that this is a matter of minutes. A row that
is there already (same task, method and steps, in ``outputs/benchmark_methods/rows.json``) is not computed again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_diffrecon.comparison.montage import montage
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.io.atomic import atomic_write, write_json
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.presets.overlays import METHOD, overlay_path

ROOT = Path(__file__).resolve().parents[2]
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "zsr": ("z_super_resolution", {}),
    "mri": ("accelerated_mri", {}),
    "ct": ("sparse_view_ct", {"operator": {"name": "parallel_ct", "views": 16}}),
}
AS_PUBLISHED = {"sampler#start": "noise", "sampler#sigma_start": "max", "sampler#eta": 0.15}
BOTH = {"auxiliary_bundle": "../brain_mr_t1_coronal"}


def methods(steps: int, calls: int) -> list[tuple[str, str | None, dict[str, Any]]]:
    """Return (label, preset, overrides) of every row."""
    reference = {"sampler#steps": steps}
    # The guidance of one step is of fixed length: fewer steps must pull harder to travel as far.
    stronger = {"tpdm#stronger": 2000 / steps}
    return [
        ("classical estimate", None, {"sampler": {"name": "initial"}}),
        (f"diffusion_mbir, {steps} steps", "diffusion_mbir", reference),
        (f"tpdm, {steps} steps", "tpdm", reference | BOTH),
        (f"tpdm, {steps} steps, zeta x {2000 / steps:g}", "tpdm", reference | BOTH | stronger),
        ("dds", "dds", {"calls": calls}),
        ("dds from noise, eta 0.15", "dds", {"calls": calls} | AS_PUBLISHED),
        ("dds_tpdm", "dds_tpdm", {"calls": calls} | BOTH),
        ("ddnm, two planes", "ddnm", {"calls": calls} | BOTH),
        ("diffpir, two planes", "diffpir", {"calls": calls} | BOTH),
        ("iscs", "iscs", {"calls": calls}),
        ("the bundle's default", None, BOTH),
    ]


def parsed(task: str, preset: str | None, image: Path, overrides: dict[str, Any]) -> ConfigParser:
    """Return the configuration of the axial bundle with a task and a preset."""
    root = ROOT / "bundles" / "brain_mr_t1_axial"
    overlay, changes = TASKS[task]
    files = [root / "configs" / "inference.json", root / "configs" / "tasks" / f"{overlay}.json"]
    if preset is not None:
        files.append(overlay_path(METHOD, preset, root, where="preset"))
    config = ConfigParser()
    config.read_config([str(file) for file in files])
    config.update({"bundle_root": str(root), "image": str(image), "case_name": "case", **changes})
    stronger = overrides.get("tpdm#stronger")
    config.update({k: v for k, v in overrides.items() if k != "tpdm#stronger"})
    if stronger is not None:
        block = config["tpdm"]["consistency"]["zeta"]
        stronger_block = {k: v * stronger if isinstance(v, float) else v for k, v in block.items()}
        config.update({"tpdm#consistency#zeta": stronger_block})
    return config


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT / "examples" / "colin27_t1.nii.gz")
    parser.add_argument(
        "--crop", type=int, nargs=6, default=(52, 132, 68, 148, 70, 110), help="first and end of x, y, z"
    )
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=sorted(TASKS))
    parser.add_argument("--steps", type=int, default=200, help="noise levels of the reference presets")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    folder = ROOT / "outputs" / "benchmark_methods"
    folder.mkdir(parents=True, exist_ok=True)
    volume, geometry = read_volume(args.source)
    a, b, c, d, e, f = args.crop
    volume = volume[:, a:b, c:d, e:f].contiguous()
    part = folder / "volume.nii.gz"
    write_volume(part, volume, geometry_of(volume.shape[1:], affine_of(geometry)))
    store = folder / "rows.json"
    known: dict[str, str] = json.loads(store.read_text()) if store.is_file() else {}
    calls = min(50, args.steps // 10)  # a twentieth of the reference presets' 2 calls a level
    text = "# Published methods on a part of a brain\n\n"
    text += f"{args.source.name}, voxels {list(args.crop)}, {torch.get_num_threads()} threads\n"
    for task in args.tasks:
        lines = [
            "",
            f"### {TASKS[task][0]}",
            "",
            "| method | network calls per slice | PSNR (dB) | SSIM axial | coronal | sagittal | seconds |",
            "|---|---|---|---|---|---|---|",
        ]
        print("\n".join(lines), flush=True)
        measurement = parsed(task, None, part, {}).get_parsed_content("dataset")[0]["image"]
        pictures = {}
        for label, preset, overrides in methods(args.steps, calls):
            key = f"{task} {label}"
            if key not in known:
                inferer = parsed(task, preset, part, overrides).get_parsed_content("inferer")
                done = inferer.reconstruct(measurement, case="case")
                m = volume_metrics(done.volume, volume)
                ssim = " | ".join(f"{m[f'ssim_{p}']:.4f}" for p in ("axial", "coronal", "sagittal"))
                count, seconds = done.report.denoiser_calls, done.report.seconds
                known[key] = f"| {label} | {count} | {m['psnr']:.2f} | {ssim} | {seconds:.0f} |"
                write_json(store, known)
                pictures[label] = done.volume
            lines.append(known[key])
            print(known[key], flush=True)
        if pictures:
            montage(pictures, volume, folder / f"{task}.png", title=TASKS[task][0], spacing=geometry.spacing)
        text += "\n".join(lines) + "\n"
    if args.output is not None:
        atomic_write(args.output, lambda path: path.write_text(text))


if __name__ == "__main__":
    main()
