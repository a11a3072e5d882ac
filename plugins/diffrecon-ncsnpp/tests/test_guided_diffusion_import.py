# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""GuidedDiffusionUNet against diffusers' U-Net of the same weights, and its importer on synthetic checkpoints."""

import json
import re
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffrecon_ncsnpp.guided_diffusion_blocks import ADMAttentionBlock, ADMResidualBlock, timestep_embedding
from diffrecon_ncsnpp.guided_diffusion_checkpoint import GuidedDiffusionImporter
from diffrecon_ncsnpp.guided_diffusion_unet import GuidedDiffusionUNet
from monai_diffrecon import registry
from monai_diffrecon.bundle.checkpoint_file import load_checkpoint
from monai_diffrecon.errors import ConfigError, InputError

OPTIONS: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 2,
    "channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_levels": [1],
    "resblock_updown": True,
    "scale_shift_norm": True,
    "head_channels": 32,
}


def weights(**options: Any) -> dict[str, Tensor]:
    """Return random weights; as initialized, the residual branches would all end in zeros."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in GuidedDiffusionUNet(**{**OPTIONS, **options}).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    scales = {k: 0.3 if len(s) == 1 else s[1:].numel() ** -0.5 for k, s in shapes.items()}
    return {k: torch.randn(s, generator=generator) * scales[k] for k, s in shapes.items()}


def built(imported: Any) -> torch.nn.Module:
    definition = json.loads(json.dumps(imported.network_def))
    network = locate(definition.pop("_target_"))(**definition)
    network.load_state_dict(imported.state_dict, strict=True)
    return network.eval()


def slices(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def in_diffusers(tensors: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Rename the weights of the two-level network of OPTIONS to those of diffusers, which has q, k and v apart."""
    places = {
        r"input_blocks\.1\.0": "down_blocks.0.resnets.0",
        r"input_blocks\.2\.0": "down_blocks.0.downsamplers.0",
        r"input_blocks\.3\.(0|1)": "down_blocks.1.{}.0",
        r"middle_block\.(0|1|2)": "mid_block.{}",
        r"output_blocks\.(0|1)\.(0|1)": "up_blocks.0.{}",
        r"output_blocks\.1\.2": "up_blocks.0.upsamplers.0",
        r"output_blocks\.(2|3)\.0": "up_blocks.1.resnets.{}",
    }
    parts = {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
        "norm": "group_norm",
        "proj_out": "to_out.0",
        "qkv": "qkv",
    }
    whole = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }

    def place_of(match: re.Match, template: str, pattern: str) -> str:
        groups = match.groups()
        if pattern.startswith("middle"):
            return "mid_block." + {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}[groups[0]]
        if pattern.startswith(r"output_blocks\.(0"):
            return f"up_blocks.0.{'attentions' if groups[1] == '1' else 'resnets'}.{groups[0]}"
        if pattern.startswith(r"input_blocks\.3"):
            return template.format("attentions" if groups[0] == "1" else "resnets")
        return template.format(str(int(groups[0]) - 2)) if groups else template

    renamed = {}
    for name, tensor in tensors.items():
        stem, kind = name.rsplit(".", 1)
        new = whole.get(stem)
        for pattern, template in places.items():
            if new is None and (match := re.match(pattern + r"\.", name)):
                new = f"{place_of(match, template, pattern)}.{parts[stem[match.end() :]]}"
        assert new is not None, name
        flat = tensor[..., 0] if tensor.ndim == 3 else tensor
        if new.endswith("qkv"):
            for i, letter in enumerate("qkv"):
                split = flat.unflatten(0, (heads, 3, -1))[:, i].flatten(0, 1)
                renamed[f"{new[:-3]}to_{letter}.{kind}"] = split
        else:
            renamed[f"{new}.{kind}"] = flat
    return renamed


def test_noise_is_that_of_the_same_network_in_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    options = {**OPTIONS, "head_channels": 16}
    tensors = weights(**options)
    other = diffusers.UNet2DModel(
        in_channels=1,
        out_channels=2,
        freq_shift=0,
        flip_sin_to_cos=True,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        downsample_type="resnet",
        upsample_type="resnet",
        attention_head_dim=16,
        attn_norm_num_groups=32,
        norm_eps=1e-5,
        resnet_time_scale_shift="scale_shift",
    )
    other.load_state_dict(in_diffusers(tensors, heads=4), strict=True)
    ours = GuidedDiffusionUNet(**options)
    ours.load_state_dict(tensors)
    x, t = slices(2, 1, 16, 24), torch.tensor([3, 700])
    with torch.no_grad():
        expected = other.eval()(x, t).sample[:, :1]
        torch.testing.assert_close(ours.eval()(x, t), expected, rtol=1e-4, atol=1e-4)


def test_attention_is_softmax_of_products_per_head() -> None:
    block = ADMAttentionBlock(64, 16)
    with torch.no_grad():
        block.proj_out.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
        x = slices(2, 64, 4, 6)
        normed = F.group_norm(x.flatten(2), 32, block.norm.weight, block.norm.bias)
        qkv = torch.einsum("oc,bcn->bon", block.qkv.weight[..., 0], normed) + block.qkv.bias[:, None]
        heads = []
        for part in qkv.split(48, dim=1):
            q, k, v = part.split(16, dim=1)
            heads.append(v @ (q.transpose(1, 2) @ k / 4.0).softmax(-1).transpose(1, 2))
        h = (
            torch.einsum("oc,bcn->bon", block.proj_out.weight[..., 0], torch.cat(heads, 1))
            + block.proj_out.bias[:, None]
        )
        torch.testing.assert_close(block(x), x + h.reshape(x.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("resample", [None, "down", "up"])
def test_residual_block_step_by_step(resample: str | None, scale_shift: bool) -> None:
    block = ADMResidualBlock(32, 64, 8, resample, scale_shift)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in block.parameters():
            p.normal_(std=0.3, generator=generator)
        w, x, embedding = dict(block.named_parameters()), slices(2, 32, 4, 6), slices(2, 8)

        def norm(h: Tensor, name: str) -> Tensor:
            groups = h.unflatten(1, (32, -1))
            variance, mean = torch.var_mean(groups, dim=(2, 3, 4), correction=0, keepdim=True)
            whitened = ((groups - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
            return whitened * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

        def moved(h: Tensor) -> Tensor:
            if resample == "down":
                return (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4
            return h.repeat_interleave(2, 2).repeat_interleave(2, 3) if resample == "up" else h

        h = norm(x, "in_layers.0")
        h = F.conv2d(moved(h * h.sigmoid()), w["in_layers.2.weight"], w["in_layers.2.bias"], padding=1)
        told = embedding * embedding.sigmoid() @ w["emb_layers.1.weight"].T + w["emb_layers.1.bias"]
        told = told[:, :, None, None]
        if scale_shift:
            h = norm(h, "out_layers.0") * (1 + told[:, :64]) + told[:, 64:]
        else:
            h = norm(h + told, "out_layers.0")
        h = F.conv2d(h * h.sigmoid(), w["out_layers.3.weight"], w["out_layers.3.bias"], padding=1)
        skip = F.conv2d(moved(x), w["skip_connection.weight"], w["skip_connection.bias"])
        torch.testing.assert_close(block(x, embedding), skip + h, rtol=1e-4, atol=1e-3)


def test_timesteps_are_embedded_as_cosines_then_sines() -> None:
    got = timestep_embedding(torch.tensor([0.0, 500.0]), 6)
    frequencies = 10000.0 ** -(torch.arange(3) / 3)
    assert torch.equal(got[0], torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(got[1], torch.cat(((500 * frequencies).cos(), (500 * frequencies).sin())))


def test_file_to_denoiser(tmp_path: Path) -> None:
    tensors, importer = weights(), GuidedDiffusionImporter()
    torch.save(tensors, tmp_path / "ema_1M.pt")
    content = load_checkpoint(tmp_path / "ema_1M.pt", importer.allowed_globals)
    assert importer.recognises(content)
    imported = importer.convert(content, head_channels=32)
    assert imported.network_def == {
        "_target_": "diffrecon_ncsnpp.guided_diffusion_unet.GuidedDiffusionUNet",
        **OPTIONS,
    }
    assert imported.channels == 1
    assert all(torch.equal(imported.state_dict[k], v) for k, v in tensors.items())
    network = built(imported)
    x = slices(2, 1, 16, 16)
    denoiser = registry.build("denoisers", imported.denoiser, network=network)
    assert denoiser.sigma_max == pytest.approx(157.4, rel=0.01)  # linear betas 1e-4 to 0.02, 1000 timesteps
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar = torch.cumprod(1 - betas, 0)[300]
    sigma = ((1 - abar) / abar).sqrt().float()
    with torch.no_grad():
        expected = x - sigma * network(x * abar.sqrt().float(), torch.tensor([300]))
        torch.testing.assert_close(denoiser(x, float(sigma)), expected, rtol=1e-3, atol=1e-3)
        assert torch.equal(network(x), network(x, 10))
    assert "head_channels" in "".join(importer.convert(content | {}, prediction_type="epsilon").notes)


@pytest.mark.parametrize(
    "options",
    [
        {"channel_mult": [1, 1, 2, 2, 4, 4], "attention_levels": [4]},
        {"channel_mult": [1, 2, 3], "num_res_blocks": 2, "attention_levels": [1, 2]},
        {"channel_mult": [1], "num_res_blocks": 2, "attention_levels": []},
        {"channel_mult": [1, 1], "attention_levels": [0, 1], "resblock_updown": False, "scale_shift_norm": False},
        {"channels": 64, "channel_mult": [0.5, 1, 1.5], "attention_levels": []},
        {"in_channels": 2, "out_channels": 4},
        {"in_channels": 2, "out_channels": 2},
    ],
)
def test_options_are_read_from_shapes(options: dict[str, Any]) -> None:
    imported = GuidedDiffusionImporter().convert(weights(**options), head_channels=32)
    found = {k: v for k, v in imported.network_def.items() if k != "_target_"}
    assert found == {**OPTIONS, **options}
    network = built(imported)
    x = slices(1, found["in_channels"], network.multiple, 2 * network.multiple)
    with torch.no_grad():
        assert network(x, torch.tensor([5])).shape == x.shape


def test_prefix_of_parallel_training() -> None:
    tensors = weights()
    imported = GuidedDiffusionImporter().convert({f"module.{k}": v for k, v in tensors.items()}, head_channels=32)
    assert imported.state_dict.keys() == tensors.keys()


@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (lambda s: s.pop("input_blocks.1.0.in_layers.2.bias"), "missing input_blocks.1.0.in_layers.2.bias"),
        (lambda s: s.pop("out.2.weight"), "missing out.2.weight"),
        (lambda s: s.update({"input_blocks.1.2.x": torch.zeros(1)}), "superfluous input_blocks.1.2.x"),
        (
            lambda s: s.update({"middle_block.1.qkv.weight": torch.zeros(3, 64, 1)}),
            "of a wrong shape middle_block.1.qkv.weight (3, 64, 1) instead of (192, 64, 1)",
        ),
        (lambda s: s["time_embed.2.bias"].fill_(torch.nan), "time_embed.2.bias"),
        (lambda s: s.update({"label_emb.weight": torch.zeros(3, 128)}), "label_emb.weight"),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("output_blocks")],
            "0 output_blocks, 0 of which double the size; input_blocks.0.0.weight (32, 1, 3, 3)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(spoil: Any, got: object) -> None:
    tensors = weights()
    spoil(tensors)
    with pytest.raises(InputError) as caught:
        GuidedDiffusionImporter().convert(tensors, head_channels=32)
    assert (caught.value.got) == (got)
    assert caught.value.where == "import guided_diffusion"


def test_declared_options() -> None:
    importer, tensors = GuidedDiffusionImporter(), weights()
    assert importer.convert(tensors, head_channels=16, channel_mult=(1, 2)).network_def["head_channels"] == 16
    assert importer.convert(tensors, data_range=(-1, 1)).denoiser["data_range"] == [-1, 1]
    with pytest.raises(InputError) as caught:
        importer.convert(tensors, channels=256)
    assert (caught.value.where, caught.value.expected, caught.value.got) == (
        "import guided_diffusion",
        "channels 256",
        "channels 32",
    )
    with pytest.raises(InputError) as caught:
        importer.convert(tensors, head_channels=48)
    assert caught.value.where == "import guided_diffusion"
    assert "network_def#head_channels" in caught.value.what
    with pytest.raises(ConfigError) as caught:
        importer.convert(tensors, sigma_max=3)
    assert (caught.value.where, caught.value.got) == ("import guided_diffusion", "sigma_max")
    with pytest.raises(InputError) as caught:
        importer.convert({"model": {}})
    assert (caught.value.where, caught.value.got) == ("import guided_diffusion", "entries model")


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({"channels": 48}, "network_def#channels, channel_mult", 48),
        ({"out_channels": 3}, "network_def#out_channels", 3),
        ({"attention_levels": (2,)}, "network_def#channel_mult, attention_levels", "[1, 2], [2]"),
        ({"head_channels": 0}, "network_def#head_channels", "0"),
        ({"resblock_updown": "yes"}, "network_def#resblock_updown", "'yes'"),
        ({"default_timestep": -1}, "network_def#default_timestep", "-1"),
    ],
)
def test_wrong_options(options: dict[str, Any], where: str, got: object) -> None:
    with torch.device("meta"), pytest.raises(ConfigError) as caught:
        GuidedDiffusionUNet(**{**OPTIONS, **options})
    assert (caught.value.where, caught.value.got) == (where, got)


def test_wrong_shapes() -> None:
    network = GuidedDiffusionUNet(**OPTIONS)
    with pytest.raises(InputError) as caught:
        network(torch.zeros(1, 1, 15, 16))
    assert (caught.value.expected, caught.value.got) == ("(B, 1, H, W) with H and W multiples of 2", (1, 1, 15, 16))
