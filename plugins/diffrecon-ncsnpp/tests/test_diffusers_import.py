# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""DiffusersImporter on folders that diffusers itself has saved; skipped where it is not installed."""

import json
import sys
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch

from diffrecon_ncsnpp.diffusers_checkpoint import DiffusersImporter
from diffrecon_ncsnpp.diffusers_unet import DiffusersUNet
from monai_diffrecon import registry
from monai_diffrecon.bundle.checkpoint_file import load_checkpoint
from monai_diffrecon.errors import ConfigError, InputError, IntegrityError

diffusers = pytest.importorskip("diffusers")

CONFIG: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}


def saved(folder: Path, *, safe: bool = True, scheduler: Any = None, **options: Any) -> Any:
    """Save a small model as diffusers does, and return it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = diffusers.UNet2DModel(**{**CONFIG, **options})
    model.save_pretrained(folder, safe_serialization=safe)
    if scheduler is not None:
        scheduler.save_pretrained(folder)
    return model.eval()


def content(scheduler_config: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    model = diffusers.UNet2DModel(**{**CONFIG, **options})
    return {
        "config": {**CONFIG, **options},
        "state_dict": model.state_dict(),
        "scheduler_config": scheduler_config,
    }


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_folder_to_denoiser(tmp_path: Path, safe: bool) -> None:
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=500, beta_schedule="scaled_linear", prediction_type="sample"
    )
    model = saved(tmp_path, safe=safe, scheduler=scheduler)
    importer = DiffusersImporter()
    loaded = load_checkpoint(tmp_path, importer.allowed_globals)
    assert importer.recognises(loaded)
    imported = importer.convert(loaded, in_channels=1)
    definition = json.loads(json.dumps(imported.network_def))
    network = locate(definition.pop("_target_"))(**definition).eval()
    network.load_state_dict(imported.state_dict, strict=True)
    x = torch.randn((2, 1, 16, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(x, torch.tensor([3, 400])).sample
        assert torch.equal(network(x, torch.tensor([3, 400])), expected)
        assert torch.equal(network(x), model(x, 10).sample)
    denoiser = registry.build("denoisers", imported.denoiser, network=network)
    assert denoiser.prediction_type == "sample"
    abar = scheduler.alphas_cumprod[[0, -1]].double()
    limits = ((1 - abar) / abar).sqrt() / 2  # of intensities in [0, 1]; the training had them in [-1, 1]
    assert [denoiser.sigma_min, denoiser.sigma_max] == pytest.approx(limits.tolist(), rel=1e-3)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "trained"])
def test_noise_levels_are_those_of_the_scheduler(schedule: str) -> None:
    options = {"trained_betas": [0.01, 0.02, 0.05]} if schedule == "trained" else {"beta_schedule": schedule}
    scheduler = diffusers.DDPMScheduler(**options)
    imported = DiffusersImporter().convert(content(dict(scheduler.config)), data_range=(0, 1))
    denoiser = registry.build("denoisers", imported.denoiser, network=torch.nn.Identity())
    abar = scheduler.alphas_cumprod[[0, -1]].double()
    limits = ((1 - abar) / abar).sqrt().tolist()
    # The last noise level of the cosine schedule hangs on the last digits of float32, which diffusers computes in.
    assert [denoiser.sigma_min, denoiser.sigma_max] == pytest.approx(limits, rel=2e-3)


def test_learned_variance_is_left_out() -> None:
    imported = DiffusersImporter().convert(content(out_channels=2))
    network = DiffusersUNet(imported.network_def["config"])
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 8, 8)


def test_assumptions_are_noted() -> None:
    notes = "\n".join(DiffusersImporter().convert(content(), beta_end=0.03).notes)
    assert "assumed num_train_timesteps 1000" in notes
    assert "beta_end" not in notes
    assert "data_range" in notes


def test_weights_that_do_not_fit_are_named() -> None:
    for spoil, got in (
        (lambda s: s.pop("conv_in.bias"), "missing unet.conv_in.bias"),
        (lambda s: s.update({"extra": torch.zeros(1)}), "superfluous unet.extra"),
        (
            lambda s: s.update({"conv_in.bias": torch.zeros(3)}),
            "of a wrong shape unet.conv_in.bias (3,) instead of (8,)",
        ),
        (lambda s: s["conv_in.bias"].fill_(torch.inf), "unet.conv_in.bias"),
    ):
        given = content()
        given["state_dict"] = {k: v.detach().clone() for k, v in given["state_dict"].items()}
        spoil(given["state_dict"])
        with pytest.raises(InputError) as caught:
            DiffusersImporter().convert(given)
        assert (caught.value.where, caught.value.got) == ("import diffusers, weights", got)


@pytest.mark.parametrize(
    ("scheduler", "where", "got"),
    [
        (
            {"_class_name": "ScoreSdeVeScheduler", "sigma_max": 1348.0},
            "import diffusers, scheduler_config",
            "ScoreSdeVeScheduler",
        ),
        ({"beta_schedule": "sigmoid"}, "import diffusers, scheduler_config#beta_schedule", "'sigmoid'"),
        (
            {"beta_schedule": "linear", "prediction_type": "flow"},
            "import diffusers, scheduler_config#prediction_type",
            "'flow'",
        ),
        ({"beta_schedule": "linear", "rescale_betas_zero_snr": True}, "import diffusers, scheduler_config", None),
        ({"beta_schedule": "linear", "beta_end": 0.5}, "import diffusers, scheduler_config", "beta_end 0.5"),
    ],
)
def test_other_schedulers_are_refused(scheduler: dict[str, Any], where: str, got: object) -> None:
    with pytest.raises((InputError, ConfigError)) as caught:
        DiffusersImporter().convert(content(scheduler), beta_end=0.02)
    assert (caught.value.where, caught.value.got) == (where, got)


@pytest.mark.parametrize(
    ("config", "where", "expected", "got"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "network_def#config", "UNet2DModel", "UNet2DConditionModel"),
        ({"num_class_embeds": 3}, "network_def#config", "an unconditional one", None),
        ({"layers_per_blok": 1}, "network_def#config", None, "layers_per_blok"),
        ({"out_channels": 3}, "network_def#config", "1 or 2", 3),
        ({"time_embedding_type": "fourier"}, "import diffusers, config#time_embedding_type", "positional", "fourier"),
        ({"up_block_types": ["UpBlock2D"]}, "network_def#config", None, None),
    ],
)
def test_other_models_are_refused(config: dict[str, Any], where: str, expected: object, got: object) -> None:
    given = {"config": {**CONFIG, **config}, "state_dict": {"w": torch.zeros(1)}, "scheduler_config": None}
    with pytest.raises((InputError, ConfigError)) as caught:
        DiffusersImporter().convert(given)
    assert (caught.value.where, caught.value.expected, caught.value.got) == (where, expected, got)


@pytest.mark.parametrize(
    "value", ["$__import__('os').mkdir('x')", "@network", "%file.json", {"_target_": "os.mkdir", "path": "x"}, ["$1"]]
)
def test_a_config_brings_no_expressions_into_a_bundle(value: object) -> None:
    given = {"config": {**CONFIG, "act_fn": value}, "state_dict": {"w": torch.zeros(1)}, "scheduler_config": None}
    with pytest.raises(IntegrityError) as caught:
        DiffusersImporter().convert(given)
    assert (caught.value.where, caught.value.got) == ("import diffusers, config#act_fn", repr(value))


def test_wrong_shape_and_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as caught:
        DiffusersUNet(CONFIG)(torch.zeros(1, 1, 7, 8))
    assert (caught.value.where, caught.value.expected) == ("DiffusersUNet", "(B, 1, H, W) with H and W multiples of 2")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigError) as caught:
        DiffusersUNet(CONFIG)
    assert caught.value.where == "network_def"
    assert "diffrecon-ncsnpp[diffusers]" in (caught.value.mend or "")
