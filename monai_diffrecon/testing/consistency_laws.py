# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What every consistency step must obey."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from monai_diffrecon.protocols import ConsistencyStep, Problem, SamplerState


def check_consistency(
    make: Callable[[], ConsistencyStep],
    problem: Problem,
    x0: Tensor,
    *,
    sigma: float = 0.1,
    reduces_residual: bool = True,
) -> None:
    """Check the laws.

    Both hooks keep shape and type, leave their arguments and the tensors in memory alone, and depend on the state
    only: a step from a copied state, by a new plugin, gives the same voxels. Memory holds tensors.

    Args:
        make: returns a new consistency step, not bound.
        problem: a small problem.
        x0: a clean estimate (C, X, Y, Z) that does not explain the measurement.
        sigma: noise level.
        reduces_residual: ``on_estimate`` must bring ``||A x - y||`` down.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    step = make()
    step.bind(problem)
    state = SamplerState(x=x0.clone(), sigma=sigma)
    first = x0.clone()
    estimate = step.on_estimate(first, state)
    assert torch.equal(first, x0), "on_estimate changes its argument in place"
    _same_kind(estimate, x0, "on_estimate")
    if reduces_residual:
        before, after = _residual(problem, x0), _residual(problem, estimate)
        assert after < before, f"on_estimate raises the residual from {before:.6g} to {after:.6g}"
    iterate = step.on_iterate(first, state)
    assert torch.equal(first, x0), "on_iterate changes its argument in place"
    _same_kind(iterate, x0, "on_iterate")
    for key, kept in state.memory.items():
        for name, value in kept.items():
            assert isinstance(value, Tensor), f"memory[{key!r}][{name!r}] is no tensor, a checkpoint cannot hold it"
    # What a restart does: the same state, a new plugin.
    restored, other = copy.deepcopy(state), make()
    other.bind(problem)
    held = {(k, n): (v, v.clone()) for k, kept in state.memory.items() for n, v in kept.items()}
    again, elsewhere = step.on_estimate(estimate, state), other.on_estimate(estimate.clone(), restored)
    assert torch.equal(again, elsewhere), "on_estimate depends on more than the state"
    for (key, name), (value, before_step) in held.items():
        assert torch.equal(value, before_step), f"the tensor memory[{key!r}][{name!r}] is changed in place"
    assert state.memory.keys() == restored.memory.keys(), "memory depends on more than the state"
    for key, kept in state.memory.items():
        for name, value in kept.items():
            assert torch.equal(value, restored.memory[key][name]), f"memory[{key!r}][{name!r}] depends on more"


def _same_kind(got: Tensor, expected: Tensor, hook: str) -> None:
    assert got.shape == expected.shape, f"{hook} changes the shape to {tuple(got.shape)}"
    assert got.dtype == expected.dtype, f"{hook} changes the type to {got.dtype}"
    assert bool(torch.isfinite(torch.view_as_real(got) if got.is_complex() else got).all()), f"{hook} is not finite"


def _residual(problem: Problem, x: Tensor) -> float:
    return float(torch.linalg.vector_norm(problem.operator(x) - problem.measurement))
