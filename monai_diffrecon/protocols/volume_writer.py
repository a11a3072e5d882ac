# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of writers of volumes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from monai_diffrecon.protocols.geometry import VolumeGeometry
from monai_diffrecon.protocols.plugin import Plugin


@dataclass(frozen=True)
class VolumeOrigin:
    """Metadata that may be written besides voxels and geometry; none of it identifies a patient.

    Attributes:
        case: pseudonym of the case.
        unit: of the voxels, as of ``Measurement``.
        header: attributes of the source that are enumerated or numbers, as of ``Measurement``.
        derivation: how the volume came about, in words.
        entropy: text from which identifiers are derived: equal input, equal files. None: random ones.
    """

    case: str
    unit: str = "arbitrary"
    header: Mapping[str, str] | None = None
    derivation: str = "Reconstructed by monai_diffrecon; for research, not for clinical use"
    entropy: str | None = None


class VolumeWriter(Plugin, ABC):
    """Writes a volume in one format. Every option of the constructor has a default.

    Attributes:
        suffix: suffix of the file, such as ``.nrrd``; empty for a format with several files in a folder.
    """

    suffix: ClassVar[str] = ""

    def check(self, geometry: VolumeGeometry, where: str) -> None:
        """Refuse a geometry that the format cannot say, before there is a volume; nothing unless overridden.

        Args:
            geometry: of the volume.
            where: what it is called in messages.

        Raises:
            InputError: it cannot be said.
        """

    @abstractmethod
    def write(self, path: Path, volume: Tensor, geometry: VolumeGeometry, origin: VolumeOrigin) -> Sequence[Path]:
        """Write the file, or the folder, in one step, and return the files that were written.

        Who fails leaves nothing behind, and an older file as it was; ``monai_diffrecon.io.atomic.atomic_write`` sees
        to that for a file.

        Args:
            path: the file or folder to make or replace; its parent exists.
            volume: (1, X, Y, Z), real, in RAS+ order.
            geometry: where it lies.
            origin: what else may be told.

        Raises:
            InputError: not a volume of that geometry, voxels that are not finite, or it cannot be written there.
            ResourceError: the disk is full.
        """
