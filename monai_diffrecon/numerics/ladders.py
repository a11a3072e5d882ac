# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Sigma schedules: descending noise levels."""

from __future__ import annotations

import numpy as np

from monai_diffrecon.errors import ConfigError

LADDERS = ("karras", "geometric")


def karras_ladder(steps: int, sigma_start: float, sigma_end: float, rho: float = 7.0) -> tuple[float, ...]:
    """Return ``steps`` levels from ``sigma_start`` to ``sigma_end``, both exact (Karras et al. 2022, equation 5)."""
    t = np.linspace(0.0, 1.0, steps) if steps > 1 else np.zeros(1)
    levels = (sigma_start ** (1 / rho) + t * (sigma_end ** (1 / rho) - sigma_start ** (1 / rho))) ** rho
    # The powers round: a first level above sigma_start would be one that the network does not know.
    inner = np.clip(levels[1:-1], sigma_end, sigma_start)
    return tuple(float(s) for s in (sigma_start, *inner, sigma_end)[:steps])


def geometric_ladder(steps: int, sigma_start: float, sigma_end: float) -> tuple[float, ...]:
    """Return ``steps`` levels falling by a constant factor (the VE-SDE of Song et al. 2021, section 3.4)."""
    t = np.linspace(0.0, 1.0, steps) if steps > 1 else np.zeros(1)
    levels = [float(s) for s in sigma_start * (sigma_end / sigma_start) ** t]
    return (*levels[:-1], sigma_end) if steps > 1 else tuple(levels)


def ladder(name: str, steps: int, sigma_start: float, sigma_end: float, *, rho: float = 7.0) -> tuple[float, ...]:
    """Return the sigma schedule called ``name``.

    Raises:
        ConfigError: unknown name, no step, or levels that do not fall.
    """
    if name not in LADDERS:
        raise ConfigError(
            "unknown sigma schedule", where="sampler#ladder", expected=" or ".join(LADDERS), got=repr(name)
        )
    if steps < 1:
        raise ConfigError("too few steps", where="sampler#steps", expected="1 or more", got=steps)
    if not sigma_start >= sigma_end > 0:
        raise ConfigError(
            "a sigma schedule must fall",
            where="sampler",
            expected="sigma_start >= sigma_end > 0",
            got=f"sigma_start {sigma_start:g}, sigma_end {sigma_end:g}",
        )
    if name == "karras":
        return karras_ladder(steps, sigma_start, sigma_end, rho)
    return geometric_ladder(steps, sigma_start, sigma_end)
