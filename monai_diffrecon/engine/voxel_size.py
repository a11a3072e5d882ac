# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Voxels must be of a size that the networks were trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.pixel_range import describe_pixels, nearest_pixel
from monai_diffrecon.protocols import PLANE_AXIS, Operator, VolumeGeometry

#: (plane, spacing in the plane, tolerance) -> what to do about voxels of another size.
SpacingMend = Callable[[str, tuple[float, float], float], str]

#: Voxels may be interpolated so many times finer; beyond that most of what comes out is made up.
MOST_FINER = 1.5
_OR = "or raise inferer#spacing_tolerance"


def check_spacing(
    score: ScoreNetwork,
    geometry: VolumeGeometry,
    tolerance: float,
    thick_plane: str | None = None,
    mend: SpacingMend | None = None,
) -> None:
    """Refuse a volume whose voxels are not those the network was trained on.

    Args:
        score: the network with its plane and the in-plane spacing, or range of it, that it knows.
        geometry: the volume to reconstruct.
        tolerance: largest relative difference, also from the ends of a range.
        thick_plane: the plane of the thick slices that it is reconstructed from, or None.
        mend: says what to do about it; None: what helps an image.

    Raises:
        ConfigError: the in-plane spacing differs by more.
    """
    axes = {"sagittal": (1, 2), "coronal": (0, 2), "axial": (0, 1)}[score.plane]
    got = tuple(geometry.spacing[a] for a in axes)
    thick = None if thick_plane is None else PLANE_AXIS[thick_plane]
    # The axis that is reconstructed can have any voxel size, so it follows the other one.
    known = nearest_pixel(score.spacing, got, 1 - axes.index(thick) if thick in axes else None)
    wrong = {a: (g, e) for a, g, e in zip(axes, got, known, strict=True) if abs(g / e - 1.0) > tolerance}
    if wrong:
        raise ConfigError(
            f"voxels of another size than the {score.plane} network was trained on",
            where=f"bundle {score.name}",
            expected=f"{describe_pixels(score.spacing)} within {tolerance:.0%}",
            got=f"{got[0]:.3g} x {got[1]:.3g} mm",
            mend=_spacing_mend(wrong, thick) if mend is None else mend(score.plane, known, tolerance),
        )


def _spacing_mend(wrong: Mapping[int, tuple[float, float]], thick: int | None) -> str:
    """Return what helps: axis -> voxel size of the volume and of the network; and the axis that is reconstructed."""
    if thick is not None and thick in wrong:
        return f"set operator#target_spacing to {wrong[thick][1]:.4g}, the network's, {_OR}"
    axis, (got, expected) = max(wrong.items(), key=lambda item: item[1][0] / item[1][1])
    if got > MOST_FINER * expected:
        what = f"{got:.3g} to {expected:.3g} mm along {'XYZ'[axis]} is more than --resample true interpolates"
        return f"use networks of larger voxels, or the task that reconstructs that axis (slice_thickness): {what}"
    return f"resample the image (--resample true), {_OR}"


def check_shared_spacing(
    scores: Sequence[ScoreNetwork],
    plane: str,
    geometry: VolumeGeometry,
    tolerance: float,
    thick_plane: str | None = None,
    mend: SpacingMend | None = None,
) -> None:
    """Refuse a plane that shares the network of another one and whose voxels fit none of the networks.

    Args:
        scores: the networks with their planes.
        plane: a plane of the prior.
        geometry: the volume to reconstruct.
        tolerance: largest relative difference.
        thick_plane: the plane of the thick slices that it is reconstructed from, or None.
        mend: as of :func:`check_spacing`.

    Raises:
        ConfigError: no network of this plane, and voxels of another size than the networks were trained on.
    """
    if plane in {score.plane for score in scores}:
        return None
    errors = []
    for score in scores:
        try:
            return check_spacing(replace(score, plane=plane), geometry, tolerance, thick_plane, mend)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def spacing_mend(operator: Operator, plane: str, spacing: tuple[float, float], tolerance: float) -> str:
    """Return what to do about a measurement that brought its operator, and so cannot be resampled as an image.

    Args:
        operator: the measurement's operator.
        plane: the network's.
        spacing: the network's within its plane (mm), or that of its range which is nearest.
        tolerance: largest relative difference.
    """
    if not operator.complex_measurement:
        return f"use a network of voxels of this size, {_OR}"
    apart = operator.geometry.spacing[2]
    if plane != "axial" and operator.slice_axis("axial") is not None and abs(apart / spacing[1] - 1.0) > tolerance:
        return f"the slices are {apart:.3g} mm apart: use the axial network alone (--prior slices), {_OR}"
    option = f"{{'name': 'fastmri', 'spacing': {float(spacing[0])!r}}}"
    return f'have k-space cropped or padded to it: --reader "{option}", or ismrmrd or twix for such files, {_OR}'
