# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Wall time of a reconstruction over the bare time of its network calls: the default task on the example head, float32.

    python scripts/benchmarks/overhead.py [--before CHECKOUT] [--crop 64] [--steps 8] [--repeats 3] [--output FILE.md]

Every run is a process of its own. Calls are counted by their shape, and one of ten is repeated at once and timed, so
that a machine whose speed drifts slows both alike; the repeats do not count in the run's time. The ratio is
``wall / (calls x mean time of a repeat)``, and the same of CPU time, which other work disturbs less. With ``--before``
the two checkouts take turns. Threads:
``OMP_NUM_THREADS``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "colin27_t1.nii.gz"
EVERY = 10  # of the calls of a shape, so many to one that is repeated
COLUMNS = ("wall", "cpu", "start", "calls", "bare", "bare_cpu", "ratio", "cpu_ratio")


def measure(root: Path, image: Path, steps: int | None) -> dict[str, float]:
    """Run the task of a checkout, whose package is on the path, and return the columns of the table (s)."""
    import torch
    from monai.bundle import ConfigParser

    bundle = root / "bundles" / "brain_mr_t1_axial"
    config = ConfigParser()
    config.read_config([str(bundle / "configs/inference.json"), str(bundle / "configs/tasks/z_super_resolution.json")])
    config.update({"bundle_root": str(bundle), "image": str(image), "case_name": "colin27", "precision": "float32"})
    if steps is not None:
        config["sampler"]["steps"] = steps
    y = config.get_parsed_content("dataset")[0]["image"]
    inferer = config.get_parsed_content("inferer")
    networks = [score.network for score in (inferer.score, *inferer.auxiliaries)]
    calls: Counter[tuple[int, tuple[int, ...]]] = Counter()
    alone: dict[tuple[int, tuple[int, ...]], list[tuple[float, float]]] = {}

    def repeat(i: int, network: torch.nn.Module, given: tuple[Any, ...]) -> None:
        """Count a call; repeat every tenth of its kind by itself, and time that."""
        kind = (i, tuple(given[0].shape))
        calls[kind] += 1
        if calls[kind] % EVERY == 1:
            started, used = time.perf_counter(), time.process_time()
            network.forward(*given)  # no hooks
            alone.setdefault(kind, []).append((time.perf_counter() - started, time.process_time() - used))

    hooks = [
        network.register_forward_pre_hook(lambda network, given, i=i: repeat(i, network, given))
        for i, network in enumerate(networks)
    ]
    wall, cpu = time.perf_counter(), time.process_time()
    report = inferer.reconstruct(y, case="colin27").report
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    for hook in hooks:
        hook.remove()
    wall, cpu = (total - sum(t[c] for times in alone.values() for t in times) for c, total in enumerate((wall, cpu)))
    bare, bare_cpu = (
        sum(count * sum(t[c] for t in alone[kind]) / len(alone[kind]) for kind, count in calls.items()) for c in (0, 1)
    )
    count = float(sum(calls.values()))
    row = (wall, cpu, report.start_seconds, count, bare, bare_cpu, wall / bare, cpu / bare_cpu)
    return dict(zip(COLUMNS, row, strict=True))


def cropped(size: int | None, path: Path) -> Path:
    """Return the example, or write the middle of it, ``size`` voxels a side."""
    if size is None:
        return EXAMPLE
    image = nib.load(EXAMPLE)
    starts = [max(n - size, 0) // 2 for n in image.shape]
    nib.save(image.slicer[tuple(slice(start, start + size) for start in starts)], path)
    return path


def run(root: Path, image: Path, steps: int | None) -> dict[str, float]:
    """Measure a checkout in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--measure", str(root), "--image", str(image)]
    command += [] if steps is None else ["--steps", str(steps)]
    environment = {**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{root}: {done.stderr[-2000:]}")
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def table(rows: dict[str, list[dict[str, float]]], what: str) -> str:
    """Return the medians, and the ratio of the two checkouts where there are two, as Markdown."""
    median = {name: {c: statistics.median(row[c] for row in runs) for c in COLUMNS} for name, runs in rows.items()}
    lines = [
        f"Written by `scripts/benchmarks/overhead.py`: {what}. Medians of {len(next(iter(rows.values())))} runs.",
        "",
        "| checkout | wall (s) | CPU (s) | of it start (s) | network calls | these alone, wall (s) | CPU (s) "
        "| overhead ratio | by CPU time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, m in median.items():
        spread = [row["ratio"] for row in rows[name]]
        ratio = f"{m['ratio']:.3f} ({min(spread):.3f} to {max(spread):.3f})"
        cells = " | ".join(f"{m[c]:.{0 if c == 'calls' else 2}f}" for c in COLUMNS[:6])
        lines.append(f"| {name} | {cells} | {ratio} | {m['cpu_ratio']:.3f} |")
    if "before" in median:
        wall, cpu = (median["before"][c] / median["after"][c] for c in ("wall", "cpu"))
        lines.append(f"| before / after | {wall:.2f} | {cpu:.2f} | | | | | | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout, which takes turns with this one")
    parser.add_argument("--crop", type=int, help="voxels a side of the middle of the head; the whole head if left out")
    parser.add_argument("--steps", type=int, help="steps of the sampler; the bundle's default if left out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "overhead.md")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure is not None:
        print(json.dumps(measure(args.measure, args.image, args.steps)))
        return
    roots = {"after": ROOT} if args.before is None else {"before": args.before.resolve(), "after": ROOT}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in roots}
    with tempfile.TemporaryDirectory() as folder:
        image = cropped(args.crop, Path(folder) / "crop.nii.gz")
        for _ in range(args.repeats):
            for name, root in roots.items():
                rows[name].append(run(root, image, args.steps))
                print(name, {key: round(value, 3) for key, value in rows[name][-1].items()}, flush=True)
    size = "the whole head" if args.crop is None else f"{args.crop} voxels a side"
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    what = f"the default task on the example, {size}, float32, {threads} threads, {platform.machine()}, no GPU"
    text = "# Overhead of the engine\n\n" + table(rows, what)
    print(f"\n{text}")
    args.output.write_text(text)


if __name__ == "__main__":
    main()
