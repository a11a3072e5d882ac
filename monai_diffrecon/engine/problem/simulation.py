# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Simulates the measurement of a known volume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.engine.problem.measured_operator import build_operator
from monai_diffrecon.engine.problem.network_units import unit_map
from monai_diffrecon.engine.recipe import as_spec
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_choice, check_integer, check_number
from monai_diffrecon.io.find_reader import AUTO, read_scan
from monai_diffrecon.io.measurement.checks import UNITS
from monai_diffrecon.io.measurement.file import write_measurement
from monai_diffrecon.io.measurement.metatensor import check_finite
from monai_diffrecon.numerics.ct.attenuation import (
    counts_to_line_integrals,
    draw_counts,
    line_integral_weights,
)
from monai_diffrecon.numerics.noise import key_seed
from monai_diffrecon.numerics.padding import AIR, padding_mask
from monai_diffrecon.protocols import Measurement, Operator, VolumeGeometry

#: Largest number of a noise realization.
MOST_REALIZATIONS = 2**31


@dataclass(frozen=True)
class Simulation:
    """How to measure a volume.

    Attributes:
        operator: spec of the forward operator.
        noise: standard deviation of Gaussian noise on every measured entry, relative to the root mean square of the
            non-zero ones.
        photons: photons per ray without an object: the measurement is then simulated as photon counts, converted to
            line integrals with weights. None disables this.
        electronic_std: standard deviation of the electronics' noise, in photons.
        unit: unit of the volume, ``HU``, ``1/mm`` or ``arbitrary``; line integrals are of attenuation for HU. None
            takes the volume's own.
        seed: seed of the noise.
        realization: number of the noise of this seed, 0 to 2^31; other numbers draw independent noise.

    Raises:
        ConfigError: an option out of its range, or options that contradict each other.
    """

    operator: Any
    noise: float = 0.0
    photons: float | None = None
    electronic_std: float = 0.0
    unit: str | None = None
    seed: int = 0
    realization: int = 0

    def __post_init__(self) -> None:
        as_spec(self.operator, "operator")
        check_number(self.noise, "simulate_noise", low=0.0)
        check_number(self.electronic_std, "simulate_electronic_std", low=0.0)
        check_integer(self.realization, "realization", low=0, high=MOST_REALIZATIONS)
        if self.unit is not None:
            check_choice(self.unit, "simulate_unit", UNITS)
        if self.photons is not None:
            check_number(self.photons, "simulate_photons", low=0.0, open_low=True)
            if self.noise:
                raise ConfigError(
                    "two kinds of noise", where="simulate_noise", expected="0 with photons", got=self.noise
                )
        elif self.electronic_std:
            raise ConfigError(
                "electronics without photons", where="simulate_electronic_std", mend="set simulate_photons as well"
            )

    def generator(self) -> torch.Generator:
        """Return what draws the noise. Realization 0 has the noise of a seed alone, as before there were others."""
        number = (self.realization,) if self.realization else ()
        return torch.Generator().manual_seed(key_seed(self.seed, "simulate", *number))


def simulate(
    volume: Tensor,
    geometry: VolumeGeometry,
    how: Simulation,
    *,
    unit: str = "arbitrary",
    where: str = "image",
    source_sha256: str | None = None,
) -> tuple[Measurement, Operator]:
    """Measure a volume.

    Args:
        volume: (1, X, Y, Z), real or complex.
        geometry: its geometry.
        how: the acquisition.
        unit: the volume's, unless ``how`` names one.
        where: name of the volume for messages.
        source_sha256: hash of the volume's file, to put into the measurement.

    Returns:
        The measurement and the operator that made it.

    Raises:
        InputError: voxels that are not finite, an empty measurement, or a unit that the operator does not measure.
        ConfigError: photons without attenuation.
    """
    check_finite(volume, where)
    unit, spec = how.unit or unit, as_spec(how.operator, "operator")
    operator = build_operator(spec, geometry)
    act = unit_map(operator, unit)
    x = volume if volume.is_complex() else volume.to(operator.volume_dtype)
    if unit == "HU":
        x = torch.where(padding_mask(x), AIR, x)
    # Less than air attenuates nothing: rounding, or what a scanner writes outside its field of view.
    y = operator(act.to_network(x).clamp_min(0.0) if act.offset else x)
    if not bool((y != 0).any()):
        raise InputError("an empty volume: nothing is measured", where=where)
    weights, std = None, 0.0
    generator = how.generator()
    if how.photons is not None:
        y, weights, std = _count(y, operator, how, unit, generator)
    elif how.noise:
        y, std = _add_noise(y, operator, how.noise, generator)
    return Measurement(y, geometry, spec, std, weights, unit, source_sha256), operator


def simulate_file(
    volume: str | Path, output: str | Path, how: Simulation, *, reader: Any = AUTO, force: bool = False
) -> Measurement:
    """Measure the volume of a file, and write the measurement.

    Args:
        volume: an image that a reader reads.
        output: file to write, ``.h5``.
        how: the acquisition.
        reader: ``auto``, or the reader of the volume.
        force: replace a file.

    Returns:
        What was written.

    Raises:
        InputError: there is such a file, the volume cannot be read or is no image, or as :func:`simulate`.
        ConfigError: photons without attenuation, or a wrong option of the operator.
    """
    path = Path(output)
    if path.suffix != ".h5":
        raise InputError("not the name of a measurement file", where="--output", expected=".h5", got=path.name)
    if path.exists() and not force:
        raise InputError("the file exists", where=path.name, mend="choose another name, or use --force")
    _, image = read_scan(volume, reader)
    if image.operator is not None:
        raise InputError(
            "a measurement instead of a volume", where=Path(volume).name, got=f"data of {image.operator['name']}"
        )
    measured, _ = simulate(
        image.data,
        image.geometry,
        how,
        unit=image.unit,
        where=Path(volume).name,
        source_sha256=image.source_sha256,
    )
    measured = replace(measured, header=image.header)
    write_measurement(path, measured)
    return measured


def _add_noise(y: Tensor, operator: Operator, noise: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """Return the noisy measurement, and the standard deviation of each real component of its noise."""
    std = noise * float(y[y != 0].abs().square().mean().sqrt())
    drawn = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    # Entries that are 0 even for a random volume are not measured: k-space outside the mask, rays beside the slice.
    probe = torch.rand(operator.volume_shape, generator=generator).to(operator.volume_dtype)
    # torch draws complex numbers whose magnitude has unit variance: half of it in each component.
    return y + std * drawn * (operator(probe) != 0), std / 2**0.5 if y.is_complex() else std


def _count(
    y: Tensor, operator: Operator, how: Simulation, unit: str, generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """Return noisy line integrals, their weights, and the standard deviation of one of weight 1."""
    assert how.photons is not None
    image = operator.measurement_shape == (1, *operator.measured_geometry().shape)
    if y.is_complex() or image or unit == "arbitrary":
        raise ConfigError(
            "photon counts need line integrals of attenuation",
            where="simulate_photons",
            expected="a CT operator and a volume in HU or 1/mm",
            got=f"{type(operator).__name__}, {unit}",
            mend="set simulate_unit to HU, or simulate_photons to null",
        )
    counts = draw_counts(y, how.photons, how.electronic_std, generator)
    weights = line_integral_weights(counts, how.photons, how.electronic_std)
    # Weights are relative: the ray of the most photons says what a weight of 1 is.
    most = max(float(counts.max()), how.electronic_std, 1.0)
    std = (float(weights.max()) * (most + how.electronic_std**2)) ** 0.5 / most
    return counts_to_line_integrals(counts, how.photons, how.electronic_std).to(y.dtype), weights, std
