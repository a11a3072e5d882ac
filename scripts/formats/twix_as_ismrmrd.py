# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Siemens raw data as the ISMRMRD file that siemens_to_ismrmrd makes of them, to compare the readers of both.

    python scripts/formats/twix_as_ismrmrd.py scan.dat scan.h5

Follows what siemens_to_ismrmrd 1.x documents in ``main.cpp`` (fields of a line) and in its default parameter map
(``IsmrmrdParameterMap_Siemens``, sizes of the header), for Cartesian scans of one image. The file is read by twixtools,
and the quaternion is turned into directions by the package ``ismrmrd``; nothing of ``diffrecon-twix`` is used.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ismrmrd
import ismrmrd.xsd as mrd
import numpy as np
import twixtools

#: Flags of a line that siemens_to_ismrmrd hands on, by the names of twixtools, and what they become.
_FLAGS = {
    "NOISEADJSCAN": ismrmrd.ACQ_IS_NOISE_MEASUREMENT,
    "PATREFSCAN": ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,
    "PATREFANDIMASCAN": ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING,
    "REFLECT": ismrmrd.ACQ_IS_REVERSE,
    "PHASCOR": ismrmrd.ACQ_IS_PHASECORR_DATA,
    "RTFEEDBACK": ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
}
#: Values of ucRefScanMode.
_MODES = {2: "embedded", 4: "separate", 8: "separate", 16: "interleaved", 32: "interleaved", 64: "interleaved"}


def header_of(hdr: Mapping[str, Any]) -> str:
    """Return the XML header.

    Args:
        hdr: of a measurement, by twixtools: ``MeasYaps``, the protocol, and ``Meas``, which some files do not have.
    """
    yaps, meas = hdr["MeasYaps"], hdr.get("Meas", {})
    space, first = yaps["sKSpace"], yaps["sSliceArray"]["asSlice"][0]
    base, lines, flat = int(space["lBaseResolution"]), int(space["lPhaseEncodingLines"]), space["ucDimension"] == 2
    parts = 1 if flat else int(space["lPartitions"])
    factor = float(meas.get("flReadoutOSFactor") or 2.0)
    measured = [int(meas.get(f"iNoOfFourier{name}") or n) for name, n in (("Lines", lines), ("Partitions", parts))]
    wider = [1.0 + float(space.get(f"d{name}OversamplingForDialog") or 0.0) for name in ("Phase", "Slice")]
    fov = (first["dReadoutFOV"], first["dPhaseFOV"], first["dThickness"])

    def sized(matrix: tuple[int, int, int], sizes: tuple[float, float, float]) -> Any:
        return mrd.encodingSpaceType(
            matrixSize=mrd.matrixSizeType(**dict(zip("xyz", matrix, strict=True))),
            fieldOfView_mm=mrd.fieldOfViewMm(**dict(zip("xyz", map(float, sizes), strict=True))),
        )

    def limit(last: int, centre: int = 0) -> Any:
        return mrd.limitType(minimum=0, maximum=last, center=centre)

    encoded = sized((round(base * factor), lines, parts), (fov[0] * factor, fov[1] * wider[0], fov[2] * wider[1]))
    pat = yaps.get("sPat", {})
    encoding = mrd.encodingType(
        trajectory=mrd.trajectoryType.CARTESIAN,
        encodedSpace=encoded,
        reconSpace=sized((base, int(meas.get("ImageLines") or lines), parts), fov),
        encodingLimits=mrd.encodingLimitsType(
            kspace_encoding_step_1=limit(measured[0] - 1, lines // 2 - (lines - measured[0])),
            kspace_encoding_step_2=limit(measured[1] - 1, 0 if flat else parts // 2 - (parts - measured[1])),
            slice=limit(int(yaps["sSliceArray"]["lSize"]) - 1),
        ),
        parallelImaging=mrd.parallelImagingType(
            accelerationFactor=mrd.accelerationFactorType(
                kspace_encoding_step_1=int(pat.get("lAccelFactPE", 1)),
                kspace_encoding_step_2=int(pat.get("lAccelFact3D", 1)),
            ),
            calibrationMode=mrd.calibrationModeType(_MODES.get(int(pat.get("ucRefScanMode", 1)), "other")),
        ),
    )
    system = mrd.acquisitionSystemInformationType(systemVendor="SIEMENS", relativeReceiverNoiseBandwidth=0.793)
    frequency = mrd.experimentalConditionsType(H1resonanceFrequency_Hz=int(hdr.get("Dicom", {}).get("lFrequency", 0)))
    document = mrd.ismrmrdHeader(
        acquisitionSystemInformation=system, experimentalConditions=frequency, encoding=[encoding]
    )
    return str(mrd.ToXML(document))


def acquisition_of(line: Any, dwell: float) -> ismrmrd.Acquisition:
    """Return a line, with the dwell time (microseconds) of the protocol."""
    mdh, counter = line.mdh, line.mdh.Counter
    out = ismrmrd.Acquisition.from_array(np.ascontiguousarray(line.data, np.complex64))
    out.discard_pre, out.discard_post, out.center_sample = mdh.CutOff.Pre, mdh.CutOff.Post, mdh.CenterCol
    out.sample_time_us = dwell
    position = mdh.SliceData.SlicePos
    out.position[:] = [position.Sag, position.Cor, position.Tra]
    w, x, y, z = mdh.SliceData.Quaternion
    # Its columns are phase, readout and slice, and are taken as they are.
    phase, read, across = ismrmrd.quaternion_to_directions([x, y, z, w])
    out.read_dir[:], out.phase_dir[:], out.slice_dir[:] = read, phase, across
    for name, theirs in (
        ("kspace_encode_step_1", "Lin"),
        ("kspace_encode_step_2", "Par"),
        ("average", "Ave"),
        ("slice", "Sli"),
        ("contrast", "Eco"),
        ("phase", "Phs"),
        ("repetition", "Rep"),
        ("set", "Set"),
        ("segment", "Seg"),
    ):
        setattr(out.idx, name, int(getattr(counter, theirs)))
    for flag, number in _FLAGS.items():
        if line.is_flag_set(flag):
            out.setFlag(number)
    return out


def convert(source: Path, target: Path) -> None:
    """Write the last measurement of a Siemens file as ISMRMRD."""
    scan = twixtools.read_twix(str(source), parse_pmu=False, parse_geometry=False, verbose=False, keep_syncdata=False)
    hdr, lines = scan[-1]["hdr"], scan[-1]["mdb"]
    dwells = hdr["MeasYaps"].get("sRXSPEC", {}).get("alDwellTime") or [0]
    dataset = ismrmrd.Dataset(str(target), "dataset", create_if_needed=True)
    try:
        dataset.write_xml_header(header_of(hdr))
        for line in lines:
            if not line.is_flag_set("ACQEND"):
                dataset.append_acquisition(acquisition_of(line, float(dwells[0]) / 1000.0))
    finally:
        dataset.close()
        for file in {id(line.fid): line.fid for line in lines}.values():
            file.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    convert(arguments.source, arguments.target)
