# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""One measurement of one case: its metadata, operator and inverse problem in network units, each computed once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from monai_diffrecon.engine.devices.placement import network_device
from monai_diffrecon.engine.memory.memory_estimate import MemoryEstimate, estimate_memory, network_memory
from monai_diffrecon.engine.plugin_objects import Spec, described, distributions_of
from monai_diffrecon.engine.problem.floor_padding import without_padding_of
from monai_diffrecon.engine.problem.measured_operator import (
    build_operator,
    family_notice,
    operator_notices,
    resolve_operator,
)
from monai_diffrecon.engine.problem.network_units import (
    background_notices,
    check_fits,
    check_modality,
    classical_map,
    intensity_map,
    to_network_units,
    unit_map,
)
from monai_diffrecon.engine.problem.outlier_hiding import hide_outliers
from monai_diffrecon.engine.problem.phase_of_data import without_phase
from monai_diffrecon.engine.problem.whitened_operator import WhitenedOperator
from monai_diffrecon.engine.recipe import Recipe, as_spec, weights_of
from monai_diffrecon.engine.resume.run_identity import run_identity
from monai_diffrecon.engine.voxel_size import SpacingMend, check_spacing, spacing_mend
from monai_diffrecon.io.measurement.metatensor import check_finite, from_tensor
from monai_diffrecon.numerics.hashing import sha256_tensor
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.protocols import Measurement, Operator, Problem, VolumeGeometry
from monai_diffrecon.tracking.versions import versions_of


class Posed(NamedTuple):
    """An inverse problem in network units, and its parts.

    Attributes:
        problem: the problem; its operator is whitened where the measurement has weights.
        operator: the operator of the measurement, not whitened.
        acted: map from network units to what the operator acts on.
        intensity: map from network units to the unit of the volume.
        notices: notices for the user of the result.
        hidden: part hidden from the networks and restored in the result, (C, X, Y, Z), or None.
        phase: global phase (radians) removed from the data.
        mend: what to do about voxels of another size than the networks'; None takes the advice for an image.
    """

    problem: Problem
    operator: Operator
    acted: IntensityMap
    intensity: IntensityMap
    notices: tuple[str, ...]
    hidden: Tensor | None
    phase: float
    mend: SpacingMend | None


class PosedCase:
    """A measurement with everything that a run, its checkpoint and its record need.

    Each property is computed once, when first used, on the CPU: the run moves the problem to ``volume_device``.

    Args:
        recipe: the recipe of the reconstruction.
        measurement: the measurement, without a batch axis.
        name: name of the case, part of the noise seed.
        network: the primary network; None takes the bundle's.

    Attributes:
        device: device of the primary network.
        volume_device: device of operator, measurement and volumes during the run.
    """

    def __init__(self, recipe: Recipe, measurement: Tensor, name: str = "", network: nn.Module | None = None) -> None:
        self.recipe, self.measurement, self.name, self.network = recipe, on_cpu(measurement), name, network
        self.device, self.volume_device = recipe.devices(network)

    def with_recipe(self, recipe: Recipe) -> PosedCase:
        """Return the case with other options, of which only the noise may change how it is posed.

        It is the same case: its identity is that of the options that were asked for.
        """
        other, _ = copy.copy(self), (self.identity, self.posed)
        vars(other).update(vars(self), recipe=recipe)
        for name in ("measured", "posed", "memory") if recipe.noise_std != self.recipe.noise_std else ():
            vars(other).pop(name, None)
        return other

    @property
    def networks(self) -> list[nn.Module]:
        """The networks that take part, the primary one first."""
        return [self.network or self.recipe.score.network, *(score.network for score in self.recipe.auxiliaries)]

    def with_networks(self, networks: Sequence[nn.Module]) -> PosedCase:
        """Return the case with other networks, in the order of :attr:`networks`; it is the same case."""
        recipe, (primary, *others) = self.recipe, networks
        auxiliaries = tuple(replace(s, network=n) for s, n in zip(recipe.auxiliaries, others, strict=True))
        recipe = replace(recipe, score=replace(recipe.score, network=primary), auxiliaries=auxiliaries)
        other = self.with_recipe(recipe)
        other.network = None
        return other

    @cached_property
    def said(self) -> Measurement:
        """Metadata of the measurement itself.

        Raises:
            InputError: entries that are not finite, or a measurement without the geometry of its volume.
        """
        return from_tensor(check_finite(torch.as_tensor(self.measurement), "inputs"))

    @cached_property
    def measured(self) -> Measurement:
        """The measurement with its operator complete and the volume's geometry known.

        Raises:
            InputError: as of ``said``.
            ConfigError: options of the operator that contradict the measurement.
        """
        recipe, measured = self.recipe, without_padding_of(self.said, self.recipe.score.intensity)
        y = measured.data.to(torch.complex64 if measured.data.is_complex() else torch.float32)
        noise_std = measured.noise_std if recipe.noise_std is None else float(recipe.noise_std)
        spec, geometry, notices = measured.operator, measured.geometry, measured.notices + recipe.notices
        if spec is None:
            spec, geometry = resolve_operator(recipe.specs["operator"], geometry)
            notices += operator_notices(spec, measured.geometry)
        else:
            spec = as_spec(spec, "operator")
        return replace(measured, data=y, operator=spec, geometry=geometry, noise_std=noise_std, notices=notices)

    @property
    def geometry(self) -> VolumeGeometry:
        """Geometry of the volume to be reconstructed."""
        return self.measured.geometry

    @cached_property
    def sha256(self) -> str:
        """Hash of the measurement as given."""
        return sha256_tensor(torch.as_tensor(self.measurement).as_subclass(Tensor))

    @property
    def specs(self) -> dict[str, Spec]:
        """The plugins that take part, the operator complete."""
        assert self.measured.operator is not None
        return self.recipe.used(self.measured.operator)

    @property
    def settings(self) -> dict[str, Any]:
        """The options that are not plugins."""
        return self.recipe.settings(self.network)

    @cached_property
    def distributions(self) -> set[str]:
        """The distributions whose plugins take part."""
        return distributions_of(self.specs, self.recipe.scores)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Everything that determines the voxels, as name -> value."""
        recipe, scores, network = self.recipe, self.recipe.scores, self.network
        other = network is not None and network is not recipe.score.network and recipe.calls_network
        return run_identity(
            measurement=self._described(),
            config=described(self.specs),
            **recipe.objects,
            inferer={k: v for k, v in self.settings.items() if k not in ("sw_batch_size", "spacing_tolerance")},
            intensity=recipe.score.intensity if recipe.calls_network else None,
            weights=weights_of(scores),
            network=network.state_dict() if network is not None and other else None,
            bundles={s.name: [s.plane, s.spacing, s.denoiser, s.window, s.channels] for s in scores},
            seed=recipe.seed,
            case=self.name,
            versions=versions_of(self.distributions),
        )

    @cached_property
    def posed(self) -> Posed:
        """The inverse problem; a faulty scan is refused here or when its engine is prepared.

        Raises:
            InputError: the scan has the wrong kind, shape or unit.
            ConfigError: options or networks that do not fit the scan.
        """
        recipe, measured = self.recipe, self.measured
        spec, geometry, y, noise_std = measured.operator, measured.geometry, measured.data, measured.noise_std
        assert spec is not None
        own = build_operator(spec, geometry).cpu()  # an instance may be elsewhere
        check_fits(y, own, f"operator {spec['name']}")
        operator, hidden, notices = own, None, measured.notices
        if recipe.calls_network:
            check_modality(recipe.score, measured)
            notices += family_notice(recipe.specs["operator"], operator)
            y, hidden, found = hide_outliers(operator, y)
            notices += found
        if measured.weights is not None:
            operator = WhitenedOperator(own, measured.weights)
            y, noise_std = operator.whiten(y), operator.noise_std(noise_std)
        phase = 0.0
        if not measured.simulated:
            y, phase, found = without_phase(operator, y, noise_std)
            notices += found
        # Two maps of the same network units: to what the operator acts on, and to the unit of the volume.
        in_slabs = recipe.volume_store is not None
        units = partial(intensity_map, recipe.score, in_slabs=in_slabs) if recipe.calls_network else classical_map
        acted = units(operator, y, measured.unit)
        if recipe.calls_network:
            notices += background_notices(recipe.score, operator, y, acted)
        intensity = acted.then(unit_map(operator, measured.unit))
        problem = Problem(operator, to_network_units(operator, y, acted), noise_std / acted.scale)
        # An image can be resampled, and so can a measurement simulated from one in this run.
        brought = self.said.operator is not None and not measured.simulated
        mend = partial(spacing_mend, operator) if brought else None
        for score in recipe.scores:
            check_spacing(score, geometry, recipe.spacing_tolerance, operator.thick_plane, mend)
        return Posed(problem, own, acted, intensity, notices, hidden, phase, mend)

    @cached_property
    def memory(self) -> MemoryEstimate:
        """Rough memory estimate of a reconstruction."""
        return self.memory_of(self.posed.problem)

    def memory_of(self, problem: Problem) -> MemoryEstimate:
        """Return a rough memory estimate of the reconstruction of a problem, the whole one or that of a slab."""
        recipe = self.recipe
        activations: dict[torch.device, int] = {}
        for score in recipe.scores:
            net = self.network if self.network is not None and score is recipe.score else score.network
            device = network_device(net, recipe.device)
            size = network_memory(
                net,
                self.posed.problem.operator.volume_shape[1:],  # slices are whole
                batch_size=recipe.sw_batch_size,
                window=recipe.window if recipe.window is not None else score.window,
                gradients=recipe.guided or recipe.adaptation is not None,
                device=device,
            )
            activations[device] = max(activations.get(device, 0), size)
        kept = recipe.num_samples if recipe.keep_samples else 0
        return estimate_memory(
            problem, activations, samples=recipe.num_samples, kept=kept, volume_device=self.volume_device
        )

    def _described(self) -> Mapping[str, Any]:
        """Return the parts of the measurement that determine the voxels and are in no configuration."""
        measured, geometry = self.measured, self.geometry
        padding = measured.padding
        return {
            "data": f"sha256:{self.sha256}",
            "weights": measured.weights,
            "noise_std": measured.noise_std,
            "unit": measured.unit,
            "shape": geometry.shape,
            "spacing": geometry.spacing,
            "affine": geometry.affine,
            "gaps": geometry.gaps,
            **({} if padding is None else {"padding": padding.values, "floor": padding.floor}),
        }


def on_cpu(measurement: Tensor) -> Tensor:
    """Return a measurement on the CPU, with its metadata."""
    measurement = torch.as_tensor(measurement)
    return measurement if measurement.device.type == "cpu" else measurement.cpu()
