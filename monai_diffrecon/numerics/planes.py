# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes to batches of slices and back."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols.geometry import PLANE_AXIS

_PATTERNS = {
    "sagittal": ("c x y z -> x c y z", "x c y z -> c x y z"),
    "coronal": ("c x y z -> y c x z", "y c x z -> c x y z"),
    "axial": ("c x y z -> z c x y", "z c x y -> c x y z"),
}


def check_plane(plane: str, where: str = "plane") -> str:
    """Return ``plane`` if it names an anatomical plane.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(plane, str) or plane not in PLANE_AXIS:
        raise ConfigError("unknown plane", where=where, expected="sagittal, coronal or axial", got=repr(plane))
    return plane


def to_slices(x: Tensor, plane: str) -> Tensor:
    """Return the slices (N, C, H, W) of a volume (C, X, Y, Z); a view where possible."""
    return rearrange(x, _PATTERNS[check_plane(plane)][0])


def from_slices(slices: Tensor, plane: str) -> Tensor:
    """Return the volume (C, X, Y, Z) of slices (N, C, H, W)."""
    return rearrange(slices, _PATTERNS[check_plane(plane)][1])
