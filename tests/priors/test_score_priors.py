# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Priors of one plane and of several."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.priors.perpendicular import PerpendicularPrior
from monai_diffrecon.priors.perpendicular_neighbours import PerpendicularNeighboursPrior
from monai_diffrecon.priors.slices import SlicesPrior
from monai_diffrecon.protocols import SamplerState
from monai_diffrecon.testing.gaussian_prior import GaussianPrior
from monai_diffrecon.testing.prior_laws import check_prior

from ..raising import raises

PLANES = ("axial", "coronal", "sagittal")


def bound(count: int, K: int | float | str, seed: int = 0) -> PerpendicularPrior:
    prior = PerpendicularPrior(K)
    prior.bind([GaussianPrior(mean=float(i), plane=p) for i, p in enumerate(PLANES[:count])], IndependentNoise(seed))
    return prior


@pytest.mark.parametrize("make", [SlicesPrior, *[lambda K=K: PerpendicularPrior(K) for K in (2, 3, 2.7, "average")]])
def test_laws(make) -> None:
    check_prior(make)


@pytest.mark.parametrize(
    ("count", "K", "expected"),
    [
        (2, 2, [0, 1, 0, 1, 0, 1]),
        (2, 3, [0, 0, 1, 0, 0, 1]),
        (3, 2, [0, 1, 0, 2, 0, 1]),
        (3, 3, [0, 0, 1, 0, 0, 2, 0, 0, 1]),
    ],
)
def test_turns(count: int, K: int, expected: list[int]) -> None:
    prior = bound(count, K)
    assert [prior.planes_at(step) for step in range(len(expected))] == [(i,) for i in expected]


def test_random_turns_have_the_right_shares_and_follow_the_seed() -> None:
    K = 2.7
    prior = bound(3, K)
    drawn = [prior.planes_at(step)[0] for step in range(3000)]
    for plane, share in ((0, 1 - 1 / K), (1, 0.5 / K), (2, 0.5 / K)):
        assert drawn.count(plane) / 3000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 3000))
    assert drawn[:50] == [bound(3, K).planes_at(step)[0] for step in range(50)]
    assert drawn[:50] != [bound(3, K, seed=1).planes_at(step)[0] for step in range(50)]
    u = [IndependentNoise(0).uniform(step, stream="perpendicular") for step in range(50)]
    assert [d == 0 for d in drawn[:50]] == [v < 1 - 1 / K for v in u]


def test_each_plane_has_its_say() -> None:
    x = torch.zeros(1, 2, 2, 2)
    sigma, weight = 0.5, 0.5**2 / (0.5**2 + 0.25**2)  # GaussianPrior(mean=m) gives weight * m at x = 0

    def value(prior: PerpendicularPrior, step: int) -> float:
        return float(prior.denoise(x, sigma, SamplerState(x=x, sigma=sigma, step=step))[0, 0, 0, 0])

    assert value(bound(3, 2), 0) == pytest.approx(0.0)
    assert value(bound(3, 2), 1) == pytest.approx(weight)
    assert value(bound(3, 2), 3) == pytest.approx(2 * weight)
    assert value(bound(3, "average"), 0) == pytest.approx(weight)
    assert value(bound(2, "average"), 1) == pytest.approx(weight / 2)


@pytest.mark.parametrize("K", [1, 0, -2, True, 2.0, 1.0, 0.5, float("nan"), float("inf"), "mean", None, np.bool_(True)])
def test_wrong_turns(K: object) -> None:
    with raises(ConfigError, where="prior#K", expected='an integer from 2, a fraction above 1, or "average"'):
        PerpendicularPrior(K)


def test_unbound_priors_say_so() -> None:
    state = SamplerState(x=torch.zeros(1, 2, 2, 2), sigma=1.0)
    for prior, name in ((SlicesPrior(), "slices"), (PerpendicularPrior(), "perpendicular")):
        with raises(ConfigError, where=f"prior {name}"):
            prior.denoise(state.x, 1.0, state)
    prior = PerpendicularPrior(1.5)
    prior.bind([GaussianPrior(plane="axial"), GaussianPrior(plane="coronal")])
    with raises(ConfigError, where="prior#K", got=1.5):
        prior.planes_at(0)


def test_the_law_kit_finds_a_prior_that_counts_its_own_steps() -> None:
    class Forgetful(PerpendicularPrior):
        calls = 0

        def planes_at(self, step: int) -> tuple[int, ...]:
            self.calls += 1
            return (self.calls % 2,)

    with pytest.raises(AssertionError, match=r"depends on the order|planes_at says"):
        check_prior(Forgetful)


def test_the_primary_plane_may_be_named_whatever_the_order_of_the_bundles() -> None:
    """The named plane goes first; a plane without a network is an error that lists those there are."""
    planes = [GaussianPrior(plane="axial"), GaussianPrior(plane="coronal")]
    prior = PerpendicularPrior(K=3, primary="coronal")
    prior.bind(planes)
    assert [p.plane for p in prior.planes] == ["coronal", "axial"]
    with raises(ConfigError, where="prior#primary", got="sagittal"):
        PerpendicularPrior(primary="sagittal").bind(planes)


def turns(prior: PerpendicularPrior, steps: int) -> str:
    return "".join(prior.planes[prior.planes_at(i)[0]].plane[0] for i in range(steps))


def test_several_primary_planes_take_turns() -> None:
    planes = [GaussianPrior(plane=p) for p in ("axial", "coronal", "sagittal")]
    prior = PerpendicularPrior(K=4, primary=["coronal", "sagittal"])
    prior.bind(planes)
    assert turns(prior, 12) == "cscascsacsca"
    prior = PerpendicularPrior(K=3, primary=["coronal", "sagittal", "axial"])
    prior.bind(planes)
    assert turns(prior, 6) == "csacsa"  # no plane is auxiliary: K has nothing to give away


def test_a_plane_without_a_network_shares_one() -> None:
    coronal, axial = GaussianPrior(mean=1.0, plane="coronal"), GaussianPrior(mean=2.0, plane="axial")
    prior = PerpendicularPrior(K=5, primary=["coronal", "sagittal"], share={"sagittal": "coronal"})
    prior.bind([axial, coronal])
    assert [p.plane for p in prior.planes] == ["coronal", "sagittal", "axial"]
    assert turns(prior, 10) == "cscsacscsa"
    sagittal = prior.planes[1]
    assert isinstance(sagittal, GaussianPrior)
    assert (sagittal.mean, coronal.plane) == (1.0, "coronal")
    alone = PerpendicularPrior(share={"sagittal": "coronal"})
    alone.bind([coronal])  # one bundle serves two planes
    assert [p.plane for p in alone.planes] == ["coronal", "sagittal"]


def test_a_network_of_its_own_comes_before_a_shared_one() -> None:
    planes = [GaussianPrior(plane="coronal"), GaussianPrior(mean=7.0, plane="sagittal")]
    prior = PerpendicularPrior(share={"sagittal": "coronal", "axial": "axial"})
    prior.bind(planes)
    assert prior.planes == tuple(planes)


def test_what_is_shared_must_be_planes() -> None:
    with raises(ConfigError, where="prior#share", got="'oblique'"):
        PerpendicularPrior(share={"oblique": "axial"})
    with raises(ConfigError, where="prior#share", got="'oblique'"):
        PerpendicularPrior(share={"sagittal": "oblique"})


class Recorded(GaussianPrior):
    """Keeps what it is given."""

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        self.given = (x, sigma)
        return super().__call__(x, sigma)


def test_networks_see_the_mean_of_neighbours_and_its_noise_level() -> None:
    prior = PerpendicularNeighboursPrior(primary=PLANES, width=2.0, widest=3.0)
    planes = [Recorded(plane=p) for p in PLANES]
    prior.bind(planes)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 20, 22, 24)))
    for step, (axis, sigma) in enumerate(((3, 0.5), (2, 40.0), (1, 0.02))):
        prior.denoise(x, sigma, SamplerState(x=x, sigma=sigma, step=step))
        width = {0.5: 2.0 * 0.5**0.6, 40.0: 3.0, 0.02: 0.0}[sigma]  # 0.19 of a slice is the slice itself
        seen, level = planes[step].given
        expected = gaussian_filter1d(x.numpy(), width, axis=axis, mode="nearest") if width else x.numpy()
        np.testing.assert_allclose(seen, expected, atol=1e-6)
        impulse = np.zeros(41)
        impulse[20] = 1.0
        kernel = gaussian_filter1d(impulse, width) if width else impulse
        assert level == pytest.approx(sigma * np.sqrt(np.sum(kernel**2)), rel=1e-5)


def test_a_mean_over_neighbours_needs_sensible_widths() -> None:
    for options in ({"width": -1.0}, {"widest": float("nan")}):
        with raises(ConfigError, where=f"prior#{next(iter(options))}"):
            PerpendicularNeighboursPrior(**options)
