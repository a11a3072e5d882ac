# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Tunes one option for a measurement by held-out parts of it, without the truth."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from monai_diffrecon import distributed
from monai_diffrecon.engine.devices.placement import problem_on
from monai_diffrecon.engine.problem.held_out import HeldOutOperator, held_out_entries
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.slab_problem import problem_of, slab_plane
from monai_diffrecon.engine.tuned_option import TunedOption
from monai_diffrecon.errors import ConfigError, NumericalError
from monai_diffrecon.protocols import PLANE_AXIS, Problem
from monai_diffrecon.slabs import Slab

logger = logging.getLogger(__name__)


def tuned(case: PosedCase, known: Mapping[str, Any] | None = None) -> tuple[PosedCase, dict[str, Any]]:
    """Return a case with the candidate that predicts best what it was not given, and what was found.

    A part of the measurement is held out, the middle of the volume is reconstructed from the rest with each
    candidate, and the one whose volume has the smallest residual on the held-out part is taken (self-validation:
    Yaman et al. 2022, arXiv 2102.07737; of the data weight of a diffusion prior: arXiv 2509.09880).

    Args:
        case: the case.
        known: what an interrupted run found, or empty.

    Returns:
        The case; and for the record ``option``, ``values``, ``residuals`` (relative; None where a candidate
        diverged), ``chosen``, or nothing if nothing is tuned.

    Raises:
        ConfigError: the option changes nothing.
        InputError: nothing can be held out.
        NumericalError: all candidates diverge.
    """
    tune = case.recipe.tune
    if tune is None:
        return case, {}
    found = dict(known or {}) or _found(case, tune)
    logger.info("%s is %s, by the held-out part of the measurement", tune.option, found["chosen"])
    return case.with_recipe(case.recipe.candidate(found["chosen"])), found


def _found(case: PosedCase, tune: TunedOption) -> dict[str, Any]:
    whole = case.posed.problem
    held, axis = held_out_entries(
        middle(whole, case.recipe.score.plane, tune.slices).operator, tune.held_out, case.recipe.seed, case.name
    )
    residuals: list[float] = []
    for value in tune.values:
        candidate = case.with_recipe(case.recipe.candidate(value))
        problem = middle(candidate.posed.problem, case.recipe.score.plane, tune.slices)
        residuals.append(held_out_residual(candidate, problem, held, axis))
        logger.info("%s %s: residual of what was held out %.5g", tune.option, value, residuals[-1])
    residuals = distributed.from_first(residuals)
    best = min(residuals)
    if best == max(residuals):
        if math.isinf(best):
            raise NumericalError("every candidate diverges", where=tune.option, got=list(tune.values))
        raise ConfigError(
            "the option changes nothing",
            where=tune.option,
            expected="candidates that give different volumes",
            got=f"a held-out residual of {best:.5g} with each",
            mend="a weight of the noise needs the noise: set inferer#noise_std, or tune another option",
        )
    kept = [None if math.isinf(residual) else residual for residual in residuals]
    return {**tune.described(), "residuals": kept, "chosen": tune.values[residuals.index(best)]}


def middle(problem: Problem, primary: str, slices: int | None) -> Problem:
    """Return the problem of the slices in the middle; the whole one if there are no more, or A couples them.

    Args:
        problem: the problem.
        primary: plane of the primary network, whose slices stay whole if A allows it.
        slices: most slices, or None.
    """
    if slices is None:
        return problem
    try:
        dim = 1 + PLANE_AXIS[slab_plane(problem.operator, primary)]
        count = problem.operator.volume_shape[dim]
        first = max((count - slices) // 2, 0)
        return problem if count <= slices else problem_of(problem, Slab(dim, first, first + slices, count))
    except ConfigError:  # not apart, or an operator that cannot be cut
        return problem


def held_out_residual(case: PosedCase, problem: Problem, held: torch.Tensor, axis: int | None) -> float:
    """Return the relative residual of the held-out entries after a reconstruction from the others; inf if diverged.

    Args:
        case: the options and networks.
        problem: the problem, on the CPU.
        held: the entries.
        axis: the axis of their units, or None.
    """
    operator, y = problem.operator, problem.measurement
    kept = HeldOutOperator(operator, held, axis)
    given = problem_on(replace(problem, operator=kept, measurement=kept.whiten(y)), case.volume_device)
    engine = case.recipe.engine(given, case.network, case.name, mend=case.posed.mend, progress=False)
    try:
        x = engine.reconstruct(seed=case.recipe.seed, case=case.name).x
    except NumericalError:
        return math.inf
    finally:
        operator.cpu()
    with torch.no_grad():
        missed = (operator(x.cpu()) - y)[held]
    return float(torch.linalg.vector_norm(missed) / torch.linalg.vector_norm(y[held]).clamp_min(1e-30))
