# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Checking coil sensitivities."""

from __future__ import annotations

from torch import Tensor

from monai_diffrecon.errors import ConfigError


def check_coil_maps(coil_maps: object, shape: tuple[int, int, int]) -> int:
    """Return the number of coils.

    Args:
        coil_maps: complex sensitivities (coils, X, Y, Z).
        shape: voxels (X, Y, Z) of the volume.

    Raises:
        ConfigError: no complex maps of this volume.
    """
    if isinstance(coil_maps, Tensor) and coil_maps.is_complex() and coil_maps.ndim == 4:
        coils = int(coil_maps.shape[0])
        if coils > 0 and tuple(coil_maps.shape[1:]) == tuple(shape):
            return coils
    described = f"{coil_maps.dtype} {tuple(coil_maps.shape)}" if isinstance(coil_maps, Tensor) else repr(coil_maps)
    raise ConfigError(
        "not coil maps of this volume",
        where="operator#coil_maps",
        expected=f"a complex tensor (coils, {', '.join(map(str, shape))})",
        got=described,
    )
