# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A network that takes the position of its pixels is told where they lie in the volume."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.denoisers.direct import DirectDenoiser
from monai_diffrecon.denoisers.ve_score import VEScoreDenoiser
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.planes.batched_plane_denoiser import BatchedPlaneDenoiser
from monai_diffrecon.engine.planes.executed_network import ExecutedNetwork
from monai_diffrecon.engine.planes.slab_plane_denoiser import SlabPlaneDenoiser
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import PLANE_AXIS
from monai_diffrecon.slabs import Slab, cut, peers
from monai_diffrecon.testing.execution.slabs_in_threads import run_in_threads

from ...raising import raises
from ..tiny_networks import SCORE

SIZES = (5, 6, 9)


class Says(nn.Module):
    """Says where a pixel lies: X + 10 Y + 100 Z."""

    position = True

    def __init__(self, multiple: int = 1) -> None:
        super().__init__()
        self.multiple = multiple

    def forward(self, x: Tensor, sigma: Tensor, position: Tensor | None = None) -> Tensor:
        assert position is not None
        return torch.einsum("bdhw,d->bhw", position, torch.tensor([1.0, 10.0, 100.0]))[:, None] + 0 * x


def expected() -> Tensor:
    x, y, z = (torch.linspace(-1, 1, n) for n in SIZES)
    return (x[:, None, None] + 10 * y[:, None] + 100 * z)[None]


@pytest.mark.parametrize("plane", list(PLANE_AXIS))
@pytest.mark.parametrize("symmetry", [0, 1, 6])
@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"window": [4, 5], "batch_size": 4}])
def test_every_pixel_is_told_its_place(plane: str, symmetry: int, options: dict[str, object]) -> None:
    denoiser = BatchedPlaneDenoiser(DirectDenoiser(Says()), plane, **options)  # type: ignore[arg-type]
    denoiser.symmetry = symmetry
    torch.testing.assert_close(denoiser(torch.zeros(1, *SIZES), 0.1), expected(), rtol=1e-5, atol=1e-4)


def test_padding_a_runtime_and_another_plane() -> None:
    network = Says(multiple=4)
    for given in (network, ExecutedNetwork(network, network)):
        denoiser = BatchedPlaneDenoiser(DirectDenoiser(given), "axial").for_plane("sagittal")
        torch.testing.assert_close(denoiser(torch.zeros(1, *SIZES), 0.1), expected(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("plane", list(PLANE_AXIS))
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slabs_know_their_place_in_the_whole(plane: str, axis: int) -> None:
    def denoised(slab: Slab) -> Tensor:
        now = peers()
        assert now is not None
        inner = BatchedPlaneDenoiser(DirectDenoiser(Says()), plane, batch_size=2)
        return SlabPlaneDenoiser(inner, now)(slab.of(torch.zeros(1, *SIZES)).contiguous(), 0.1)

    parts = run_in_threads(denoised, cut(1 + axis, SIZES[axis], 2))
    torch.testing.assert_close(torch.cat(parts, dim=1 + axis), expected(), rtol=1e-5, atol=1e-4)


def test_a_gradient_reaches_the_slices() -> None:
    class Both(Says):
        def forward(self, x: Tensor, sigma: Tensor, position: Tensor | None = None) -> Tensor:
            return x * super().forward(x, sigma, position)

    x = torch.ones(1, *SIZES, requires_grad=True)
    (found,) = torch.autograd.grad(BatchedPlaneDenoiser(DirectDenoiser(Both()), "axial")(x, 0.1).sum(), x)
    torch.testing.assert_close(found, expected(), rtol=1e-5, atol=1e-4)


def test_a_denoiser_that_does_not_pass_it_on_is_refused() -> None:
    with raises(ConfigError, where="bundle b", got="VEScoreDenoiser"):
        BatchedPlaneDenoiser(VEScoreDenoiser(Says()), "axial", name="b")


@pytest.mark.parametrize(
    "option",
    [
        {"tune": {"option": "sampler#sigma_start", "values": [0.1, 0.2]}},
        {"adaptation": True},
        {"volume_store": "zarr"},
    ],
)
def test_what_gives_networks_parts_of_a_volume_is_refused(option: dict[str, object]) -> None:
    score = replace(SCORE, network=Says())
    DiffReconInferer(score, "parallel_ct")
    (name,) = option
    with raises(ConfigError, where=f"inferer#{name}"):
        DiffReconInferer(score, "parallel_ct", **option)
