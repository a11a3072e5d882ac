# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Networks that cost nothing, as bundles would give them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet


def tiny(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BiasFreeUNet(channels=(4, 8), units=1, bottleneck_units=1).eval().requires_grad_(False)


SCORE = ScoreNetwork(
    name="axial_bundle",
    version="1.2",
    network=tiny(0),
    plane="axial",
    spacing=(1.0, 1.0),
    denoiser={"name": "direct", "sigma_min": 0.003, "sigma_max": 2.0},
    intensity={"map": "percentile", "q": 99.5},
    sha256="0" * 64,
)
CORONAL = replace(SCORE, name="coronal_bundle", network=tiny(1), plane="coronal", sha256="1" * 64)
