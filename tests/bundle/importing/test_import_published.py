# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint of the published layout to a reconstruction, and the checkpoints that are refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import verify_metadata, verify_net_in_out

from monai_diffrecon.bundle.score_network import load_score_network
from monai_diffrecon.cli import main as cli
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.numerics.hashing import sha256_file

Checkpoint = Callable[[], dict[str, Any]]
SCHEMA = Path(__file__).parents[2] / "data" / "meta_schema_20240725.json"
OPTIONS = ["--plane", "axial", "--spacing", "1", "1", "--intensity", "percentile", "99.5"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, published_checkpoint: Checkpoint) -> Path:
    root = tmp_path_factory.mktemp("published")
    torch.save(published_checkpoint(), root / "checkpoint_95.pth")
    command = ["import-checkpoint", str(root / "checkpoint_95.pth"), "--to", str(root / "bundles/new"), *OPTIONS]
    assert cli.main([*command, "--license-note", "CC-BY 4.0, as its authors wrote"]) == 0
    assert sorted(p.name for p in root.iterdir()) == ["bundles", "checkpoint_95.pth"]
    assert [p.name for p in (root / "bundles").iterdir()] == ["new"]
    return root / "bundles/new"


def test_metadata_keeps_to_the_schema_of_the_model_zoo(bundle: Path, tmp_path: Path) -> None:
    shutil.copyfile(SCHEMA, tmp_path / "schema.json")
    path = bundle / "configs/metadata.json"
    options = {"hash_val": sha256_file(SCHEMA), "hash_type": "sha256"}
    verify_metadata(meta_file=str(path), filepath=str(tmp_path / "schema.json"), **options)
    metadata = json.loads(path.read_text())
    assert metadata["version"] in metadata["changelog"]
    assert metadata["required_packages_version"]["diffrecon-ncsnpp"]


def test_the_network_takes_and_gives_what_the_metadata_says(bundle: Path) -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs/metadata.json"),
        config_file=str(bundle / "configs/inference.json"),
        device="cpu",
        n=2,
        bundle_root=str(bundle),
    )


def test_the_block_says_all_that_is_known(bundle: Path) -> None:
    block = json.loads((bundle / "configs/metadata.json").read_text())["diffrecon"]
    assert block["denoiser"] == {"name": "ve_score", "sigma_min": 0.01, "sigma_max": 378.0}
    assert (block["plane"], block["spacing"], block["window"]) == ("axial", [1.0, 1.0], None)
    assert block["axis_order"] == "RAS+; a slice is (X, Y)"
    assert block["intensity"] == {"map": "percentile", "q": 99.5}
    assert block["licence"] == "CC-BY 4.0, as its authors wrote"
    source = block["source"]
    assert source["files"] == [
        {"name": "checkpoint_95.pth", "sha256": sha256_file(bundle.parents[1] / "checkpoint_95.pth")}
    ]
    assert source["importer"] == "ncsnpp"
    assert any("'ema'" in note for note in source["notes"])
    assert block["orientation_test"].startswith("skipped")


def test_the_weights_are_the_averaged_ones(bundle: Path, published_checkpoint: Checkpoint) -> None:
    score = load_score_network(bundle)
    first, *_ = published_checkpoint()["ema"]["shadow_params"]
    assert torch.equal(score.network.state_dict()["all_modules.1.weight"], first)


def test_the_card_says_what_is_not_known(bundle: Path) -> None:
    card = (bundle / "docs/README.md").read_text()
    assert "CC-BY 4.0" in card
    assert "| declared at import |" in card
    assert "## What is not known" in card
    assert "Skipped: no sample volume was given" in card
    licence = (bundle / "LICENSE").read_text()
    assert "CC-BY 4.0" in licence
    assert "grants no rights" in licence


@pytest.mark.slow
def test_it_reconstructs(
    bundle: Path, tmp_path: Path, empty_store: Callable[[Path], Path], python_m: Callable[..., Any]
) -> None:
    thick = np.random.default_rng(0).random((16, 16, 4), dtype=np.float32)
    nib.save(nib.Nifti1Image(thick, np.diag([1.0, 1, 4, 1])), tmp_path / "thick.nii.gz")
    empty_store(tmp_path / "out")
    options = {
        "config_file": str(bundle / "configs/inference.json"),
        "bundle_root": str(bundle),
        "image": str(tmp_path / "thick.nii.gz"),
        "output_dir": str(tmp_path / "out"),
        "sampler#steps": "2",
    }
    done = python_m("monai.bundle", "run", *(w for k, v in options.items() for w in (f"--{k}", v)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (output,) = (tmp_path / "out").glob("*_recon.nii.gz")
    volume, _ = read_volume(output)
    assert volume.shape == (1, 16, 16, 16)
    record = json.loads(output.with_name(output.name.replace(".nii.gz", ".provenance.json")).read_text())
    assert list(record["weights"]) == ["new 0.1.0"]


def test_float16_spares_the_frequencies(
    tmp_path: Path, bundle: Path, published_checkpoint: Checkpoint, command: Callable[..., int]
) -> None:
    torch.save(published_checkpoint(), tmp_path / "checkpoint.pth")
    assert command(tmp_path / "checkpoint.pth", dtype="float16") == 0
    half = torch.load(tmp_path / "bundles/new/models/model.pt", weights_only=True)
    assert {k: v.dtype for k, v in half.items()} == {
        k: torch.float16 if v.ndim > 1 else torch.float32 for k, v in half.items()
    }
    full, rounded = (load_score_network(root).network for root in (bundle, tmp_path / "bundles/new"))
    x = torch.rand(1, 1, 16, 16)
    for sigma in (0.02, 5.0, 300.0):  # a rounded frequency would turn the phase of the largest level most
        a, b = full(x, sigma), rounded(x, sigma)
        assert float((a - b).norm() / a.norm()) < 0.01


def test_guided_diffusion_with_a_learned_variance(
    tmp_path: Path, command: Callable[..., int], metadata: Callable[[], Any]
) -> None:
    unet = pytest.importorskip("diffrecon_ncsnpp.guided_diffusion_unet").GuidedDiffusionUNet
    sizes = {"channels": 32, "channel_mult": [1, 1, 1, 1, 1], "num_res_blocks": 1, "attention_levels": [4]}
    sizes["head_channels"] = 32
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = unet(in_channels=1, out_channels=2, resblock_updown=True, scale_shift_norm=True, **sizes)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    assert command(tmp_path / "model.pt", "--declare", "head_channels=32") == 0
    # The first level of the schedule is 0.01000050: samplers that end at 0.01 have to be able to.
    assert metadata()["diffrecon"]["denoiser"]["sigma_min"] == 0.01
    inputs, outputs = metadata()["network_data_format"].values()
    assert inputs["image"]["spatial_shape"] == ["16*n", "16*n"]
    assert outputs["pred"]["num_channels"] == 1  # the network drops the variance itself
    root = tmp_path / "bundles/new"
    files = {
        k: str(root / f"configs/{v}.json") for k, v in {"meta_file": "metadata", "config_file": "inference"}.items()
    }
    verify_net_in_out(net_id="network_def", device="cpu", n=2, bundle_root=str(root), **files)


def test_a_folder_of_diffusers(tmp_path: Path, command: Callable[..., int], metadata: Callable[[], Any]) -> None:
    diffusers = pytest.importorskip("diffusers")
    sizes = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8}
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        diffusers.UNet2DModel(in_channels=1, out_channels=1, **sizes, **blocks).save_pretrained(tmp_path / "model")
    diffusers.DDPMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "model")
    assert command(tmp_path / "model") == 0
    block = metadata()["diffrecon"]
    assert block["denoiser"]["prediction_type"] == "v_prediction"
    assert [f["name"] for f in block["source"]["files"]] == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "scheduler_config.json",
    ]
    assert load_score_network(tmp_path / "bundles/new").plane == "axial"


class Payload:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("flags", [[], ["--format", "ncsnpp"]], ids=["auto", "named"])
def test_code_is_refused_and_nothing_written(
    tmp_path: Path,
    published_checkpoint: Checkpoint,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
) -> None:
    torch.save(published_checkpoint() | {"extra": Payload(tmp_path / "owned")}, tmp_path / "bad.pth")
    assert command(tmp_path / "bad.pth", *flags) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: checkpoint bad.pth: refused: the file calls")
    assert "mkdir" in line
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pth"]


def drop(checkpoint: dict[str, Any]) -> None:
    del checkpoint["model"]["module.all_modules.3.weight"]


def add(checkpoint: dict[str, Any]) -> None:
    checkpoint["model"]["module.all_modules.99.weight"] = torch.ones(2)


def reshape(checkpoint: dict[str, Any]) -> None:
    checkpoint["model"]["module.all_modules.3.bias"] = torch.ones(5)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop, "all_modules.3.weight"),
        (add, "superfluous all_modules.99.weight"),
        (reshape, "all_modules.3.bias (5,) instead of (8,)"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path,
    published_checkpoint: Checkpoint,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    checkpoint = published_checkpoint()
    spoil(checkpoint)
    torch.save(checkpoint, tmp_path / "bad.pth")
    assert command(tmp_path / "bad.pth") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pth"]


def test_what_is_declared_has_to_agree(
    tmp_path: Path, published_checkpoint: Checkpoint, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(published_checkpoint(), tmp_path / "a.pth")
    assert command(tmp_path / "a.pth", "--declare", "channel_mult=[1, 2, 2]") == 2
    assert "not what was declared; expected channel_mult [1, 2, 2], got channel_mult [1, 2]" in capsys.readouterr().err
    assert command(tmp_path / "a.pth", "--declare", "channel_mult=[1, 2]", "--declare", "weights=model") == 0
