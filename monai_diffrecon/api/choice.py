# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The bundle and the task that a scan asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from monai_diffrecon.bundle.catalogue import read_task
from monai_diffrecon.bundle.metadata import checked_metadata
from monai_diffrecon.bundle.places import find_bundle
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.numerics.planes import thick_plane
from monai_diffrecon.presets.family import family_of
from monai_diffrecon.presets.overlays import TASK, overlays
from monai_diffrecon.protocols import PLANE_AXIS, Measurement

#: Modality -> the bundle that is taken unless the user names one.
USUAL = {"MR": "brain_mr", "CT": "body_ct"}
#: Slices so many times thicker than their pixels are worth reconstructing.
THICKER = 1.5
#: No tissue gives an MR image values below this; CT of air lies at -1000 HU.
_AIR_HU = -500.0


@dataclass(frozen=True)
class Choice:
    """How a scan is reconstructed.

    Attributes:
        bundle: root of the bundle.
        task: a task of the bundle, or None for its own settings.
        reasons: what was chosen and why, a sentence each.
    """

    bundle: Path
    task: str | None
    reasons: tuple[str, ...]


def choose(
    scan: Measurement,
    bundle: str | None = None,
    task: str | None = None,
    find: Callable[[str], Path] = find_bundle,
) -> Choice:
    """Choose what the user left open, from the scan itself.

    Args:
        scan: the scan as it was read.
        bundle: name or path of a bundle, if the user said so.
        task: a task, if the user said so.
        find: finds a bundle by its name.

    Raises:
        InputError: nothing is undersampled, or no task fits the measurement.
        ConfigError: no such bundle or task.
    """
    modality, why = modality_of(scan)
    reasons = []
    if bundle is None:
        bundle = USUAL[modality]
        reasons.append(f"bundle {bundle}: {why}")
    root = find(bundle)
    named = checked_metadata(root)[2].modality
    if named in USUAL and named != modality and scan.operator is not None:
        raise ConfigError(
            f"a network for {named}",
            where=f"bundle {root.name}",
            expected=f"one for {modality}: {why}",
            mend=f"--bundle {USUAL[modality]}",
        )
    if task is not None:
        return Choice(root, task, tuple(reasons))
    task, why = _task(scan, root)
    reasons.append(f"{f'task {task}' if task else 'thick slices, as the bundle is set'}: {why}")
    return Choice(root, task, tuple(reasons))


def modality_of(scan: Measurement) -> tuple[str, str]:
    """Return ``MR`` or ``CT``, and what says so.

    Args:
        scan: the scan as it was read.
    """
    if scan.operator is not None:
        family = family_of(scan.operator)
        if family in ("mri", "ct"):
            return {"mri": "MR", "ct": "CT"}[family], f"measured by {scan.operator['name']}"
    said = (scan.header or {}).get("Modality")
    if said in USUAL:
        return said, f"the header says {said}"
    if scan.unit != "arbitrary":
        return "CT", f"the unit is {scan.unit}"
    if not scan.data.is_complex() and float(scan.data.min()) < _AIR_HU:
        return "CT", f"values down to {float(scan.data.min()):.0f} are those of air in HU"
    return "MR", "no unit, and no negative values like those of air in HU"


def _task(scan: Measurement, root: Path) -> tuple[str | None, str]:
    known = overlays(TASK, root)
    if scan.operator is not None:
        name, family = str(scan.operator["name"]), family_of(scan.operator)
        arc = scan.operator.get("arc")
        limited = isinstance(arc, int | float) and arc < 180
        image = ["stacks"] if name == "stacks" and "stacks" in known else []
        wanted = {"mri": ["raw_mri", "accelerated_mri"], "ct": ["sparse_view_ct"], "image": image}.get(str(family))
        if limited:
            wanted = ["limited_angle_ct", "sparse_view_ct"]
        if wanted == []:
            return None, f"measured by {name}"
        found = next((task for task in wanted or () if task in known), None)
        if found is None:
            raise InputError(
                "no task of this bundle is for such a measurement",
                where="--task",
                expected=", ".join(known) or "none",
                got=f"measured by {name}",
                mend="name a task, or another bundle (`diffrecon tasks`)",
            )
        return found, f"measured by {name}{f' over {arc:g} degrees' if limited else ''}"
    geometry = scan.geometry
    plane = thick_plane(geometry)
    sizes = " x ".join(f"{size:.3g}" for size in geometry.spacing)
    if plane is not None:
        axis = PLANE_AXIS[plane]
        across, within = geometry.spacing[axis], [s for i, s in enumerate(geometry.spacing) if i != axis]
        if across >= THICKER * min(within) or geometry.gaps[axis]:
            return None, f"{plane} slices {across:.3g} mm apart with pixels of {within[0]:.3g} x {within[1]:.3g} mm"
    simulated = [name for name, path in known.items() if read_task(path).get("simulate") is True]
    raise InputError(
        "an image without thick slices: nothing is missing that could be reconstructed",
        where="scan",
        expected=f"slices at least {THICKER:g} times as far apart as pixels are large, or raw data",
        got=f"voxels of {sizes} mm",
        mend=f"name a task that simulates a measurement of it: --task {' or '.join(simulated) or 'NAME'}",
    )
