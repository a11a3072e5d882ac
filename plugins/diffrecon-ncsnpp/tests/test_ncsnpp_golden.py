# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""NCSNpp against what the published network returned, its published names, sizes and faults."""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffrecon_ncsnpp.fir_resampling import fir_blur, fir_downsample, fir_upsample
from diffrecon_ncsnpp.ncsnpp import NCSNpp
from diffrecon_ncsnpp.ncsnpp_layout import published_shapes
from monai_diffrecon.errors import ConfigError, InputError

HERE = Path(__file__).parent


def golden_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Draw a weight from its published name, as it was drawn for the published network."""
    a = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    if len(shape) == 1:
        is_norm_weight = ("GroupNorm" in name and name.endswith(".weight")) or name == "module.all_modules.52.weight"
        a = 16 * a if name.endswith(".W") else 1 + 0.1 * a if is_norm_weight else 0.1 * a
    else:
        a = a / np.sqrt(shape[0] if ".NIN_" in name else np.prod(shape[1:]))
    return torch.from_numpy(a.astype(np.float32))


def small(**options: object) -> NCSNpp:
    """Return a tiny network whose branches all count; as initialized, most return next to nothing."""
    network = NCSNpp(**{"channels": 8, "num_res_blocks": 1, **options})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.3 if p.ndim == 1 else p[0].numel() ** -0.5))
    return network.eval()


def slices(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def test_score_is_that_of_the_published_network() -> None:
    golden = json.loads((HERE / "ncsnpp_golden.json").read_text())
    network = NCSNpp(channels=32)
    state = {}
    for published, (name, shape) in published_shapes(network).items():
        weight = golden_weight(f"module.{published}", shape)
        state[name] = weight.T if ".NIN_" in name and weight.ndim == 2 else weight
    network.load_state_dict(state)
    x = np.random.Generator(np.random.PCG64(1)).random((2, 1, 96, 96)).astype(np.float32)
    with torch.no_grad():
        score = network(torch.from_numpy(x), torch.tensor(golden["sigma"]))
    voxels = score[:, 0, golden["rows"]][:, :, golden["columns"]]
    for got, expected, whole, norm, mean in zip(
        voxels, torch.tensor(golden["score"]), score, golden["norm"], golden["mean"], strict=True
    ):
        assert (got - expected).norm() < 1e-4 * expected.norm()
        assert float(whole.norm()) == pytest.approx(norm, rel=1e-5)
        assert float(whole.mean()) == pytest.approx(mean, rel=1e-3)


def test_names_and_shapes_are_the_published_ones() -> None:
    rows = gzip.decompress((HERE / "ncsnpp_published_keys.tsv.gz").read_bytes()).decode().split()
    published = {k: tuple(map(int, s.split("x"))) for k, s in zip(rows[::2], rows[1::2], strict=True)}
    assert published.pop("module.sigmas") == (2000,)
    with torch.device("meta"):
        network = NCSNpp()
    ours = {f"module.{name}": shape for name, (_, shape) in published_shapes(network).items()}
    assert list(ours.items()) == list(published.items())  # the order too: the averaged weights have no names
    assert len(ours) == 521
    assert sum(p.numel() for p in network.parameters()) == 61_433_473


@pytest.mark.parametrize("size", [(96, 96), (64, 64), (40, 72), (8, 8)])
def test_any_size_that_can_be_halved(size: tuple[int, int]) -> None:
    x = slices(2, 1, *size)
    with torch.no_grad():
        got = small()(x, torch.tensor([0.1, 3.0]))
    assert got.shape == x.shape
    assert bool(torch.isfinite(got).all())


def test_attention_is_where_it_was_asked_for_at_any_size() -> None:
    attended = small(channel_mult=(1, 2), attention_levels=(0,))
    kinds = [type(m).__name__ for m in attended.all_modules]
    assert kinds.count("AttentionBlock") == 3  # down, bottleneck, up
    with torch.no_grad():
        for n in (16, 32):
            assert attended(slices(1, 1, n, n)).shape == (1, 1, n, n)


def test_slices_of_a_batch_do_not_mix_and_one_tensor_is_enough() -> None:
    network, x = small(in_channels=2, channel_mult=(1, 2), default_sigma=0.7), slices(3, 2, 16, 24)
    with torch.no_grad():
        whole = network(x, torch.tensor([0.1, 0.7, 5.0]))
        torch.testing.assert_close(network(x[1:2], 0.7), whole[1:2], rtol=1e-4, atol=1e-5)
        assert torch.equal(network(x[1:2]), network(x[1:2], 0.7))
        assert not torch.allclose(network(x[1:2], 0.1), whole[1:2], rtol=0.1)


def test_resampling_is_zero_insertion_and_a_filter() -> None:
    x, taps = slices(2, 3, 6, 10).double(), torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
    kernel = torch.outer(taps, taps)[None, None] / 64

    def filtered(y: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.conv2d(y[:, c : c + 1], kernel) for c in range(3)], dim=1)

    zeros = torch.zeros(2, 3, 12, 20, dtype=torch.float64)
    zeros[..., ::2, ::2] = x
    torch.testing.assert_close(fir_upsample(x), filtered(F.pad(zeros, (2, 1, 2, 1))) * 4)
    torch.testing.assert_close(fir_downsample(x), filtered(F.pad(x, (1, 1, 1, 1)))[..., ::2, ::2])
    torch.testing.assert_close(fir_blur(x, 2), filtered(F.pad(x, (2, 2, 2, 2))))


@pytest.mark.parametrize(
    "shape", [(1, 1, 36, 40), (1, 1, 40, 36), (1, 2, 40, 40), (1, 40, 40)], ids=["height", "width", "channels", "axes"]
)
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        small()(torch.zeros(shape))
    assert (caught.value.where, caught.value.expected, caught.value.got) == (
        "NCSNpp",
        "(B, 1, H, W) with H and W multiples of 8",
        shape,
    )


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({"channels": 0}, "network_def#channels", "0"),
        ({"channels": 132}, "network_def#channels", 132),
        ({"channel_mult": ()}, "network_def#channel_mult, attention_levels", "[], []"),
        ({"attention_levels": (4,)}, "network_def#channel_mult, attention_levels", "[1, 2, 2, 2], [4]"),
        ({"num_res_blocks": 0}, "network_def#num_res_blocks", "0"),
        ({"in_channels": 1.5}, "network_def#in_channels", "1.5"),
        ({"fourier_scale": 0.0}, "network_def#fourier_scale", "0.0"),
        ({"default_sigma": float("inf")}, "network_def#default_sigma", "inf"),
    ],
)
def test_wrong_options(options: dict, where: str, got: object) -> None:
    with torch.device("meta"), pytest.raises(ConfigError) as caught:
        NCSNpp(**options)
    assert (caught.value.where, caught.value.got) == (where, got)
