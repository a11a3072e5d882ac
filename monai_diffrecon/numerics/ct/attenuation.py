# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Hounsfield units, linear attenuation, and the statistics of transmitted photons."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.errors.options import check_number

#: Linear attenuation of water at 60 keV in 1/mm: NIST XCOM has 0.2059 cm^2/g, at 1 g/cm^3.
MU_WATER = 0.0206


def hu_to_attenuation(hu: Tensor, mu_water: float = MU_WATER) -> Tensor:
    """Return linear attenuation (1/mm), ``mu_water (1 + HU / 1000)``; -1000 HU, air, is 0.

    Raises:
        ConfigError: ``mu_water`` (1/mm) is not above 0.
    """
    return _positive(mu_water, "mu_water") * (1.0 + hu / 1000.0)


def attenuation_to_hu(attenuation: Tensor, mu_water: float = MU_WATER) -> Tensor:
    """Return Hounsfield units of linear attenuation (1/mm), ``1000 (mu / mu_water - 1)``.

    Raises:
        ConfigError: ``mu_water`` (1/mm) is not above 0.
    """
    return 1000.0 * (attenuation / _positive(mu_water, "mu_water") - 1.0)


def expected_counts(line_integrals: Tensor, photons: float) -> Tensor:
    """Return the mean number of photons behind line integrals of attenuation (no unit): Beer-Lambert's law.

    Args:
        line_integrals: of linear attenuation (1/mm) along mm.
        photons: photons a ray has without an object.

    Raises:
        ConfigError: ``photons`` is not above 0.
    """
    return _positive(photons, "photons") * torch.exp(-line_integrals)


def draw_counts(line_integrals: Tensor, photons: float, electronic_std: float, generator: torch.Generator) -> Tensor:
    """Return measured counts: Poisson photons plus Gaussian noise of the electronics; some may be negative.

    Args:
        line_integrals: of linear attenuation (1/mm) along mm.
        photons: photons a ray has without an object.
        electronic_std: standard deviation of the electronics, in photons.
        generator: source of the numbers; on the device of ``line_integrals``.

    Raises:
        ConfigError: ``photons`` is not above 0, or ``electronic_std`` is negative.
    """
    std = _not_negative(electronic_std, "electronic_std")
    counts = torch.poisson(expected_counts(line_integrals, photons), generator=generator)
    return counts + std * torch.randn(counts.shape, generator=generator, dtype=counts.dtype, device=counts.device)


def counts_to_line_integrals(counts: Tensor, photons: float, electronic_std: float = 0.0) -> Tensor:
    """Return ``-ln(counts / photons)``. Counts below ``max(1, electronic_std)`` are taken for that.

    The logarithm of a count within the noise of the electronics says nothing, and that of a negative one is none;
    :func:`line_integral_weights` gives such rays little weight.

    Raises:
        ConfigError: ``photons`` is not above 0, or ``electronic_std`` is negative.
    """
    return -torch.log(_floored(counts, electronic_std) / _positive(photons, "photons"))


def line_integral_weights(counts: Tensor, photons: float, electronic_std: float = 0.0) -> Tensor:
    """Return the inverse variances of measured line integrals, scaled to a mean of 1.

    ``counts^2 / (counts + electronic_std^2)`` (Thibault et al. 2006, "A recursive filter for noise reduction in
    statistical iterative tomographic imaging"), with the floor of :func:`counts_to_line_integrals`; ``photons``
    cancels.

    Raises:
        ConfigError: ``photons`` is not above 0, or ``electronic_std`` is negative.
    """
    _positive(photons, "photons")
    floored = _floored(counts, electronic_std)
    inverse_variance = floored * (floored / (floored + electronic_std**2))
    return inverse_variance / inverse_variance.mean()


def _floored(counts: Tensor, electronic_std: float) -> Tensor:
    return counts.clamp_min(max(1.0, _not_negative(electronic_std, "electronic_std")))


def _positive(value: float, where: str) -> float:
    return check_number(value, where, low=0.0, open_low=True)


def _not_negative(value: float, where: str) -> float:
    return check_number(value, where, low=0.0)
