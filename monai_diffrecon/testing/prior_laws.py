# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What every score prior must obey."""

from __future__ import annotations

from collections.abc import Callable

import torch

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.protocols import SamplerState, ScorePrior
from monai_diffrecon.testing.gaussian_prior import GaussianPrior

_PLANES = ("axial", "coronal", "sagittal")


def check_prior(make: Callable[[], ScorePrior], *, steps: int = 12) -> None:
    """Check the laws.

    ``bind`` refuses the wrong number of planes and one plane twice; ``planes_at`` says which networks are called, and
    says the same in any order and after a restart; shape and type are kept, the input is left alone, and gradients
    run through; a complex volume, which the plane denoisers take, stays complex.

    Args:
        make: returns a new prior, not bound.
        steps: number of steps to try.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    prior = make()
    fewest, most = prior.min_planes, min(prior.max_planes or len(_PLANES), len(_PLANES))
    _refuses(make(), [GaussianPrior(plane=p) for p in _PLANES[: fewest - 1]], "too few planes")
    if prior.max_planes is not None and prior.max_planes < len(_PLANES):
        _refuses(make(), [GaussianPrior(plane=p) for p in _PLANES[: most + 1]], "too many planes")
    if most > 1:
        _refuses(make(), [GaussianPrior(plane="axial")] * max(2, fewest), "one plane twice")
    for count in range(fewest, most + 1):
        _check_bound(make, count, steps)
        _check_complex(make, count)


def _refuses(prior: ScorePrior, planes: list[GaussianPrior], what: str) -> None:
    try:
        prior.bind(planes, IndependentNoise(0))
    except ConfigError:
        return
    raise AssertionError(f"bind accepts {what}")


def _check_bound(make: Callable[[], ScorePrior], count: int, steps: int) -> None:
    prior, other = make(), make()
    # Each plane has a mean of its own, so that a wrong one shows.
    planes = [GaussianPrior(mean=0.2 * i, plane=p) for i, p in enumerate(_PLANES[:count])]
    prior.bind(planes, IndependentNoise(3, "case"))
    other.bind([GaussianPrior(mean=p.mean, plane=p.plane) for p in planes], IndependentNoise(3, "case"))
    x = torch.rand((1, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    copy = x.clone()
    backwards = {step: other.planes_at(step) for step in reversed(range(steps))}
    for step in range(steps):
        said = prior.planes_at(step)
        assert said, f"planes_at({step}) is empty"
        assert len(set(said)) == len(said), f"planes_at({step}) names a plane twice: {said}"
        assert set(said) <= set(range(count)), f"planes_at({step}) names a plane that is not bound: {said}"
        assert said == backwards[step], f"planes_at({step}) depends on the order of the steps"
        before = [p.calls for p in planes]
        state = SamplerState(x=x, sigma=0.3, step=step)
        estimate = prior.denoise(x, 0.3, state)
        called = tuple(i for i, p in enumerate(planes) if p.calls > before[i])
        assert called == tuple(sorted(said)), f"step {step}: planes_at says {said}, called are {called}"
        assert estimate.shape == x.shape, f"the shape changes to {tuple(estimate.shape)}"
        assert estimate.dtype == x.dtype, f"the type changes to {estimate.dtype}"
        assert torch.equal(estimate, other.denoise(x, 0.3, state)), f"step {step} depends on earlier steps"
    assert torch.equal(x, copy), "the input is changed in place"
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        prior.denoise(leaf, 0.3, SamplerState(x=leaf, sigma=0.3)).sum().backward()
    assert leaf.grad is not None, "no gradient runs through"
    assert bool(leaf.grad.abs().sum() > 0), "no gradient runs through"


def _check_complex(make: Callable[[], ScorePrior], count: int) -> None:
    prior, parts = make(), make()
    for bound in (prior, parts):
        planes = [GaussianPrior(mean=0.0, std=0.1 + 0.2 * i, plane=_PLANES[i]) for i in range(count)]
        bound.bind(planes, IndependentNoise(3, "case"))
    x = torch.randn((1, 4, 5, 6), generator=torch.Generator().manual_seed(0), dtype=torch.complex64)
    got = prior.denoise(x, 0.3, SamplerState(x=x, sigma=0.3))
    assert got.dtype == x.dtype, f"the type of a complex volume changes to {got.dtype}"
    real, imaginary = (parts.denoise(part, 0.3, SamplerState(x=part, sigma=0.3)) for part in (x.real, x.imag))
    error = float((got - torch.complex(real, imaginary)).abs().max())
    assert error <= 1e-5, f"linear planes: a complex volume is not its two parts, but off by {error:.3g}"
