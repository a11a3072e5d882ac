# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What one reconstruction did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from monai_diffrecon.engine.posterior_samples import PosteriorSpread
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.protocols import VolumeGeometry


@dataclass
class RunReport:
    """Numbers and circumstances of one reconstruction.

    Attributes:
        seconds: wall time in all; this and the following counts are over all samples.
        start_seconds: wall time of the start (classical estimate, error estimate).
        denoiser_seconds: wall time inside the score prior.
        denoiser_calls: passes over all slices of a plane.
        network_calls: batches of slices that went through a network.
        ladder: the sigma schedule, network units; of the first sample, as are the steps.
        steps: one row a step: step, sigma, residual.
        scale: physical units of one network unit.
        offset: physical value of network zero.
        seed: seed of the noise source.
        options: the resolved operator, prior, consistency and sampler.
        weights: bundle name -> sha256.
        distributions: names of the distributions whose plugins took part.
        unit: unit of the volume's intensity.
        source_sha256: hash of the file or volume that the measurement came from, or None.
        fallbacks: what had to be done differently, in words.
        inferer: the options of the inferer that are no plugins.
        execution: where it ran: threads, device, instruction set, slices a network call for each plane, and how often
            the run went on from a checkpoint.
        notices: what whoever uses the result should know, a sentence each.
        phase: global phase (radians) that was taken out of the measurement.
        resumed_from: MLflow run of the interrupted run before this one, or None.
    """

    seconds: float
    start_seconds: float
    denoiser_seconds: float
    denoiser_calls: int
    network_calls: int
    ladder: tuple[float, ...]
    steps: list[dict[str, float]]
    scale: float
    offset: float
    seed: int
    options: dict[str, Any]
    weights: dict[str, str]
    distributions: tuple[str, ...] = ()
    unit: str = "arbitrary"
    source_sha256: str | None = None
    fallbacks: list[str] = field(default_factory=list)
    inferer: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    phase: float = 0.0
    resumed_from: str | None = None


@dataclass
class RunTotals:
    """What the runs of several samples cost together; sigma schedule and steps are those of the first."""

    start_seconds: float = 0.0
    denoiser_seconds: float = 0.0
    denoiser_calls: int = 0
    network_calls: int = 0
    ladder: tuple[float, ...] = ()
    steps: list[dict[str, float]] = field(default_factory=list)

    def add(self, engine: ReconstructionEngine, steps: list[dict[str, float]]) -> None:
        """Count one more run."""
        if not self.ladder:
            self.ladder, self.steps = engine.ladder, steps
        self.start_seconds += engine.start_seconds
        self.denoiser_seconds += engine.denoiser_seconds
        self.denoiser_calls += engine.denoiser_calls
        planes = engine.prior.planes if engine.prior is not None else ()
        self.network_calls += sum(getattr(plane, "network_calls", 0) for plane in planes)


@dataclass
class Reconstruction:
    """A reconstructed volume.

    Attributes:
        volume: (C, X, Y, Z) in physical units; of several samples, their mean.
        geometry: where it lies.
        report: what was done.
        spread: how far several samples spread, or None for one.
    """

    volume: Tensor
    geometry: VolumeGeometry
    report: RunReport
    spread: PosteriorSpread | None = None
