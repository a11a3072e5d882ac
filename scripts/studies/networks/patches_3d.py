# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
r"""A small 3D denoiser of patches against the 2D denoiser of slices, alone and in turn, judged inside the loop.

    python scripts/studies/networks/patches_3d.py --bundle BUNDLE --datalist OUT/datalist.json --work DIR
        --tasks NAME ... [--minutes 20] [--output FILE.md]

Both networks are trained from random weights for the same processor time, on the same volumes, with white noise. The
tasks are those of validation in ``scripts/training/BUNDLE_loop.json``; their names are said by ``--tasks``. "In turn":
every other network call of the reconstruction goes to the 3D network, which sees the whole volume. What is finished is
kept in DIR.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.blocks import Convolution, ResidualUnit
from torch import Tensor, nn
from torch.nn import functional as F

from monai_diffrecon.io.atomic import atomic_write, write_json
from monai_diffrecon.networks import BiasFreeUNet
from monai_diffrecon.training import LoopReport, LoopTasks, SlicePatches
from monai_diffrecon.training.slice_patches import padded

ROOT = Path(__file__).resolve().parents[3]
CHANNELS = (32, 64, 128)
WHOLE_PLANE = 4096  # slices of a batch: the 3D network sees all slices of a call
SIGMAS = (0.01, 0.03, 0.1, 0.3)
WARMUP, DECAY = 0.02, 0.3  # fractions of the time
#: Bundle -> one that has its planes, and the smallest and largest noise level of training.
BUNDLES = {"brain_mr": ("brain_mr_t1_coronal", 0.003, 2.0), "body_ct": ("body_ct_axial", 0.002, 1.0)}
#: Patches of a batch, and their size.
BATCHES = {"planes": (4, (1, 96, 96)), "patches": (2, (24, 48, 48))}


class BiasFreeUNet3D(nn.Module):
    """``BiasFreeUNet`` with convolutions over three axes; a patch at half the resolution has eight channels.

    Args:
        channels: features of each level, finest first.
        units: residual units a level, on the way down and on the way up, and half of those of the coarsest.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS, units: int = 2) -> None:
        super().__init__()

        def level(c: int, n: int) -> nn.Sequential:
            options: dict[str, Any] = {"subunits": 2, "norm": None, "act": "RELU", "bias": False}
            return nn.Sequential(*(ResidualUnit(3, c, c, last_conv_only=True, **options) for _ in range(n)))

        pairs = list(itertools.pairwise(channels))
        self.head = Convolution(3, 9, channels[0], kernel_size=3, conv_only=True, bias=False)
        self.down_units = nn.ModuleList(level(c, units) for c in channels[:-1])
        self.downs = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2, bias=False) for a, b in pairs)
        self.bottleneck = level(channels[-1], 2 * units)
        self.ups = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, stride=2, bias=False) for a, b in pairs)
        self.up_units = nn.ModuleList(level(c, units) for c in channels[:-1])
        self.tail = Convolution(3, channels[0], 8, kernel_size=3, conv_only=True, bias=False)
        self.multiple = 2 ** len(channels)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the denoised patches (B, X, Y, Z), noise level (B,)."""
        shape = x.shape[1:]
        missing = [-n % self.multiple for n in reversed(shape)]
        fitted = F.pad(x[:, None], [m for pad in missing for m in (0, pad)], mode="replicate")
        halves = [n // 2 for n in fitted.shape[2:]]
        h = fitted.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).unflatten(6, (-1, 2))
        h = h.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(len(x), 8, *halves)
        h = torch.cat((h, sigma.reshape(-1, 1, 1, 1, 1).expand(-1, 1, *halves)), dim=1)
        h = h.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.head(h)
            skips = []
            for units, down in zip(self.down_units, self.downs, strict=True):
                h = units(h)
                skips.append(h)
                h = down(h)
            h = self.bottleneck(h)
            for up, units in zip(reversed(self.ups), reversed(self.up_units), strict=True):
                h = units(up(h) + skips.pop())
            h = self.tail(h)
        h = h.float().reshape(len(x), 2, 2, 2, *halves).permute(0, 4, 1, 5, 2, 6, 3).reshape(fitted[:, 0].shape)
        return x + h[:, : shape[0], : shape[1], : shape[2]]


class InTurn(nn.Module):
    """Networks that are called in turn; a 3D one sees the slices of a call as a volume."""

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        self.networks, self.calls = nn.ModuleList(networks), 0

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Return the denoised slices (N, 1, H, W)."""
        network = self.networks[self.calls % len(self.networks)]
        self.calls += 1
        if not isinstance(network, BiasFreeUNet3D):
            return torch.as_tensor(network(x, sigma))
        level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1)[:1]
        return torch.as_tensor(network(x[None, :, 0], level)[0, :, None])


def denoised(network: nn.Module, x: Tensor, sigma: Tensor) -> Tensor:
    """Return denoised stacks (B, S, H, W), noise level (B,)."""
    if isinstance(network, BiasFreeUNet3D):
        return torch.as_tensor(network(x, sigma))
    slices = network(x.reshape(-1, 1, *x.shape[2:]), sigma.repeat_interleave(x.shape[1]))
    return torch.as_tensor(slices).reshape(x.shape)


def part(voxels: np.ndarray, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Return a random part of a volume, filled up with zeros, of any plane, turned over half of the time."""
    turned = np.moveaxis(voxels, int(rng.integers(3)), 0)
    starts = [int(rng.integers(max(n - m, 0) + 1)) for n, m in zip(turned.shape, shape, strict=True)]
    found = turned[tuple(slice(a, a + m) for a, m in zip(starts, shape, strict=True))]
    flipped = found[::-1] if rng.random() < 0.5 else found
    return padded(np.asarray(flipped, dtype=np.float32), shape) * np.float32(1 + rng.uniform(-0.3, 0.3))


def train(kind: str, patches: SlicePatches, levels: tuple[float, float], args: argparse.Namespace) -> nn.Module:
    """Return the averaged network after its processor time."""
    kept = args.work / f"{kind}.pt"
    torch.manual_seed(0)
    network: nn.Module = BiasFreeUNet(channels=CHANNELS) if kind == "planes" else BiasFreeUNet3D()
    if kept.exists():
        network.load_state_dict(torch.load(kept, weights_only=True))
        return network
    average = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=args.rate)
    volumes, weights = patches.whole()
    count, shape = BATCHES[kind]
    low, high = levels
    started, batches, losses = time.process_time(), 0, []
    while (progress := (time.process_time() - started) / (60 * args.minutes)) < 1.0:
        rng = np.random.Generator(np.random.PCG64((1, batches)))
        drawn = [part(volumes[rng.choice(len(volumes), p=weights)].voxels, shape, rng) for _ in range(count)]
        clean = torch.from_numpy(np.stack(drawn))
        sigma = torch.from_numpy(low * (high / low) ** rng.random(count)).float()
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        given = clean + sigma.reshape(-1, 1, 1, 1) * noise
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1.0, max(progress, 1e-3) / WARMUP, max(0.01, (1.0 - progress) / DECAY))
        optimizer.zero_grad()
        error = (denoised(network, given, sigma) - clean).square().mean(dim=(1, 2, 3))
        loss = (error * sigma**-1.2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        batches += 1
        losses.append(loss.item())
        with torch.no_grad():
            momentum = max(0.002, 1 / (1 + batches))
            for a, p in zip(average.parameters(), network.parameters(), strict=True):
                a.lerp_(p, momentum)
        if batches % 200 == 0:
            print(f"{kind}: {batches} batches, {progress:.0%}, loss {np.mean(losses[-200:]):.4f}", flush=True)
    atomic_write(kept, lambda path: torch.save(average.state_dict(), path))
    write_json(args.work / f"{kind}_batches.json", {"batches": batches, "minutes": args.minutes})
    return average


@torch.no_grad()
def white_noise(network: nn.Module, patches: SlicePatches) -> dict[str, float]:
    """Return the PSNR (dB) of the middle 40 x 96 x 96 of validation volumes at each noise level, and seconds a call."""
    found: dict[str, list[float]] = {f"{sigma:g}": [] for sigma in SIGMAS}
    seconds = []
    for volume in patches.whole()[0]:
        middle = [max((n - m) // 2, 0) for n, m in zip(volume.voxels.shape, (96, 96, 40), strict=True)]
        inner = tuple(slice(a, a + m) for a, m in zip(middle, (96, 96, 40), strict=True))
        clean = torch.from_numpy(volume.voxels[inner].astype(np.float32)).permute(2, 0, 1)[None].contiguous()
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        for sigma in SIGMAS:
            started = time.process_time()
            out = denoised(network, clean + sigma * noise, torch.tensor([sigma]))
            seconds.append(time.process_time() - started)
            found[f"{sigma:g}"].append(float(-10 * (out - clean).square().mean().log10()))
    return {**{k: float(np.mean(v)) for k, v in found.items()}, "seconds": float(np.median(seconds))}


def loop(network: nn.Module, args: argparse.Namespace, patches: SlicePatches) -> dict[str, Any]:
    """Return the PSNR of the tasks in the loop, and processor time."""
    config = json.loads((ROOT / "scripts" / "training" / f"{args.bundle}_loop.json").read_text())
    every = config["loop"]["report"]["tasks"]
    named = {name: copy.deepcopy(every["tasks"][name]) for name in args.tasks}
    for task in named.values():
        task["overrides"] = {**task.get("overrides", {}), "inferer#sw_batch_size": WHOLE_PLANE}
    bundle = str(ROOT / "bundles" / BUNDLES[args.bundle][0])
    tasks = LoopTasks(bundle, network, named, config["sub_volume"], every["spacing"])
    started = time.process_time()
    found = LoopReport(tasks, patches, ".", [network], volumes=args.volumes).evaluate()
    return {**found["psnr"], "seconds": time.process_time() - started}


def main() -> None:
    """Train, judge, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", choices=BUNDLES, required=True)
    parser.add_argument("--datalist", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--minutes", type=float, default=20.0, help="processor time of each training")
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--volumes", type=int, default=None, help="most validation volumes in the loop")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    train_set, validation = (SlicePatches(str(args.datalist), "any", section=s) for s in ("training", "validation"))
    planes, patches = (train(kind, train_set, BUNDLES[args.bundle][1:], args) for kind in BATCHES)
    shipped = BiasFreeUNet(channels=(48, 96, 192) if args.bundle == "brain_mr" else CHANNELS)
    weights = torch.load(ROOT / "scripts" / "training" / f"{args.bundle}.pt", weights_only=True)
    shipped.load_state_dict({k: v.float() for k, v in weights.items()})
    levels = [f"{sigma:g}" for sigma in SIGMAS]
    white = [f"| network | {' | '.join(levels)} | seconds a call |", "|" + "---|" * (len(levels) + 2)]
    for label, network in {"planes": planes, "patches_3d": patches, "planes, long training": shipped}.items():
        found = white_noise(network, validation)
        white.append(f"| {label} | " + " | ".join(f"{found[k]:.2f}" for k in (*levels, "seconds")) + " |")
        print(white[-1], flush=True)
    judged = [f"| networks | {' | '.join(args.tasks)} | seconds |", "|" + "---|" * (len(args.tasks) + 2)]
    rows = {
        "planes": (planes,),
        "patches_3d": (patches,),
        "planes and patches_3d in turn": (planes, patches),
        "planes, long training": (shipped,),
        "planes, long training, and patches_3d in turn": (shipped, patches),
    }
    for label, networks in rows.items():
        kept = args.work / f"loop_{label.replace(' ', '_').replace(',', '')}.json"
        if not kept.exists():
            write_json(kept, loop(InTurn(*networks), args, validation))
        found = json.loads(kept.read_text())
        cells = [f"{found[name]:.2f}" for name in args.tasks] + [f"{found['seconds']:.0f}"]
        judged.append(f"| {label} | {' | '.join(cells)} |")
        print(judged[-1], flush=True)
    if args.output is not None:
        text = "\n".join([*white, "", *judged]) + "\n"
        atomic_write(args.output, lambda path: path.write_text(text))


if __name__ == "__main__":
    main()
