# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Which network denoises best after the same processor time? Validation error at each noise level.

    python scripts/studies/networks/architectures.py DATALIST.json [--plane axial] [--seconds 600]
        [--candidates NAME ...] [--work FOLDER] [--output FILE.md]

Every candidate trains on the same patches, in the same order, with the same noise, loss, optimizer and shape of the
schedule, on one thread; time is processor time of the process, so that other work on the machine does not decide. The
moving average is judged on patches of subjects that none of them was trained on. A candidate that ``--work`` already
has is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet
from monai_diffrecon.networks.preconditioned_unet import PreconditionedUNet
from monai_diffrecon.numerics.noise import key_seed
from monai_diffrecon.training.denoising_batch import DenoisingBatch
from monai_diffrecon.training.denoising_loss import DenoisingLoss
from monai_diffrecon.training.slice_patches import SlicePatches

SIGMAS = (0.005, 0.01, 0.03, 0.1, 0.3)
WARMUP, DECAY = 0.02, 0.3  # fractions of the time
#: title, network, learning rate
CANDIDATES: dict[str, tuple[str, Callable[[], nn.Module], float]] = {
    "bias_free": ("bias-free residual U-Net (the bundles')", BiasFreeUNet, 8e-4),
    "bias_free_wide": ("the same, 48-96-192 channels", lambda: BiasFreeUNet(channels=(48, 96, 192)), 8e-4),
    "bias_free_slim": ("the same, 24-48-96 channels", lambda: BiasFreeUNet(channels=(24, 48, 96)), 8e-4),
    "group_norm_edm": (
        "MONAI's DiffusionModelUNet, EDM preconditioning; GroupNorm, attention in the middle only",
        lambda: PreconditionedUNet(channels=(32, 64, 96), attention_levels=(False, False, False), unshuffle=2),
        6e-4,
    ),
    "attention_edm": (
        "the same with attention at the coarsest level too",
        lambda: PreconditionedUNet(channels=(32, 64, 96), attention_levels=(False, False, True), unshuffle=2),
        6e-4,
    ),
}


def rate(progress: float) -> float:
    """Return the factor of the learning rate at a fraction of the time: warm-up, constant, linear decay to 1 %."""
    return min(1.0, max(progress, 1e-3) / WARMUP, max(0.01, (1.0 - progress) / DECAY))


def judged(network: nn.Module, clean: Tensor) -> dict[str, float]:
    """Return PSNR (dB, data range 1) of the denoised patches at each noise level."""
    network.eval()
    psnr = {}
    with torch.no_grad():
        for sigma in SIGMAS:
            generator = torch.Generator().manual_seed(key_seed(0, "validation", sigma))
            noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
            error = (network(noisy, torch.full((len(noisy),), sigma)) - clean).square().mean()
            psnr[f"{sigma:g}"] = float(-10 * error.log10())
    return psnr


def train(name: str, args: argparse.Namespace, clean: Tensor) -> dict[str, Any]:
    """Train one candidate for the processor time allowed and return what it reached."""
    _, build, learning_rate = CANDIDATES[name]
    torch.manual_seed(0)
    network = build().to(memory_format=torch.channels_last)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=(0.9, 0.99))
    patches = SlicePatches(args.datalist, args.plane, args.patch, 10**7, "training", 0, contrast=0.3)
    batches, loss_of = DenoisingBatch(0.002, 1.0), DenoisingLoss()
    started, step, curve = time.process_time(), 0, []
    while (spent := time.process_time() - started) < args.seconds:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate(spent / args.seconds)
        batches.iteration = step
        batch = torch.stack([patches[step * args.batch + i] for i in range(args.batch)])
        noisy, target, _, level = batches(batch)
        with torch.autocast("cpu", torch.bfloat16):
            denoised = network(noisy, level["sigma"])
        loss = loss_of(denoised, target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        average.update_parameters(network)
        curve.append(float(loss.detach()))
        step += 1
        if step % 500 == 0:
            print(f"{name}: {step} steps, {spent:.0f} s, loss {sum(curve[-500:]) / 500:.4f}", flush=True)
    image = torch.zeros(8, 1, 192, 192)
    with torch.no_grad():
        begin = time.process_time()
        for _ in range(3):
            average(image, torch.full((8,), 0.1))
        inference = (time.process_time() - begin) / 24
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "patches": step * args.batch,
        "milliseconds": 1000 * inference,
        "psnr": judged(average.module, clean),
    }


def main() -> None:
    """Train, judge, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datalist", type=Path)
    parser.add_argument("--plane", default="axial")
    parser.add_argument("--seconds", type=float, default=600.0, help="processor time of each candidate")
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--candidates", nargs="+", choices=sorted(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--work", type=Path, default=None, help="keeps what a candidate reached")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    held = SlicePatches(args.datalist, args.plane, args.patch, 24, "validation", 1, foreground=0.5)
    clean = torch.stack([held[i] for i in range(24)])
    lines = [
        f"# Network architectures after {args.seconds:g} s of training on one CPU core",
        "",
        f"{args.plane} patches of {args.patch} x {args.patch}, batches of {args.batch}, bfloat16 training, "
        "`scripts/studies/networks/architectures.py`. "
        f"PSNR (dB, data range 1) of 24 denoised validation patches at each noise "
        "level; inference is for a slice of 192 x 192, float32.",
        "",
        "| network | parameters | patches seen | ms per slice | " + " | ".join(f"sigma {s:g}" for s in SIGMAS) + " |",
        "|---|" + "---|" * (3 + len(SIGMAS)),
    ]
    print("\n".join(lines), flush=True)
    for name in args.candidates:
        kept = None if args.work is None else args.work / f"{name}.json"
        if kept is not None and kept.exists():
            reached = json.loads(kept.read_text())
        else:
            reached = train(name, args, clean)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                text = json.dumps(reached)
                atomic_write(kept, lambda path, text=text: path.write_text(text))
        levels = " | ".join(f"{v:.2f}" for v in reached["psnr"].values())
        lines.append(
            f"| {CANDIDATES[name][0]} | {reached['parameters'] / 1e6:.2f} M | {reached['patches']} "
            f"| {reached['milliseconds']:.0f} | {levels} |"
        )
        print(lines[-1], flush=True)
    if args.output is not None:
        text = "\n".join(lines) + "\n"
        args.output.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(args.output, lambda path: path.write_text(text))


if __name__ == "__main__":
    main()
