# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The data from which the files of an imported bundle are written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from monai_diffrecon.bundle.importing.declaration import Declaration
from monai_diffrecon.bundle.importing.orientation_report import OrientationReport

#: What the metadata says where neither the checkpoint nor the user does.
UNKNOWN = "not known: the checkpoint does not say"
NO_SAMPLE = "skipped: no sample volume was given, so it is unknown whether the network expects slices in RAS+ order"
NO_SAMPLE_WARNING = "orientation, intensity and noise levels were not tested: no --sample was given"
NO_LICENCE = "the licence of the weights is not known: ask their authors before you use or redistribute them"


@dataclass(frozen=True)
class ImportedBundle:
    """An imported network with its known properties.

    Attributes:
        name: name of the bundle.
        declaration: what the user states.
        source: name and sha256 of each file of the checkpoint.
        importer: name of the importer.
        distribution: (name, version) of the distribution that provides it.
        notes: what the importer dropped, renamed, merged or assumed, and later changes.
        network_def: definition of the network.
        state_dict: weights as they are stored.
        dtype: their type.
        denoiser: registry spec of the denoiser, noise levels included.
        sigma_range: smallest and largest noise level, network units.
        multiple: slices have to be of a size that is a multiple of this.
        outputs: channels that the network returns.
        orientation: what the orientation test found, or None without a sample.
    """

    name: str
    declaration: Declaration
    source: dict[str, str]
    importer: str
    distribution: tuple[str, str]
    notes: tuple[str, ...]
    network_def: dict[str, Any]
    state_dict: dict[str, Tensor]
    dtype: str
    denoiser: dict[str, Any]
    sigma_range: tuple[float, float]
    multiple: int
    outputs: int
    orientation: OrientationReport | None = None

    @property
    def licence(self) -> str:
        """What is known of the licence of the weights."""
        return harmless(self.declaration.license_note or UNKNOWN)

    @property
    def parameters(self) -> int:
        """Number of the weights."""
        return sum(t.numel() for t in self.state_dict.values())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Doubts about the bundle and untested properties, one clause each."""
        found = [NO_SAMPLE_WARNING] if self.orientation is None else [*self.orientation.warnings]
        return (*found, *([] if self.declaration.license_note else [NO_LICENCE]))

    def summary(self) -> list[str]:
        """Return lines for the terminal."""
        low, high = self.sigma_range
        lines = [
            f"{self.name}: {self.declaration.plane} {self.network_def['_target_'].rpartition('.')[2]}, "
            f"{self.parameters:,} weights ({self.dtype}), importer {self.importer}",
            f"sigma {low:g} to {high:g} (denoiser {self.denoiser['name']}), slices of multiples of {self.multiple}",
            *(f"note: {harmless(note)}" for note in self.notes),
        ]
        return lines if self.orientation is None else [*lines, "", *self.orientation.table()]


def harmless(text: str) -> str:
    """Return a foreign text in one line that MONAI, which reads the metadata as configuration, does not act on."""
    return re.sub(r"[@%]#", "#", " ".join(text.split()).lstrip("$@% ")) or UNKNOWN
