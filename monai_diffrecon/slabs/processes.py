# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Slabs in as many processes, which compute at the same time (``torchrun``)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from monai_diffrecon import distributed
from monai_diffrecon.slabs.slab import Peers


class ProcessPeers(Peers):
    """Slabs of which each process of the group has one: process i the slab i."""

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over the processes.

        Raises:
            ResourceError: another process failed.
        """
        return distributed.reduce(value, "SUM")

    def largest(self, value: Tensor) -> Tensor:
        """Return the maximum over the processes.

        Raises:
            ResourceError: another process failed.
        """
        return distributed.reduce(value, "MAX")

    def swap(self, pieces: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Give each process a tensor, and return what each has for this one.

        Raises:
            ResourceError: another process failed.
        """
        return distributed.swap(pieces, shapes)
