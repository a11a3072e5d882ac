# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Slices are turned before each network call, and back after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.denoisers.direct import DirectDenoiser
from monai_diffrecon.engine.handlers.flips import symmetries
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.planes.batched_plane_denoiser import BatchedPlaneDenoiser
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.planes import turned, turned_back
from monai_diffrecon.protocols import VolumeGeometry

from ...raising import raises
from ..resume.test_resumed_reconstruction import CT, DDIM, MRI, THICK, Interrupt, inferer, measured
from ..test_slabs import OPERATORS, in_slabs, problem, reconstructed
from ..tiny_networks import SCORE

#: The symmetries of the square by NumPy's names, written down independently: turns, then mirrored turns.
EIGHT = {(turns, mirrored) for turns in range(4) for mirrored in (False, True)}


class Watched(nn.Module):
    """Remembers the slices that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return 0.9 * x


class Equivariant(nn.Module):
    """The mean of a pixel and its four neighbours."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
        across = padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:] + padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]
        return 0.5 * x + 0.125 * across


class Sideways(nn.Module):
    """Takes from each pixel a part of its left neighbour."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x - 0.2 * torch.roll(x, 1, dims=-1)


def of_square(x: Tensor, turns: int, mirrored: bool) -> Tensor:
    x = torch.rot90(x, turns, dims=(-2, -1))
    return x.flip(-1) if mirrored else x


def test_the_eight_symmetries_are_different_and_undone() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    found = [turned(x, symmetry) for symmetry in range(8)]
    assert torch.equal(found[0], x)
    for symmetry, image in enumerate(found):
        assert torch.equal(turned_back(image, symmetry), x)
    named = {tuple(of_square(x, *s).flatten().tolist()) for s in EIGHT}
    assert {tuple(image.flatten().tolist()) for image in found} == named
    assert len(named) == 8
    assert {image.shape[-2:] for image in found[:4]} == {(3, 4)}


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("symmetry", range(8))
def test_a_call_under_a_symmetry(plane: str, symmetry: int) -> None:
    x = torch.randn((1, 5, 6, 7), generator=torch.Generator().manual_seed(0))
    planes = BatchedPlaneDenoiser(DirectDenoiser(Sideways()), plane, batch_size=2)
    plain = planes(x, 0.1)
    planes.symmetry = symmetry
    axes = [dim for dim in (1, 2, 3) if dim != {"sagittal": 1, "coronal": 2, "axial": 3}[plane]]
    # Sideways takes from the neighbour before along the last in-plane axis, in the frame of the turned slice.
    axis = axes[0] if symmetry & 4 else axes[1]
    backwards = bool(symmetry & (2 if symmetry & 4 else 1))
    expected = x - 0.2 * torch.roll(x, -1 if backwards else 1, dims=axis)
    torch.testing.assert_close(planes(x, 0.1), expected)
    assert torch.equal(planes(x, 0.1), plain) is (symmetry in (0, 2))


def symmetries_of(spacing: tuple[float, float, float], steps: int) -> list[tuple[int, bool]]:
    """Return how the network of axial slices saw them in each step of a run."""
    network = Watched()
    scan = measured(CT)
    score, sampler = replace(SCORE, network=network), {**DDIM, "steps": steps}
    maker = DiffReconInferer(score, CT, flips=True, progress=False, sw_batch_size=64, sampler=sampler)
    engine = maker.recipe.engine(maker.pose(scan, case="c").posed.problem, progress=False)
    engine.problem.operator.geometry = replace(engine.problem.operator.geometry, spacing=spacing)
    given: list[Tensor] = []
    engine.add_event_handler(StepEvents.DENOISED, lambda e: given.append(e.state.recon.x[0].movedim(-1, 0)[:, None]))
    engine.reconstruct(seed=0, case="c")
    assert len(network.seen) == len(given) == steps
    found: list[tuple[int, bool]] = []
    for seen, plain in zip(network.seen, given, strict=True):
        fitting = [s for s in sorted(EIGHT) if of_square(plain, *s).shape == seen.shape]
        (one,) = [s for s in fitting if torch.allclose(of_square(plain, *s), seen)]
        found.append(one)
    return found


@pytest.mark.parametrize(("spacing", "count"), [((1.0, 1.0, 1.0), 8), ((1.0, 1.001, 3.0), 8), ((1.0, 1.3, 1.0), 4)])
def test_a_run_shows_all_symmetries_in_turn(spacing: tuple[float, float, float], count: int) -> None:
    found = symmetries_of(spacing, 9)
    assert len(set(found[:count])) == count
    assert [found[i] == found[i + count] for i in range(9 - count)] == [True] * (9 - count)
    if count == 4:  # no transposition of oblong pixels: half turns and mirrors alone
        assert {turns % 2 for turns, _ in found} == {0}


def test_which_planes_have_square_pixels() -> None:
    geometry = VolumeGeometry((4, 5, 6), (1.0, 1.0, 3.0))
    assert [symmetries(geometry, plane) for plane in ("axial", "coronal", "sagittal")] == [8, 4, 4]


def test_each_plane_takes_its_own_turns() -> None:
    """With every second step in another plane, both planes see all eight."""
    turns: dict[str, list[int]] = {"axial": [], "coronal": []}
    maker = inferer(CT, flips=True, sampler={**DDIM, "steps": 16})
    engine = maker.recipe.engine(maker.pose(measured(CT), case="c").posed.problem, progress=False)

    def note(engine: Any) -> None:
        (index,) = engine.prior.planes_at(engine.recon.step)
        plane = engine.prior.planes[index]
        turns[plane.plane].append(plane.symmetry)

    engine.add_event_handler(StepEvents.DENOISED, note)
    engine.reconstruct(seed=0, case="c")
    assert turns == {"axial": list(range(8)), "coronal": list(range(8))}


@pytest.mark.parametrize(("network", "same"), [(Equivariant(), True), (Sideways(), False)])
def test_an_equivariant_network_gives_the_same_volume(network: nn.Module, same: bool) -> None:
    options = {"score": replace(SCORE, network=network), "operator": CT, "progress": False}
    plain, flipped = (DiffReconInferer(**options, flips=flips).reconstruct(measured(CT)) for flips in (False, True))
    close = torch.allclose(plain.volume, flipped.volume, rtol=1e-4, atol=1e-3 * float(plain.volume.abs().max()))
    assert close is same
    assert "flips" not in plain.report.inferer
    assert flipped.report.inferer["flips"] is True


@pytest.mark.parametrize(
    ("operator", "options"),
    [
        (THICK, {}),
        (THICK, {"prior": {"name": "perpendicular", "K": 2.7}, "sampler": DDIM}),
        (CT, {"sampler": DDIM, "consistency": {"name": "dps", "zeta": 1.0}}),
        (MRI, {"complex": "channels"}),
        (MRI, {"num_samples": 2, "sampler": DDIM}),
    ],
)
def test_an_interrupted_run_goes_on_with_the_same_turns(
    operator: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    maker, scan = inferer(operator, flips=True, **options), measured(operator)
    whole = maker.reconstruct(scan, case="c")
    assert not torch.equal(whole.volume, inferer(operator, **options).reconstruct(scan, case="c").volume)
    handlers = [Interrupt(StepEvents.STEP_COMPLETED, 4)]
    with pytest.raises(KeyboardInterrupt):
        maker.reconstruct(scan, case="c", handlers=handlers, checkpoint=RunCheckpoint(tmp_path / "c.pt", every=1))
    done = maker.reconstruct(scan, case="c", checkpoint=RunCheckpoint(tmp_path / "c.pt", resume="require"))
    assert torch.equal(done.volume, whole.volume)


@pytest.mark.parametrize("name", OPERATORS)
def test_slabs_take_the_same_turns(name: str) -> None:
    plugins = {"sampler": {"name": "pnp_hqs", "steps": 5, "momentum": 0.5}, "flips": True}
    of = problem(name)
    whole = reconstructed(of, **plugins)
    assert float((in_slabs(of, 3, **plugins) - whole).abs().max()) <= 1e-5 * float(whole.abs().max())
    plain = reconstructed(of, **{**plugins, "flips": False})
    assert float((plain - whole).abs().max()) > 1e-4 * float(whole.abs().max())


def test_the_option_is_checked() -> None:
    with raises(ConfigError, where="inferer#flips", got="'both'"):
        inferer(THICK, flips="both")
