# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The engine of one sample, put together from an inferer's options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from monai_diffrecon import registry
from monai_diffrecon.engine import composition
from monai_diffrecon.engine.batched_plane_denoiser import BatchedPlaneDenoiser
from monai_diffrecon.engine.complex_plane_denoiser import planes_for
from monai_diffrecon.engine.non_finite_guard import NonFiniteGuard
from monai_diffrecon.engine.progress_bar import ProgressBar
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.protocols import Problem

if TYPE_CHECKING:
    from monai_diffrecon.engine.inferer import DiffReconInferer


def build_engine(
    inferer: DiffReconInferer,
    problem: Problem,
    network: nn.Module | None,
    case: str,
    index: int,
    handlers: Sequence[Any],
    mend: composition.SpacingMend | None = None,
) -> ReconstructionEngine:
    """Return the engine of one sample, with its handlers.

    Args:
        inferer: whose plugins and options they are.
        problem: the inverse problem, in network units.
        network: the primary network; None takes the bundle's.
        case: name of the sample's case, part of the noise's key.
        index: index of the sample.
        handlers: between the guard and the progress bar.
        mend: what to do about voxels of another size than the networks', see ``composition.check_spacing``.
    """
    specs = inferer.specs
    noise = composition.build_noise(specs["noise"], inferer.seed, case)
    sampler = composition.build_sampler(specs["sampler"])
    prior = None
    if sampler.calls_network:
        scores, operator = (inferer.score, *inferer.auxiliaries), problem.operator
        prior = composition.build_prior(specs["prior"])
        prior.observe(operator)
        prior.bind(planes_for(operator, _plane_denoisers(inferer, network), scores, inferer.complex), noise)
        for plane in prior.planes:
            composition.check_shared_spacing(
                scores, plane.plane, operator.geometry, inferer.spacing_tolerance, operator.thick_plane, mend
            )
    consistency = composition.build_consistency(specs["consistency"])
    engine = ReconstructionEngine(problem, prior, consistency, sampler, noise)
    label = "reconstruct" if inferer.num_samples == 1 else f"sample {index + 1} of {inferer.num_samples}"
    bar = ProgressBar(label, disable=None if inferer.progress is None else not inferer.progress)
    for handler in (NonFiniteGuard(), *handlers, bar):
        handler.attach(engine)
    return engine


def _plane_denoisers(inferer: DiffReconInferer, network: nn.Module | None) -> list[BatchedPlaneDenoiser]:
    planes = []
    for score in (inferer.score, *inferer.auxiliaries):
        net = network if network is not None and score is inferer.score else score.network
        denoiser = registry.build(
            "denoisers", score.denoiser, where=f"bundle {score.name}, diffrecon#denoiser", network=net
        )
        planes.append(
            BatchedPlaneDenoiser(
                denoiser,
                score.plane,
                batch_size=inferer.sw_batch_size,
                window=inferer.window if inferer.window is not None else score.window,
                overlap=inferer.overlap,
                device=inferer.device,
                precision=inferer.precision,
                name=score.name,
            )
        )
    return planes
