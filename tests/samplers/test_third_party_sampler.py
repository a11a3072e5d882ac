# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Samplers as a third party's package would bring them, in a few lines on the public helpers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_diffrecon import registry
from monai_diffrecon.cli.plugins import find_plugin, plugin_options
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.io.measurement.metatensor import to_tensor
from monai_diffrecon.protocols import Measurement, Problem, Sampler, VolumeGeometry
from monai_diffrecon.testing.gaussian_prior import GaussianPrior
from monai_diffrecon.testing.sampler_laws import check_sampler

from ..engine.tiny_networks import SCORE

SOURCE = '''
from dataclasses import dataclass, field, replace

from monai_diffrecon.sampling import ClassicalSampler, LadderSampler, corrected_estimate, fresh


class Renoised(LadderSampler):
    """Noise the corrected estimate to the next level."""

    API_VERSION = 1

    def step(self, state, denoise, consistency, noise):
        sigma, following = self.levels_at(state)
        state = fresh(state, sigma=sigma)
        _, x, _ = corrected_estimate(state, denoise, consistency)
        if following > 0.0:
            x = x + following * noise.volume(tuple(x.shape), state.step, dtype=x.dtype)
        state = replace(state, sigma=following)
        return replace(state, x=consistency.on_iterate(x, state), step=state.step + 1)


class Fixed(Renoised):
    """Offer one option only."""

    plugin_options = {}

    def __init__(self, steps: int = 2) -> None:
        super().__init__(steps=steps, sigma_start=0.5)


@dataclass(kw_only=True, eq=False, repr=False)
class Shared(Renoised):
    """Add an option and change a default.

    Args:
        share: of the noise, 0 to 1.
    """

    steps: int = field(default=3, kw_only=False)
    share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.share = float(self.share)


class Twice(ClassicalSampler):
    """Twice the initial estimate."""

    API_VERSION = 1

    def estimate(self, measurement):
        return 2 * self.problem.operator.initial(measurement)
'''

GEOMETRY = VolumeGeometry((6, 5, 8))
OPTIONS: dict[str, Any] = {"steps": 4, "sigma_start": 0.5, "sigma_end": 0.05}


@pytest.fixture(autouse=True)
def acme(install: Callable[..., None]) -> None:
    install(
        "acme-samplers",
        "samplers",
        {"renoised": "Renoised", "fixed": "Fixed", "shared": "Shared", "twice": "Twice"},
        SOURCE,
    )


def problem() -> Problem:
    operator = registry.create("operators", "slice_thickness", geometry=GEOMETRY, thickness=1.8)
    y = operator(torch.rand(operator.volume_shape, generator=torch.Generator().manual_seed(1)))
    return Problem(operator, y, 0.0)


def reconstruct(sampler: Any) -> Tensor:
    spec = {"name": "slice_thickness", "thickness": 1.8}
    y = to_tensor(Measurement(problem().measurement, GEOMETRY, spec))
    return DiffReconInferer(SCORE, spec, sampler=sampler, progress=False).reconstruct(y).volume


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("renoised", OPTIONS),
        ("renoised", {"steps": 3, "start": "twice", "sigma_start": "estimate"}),
        ("fixed", {"steps": 3}),
        ("shared", {"share": 1, "sigma_start": 0.5}),
        ("twice", {}),
    ],
)
def test_it_keeps_the_laws(name: str, options: dict[str, Any]) -> None:
    def make() -> Sampler:
        sampler = registry.build("samplers", {"name": f"acme-samplers:{name}", **options}, where="sampler")
        assert isinstance(sampler, Sampler)
        return sampler

    check_sampler(make, problem(), GaussianPrior().denoise, partial(registry.create, "consistency", "none"))


def test_the_engine_runs_it_as_it_runs_a_built_in_one() -> None:
    """Without noise that is kept, ddim is this sampler."""
    got = reconstruct({"name": "renoised", **OPTIONS})
    assert torch.equal(got, reconstruct({"name": "ddim", "eta": 1.0, **OPTIONS}))
    assert torch.equal(reconstruct("twice"), 2 * reconstruct("initial"))


def test_its_options_are_checked_like_those_of_a_built_in_one() -> None:
    with pytest.raises(ConfigError) as caught:
        registry.create("samplers", "renoised", steps=0)
    assert caught.value.where == "sampler#steps"
    with pytest.raises(ConfigError) as caught:
        registry.create("samplers", "renoised", start="fixed")
    assert (caught.value.where, caught.value.got) == ("sampler#start", "Fixed")
    with pytest.raises(ConfigError) as caught:
        registry.create("samplers", "fixed", sigma_start=1.0)
    assert (caught.value.where, caught.value.expected) == ("sampler#sigma_start", "one of steps")


def test_options_of_the_ladder_are_inherited_with_defaults_and_texts() -> None:
    options = {o.name: o for o in plugin_options(find_plugin("shared"))}
    base = {o.name: o for o in plugin_options(find_plugin("renoised"))}
    assert list(options) == [*base, "share"]
    assert (options["steps"].default, base["steps"].default) == ("3", "20")
    assert options["start"].plugins == "samplers"
    assert all(option.text for option in options.values())
    assert registry.create("samplers", "shared").steps == 3
    assert registry.load("samplers", "shared")(5).steps == 5
    with pytest.raises(ConfigError) as caught:
        registry.create("samplers", "shared", shares=1)
    assert caught.value.where == "sampler#shares"


def test_a_start_that_refuses_the_problem_says_where_it_stands() -> None:
    operator = registry.create("operators", "cartesian_mri", geometry=GEOMETRY, complex_volume=True)
    sampler = registry.create("samplers", "renoised", start={"name": "admm_tv", "nonnegative": True})
    with pytest.raises(ConfigError) as caught:
        sampler.prepare(
            Problem(operator, torch.zeros(operator.measurement_shape, dtype=torch.complex64)),
            sigma_min=1e-3,
            sigma_max=10.0,
        )
    assert caught.value.where == "sampler#start#nonnegative"
