# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The table of conversions in docs/methods.md, and the presets that use it, against the operators themselves."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from diffrecon_published.rotation_ct import RotationCT
from monai_diffrecon.presets.overlays import METHOD, overlay_path, overlays
from monai_diffrecon.protocols import VolumeGeometry

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "methods.md"
BUNDLES = sorted((ROOT / "bundles").glob("brain_mr_t1_*"))


def row(published: str) -> str:
    """Return the last cell of the row whose first cell starts so."""
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| {published}")]
    assert len(lines) == 1, f"{len(lines)} rows start with {published!r}"
    return lines[0].split("|")[3]


def numbers(published: str) -> list[float]:
    return [float(n) for n in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", row(published))]


def norm_of(views: int) -> float:
    """||A^T A|| at 256 pixels."""
    return RotationCT(VolumeGeometry((256, 256, 1)), views=views).norm()


def preset(bundle: Path, task: str, method: str, **options: Any) -> ConfigParser:
    configs = bundle / "configs"
    parser = ConfigParser()
    files = [configs / "inference.json", configs / f"tasks/{task}.json", overlay_path(METHOD, method, where="test")]
    parser.read_config([str(file) for file in files])
    parser.update({"bundle_root": str(bundle), **options})
    return parser


def test_rho_of_ct() -> None:
    of_published = math.pi / (2 * 8) * norm_of(8)  # B is nearly pi / (2 views) times the adjoint
    assert numbers("rho 10, lambda 0.04")[:1] == [pytest.approx(10 / of_published, abs=5e-4)]
    assert numbers("rho 10, lambda 0.04")[2] == pytest.approx(0.04 / 10)
    assert numbers("rho 10, lambda 0.4 ")[1] == pytest.approx(0.4 / 10)


def test_rho_of_mri() -> None:
    assert numbers("rho 0.01")[:2] == [0.01, pytest.approx(0.005 / 0.01)]


def test_guidance_of_ct() -> None:
    assert numbers("zeta 0.025")[0] == pytest.approx(0.025 * norm_of(36) ** 0.5, rel=0.01)


def test_guidance_of_mri() -> None:
    """torch's unnormalised transform of 256 x 256 is 256 times the orthonormal one."""
    x = torch.rand(256, 256, generator=torch.Generator().manual_seed(0))
    factor = float(torch.linalg.vector_norm(torch.fft.fft2(x)) / torch.linalg.vector_norm(x))
    assert numbers("zeta 0.002")[:3] == [pytest.approx(z * factor, rel=0.005) for z in (0.002, 0.007, 0.01)]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda b: b.name)
def test_the_presets_use_them(bundle: Path) -> None:
    ct = preset(bundle, "sparse_view_ct", "diffusion_mbir").get_parsed_content("consistency")
    assert [ct["rho"], ct["regularizers"][0]["threshold"]] == [numbers("rho 10, lambda 0.04")[i] for i in (0, 2)]
    assert ct["final_sirt"]
    mri = preset(bundle, "accelerated_mri", "diffusion_mbir").get_parsed_content("consistency")
    assert [mri["rho"], mri["regularizers"][0]["threshold"]] == numbers("rho 0.01")[:2]
    zeta = {
        task: preset(bundle, task, "tpdm").get_parsed_content("consistency")["zeta"]
        for task in ("z_super_resolution", "accelerated_mri", "sparse_view_ct")
    }
    assert zeta == {
        "z_super_resolution": numbers("zeta 4")[0],
        "accelerated_mri": numbers("zeta 0.002")[0],
        "sparse_view_ct": numbers("zeta 0.025")[0],
    }


@pytest.mark.slow
@pytest.mark.parametrize("task", ["z_super_resolution", "accelerated_mri", "sparse_view_ct", "generate"])
def test_every_preset_goes_with_every_task(task: str) -> None:
    """The inferer checks names and options of all plugins when it is built."""
    bundle, other = BUNDLES
    methods = overlays(METHOD, bundle)
    assert {"diffusion_mbir", "tpdm", "dds", "dds_tpdm", "ddnm", "diffpir", "iscs"} <= set(methods)
    for method in methods:
        alone = method in ("diffusion_mbir", "dds", "iscs")
        parser = preset(bundle, task, method, auxiliary_bundle=None if alone else str(other))
        specs = parser.get_parsed_content("inferer").specs
        assert specs["prior"]["name"] == ("slices" if alone else "perpendicular")
        if task == "generate" and method in ("diffusion_mbir", "tpdm"):
            assert specs["consistency"]["name"] == "none"


TV_START = {"name": "admm_tv", "rho": 0.3, "threshold": 0.03}


@pytest.mark.parametrize(
    ("task", "start", "sigma"),
    [("sparse_view_ct", TV_START, 0.2), ("z_super_resolution", "initial", 0.5), ("generate", "noise", "max")],
)
def test_a_fast_preset_starts_at_what_is_known(task: str, start: Any, sigma: float | str) -> None:
    sampler = preset(BUNDLES[0], task, "dds", calls=20).get_parsed_content("sampler")
    assert (sampler["steps"], sampler["start"], sampler["sigma_start"]) == (20, start, sigma)
