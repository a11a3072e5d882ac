# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Digital phantoms in the manner of the American College of Radiology's, with their modules along z."""

from __future__ import annotations

import math

from monai_diffrecon.evaluation.image_quality.phantoms.phantom import Phantom, finished, plain_body, reach
from monai_diffrecon.evaluation.image_quality.phantoms.shapes import Bars, Cylinder, Shape
from monai_diffrecon.protocols import Site, VolumeGeometry

#: Modality -> contrasts of the rods: CT as in the module of CT numbers (polyethylene, acrylic, bone, air).
_RODS = {"CT": (-95.0, 120.0, 955.0, -1000.0), "MR": (-100.0, -300.0, 300.0, -1000.0)}
_DISCS = {"CT": (6.0, 20.0, 40.0), "MR": (-14.0, -50.0, -100.0)}
_BARS = (0.1, 0.15, 0.2, 0.25)


def acr(geometry: VolumeGeometry, modality: str, *, seed: int = 0) -> Phantom:
    """Return four modules: rods of known intensities, discs of low contrast, uniform, line pairs.

    The order and the materials follow the CT phantom 464 and the MR phantom; sizes are those of the grid, so that it
    can be measured with any field of view.

    Args:
        geometry: the grid; each module is a quarter of it along z.
        modality: ``CT`` or ``MR``.
        seed: without influence.
    """
    without, radius = plain_body(geometry, modality)
    half = reach(geometry, 2) / 4
    first, second, third, fourth = (half * (2 * module - 3) for module in range(4))
    sites, signals = [], list[tuple[Shape, float]]()

    def add(kind: str, x: float, y: float, z: float, size: float, contrast: float) -> None:
        signals.append((Cylinder((x, y, z), (size, size), half), contrast))
        sites.append(Site(kind, (x, y, z), size, half, contrast, 2))

    for number, contrast in enumerate(_RODS[modality]):
        angle = math.pi * (number + 0.5) / 2
        add("rod", 0.6 * radius * math.cos(angle), 0.6 * radius * math.sin(angle), first, 0.16 * radius, contrast)
    for ring, contrast in enumerate(_DISCS[modality]):
        for number, diameter in enumerate((4.0, 6.0, 8.0)):
            angle = 2 * math.pi * (number / 3 + ring / 9)
            x, y = 0.5 * radius * math.cos(angle), 0.5 * radius * math.sin(angle)
            add("disc", x, y, second, diameter / 2, contrast)
    sites.append(Site("uniform", (0.0, 0.0, third), 0.7 * radius, half))
    size = min(0.22 * radius, 15.0)
    for number, frequency in enumerate(_BARS):
        angle = math.pi * (number + 0.5) / 2
        place = (0.6 * radius * math.cos(angle), 0.6 * radius * math.sin(angle), fourth)
        along = max(round(2 * size * frequency), 2) / frequency / 2
        signals.append((Bars(place, (along, size, half), frequency), _RODS[modality][2]))
        sites.append(Site("bars", place, size, half, _RODS[modality][2], 2, frequency))
    return finished(geometry, modality, without, sites, signals)
