# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of importers of published checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from monai_diffrecon.protocols.plugin import Plugin


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
