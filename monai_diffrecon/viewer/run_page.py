# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The page that a run writes beside the volumes of a case."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.viewer.layers import KNOWN, CaseLayers, Layer
from monai_diffrecon.viewer.page import write_page

logger = logging.getLogger(__name__)

#: Voxels of the largest volume that a run writes a page of.
LARGEST = 2**24


def write_run_page(
    path: Path,
    name: str,
    volumes: Mapping[str, Tensor | None],
    estimate: Callable[[], Tensor | None],
    geometry: VolumeGeometry,
    unit: str,
) -> Path | None:
    """Write the page of a case and return its file; or None where it would be too large, with a message in the log.

    Args:
        path: HTML file to write.
        name: name of the case.
        volumes: ends of names of :data:`~monai_diffrecon.viewer.layers.KNOWN` -> (1, X, Y, Z), or None.
        estimate: computes the classical estimate, or None.
        geometry: where the volumes lie.
        unit: their unit.

    Raises:
        ResourceError: the disk is full.
    """
    if math.prod(geometry.shape) > LARGEST:
        logger.info("case %s: no page is written of more than %d voxels; see diffrecon view", name, LARGEST)
        return None
    shown = {"estimate": estimate(), **volumes}
    layers = [Layer(*KNOWN[end], volume.as_subclass(Tensor)) for end, volume in shown.items() if volume is not None]
    try:
        write_page(path, CaseLayers(name, tuple(layers), geometry, unit))
    except InputError as error:
        logger.warning("case %s: no page is written: %s", name, error)
        return None
    return path
