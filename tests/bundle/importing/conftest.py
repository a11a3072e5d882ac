# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A small checkpoint of the published layout, and an importer installed for a test."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_diffrecon import registry
from monai_diffrecon.cli import main as cli

STRIPES = '''
import torch
from torch import nn
from torch.nn import functional as F

from monai_diffrecon.protocols import CheckpointImporter, ImportedNetwork


class Stripes(nn.Module):
    """Averages along the second axis of a slice, more for more noise."""

    def __init__(self, multiple=8):
        super().__init__()
        self.multiple, self.weight = multiple, nn.Parameter(torch.zeros(1, 1, 1, 7))

    def forward(self, x, sigma=0.1):
        if x.shape[2] % self.multiple or x.shape[3] % self.multiple:
            raise ValueError("not a multiple")
        sigma = torch.as_tensor(sigma).reshape(-1, 1, 1, 1)
        smooth = F.conv2d(F.pad(x, (3, 3, 0, 0), mode="replicate"), self.weight)
        return x + sigma**2 / (sigma**2 + 1e-3) * (smooth - x)


class StripesImporter(CheckpointImporter):
    """Stripes."""

    API_VERSION = 1

    def recognises(self, content):
        return "stripes" in content

    def convert(self, content, *, text=None, channels=1, multiple=8):
        definition = {"_target_": "plug_stripes.Stripes", "multiple": multiple}
        return ImportedNetwork(
            network_def=definition if text is None else {**definition, "text": text},
            state_dict=dict(content["stripes"]),
            denoiser={"name": "direct", "sigma_min": 0.02, "sigma_max": 1.0},
            channels=channels,
            notes=("$print('note of the importer')",),
        )
'''


@pytest.fixture
def stripes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the importer ``stripes`` and return a checkpoint for it."""
    site = tmp_path / "site"
    (site / "acme_stripes-2.1.dist-info").mkdir(parents=True)
    (site / "plug_stripes.py").write_text(dedent(STRIPES))
    lines = "[monai_diffrecon.importers]\nstripes = plug_stripes:StripesImporter\n"
    (site / "acme_stripes-2.1.dist-info" / "entry_points.txt").write_text(lines)
    monkeypatch.syspath_prepend(site)
    registry.refresh()
    torch.save({"stripes": {"weight": torch.full((1, 1, 1, 7), 1 / 7)}}, tmp_path / "stripes.pt")
    yield tmp_path / "stripes.pt"
    sys.modules.pop("plug_stripes", None)
    registry.refresh()


@pytest.fixture(scope="session")
def published_checkpoint() -> Callable[[], dict[str, Any]]:
    """Make a checkpoint of NCSN++ as the published training writes it, tiny and with random weights."""
    ncsnpp = pytest.importorskip("diffrecon_ncsnpp.ncsnpp")
    layout = pytest.importorskip("diffrecon_ncsnpp.ncsnpp_layout")

    def make() -> dict[str, Any]:
        options = {"in_channels": 1, "channels": 8, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_levels": []}
        with torch.device("meta"):
            shapes = {k: shape for k, (_, shape) in layout.published_shapes(ncsnpp.NCSNpp(**options)).items()}
        generator = torch.Generator().manual_seed(0)

        def weight(shape: tuple[int, ...]) -> torch.Tensor:
            return torch.randn(shape, generator=generator) * (0.3 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5)

        model = {"module.sigmas": torch.from_numpy(np.geomspace(378.0, 0.01, 2000))}
        model |= {f"module.{k}": weight(shape) for k, shape in shapes.items()}
        averaged = [weight(shape) for k, shape in shapes.items() if k != "all_modules.0.W"]
        return {
            "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(2e-4), "params": [0]}]},
            "model": model,
            "ema": {"decay": 0.999, "num_updates": 7, "shadow_params": averaged},
            "step": 7,
        }

    return make


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., int]:
    """Run ``diffrecon import-checkpoint FILE --to bundles/new``; options replace the usual ones; None omits one."""

    def run(checkpoint: Path, *flags: str, **options: str | None) -> int:
        usual = {
            "to": str(tmp_path / "bundles/new"),
            "plane": "axial",
            "spacing": "1 1",
            "intensity": "percentile 99.5",
        }
        words = [word for k, v in {**usual, **options}.items() if v for word in (f"--{k}", *v.split(" "))]
        return cli.main(["import-checkpoint", str(checkpoint), *words, *flags])

    return run


@pytest.fixture
def sample(tmp_path: Path) -> Callable[..., str]:
    """Write a volume that varies along one axis, as far as it goes, and return its path."""

    def write(axis: str, shape: tuple[int, int, int] = (36, 28, 12), spacing: float = 1.0) -> str:
        steps = np.arange(shape["XYZ".index(axis)])
        profile = 100 + 80 * np.sign(np.sin(2 * np.pi * steps / 6 + 0.4))
        placed = profile.reshape([-1 if a == axis else 1 for a in "XYZ"])
        image = nib.Nifti1Image(np.broadcast_to(placed, shape).astype(np.float32), np.diag([spacing] * 3 + [1]))
        nib.save(image, tmp_path / f"along_{axis}.nii.gz")
        return str(tmp_path / f"along_{axis}.nii.gz")

    return write


@pytest.fixture
def metadata(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    """Read the metadata of the new bundle."""
    return lambda: json.loads((tmp_path / "bundles/new/configs/metadata.json").read_text())
