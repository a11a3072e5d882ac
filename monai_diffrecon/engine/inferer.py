# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The MONAI inferer that reconstructs a volume from a measurement."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_diffrecon import registry
from monai_diffrecon.bundle import ScoreNetwork
from monai_diffrecon.engine import composition
from monai_diffrecon.engine.batched_plane_denoiser import PRECISIONS, BatchedPlaneDenoiser
from monai_diffrecon.engine.complex_plane_denoiser import MODES, planes_for
from monai_diffrecon.engine.non_finite_guard import NonFiniteGuard
from monai_diffrecon.engine.posterior_samples import check_can_sample, draw_samples, sample_case
from monai_diffrecon.engine.progress_bar import ProgressBar
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.engine.run_report import Reconstruction, RunReport, RunTotals
from monai_diffrecon.engine.step_metrics import StepMetrics
from monai_diffrecon.engine.volume_units import unit_map
from monai_diffrecon.engine.whitened_operator import WhitenedOperator
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.measurement import affine_of, check_finite, from_tensor
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.numerics.option_checks import check_choice, check_flag, check_integer
from monai_diffrecon.protocols import Measurement, Operator, Problem, VolumeGeometry


class DiffReconInferer(Inferer):
    """Reconstructs a volume from a measurement; all physics is reachable from here.

    ``inferer(inputs, network)`` is MONAI's contract, so one bundle serves ``monai.bundle run``, MONAI Label and
    MONAI Deploy. Plugins are given as ``{"name": ..., **options}`` and looked up in the registry, built-in or
    third-party alike.

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
    """

    def __init__(
        self,
        score: ScoreNetwork,
        operator: Any,
        prior: Any = "slices",
        consistency: Any = "conjugate_gradient",
        sampler: Any = "annealed",
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
        self.sw_batch_size, self.window, self.overlap = sw_batch_size, window, overlap
        self.seed, self.noise_std, self.spacing_tolerance = int(seed), noise_std, spacing_tolerance
        self.device, self.progress, self.handlers = device, progress, tuple(handlers)
        self.precision = check_choice(precision, "inferer#precision", PRECISIONS)
        self.complex = check_choice(complex, "inferer#complex", MODES)
        self.num_samples = check_integer(num_samples, "inferer#num_samples", low=1)
        self.keep_samples = check_flag(keep_samples, "inferer#keep_samples")
        # Mistyped options are errors now, not after the scan was read.
        composition.build_prior(self.specs["prior"])
        composition.build_consistency(self.specs["consistency"])
        check_can_sample(
            composition.build_sampler(self.specs["sampler"]),
            composition.build_noise(self.specs["noise"], self.seed, ""),
            self.specs,
            self.num_samples,
        )
        registry.check_options("operators", self.specs["operator"], where="operator", context=("geometry",))

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

    def reconstruct(
        self, measurement: Tensor, network: nn.Module | None = None, *, case: str = "", handlers: Sequence[Any] = ()
    ) -> Reconstruction:
        """Reconstruct one measurement.

        Args:
            measurement: the measurement, without a batch axis.
            network: the primary network; None takes the bundle's.
            case: name of the case, part of the noise's key.
            handlers: further handlers for this run, of every sample.
        """
        started = time.perf_counter()
        measured = self._understand(measurement)
        spec, geometry, y = measured.operator, measured.geometry, measured.data
        assert spec is not None
        operator = composition.build_operator(spec, geometry)
        _check_fits(y, operator, f"operator {spec['name']}")
        noise_std = measured.noise_std
        if measured.weights is not None:
            operator = WhitenedOperator(operator, measured.weights)
            y, noise_std = operator.whiten(y), operator.noise_std(noise_std)
        # Two maps of the same network units: to what the operator acts on, and to the unit of the volume.
        acted = self._intensity(operator, y, measured.unit)
        intensity = acted.then(unit_map(operator, measured.unit))
        problem = Problem(operator, self._to_network_units(operator, y, acted), noise_std / acted.scale)
        sampler = composition.build_sampler(self.specs["sampler"])
        scores = (self.score, *self.auxiliaries) if sampler.calls_network else ()
        for score in scores:
            composition.check_spacing(score, geometry, self.spacing_tolerance)
        totals = RunTotals()

        def draw(index: int) -> Tensor:
            engine, steps = self._run(problem, network, sample_case(case, index), index, handlers)
            totals.add(engine, steps)
            return engine.recon.x

        x, spread = draw_samples(draw, operator, self.num_samples, keep=self.keep_samples)
        used = {**self.specs, "operator": spec}
        if not sampler.calls_network:  # then prior and noise source have no part in the result
            used = {kind: used[kind] for kind in ("operator", "consistency", "sampler")}
        options: dict[str, Any] = {**used}
        if scores and operator.complex_volume:
            options["complex"] = self.complex
        if spread is not None:
            options["num_samples"] = spread.count
            spread = spread.in_units(intensity.scale, intensity.to_physical)
        report = RunReport(
            seconds=time.perf_counter() - started,
            start_seconds=totals.start_seconds,
            denoiser_seconds=totals.denoiser_seconds,
            denoiser_calls=totals.denoiser_calls,
            network_calls=totals.network_calls,
            ladder=totals.ladder if sampler.calls_network else (),
            steps=totals.steps,
            scale=intensity.scale,
            offset=intensity.offset,
            seed=self.seed,
            options=options,
            weights=composition.weights_of(scores),
            distributions=tuple(sorted(composition.distributions_of(used, scores))),
            unit=measured.unit,
            source_sha256=measured.source_sha256,
        )
        return Reconstruction(intensity.to_physical(x), geometry, report, spread)

    def _run(
        self, problem: Problem, network: nn.Module | None, case: str, index: int, handlers: Sequence[Any]
    ) -> tuple[ReconstructionEngine, list[dict[str, float]]]:
        """Run the engine for one sample; return it, and the numbers of its steps."""
        noise = composition.build_noise(self.specs["noise"], self.seed, case)
        sampler = composition.build_sampler(self.specs["sampler"])
        prior = None
        if sampler.calls_network:
            scores, operator = (self.score, *self.auxiliaries), problem.operator
            prior = composition.build_prior(self.specs["prior"])
            prior.bind(planes_for(operator, self._planes(network), scores, self.complex), noise)
            for plane in prior.planes:
                composition.check_borrowed_spacing(scores, plane.plane, operator.geometry, self.spacing_tolerance)
        consistency = composition.build_consistency(self.specs["consistency"])
        engine = ReconstructionEngine(problem, prior, consistency, sampler, noise)
        metrics = StepMetrics()
        label = "reconstruct" if self.num_samples == 1 else f"sample {index + 1} of {self.num_samples}"
        bar = ProgressBar(label, disable=None if self.progress is None else not self.progress)
        for handler in (NonFiniteGuard(), metrics, *self.handlers, *handlers, bar):
            handler.attach(engine)
        engine.reconstruct(seed=self.seed, case=case)
        return engine, metrics.history

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
        y = measured.data.to(torch.complex64 if measured.data.is_complex() else torch.float32)
        noise_std = measured.noise_std if self.noise_std is None else float(self.noise_std)
        spec, geometry = measured.operator, measured.geometry
        if spec is None:
            spec, geometry = composition.resolve_operator(self.specs["operator"], geometry)
        return replace(measured, data=y, operator=spec, geometry=geometry, noise_std=noise_std)

    def _intensity(self, operator: Operator, y: Tensor, unit: str) -> IntensityMap:
        """Return the map from network units to what the operator acts on; a bundle's window is in the volume's unit."""
        if not y.numel():
            return IntensityMap(scale=1.0)  # a sample has no unit but the network's
        kind = dict(self.score.intensity)
        if kind.pop("map") == "window":
            window = IntensityMap.window(**kind)
            if operator.complex_volume and window.offset != 0.0:
                raise ConfigError(
                    "a window that does not begin at 0 has no meaning for a complex volume",
                    where=f"bundle {self.score.name}, diffrecon#intensity",
                    expected="low 0, or a percentile",
                    got=f"low {window.offset:g}",
                )
            if unit == "1/mm":
                raise ConfigError(
                    "a window in HU and a volume in attenuation",
                    where=f"bundle {self.score.name}, diffrecon#intensity",
                    expected="a measurement whose unit is HU",
                    got=unit,
                    mend="say the unit HU in the measurement's file: its line integrals stay the same",
                )
            return window.then(unit_map(operator, unit).inverse())
        return IntensityMap.percentile(operator.initial(y).abs(), **kind)

    @staticmethod
    def _to_network_units(operator: Operator, y: Tensor, intensity: IntensityMap) -> Tensor:
        """Return the measurement of ``(x - offset) / scale``, which a linear operator gives exactly."""
        if intensity.offset != 0.0:
            flat = torch.full(operator.volume_shape, intensity.offset, dtype=operator.volume_dtype)
            y = y - operator(flat)
        return y / intensity.scale

    def _planes(self, network: nn.Module | None) -> list[BatchedPlaneDenoiser]:
        planes = []
        for score in (self.score, *self.auxiliaries):
            net = network if network is not None and score is self.score else score.network
            denoiser = registry.build(
                "denoisers", score.denoiser, where=f"bundle {score.name}, diffrecon#denoiser", network=net
            )
            planes.append(
                BatchedPlaneDenoiser(
                    denoiser,
                    score.plane,
                    batch_size=self.sw_batch_size,
                    window=self.window if self.window is not None else score.window,
                    overlap=self.overlap,
                    device=self.device,
                    precision=self.precision,
                )
            )
        return planes


def _check_fits(y: Tensor, operator: Operator, where: str) -> None:
    """Refuse a measurement that is not one of its operator."""
    if tuple(y.shape) != operator.measurement_shape:
        swapped = sorted(y.shape) == sorted(operator.measurement_shape)
        axes = f" ({', '.join(operator.measurement_axes)})" if operator.measurement_axes else ""
        raise InputError(
            f"measurement of the wrong shape{axes}",
            where=where,
            expected=operator.measurement_shape,
            got=tuple(y.shape),
            mend="bring its axes into this order"
            if swapped
            else "check the operator's options against the acquisition",
        )
    if y.is_complex() != operator.complex_measurement:
        kinds = ("real numbers", "complex numbers")
        raise InputError(
            "measurement of the wrong type",
            where=where,
            expected=kinds[operator.complex_measurement],
            got=kinds[y.is_complex()],
            mend="give both parts of every number, not its magnitude"
            if operator.complex_measurement
            else "name the operator that measured them",
        )
