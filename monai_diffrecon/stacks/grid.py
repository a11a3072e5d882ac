# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The isotropic volume that holds all stacks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.operators._stack_points import Stack
from monai_diffrecon.protocols import VolumeGeometry

#: More voxels than so many times those that were measured are mostly made up.
_MOST_UNMEASURED = 40


def common_grid(stacks: Sequence[Stack], spacing: float) -> VolumeGeometry:
    """Return the smallest volume that holds all stacks, along the axes of the first.

    Args:
        stacks: at least one.
        spacing: of the volume in mm.

    Raises:
        InputError: the stacks lie too far apart for one volume.
    """
    axes = stacks[0].affine[:3, :3] / stacks[0].spacing
    corners = np.concatenate([_corners(stack) for stack in stacks]) @ np.linalg.inv(axes).T
    low, high = corners.min(0), corners.max(0)
    # Voxels of the first stack's pixels keep their place if they are as large as those of the volume.
    start = (_corners(stacks[0]) @ np.linalg.inv(axes).T).min(0)
    low = start - np.ceil((start - low) / spacing - 1e-3) * spacing
    shape = np.ceil((high - low) / spacing - 1e-3).astype(int)
    measured = sum(np.prod(np.array(stack.shape) * stack.spacing) for stack in stacks)
    if np.prod(shape * spacing) > _MOST_UNMEASURED * measured:
        raise InputError(
            "the stacks lie too far apart for one volume", where="SCAN", mend="check that they show one body part"
        )
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = axes @ (low + spacing / 2)
    return geometry_of([int(n) for n in shape], affine)


def _corners(stack: Stack) -> np.ndarray:
    """Return the corners (8, 3) of what a stack covers, in the world (mm); slices reach half their thickness."""
    half = np.full(3, 0.5)
    half[stack.axis] = 0.5 * stack.thickness / stack.spacing[stack.axis]
    ends = [(-h, n - 1 + h) for h, n in zip(half, stack.shape, strict=True)]
    return np.array([(stack.affine @ (*corner, 1.0))[:3] for corner in product(*ends)])
