# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Rigid registration of images by ITK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

#: Steps of the optimizer in mm: the first, and the one at which it stops.
_FIRST_STEP, _LAST_STEP = 1.0, 1e-3
_ITERATIONS = 200
_BINS = 32


def register(
    fixed: np.ndarray,
    fixed_affine: np.ndarray,
    moving: np.ndarray,
    moving_affine: np.ndarray,
    start: np.ndarray,
    *,
    levels: Sequence[int] = (2, 1),
) -> np.ndarray:
    """Return the rigid motion (4, 4) in mm that takes a point of the fixed image to the same point of the moving one.

    By mutual information (Mattes et al., IEEE Trans Med Imaging 22(1), 2003), which asks nothing of the intensities,
    over all voxels of the fixed image; the moving one is interpolated. The same numbers give the same motion.

    Args:
        fixed: (X, Y, Z), and its affine (4, 4), voxel to world in mm.
        fixed_affine: its affine.
        moving: (X, Y, Z), finely sampled.
        moving_affine: its affine.
        start: the motion (4, 4) to start from.
        levels: by how many voxels both images are thinned, one search after the other; they are smoothed as much.

    Returns:
        The motion, or ``start`` where the images do not overlap.
    """
    import itk

    image_type = itk.Image[itk.F, 3]
    centre = (fixed_affine @ np.r_[(np.array(fixed.shape) - 1) / 2, 1.0])[:3]
    motion = itk.Euler3DTransform[itk.D].New()
    motion.SetCenter(centre.tolist())
    motion.SetMatrix(itk.matrix_from_array(np.ascontiguousarray(start[:3, :3])), 1e-4)
    motion.SetTranslation((start[:3, :3] @ centre + start[:3, 3] - centre).tolist())
    metric = itk.MattesMutualInformationImageToImageMetricv4[image_type, image_type].New(NumberOfHistogramBins=_BINS)
    metric.SetMaximumNumberOfWorkUnits(1)  # sums in the same order on every machine
    optimizer = itk.RegularStepGradientDescentOptimizerv4[itk.D].New(
        LearningRate=_FIRST_STEP,
        MinimumStepLength=_LAST_STEP,
        NumberOfIterations=_ITERATIONS,
        RelaxationFactor=0.6,
    )
    optimizer.SetScalesEstimator(itk.RegistrationParameterScalesFromPhysicalShift[type(metric)].New(Metric=metric))
    method = itk.ImageRegistrationMethodv4[image_type, image_type].New(
        FixedImage=_itk_image(fixed, fixed_affine),
        MovingImage=_itk_image(moving, moving_affine),
        Metric=metric,
        Optimizer=optimizer,
        InitialTransform=motion,
    )
    method.SetNumberOfLevels(len(levels))
    method.SetShrinkFactorsPerLevel(list(levels))
    method.SetSmoothingSigmasPerLevel([float(n - 1) for n in levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    try:
        method.Update()
    except RuntimeError:  # too few points of one lie within the other
        return start
    motion.SetParameters(method.GetModifiableTransform().GetParameters())
    out = np.eye(4)
    out[:3, :3] = itk.array_from_matrix(motion.GetMatrix())
    out[:3, 3] = np.array(motion.GetOffset())
    return out


def _itk_image(voxels: np.ndarray, affine: np.ndarray) -> Any:
    """Return an image of ITK, in whose world axes are those of the affine."""
    import itk

    image = itk.image_from_array(np.ascontiguousarray(voxels.T, dtype=np.float32))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(affine[:3, :3] / spacing)))
    return image
