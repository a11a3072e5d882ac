# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Lesions inserted into backgrounds: what a method must not lose, and whose places it never learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_integer, check_number
from monai_diffrecon.evaluation.image_quality.phantoms.anatomy import BODIES
from monai_diffrecon.evaluation.image_quality.phantoms.phantom import (
    Phantom,
    centred_grid,
    checked_numbers,
    finished,
    plain_body,
)
from monai_diffrecon.evaluation.image_quality.phantoms.placement import places
from monai_diffrecon.evaluation.image_quality.phantoms.shapes import Ellipsoid, Point, Shape, Tube
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.protocols import Site, VolumeGeometry

#: Kinds of lesions -> what they are.
KINDS = {
    "nodule": "a sphere",
    "ms_lesion": "an ellipsoid in white matter",
    "bleed": "three spheres that touch",
    "calcification": "a small dense sphere",
    "vessel": "an oblique tube, four diameters long at least",
}
#: Modality -> the usual lesions: kind -> (diameters in mm, contrasts).
USUAL: dict[str, tuple[dict[str, Any], ...]] = {
    "CT": (
        *({"kind": "nodule", "diameter": d, "contrast": c} for d in (4.0, 6.0, 10.0) for c in (40.0, 100.0)),
        {"kind": "calcification", "diameter": 1.5, "contrast": 800.0},
        {"kind": "vessel", "diameter": 2.0, "contrast": 150.0},
    ),
    "MR": (
        *({"kind": "ms_lesion", "diameter": d, "contrast": c} for d in (4.0, 6.0, 10.0) for c in (-100.0, -250.0)),
        {"kind": "bleed", "diameter": 5.0, "contrast": -500.0},
        {"kind": "vessel", "diameter": 2.0, "contrast": -250.0},
    ),
}
_LONG = 12.0  # least length of a vessel, mm
#: Backgrounds that are not files.
BACKGROUNDS = ("anatomy", "plain")


def lesions(
    geometry: VolumeGeometry,
    modality: str,
    *,
    lesions: Sequence[Mapping[str, Any]] | None = None,
    background: str = "anatomy",
    tissue: Sequence[float] | None = None,
    most: int = 200,
    seed: int = 0,
) -> Phantom:
    """Return a background with lesions at random places, as many as it holds.

    Args:
        geometry: the grid; that of the file for a background from a file.
        modality: ``CT`` or ``MR``.
        lesions: ``{"kind": ..., "diameter": mm, "contrast": intensity}`` each; None takes the usual ones.
        background: ``anatomy`` (drawn for each seed), ``plain``, or a file that a reader reads.
        tissue: lowest and highest intensity of the tissue that lesions lie in; needed for a file.
        most: most lesions.
        seed: of places and anatomy.

    Raises:
        ConfigError: an unknown lesion, or a file without ``tissue``.
        InputError: no room for each lesion once, or a file that cannot be read.
    """
    most = check_integer(most, "phantoms#lesions#most", low=1)
    if lesions is not None and (not isinstance(lesions, list | tuple) or not lesions):
        raise ConfigError("not a list of lesions", where="phantoms#lesions#lesions", got=f"{lesions!r:.60}")
    wanted = [
        _checked(lesion, f"lesions#{i}") for i, lesion in enumerate(USUAL[modality] if lesions is None else lesions)
    ]
    geometry, without, allowed = _background(geometry, modality, background, tissue, seed)
    sites, signals = [], list[tuple[Shape, float]]()
    radii = [_extent(kind, diameter) / 2 for kind, diameter, _ in wanted]
    turn, placed = np.random.default_rng([seed, 5]), set[int]()
    for number, place in places(allowed, geometry, radii, most=most, seed=seed):
        placed.add(number)
        kind, diameter, contrast = wanted[number]
        signals += [(shape, contrast) for shape in _shapes(kind, place, diameter / 2, turn)]
        sites.append(Site("lesion", place, diameter / 2, _extent(kind, diameter) / 2, contrast, name=kind))
    if len(placed) < len(wanted) and most >= len(wanted):
        raise InputError(
            "no room for the lesions",
            where="phantoms#lesions",
            expected=f"tissue for each of {len(wanted)}",
            got=f"room for {len(placed)}",
            mend="give a larger grid, smaller or fewer lesions, or a wider tissue",
        )
    return finished(geometry, modality, without, sites, signals)


def _checked(lesion: Mapping[str, Any], where: str) -> tuple[str, float, float]:
    if not isinstance(lesion, Mapping) or {*lesion} != {"kind", "diameter", "contrast"} or lesion["kind"] not in KINDS:
        raise ConfigError(
            "not a lesion",
            where=where,
            expected=f'{{"kind": one of {", ".join(KINDS)}, "diameter": mm, "contrast": intensity}}',
            got=f"{lesion!r:.80}",
        )
    (diameter,) = checked_numbers([lesion["diameter"]], f"{where}#diameter", positive=True)
    (contrast,) = checked_numbers([lesion["contrast"]], f"{where}#contrast")
    return str(lesion["kind"]), diameter, contrast


def _extent(kind: str, diameter: float) -> float:
    """Return the largest size of a lesion, in mm."""
    return {"vessel": max(4 * diameter, _LONG), "bleed": 2 * diameter}.get(kind, diameter)


def _shapes(kind: str, centre: Point, radius: float, turn: np.random.Generator) -> list[Shape]:
    """Return the bodies of a lesion; those of one lesion do not overlap."""
    direction = turn.normal(size=3)
    direction /= np.linalg.norm(direction)
    if kind == "vessel":
        half = _extent(kind, 2 * radius) / 2 - radius
        ends = [tuple(float(c + sign * half * d) for c, d in zip(centre, direction, strict=True)) for sign in (-1, 1)]
        return [Tube((ends[0][0], ends[0][1], ends[0][2]), (ends[1][0], ends[1][1], ends[1][2]), radius)]
    if kind == "bleed":
        shifts, radii = (-1.5, 0.0, 1.3), (0.7, 0.8, 0.5)
        spheres = []
        for shift, relative in zip(shifts, radii, strict=True):
            x, y, z = (float(c + shift * radius * d) for c, d in zip(centre, direction, strict=True))
            spheres.append(Ellipsoid((x, y, z), (relative * radius,) * 3))
        return list(spheres)
    if kind == "ms_lesion":
        x, y, z = turn.permutation([1.0, 0.75, 0.85])
        return [Ellipsoid(centre, (x * radius, y * radius, z * radius))]
    return [Ellipsoid(centre, (radius, radius, radius))]


def _background(
    geometry: VolumeGeometry, modality: str, background: str, tissue: Sequence[float] | None, seed: int
) -> tuple[VolumeGeometry, np.ndarray, np.ndarray]:
    """Return the grid, the volume, and where lesions may lie."""
    if background == "anatomy":
        volume, allowed = BODIES[modality](geometry, seed)
        return geometry, volume, allowed
    if background == "plain":
        volume, _ = plain_body(geometry, modality)
        allowed = volume == volume.max()
        return geometry, volume, allowed
    ends = [check_number(end, "phantoms#lesions#tissue") for end in tissue] if isinstance(tissue, list | tuple) else []
    if len(ends) != 2 or ends[0] >= ends[1]:
        raise ConfigError(
            "a background from a file without its tissue",
            where="phantoms#lesions#tissue",
            expected="[lowest, highest] intensity of the tissue that lesions lie in",
        )
    scan = read_scan(Path(background))[1]
    volume = scan.data[0].float().numpy().astype(float)
    affine = np.asarray(affine_of(scan.geometry))
    if volume.ndim != 3 or not np.allclose(affine[:3, :3], np.diag(np.diag(affine)[:3]), atol=1e-4):
        raise InputError("an oblique background", where="phantoms#lesions#background", mend="resample it to the axes")
    return centred_grid(volume.shape, scan.geometry.spacing), volume, (volume >= ends[0]) & (volume <= ends[1])
