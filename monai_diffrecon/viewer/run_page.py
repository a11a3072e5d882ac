# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The pages that runs write beside the volumes of a case, and cohorts of all methods."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.viewer.layers import KNOWN, CaseLayers, Layer, unit_of
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
    if not _small(name, geometry):
        return None
    shown = {"estimate": estimate(), **volumes}
    layers = [Layer(*KNOWN[end], volume.as_subclass(Tensor)) for end, volume in shown.items() if volume is not None]
    return _written(path, CaseLayers(name, tuple(layers), geometry, unit))


def write_methods_page(path: Path, name: str, files: Mapping[str, Path], truth: Tensor | None) -> Path | None:
    """Write a page of the reconstructions of several methods and return its file; None as of :func:`write_run_page`.

    Args:
        path: HTML file to write.
        name: name of the case.
        files: method -> reconstruction; those of another shape than the first are left out.
        truth: (1, X, Y, Z), or None.

    Raises:
        ResourceError: the disk is full.
    """
    read = {title: read_volume(file) for title, file in files.items()}
    if not read:
        return None
    first, geometry = next(iter(read.values()))
    if not _small(name, geometry):
        return None
    volumes = {title: volume for title, (volume, _) in read.items() if volume.shape == first.shape}
    layers = [Layer(title, "reconstruction", volume) for title, volume in volumes.items()]
    if truth is not None and truth.shape == first.shape:
        layers.append(Layer(*KNOWN["truth"], truth.as_subclass(Tensor)))
    return _written(path, CaseLayers(name, tuple(layers), geometry, unit_of(first)))


def _small(name: str, geometry: VolumeGeometry) -> bool:
    if math.prod(geometry.shape) <= LARGEST:
        return True
    logger.info("case %s: no page is written of more than %d voxels; see diffrecon view", name, LARGEST)
    return False


def _written(path: Path, case: CaseLayers) -> Path | None:
    try:
        write_page(path, case)
    except InputError as error:
        logger.warning("case %s: no page is written: %s", case.name, error)
        return None
    return path
