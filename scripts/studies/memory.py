# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Memory of a reconstruction: what is estimated before it, and what it takes.

    python scripts/studies/memory.py [--cases NAME ...] [--output FILE.md]

Each case is the bundle's own run, ``evaluator.run()``, in a process of its own, since a process's peak never falls.
Few steps suffice: memory does not depend on their number.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "brain_mr_t1_axial"
THICK, MRI, CT = "tasks/z_super_resolution", "tasks/accelerated_mri", "tasks/sparse_view_ct"
POSTERIOR = "methods/posterior"
#: The classical start takes as much memory in few iterations as in many.
SHORT = {"sampler#start#iterations": 3}

#: Name -> overlays, edge of the cube that is cut out (None: the whole head), other options.
CASES: dict[str, tuple[list[str], int | None, dict[str, Any]]] = {
    "thick slices, whole head": ([THICK], None, {}),
    "thick slices, batch 1": ([THICK], None, {"inferer#sw_batch_size": 1}),
    "thick slices, batch 32": ([THICK], None, {"inferer#sw_batch_size": 32}),
    "thick slices, bfloat16": ([THICK], None, {"precision": "bfloat16"}),
    "thick slices, ADMM with z-TV": (
        [THICK],
        None,
        {"consistency": {"name": "admm", "regularizers": [{"name": "z_tv"}]}},
    ),
    "thick slices, DPS, 96 voxels per side": ([THICK], 96, {"consistency": {"name": "dps"}}),
    "thick slices, 64 voxels per side": ([THICK], 64, {}),
    "thick slices, cubic": ([THICK, "methods/cubic"], None, {}),
    "posterior, 1 sample, 96 voxels per side": ([THICK, POSTERIOR], 96, {"num_samples": 1}),
    "posterior, 4 samples, 96 voxels per side": ([THICK, POSTERIOR], 96, {"num_samples": 4}),
    "MRI 8x, whole head": ([MRI], None, SHORT),
    "CT of 32 views, 96 voxels per side": ([CT], 96, {}),
    "CT of 32 views, 128 voxels per side": ([CT], 128, {}),
}


def cut_out(edge: int | None, folder: Path) -> Path:
    """Return the file of the whole head, or write a cube from its middle."""
    from monai_diffrecon.io.nifti import read_volume, write_volume
    from monai_diffrecon.protocols import VolumeGeometry

    path = ROOT / "examples" / "colin27_t1.nii.gz"
    if edge is None:
        return path
    volume, geometry = read_volume(path)
    first = [(n - edge) // 2 for n in geometry.shape]
    a, b, c = (slice(f, f + edge) for f in first)
    write_volume(folder / "cube.nii.gz", volume[:, a, b, c], VolumeGeometry((edge,) * 3, geometry.spacing))
    return folder / "cube.nii.gz"


def measure(name: str, steps: int) -> dict[str, Any]:
    """Run one case in this process; return what was estimated and what it took (bytes, s)."""
    from monai.bundle import ConfigParser

    from monai_diffrecon.engine.memory.machine_memory import PeakMemory
    from monai_diffrecon.engine.memory.memory_estimate import MemoryEstimate
    from monai_diffrecon.presets.overlays import overlay_path

    overlays, edge, options = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        config = ConfigParser()
        files = [overlay_path(*name.split("/"), BUNDLE, where="CASES") for name in overlays]
        config.read_config([str(file) for file in (BUNDLE / "configs" / "inference.json", *files)])
        config.update(
            {
                "bundle_root": str(BUNDLE),
                "image": str(cut_out(edge, Path(folder))),
                "case_name": "case",
                "output_dir": str(Path(folder) / "out"),
                "auxiliary_bundle": "../brain_mr_t1_coronal",
            }
        )
        for key, value in options.items():
            config[key] = value
        if "steps" in config["sampler"]:
            config["sampler"]["steps"] = steps
        inferer, evaluator = config.get_parsed_content("inferer"), config.get_parsed_content("evaluator")
        estimates: list[MemoryEstimate] = []
        reconstruct = inferer.reconstruct

        def kept(case: Any, **options: Any) -> Any:
            estimates.append(case.memory)
            return reconstruct(case, **options)

        inferer.reconstruct, peak = kept, PeakMemory()
        evaluator.run()
    return vars(estimates[0]) | {"measured": 1e9 * (peak.gigabytes() or float("nan"))}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the results as a table."""
    lines = [
        "| case | before the run | volumes | network | estimate | measured | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        sizes = " | ".join(f"{row[key] / 1e9:.2f}" for key in ("base", "volumes", "network", "total", "measured"))
        lines.append(f"| {name} | {sizes} | {row['total'] / row['measured']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--measure", choices=list(CASES), help="measure one case in this process, print JSON")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "memory.md")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.steps), default=dict), flush=True)
        return
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    machine = f"{platform.system()} on {platform.machine()}, {threads} threads, torch {version('torch')}, no GPU"
    found = {}
    for name in args.cases:
        command = [sys.executable, __file__, "--measure", name, "--steps", str(args.steps)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {found[name]['total'] / found[name]['measured']:.2f}", flush=True)
        args.output.write_text(TEXT.format(table=table(found), machine=machine, steps=args.steps))


TEXT = """# Memory of a reconstruction

Written by `scripts/studies/memory.py`. Each row is a run of a bundle's configuration on the example head
(`examples/colin27_t1.nii.gz`, 181 x 217 x 181 voxels) or a cube from its middle, in a separate process, with {steps}
steps. Sizes are in GB (1e9 bytes).

*Before the run* is the memory of the process before the first step: Python, torch, MONAI, MLflow, the networks, the
data, the operator. *Volumes* and *network* follow the rule of thumb: 15 volumes, and three full-size feature maps (six
with gradients). *Estimate* is the peak of the whole process as estimated before the run, *measured* its actual peak
(`VmHWM`).

{table}

{machine}.

The estimate is meant to be correct within a factor of 2; it only decides whether a warning is logged. It ignores what a
network does at low resolution (attention) and any pixel-unshuffle.
"""


if __name__ == "__main__":
    main()
