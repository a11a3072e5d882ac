# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Physical units and the units of a network."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.bundle import ScoreNetwork
from monai_diffrecon.engine.volume_units import unit_map
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.protocols import Operator


def intensity_map(score: ScoreNetwork, operator: Operator, y: Tensor, unit: str) -> IntensityMap:
    """Return the map from network units to what the operator acts on; a bundle's window is in the volume's unit.

    Args:
        score: the network.
        operator: the forward operator.
        y: the measurement.
        unit: unit of the volume.

    Raises:
        ConfigError: a window that has no meaning for such a volume.
    """
    if not y.numel():
        return IntensityMap(scale=1.0)  # a sample has no unit but the network's
    kind = dict(score.intensity)
    if kind.pop("map") == "window":
        window = IntensityMap.window(**kind)
        if operator.complex_volume and window.offset != 0.0:
            raise ConfigError(
                "a window that does not begin at 0 has no meaning for a complex volume",
                where=f"bundle {score.name}, diffrecon#intensity",
                expected="low 0, or a percentile",
                got=f"low {window.offset:g}",
            )
        if unit == "1/mm":
            raise ConfigError(
                "a window in HU and a volume in attenuation",
                where=f"bundle {score.name}, diffrecon#intensity",
                expected="a measurement whose unit is HU",
                got=unit,
                mend="say the unit HU in the measurement's file: its line integrals stay the same",
            )
        return window.then(unit_map(operator, unit).inverse())
    return IntensityMap.percentile(operator.initial(y).abs(), **kind)


def to_network_units(operator: Operator, y: Tensor, intensity: IntensityMap) -> Tensor:
    """Return the measurement of ``(x - offset) / scale``, which a linear operator gives exactly."""
    if intensity.offset != 0.0:
        flat = torch.full(operator.volume_shape, intensity.offset, dtype=operator.volume_dtype, device=y.device)
        y = y - operator(flat)
    return y / intensity.scale


def check_fits(y: Tensor, operator: Operator, where: str) -> None:
    """Refuse a measurement that is not one of its operator.

    Raises:
        InputError: another shape, or real numbers for complex ones, or the other way round.
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
            mend="give both parts of every number, not its magnitude"
            if operator.complex_measurement
            else "name the operator that measured them",
        )
