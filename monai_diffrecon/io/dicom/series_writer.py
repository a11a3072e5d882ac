# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes as derived DICOM series."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from monai_diffrecon.io.dicom.writer import check_oriented, write_series
from monai_diffrecon.protocols import VolumeGeometry, VolumeOrigin, VolumeWriter


class DicomSeriesWriter(VolumeWriter):
    """Writes a folder of de-identified CT or MR images, one per slice."""

    def check(self, geometry: VolumeGeometry, where: str) -> None:
        """Refuse a volume of which it is not known how it lies."""
        check_oriented(geometry, where)

    def write(self, path: Path, volume: Tensor, geometry: VolumeGeometry, origin: VolumeOrigin) -> tuple[Path, ...]:
        """Write the series, see :func:`~monai_diffrecon.io.dicom.writer.write_series`."""
        write_series(
            path,
            volume,
            geometry,
            case=origin.case,
            unit=origin.unit,
            template=origin.header,
            derivation=origin.derivation,
            entropy=origin.entropy,
        )
        return tuple(sorted(path.glob("*.dcm")))
