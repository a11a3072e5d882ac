# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""NIfTI files as measured images."""

from __future__ import annotations

import json
import re
from pathlib import Path

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer
from monai_diffrecon.io.dicom.kinds import (
    IMAGINARY,
    PHASE,
    REAL,
    check_component,
    component_of,
    map_notices,
    maps_of,
    sidecar_type,
)
from monai_diffrecon.io.nifti import is_nifti_name, read_image
from monai_diffrecon.io.straight import check_straight
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.protocols import Measurement, MeasurementReader

_SIDECAR_LIMIT = 1 << 20
#: The entity of BIDS names that says which component of a complex image a file holds.
_PART = re.compile(r"_part-(phase|real|imag)(?=[_.])", re.IGNORECASE)
_PARTS = {"phase": PHASE, "real": REAL, "imag": IMAGINARY}


class NIfTIReader(MeasurementReader):
    """A NIfTI volume, ``.nii`` or ``.nii.gz``: an image in RAS+ order without a known unit.

    A BIDS sidecar beside it (``scan.json`` of ``scan.nii.gz``) is asked what the image is: a phase is refused, a
    parameter map is warned of. So are names of BIDS (``part-phase``).

    Args:
        volume: which volume of a file of several (X, Y, Z, T), from 0. None takes the only one.
        series: which slice, from 0, to take out of all volumes of such a file, as a volume whose third axis is time
            (docs/joint.md).

    Raises:
        ConfigError: an option out of its range, or both.
    """

    def __init__(self, volume: int | None = None, series: int | None = None) -> None:
        self.volume = None if volume is None else check_integer(volume, "reader#volume", low=0)
        self.series = None if series is None else check_integer(series, "reader#series", low=0)
        if volume is not None and series is not None:
            raise ConfigError("one volume, or one slice of all", where="reader", mend="omit volume or series")

    def recognises(self, path: Path) -> bool:
        """Say whether it is a file of that name."""
        try:
            return is_nifti_name(path) and path.is_file()
        except OSError:
            return False

    def read(self, path: Path) -> Measurement:
        """Return the image (1, X, Y, Z).

        Raises:
            InputError: no such file, damaged, not a volume, not real numbers, or some of them not finite;
                axes that are not at right angles; or no magnitude.
        """
        path = Path(path)
        kinds, said = _sidecar(path)
        part = _PART.search(path.name)
        check_component([_PARTS[part[1].lower()] if part else component_of(kinds, said)], path.name)
        volume, geometry, notices = read_image(path, self.volume, self.series)
        if not self.leaning:
            check_straight(geometry, path.name)
        return Measurement(
            data=volume,
            geometry=geometry,
            source_sha256=sha256_file(path),
            notices=(*notices, *map_notices([maps_of(kinds)])),
        )


def _sidecar(path: Path) -> tuple[list[str], str]:
    """Return ImageType and ComplexImageComponent of the sidecar; nothing where there is none that can be read."""
    beside = path.with_name(re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE) + ".json")
    try:
        if not beside.is_file() or beside.stat().st_size > _SIDECAR_LIMIT:
            return [], ""
        content = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # whatever lies there is no part of the scan
        return [], ""
    if not isinstance(content, dict) or content.get("Modality", "MR") != "MR":
        return [], ""
    return sidecar_type(content)
