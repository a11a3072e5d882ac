# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Specs to a checked composition of plugins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from monai_diffrecon import registry
from monai_diffrecon.bundle import ScoreNetwork
from monai_diffrecon.engine.plugin_objects import ObjectSpec, Spec, plugin_of, spec_of
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.presets.family import family_of
from monai_diffrecon.protocols import (
    PLANE_AXIS,
    ConsistencyStep,
    NoiseSource,
    Operator,
    Sampler,
    ScorePrior,
    VolumeGeometry,
)

#: Config id -> kind of the plugin there.
_KIND_OF = {where: kind for kind, (where, _) in registry.KINDS.items()}
#: (plane, spacing in the plane, tolerance) -> what to do about voxels of another size.
SpacingMend = Callable[[str, tuple[float, float], float], str]

#: Voxels may be interpolated so many times finer; beyond that most of what comes out is made up.
MOST_FINER = 1.5


def as_spec(value: Any, where: str) -> Spec:
    """Return ``{"name": ..., **options}`` for a name, a spec, or a plugin handed in as an instance or a class.

    Plugins and options are called by their names of today.

    Raises:
        ConfigError: neither.
    """
    spec = {"name": value} if isinstance(value, str) else value
    if not (isinstance(spec, dict) and isinstance(spec.get("name"), str)):
        spec = spec_of(value, _KIND_OF[where])
    if spec is not None:
        return spec if isinstance(spec, ObjectSpec) else dict(registry.current(_KIND_OF[where], spec))
    raise ConfigError("not a plugin", where=where, expected='a name or {"name": ..., options}', got=repr(value))


def build_operator(spec: Spec, geometry: VolumeGeometry) -> Operator:
    """Build the operator of a volume; an instance must be one of this volume.

    Raises:
        ConfigError: an instance of another geometry.
    """
    operator = registry.build("operators", plugin_of(spec), where="operator", geometry=geometry)
    assert isinstance(operator, Operator)
    _check_geometry(operator.geometry, geometry, "is of another volume")
    return operator


def resolve_operator(spec: Spec, measured: VolumeGeometry) -> tuple[Spec, VolumeGeometry]:
    """Fill in what a measured image says about its operator.

    Args:
        spec: the operator's spec.
        measured: geometry of the measured image.

    Returns:
        The spec with every option known, and the geometry of the volume.
    """
    plugin = plugin_of(spec)
    if isinstance(plugin, Operator):
        image = plugin.measured_geometry()
        if image.shape == measured.shape:
            _check_geometry(image, measured, "measures other voxels")
        return spec, plugin.geometry
    cls = spec.plugin if isinstance(spec, ObjectSpec) else registry.load("operators", spec["name"])
    assert issubclass(cls, Operator)
    options = cls.resolve_options(measured, **{k: v for k, v in spec.items() if k != "name"})
    complete = ObjectSpec(cls, **options) if isinstance(spec, ObjectSpec) else {"name": spec["name"], **options}
    return complete, cls.volume_geometry(measured, **options)


def _check_geometry(given: VolumeGeometry, geometry: VolumeGeometry, what: str) -> None:
    if given.shape != geometry.shape or not np.allclose(given.spacing, geometry.spacing, rtol=1e-3):
        raise ConfigError(
            f"the operator that was given {what}",
            where="operator",
            expected=f"shape {geometry.shape}, spacing {geometry.spacing} mm",
            got=f"shape {given.shape}, spacing {given.spacing} mm",
        )


def operator_notices(spec: Spec, measured: VolumeGeometry) -> tuple[str, ...]:
    """Return what the operator of a measured image has to say of it, a sentence each."""
    plugin = spec.plugin if isinstance(spec, ObjectSpec) else registry.load("operators", spec["name"])
    cls = type(plugin) if isinstance(plugin, Operator) else plugin
    assert issubclass(cls, Operator)
    return cls.notices(measured, **{k: v for k, v in spec.items() if k != "name"})


def family_notice(spec: Spec, operator: Operator) -> tuple[str, ...]:
    """Return a sentence when a measurement's own operator is of another family than the configuration is for.

    Args:
        spec: the operator of the configuration, which its other settings fit.
        operator: the operator of the measurement.
    """
    said, got = spec.plugin.family if isinstance(spec, ObjectSpec) else family_of(spec), operator.family
    if said is None or got is None or said == got:
        return ()
    return (f"a measurement of the family {got}, and a configuration for {said}: name a task for {got}",)


def build_prior(spec: Spec) -> ScorePrior:
    """Build the score prior.

    Raises:
        ConfigError: the name is that of a regularizer.
    """
    prior = registry.build("priors", plugin_of(spec), where="prior")
    if not isinstance(prior, ScorePrior):
        raise ConfigError(
            f"{spec['name']} is a regularizer, not a score prior",
            where="prior",
            mend=f'put it under consistency: {{"name": "admm", "regularizers": [{{"name": "{spec["name"]}"}}]}}',
        )
    return prior


def build_consistency(spec: Spec) -> ConsistencyStep:
    """Build the consistency step."""
    step = registry.build("consistency", plugin_of(spec), where="consistency")
    assert isinstance(step, ConsistencyStep)
    return step


def build_sampler(spec: Spec) -> Sampler:
    """Build the sampler."""
    sampler = registry.build("samplers", plugin_of(spec), where="sampler")
    assert isinstance(sampler, Sampler)
    return sampler


def build_noise(spec: Spec, seed: int, case: str) -> NoiseSource:
    """Build the noise source of a case."""
    noise = registry.build("noises", plugin_of(spec), where="noise", seed=seed, case=case)
    assert isinstance(noise, NoiseSource)
    return noise


def check_spacing(
    score: ScoreNetwork,
    geometry: VolumeGeometry,
    tolerance: float,
    thick_plane: str | None = None,
    mend: SpacingMend | None = None,
) -> None:
    """Refuse a volume whose voxels are not those the network was trained on.

    Args:
        score: the network with its plane and in-plane spacing.
        geometry: the volume to reconstruct.
        tolerance: largest relative difference.
        thick_plane: the plane of the thick slices that it is reconstructed from, or None.
        mend: says what to do about it; None: what helps an image.

    Raises:
        ConfigError: the in-plane spacing differs by more.
    """
    axes = {"sagittal": (1, 2), "coronal": (0, 2), "axial": (0, 1)}[score.plane]
    got = tuple(geometry.spacing[a] for a in axes)
    wrong = {a: (g, e) for a, g, e in zip(axes, got, score.spacing, strict=True) if abs(g / e - 1.0) > tolerance}
    if wrong:
        raise ConfigError(
            f"voxels of another size than the {score.plane} network was trained on",
            where=f"bundle {score.name}",
            expected=f"{score.spacing[0]:g} x {score.spacing[1]:g} mm within {tolerance:.0%}",
            got=f"{got[0]:.3g} x {got[1]:.3g} mm",
            mend=_spacing_mend(wrong, None if thick_plane is None else PLANE_AXIS[thick_plane])
            if mend is None
            else mend(score.plane, score.spacing, tolerance),
        )


def _spacing_mend(wrong: Mapping[int, tuple[float, float]], thick: int | None) -> str:
    """Return what helps: axis -> voxel size of the volume and of the network; and the axis that is reconstructed."""
    otherwise = "or raise inferer#spacing_tolerance"
    if thick is not None and thick in wrong:
        return f"set operator#target_spacing to {wrong[thick][1]:g}, the network's, {otherwise}"
    axis, (got, expected) = max(wrong.items(), key=lambda item: item[1][0] / item[1][1])
    if got > MOST_FINER * expected:
        what = f"{got:.3g} to {expected:.3g} mm along {'XYZ'[axis]} is more than --resample true interpolates"
        return f"use networks of larger voxels, or the task that reconstructs that axis (slice_thickness): {what}"
    return f"resample the image (--resample true), {otherwise}"


def check_shared_spacing(
    scores: Sequence[ScoreNetwork],
    plane: str,
    geometry: VolumeGeometry,
    tolerance: float,
    thick_plane: str | None = None,
    mend: SpacingMend | None = None,
) -> None:
    """Refuse a plane that shares the network of another one and whose voxels fit none of the networks.

    Args:
        scores: the networks with their planes.
        plane: a plane of the prior.
        geometry: the volume to reconstruct.
        tolerance: largest relative difference.
        thick_plane: the plane of the thick slices that it is reconstructed from, or None.
        mend: as of :func:`check_spacing`.

    Raises:
        ConfigError: no network of this plane, and voxels of another size than the networks were trained on.
    """
    if plane in {score.plane for score in scores}:
        return None
    errors = []
    for score in scores:
        try:
            return check_spacing(replace(score, plane=plane), geometry, tolerance, thick_plane, mend)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def distributions_of(composition: Mapping[str, Any], scores: Sequence[ScoreNetwork] = ()) -> set[str]:
    """Return the distributions whose plugins take part, nested ones included.

    Args:
        composition: config id (``operator``, ``prior``, ...) -> spec.
        scores: networks, for their denoisers.
    """
    specs = [(_KIND_OF[where], spec) for where, spec in composition.items()]
    specs += [("denoisers", score.denoiser) for score in scores]
    found: set[str] = set()
    while specs:
        kind, spec = specs.pop()
        if isinstance(spec, ObjectSpec):
            continue
        name = spec if isinstance(spec, str) else spec["name"]
        options: Mapping[str, Any] = {} if isinstance(spec, str) else spec
        found.add(registry.distribution_of(kind, name))
        cls = registry.load(kind, name)
        for option, nested_kind in cls.plugin_options.items():
            value = options.get(option)
            words = getattr(cls, "plugin_literals", {}).get(option, ())
            inner = value if isinstance(value, list | tuple) else [value]
            specs += [(nested_kind, v) for v in inner if _is_named(v) and v not in words]
    return found


def _is_named(spec: object) -> bool:
    return isinstance(spec, str) or (isinstance(spec, dict) and isinstance(spec.get("name"), str))


def weights_of(networks: Sequence[ScoreNetwork]) -> dict[str, str]:
    """Return bundle name -> sha256 of its weights."""
    return {f"{n.name} {n.version}": n.sha256 for n in networks}
