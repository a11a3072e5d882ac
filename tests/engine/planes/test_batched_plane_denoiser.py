# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.denoisers.direct import DirectDenoiser
from monai_diffrecon.engine.planes.batched_plane_denoiser import BatchedPlaneDenoiser
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet
from monai_diffrecon.protocols import PLANE_AXIS


class Pointwise(nn.Module):
    """Voxels that do not know each other; remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self.levels: set[float] = set()

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        self.levels |= set(sigma.tolist())
        return torch.tanh(x) / (1 + sigma.view(-1, 1, 1, 1))


class Centred(nn.Module):
    """Takes the mean off each slice."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x - x.mean(dim=(2, 3), keepdim=True)


def volume(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("plane", list(PLANE_AXIS))
def test_a_slice_is_one_of_the_plane(plane: str) -> None:
    x = volume(1, 4, 5, 6)
    out = BatchedPlaneDenoiser(DirectDenoiser(Centred()), plane, batch_size=2)(x, 0.1)
    axis = PLANE_AXIS[plane] + 1
    others = [dim for dim in (1, 2, 3) if dim != axis]
    torch.testing.assert_close(out, x - x.mean(dim=others, keepdim=True))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_of_any_size_give_the_same_voxels(batch_size: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BiasFreeUNet(channels=(4, 8), units=1, bottleneck_units=1).eval().requires_grad_(False)
    x = volume(1, 9, 7, 10)
    whole = BatchedPlaneDenoiser(DirectDenoiser(network), "coronal", batch_size=7)(x, 0.2)
    batched = BatchedPlaneDenoiser(DirectDenoiser(network), "coronal", batch_size=batch_size)
    torch.testing.assert_close(batched(x, 0.2), whole, rtol=1e-5, atol=1e-6)
    assert batched.network_calls == (7 if batch_size == 1 else max(-(-6 // batch_size), 1))
    assert whole.dtype == x.dtype


@pytest.mark.parametrize(("batch_size", "calls"), [(7, 1), (3, 2), (2, 3), (1, 7)])
def test_batches_do_not_change_the_gradient(batch_size: int, calls: int) -> None:
    """Guidance differentiates through all slices; activations of one batch at a time are kept."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BiasFreeUNet(channels=(4, 8), units=1, bottleneck_units=1).eval().requires_grad_(False)
    weights = volume(1, 9, 7, 10).flip(1)

    def gradient(denoise: Callable[[Tensor], Tensor]) -> Tensor:
        x = volume(1, 9, 7, 10).requires_grad_()
        (found,) = torch.autograd.grad((weights * denoise(x)).sum(), x)
        return found

    sigma = torch.full((7,), 0.2)
    denoiser = DirectDenoiser(network)
    expected = gradient(lambda x: denoiser(x.permute(2, 0, 1, 3), sigma).permute(1, 2, 0, 3))
    assert float(expected.abs().max()) > 1e-3
    batched = BatchedPlaneDenoiser(denoiser, "coronal", batch_size=batch_size)
    got = gradient(lambda x: batched(x, 0.2))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert batched.network_calls == calls


def test_activations_are_not_kept_for_the_gradient() -> None:
    """With gradients a batch goes through the network again on the way back; without, once."""
    network = Pointwise()
    denoiser = BatchedPlaneDenoiser(DirectDenoiser(network), "axial", batch_size=2)
    x = volume(1, 4, 5, 6).requires_grad_()
    out = denoiser(x, 0.5)
    assert len(network.shapes) == 3
    out.sum().backward()
    assert len(network.shapes) == 6
    assert denoiser.network_calls == 3
    with torch.no_grad():
        denoiser(x, 0.5)
    assert len(network.shapes) == 9


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_windows_do_not_change_a_pointwise_network(overlap: float) -> None:
    x = volume(1, 21, 30, 3)
    network = Pointwise()
    windows = BatchedPlaneDenoiser(DirectDenoiser(network), "axial", batch_size=4, window=(8, 16), overlap=overlap)
    out = windows(x, 0.25)
    torch.testing.assert_close(out, torch.tanh(x) / 1.25, rtol=1e-5, atol=1e-6)
    assert {shape[2:] for shape in network.shapes} == {(8, 16)}
    assert max(shape[0] for shape in network.shapes) <= 4
    assert network.levels == {0.25}
    assert windows.network_calls == len(network.shapes)


def test_blending_is_exact_on_a_constant_image() -> None:
    x = torch.full((1, 33, 20, 2), 0.7)
    out = BatchedPlaneDenoiser(DirectDenoiser(Pointwise()), "axial", window=(16, 12))(x, 1.0)
    torch.testing.assert_close(out, torch.tanh(x) / 2, rtol=2e-6, atol=0)


@pytest.mark.parametrize("window", [None, (6, 8), (64, 64)])
def test_a_plane_that_fits_the_window_goes_whole(window: tuple[int, int] | None) -> None:
    network = Pointwise()
    BatchedPlaneDenoiser(DirectDenoiser(network), "axial", batch_size=2, window=window)(volume(1, 6, 8, 5), 0.1)
    assert network.shapes == [(2, 1, 6, 8), (3, 1, 6, 8)]  # no slice by itself


def test_a_window_larger_than_one_side_only() -> None:
    network = Pointwise()
    x = volume(1, 6, 20, 2)
    out = BatchedPlaneDenoiser(DirectDenoiser(network), "axial", window=(16, 8))(x, 1.0)
    assert {shape[2:] for shape in network.shapes} == {(6, 8)}
    torch.testing.assert_close(out, torch.tanh(x) / 2, rtol=1e-5, atol=1e-6)


def test_a_complex_volume_is_its_two_parts() -> None:
    x = volume(1, 4, 5, 6, dtype=torch.complex64)
    out = BatchedPlaneDenoiser(DirectDenoiser(Pointwise()), "axial")(x, 1.0)
    torch.testing.assert_close(out, torch.complex(torch.tanh(x.real), torch.tanh(x.imag)) / 2)


def test_it_hands_on_the_range_of_noise_levels() -> None:
    planes = BatchedPlaneDenoiser(DirectDenoiser(Pointwise(), sigma_min=0.02, sigma_max=3.0), "sagittal")
    assert (planes.plane, planes.sigma_min, planes.sigma_max) == ("sagittal", 0.02, 3.0)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"batch_size": 0}, "inferer#sw_batch_size"),
        ({"overlap": 1.0}, "inferer#overlap"),
        ({"window": (8,)}, "inferer#window"),
        ({"window": (0, 8)}, "inferer#window"),
        ({"plane": "frontal"}, "plane"),
    ],
)
def test_options_are_checked(options: dict[str, object], where: str) -> None:
    arguments = {"plane": "axial", **options}
    with pytest.raises(ConfigError) as caught:
        BatchedPlaneDenoiser(DirectDenoiser(Pointwise()), **arguments)  # type: ignore[arg-type]
    assert caught.value.where == where


class Strict(Pointwise):
    """Takes multiples of 4 only, and is not pointwise: the mean of each slice matters."""

    multiple = 4

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert x.shape[-2] % 4 == x.shape[-1] % 4 == 0
        return super().forward(x, sigma)


def test_slices_are_padded_for_a_network_of_multiples() -> None:
    x = volume(1, 5, 4, 11)
    network = Strict()
    out = BatchedPlaneDenoiser(DirectDenoiser(network), "coronal", batch_size=2)(x, 0.1)
    torch.testing.assert_close(out, BatchedPlaneDenoiser(DirectDenoiser(Pointwise()), "coronal")(x, 0.1))
    assert network.shapes == [(2, 1, 8, 12)] * 2


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_another_plane_of_the_same_network(precision: str) -> None:
    x = volume(1, 8, 8, 8)
    axial = BatchedPlaneDenoiser(DirectDenoiser(Centred()), "axial", batch_size=3, precision=precision)
    coronal = axial.for_plane("coronal")
    torch.testing.assert_close(coronal(x, 0.1), x - x.mean(dim=(1, 3), keepdim=True))
    assert (axial.network_calls, coronal.network_calls) == (0, 3)
    assert (axial.plane, coronal.denoiser, coronal.precision) == ("axial", axial.denoiser, precision)
