# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A volume reconstructed in slabs is the volume reconstructed as a whole."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.denoisers.direct import DirectDenoiser
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.planes.batched_plane_denoiser import BatchedPlaneDenoiser
from monai_diffrecon.engine.planes.slab_plane_denoiser import SlabPlaneDenoiser
from monai_diffrecon.engine.slab_problem import problem_of, slab_plane
from monai_diffrecon.errors import ConfigError, NumericalError
from monai_diffrecon.operators import CartesianMRI, CartesianMRI3D, FanCT, ParallelCT, SliceThickness
from monai_diffrecon.protocols import PLANE_AXIS, Operator, Problem, VolumeGeometry
from monai_diffrecon.slabs import Slab, cut, peers
from monai_diffrecon.testing.execution.slabs_in_threads import run_in_threads

from ..raising import raises
from . import tiny_networks


def calm(score: ScoreNetwork) -> ScoreNetwork:
    """Return a score whose random network does not multiply round-off."""
    network = copy.deepcopy(score.network)
    for weight in network.parameters():
        weight.mul_(0.7)
    return replace(score, network=network)


AXIAL, CORONAL = calm(tiny_networks.SCORE), calm(tiny_networks.CORONAL)
GEOMETRY = VolumeGeometry((9, 10, 11), (1.0, 1.0, 1.0))
COILS = torch.randn((2, *GEOMETRY.shape), generator=torch.Generator().manual_seed(5), dtype=torch.complex64)
OPERATORS: dict[str, Operator] = {
    "parallel": ParallelCT(GEOMETRY, views=6),
    "fan": FanCT(GEOMETRY, source_distance=50.0, detector_distance=80.0, views=9),
    "thick": SliceThickness(GEOMETRY, thickness=2.0, target_spacing=1.0),
    "coils": CartesianMRI(GEOMETRY, acceleration=2.0, coil_maps=COILS),
    "complex": CartesianMRI(GEOMETRY, acceleration=2.0, complex_volume=True),
}


def problem(name: str, noise_std: float = 0.01) -> Problem:
    operator, generator = OPERATORS[name], torch.Generator().manual_seed(3)
    x = torch.rand(operator.volume_shape, generator=generator).to(operator.volume_dtype)
    y = operator(x)
    return Problem(operator, y + noise_std * torch.randn(y.shape, generator=generator, dtype=y.dtype), noise_std)


def reconstructed(of: Problem, **plugins: Any) -> Tensor:
    recipe = DiffReconInferer(
        AXIAL, "parallel_ct", auxiliaries=(CORONAL,), **{"prior": "perpendicular", **plugins}
    ).recipe
    return recipe.engine(of, progress=False).reconstruct(seed=1, case="a").x


def in_slabs(of: Problem, count: int, **plugins: Any) -> Tensor:
    plane = slab_plane(of.operator, "axial")
    dim = 1 + PLANE_AXIS[plane]
    slabs = cut(dim, of.operator.volume_shape[dim], count)
    parts = run_in_threads(lambda slab: reconstructed(problem_of(of, slab), **plugins), slabs)
    return torch.cat(parts, dim=dim)


Z_TV = {"name": "z_tv", "threshold": 0.02}
CONJUGATE = {"name": "conjugate_gradient"}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(
    ("sampler", "consistency"),
    [
        ({"name": "pnp_hqs", "steps": 2, "momentum": 0.5}, CONJUGATE),
        ({"name": "ddim", "steps": 2}, {"name": "conjugate_gradient", "gamma": "discrepancy"}),
        ({"name": "heun", "steps": 2, "S_churn": 1.0}, {"name": "admm", "regularizers": [Z_TV]}),
        ({"name": "predictor_corrector", "steps": 2}, {"name": "admm_iterate", "regularizers": [Z_TV]}),
    ],
    ids=lambda spec: spec["name"],
)
def test_same_volume(name: str, sampler: dict[str, Any], consistency: dict[str, Any]) -> None:
    of, plugins = problem(name), {"sampler": sampler, "consistency": consistency}
    whole = reconstructed(of, **plugins)
    parts = in_slabs(of, 3, **plugins)
    assert float((parts - whole).abs().max()) <= 1e-5 * float(whole.abs().max())


CLASSICAL = [
    (name, sampler) for name in ("parallel", "thick") for sampler in ("admm_tv", "sirt", "cg_least_squares", "initial")
]


@pytest.mark.parametrize(
    ("name", "sampler"), [*CLASSICAL, ("coils", "admm_tv"), ("coils", "cg_least_squares"), ("coils", "initial")]
)
def test_same_classical_volume(name: str, sampler: str) -> None:
    options = {} if sampler == "initial" else {"iterations": 3}
    of, plugins = problem(name), {"sampler": {"name": sampler, **options}}
    whole = reconstructed(of, **plugins)
    assert float((in_slabs(of, 2, **plugins) - whole).abs().max()) <= 1e-5 * float(whole.abs().max())


def test_slabs_of_one_slice_reach_as_far_as_the_whole() -> None:
    """Neighbours come from several slabs."""
    of = problem("complex")
    plugins = {"sampler": {"name": "pnp_hqs", "steps": 1}}
    whole = reconstructed(of, **plugins)
    assert float((in_slabs(of, 11, **plugins) - whole).abs().max()) <= 1e-5 * float(whole.abs().max())


def test_cuts() -> None:
    assert cut(3, 11, 3) == (Slab(3, 0, 3, 11), Slab(3, 3, 7, 11), Slab(3, 7, 11, 11))
    assert slab_plane(OPERATORS["thick"], "axial") == "coronal"
    assert slab_plane(OPERATORS["thick"], "sagittal") == "sagittal"
    assert slab_plane(OPERATORS["parallel"], "coronal") == "axial"
    with raises(ConfigError, where="inferer#share", got="CartesianMRI3D"):
        slab_plane(CartesianMRI3D(GEOMETRY, acceleration=2.0), "axial")


@pytest.mark.parametrize(
    ("plugins", "got"),
    [
        ({"consistency": "dps"}, "DPSStep"),
        ({"prior": "perpendicular_neighbours"}, "PerpendicularNeighboursPrior"),
        ({"consistency": {"name": "admm", "regularizers": [{"name": "wavelet_l1"}]}}, "WaveletL1"),
    ],
)
def test_plugins_that_need_the_whole_volume_are_refused(plugins: dict[str, Any], got: str) -> None:
    with raises(ConfigError, where="inferer#share", got=got):
        in_slabs(problem("parallel"), 2, sampler={"name": "ddim", "steps": 1}, **plugins)


def test_a_periodic_boundary_is_refused_across_slabs() -> None:
    periodic = {"name": "admm", "regularizers": [{**Z_TV, "boundary": "periodic"}]}
    with raises(ConfigError, where="boundary"):
        in_slabs(problem("parallel"), 2, sampler={"name": "ddim", "steps": 1}, consistency=periodic)
    along = in_slabs(problem("thick"), 2, sampler={"name": "ddim", "steps": 1}, consistency=periodic)
    assert bool(torch.isfinite(along).all())


class Marked(nn.Module):
    """Fails for slices with a value above 5."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.where(x.amax(dim=(1, 2, 3), keepdim=True) > 5.0, torch.nan, x)


@pytest.mark.parametrize(("plane", "axis"), [("axial", 3), ("coronal", 2)])
def test_an_error_counts_slices_of_the_whole_volume(plane: str, axis: int) -> None:
    x = torch.zeros(1, 6, 7, 9)
    x.select(axis, 5).fill_(9.0)

    def denoised(slab: Slab) -> Tensor:
        now = peers()
        assert now is not None
        inner = BatchedPlaneDenoiser(DirectDenoiser(Marked()), plane)
        return SlabPlaneDenoiser(inner, now)(slab.of(x).contiguous(), 0.1)

    with pytest.raises(NumericalError, match=rf"{plane} slice 5\b"):
        run_in_threads(denoised, cut(3, 9, 3))
