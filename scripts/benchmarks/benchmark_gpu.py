# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a reconstruction on one device, by precision and batch, against the bare network.

    python scripts/benchmarks/benchmark_gpu.py --out OUT [--device cuda] [--size 256] [--steps 12] [--seconds 180]

The demo's task (slices of 4 mm, two networks in turn) on a phantom of SIZE voxels a side. Wall time is that of a run
as users run it. A second run, which waits for the device after each part, is divided into network, consistency and
rest. Bare network: the same batches through the same networks, without the engine. Where deepinv can be imported, its
DiffPIR takes as many calls of the axial network, slice by slice. No further setting is begun after SECONDS. Written to
OUT: benchmark_gpu.json and benchmark_gpu.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from monai_diffrecon import DiffReconInferer, load_score_network
from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.numerics.planes import to_slices
from monai_diffrecon.testing.phantoms.stress import branching_vessels
from monai_diffrecon.transforms import SimulateMeasurementd

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = ("brain_mr_t1_axial", "brain_mr_t1_coronal")
OPERATOR = {"name": "slice_thickness", "thickness": 4.0}
COLUMNS = ("precision", "batch", "wall", "network", "consistency", "rest", "bare", "ratio", "peak_gib", "error")


class Clock:
    """Adds up the seconds of parts, waiting for the device at their ends; a handler of the engine too."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self.denoised = device, {"network": 0.0, "consistency": 0.0}, 0.0

    def now(self) -> float:
        """Return the time when the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside as a part."""
        started = self.now()
        yield
        self.seconds[name] += self.now() - started

    def attach(self, engine: Any) -> None:
        """Count from the estimate to the new iterate as consistency."""
        engine.add_event_handler(StepEvents.DENOISED, lambda: setattr(self, "denoised", self.now()))
        engine.add_event_handler(StepEvents.CONSISTENT, self._consistent)

    def _consistent(self) -> None:
        self.seconds["consistency"] += self.now() - self.denoised


class Timed(nn.Module):
    """A network whose calls a clock counts."""

    def __init__(self, network: nn.Module, clock: Clock) -> None:
        super().__init__()
        self.network, self.clock, self.multiple = network, clock, getattr(network, "multiple", 1)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network returns."""
        with self.clock.part("network"):
            done: Tensor = self.network(x, sigma)
        return done


def inferer(scores: list[ScoreNetwork], device: torch.device, steps: int, **options: Any) -> DiffReconInferer:
    """Return the default task."""
    sampler = {"name": "pnp_hqs", "steps": steps, "sigma_start": 0.3, "sigma_end": 0.03, "momentum": 0.8}
    consistency = {"name": "conjugate_gradient", "correlation": 0.7}
    prior = {"name": "perpendicular", "K": 2}
    return DiffReconInferer(
        scores[0], OPERATOR, prior, consistency, sampler, scores[1:], device=device, progress=False, **options
    )


def bare_seconds(scores: list[ScoreNetwork], volume: Tensor, clock: Clock, precision: str, batch: int) -> float:
    """Return the mean seconds of a pass of all slices of a plane through its network."""
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    seconds = []
    for score in scores:
        batches = [b.contiguous() for b in to_slices(volume, score.plane).split(batch)]
        with torch.no_grad(), torch.autocast(volume.device.type, dtype, enabled=dtype is not None):
            score.network(batches[0], torch.full((len(batches[0]),), 0.05, device=volume.device))
            started = clock.now()
            for b in batches:
                score.network(b, torch.full((len(b),), 0.05, device=volume.device))
            seconds.append(clock.now() - started)
    return sum(seconds) / len(seconds)


def measure(
    scores: list[ScoreNetwork], scan: Tensor, truth: Tensor, device: torch.device, steps: int, **options: Any
) -> dict[str, Any]:
    """Return the row of one precision and batch."""
    clock = Clock(device)
    precision, batch = options["precision"], options["sw_batch_size"]
    inferer(scores, device, 2, **options).reconstruct(scan)  # kernels are chosen when they are used first
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = clock.now()
    done = inferer(scores, device, steps, **options).reconstruct(scan)
    wall = clock.now() - started
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    timed = [replace(score, network=Timed(score.network, clock)) for score in scores]
    started = clock.now()
    inferer(timed, device, steps, handlers=[clock], **options).reconstruct(scan)
    slowed = clock.now() - started
    calls = done.report.denoiser_calls
    bare = calls * bare_seconds(scores, truth.to(device), clock, precision, batch)
    volume = done.volume.cpu()
    return {
        "precision": precision,
        "batch": batch,
        "calls": calls,
        "wall": wall,
        **clock.seconds,
        "rest": slowed - sum(clock.seconds.values()),
        "bare": bare,
        "ratio": wall / bare,
        "peak_gib": peak,
        "error": float((volume - truth).square().mean().sqrt() / truth.square().mean().sqrt()),
        "fallbacks": done.report.fallbacks,
    }


def deepinv_seconds(score: ScoreNetwork, truth: Tensor, device: torch.device, steps: int, batch: int) -> float | None:
    """Return the seconds of deepinv's DiffPIR with as many calls of the network for all axial slices, or None."""
    try:
        import deepinv
    except (ImportError, RuntimeError):  # the latter for a torchvision of another build
        return None

    class Denoise(nn.Module):
        def forward(self, x: Tensor, sigma: Any = None, **_: Any) -> Tensor:
            level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1)[:1].expand(len(x))
            done: Tensor = score.network(x, level)
            return done

    slices, clock = to_slices(truth.to(device), score.plane), Clock(device)
    mask = (torch.arange(slices.shape[-1], device=device) % 4 == 0).expand(1, *slices.shape[-2:]).float()
    physics = deepinv.physics.Inpainting(img_size=tuple(mask.shape), mask=mask, device=device)
    model = deepinv.sampling.DiffPIR(
        Denoise(), deepinv.optim.data_fidelity.L2(), sigma=0.05, max_iter=steps, device=device
    )
    model(physics(slices[:batch]), physics)
    started = clock.now()
    for part in slices.split(batch):
        model(physics(part), physics)
    return clock.now() - started


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a page."""
    lines = [
        f"{result['device']}, torch {result['torch']}; {result['size']} voxels a side, {result['steps']} calls.",
        "",
    ]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in result["rows"]:
        cells = [f"{v:.3g}" if isinstance(v := row[name], float) else "" if v is None else str(v) for name in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    other = result["deepinv_diffpir_seconds"]
    lines += ["", "deepinv could not be imported." if other is None else f"deepinv's DiffPIR, float32: {other:.3g} s."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 64])
    parser.add_argument("--seconds", type=float, default=150.0)
    args = parser.parse_args()
    started, device = time.perf_counter(), args.device
    scores = [load_score_network(ROOT / "bundles" / name, device=device) for name in BUNDLES]
    truth = branching_vessels((args.size,) * 3)
    scan = SimulateMeasurementd(["image"], OPERATOR, noise=0.01)({"image": MetaTensor(truth)})["image"]
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    result: dict[str, Any] = {"device": named, "torch": torch.__version__, "size": args.size, "steps": args.steps}
    result |= {"threads": torch.get_num_threads(), "rows": [], "deepinv_diffpir_seconds": None}
    args.out.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        (args.out / "benchmark_gpu.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.out / "benchmark_gpu.md").write_text(markdown(result))

    for batch in sorted(args.batches, reverse=True):
        for precision in args.precisions:
            if result["rows"] and time.perf_counter() - started > args.seconds:
                continue
            result["rows"].append(
                measure(scores, scan, truth, device, args.steps, precision=precision, sw_batch_size=batch)
            )
            write()  # after each setting: a run that is stopped keeps what it has
            print(json.dumps(result["rows"][-1]), flush=True)
    if time.perf_counter() - started < args.seconds:
        result["deepinv_diffpir_seconds"] = deepinv_seconds(scores[0], truth, device, args.steps, max(args.batches))
    write()
    print((args.out / "benchmark_gpu.md").read_text())


if __name__ == "__main__":
    main()
