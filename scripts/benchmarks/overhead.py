# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Wall time of a reconstruction over the bare time of its network calls, for the demo's task.

    python scripts/benchmarks/overhead.py [--steps 8] [--repeats 3]

Bare time: the same batches through the same networks, timed alone before and after the reconstruction, so that a
machine that slows down meanwhile does not favour either.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.numerics.planes import to_slices

ROOT = Path(__file__).resolve().parents[2]


def bare_seconds(inferer: DiffReconInferer, shape: tuple[int, int, int], batch_size: int) -> dict[str, float]:
    """Return, for each plane, the seconds one pass over its slices takes in the network alone."""
    volume = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    seconds = {}
    with torch.no_grad():
        for score in (inferer.score, *inferer.auxiliaries):
            batches = [b.contiguous() for b in to_slices(volume, score.plane).split(batch_size)]
            score.network(batches[0], 0.05)
            started = time.perf_counter()
            for batch in batches:
                score.network(batch, 0.05)
            seconds[score.plane] = time.perf_counter() - started
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=None, help="steps of the sampler; the bundle's default if left")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    root = ROOT / "bundles" / "brain_mr_t1_axial"
    config = ConfigParser()
    config.read_config([str(root / "configs" / "inference.json"), str(root / "configs/tasks/z_super_resolution.json")])
    config.update(
        {
            "bundle_root": str(root),
            "image": str(ROOT / "examples" / "colin27_t1.nii.gz"),
            "case_name": "colin27",
            "auxiliary_bundle": "../brain_mr_t1_coronal",
        }
    )
    if args.steps is not None:
        config["sampler"]["steps"] = args.steps
    measurement = config.get_parsed_content("dataset")[0]["image"]
    inferer = config.get_parsed_content("inferer")
    ratios = []
    for _ in range(args.repeats):
        before = bare_seconds(inferer, (181, 217, 181), inferer.sw_batch_size)
        report = inferer.reconstruct(measurement, case="colin27").report
        after = bare_seconds(inferer, (181, 217, 181), inferer.sw_batch_size)
        per_pass = {plane: (before[plane] + after[plane]) / 2 for plane in before}
        # K = 2: the planes take turns.
        bare = report.denoiser_calls * sum(per_pass.values()) / len(per_pass)
        ratios.append(report.seconds / bare)
        print(
            f"wall {report.seconds:.1f} s (start {report.start_seconds:.1f} s), network alone {bare:.1f} s, "
            f"{report.denoiser_calls} passes: ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"overhead ratio: minimum {min(ratios):.3f}, maximum {max(ratios):.3f}")


if __name__ == "__main__":
    main()
