# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Physical units and the units of a network."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.engine.slab_problem import problem_of, slab_plane
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.numerics.ct.attenuation import MU_WATER
from monai_diffrecon.numerics.intensity import IntensityMap, image_offset, looks_like_hounsfield
from monai_diffrecon.numerics.statistics.order_statistics import ranked
from monai_diffrecon.protocols import PLANE_AXIS, Measurement, Operator, Problem
from monai_diffrecon.slabs import cut

#: What an operator acts on is in the volume's own unit.
SAME = IntensityMap(scale=1.0)
#: Hounsfield units by linear attenuation in 1/mm: ``HU = 1000 (mu / mu_water - 1)``.
HU_OF_ATTENUATION = IntensityMap(scale=1000.0 / MU_WATER, offset=-1000.0)
#: The window of a classical method for volumes in HU.
_HOUNSFIELD = IntensityMap.window(-1000.0, 1000.0)
#: Slices of an estimate that are computed together to save memory.
_TOGETHER = 16
#: Least fraction of a bundle's window that the contrast of a volume must fill.
_LEAST_CONTRAST = 0.02


def classical_map(operator: Operator, y: Tensor, unit: str) -> IntensityMap:
    """Return the map from the units of a classical method to what the operator acts on, independent of any bundle.

    Args:
        operator: the forward operator.
        y: the measurement.
        unit: unit of the volume.
    """
    if unit == "HU":
        return _HOUNSFIELD.then(unit_map(operator, unit).inverse())
    estimate = operator.initial(y) if y.numel() else y
    return IntensityMap.percentile(estimate) if bool((estimate != 0).any()) else IntensityMap(scale=1.0)


def intensity_map(
    score: ScoreNetwork, operator: Operator, y: Tensor, unit: str, *, in_slabs: bool = False
) -> IntensityMap:
    """Return the map from network units to what the operator acts on; a bundle's window is in the volume's unit.

    Args:
        score: the network.
        operator: the forward operator.
        y: the measurement.
        unit: unit of the volume.
        in_slabs: save memory.

    Raises:
        ConfigError: a window that is meaningless for such a volume.
        InputError: CT for an MR network, or negative values where only magnitudes are meaningful.
    """
    if not y.numel():
        return IntensityMap(scale=1.0)  # a sample has no unit but the network's
    kind = dict(score.intensity)
    if kind.pop("map") == "window":
        window = IntensityMap.window(**kind)
        if operator.complex_volume and window.offset != 0.0:
            raise ConfigError(
                "a complex volume needs a window that starts at 0",
                where=f"bundle {score.name}, diffrecon#intensity",
                expected="low 0, or a percentile",
                got=f"low {window.offset:g}",
            )
        if unit == "1/mm":
            raise ConfigError(
                "a window in HU, but a volume in attenuation",
                where=f"bundle {score.name}, diffrecon#intensity",
                expected="a measurement whose unit is HU",
                got=unit,
                mend="set the unit HU in the measurement's file; its line integrals stay the same",
            )
        return _checked_contrast(score, window.then(unit_map(operator, unit).inverse()), operator, y, unit)
    if score.modality == "MR" and (unit == "HU" or (measures_image(operator) and looks_like_hounsfield(y))):
        raise InputError(
            "CT in Hounsfield units, but an MR network",
            where=f"bundle {score.name}",
            expected="magnitudes of MR",
            got="air near -1000 and tissue near 0",
            mend="use a CT bundle; if it is MR, shift its values to 0 or more",
        )
    offset = image_offset(y) if measures_image(operator) else 0.0
    estimate = initial_in_slabs(operator, y) if in_slabs else operator.initial(y)
    if measures_image(operator):
        return IntensityMap.percentile(estimate, offset=offset, overwrite=in_slabs, **kind)
    if not operator.complex_volume:
        check_magnitudes(estimate, f"operator {type(operator).__name__}")
    return IntensityMap.percentile(estimate, overwrite=in_slabs, **kind)


def initial_in_slabs(operator: Operator, y: Tensor) -> Tensor:
    """Return the operator's estimate, computed in parts: the volume alone is in memory.

    Raises:
        ConfigError: the operator couples the slices of every plane, or cannot be restricted.
    """
    plane = slab_plane(operator, "axial", "volume_store")
    volume, dim = torch.empty(operator.volume_shape, dtype=operator.volume_dtype), 1 + PLANE_AXIS[plane]
    for slab in cut(dim, volume.shape[dim], -(-volume.shape[dim] // _TOGETHER)):
        part = problem_of(Problem(operator, y), slab)
        slab.of(volume).copy_(part.operator.initial(part.measurement))
    return volume


def _checked_contrast(
    score: ScoreNetwork, acted: IntensityMap, operator: Operator, y: Tensor, unit: str
) -> IntensityMap:
    """Refuse a volume not stated to be in HU whose values fill almost none of the window."""
    if unit == "arbitrary" and not operator.complex_measurement:
        volume = y if measures_image(operator) else operator.initial(y)
        low, high = ranked(volume, [max(round(q * volume.numel()), 1) - 1 for q in (0.01, 0.99)])
        if high - low < _LEAST_CONTRAST * acted.scale:
            raise InputError(
                "values that fill almost none of the network's window",
                where=f"bundle {score.name}, diffrecon#intensity",
                expected=f"a volume in HU, as {acted.offset:g} to {acted.offset + acted.scale:g}",
                got=f"{low:.3g} to {high:.3g}, 1st to 99th percentile",
                mend="state the measurement's unit (HU; its line integrals are of attenuation in 1/mm)",
            )
    return acted


def check_modality(score: ScoreNetwork, measured: Measurement) -> None:
    """Refuse a scan of another modality than the network's, if both are known.

    Raises:
        InputError: the modalities differ.
    """
    said = (measured.header or {}).get("Modality")
    if said in ("CT", "MR") and score.modality not in (None, said):
        raise InputError(
            f"a scan of {said}, but a network for {score.modality}",
            where=f"bundle {score.name}",
            expected=score.modality,
            got=said,
            mend=f"use a bundle for {said}",
        )


def background_notices(score: ScoreNetwork, operator: Operator, y: Tensor, intensity: IntensityMap) -> tuple[str, ...]:
    """Return a notice if a background of 0 lies within the tissue range of a normalized image.

    Args:
        score: the network.
        operator: the forward operator.
        y: the measurement.
        intensity: the map from network units.
    """
    shifted = score.intensity["map"] == "percentile" and intensity.offset < 0.0
    if not shifted or not measures_image(operator) or float((y == 0.0).float().mean()) < 0.1:
        return ()
    return (
        "a background of 0 lies within the range of the tissue, as in normalized skull-stripped images: "
        "its border is reconstructed less well than before normalization",
    )


def to_network_units(operator: Operator, y: Tensor, intensity: IntensityMap) -> Tensor:
    """Return the measurement of ``(x - offset) / scale``, which a linear operator gives exactly."""
    if intensity.offset != 0.0:
        flat = torch.full(operator.volume_shape, intensity.offset, dtype=operator.volume_dtype, device=y.device)
        y = y - operator(flat)
    return y / intensity.scale


def check_fits(y: Tensor, operator: Operator, where: str) -> None:
    """Refuse a measurement that does not match its operator.

    Raises:
        InputError: another shape, or real instead of complex numbers or vice versa.
    """
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
            mend="give complex numbers, not magnitudes"
            if operator.complex_measurement
            else "use the operator that measured them",
        )


def unit_map(operator: Operator, unit: str) -> IntensityMap:
    """Return the map from what the operator acts on to the volume's unit.

    Of a volume in HU an image (thick slices, say) is in HU as well; any other real measurement consists of line
    integrals of linear attenuation, where air is 0.

    Args:
        operator: the operator.
        unit: the volume's: ``HU``, ``1/mm`` or ``arbitrary``.

    Raises:
        InputError: HU with a complex measurement.
    """
    if unit != "HU":
        return SAME
    if operator.complex_measurement:
        raise InputError(
            "a complex measurement of a volume in HU",
            where=f"operator {type(operator).__name__}",
            expected="a CT operator, or another unit",
        )
    return SAME if measures_image(operator) else HU_OF_ATTENUATION


def check_magnitudes(volume: Tensor, where: str) -> None:
    """Refuse a mostly negative volume where only magnitudes are meaningful.

    Args:
        volume: real, any shape.
        where: its source, for messages.

    Raises:
        InputError: more than half of its energy lies below 0.
    """
    total = float(volume.square().sum())
    negative = float(volume.clamp(max=0.0).square().sum()) / total if total else 0.0
    if negative > 0.5:
        raise InputError(
            "a volume of mostly negative values",
            where=where,
            expected="magnitudes of 0 or more",
            got=f"{negative:.0%} of the energy below 0",
            mend="shift the volume before it is measured",
        )


def measures_image(operator: Operator) -> bool:
    """Say whether a measurement is an image in the unit of the volume, thick slices for instance."""
    image = (1, *operator.measured_geometry().shape)
    return not operator.complex_measurement and operator.measurement_shape == image
