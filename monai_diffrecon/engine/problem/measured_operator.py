# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The operator of a measurement: options derived from an image, and notices about it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monai_diffrecon import registry
from monai_diffrecon.engine.plugin_objects import ObjectSpec, Spec, plugin_of
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.presets.family import family_of
from monai_diffrecon.protocols import PLANE_AXIS, Operator, VolumeGeometry

#: Slices thicker than this many voxels of the volume count as thick.
_THICK = 1.2


def build_operator(spec: Spec, geometry: VolumeGeometry) -> Operator:
    """Build the operator of a volume; an instance must be one of this volume.

    Raises:
        ConfigError: an instance of another geometry.
    """
    operator = registry.build("operators", plugin_of(spec), where="operator", geometry=geometry)
    assert isinstance(operator, Operator)
    _check_geometry(operator.geometry, geometry, "belongs to another volume")
    return operator


def resolve_operator(spec: Spec, measured: VolumeGeometry) -> tuple[Spec, VolumeGeometry]:
    """Fill in the operator's options that follow from a measured image.

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
    """Return notices about a measured image and its operator."""
    plugin = spec.plugin if isinstance(spec, ObjectSpec) else registry.load("operators", spec["name"])
    cls = type(plugin) if isinstance(plugin, Operator) else plugin
    assert issubclass(cls, Operator)
    return cls.notices(measured, **{k: v for k, v in spec.items() if k != "name"})


def family_notice(spec: Spec, operator: Operator) -> tuple[str, ...]:
    """Return a notice if the measurement's own operator belongs to another family than the configuration.

    Args:
        spec: the operator of the configuration, which its other settings fit.
        operator: the operator of the measurement.
    """
    said, got = spec.plugin.family if isinstance(spec, ObjectSpec) else family_of(spec), operator.family
    if said is None or got is None or said == got:
        return ()
    return (f"the measurement is {got}, but the configuration is for {said}: choose a task for {got}",)


def plane_notice(operator: Operator, planes: Sequence[str]) -> str | None:
    """Return the notice, or None when a plane contains the axis along which slices are thick, or none are.

    Args:
        operator: the forward operator.
        planes: planes of the networks in use.
    """
    if operator.thick_plane is None or any(plane != operator.thick_plane for plane in planes):
        return None
    axis = PLANE_AXIS[operator.thick_plane]
    if operator.measured_geometry().spacing[axis] <= _THICK * operator.geometry.spacing[axis]:
        return None
    return (
        f"only {planes[0]} slices are denoised, and none contains the axis of the thick slices: results are worse than "
        "with interpolation (docs/results/demo.md); add a bundle of another plane"
    )
