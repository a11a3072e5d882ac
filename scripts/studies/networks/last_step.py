# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
r"""A network that is trained on the results of the loop, and called once after it, for thick slices of brain MR.

    python scripts/studies/networks/last_step.py --datalist OUT/datalist.json --work DIR [--volumes 34] [--batches 400]

Its own errors do not come back to it, so that such training is stable. It starts with the weights of
``scripts/training/brain_mr.pt`` at the last noise level of the loop, learns the true slices (mean squared error) from
the reconstructions of training subjects, and is judged by the mean of its coronal and sagittal slices for every
validation volume. What was reconstructed is kept in DIR; ``history.jsonl`` there has the gains (dB) while it learns.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.networks import BiasFreeUNet
from monai_diffrecon.numerics.planes import from_slices, to_slices
from monai_diffrecon.training import LoopTasks, SlicePatches

ROOT = Path(__file__).resolve().parents[3]
BUNDLE, START = ROOT / "bundles" / "brain_mr_t1_axial", ROOT / "scripts" / "training" / "brain_mr.pt"
SIZE, SIGMA, PLANES, PATCH, BATCH = (96, 96, 80), 0.03, ("coronal", "sagittal"), 80, 12
TASK = {"thick": {"task": "z_super_resolution", "draw": {"operator#thickness": [4.0, 5.0, 6.0]}}}

Pair = dict[str, Tensor]


def start() -> BiasFreeUNet:
    """Return the network of the loop."""
    network = BiasFreeUNet(channels=(48, 96, 192))
    network.load_state_dict({k: v.float() for k, v in torch.load(START, weights_only=True).items()})
    return network


def reconstructions(datalist: Path, work: Path, count: int) -> tuple[list[Pair], list[Pair]]:
    """Return reconstructions of training and of validation volumes, with the truth."""
    tasks = LoopTasks(str(BUNDLE), start().eval().requires_grad_(False), TASK, size=SIZE, spacing=(1.0, 1.0, 1.0))
    found: dict[str, list[Pair]] = {"training": [], "validation": []}
    for section, pairs in found.items():
        volumes, weights = SlicePatches(str(datalist), "any", section=section).whole()
        for i in range(count if section == "training" else len(volumes)):
            kept = work / f"{section}_{i:03d}.pt"
            if not kept.exists():
                rng = np.random.Generator(np.random.PCG64((7, i))) if section == "training" else None
                volume = volumes[i] if rng is None else volumes[rng.choice(len(volumes), p=weights)]
                case = tasks.case("thick", volume, rng)
                pair = {"x": case.reconstruct().half(), "truth": case.truth.half()}
                atomic_write(kept, lambda path, pair=pair: torch.save(pair, path))  # type: ignore[misc]
            pairs.append(torch.load(kept, weights_only=True))
    return found["training"], found["validation"]


def batch(pairs: list[Pair], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return patches (B, 1, H, W) of reconstructions and of the truth."""
    drawn = []
    for _ in range(BATCH):
        pair, plane = pairs[rng.integers(len(pairs))], PLANES[rng.integers(len(PLANES))]
        both = [to_slices(pair[name], plane) for name in ("x", "truth")]
        index, gain = rng.integers(len(both[0])), 0.8 + 0.4 * rng.random()
        top, left = (int(rng.integers(max(n - PATCH, 0) + 1)) for n in both[0].shape[-2:])
        patches = [gain * x[index, :, top : top + PATCH, left : left + PATCH].float() for x in both]
        flip = rng.random() < 0.5
        patches = [p.flip(-2) if flip else p for p in patches]
        drawn.append([F.pad(p, (0, PATCH - p.shape[-1], 0, PATCH - p.shape[-2])) for p in patches])
    given, truth = (torch.stack(list(x)) for x in zip(*drawn, strict=True))
    return given, truth


@torch.no_grad()
def gains(network: BiasFreeUNet, pairs: list[Pair]) -> list[float]:
    """Return by how many dB a call for each plane, and their mean, changes each volume."""
    out = []
    for pair in pairs:
        x, truth = pair["x"].float(), pair["truth"].float()
        done = [from_slices(network(to_slices(x, p).contiguous(), SIGMA), p) for p in PLANES]
        after = sum(done) / len(done)
        out.append(float(10 * ((x - truth).square().mean() / (after - truth).square().mean()).log10()))
    return out


def main() -> None:
    """Reconstruct, train and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datalist", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--volumes", type=int, default=34, help="reconstructions of training volumes")
    parser.add_argument("--batches", type=int, default=400)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    training, validation = reconstructions(args.datalist, args.work, args.volumes)
    network = start()
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=args.rate, betas=(0.9, 0.99))
    rng = np.random.Generator(np.random.PCG64(args.seed))
    rows = []
    for done in range(args.batches + 1):
        if done % 100 == 0:
            found = gains(average, validation)
            rows.append({"batches": done, "mean": fmean(found), "worst": min(found), "gains": found})
            print(json.dumps(rows[-1]), flush=True)
        left = (args.batches - done) / (0.4 * args.batches)
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1.0, (done + 1) / 30, max(left, 0.02))
        given, truth = batch(training, rng)
        optimizer.zero_grad()
        (1e3 * (network(given, SIGMA) - truth).square().mean()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for a, p in zip(average.parameters(), network.parameters(), strict=True):
                a.lerp_(p, 0.02)
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    atomic_write(args.work / "history.jsonl", lambda path: path.write_text(text))


if __name__ == "__main__":
    main()
