# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""NCSNppImporter on synthetic checkpoints of the published layout: loaded, converted, computed, refused."""

import json
import math
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffrecon_ncsnpp.ncsnpp import NCSNpp
from diffrecon_ncsnpp.ncsnpp_checkpoint import NCSNppImporter
from diffrecon_ncsnpp.ncsnpp_layout import published_shapes
from monai_diffrecon import registry
from monai_diffrecon.bundle.checkpoint_file import load_checkpoint
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.protocols import CheckpointImporter

OPTIONS: dict[str, Any] = {
    "in_channels": 1,
    "channels": 8,
    "channel_mult": [1, 2],
    "num_res_blocks": 2,
    "attention_levels": [],
}
FIRST = "module.all_modules.3.weight"


def published_checkpoint(**options: Any) -> dict[str, Any]:
    """Return a checkpoint as the published training writes it, with random weights.

    The averaged weights differ from those of ``model``, and the frequencies have no average.
    """
    with torch.device("meta"):
        shapes = published_shapes(NCSNpp(**{**OPTIONS, **options}))
    generator = torch.Generator().manual_seed(0)

    def weight(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator) * (0.3 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5)

    trained = [k for k in shapes if k != "all_modules.0.W"]
    model = {"module.sigmas": torch.from_numpy(np.exp(np.linspace(math.log(378.0), math.log(0.01), 2000)))}
    model |= {f"module.{k}": weight(shape) for k, (_, shape) in shapes.items()}
    moments = {i: {"step": 7, "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)} for i in range(2)}
    group = {"lr": np.float64(2e-4) * np.minimum(7 / 5000, 1.0), "betas": (0.9, 0.999), "params": [0, 1]}
    return {
        "optimizer": {"state": moments, "param_groups": [group]},
        "model": model,
        "ema": {"decay": 0.999, "num_updates": 7, "shadow_params": [weight(shapes[k][1]) for k in trained]},
        "step": 7,
    }


def averaged(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Return the published names with the averaged weights."""
    names = [k.removeprefix("module.") for k in checkpoint["model"] if k != "module.sigmas"]
    trained = [k for k in names if k != "all_modules.0.W"]
    merged = dict(zip(trained, checkpoint["ema"]["shadow_params"], strict=True))
    return {"all_modules.0.W": checkpoint["model"]["module.all_modules.0.W"], **merged}


def reference_score(p: dict[str, Tensor], x: Tensor, sigma: Tensor) -> Tensor:
    """Compute the two-level network of two blocks straight from published tensors, by another road than the module."""

    def of(place: int, name: str) -> Tensor:
        return p[f"all_modules.{place}.{name}"]

    def norm(h: Tensor, place: int, name: str) -> Tensor:
        groups = min(h.shape[1] // 4, 32)
        return F.group_norm(h, groups, of(place, f"{name}weight"), of(place, f"{name}bias"), eps=1e-6)

    def fir(h: Tensor, up: int, pad: tuple[int, int], gain: float) -> Tensor:
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        spread = torch.zeros(*h.shape[:2], h.shape[2] * up, h.shape[3] * up)
        spread[..., ::up, ::up] = h
        rows = F.pad(spread, (*pad, *pad)).unfold(2, 4, 1) @ taps
        return gain * (rows.unfold(3, 4, 1) @ taps)

    def block(h: Tensor, place: int, move: str = "") -> Tensor:
        x, h = h, F.silu(norm(h, place, "GroupNorm_0."))
        if move == "down":
            x, h = (fir(t, 1, (1, 1), 1.0)[..., ::2, ::2] for t in (x, h))
        if move == "up":
            x, h = (fir(t, 2, (2, 1), 4.0) for t in (x, h))
        h = F.conv2d(h, of(place, "Conv_0.weight"), of(place, "Conv_0.bias"), padding=1)
        h = h + (F.silu(temb) @ of(place, "Dense_0.weight").T + of(place, "Dense_0.bias"))[:, :, None, None]
        h = F.silu(norm(h, place, "GroupNorm_1."))
        h = F.conv2d(h, of(place, "Conv_1.weight"), of(place, "Conv_1.bias"), padding=1)
        if f"all_modules.{place}.Conv_2.weight" in p:
            x = F.conv2d(x, of(place, "Conv_2.weight"), of(place, "Conv_2.bias"))
        return (x + h) / math.sqrt(2)

    def attention(h: Tensor, place: int) -> Tensor:
        def nin(t: Tensor, k: int) -> Tensor:
            return torch.einsum("bchw,cd->bdhw", t, of(place, f"NIN_{k}.W")) + of(place, f"NIN_{k}.b")[:, None, None]

        n = norm(h, place, "GroupNorm_0.")
        logits = torch.einsum("bchw,bcij->bhwij", nin(n, 0), nin(n, 1)) * h.shape[1] ** -0.5
        weights = logits.flatten(3).softmax(-1).reshape(logits.shape)
        return (h + nin(torch.einsum("bhwij,bcij->bchw", weights, nin(n, 2)), 3)) / math.sqrt(2)

    phase = 2 * math.pi * torch.outer(sigma.log(), of(0, "W"))
    temb = torch.cat([phase.sin(), phase.cos()], 1) @ of(1, "weight").T + of(1, "bias")
    temb = F.silu(temb) @ of(2, "weight").T + of(2, "bias")
    centred = 2 * x - 1
    skips = [F.conv2d(centred, of(3, "weight"), of(3, "bias"), padding=1)]
    for place in (4, 5):
        skips.append(block(skips[-1], place))
    pyramid = F.conv2d(fir(centred, 1, (2, 2), 1.0), of(7, "Conv2d_0.weight"), of(7, "Conv2d_0.bias"), stride=2)
    skips.append((pyramid + block(skips[-1], 6, "down")) / math.sqrt(2))
    for place in (8, 9):
        skips.append(block(skips[-1], place))
    h = block(attention(block(skips[-1], 10), 11), 12)
    for place in (13, 14, 15):
        h = block(torch.cat([h, skips.pop()], 1), place)
    h = block(h, 16, "up")
    for place in (17, 18, 19):
        h = block(torch.cat([h, skips.pop()], 1), place)
    h = F.conv2d(F.silu(norm(h, 20, "")), of(21, "weight"), of(21, "bias"), padding=1)
    return h / sigma[:, None, None, None]


def built(imported: Any) -> torch.nn.Module:
    definition = json.loads(json.dumps(imported.network_def))
    network = locate(definition.pop("_target_"))(**definition)
    network.load_state_dict(imported.state_dict, strict=True)
    return network.eval()


def test_file_to_score(tmp_path: Path) -> None:
    checkpoint, importer = published_checkpoint(), NCSNppImporter()
    torch.save(checkpoint, tmp_path / "checkpoint_185.pth")
    content = load_checkpoint(tmp_path / "checkpoint_185.pth", importer.allowed_globals)
    assert type(content["optimizer"]["param_groups"][0]["lr"]) is np.float64
    assert importer.recognises(content)
    imported = importer.convert(content)
    assert imported.network_def == {"_target_": "diffrecon_ncsnpp.ncsnpp.NCSNpp", **OPTIONS}
    assert imported.denoiser == {"name": "ve_score", "sigma_min": 0.01, "sigma_max": 378.0}
    assert imported.channels == 1
    network = built(imported)
    x, sigma = torch.rand((2, 1, 16, 12), generator=torch.Generator().manual_seed(1)), torch.tensor([0.05, 20.0])
    with torch.no_grad():
        expected = reference_score(averaged(checkpoint), x, sigma)
        torch.testing.assert_close(network(x, sigma), expected, rtol=1e-4, atol=1e-4)
        denoiser = registry.build("denoisers", imported.denoiser, network=network)
        clean = x + (sigma**2)[:, None, None, None] * expected
        torch.testing.assert_close(denoiser(x, sigma), clean, rtol=1e-3, atol=1e-3)


def test_notes_say_what_was_done() -> None:
    notes = "\n".join(NCSNppImporter().convert(published_checkpoint()).notes)
    for words in (
        "prefix 'module.'",
        "tensors from 'ema' by their order, all_modules.0.W from 'model'",
        "renamed 8 tensors",
        "noise levels 0.01 to 378 from the ends of 'sigmas'",
        "dropped optimizer, step",
    ):
        assert words in notes


def test_weights_are_copies_in_float32() -> None:
    checkpoint = published_checkpoint()
    checkpoint["ema"]["shadow_params"] = [torch.nn.Parameter(p.half()) for p in checkpoint["ema"]["shadow_params"]]
    state = NCSNppImporter().convert(checkpoint).state_dict
    assert all(type(v) is Tensor and v.dtype == torch.float32 and v.is_contiguous() for v in state.values())
    before = state["all_modules.0.W"].clone()
    checkpoint["model"]["module.all_modules.0.W"].zero_()
    assert torch.equal(state["all_modules.0.W"], before)


def test_last_weights_instead_of_averaged_ones() -> None:
    checkpoint = published_checkpoint()
    del checkpoint["ema"]
    state = NCSNppImporter().convert(checkpoint, weights="model").state_dict
    assert torch.equal(state["all_modules.3.weight"], checkpoint["model"][FIRST])
    with pytest.raises(InputError) as caught:
        NCSNppImporter().convert(checkpoint)
    assert (caught.value.where, caught.value.got) == ("import ncsnpp, ema", "NoneType")
    assert "weights=model" in (caught.value.mend or "")


def test_names_without_a_prefix_and_without_noise_levels() -> None:
    checkpoint = published_checkpoint()
    checkpoint["model"] = {k.removeprefix("module."): v for k, v in checkpoint["model"].items() if "sigmas" not in k}
    imported = NCSNppImporter().convert(checkpoint, sigma_max=50.0)
    assert imported.denoiser == {"name": "ve_score", "sigma_min": 0.01, "sigma_max": 50.0}


def test_order_of_the_file_does_not_misplace_the_averages() -> None:
    checkpoint = published_checkpoint()
    expected = NCSNppImporter().convert(checkpoint).state_dict
    checkpoint["model"] = dict(sorted(checkpoint["model"].items()))
    got = NCSNppImporter().convert(checkpoint).state_dict
    assert all(torch.equal(got[k], expected[k]) for k in expected)


@pytest.mark.parametrize(
    "options",
    [
        {"channel_mult": [1, 2, 2, 2], "num_res_blocks": 4},
        {"channel_mult": [1], "num_res_blocks": 3},
        {"channel_mult": [2, 1, 4], "num_res_blocks": 1, "attention_levels": [0, 2]},
        {"channel_mult": [1, 1], "num_res_blocks": 1, "attention_levels": [1]},
        {"in_channels": 2, "channels": 16},
    ],
)
def test_options_are_read_from_shapes(options: dict[str, Any]) -> None:
    imported = NCSNppImporter().convert(published_checkpoint(**options))
    assert imported.network_def == {"_target_": "diffrecon_ncsnpp.ncsnpp.NCSNpp", **OPTIONS, **options}
    built(imported)


def renamed(model: dict[str, Tensor]) -> None:
    model["module.all_modules.5.Conv_O.weight"] = model.pop("module.all_modules.5.Conv_0.weight")


@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (lambda m: m.pop("module.all_modules.4.Conv_1.weight"), "missing all_modules.4.Conv_1.weight"),
        (
            lambda m: [m.pop(f"module.all_modules.21.{k}") for k in ("weight", "bias")],
            "missing all_modules.21.weight, all_modules.21.bias",
        ),
        (lambda m: m.pop(FIRST), "missing all_modules.3.weight"),
        (lambda m: m.update({"module.all_modules.22.bias": torch.zeros(1)}), "superfluous all_modules.22.bias"),
        (lambda m: m.update({"module.extra": torch.zeros(1)}), "superfluous extra"),
        (renamed, "missing all_modules.5.Conv_0.weight; superfluous all_modules.5.Conv_O.weight"),
        (
            lambda m: m.update({"module.all_modules.4.Conv_1.weight": torch.zeros(9, 8, 3, 3)}),
            "of a wrong shape all_modules.4.Conv_1.weight (9, 8, 3, 3) instead of (8, 8, 3, 3)",
        ),
        (
            lambda m: m.update({"module.all_modules.11.NIN_0.W": torch.zeros(16, 15)}),
            "of a wrong shape all_modules.11.NIN_0.W (16, 15) instead of (16, 16)",
        ),
        (lambda m: m["module.all_modules.0.W"].fill_(math.nan), "all_modules.0.W"),
        (
            lambda m: m.update({FIRST: torch.zeros(8, 1, 3, 3, dtype=torch.int64)}),
            "all_modules.3.weight",
        ),
        (lambda m: m.update({"all_modules.4.bare": torch.zeros(1)}), "all_modules.4.bare"),
        (lambda m: m.update({FIRST: "text"}), "others: module.all_modules.3.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named(spoil: Callable[[dict], object], got: object) -> None:
    checkpoint = published_checkpoint()
    spoil(checkpoint["model"])
    with pytest.raises(InputError) as caught:
        NCSNppImporter().convert(checkpoint)
    assert (caught.value.got) == (got)
    assert caught.value.where == "import ncsnpp, model"


@pytest.mark.parametrize(
    ("spoil", "fields"),
    [
        (lambda e: e["shadow_params"].pop(), {"expected": 180, "got": 179}),
        (lambda e: e["shadow_params"].append(torch.zeros(1)), {"expected": 180, "got": 181}),
        (lambda e: e["shadow_params"].insert(0, e["shadow_params"].pop()), {"what": "weights do not fit the layout"}),
        (
            lambda e: e["shadow_params"][2].fill_(math.inf),
            {"where": "import ncsnpp, ema", "got": "all_modules.2.weight"},
        ),
        (
            lambda e: e["shadow_params"].__setitem__(0, None),
            {"where": "import ncsnpp, ema", "got": "others: all_modules.1.weight"},
        ),
        (lambda e: e.pop("shadow_params"), {"where": "import ncsnpp, ema", "expected": "a list 'shadow_params'"}),
    ],
)
def test_averages_that_do_not_fit_are_named(spoil: Callable[[dict], object], fields: dict[str, Any]) -> None:
    checkpoint = published_checkpoint()
    spoil(checkpoint["ema"])
    with pytest.raises(InputError) as caught:
        NCSNppImporter().convert(checkpoint)
    assert {name: getattr(caught.value, name) for name in fields} == fields


def test_declared_options() -> None:
    checkpoint, importer = published_checkpoint(), NCSNppImporter()
    importer.convert(checkpoint, channels=8, channel_mult=(1, 2), sigma_min=0.01, sigma_max=378)
    with pytest.raises(InputError) as caught:
        importer.convert(checkpoint, channels=128, channel_mult=(1, 2, 2, 2))
    assert (caught.value.expected, caught.value.got) == (
        "channels 128, channel_mult [1, 2, 2, 2]",
        "channels 8, channel_mult [1, 2]",
    )
    with pytest.raises(InputError) as caught:
        importer.convert(checkpoint, sigma_max=50.0)
    assert (caught.value.expected, caught.value.got) == ("sigma_max 50.0", "sigma_max 378.0")
    with pytest.raises(ConfigError) as caught:
        importer.convert(checkpoint, nf=8)
    assert (caught.value.where, caught.value.got) == ("import ncsnpp", "nf")


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"model": 1}, {"state_dict": {"a": 1}}, {"model": {"b": 1}}])
def test_other_files_are_not_recognised(content: dict[str, Any]) -> None:
    assert not NCSNppImporter().recognises(content)
    with pytest.raises(InputError) as caught:
        NCSNppImporter().convert(content)
    assert (caught.value.where, caught.value.expected) == (
        "import ncsnpp",
        "an entry 'model' with the tensor module.all_modules.0.W",
    )


def test_importers_are_entry_points() -> None:
    found = {e.name: e for e in entry_points(group="monai_diffrecon.importers")}
    for name in ("ncsnpp", "guided_diffusion", "diffusers"):
        cls = found[name].load()
        assert issubclass(cls, CheckpointImporter)
        assert isinstance(cls(), cls)
