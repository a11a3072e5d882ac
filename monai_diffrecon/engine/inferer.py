# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The MONAI inferer that reconstructs a volume from a measurement."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from uuid import uuid4

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_diffrecon import registry
from monai_diffrecon.bundle import ScoreNetwork
from monai_diffrecon.engine import composition
from monai_diffrecon.engine.batched_plane_denoiser import PRECISIONS
from monai_diffrecon.engine.build_engine import build_engine
from monai_diffrecon.engine.complex_plane_denoiser import MODES
from monai_diffrecon.engine.floor_padding import without_padding_of
from monai_diffrecon.engine.memory_estimate import MemoryEstimate, estimate_memory, network_memory
from monai_diffrecon.engine.network_units import (
    background_notices,
    check_fits,
    check_modality,
    classical_map,
    intensity_map,
    to_network_units,
)
from monai_diffrecon.engine.nonnegative import is_magnitude, nonnegative
from monai_diffrecon.engine.outlier_hiding import hide_outliers
from monai_diffrecon.engine.phase_of_data import without_phase
from monai_diffrecon.engine.plane_notice import plane_notice
from monai_diffrecon.engine.plugin_objects import described, object_notice, plugin_of
from monai_diffrecon.engine.posterior_samples import check_can_sample
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.engine.run_checkpoint import RunCheckpoint
from monai_diffrecon.engine.run_identity import run_identity
from monai_diffrecon.engine.run_report import Reconstruction, RunReport
from monai_diffrecon.engine.sample_runner import SampleRunner, circumstances
from monai_diffrecon.engine.spacing_mend import spacing_mend
from monai_diffrecon.engine.step_metrics import StepMetrics
from monai_diffrecon.engine.volume_units import unit_map
from monai_diffrecon.engine.whitened_operator import WhitenedOperator
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.io.measurement import affine_of, check_finite, from_tensor
from monai_diffrecon.io.score_metadata import check_window
from monai_diffrecon.numerics.device_option import check_device
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.numerics.option_checks import check_choice, check_flag, check_integer, check_number
from monai_diffrecon.numerics.padding import with_padding
from monai_diffrecon.protocols import ConsistencyStep, Measurement, Operator, Problem, Sampler, VolumeGeometry
from monai_diffrecon.tracking.versions import versions_of

logger = logging.getLogger(__name__)


class _Posed(NamedTuple):
    """The inverse problem of a scan, in network units, and what it was made of."""

    measured: Measurement
    spec: dict[str, Any]
    operator: Operator
    acted: IntensityMap
    intensity: IntensityMap
    problem: Problem
    sampler: Sampler
    scores: tuple[ScoreNetwork, ...]
    hidden: Tensor | None
    phase: float
    mend: composition.SpacingMend | None


class DiffReconInferer(Inferer):
    """Reconstructs a volume from a measurement; all physics is reachable from here.

    ``inferer(inputs, network)`` is MONAI's contract, so one bundle serves ``monai.bundle run``, MONAI Label and
    MONAI Deploy. Plugins are given as ``{"name": ..., **options}`` and looked up in the registry, built-in or
    third-party alike. The name may be a class; an instance is taken as it is; both may be nested. A run with an object
    that is no registered class cannot be resumed or repeated from its record, and a notice says so.

    Args:
        score: the primary network with its metadata.
        operator: spec of the forward operator.
        prior: spec of the score prior.
        consistency: spec of the consistency step.
        sampler: spec of the sampler.
        auxiliaries: networks of other planes.
        noise: spec of the noise source.
        sw_batch_size: slices a network call.
        window: largest slice (height, width) in one piece; None takes the bundle's.
        overlap: overlap of windows.
        seed: seed of the noise source.
        noise_std: noise of the measurement, in its own units; None takes what the measurement says, else 0.
        spacing_tolerance: largest relative difference of voxel size from the training data's.
        device: where the networks compute; None: where their weights are.
        precision: ``float32``, or ``bfloat16`` or ``float16`` for the products inside the networks.
        complex: how complex volumes are denoised: ``phase`` (a smooth phase and a prior of magnitudes) or ``channels``
            (real and imaginary part). Real volumes do not care.
        num_samples: samples of the posterior, drawn one after the other; of 2 or more the result is the mean, and comes
            with its spread. The first is the volume of a run of one.
        keep_samples: hand over every sample too.
        progress: show a progress bar; None: on a terminal only.
        handlers: further handlers with ``attach(engine)`` for the reconstruction engine.

    Raises:
        ConfigError: an option of the wrong type, or out of its range.
    """

    def __init__(
        self,
        score: ScoreNetwork,
        operator: Any,
        prior: Any = "slices",
        consistency: Any = "conjugate_gradient",
        sampler: Any = "pnp_hqs",
        auxiliaries: Sequence[ScoreNetwork] = (),
        *,
        noise: Any = "independent",
        sw_batch_size: int = 8,
        window: Sequence[int] | None = None,
        overlap: float = 0.25,
        seed: int = 0,
        noise_std: float | None = None,
        spacing_tolerance: float = 0.05,
        device: torch.device | str | None = None,
        precision: str = "float32",
        complex: str = "phase",
        num_samples: int = 1,
        keep_samples: bool = False,
        progress: bool | None = None,
        handlers: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        self.score, self.auxiliaries = score, tuple(auxiliaries)
        self.specs = {
            "operator": composition.as_spec(operator, "operator"),
            "prior": composition.as_spec(prior, "prior"),
            "consistency": composition.as_spec(consistency, "consistency"),
            "sampler": composition.as_spec(sampler, "sampler"),
            "noise": composition.as_spec(noise, "noise"),
        }
        self.sw_batch_size = check_integer(sw_batch_size, "inferer#sw_batch_size", low=1)
        self.window = check_window(window, "inferer#window")
        self.overlap = check_number(overlap, "inferer#overlap", low=0.0, high=0.99)
        self.seed = check_integer(seed, "seed", low=0)
        self.noise_std = None if noise_std is None else check_number(noise_std, "inferer#noise_std", low=0.0)
        self.spacing_tolerance = check_number(spacing_tolerance, "inferer#spacing_tolerance", low=0.0)
        self.device = check_device(device, "inferer#device")
        self.progress = None if progress is None else check_flag(progress, "inferer#progress")
        self.handlers = tuple(handlers)
        self.precision = check_choice(precision, "inferer#precision", PRECISIONS)
        self.complex = check_choice(complex, "inferer#complex", MODES)
        self.num_samples = check_integer(num_samples, "inferer#num_samples", low=1)
        self.keep_samples = check_flag(keep_samples, "inferer#keep_samples")
        # Mistyped options are errors now, not after the scan was read.
        if composition.build_prior(self.specs["prior"]).max_planes == 1:
            self.auxiliaries = ()  # those that lie beside the bundle come without being asked for
        composition.build_consistency(self.specs["consistency"])
        check_can_sample(
            composition.build_sampler(self.specs["sampler"]),
            composition.build_noise(self.specs["noise"], self.seed, ""),
            self.specs,
            self.num_samples,
        )
        registry.check_options("operators", plugin_of(self.specs["operator"]), where="operator", context=("geometry",))
        self._object_notice = object_notice(self.specs)
        self._objects = {"objects": uuid4().hex} if self._object_notice else {}

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Reconstruct a batch of measurements (B, ...) and return the volumes (B, 1, X, Y, Z).

        Args:
            inputs: measurements; an image carries its affine, anything else its volume's geometry, in the
                metadata of a ``MetaTensor``.
            network: the primary network.
            args: not accepted; MONAI's signature has them.
            kwargs: not accepted.

        Raises:
            ConfigError: arguments that no one would read.
        """
        if args or kwargs:
            raise ConfigError(
                "takes inputs and network only",
                where="inferer",
                got=[*map(repr, args), *kwargs],
                mend="set options in the config",
            )
        volumes = []
        for item in inputs:
            done = self.reconstruct(item, network)
            volumes.append(MetaTensor(done.volume, affine=torch.as_tensor(affine_of(done.geometry))))
        return torch.stack(volumes)

    def _pose(self, measurement: Tensor) -> _Posed:
        """Pose the inverse problem; whatever is wrong with the scan is refused here, or when its engine is prepared."""
        measured = self._understand(measurement)
        spec, geometry, y = measured.operator, measured.geometry, measured.data
        assert spec is not None
        operator = composition.build_operator(spec, geometry)
        check_fits(y, operator, f"operator {spec['name']}")
        noise_std = measured.noise_std
        sampler = composition.build_sampler(self.specs["sampler"])
        hidden, notices = None, measured.notices
        if sampler.calls_network:
            check_modality(self.score, measured)
            notices += composition.family_notice(self.specs["operator"], operator)
            y, hidden, found = hide_outliers(operator, y)
            notices += found
        if measured.weights is not None:
            operator = WhitenedOperator(operator, measured.weights)
            y, noise_std = operator.whiten(y), operator.noise_std(noise_std)
        phase = 0.0
        if not measured.simulated:
            y, phase, found = without_phase(operator, y, noise_std)
            notices += found
        # Two maps of the same network units: to what the operator acts on, and to the unit of the volume.
        units = partial(intensity_map, self.score) if sampler.calls_network else classical_map
        acted = units(operator, y, measured.unit)
        if sampler.calls_network:
            notices += background_notices(self.score, operator, y, acted)
        intensity = acted.then(unit_map(operator, measured.unit))
        problem = Problem(operator, to_network_units(operator, y, acted), noise_std / acted.scale)
        scores = (self.score, *self.auxiliaries) if sampler.calls_network else ()
        # An image can be resampled, and what was simulated from one within this run.
        own = from_tensor(measurement).operator is not None and not measured.simulated
        mend = partial(spacing_mend, operator) if own else None
        for score in scores:
            composition.check_spacing(score, geometry, self.spacing_tolerance, operator.thick_plane, mend)
        measured = replace(measured, notices=notices)
        return _Posed(measured, spec, operator, acted, intensity, problem, sampler, scores, hidden, phase, mend)

    def reconstruct(
        self,
        measurement: Tensor,
        network: nn.Module | None = None,
        *,
        case: str = "",
        handlers: Sequence[Any] = (),
        checkpoint: RunCheckpoint | None = None,
        run_id: str | None = None,
    ) -> Reconstruction:
        """Reconstruct one measurement.

        Args:
            measurement: the measurement, without a batch axis.
            network: the primary network; None takes the bundle's.
            case: name of the case, part of the noise's key.
            handlers: further handlers for this run, of every sample.
            checkpoint: keeps the state of the run, and says where an interrupted one stopped. It is the caller's to
                remove when the result is safe.
            run_id: MLflow run that it is tracked in, for the checkpoint.

        Raises:
            ResumeMismatchError: the checkpoint is of another run.
        """
        started = time.perf_counter()
        posed = self._pose(measurement)
        measured, operator, sampler = posed.measured, posed.operator, posed.sampler
        notices: list[str] = []

        def warn(lines: Sequence[str]) -> None:
            for line in lines:
                logger.warning("%s", line if not case else f"case {case}: {line}")

        def tell(lines: Sequence[str]) -> None:
            warn(lines)
            notices.extend(lines)

        memory = self._memory(posed, network)
        warn(memory.check())
        tell(measured.notices)
        options = self._options(posed.spec, operator, sampler.calls_network)
        used = _used({**self.specs, "operator": posed.spec}, sampler.calls_network)
        distributions = composition.distributions_of(used, posed.scores)

        def build(sample: str, index: int, metrics: StepMetrics) -> ReconstructionEngine:
            attached = (metrics, *self.handlers, *handlers)
            engine = build_engine(self, posed.problem, network, sample, index, attached, posed.mend)
            engine.memory_needed = memory.summary()
            if index == 0:
                tell(_plane_notices(engine))
            return engine

        constraint: dict[str, float] = {}

        def finish(x: Tensor) -> Tensor:
            if sampler.calls_network and is_magnitude(posed.problem, posed.acted):
                x, found = nonnegative(posed.problem, x)
                constraint.update(found)
            return x if posed.hidden is None else x + posed.hidden / posed.acted.scale

        runner = SampleRunner(
            build,
            operator,
            count=self.num_samples,
            keep=self.keep_samples,
            seed=self.seed,
            case=case,
            checkpoint=checkpoint,
            run_id=run_id,
            finish=finish,
        )
        point = None
        if checkpoint is not None:
            noise = composition.build_noise(self.specs["noise"], self.seed, case)
            resumable = not (self._object_notice or (sampler.calls_network and not noise.resumable))
            point = checkpoint.open(self._identity(measured, case, network), resumable=resumable)
        where = circumstances(self.device, self.sw_batch_size)
        x, spread = runner.run(point, where)
        totals = runner.totals

        def finished(x: Tensor) -> Tensor:
            return with_padding(posed.intensity.to_physical(x), affine_of(measured.geometry), measured.padding)

        if spread is not None:
            spread = spread.in_units(posed.intensity.scale, finished)
        report = RunReport(
            seconds=runner.seconds + time.perf_counter() - started,
            start_seconds=totals.start_seconds,
            denoiser_seconds=totals.denoiser_seconds,
            denoiser_calls=totals.denoiser_calls,
            network_calls=totals.network_calls,
            ladder=totals.ladder if sampler.calls_network else (),
            steps=totals.steps,
            scale=posed.intensity.scale,
            offset=posed.intensity.offset,
            seed=self.seed,
            options=options,
            weights=composition.weights_of(posed.scores),
            distributions=tuple(sorted(distributions)),
            unit=measured.unit,
            source_sha256=measured.source_sha256,
            fallbacks=runner.fallbacks,
            inferer=self.settings,
            execution={**where, "batch_sizes": runner.batch_sizes, "resumed": runner.resumed, **constraint},
            notices=tuple(notices),
            phase=posed.phase,
            resumed_from=runner.resumed_from,
        )
        return Reconstruction(finished(x), measured.geometry, report, spread)

    def check(self, measurement: Tensor, network: nn.Module | None = None) -> Measurement:
        """Refuse what :meth:`reconstruct` refuses before its first step; return what it will reconstruct from.

        Args:
            measurement: the measurement, without a batch axis.
            network: the primary network; None takes the bundle's.

        Raises:
            InputError: the scan is of another kind, shape or unit than is needed.
            ConfigError: options or networks that do not fit the scan.
        """
        posed = self._pose(measurement)
        engine = build_engine(self, posed.problem, network, "", 0, (), posed.mend)
        engine.prepare()
        return replace(posed.measured, notices=(*posed.measured.notices, *_plane_notices(engine)))

    def memory_estimate(self, measurement: Tensor, network: nn.Module | None = None) -> MemoryEstimate:
        """Return roughly what :meth:`reconstruct` will take of memory; the problem is posed, nothing is reconstructed.

        Args:
            measurement: the measurement, without a batch axis.
            network: the primary network; None takes the bundle's.
        """
        return self._memory(self._pose(measurement), network)

    def _memory(self, posed: _Posed, network: nn.Module | None) -> MemoryEstimate:
        consistency = composition.build_consistency(self.specs["consistency"])
        gradients = type(consistency).guidance is not ConsistencyStep.guidance
        activations, device = 0, torch.device(self.device or "cpu")
        for score in posed.scores:
            net = network if network is not None and score is self.score else score.network
            size = network_memory(
                net,
                posed.operator.volume_shape[1:],
                batch_size=self.sw_batch_size,
                window=self.window if self.window is not None else score.window,
                gradients=gradients,
            )
            activations = max(activations, size)
            if self.device is None:
                device = next((weight.device for weight in net.parameters()), device)
        kept = self.num_samples if self.keep_samples else 0
        return estimate_memory(posed.problem, activations, samples=self.num_samples, kept=kept, device=device.type)

    def identity(self, measurement: Tensor, case: str = "", network: nn.Module | None = None) -> dict[str, str]:
        """Return all that decides on the voxels of a reconstruction, as name -> value; nothing is computed.

        Args:
            measurement: the measurement, without a batch axis.
            case: name of the case.
            network: the primary network; None takes the bundle's.
        """
        return self._identity(self._understand(measurement), case, network)

    def _identity(self, measured: Measurement, case: str, network: nn.Module | None) -> dict[str, str]:
        assert measured.operator is not None
        calls_network = composition.build_sampler(self.specs["sampler"]).calls_network
        specs = _used({**self.specs, "operator": measured.operator}, calls_network)
        scores = (self.score, *self.auxiliaries) if calls_network else ()
        other = network is not None and network is not self.score.network and calls_network
        return run_identity(
            measurement=_described(measured),
            config=described(specs),
            **self._objects,
            inferer={k: v for k, v in self.settings.items() if k not in ("sw_batch_size", "spacing_tolerance")},
            intensity=self.score.intensity if calls_network else None,
            weights=composition.weights_of(scores),
            network=network.state_dict() if network is not None and other else None,
            bundles={s.name: [s.plane, s.spacing, s.denoiser, s.window, s.channels] for s in scores},
            seed=self.seed,
            case=case,
            versions=versions_of(composition.distributions_of(specs, scores)),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The options that are no plugins, as they were given."""
        return {
            "sw_batch_size": self.sw_batch_size,
            "window": None if self.window is None else list(self.window),
            "overlap": self.overlap,
            "noise_std": self.noise_std,
            "spacing_tolerance": self.spacing_tolerance,
            "precision": self.precision,
            "complex": self.complex,
            "num_samples": self.num_samples,
            "keep_samples": self.keep_samples,
        }

    def _options(self, spec: dict[str, Any], operator: Operator, calls_network: bool) -> dict[str, Any]:
        """Return what had a part in the result: the plugins, and what else is worth a look."""
        options: dict[str, Any] = described(_used({**self.specs, "operator": spec}, calls_network))
        if calls_network and operator.complex_volume:
            options["complex"] = self.complex
        if self.num_samples > 1:
            options["num_samples"] = self.num_samples
        return options

    def volume_geometry(self, measurement: Tensor) -> VolumeGeometry:
        """Return the geometry of the volume that a measurement will become; nothing is computed.

        Args:
            measurement: the measurement, without a batch axis.

        Raises:
            InputError: entries that are not finite, or a measurement that does not say its volume.
            ConfigError: options of the operator that contradict the measurement.
        """
        return self._understand(measurement).geometry

    def _understand(self, tensor: Tensor) -> Measurement:
        """Return what a tensor measured, with the operator complete and the volume's geometry known."""
        measured = from_tensor(check_finite(torch.as_tensor(tensor), "inputs"))
        measured = without_padding_of(measured, self.score.intensity)
        y = measured.data.to(torch.complex64 if measured.data.is_complex() else torch.float32)
        noise_std = measured.noise_std if self.noise_std is None else float(self.noise_std)
        spec, geometry, notices = measured.operator, measured.geometry, measured.notices + self._object_notice
        if spec is not None:
            spec = composition.as_spec(spec, "operator")
        else:
            spec, geometry = composition.resolve_operator(self.specs["operator"], geometry)
            notices += composition.operator_notices(spec, measured.geometry)
        return replace(measured, data=y, operator=spec, geometry=geometry, noise_std=noise_std, notices=notices)


def _plane_notices(engine: ReconstructionEngine) -> tuple[str, ...]:
    planes = () if engine.prior is None else [plane.plane for plane in engine.prior.planes]
    notice = plane_notice(engine.problem.operator, planes) if planes else None
    return () if notice is None else (notice,)


def _used(specs: dict[str, Any], calls_network: bool) -> dict[str, Any]:
    """Return the plugins that have a part in the result: without a network, prior and noise source have none."""
    return specs if calls_network else {kind: specs[kind] for kind in ("operator", "consistency", "sampler")}


def _described(measured: Measurement) -> dict[str, Any]:
    """Return what of a measurement decides on the voxels and is in no configuration."""
    geometry = measured.geometry
    return {
        "data": measured.data,
        "weights": measured.weights,
        "noise_std": measured.noise_std,
        "unit": measured.unit,
        "shape": geometry.shape,
        "spacing": geometry.spacing,
        "affine": geometry.affine,
        "gaps": geometry.gaps,
        **({} if measured.padding is None else {"padding": measured.padding.values}),
    }
