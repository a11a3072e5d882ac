# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The default task by one, two and three processes of one thread: voxels, wall time, and memory of each process.

    python scripts/benchmarks/processes.py [--depth 60] [--output docs/results/processes.md]

The middle of the example head, from 5 mm to 1 mm, by the bundles' default method; and the same head from 30 projections
of a parallel beam. Run it on an idle computer: two processes need two cores for the times to mean anything.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from monai.bundle import ConfigParser

from monai_diffrecon import distributed
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.memory.machine_memory import PeakMemory
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement.metatensor import to_tensor
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.numerics import conjugate_gradient
from monai_diffrecon.operators import ParallelCT, SliceThickness
from monai_diffrecon.protocols import Measurement, Operator

ROOT = Path(__file__).resolve().parents[2]
PERTURBED = "(none), perturbed"
#: Task -> operator of the measurement and overrides of the bundle's configuration.
TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "5 mm to 1 mm": ({"name": "slice_thickness", "thickness": 5.0}, {}),
    "30 projections": (
        {"name": "parallel_ct", "views": 30},
        {"operator": {"name": "parallel_ct", "views": 30}, "consistency": {"name": "conjugate_gradient"}},
    ),
}
#: How the volume is shared, and by how many processes.
RUNS = [("slices", 1), (PERTURBED, 1), ("slices", 2), ("slices", 3), ("slabs", 2), ("slabs", 3)]


def inferer(overrides: dict[str, Any], share: str) -> DiffReconInferer:
    """Return the inferer of the bundle's configuration."""
    root = ROOT / "bundles" / "brain_mr_t1_axial"
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    parser.update({"bundle_root": str(root), **overrides, "inferer#share": share, "inferer#progress": False})
    made = parser.get_parsed_content("inferer")
    assert isinstance(made, DiffReconInferer)
    return made


def measurement(spec: dict[str, Any], depth: int) -> torch.Tensor:
    """Return the simulated measurement of the middle of the example head."""
    volume, geometry = read_volume(ROOT / "examples" / "colin27_t1.nii.gz")
    first = (volume.shape[-1] - depth) // 2
    truth, part = volume[..., first : first + depth].contiguous(), geometry.part(2, first, first + depth)
    options = {name: value for name, value in spec.items() if name != "name"}
    made: Operator = (SliceThickness if spec["name"] == "slice_thickness" else ParallelCT)(part, **options)
    if spec["name"] == "slice_thickness":
        return to_tensor(Measurement(made(truth), made.measured_geometry()))
    return to_tensor(Measurement(made(truth), part, operator=spec))


def perturb_inner_products() -> None:
    """Change the inner products of conjugate gradients by one part in 10^7, up and down in turn: their round-off."""
    exact, signs = conjugate_gradient.inner, itertools.cycle((1.0, -1.0))
    conjugate_gradient.inner = lambda u, v: exact(u, v) * (1.0 + 1e-7 * next(signs))


def work(task: str, share: str, depth: int, folder: Path) -> None:
    """Reconstruct as one process of a run, and save what it took."""
    torch.set_num_threads(1)
    if share == PERTURBED:
        perturb_inner_products()
        share = "slices"
    spec, overrides = TASKS[task]
    scan, case = measurement(spec, depth), inferer(overrides, share)
    with distributed.joined(share):
        rank = distributed.rank()
        peak, started, before = PeakMemory(), time.perf_counter(), psutil.Process().memory_info().rss
        done = case.reconstruct(scan, case="colin27")
        seconds, most = time.perf_counter() - started, peak.gigabytes()
    assert most is not None
    found = {"seconds": seconds, "gigabytes": most - before / 1e9}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    if rank == 0:
        torch.save(done.volume, folder / "volume.pt")


def run(task: str, share: str, count: int, depth: int) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """Start the processes; return the volume and what each process took."""
    with tempfile.TemporaryDirectory() as name:
        launcher = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
        options = ["--worker", name, "--task", task, "--share", share, "--depth", str(depth)]
        subprocess.run([*launcher, "--master-port", "29611", __file__, *options], check=True)
        found = [json.loads((Path(name) / f"{rank}.json").read_text()) for rank in range(count)]
        return torch.load(Path(name) / "volume.pt"), found


def table(depth: int) -> list[str]:
    """Return the lines of the table."""
    lines = [
        "| task | `share` | processes | seconds | efficiency | GB of the first | of the others | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        alone: tuple[torch.Tensor, float] | None = None
        for share, count in RUNS:
            volume, found = run(task, share, count, depth)
            seconds = max(one["seconds"] for one in found)
            alone = alone or (volume, seconds)
            difference = float((volume - alone[0]).abs().max() / alone[0].abs().max())
            efficiency = f"{alone[1] / (count * seconds):.2f}" if count <= psutil.cpu_count(logical=False) else "-"
            others = f"{max(one['gigabytes'] for one in found[1:]):.2f}" if count > 1 else "-"
            same = "same bits" if torch.equal(volume, alone[0]) else f"{difference:.1e}"
            name = "(none)" if (share, count) == RUNS[0] else share
            first = f"{found[0]['gigabytes']:.2f}"
            lines.append(f"| {task} | {name} | {count} | {seconds:.0f} | {efficiency} | {first} | {others} | {same} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Run the benchmark, or one process of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=60, help="slices of 1 mm, a multiple of 5")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "processes.md")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--share", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        work(args.task, args.share, args.depth, args.worker)
        return
    cores = psutil.cpu_count(logical=False)
    text = f"""# One volume by several processes

The middle {args.depth} mm of the example head at 1 mm by the default method, by processes of one thread each on a CPU
with {cores} cores, started by `torchrun`. Efficiency is the time of one process over that of all of them together, and
left out where there are more processes than cores. Memory is what a process needed at most beyond what it held before
the reconstruction, its libraries and the scan. The first process holds the whole result in the end. The difference is
the largest of all voxels to the volume of one process, relative to the largest voxel. "Perturbed" is one process
whose inner products in conjugate gradients are off by one part in 10^7, as single precision is: what it differs by is
what any other order of the same sums makes of this task.

{chr(10).join(table(args.depth))}

Written by `scripts/benchmarks/processes.py`.
"""
    atomic_write(args.output, lambda path: path.write_text(text))


if __name__ == "__main__":
    main()
