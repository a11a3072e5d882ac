# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
r"""What neighbouring slices give a CT network, judged inside the loop.

    python scripts/studies/networks/context.py --datalist OUT/datalist.json --work DIR [--rounds 10] [--output FILE.md]

Networks with and without neighbouring slices start from the same weights (``scripts/training/body_ct.pt``), so that all
compute the same at first, and are trained alike: stacks of slices, half with white noise, half of what the
reconstruction loop gives the network as it is (the tasks of ``scripts/training/body_ct_loop.json``). After the last
round the middle of every validation volume is reconstructed by every task, and by one task that is not collected, with
the averaged weights.

slices: the network as it is. neighbours: two slices on either side as channels. across: after each level, a convolution
over three slices and a product over the features, added (after Blattmann et al. 2023, arXiv 2304.08818). What is
finished is kept in DIR.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.io.atomic import atomic_write, write_json
from monai_diffrecon.networks import BiasFreeUNet
from monai_diffrecon.numerics.planes import to_slices
from monai_diffrecon.training import LoopReport, LoopTasks, SlicePatches
from monai_diffrecon.training.slice_patches import padded

ROOT = Path(__file__).resolve().parents[3]
BUNDLE, START = ROOT / "bundles" / "body_ct_axial", ROOT / "scripts" / "training" / "body_ct.pt"
CHANNELS = (32, 64, 128)
AROUND = 2
WHOLE_PLANE = 4096  # slices of a batch: neighbours are those of the batch


class Around(nn.Module):
    """The first convolution, which also sees ``AROUND`` slices on either side; they count nothing at first."""

    def __init__(self, plain: nn.Module, pixels: int, size: list[int]) -> None:
        super().__init__()
        self.plain, self.pixels, self.size = plain, pixels, size
        features = plain.conv.out_channels
        self.around = nn.Conv2d(2 * AROUND * pixels, features, 3, padding=1, bias=False)
        nn.init.zeros_(self.around.weight)

    def forward(self, h: Tensor) -> Tensor:
        """Return features (B * S, C, H, W) of pixels and noise level."""
        stacks, slices = h[:, : self.pixels].unflatten(0, (-1, self.size[0])), self.size[0]
        ends = [stacks[:, i : i + 1].expand(-1, AROUND, -1, -1, -1) for i in (0, slices - 1)]
        longer = torch.cat((ends[0], stacks, ends[1]), dim=1)
        others = [longer[:, i : i + slices] for i in range(2 * AROUND + 1) if i != AROUND]
        return self.plain(h) + self.around(torch.cat(others, dim=2).flatten(0, 1))


class AcrossSlices(nn.Module):
    """Adds what a convolution over three slices finds; computes nothing at first."""

    def __init__(self, channels: int, size: list[int]) -> None:
        super().__init__()
        self.mix = nn.Conv1d(channels, channels, 3, groups=channels, bias=False)
        self.product = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.zeros_(self.product.weight)
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        """Return features (B * S, C, H, W)."""
        slices = self.size[0]
        stacks = h.unflatten(0, (-1, slices))
        longer = torch.cat((stacks[:, :1], stacks, stacks[:, -1:]), dim=1)
        w = self.mix.weight[:, 0]
        mixed = sum(longer[:, i : i + slices] * w[:, i].reshape(1, 1, -1, 1, 1) for i in range(3))
        return h + self.product(torch.relu(torch.as_tensor(mixed)).flatten(0, 1))


class Stacks(nn.Module):
    """The network of slices, which may see others of their stack.

    Args:
        arm: ``slices``, ``neighbours`` or ``across``.
    """

    def __init__(self, arm: str) -> None:
        super().__init__()
        self.inner = BiasFreeUNet(channels=CHANNELS)
        self.inner.load_state_dict({k: v.float() for k, v in torch.load(START, weights_only=True).items()})
        self.multiple = self.inner.multiple
        self.size = [1]  # slices of a stack, of the call that runs
        self.added = nn.ModuleList()
        if arm == "neighbours":
            self.inner.head = Around(self.inner.head, self.inner.unshuffle**2, self.size)
            self.added.append(self.inner.head.around)
        if arm == "across":
            levels = (*self.inner.down_units, self.inner.bottleneck, *self.inner.up_units)
            for units, channels in zip(levels, (*CHANNELS, *CHANNELS[:-1]), strict=True):
                self.added.append(AcrossSlices(channels, self.size))
                units.append(self.added[-1])

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Denoise a stack of slices (N, 1, H, W), or stacks (B, S, H, W)."""
        self.size[0] = x.shape[1] if x.shape[1] > 1 else len(x)
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1)
        if x.shape[1] > 1:
            level = level.repeat_interleave(x.shape[1])
        out: Tensor = self.inner(x.reshape(-1, 1, *x.shape[2:]), level)
        return out.reshape(x.shape)


ARMS = ("slices", "neighbours", "across")


class StackRecorder:
    """Keeps stacks of what the network was given, and of the truth."""

    def __init__(self, truth: Tensor, rng: np.random.Generator, shape: Sequence[int], per_call: int = 2) -> None:
        self.truth, self.rng, self.shape, self.per_call = truth, rng, tuple(shape), per_call
        self.kept: list[tuple[np.ndarray, np.ndarray, float]] = []

    def attach(self, engine: Any) -> None:
        """Attach to a ``ReconstructionEngine``."""
        engine.add_event_handler(StepEvents.DENOISED, self)

    def __call__(self, engine: Any) -> None:
        """Keep stacks of every plane that was called."""
        state = engine.state.recon
        for index in engine.prior.planes_at(state.step):
            plane = engine.prior.planes[index].plane
            given, truth = (to_slices(x, plane)[:, 0].cpu().numpy() for x in (state.x, self.truth))
            for _ in range(self.per_call):
                place = part(given.shape, self.shape, self.rng)
                self.kept.append((fitted(given[place], self.shape), fitted(truth[place], self.shape), state.sigma))


def part(shape: Sequence[int], wanted: Sequence[int], rng: np.random.Generator) -> tuple[slice, ...]:
    """Return a random part of an array."""
    starts = [int(rng.integers(max(n - m, 0) + 1)) for n, m in zip(shape, wanted, strict=True)]
    return tuple(slice(a, a + m) for a, m in zip(starts, wanted, strict=True))


def fitted(stack: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return a stack filled up with zeros."""
    return padded(stack, shape).astype(np.float32)


def settings(datalist: Path, network: nn.Module) -> tuple[LoopTasks, LoopReport, SlicePatches]:
    """Return the tasks that are collected, the validation, and the training set."""
    config = json.loads((ROOT / "scripts" / "training" / "body_ct_loop.json").read_text())
    size = config["sub_volume"]
    sets = [SlicePatches(str(datalist), "any", section=section) for section in ("training", "validation")]
    tasks = []
    for part_ in ("collector", "report"):
        named = copy.deepcopy(config["loop"][part_]["tasks"]["tasks"])
        for task in named.values():
            task["overrides"] = {**task.get("overrides", {}), "inferer#sw_batch_size": WHOLE_PLANE}
        tasks.append(LoopTasks(str(BUNDLE), network, named, size=size))
    left_out = config["loop"]["report"]["left_out"]
    return tasks[0], LoopReport(tasks[1], sets[1], ".", [network], left_out), sets[0]


def train(arm: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train a network and return the PSNR of the tasks, before and after, and times."""
    torch.manual_seed(0)
    network = Stacks(arm)
    average = copy.deepcopy(network)
    tasks, report, patches = settings(args.datalist, average)
    volumes, weights = patches.whole()
    new = list(network.added.parameters())
    old = [p for p in network.parameters() if all(p is not q for q in new)]
    optimizer = torch.optim.Adam([{"params": old, "lr": args.rate}, {"params": new, "lr": args.rate * 10}])
    shape = (args.slices, 64, 64)
    pool: list[tuple[np.ndarray, np.ndarray, float]] = []
    seconds, history = 0.0, []
    for round_ in range(args.rounds):
        rng = np.random.Generator(np.random.PCG64((0, round_)))
        for name in tasks.tasks:
            case = tasks.case(name, volumes[rng.choice(len(volumes), p=weights)], rng)
            recorder = StackRecorder(case.truth, rng, shape)
            case.reconstruct(recorder)
            pool += recorder.kept
        started, losses = time.monotonic(), []
        for _ in range(args.batches):
            pairs = [pool[i] for i in rng.integers(len(pool), size=args.stacks)]
            for _ in range(args.stacks):
                voxels = volumes[rng.choice(len(volumes), p=weights)].voxels
                voxels = np.moveaxis(voxels, int(rng.integers(3)), 0)
                clean = fitted(np.asarray(voxels[part(voxels.shape, shape, rng)]), shape)
                sigma = float(0.002 * 500 ** rng.random())
                pairs.append((clean + sigma * rng.standard_normal(shape, dtype=np.float32), clean, sigma))
            given, clean_, levels = (torch.from_numpy(np.array(x, dtype=np.float32)) for x in zip(*pairs, strict=True))
            optimizer.zero_grad()
            error = (network(given, levels) - clean_).square().mean(dim=(1, 2, 3))
            loss = (error * levels**-1.2).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            with torch.no_grad():
                for a, p in zip(average.parameters(), network.parameters(), strict=True):
                    a.lerp_(p, args.momentum)
        seconds += time.monotonic() - started
        history.append(sum(losses) / len(losses))
        print(f"{arm}, round {round_ + 1}: loss {history[-1]:.4f}, {seconds:.0f} s", flush=True)
    started = time.monotonic()
    found = report.evaluate()
    row = {"arm": arm, "training_s": seconds, "loop_s": time.monotonic() - started, "loss": history, **found}
    atomic_write(args.work / f"{arm}.pt", lambda path: torch.save(average.state_dict(), path))
    return row


def main() -> None:
    """Train and judge each network, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datalist", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batches", type=int, default=60, help="of each round")
    parser.add_argument("--stacks", type=int, default=2, help="of each kind in a batch")
    parser.add_argument("--slices", type=int, default=8, help="of a stack")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--momentum", type=float, default=0.005)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for arm in ("start", *args.arms):
        kept = args.work / f"{arm}.json"
        if not kept.exists():
            if arm == "start":
                started = time.monotonic()
                found = settings(args.datalist, Stacks("slices"))[1].evaluate()
                write_json(kept, {"arm": arm, "training_s": 0.0, "loop_s": time.monotonic() - started, **found})
            else:
                write_json(kept, train(arm, args))
        rows.append(json.loads(kept.read_text()))
        print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
