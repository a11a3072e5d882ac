# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The numbers of a Siemens protocol that say what was encoded. No other entry is read, and none is repeated."""

from __future__ import annotations

import math
import re

from diffrecon_mri.ismrmrd.header import Encoding, Limits, Space
from diffrecon_twix.twix_file import TwixFile
from monai_diffrecon.errors import InputError

#: Most samples along an axis, most slices, and the widest field of view (mm).
_MOST_SAMPLES, _MOST_SLICES, _WIDEST = 65535, 1024, 1e5
#: Values of ucDimension, ucTrajectory, ucRefScanMode and of the partial Fourier entries.
_2D, _3D, _CARTESIAN, _EMBEDDED, _FULL = 2, 4, 1, 2, 16


class Protocol:
    """What a measurement's protocol says of its encoding.

    The entries are those that siemens_to_ismrmrd takes: the phase-encoded lines and partitions hold the oversampling,
    and so does the field of view here.

    Args:
        file: an open file.

    Raises:
        InputError: entries are missing or no numbers, or the acquisition is not supported.
    """

    def __init__(self, file: TwixFile) -> None:
        self.where = file.where
        self._text, meas = file.buffer("MeasYaps"), file.buffer("Meas")
        if not self._text:
            raise InputError("the header has no protocol", where=self.where, mend="copy it again from the scanner")
        self._refuse_unsupported(meas)
        self.volumetric = self._number("sKSpace.ucDimension", 1, 255) == _3D
        slices = int(self._number("sSliceArray.lSize", 1, _MOST_SLICES))
        if self.volumetric and slices > 1:
            raise self._unsupported("several 3D slabs")
        sizes = [self._fov(i) for i in range(slices)]
        if any(abs(a - b) > 1e-3 for size in sizes for a, b in zip(size, sizes[0], strict=True)):
            raise self._unsupported("slices of different fields of view or thicknesses")
        base = self._integer("sKSpace.lBaseResolution")
        oversampling = _oversampling(meas)
        lines = self._integer("sKSpace.lPhaseEncodingLines")
        partitions = self._integer("sKSpace.lPartitions") if self.volumetric else 1
        wider = [
            1.0 + self._number(f"sKSpace.d{axis}OversamplingForDialog", 0.0, 100.0, missing=0.0)
            for axis in ("Phase", "Slice")
        ]
        read, phase, thickness = sizes[0]
        fov = (read, phase * wider[0], thickness * (wider[1] if self.volumetric else 1.0))
        self._recon = Space((base, lines, partitions), fov)
        self._encoded = Space((round(base * oversampling), lines, partitions), (read * oversampling, *fov[1:]))
        #: How many slices there are.
        self.slices = slices
        self._factors = (self._factor("sPat.lAccelFactPE"), self._factor("sPat.lAccelFact3D"))
        #: Calibration lines belong to the image, too.
        self.embedded = self._number("sPat.ucRefScanMode", 0, 255, missing=0) == _EMBEDDED
        self._partial = [
            self._number(f"sKSpace.uc{axis}PartialFourier", 0, 255, missing=_FULL) != _FULL
            for axis in ("Phase", "Slice")
        ]
        #: The corners of a 3D k-space were left out on purpose.
        self.elliptical = self.volumetric and self._number("sKSpace.ucEnableEllipticalScanning", 0, 255, missing=0) > 0

    def encoding(self, lines: range, partitions: range, centre: tuple[int, int]) -> Encoding:
        """Return the encoding of an image.

        Args:
            lines: the range of its line counters.
            partitions: the range of its partition counters.
            centre: counters of the line and the partition through the centre of k-space.
        """

        def limits(measured: range, n: int, middle: int, partial: bool) -> Limits:
            # Only partial Fourier says that the outer ones are missing on purpose.
            first, last = (measured.start, measured.stop - 1) if partial else (middle - n // 2, middle + (n - 1) // 2)
            return Limits(first, last, middle)

        _, n1, n2 = self._encoded.matrix
        return Encoding(
            encoded=self._encoded,
            recon=self._recon,
            trajectory="cartesian",
            step1=limits(lines, n1, centre[0], self._partial[0]),
            step2=limits(partitions, n2, centre[1], self._partial[1]),
            slices=None if self.volumetric else Limits(0, self.slices - 1, 0),
            acceleration=self._factors,
            embedded=self.embedded,
            noise_bandwidth=1.0,
        )

    def _refuse_unsupported(self, meas: str) -> None:
        if self._number("sKSpace.ucDimension", 0, 255) not in (_2D, _3D):
            raise self._unsupported("no image of two or three dimensions")
        if self._number("sKSpace.ucTrajectory", 0, 255, missing=_CARTESIAN) != _CARTESIAN:
            raise self._unsupported("a trajectory that is not Cartesian")
        regridded = re.search(r'<ParamLong\."alRegridMode">\s*\{\s*(\d{1,9})', meas)
        if self._number("sFastImaging.lEPIFactor", 0, 1e6, missing=1) > 1 or (regridded and int(regridded[1]) > 1):
            raise self._unsupported("EPI or sampling on the ramps of the readout")
        if self._number("sSliceAcceleration.lMultiBandFactor", 0, 1e6, missing=1) > 1:
            raise self._unsupported("slices measured at once")

    def _fov(self, i: int) -> tuple[float, float, float]:
        names = ("dReadoutFOV", "dPhaseFOV", "dThickness")
        read, phase, thickness = (
            self._number(f"sSliceArray.asSlice[{i}].{name}", 1.0 / _WIDEST, _WIDEST) for name in names
        )
        return read, phase, thickness

    def _integer(self, key: str) -> int:
        return int(self._number(key, 1, _MOST_SAMPLES))

    def _factor(self, key: str) -> float:
        return self._number(key, 0, 1000, missing=1)

    def _number(self, key: str, low: float, high: float, missing: float | None = None) -> float:
        """Return an entry, decimal or hexadecimal, within its bounds."""
        found = re.search(rf"^{re.escape(key)}\s*=\s*(\S{{1,64}})", self._text, re.MULTILINE)
        if found is None and missing is not None:
            return missing
        text = "" if found is None else found[1]
        try:
            value = float(int(text, 16)) if text[:2].lower() == "0x" else float(text)
        except (ValueError, OverflowError):
            value = math.nan
        if not low <= value <= high:
            raise InputError(
                f"{key} of the protocol is missing or no number of a scan",
                where=self.where,
                expected=f"{low:g} to {high:g}",
            )
        return value

    def _unsupported(self, what: str) -> InputError:
        return InputError(
            f"{what}, which this reader does not support",
            where=self.where,
            expected="Cartesian 2D slices, or one 3D slab",
            mend="use the images of the scanner, or reconstruct it elsewhere",
        )


def _oversampling(meas: str) -> float:
    """Return the readout oversampling: 2 unless the header says otherwise."""
    found = re.search(
        r'<ParamDouble\."flReadoutOSFactor">\s*\{\s*(?:<Precision>\s*\d{1,3}\s+)?(\d{1,4}(?:\.\d{1,12})?)', meas
    )
    factor = float(found[1]) if found else 2.0
    return factor if 1.0 <= factor <= 16.0 else 2.0
