# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Memory and time of a reconstruction with ``volume_store: zarr`` and without, on a volume of 512 x 512 x 512.

    python scripts/benchmarks/larger_than_memory.py [--edge 512] [--steps 2] [--skip-memory] [--append] [--output FILE]

Each run is the bundle's own, ``evaluator.run()``, in a process of its own, since a process's peak never falls. Few
steps suffice: memory does not depend on their number. The measurements are made of a synthetic phantom.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "docs" / "results" / "larger_than_memory.md"
#: Name -> what it is, bundle, options of both runs.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "CT": (
        "sparse-view CT, 16 views, parallel beam",
        "body_ct_axial",
        {"prior": {"name": "perpendicular", "K": 2, "primary": "coronal"}},
    ),
    "THICK": (
        "thick slices, 4 mm to 1 mm",
        "brain_mr_t1_axial",
        {
            "operator": {"name": "slice_thickness", "target_spacing": 1.0},
            "prior": {"name": "perpendicular", "K": 2, "primary": "axial"},
        },
    ),
}
COMMON = {
    "consistency": {"name": "conjugate_gradient"},
    "precision": "auto",
    "inferer#sw_batch_size": 2,
    "case_name": "case",
}


def prepare(case: str, edge: int, path: Path) -> None:
    """Write the measurement of a phantom with ``edge`` voxels per side."""
    import torch

    from monai_diffrecon.io.measurement.file import write_measurement
    from monai_diffrecon.io.nifti import write_volume
    from monai_diffrecon.numerics.ct.attenuation import MU_WATER
    from monai_diffrecon.operators import ParallelCT, SliceThickness
    from monai_diffrecon.protocols import Measurement, VolumeGeometry
    from monai_diffrecon.testing.phantoms.stress import twisting_tube

    small = twisting_tube((edge // 4,) * 3)  # of this size it would take ten volumes of memory itself
    volume = torch.nn.functional.interpolate(small[None], size=(edge,) * 3, mode="trilinear")[0]
    if case == "CT":
        geometry = VolumeGeometry((edge,) * 3, (1.5,) * 3)
        operator = ParallelCT(geometry, views=16, memory_limit_gb=0.5)
        spec = {"name": "parallel_ct", "views": 16, "memory_limit_gb": 0.5}
        write_measurement(path, Measurement(operator(volume * MU_WATER), geometry, operator=spec, unit="HU"))
        return
    geometry = VolumeGeometry((edge,) * 3, (1.0,) * 3)
    thick = SliceThickness(geometry, thickness=4.0)
    write_volume(path, 1000.0 * thick(volume).clamp(min=0.0), thick.measured_geometry())


def measure(case: str, image: Path, output: Path, store: Any, steps: int) -> dict[str, float]:
    """Run one case in this process; return its time (s) and its memory (GB)."""
    from monai.bundle import ConfigParser

    _, name, options = CASES[case]
    bundle, config = ROOT / "bundles" / name, ConfigParser()
    config.read_config(str(bundle / "configs" / "inference.json"))
    config.update({"bundle_root": str(bundle), "image": str(image), "output_dir": str(output)})
    config.update({"volume_store": store})
    sampler = {"name": "pnp_hqs", "steps": steps, "sigma_start": 0.1, "sigma_end": 0.03, "start": "initial"}
    for key, value in (COMMON | options | {"sampler": sampler}).items():
        config[key] = value
    evaluator = config.get_parsed_content("evaluator")
    anonymous, done = [_status("RssAnon")], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            anonymous.append(_status("RssAnon"))

    thread, before, started = threading.Thread(target=watch, daemon=True), _status("VmHWM"), time.perf_counter()
    thread.start()
    evaluator.run()
    done.set()
    seconds = time.perf_counter() - started
    return {"before": before, "peak": _status("VmHWM"), "anonymous": max(anonymous), "seconds": seconds}


def _status(name: str) -> float:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024 / 1e9


def compare(folder: Path) -> dict[str, float]:
    """Return how far the volumes of both runs differ, relative to the range of the one in memory."""
    import nibabel as nib
    import numpy as np

    whole, parts = (
        nib.load(folder / name / "case_recon.nii.gz").get_fdata(dtype=np.float32) for name in ("memory", "zarr")
    )
    size = float(whole.max() - whole.min())
    difference = np.abs(whole - parts)
    return {"largest": float(difference.max()) / size, "root": float(np.sqrt((difference**2).mean())) / size}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the results as a table."""
    lines = [
        "| case | volume | peak resident (GB) | of it anonymous (GB) | before the run (GB) | time (s) |",
        "|---|---|---|---|---|---|",
    ]
    for case, row in rows.items():
        for name in ("zarr", "memory"):
            if name in row:
                r = row[name]
                numbers = " | ".join(f"{r[key]:.2f}" for key in ("peak", "anonymous", "before"))
                where = "on the disk" if name == "zarr" else "in memory"
                lines.append(f"| {CASES[case][0]} | {where} | {numbers} | {r['seconds']:.0f} |")
    for case, row in rows.items():
        if "difference" in row:
            d = row["difference"]
            lines += [
                "",
                f"{case}: the two volumes differ by {d['root']:.1e} of the range (root mean square), "
                f"{d['largest']:.1e} at most.",
            ]
    return "\n".join(lines)


def _child(*arguments: str) -> str:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edge", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--slab-gb", type=float, default=0.25)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--skip-memory", action="store_true", help="only the runs on the disk")
    parser.add_argument("--folder", type=Path, help="keeps measurements and volumes there; None: a temporary one")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--append", action="store_true", help="keep what the output says of other sizes")
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        task, case, path, *rest = args.only
        if task == "prepare":
            prepare(case, args.edge, Path(path))
        elif task == "compare":
            print(json.dumps(compare(Path(path))))
        else:
            store = {"name": "zarr", "slab_gb": args.slab_gb} if task == "zarr" else None
            print(json.dumps(measure(case, Path(path), Path(rest[0]), store, args.steps)))
        return
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = args.folder or Path(temporary)
        for case in args.cases:
            folder = root / case
            folder.mkdir(parents=True, exist_ok=True)
            image = folder / ("image.h5" if case == "CT" else "image.nii.gz")
            if not image.is_file():
                _child("--edge", str(args.edge), "--only", "prepare", case, str(image))
            rows[case] = {}
            for name in ("zarr",) if args.skip_memory else ("zarr", "memory"):
                options = ("--steps", str(args.steps), "--slab-gb", str(args.slab_gb))
                said = _child(*options, "--only", name, case, str(image), str(folder / name)).splitlines()[-1]
                rows[case][name] = json.loads(said)
                print(case, name, said, flush=True)
            if not args.skip_memory:
                rows[case]["difference"] = json.loads(_child("--only", "compare", case, str(folder)).splitlines()[-1])
    before = args.output.read_text(encoding="utf-8") if args.append else "# Volumes larger than memory\n"
    text = (
        f"{before}\n"
        f"Made by `scripts/benchmarks/larger_than_memory.py`: {args.edge} x {args.edge} x {args.edge} voxels, a volume "
        f"of {4e-9 * args.edge**3:.2g} GB; steps: {args.steps}, one plane each; {os.cpu_count()} CPUs "
        f"({platform.machine()}); slabs of {args.slab_gb:g} GB.\n\n"
        f"{table(rows)}\n"
    )
    args.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
