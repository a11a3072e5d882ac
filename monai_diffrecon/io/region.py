# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A region of interest from a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from monai_diffrecon.errors.options import path_option
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.privacy.file_names import anonymously


def load_region(path: str | Path | None) -> dict[str, Any] | None:
    """Return a mask as ``{"voxels": (X, Y, Z), "affine": 4 x 4}``, for an option that weighs a region.

    Args:
        path: a file that an installed reader reads as an image; None for no region.

    Raises:
        InputError: the file cannot be read.
    """
    if path is None:
        return None
    file = path_option(path, "keep")
    measurement = anonymously(partial(read_scan, file), file, "keep")[1]
    return {"voxels": measurement.data[0], "affine": affine_of(measurement.geometry).tolist()}
