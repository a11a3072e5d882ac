# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Weights of a wider network that computes what a bundle's does, as a start for more training.

    python scripts/widen_network.py bundles/NAME OUT.pt --channels 48 96 192
    python -m monai.bundle run --config_file configs/train.json ... --pretrained OUT.pt \
        --network_def#channels [48,96,192]

Features that are added get random weights on what they read, and zero weights on what the old features read of them
(after Chen, Goodfellow and Shlens 2016, Net2Net, arXiv 1511.05641, which copies features instead).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet


def widen(old: dict[str, Tensor], wide: nn.Module) -> None:
    """Give ``wide`` the weights ``old`` of a narrower network of the same kind, so that it computes the same."""
    transposed = {f"{name}.weight" for name, m in wide.named_modules() if isinstance(m, nn.ConvTranspose2d)}
    with torch.no_grad():
        for name, weight in wide.state_dict(keep_vars=True).items():
            given = old[name].to(weight)
            reading = 0 if name in transposed else 1
            kept = weight.narrow(1 - reading, 0, given.shape[1 - reading])
            kept.zero_()
            kept.narrow(reading, 0, given.shape[reading]).copy_(given)


def main() -> None:
    """Widen and check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--channels", type=int, nargs="+", required=True)
    parser.add_argument("--weights", type=Path, default=None, help="instead of the bundle's")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = ConfigParser()
    config.read_config(str(args.bundle / "configs" / "inference.json"))
    options = {k: v for k, v in config["network_def"].items() if k != "_target_"}
    old = torch.load(args.weights or args.bundle / "models" / "model.pt", map_location="cpu", weights_only=True)
    torch.manual_seed(args.seed)
    narrow, wide = BiasFreeUNet(**options), BiasFreeUNet(**(options | {"channels": args.channels}))
    narrow.load_state_dict(old)
    widen(old, wide)
    noisy = torch.rand(2, options.get("in_channels", 1), 64, 48)
    with torch.no_grad():
        torch.testing.assert_close(wide(noisy, 0.1), narrow(noisy, 0.1), rtol=1e-4, atol=1e-5)
    atomic_write(args.output, lambda path: torch.save(wide.state_dict(), path))


if __name__ == "__main__":
    main()
