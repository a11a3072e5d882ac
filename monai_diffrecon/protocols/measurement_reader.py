# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of readers of scans."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

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
