# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Several thick scans as one measurement of a thin volume."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_choice, check_number
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.numerics.planes import thick_plane
from monai_diffrecon.operators._stack_points import Stack, checked_poses, mean_pose
from monai_diffrecon.protocols import PLANE_AXIS, Measurement
from monai_diffrecon.stacks.align import Aligned, Aligner, spec_of
from monai_diffrecon.stacks.grid import common_grid
from monai_diffrecon.stacks.noise import noise_of

#: What may have moved between and within the scans.
MOTIONS = ("none", "stacks", "slices")
#: Times that stacks, and slices, are registered with what the others make.
_ROUNDS, _SLICE_ROUNDS = 2, 3
#: Correlation of a stack with what the others make of it, below which it is not the same thing.
_STRANGE = 0.5
#: Misfit of a stack (see Aligned) above which slices may lie wrong: stacks that lie right stay below 1.2
#: (``tests/stacks/test_combine.py``), a tenth of the slices 3.7 mm wrong makes 1.5 (``scripts/studies/stacks``).
_DOUBTFUL = 1.3
#: What to do about stacks that fit badly.
_ADVICE = {
    "none": "Let the stacks be registered (motion stacks or slices), or check where the files say that they lie",
    "stacks": "If something moved during a stack, use motion slices; or a registration has failed: look at the volume",
    "slices": "Slices may have been misplaced, or the stacks differ in more than their place: look at the volume",
}
#: What is left of a slice's weight when it is said to be an outlier.
_OUTLIER = 0.5


def combine_stacks(
    scans: Sequence[Measurement],
    *,
    spacing: float = 1.0,
    motion: str = "stacks",
    profile: str = "boxcar",
    poses: Tensor | None = None,
) -> Measurement:
    """Return thick scans of one body part as a measurement of one isotropic volume.

    The volume has the axes of the first scan, which is the reference for position and intensity, and holds all scans.
    Intensities in HU are left alone. The noise is
    estimated from smooth tissue. Slices that are unlike what the other scans say are given less weight. What was
    found is said in the notices.

    Args:
        scans: images with thick slices, as their readers return them; thickness and gap are those of their headers.
        spacing: of the volume in mm.
        motion: what may have moved: ``none``, ``stacks`` against each other, or ``slices`` each on its own too.
        profile: of the slices, ``boxcar`` or ``gaussian``.
        poses: (slices of all scans, 4, 4), where each slice is known to have been, for instance by a tracker, as
            :class:`~monai_diffrecon.operators.stacks.Stacks` takes them. With motion ``none``, which believes them.

    Returns:
        the measurement, of the operator ``stacks``, to be written by
        :func:`~monai_diffrecon.io.measurement.file.write_measurement` or reconstructed.

    Raises:
        InputError: fewer than two scans, one that is no image with thick slices, or scans that show different things.
        ConfigError: an option is wrong.
    """
    check_choice(motion, "motion", MOTIONS)
    spacing = check_number(spacing, "spacing", low=0.0, open_low=True)
    if len(scans) < 2:
        raise InputError("too few scans", where="SCAN", expected="at least two stacks", got=len(scans))
    stacks = [_stack_of(scan, i) for i, scan in enumerate(scans)]
    _check_alike(scans)
    images = [scan.data[0].float() for scan in scans]
    unit = scans[0].unit
    known = None if poses is None else _known_poses(poses, stacks, motion)
    geometry = common_grid(stacks, spacing)
    aligner = Aligner(geometry, stacks, images, profile, intensities=unit == "arbitrary", poses=known)
    aligned = aligner.align(
        rounds=0 if motion == "none" else _ROUNDS, slice_rounds=_SLICE_ROUNDS if motion == "slices" else 0
    )
    for number, agreement in enumerate(aligned.agreements):
        if not agreement >= _STRANGE:
            raise InputError(
                "the scans do not fit together",
                where=f"SCAN {number + 1}",
                expected=f"a correlation of at least {_STRANGE} with what the others make of it",
                got=f"{agreement:.2f}",
                mend="use scans of one body part and one contrast, or look at their orientations",
            )
    parts = [aligner.part(aligned, i) for i in range(len(stacks))]
    weights = torch.cat([part.weights for part in parts])
    hashes = [scan.source_sha256 or "" for scan in scans]
    return Measurement(
        data=torch.cat([part.y for part in parts]),
        geometry=aligner.geometry,
        operator={
            "name": "stacks",
            "stacks": [spec_of(stack) for stack in stacks],
            "profile": profile,
            "poses": torch.from_numpy(np.concatenate(aligned.poses)),
        },
        noise_std=_noise(aligner, aligned),
        weights=None if bool((weights == 1.0).all()) else weights,
        unit=unit,
        source_sha256=hashlib.sha256("".join(hashes).encode()).hexdigest() if all(hashes) else None,
        header=scans[0].header,
        notices=(
            *dict.fromkeys(notice for scan in scans for notice in scan.notices),
            *_notices(aligner, aligned, motion),
        ),
    )


def _stack_of(scan: Measurement, number: int) -> Stack:
    where, geometry = f"SCAN {number + 1}", scan.geometry
    plane = thick_plane(geometry)
    if scan.operator is not None or scan.data.is_complex() or plane is None:
        raise InputError("no image with thick slices", where=where, expected="one voxel size larger than the others")
    if geometry.affine is None:
        raise InputError("does not say where it lies", where=where, mend="use a file with an affine")
    axis = PLANE_AXIS[plane]
    thickness = geometry.spacing[axis] - geometry.gaps[axis]
    return Stack(geometry.shape, affine_of(geometry), axis, thickness)


def _known_poses(poses: Tensor, stacks: Sequence[Stack], motion: str) -> tuple[np.ndarray, ...]:
    """Return the poses (slices, 4, 4) of each stack."""
    if motion != "none":
        raise ConfigError(
            "poses that are known are not registered",
            where="poses",
            expected="motion none",
            got=f"motion {motion}",
            mend="say motion none, or leave the poses to be found",
        )
    checked = checked_poses(poses, sum(stack.slices for stack in stacks), "poses")
    return tuple(part.numpy() for part in checked.split([stack.slices for stack in stacks]))


def _check_alike(scans: Sequence[Measurement]) -> None:
    """Refuse scans of different units, modalities or protocols of which the headers say so."""
    for name, values in (
        ("unit", [scan.unit for scan in scans]),
        ("modality", [(scan.header or {}).get("Modality") for scan in scans]),
    ):
        said = sorted({str(value) for value in values if value is not None})
        if len(said) > 1:
            raise InputError(f"scans of different {name}", where="SCAN", expected="one", got=", ".join(said))


def _noise(aligner: Aligner, aligned: Aligned) -> float:
    """Return the root mean square of the noise of the stacks, at the intensity of the first."""
    parts = zip(aligner.stacks, aligner.images, aligned.factors, strict=True)
    return float(np.sqrt(np.mean([(noise_of(image, stack.axis) / factor) ** 2 for stack, image, factor in parts])))


def _notices(aligner: Aligner, aligned: Aligned, motion: str) -> list[str]:
    """Return what was found of the scans, a sentence each."""
    found = []
    for number in range(1, len(aligner.stacks)):
        pose = mean_pose(aligned.poses[number])
        degrees = float(np.degrees(np.arccos(np.clip((np.trace(pose[:3, :3]) - 1) / 2, -1, 1))))
        centre = (aligner.stacks[number].affine @ (*((np.array(aligner.stacks[number].shape) - 1) / 2), 1.0))[:3]
        moved = float(np.linalg.norm(pose[:3, :3] @ centre + pose[:3, 3] - centre))
        if motion != "none":
            found.append(f"stack {number + 1} had moved by {moved:.1f} mm and {degrees:.1f} degrees against stack 1")
        if aligner.intensities:
            found.append(f"the intensities of stack {number + 1} were divided by {aligned.factors[number]:.3g}")
    if max(aligned.misfits) > _DOUBTFUL:
        worst = int(np.argmax(aligned.misfits))
        found.append(
            f"the stacks fit badly: stack {worst + 1} differs {aligned.misfits[worst]:.1f} times as much from what the "
            f"others make of it as noise and thickness explain (correlation {aligned.agreements[worst]:.2f}). "
            + _ADVICE[motion]
        )
    for number, weights in enumerate(aligned.weights):
        outliers = [str(i + 1) for i in np.flatnonzero(weights < _OUTLIER)]
        if outliers:
            end = ("left", "posterior end", "inferior end")[aligner.stacks[number].axis]
            are = "slice {} is" if len(outliers) == 1 else "slices {} are"
            found.append(
                f"{are.format(', '.join(outliers))} unlike the other stacks and hardly used "
                f"(stack {number + 1}, counted from the {end})"
            )
    return found
