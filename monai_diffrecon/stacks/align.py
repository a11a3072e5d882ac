# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Where each stack, or each slice, was when it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.operators._stack_points import Stack, mean_pose
from monai_diffrecon.operators.stacks import Stacks
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.stacks.estimate import Part, as_measured, smooth_estimate
from monai_diffrecon.stacks.noise import noise_of
from monai_diffrecon.stacks.registration import register

#: A slice is an outlier from so many standard deviations (of the median absolute deviation) above the median error,
#: if its error is also so many times the median.
_DEVIATIONS, _TIMES = 4.0, 1.5
#: A slice says nothing of the intensities with so little of the signal of the brightest.
_FAINT = 0.2
#: Part of a voxel of a stack that lies in the volume, from which it counts as within.
_INSIDE = 0.999


@dataclass(frozen=True)
class Aligned:
    """Stacks that fit together.

    Attributes:
        poses: of each stack (slices, 4, 4), see :class:`~monai_diffrecon.operators.stacks.Stacks`.
        factors: of each stack, what its intensities are divided by.
        weights: of each stack, the weight (slices,) of its slices: 1, or less for outliers.
        agreements: of each stack, the correlation of its voxels with what the other stacks make of them; empty for one
            stack alone.
        misfits: of each stack, how many times as much its voxels differ from what the other stacks make of them as they
            would if all had measured one volume; about 1 to 2 where all lie right. Empty for one stack alone.
    """

    poses: tuple[np.ndarray, ...]
    factors: tuple[float, ...]
    weights: tuple[np.ndarray, ...]
    agreements: tuple[float, ...] = ()
    misfits: tuple[float, ...] = ()


class Aligner:
    """Registers stacks with each other, the first being the reference.

    A stack is compared with the volume that the other stacks make (rigid slice-to-volume reconstruction,
    Kuklisova-Murgasova et al., Med Image Anal 16(8), 2012; Rousseau et al., Acad Radiol 13(9), 2006), averaged along
    its own slice profile, so that both show the same blur. The volume is made without the stack, which would otherwise
    fit wherever it is.

    Args:
        geometry: the volume.
        stacks: at least one; of one stack alone, only its slices can be aligned.
        images: the image (X, Y, Z) of each.
        profile: of the slices, ``boxcar`` or ``gaussian``.
        intensities: bring the stacks to the intensity of the first.
        poses: of each stack (slices, 4, 4), where to start from; None for where the headers say.
    """

    def __init__(
        self,
        geometry: VolumeGeometry,
        stacks: Sequence[Stack],
        images: Sequence[Tensor],
        profile: str = "boxcar",
        *,
        intensities: bool = True,
        poses: Sequence[np.ndarray] | None = None,
    ) -> None:
        self.geometry, self.stacks, self.profile, self.intensities = geometry, tuple(stacks), profile, intensities
        self.images = tuple(image.float() for image in images)
        self.start = Aligned(
            tuple(np.tile(np.eye(4), (stack.slices, 1, 1)) for stack in stacks) if poses is None else tuple(poses),
            (1.0,) * len(stacks),
            tuple(np.ones(stack.slices) for stack in stacks),
        )
        self._operators: dict[int, tuple[bytes, Stacks, Tensor]] = {}

    def align(self, *, rounds: int = 2, slice_rounds: int = 0) -> Aligned:
        """Return the stacks aligned as wholes, and then slice by slice.

        Args:
            rounds: times that each stack is registered with what the others make, after a first registration with the
                first stack; 0 leaves the stacks where their headers say.
            slice_rounds: times that each slice is registered on its own.
        """
        now = self.start
        numbers = range(1, len(self.stacks))
        for k in numbers if rounds else ():
            now = self._moved(now, k, self._volume(now, [0]), levels=(4, 2))
        for _ in range(rounds):
            now = self._matched(now)
            for k in numbers:
                now = self._moved(now, k, self._volume(now, self._others(k)))
        for _ in range(slice_rounds):
            volume = smooth_estimate(self._parts(self._matched(now)))
            for k in range(len(self.stacks)):
                now = self._slices_moved(now, k, volume)
        return self._weighed(self._matched(now))

    def part(self, now: Aligned, k: int) -> Part:
        """Return what a stack measures of the volume, at the intensity of the first.

        Voxels that lie in part outside the volume, where the subject may go on, have no weight.
        """
        stack, key = self.stacks[k], now.poses[k].tobytes()
        if k not in self._operators or self._operators[k][0] != key:
            made = Stacks(self.geometry, [spec_of(stack)], self.profile, torch.from_numpy(now.poses[k]))
            self._operators[k] = key, made, made(torch.ones(made.volume_shape)) > _INSIDE
        _, operator, inside = self._operators[k]
        weights = torch.from_numpy(now.weights[k]).float().view([-1 if i == stack.axis else 1 for i in range(3)])
        return Part(
            operator,
            self.images[k].reshape(-1) / now.factors[k],
            weights.expand(stack.shape).reshape(-1) * inside,
        )

    def _volume(self, now: Aligned, which: Sequence[int]) -> Tensor:
        return smooth_estimate([self.part(now, i) for i in which])

    def _others(self, k: int) -> list[int]:
        return [i for i in range(len(self.stacks)) if i != k]

    def _known(self, now: Aligned, k: int, which: Sequence[int]) -> Tensor:
        """Return which voxels (N,) of a stack lie within what others measure."""
        seen = torch.zeros((1, *self.geometry.shape))
        for i in which:
            operator = self.part(now, i).operator
            for (stack, poses), image in zip(operator.slices(), operator.images(self.part(now, i).y), strict=True):
                seen = torch.maximum(seen, operator.interpolated(stack, poses, image)[1])
        return self.part(now, k).operator(seen) > 0.95  # which leaves room for a spline's overshoot

    def _moved(self, now: Aligned, k: int, volume: Tensor, levels: tuple[int, ...] = (2, 1)) -> Aligned:
        stack, pose = self.stacks[k], mean_pose(now.poses[k])
        seen = as_measured(volume, self.geometry, stack, pose, self.profile)
        found = register(
            self.images[k].numpy(), stack.affine, seen, np.asarray(self.geometry.affine), pose, levels=levels
        )
        return _changed(now, "poses", k, np.tile(found, (stack.slices, 1, 1)))

    def _slices_moved(self, now: Aligned, k: int, volume: Tensor) -> Aligned:
        stack, poses = self.stacks[k], now.poses[k].copy()
        seen = as_measured(volume, self.geometry, stack, mean_pose(poses), self.profile)
        for number in range(stack.slices):
            image = self.images[k].narrow(stack.axis, number, 1).numpy()
            if image.std() > 0.0:
                at = stack.affine.copy()
                at[:3, 3] += number * at[:3, stack.axis]
                poses[number] = register(image, at, seen, np.asarray(self.geometry.affine), poses[number], levels=(1,))
        return _changed(now, "poses", k, poses)

    def _matched(self, now: Aligned) -> Aligned:
        """Bring the stacks to the intensity of the first: their slices have the same mean where both measure.

        The mean is what neither blur nor a small motion changes; the median over the slices is what a few bad ones do
        not change.
        """
        if not self.intensities or len(self.stacks) == 1:
            return now
        reference = self._volume(now, [0])
        for k, stack in enumerate(self.stacks[1:], start=1):
            known = self._known(now, k, [0])
            expected, found = (
                torch.where(known, v, 0.0).view(stack.shape).movedim(stack.axis, 0).flatten(1).sum(1)
                for v in (self.part(now, k).operator(reference), self.images[k].reshape(-1))
            )
            used = (expected > _FAINT * expected.max()) & (found > 0.0)
            if used.any():
                now = _changed(now, "factors", k, float((found[used] / expected[used]).median()))
        return now

    def _weighed(self, now: Aligned) -> Aligned:
        """Give slices that are unlike what the other stacks say less weight, and say how well the stacks fit."""
        if len(self.stacks) == 1:
            return now
        parts = self._parts(now)
        weights, agreements = [], []
        for k, (stack, part) in enumerate(zip(self.stacks, parts, strict=True)):
            expected, known = self._expected(parts, k), self._known(now, k, self._others(k))
            slices = [
                v.view(stack.shape).movedim(stack.axis, 0).flatten(1) for v in (expected * known, part.y * known, known)
            ]
            errors = ((slices[0] - slices[1]) ** 2).sum(1).div(slices[2].sum(1).clamp_min(1)).sqrt().numpy()
            weights.append(slice_weights_of(np.where(slices[2].any(1), errors, np.nan)))
            agreements.append(float(torch.corrcoef(torch.stack([expected[known], part.y[known]]))[0, 1]))
        now = replace(now, weights=tuple(weights), agreements=tuple(agreements))
        return replace(now, misfits=self._misfits(now))

    def _misfits(self, now: Aligned) -> tuple[float, ...]:
        """Compare each stack with what the others make of it, and so the stacks that the volume of all would give.

        What thick slices cannot show is missing in both: the ratio tells misplaced stacks from thick or few ones.
        """
        parts, misfits = self._parts(now), []
        volume = smooth_estimate(parts)
        alike = [replace(part, y=part.operator(volume)) for part in parts]
        for k, (stack, image) in enumerate(zip(self.stacks, self.images, strict=True)):
            weights = parts[k].weights * self._known(now, k, self._others(k))
            apart, blur = (
                float((weights * (self._expected(some, k) - some[k].y) ** 2).sum() / weights.sum().clamp_min(1)) ** 0.5
                for some in (parts, alike)
            )
            noise = noise_of(image, stack.axis) / now.factors[k]
            misfits.append(apart / max(float(np.hypot(blur, noise)), 1e-6 * apart, np.finfo(float).tiny))
        return tuple(misfits)

    def _parts(self, now: Aligned) -> list[Part]:
        return [self.part(now, k) for k in range(len(self.stacks))]

    def _expected(self, parts: Sequence[Part], k: int) -> Tensor:
        """Return what the other stacks make of one."""
        return parts[k].operator(smooth_estimate([parts[i] for i in self._others(k)]))


def slice_weights_of(errors: np.ndarray) -> np.ndarray:
    """Return the weights of slices with some errors (n,): 1, or the less, the further an outlier is from the median.

    A slice whose error is NaN, which nothing else measures, has weight 1.
    """
    weights = np.ones(len(errors))
    known = np.isfinite(errors)
    if known.sum() < 3:
        return weights
    median = np.median(errors[known])
    deviation = 1.4826 * np.median(np.abs(errors[known] - median))
    limit = max(median + _DEVIATIONS * deviation, _TIMES * median)
    outlying = known & (errors > limit)
    weights[outlying] = (limit / errors[outlying]) ** 4
    return weights


def spec_of(stack: Stack) -> dict[str, Any]:
    """Return a stack as the operator's option says it."""
    plane = ("sagittal", "coronal", "axial")[stack.axis]
    return {
        "shape": list(stack.shape),
        "affine": stack.affine.tolist(),
        "plane": plane,
        "thickness": stack.thickness,
    }


def _changed(now: Aligned, name: str, k: int, value: Any) -> Aligned:
    values = list(getattr(now, name))
    values[k] = value
    return replace(now, **{name: tuple(values)})
