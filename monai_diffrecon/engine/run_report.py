# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The report of one reconstruction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from monai_diffrecon.protocols import VolumeGeometry


@dataclass
class RunReport:
    """Results and conditions of one reconstruction.

    Attributes:
        seconds: total wall time; this and the following counts are over all samples.
        start_seconds: wall time of the start (classical estimate, error estimate).
        denoiser_seconds: wall time inside the score prior.
        denoiser_calls: passes over all slices of a plane.
        network_calls: batches of slices passed through a network.
        ladder: the sigma schedule of the first sample, network units.
        steps: one row per step of the first sample: step, sigma, residual.
        scale: physical units of one network unit.
        offset: physical value of network zero.
        seed: seed of the noise source.
        options: the resolved operator, prior, consistency and sampler.
        weights: bundle name -> sha256.
        distributions: names of the distributions whose plugins took part.
        unit: unit of the volume's intensity.
        source_sha256: hash of the measurement's source file or volume, or None.
        fallbacks: fallbacks used, as text.
        inferer: the options of the inferer that are not plugins.
        execution: where it ran: threads, device, instruction set, slices per network call for each plane, and how
            often the run was resumed from a checkpoint.
        notices: notices for the user of the result, one sentence each.
        phase: global phase (radians) removed from the measurement.
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
    """Total cost of several samples; sigma schedule and steps are those of the first."""

    start_seconds: float = 0.0
    denoiser_seconds: float = 0.0
    denoiser_calls: int = 0
    network_calls: int = 0
    ladder: tuple[float, ...] = ()
    steps: list[dict[str, float]] = field(default_factory=list)

    def __add__(self, other: RunTotals) -> RunTotals:
        """Return the totals including one more sample."""
        first = self if self.ladder else other
        return RunTotals(
            self.start_seconds + other.start_seconds,
            self.denoiser_seconds + other.denoiser_seconds,
            self.denoiser_calls + other.denoiser_calls,
            self.network_calls + other.network_calls,
            first.ladder,
            first.steps,
        )


@dataclass(frozen=True)
class PosteriorSpread:
    """Voxel-wise spread of samples around their mean.

    The deviation d of each sample is split into ``A^+ A d``, which a noise-free measurement would determine, and the
    rest, which the operator A does not see and only the prior determines.

    Attributes:
        count: number of samples.
        std: standard deviation (n - 1), (C, X, Y, Z), real, in the volume's unit.
        std_measured: that of the part that A sees.
        std_null: that of the part that A does not see.
        samples: the samples themselves, or none.
    """

    count: int
    std: Tensor
    std_measured: Tensor
    std_null: Tensor
    samples: tuple[Tensor, ...] = ()

    def in_units(self, scale: float, convert: Callable[[Tensor], Tensor]) -> PosteriorSpread:
        """Return the spread in other units: deviations times ``scale``, samples by ``convert``."""
        return replace(
            self,
            std=self.std * scale,
            std_measured=self.std_measured * scale,
            std_null=self.std_null * scale,
            samples=tuple(convert(sample) for sample in self.samples),
        )


@dataclass
class Reconstruction:
    """A reconstructed volume.

    Attributes:
        volume: (C, X, Y, Z) in physical units; of several samples, their mean.
        geometry: its geometry.
        report: the report.
        spread: the spread of several samples, or None for one.
    """

    volume: Tensor
    geometry: VolumeGeometry
    report: RunReport
    spread: PosteriorSpread | None = None
