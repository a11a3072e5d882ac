# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Projections of synchrotrons and micro-CT in the DXchange layout."""

from __future__ import annotations

from pathlib import Path

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.dxchange.fields import read_exchange
from monai_diffrecon.io.dxchange.pixels import stated_pixel_size
from monai_diffrecon.io.measurement.hdf5_parts import open_hdf5
from monai_diffrecon.io.projections.projection_reader import ProjectionReader
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.protocols import Measurement


class DXchangeReader(ProjectionReader):
    """Parallel-beam projections in the DXchange layout (Scientific Data Exchange, De Carlo et al. 2014), as TomoPy's.

    ``/exchange/data`` (views, rows, columns), ``data_white``, ``data_dark`` and ``theta`` of one HDF5 file become line
    integrals ``-ln((p - d) / (w - d))`` (views, columns, rows) with means of the white and dark fields; each detector
    row is a slice. Counts below the noise of the dark fields are clipped. What is assumed or found stands in the
    notices. Options (those of ``ProjectionReader``) that select are applied while reading, so that a part of a large
    file needs little memory.
    """

    def recognises(self, path: Path) -> bool:
        """Say whether the file is HDF5 with a dataset ``/exchange/data`` of its own."""
        try:
            with open_hdf5(path) as parts:
                return parts.dataset(parts.file, "exchange/data") is not None
        except (InputError, OSError):
            return False

    def read(self, path: Path) -> Measurement:
        """Return the line integrals (views, columns, rows).

        Raises:
            InputError: damaged, incomplete, of another layout, without a beam somewhere, or the axis of rotation or the
                unit of the angles cannot be told.
            ConfigError: an option that does not fit to the file.
        """
        path = Path(path)
        with open_hdf5(path) as parts:
            scan = read_exchange(parts, self.chosen_rows, self.unit)
            stated = stated_pixel_size(parts) if self.pixel_size is None else None
            return self.measurement(scan, path.name, sha256_file(path), stated)
