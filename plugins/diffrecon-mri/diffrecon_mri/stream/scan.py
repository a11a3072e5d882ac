# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A scan as it arrives: the header, and a row for each acquisition, as in the table of an ISMRMRD file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import ismrmrd
import numpy as np
from ismrmrd.hdf5 import acquisition_header_dtype

from diffrecon_mri.ismrmrd.acquisitions import of_image
from diffrecon_mri.stream.wire import WHERE
from monai_diffrecon.errors import InputError

HEAD = np.dtype(acquisition_header_dtype)
#: Bytes of a row besides its samples: the header, and objects of Python.
ROW = HEAD.itemsize + 512
_TABLE = np.dtype([("head", HEAD), ("traj", object), ("data", object)])
_LAST = 1 << (ismrmrd.ACQ_LAST_IN_MEASUREMENT - 1)


@dataclass
class Scan:
    """A scan.

    Attributes:
        header: the XML header, or None before it has arrived.
        choices: what the client chose.
        ignored: waveforms, which are not used.
    """

    header: bytes | str | None = None
    choices: dict[str, Any] = field(default_factory=dict)
    ignored: int = 0
    _heads: list[np.ndarray] = field(default_factory=list)
    _samples: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._heads)

    def set_header(self, header: bytes | str) -> None:
        """Keep the header.

        Raises:
            InputError: there is one.
        """
        if self.header is not None:
            raise InputError("a second header", where=WHERE, expected="one scan for each connection")
        self.header = header

    def add(self, head: np.ndarray, trajectory: np.ndarray, samples: np.ndarray) -> bool:
        """Add an acquisition, and say whether it is the last one.

        Args:
            head: header, of the type ``HEAD`` and no axes.
            trajectory: float32 (samples x dimensions).
            samples: float32 (coils x samples x 2).

        Raises:
            InputError: before the header.
        """
        if self.header is None:
            raise InputError("an acquisition before the header", where=WHERE)
        self._heads.append(head)
        self._samples.append((trajectory, samples))
        return bool(int(head["flags"]) & _LAST) and bool(of_image(head))

    def table(self) -> np.ndarray:
        """Return the acquisitions as a file has them."""
        table = np.zeros(len(self), _TABLE)
        table["head"] = np.array(self._heads, HEAD)
        for row, (trajectory, samples) in enumerate(self._samples):
            table["traj"][row], table["data"][row] = trajectory, samples
        return table

    def sha256(self) -> str:
        """Return the hash of the acquisitions, without the header, which names the subject."""
        digest = hashlib.sha256()
        for head, (trajectory, samples) in zip(self._heads, self._samples, strict=True):
            for part in (head, trajectory, samples):
                digest.update(part.tobytes())
        return digest.hexdigest()
