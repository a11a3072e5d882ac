# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The project's own measurement files."""

from __future__ import annotations

from pathlib import Path

from monai_diffrecon.io.measurement.file import FORMAT, read_measurement
from monai_diffrecon.io.measurement.hdf5_parts import SIGNATURE
from monai_diffrecon.protocols import Measurement, MeasurementReader

#: The attribute ``format`` lies within so many bytes.
_BEGINNING = 1 << 16


class MeasurementFileReader(MeasurementReader):
    """A measurement with its operator, noise, weights and unit in one HDF5 file, as ``diffrecon simulate`` writes it.

    It is recognized by its first bytes alone, so that a truncated file is reported as such.
    """

    def recognises(self, path: Path) -> bool:
        """Say whether it is HDF5 and names the format near its beginning."""
        try:
            if not path.is_file():  # a pipe would never end
                return False
            with Path(path).open("rb") as stream:
                head = stream.read(_BEGINNING)
        except (OSError, ValueError):
            return False
        return head.startswith(SIGNATURE) and FORMAT.encode() in head

    def read(self, path: Path) -> Measurement:
        """Return the measurement.

        Raises:
            InputError: not such a file, of a newer version, damaged, or incomplete.
            IntegrityError: an array is not the one that was written.
        """
        return read_measurement(path)
