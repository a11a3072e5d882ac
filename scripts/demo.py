# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""From a simulated 5 mm scan of Colin27 back to 1 mm, by all planes, against cubic interpolation.

    python scripts/demo.py [--all]

The middle 100 mm of the head are reconstructed. ``--all`` reconstructs all of it, and adds the parts of the composition
alone, and DDS from noise: the table of docs/results/demo.md.
Writes to ``outputs/demo``: the scan, the reconstruction with its provenance record, a montage, the MLflow store, and
``table.md``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_diffrecon.comparison.montage import montage
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.engine.problem.measured_operator import build_operator
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.tracking.runs_page import runs_page

ROOT = Path(__file__).resolve().parent.parent
#: Slices of 1 mm, without ``--all``.
DEPTH = 100
THICK = {"name": "slice_thickness", "thickness": 5.0}
Z_TV = {"name": "admm", "regularizers": [{"name": "z_tv", "threshold": 0.002}]}
DDS = {"name": "ddim", "steps": 20, "sigma_start": "max", "sigma_end": 0.01}
AXIAL = {"name": "slices"}
#: The other plane would be at the last of every 100 steps.
CORONAL = {"name": "perpendicular", "K": 100, "primary": "coronal", "share": {"coronal": "axial"}}


def bundle(**overrides: Any) -> ConfigParser:
    """Return the parsed inference configuration of the bundle."""
    root = ROOT / "bundles" / "brain_mr"
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    parser.update({"bundle_root": str(root), **overrides})
    return parser


def simulate(source: Path, output: Path, *, whole: bool) -> tuple[Path, Path]:
    """Write a 5 mm scan of the example, or of its middle, and the 1 mm truth on the grid that belongs to it."""
    volume, geometry = read_volume(source)
    first, depth = (0, volume.shape[-1] // 5 * 5) if whole else ((volume.shape[-1] - DEPTH) // 2, DEPTH)
    truth_geometry = geometry.part(2, first, first + depth)
    truth = volume[..., first : first + depth].contiguous()
    operator = build_operator(THICK, truth_geometry)
    scan_path, truth_path = output / "colin27_5mm.nii.gz", output / "colin27_truth.nii.gz"
    write_volume(scan_path, operator(truth), operator.measured_geometry())
    write_volume(truth_path, truth, truth_geometry)
    return scan_path, truth_path


def rows(everything: bool) -> dict[str, dict[str, Any]]:
    """Return the overrides of the rows of the table but the default composition."""
    cubic = {"cubic interpolation": {"sampler": {"name": "cubic"}}}
    if not everything:
        return cubic
    return cubic | {
        "axial alone": {"prior": AXIAL},
        "coronal alone": {"prior": CORONAL},
        "axial + z-TV": {"prior": AXIAL, "consistency": Z_TV},
        "perpendicular + z-TV": {"consistency": Z_TV},
        "DDS from noise, perpendicular + z-TV": {"consistency": Z_TV, "sampler": DDS},
    }


def line(label: str, metrics: dict[str, float], calls: int, seconds: float) -> str:
    """Return a row of the table."""
    ssim = " | ".join(f"{metrics[f'ssim_{p}']:.4f}" for p in ("axial", "coronal", "sagittal"))
    return f"| {label} | {calls} | {metrics['psnr']:.2f} | {ssim} | {seconds:.0f} |"


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "demo")
    parser.add_argument("--source", type=Path, default=ROOT / "examples" / "colin27_t1.nii.gz")
    parser.add_argument("--all", action="store_true", help="every row of docs/results/demo.md")
    args = parser.parse_args()
    output: Path = args.output
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    scan, truth_path = simulate(args.source, output, whole=args.all)
    truth, geometry = read_volume(truth_path)

    label = "perpendicular (default)"
    print(f"{label}: {scan.name} to 1 mm", flush=True)
    config = bundle(
        image=str(scan),
        reference=str(truth_path),
        case_name="colin27",
        output_dir=str(output),
        resume="never",  # the table has its time
    )
    evaluator = config.get_parsed_content("evaluator")
    evaluator.run()
    report = evaluator.state.output["report"]
    table = [
        "| method | passes over the slices | PSNR (dB) | SSIM axial | coronal | sagittal | seconds |",
        "|---|---|---|---|---|---|---|",
        line(label, evaluator.results[0]["metrics"], report.denoiser_calls, report.seconds),
    ]
    reconstruction, _ = read_volume(Path(evaluator.results[0]["output"]))
    measurement = config.get_parsed_content("dataset")[0]["image"]
    cubic = torch.zeros(0)
    for name, overrides in rows(args.all).items():
        print(name, flush=True)
        other = bundle(**overrides)
        done = other.get_parsed_content("inferer").reconstruct(measurement, case="colin27")
        metrics = volume_metrics(done.volume, truth)
        table.append(line(name, metrics, done.report.denoiser_calls, done.report.seconds))
        if name.startswith("cubic"):
            cubic = done.volume
    table.insert(2, table.pop(3))  # cubic interpolation first
    nearest = torch.as_tensor(measurement).as_subclass(torch.Tensor).repeat_interleave(5, dim=-1)
    picture = output / "montage.png"
    montage(
        {"5 mm scan": nearest, "cubic interpolation": cubic, label: reconstruction},
        truth,
        picture,
        title="Colin27, 5 mm to 1 mm",
        spacing=geometry.spacing,
    )
    text = "\n".join(table) + "\n"
    atomic_write(output / "table.md", lambda path: path.write_text(text))
    print(f"\n{text}\n{time.perf_counter() - started:.0f} s in all. Montage: {picture}", flush=True)
    print(
        f"MLflow: MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri sqlite:///{output}/mlflow.db, "
        f"then open {runs_page(output)}"
    )


if __name__ == "__main__":
    main()
