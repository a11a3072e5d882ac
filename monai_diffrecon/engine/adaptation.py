# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Adapts copies of the networks to one measurement before it is reconstructed."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from monai_diffrecon import distributed
from monai_diffrecon.engine.adaptation_option import Adaptation
from monai_diffrecon.engine.devices.placement import problem_on
from monai_diffrecon.engine.planes.batched_plane_denoiser import innermost
from monai_diffrecon.engine.problem.held_out import HeldOutOperator, held_out_entries
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine, StepEvents
from monai_diffrecon.engine.self_validation import held_out_residual, middle
from monai_diffrecon.engine.slab_problem import slab_plane
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.noise import keyed_uniform
from monai_diffrecon.protocols import PLANE_AXIS, PlaneDenoiser, Problem

logger = logging.getLogger(__name__)

#: Most steps of the reconstruction whose slices are kept to learn from.
_KEPT = 12
#: Parts of what the network has learnt that are tried in the loop.
MIXES = (0.0, 0.1, 0.3, 1.0)
_WHERE = "inferer#adaptation"


def adapted(case: PosedCase, known: Mapping[str, Any] | None = None) -> tuple[PosedCase, dict[str, Any]]:
    """Return a case whose networks are copies, adapted to its measurement, and what the adaptation found.

    Test-time adaptation by measurement splitting (of diffusion priors: D3IP, arXiv 2407.10641; splitting: SSDU, Yaman
    et al. 2020, doi 10.1002/mrm.28378): the middle of the volume is reconstructed without a part of the measurement.
    From the slices that the networks got on the way, the last layers learn to predict the measurement. What is
    learnt from the loop's errors may make the loop diverge, so parts of the change are tried in it, none among them,
    and the one is taken that predicts best another part of the measurement. The network is shared by the volume.

    Args:
        case: the case.
        known: what an interrupted run found, or empty.

    Returns:
        The case; and ``mixes`` (the parts), ``residuals`` (of each; None where it diverged), ``chosen``, and
        ``weights`` (those that changed), or nothing without an adaptation.

    Raises:
        ConfigError: the operator couples the slices of every plane, or no network denoises those that it leaves apart.
        InputError: nothing can be held out.
    """
    how = case.recipe.adaptation
    if how is None or not case.recipe.calls_network:
        return case, {}
    networks = [copy.deepcopy(network) for network in case.networks]
    other = case.with_networks(networks)
    found = dict(known or {}) or distributed.from_first(_found(other, how, networks))
    if not found["chosen"]:
        logger.warning("the adaptation to this measurement does not predict better: the networks stay as they are")
        return case, found
    for network, weights in zip(networks, found["weights"], strict=True):
        for name, weight in weights.items():
            network.get_parameter(name).data.copy_(weight)
    return other, found


@dataclass
class _Lesson:
    """Slices with what was held out of their measurement."""

    plane: PlaneDenoiser
    name: str
    problem: Problem
    held: Tensor
    given: list[tuple[Tensor, float]]

    def residual(self, index: int, first: int, end: int) -> Tensor:
        """Return the squared relative residuals of some slices from one step, of held-out and of other entries, summed.

        Held-out entries alone say nothing of low frequencies, which the network would give up for them.
        """
        operator, y = self.problem.operator, self.problem.measurement
        dim, axis = 1 + PLANE_AXIS[self.name], operator.slice_axis(self.name)
        assert axis is not None
        x, sigma = self.given[index]
        part = x.to(y.device).narrow(dim, first, end - first).contiguous().requires_grad_()
        y, held = (t.narrow(axis, first, end - first) for t in (y, self.held))
        missed = (operator.restricted(self.name, first, end)(self.plane(part, sigma)) - y).abs().square()
        power = y.abs().square()
        return sum((missed[of].sum() / power[of].sum().clamp_min(1e-30) for of in (held, ~held)), missed.new_zeros(()))


def _found(case: PosedCase, how: Adaptation, networks: Sequence[nn.Module]) -> dict[str, Any]:
    lesson = _lesson(case, how)
    network = innermost(lesson.plane).denoiser.network
    if not any(one is network for one in networks):
        raise ConfigError("executes a copy of the network", where="runtime", mend='take the runtime "torch"')
    weights = last_weights(network, lambda: lesson.residual(0, 0, 1), how.layers)
    if not weights:
        raise ConfigError("a network without weights", where=_WHERE, mend="set adaptation to null")
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    _learn(lesson, how, list(weights.values()), case.recipe.seed, case.name)
    learnt = {name: weight.detach().clone() for name, weight in weights.items()}
    problem = problem_on(lesson.problem, "cpu")
    held, axis = held_out_entries(problem.operator, how.held_out, case.recipe.seed, case.name, "mix", where=_WHERE)
    residuals, mixed = [], {mix: {n: torch.lerp(w, learnt[n], mix) for n, w in before.items()} for mix in MIXES}
    for mix in MIXES:
        for name, weight in weights.items():
            weight.data.copy_(mixed[mix][name])
        residuals.append(held_out_residual(case, problem, held, axis))
        logger.info("adapted weights, part %g: residual of what was held out %.5g", mix, residuals[-1])
    taken = MIXES[residuals.index(min(residuals))]
    mine = [{n: w.cpu() for n, w in mixed[taken].items()} if one is network else {} for one in networks]
    kept = [None if math.isinf(residual) else residual for residual in residuals]
    return {"mixes": list(MIXES), "residuals": kept, "chosen": taken, "weights": mine}


def _learn(lesson: _Lesson, how: Adaptation, weights: Sequence[nn.Parameter], *key: object) -> None:
    """Change the weights."""
    count = lesson.problem.operator.volume_shape[1 + PLANE_AXIS[lesson.name]]
    patch = min(how.patch, count)
    optimizer = torch.optim.Adam(weights, lr=how.learning_rate)
    for weight in weights:
        weight.requires_grad_(True)
    try:
        for step in range(how.steps):
            index = int(keyed_uniform(*key, "adaptation", step, "step") * len(lesson.given))
            first = int(keyed_uniform(*key, "adaptation", step, "slice") * (count - patch + 1))
            optimizer.zero_grad()
            with torch.enable_grad():
                lesson.residual(index, first, first + patch).backward()
            optimizer.step()
    finally:
        for weight in weights:
            weight.requires_grad_(False)
            weight.grad = None


def _lesson(case: PosedCase, how: Adaptation) -> _Lesson:
    """Reconstruct without a part of the measurement, and keep what the networks were given on the way."""
    recipe, whole = case.recipe, case.posed.problem
    name = slab_plane(whole.operator, recipe.score.plane, "adaptation")
    problem = middle(whole, name, how.slices)
    if problem.operator.slice_axis(name) is None:
        raise _no_plane(name)
    key = (recipe.seed, case.name, "adaptation")
    held, axis = held_out_entries(problem.operator, how.held_out, *key, where=_WHERE)
    problem, held = problem_on(problem, case.volume_device), held.to(case.volume_device)
    kept = HeldOutOperator(problem.operator, held, axis)
    given = replace(problem, operator=kept, measurement=kept.whiten(problem.measurement))
    engine = recipe.engine(given, case.network, case.name, mend=case.posed.mend, progress=False)
    slices: list[tuple[Tensor, float]] = []

    def keep(engine: ReconstructionEngine) -> None:
        recon, every = engine.state.recon, -(-len(engine.ladder) // _KEPT)
        assert engine.prior is not None
        named = [engine.prior.planes[index].plane for index in engine.prior.planes_at(recon.step)]
        if (
            recon.sigma > 0.0
            and name in named
            and (not slices or recon.step % every == 0 or len(named) == len(engine.prior.planes))
        ):
            slices.append((recon.x.detach().to("cpu", copy=True), recon.sigma))
            del slices[:-_KEPT]

    engine.add_event_handler(StepEvents.DENOISED, keep)
    engine.reconstruct(seed=recipe.seed, case=case.name)
    planes = [] if engine.prior is None else [plane for plane in engine.prior.planes if plane.plane == name]
    if not planes or not slices:
        raise _no_plane(name)
    innermost(planes[0]).symmetry = 0
    return _Lesson(planes[0], name, problem, held, slices)


def _no_plane(name: str) -> ConfigError:
    return ConfigError(
        "no network denoises slices that the measurement leaves apart",
        where=_WHERE,
        expected=f"a network of the {name} plane, and a measurement of single slices",
        mend="set adaptation to null",
    )


def last_weights(network: nn.Module, call: Any, share: float) -> dict[str, nn.Parameter]:
    """Return weights from the last layer back, in the order in which a call uses the layers.

    Args:
        network: the network.
        call: calls it.
        share: part of all its weights; the layer in which it is reached is the first to change.
    """
    order: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *given, name=name: order.append(name))
        for name, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    with torch.no_grad():
        call()
    for hook in hooks:
        hook.remove()
    total, found = sum(weight.numel() for weight in network.parameters()), {}
    for name in dict.fromkeys(reversed(order)):
        for own, weight in network.get_submodule(name).named_parameters(recurse=False):
            found[f"{name}.{own}" if name else own] = weight
        if sum(weight.numel() for weight in found.values()) >= share * total:
            break
    return found
