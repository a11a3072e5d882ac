# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of importers of published checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from monai_diffrecon.protocols.geometry import VolumeGeometry
from monai_diffrecon.protocols.measurement import Measurement
from monai_diffrecon.protocols.plugin import Plugin


class MeasurementReader(Plugin, ABC):
    """Reads one kind of file or folder. Every option of the constructor has a default.

    Attributes:
        leaning: set by callers that correct a sheared (gantry-tilted) stack; otherwise it is refused.
    """

    leaning: bool = False

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Say whether a file or folder is of this kind, by its name and its first bytes or keys; never raises."""

    @abstractmethod
    def read(self, path: Path) -> Measurement:
        """Return what the file holds.

        No identifier of a patient may be in what is returned.

        Raises:
            InputError: damaged, incomplete, or not of this kind; the message names the file, not its folder.
        """


@dataclass(frozen=True)
class ImportedNetwork:
    """All that a bundle needs of an imported network.

    Attributes:
        network_def: ``{"_target_": dotted name of the class, **options}``, writable as JSON.
        state_dict: the weights, for ``load_state_dict(strict=True)`` of that network.
        denoiser: registry spec of the denoiser that converts the network's parameterization, for instance
            ``{"name": "ve_score", "sigma_min": 0.01, "sigma_max": 378.0}``.
        channels: channels of a slice: 1, or 2 for the real and the imaginary part.
        notes: one line for each thing that was dropped, renamed, merged or assumed.
    """

    network_def: dict[str, Any]
    state_dict: dict[str, Tensor]
    denoiser: dict[str, Any]
    channels: int
    notes: tuple[str, ...] = ()


class CheckpointImporter(Plugin, ABC):
    """Reads one published checkpoint layout. The constructor takes no options.

    Attributes:
        allowed_globals: what ``torch.load(weights_only=True)`` must allow beside its own list to read such a file:
            callables, or pairs of a callable and the name it goes by in the file. No more than the layout needs.
    """

    allowed_globals: ClassVar[tuple[Callable[..., Any] | tuple[Callable[..., Any], str], ...]] = ()

    @abstractmethod
    def recognises(self, content: Mapping[str, Any]) -> bool:
        """Say whether the content of a safely loaded file looks like this layout; never raises."""

    @abstractmethod
    def convert(self, content: Mapping[str, Any], **declared: Any) -> ImportedNetwork:
        """Return the network that a checkpoint holds.

        Args:
            content: what ``io.checkpoint_file.load_checkpoint`` returned.
            declared: what the user states of the network. What the file shows itself must agree with it; what the
                file cannot show is taken from it. Each importer documents its names.

        Raises:
            ConfigError: a declared name that the importer does not know.
            InputError: another layout, tensors missing, superfluous, of a wrong shape or not finite, or a file that
                contradicts what was declared; the message names them.
        """


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
