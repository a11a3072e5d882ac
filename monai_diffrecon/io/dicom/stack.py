# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""DICOM slices as one volume: their order, their affine, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.dicom.slices import DicomSlice

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Slices closer than this (mm) lie at one position.
_SAME = 0.01


@dataclass(frozen=True)
class DicomStack:
    """Slices in the order of their positions.

    Attributes:
        slices: the slices, along the normal of their plane.
        affine: 4 x 4, (column, row, slice) to RAS+ in mm.
        gap: mm between slices, negative where they overlap.
        unit: unit of their values.
    """

    slices: tuple[DicomSlice, ...]
    affine: np.ndarray
    gap: float
    unit: str


def stack_slices(slices: Sequence[DicomSlice], where: str, *, leaning: bool = False) -> DicomStack:
    """Order slices along their normal.

    Args:
        slices: the slices of one series, in any order.
        where: name of the series for messages.
        leaning: do not refuse a stack that leans.

    Raises:
        InputError: they are no volume: mixed, missing, twice there, or not stacked along their normal.
    """
    first = slices[0]
    _check_same(slices, where, "shapes", lambda s: s.shape != first.shape)
    _check_same(slices, where, "pixel spacings", lambda s: not np.allclose(s.spacing, first.spacing, rtol=1e-3))
    _check_same(slices, where, "orientations", lambda s: not np.allclose(s.directions, first.directions, atol=1e-3))
    _check_same(
        slices, where, "thicknesses", lambda s: not np.isclose(s.thickness or 0, first.thickness or 0, atol=0.01)
    )
    _check_same(slices, where, "units", lambda s: s.unit != first.unit)
    echo = first.marks.get("EchoTime", 0.0)
    _check_same(
        slices,
        where,
        "echo times",
        lambda s: not np.isclose(s.marks.get("EchoTime", 0.0), echo, rtol=0.01),
        mend="""choose an echo, --reader '{"name":"dicom","echo":1}'""",
    )
    normal = np.cross(*first.directions)
    ordered = sorted(slices, key=lambda s: float(s.position @ normal))
    positions = np.array([s.position for s in ordered])
    along = positions @ normal
    distance = _distance(along, first, where)
    step = (positions[-1] - positions[0]) / (len(ordered) - 1) if len(ordered) > 1 else normal * distance
    _check_straight(positions, normal, step, where, leaning=leaning)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = (d * s for d, s in zip(first.directions, first.spacing, strict=True))
    affine[:3, 2], affine[:3, 3] = step, positions[0]
    distance = float(step @ normal)  # a thickness is along the normal
    gap = 0.0 if first.thickness is None else distance - first.thickness
    # A header rounds: 0.625 mm may be said to be 0.63.
    gap = 0.0 if abs(gap) <= 0.01 * max(distance, 1.0) else gap
    return DicomStack(tuple(ordered), _LPS_TO_RAS @ affine, gap, first.unit)


def _check_same(
    slices: Sequence[DicomSlice],
    where: str,
    what: str,
    differs: Callable[[DicomSlice], bool],
    mend: str = "keep the slices of one kind, or name another series",
) -> None:
    """Refuse slices some of which differ from the first one."""
    differing = [s for s in slices if differs(s)]
    if differing:
        others = len(differing)
        raise InputError(
            f"slices of mixed {what}",
            where=where,
            expected="one kind",
            got=f"{len(slices) - others} slices of one kind and {others} of others, first "
            + (f"frame {differing[0].frame + 1}" if differing[0].frame is not None else _place(differing[0])),
            mend=mend,
        )


def _place(one: DicomSlice) -> str:
    """Return which file of its folder a slice is, by name; a name itself may name a patient."""
    names = sorted(path.name for path in one.path.parent.iterdir())
    return f"file {names.index(one.path.name) + 1} of {len(names)}"


def _distance(along: np.ndarray, first: DicomSlice, where: str) -> float:
    """Return the distance (mm) of slices from their positions along the normal."""
    if len(along) == 1:
        distance = first.distance or first.thickness
        if distance is None:
            raise InputError(
                "a single slice of unknown thickness",
                where=where,
                expected="SliceThickness",
                mend="add it to the header",
            )
        return distance
    steps = np.diff(along)
    twice = np.flatnonzero(steps < _SAME)
    if len(twice):
        raise InputError(
            "several slices at the same position",
            where=where,
            expected="every position once",
            got=f"{len(twice)} more, the first at {along[twice[0]]:.2f} mm along the normal",
            mend="keep one echo, phase or time point, and each file once",
        )
    distance = float(np.median(steps))
    uneven = np.flatnonzero(np.abs(steps - distance) > 0.02 * distance + _SAME)
    if len(uneven):
        i = uneven[np.argmax(steps[uneven])]
        missing = round(float(steps[i]) / distance) - 1
        whole = missing > 0 and abs(steps[i] - (missing + 1) * distance) <= 0.02 * distance + _SAME
        raise InputError(
            f"missing slices: {missing}" if whole else "slices with uneven spacing",
            where=where,
            expected=f"{distance:.2f} mm from slice to slice",
            got=f"{steps[i]:.2f} mm between those at {along[i]:.2f} and {along[i + 1]:.2f} mm along the normal",
            mend="copy the missing slices" if whole else "resample the series to even spacing first",
        )
    return distance


def _check_straight(
    positions: np.ndarray, normal: np.ndarray, step: np.ndarray, where: str, *, leaning: bool = False
) -> None:
    """Refuse a stack that leans, as gantry tilt of CT makes it, or that wanders."""
    offsets = positions - positions[0]
    along = offsets @ normal
    limit = max(0.1, 1e-3 * float(along.max()))
    wandering = float(np.linalg.norm(offsets - np.arange(len(offsets))[:, None] * step, axis=1).max())
    aside = np.linalg.norm(offsets - along[:, None] * normal, axis=1)
    if wandering > limit and (leaning or aside.max() > limit):
        raise InputError(
            "slices that are shifted relative to one another",
            where=where,
            expected=f"all on a line within {limit:.2g} mm",
            got=f"{wandering:.1f} mm off",
            mend="resample the series to a straight stack first",
        )
    if aside.max() > limit and not leaning:
        tilt = float(np.degrees(np.arctan2(aside[-1], along[-1])))
        raise InputError(
            "a sheared (gantry-tilted) stack",
            where=where,
            expected="0 degrees",
            got=f"{tilt:.1f} degrees",
            mend="resample it to a straight stack with --correct_tilt true or another tool (dcm2niix)",
        )
