# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What every sampler must obey."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.protocols import ConsistencyStep, Denoise, Problem, Sampler, SamplerState


def run(
    sampler: Sampler,
    problem: Problem,
    denoise: Denoise,
    consistency: ConsistencyStep,
    *,
    seed: int = 0,
    sigma_min: float = 1e-3,
    sigma_max: float = 10.0,
) -> SamplerState:
    """Run a sampler as the engine does, and return the last state."""
    noise = IndependentNoise(seed, "case")
    with torch.no_grad():
        consistency.bind(problem)
        sampler.prepare(problem, sigma_min=sigma_min, sigma_max=sigma_max)
        state = sampler.begin(noise, seed=seed, case="case")
        for _ in sampler.schedule(state):
            state = sampler.step(state, denoise, consistency, noise)
    return state


def check_sampler(
    make: Callable[[], Sampler],
    problem: Problem,
    denoise: Denoise,
    make_consistency: Callable[[], ConsistencyStep],
    *,
    sigma_min: float = 1e-3,
    sigma_max: float = 10.0,
) -> None:
    """Check the laws.

    The sigma schedule does not rise, stays within the networks' range and within the state; every step counts itself,
    keeps the volume's shape, type and finiteness, and leaves the state it was given alone, so that it can be repeated;
    a run that was interrupted after any step, and continued from a copy of its state by new plugins, gives the same
    voxels, bit for bit.

    Args:
        make: returns a new sampler.
        problem: a small problem.
        denoise: the score prior.
        make_consistency: returns a new consistency step.
        sigma_min: smallest noise level of the prior.
        sigma_max: largest noise level of the prior.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    noise = IndependentNoise(5, "case")

    def prepared() -> tuple[Sampler, ConsistencyStep]:
        sampler, consistency = make(), make_consistency()
        consistency.bind(problem)
        sampler.prepare(problem, sigma_min=sigma_min, sigma_max=sigma_max)
        return sampler, consistency

    with torch.no_grad():
        sampler, consistency = prepared()
        state = sampler.begin(noise, seed=5, case="case")
        assert (state.step, state.seed, state.case) == (0, 5, "case"), "begin does not keep step, seed and case"
        ladder = sampler.schedule(state)
        assert all(a >= b for a, b in pairwise(ladder)), f"the sigma schedule rises: {ladder}"
        if sampler.calls_network:
            within = all(sigma_min * (1 - 1e-6) <= level <= sigma_max * (1 + 1e-6) for level in ladder)
            assert within, f"the sigma schedule leaves {sigma_min:g} to {sigma_max:g}: {ladder}"
        saved = [copy.deepcopy(state)]
        for i in range(len(ladder)):
            given, before = state, copy.deepcopy(state)
            state = sampler.step(given, denoise, consistency, noise)
            assert _equal(given, before), f"step {i} changes the state it was given; it must return a new one"
            assert state.step == i + 1, f"after step {i} the state counts {state.step}"
            assert state.x.shape == given.x.shape, f"step {i} changes the shape"
            assert state.x.dtype == given.x.dtype, f"step {i} changes the type"
            assert bool(torch.isfinite(_real(state.x)).all()), f"not finite after step {i}"
            assert sampler.schedule(state) == ladder, f"the sigma schedule changes at step {i}"
            for kept in state.memory.values():
                assert all(isinstance(value, Tensor) for value in kept.values()), "memory holds more than tensors"
            saved.append(copy.deepcopy(state))
        for i, restored in enumerate(saved[:-1]):
            sampler, consistency = prepared()
            continued = restored
            for _ in range(i, len(ladder)):
                continued = sampler.step(continued, denoise, consistency, noise)
            assert _equal(continued, state), f"continued after step {i}, the run ends elsewhere"


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _equal(a: SamplerState, b: SamplerState) -> bool:
    same = (a.sigma, a.step, a.seed, a.case) == (b.sigma, b.step, b.seed, b.case) and torch.equal(a.x, b.x)
    if not same or a.memory.keys() != b.memory.keys():
        return False
    return all(
        a.memory[key].keys() == b.memory[key].keys()
        and all(torch.equal(value, b.memory[key][name]) for name, value in a.memory[key].items())
        for key in a.memory
    )
