# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes as derived DICOM series."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from monai_diffrecon.io.dicom.header import dicom_files, read_identity
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


def write_derived_series(
    folder: Path,
    source: Path,
    volume: Tensor,
    geometry: VolumeGeometry,
    *,
    case: str,
    unit: str,
    derivation: str,
    entropy: str,
    keep_identity: bool,
) -> None:
    """Write a volume as a series that returns to the archive of its source.

    Args:
        folder: folder to make.
        source: folder of the source series, or one of its files.
        volume: (1, X, Y, Z), real, in ``unit``.
        geometry: its geometry.
        case: pseudonym, used where the identity is not kept.
        unit: as of ``Measurement``.
        derivation: how the images came about.
        entropy: all that UIDs are made from: source, configuration and measurement.
        keep_identity: patient and study are those of the source.

    Raises:
        InputError: no usable header in the source, or the folder cannot be written.
    """
    template = read_identity(dicom_files(source)[0] if source.is_dir() else source)
    write_series(
        folder,
        volume,
        geometry,
        case=case,
        unit=unit,
        template=template,
        derivation=derivation,
        entropy=entropy,
        keep_identity=keep_identity and bool(template.get("StudyInstanceUID")),
        uids_of_entropy=True,
    )
