# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The XML header of simulated ISMRMRD and fastMRI files."""

from __future__ import annotations

from typing import Any

import ismrmrd.xsd as mrd
import numpy as np


def simulated_header(
    shape: tuple[int, int, int],
    spacing: np.ndarray,
    wide: int,
    volumetric: bool,
    radial: bool,
    acceleration: float,
    subject: str,
) -> Any:
    """Return the ``ismrmrdHeader`` of one encoding.

    Args:
        shape: voxels along readout, phase encoding and slices.
        spacing: their size, mm.
        wide: samples of the oversampled readout.
        volumetric: the slices are Fourier-encoded.
        radial: the trajectory is radial.
        acceleration: of the first phase encoding.
        subject: name and study of the subject; empty for none.
    """
    n0, n1, n2 = shape
    depth = n2 if volumetric else 1
    fov = [float(s) for s in spacing * np.array([n0, n1, depth])]

    def space(samples: int) -> Any:
        return mrd.encodingSpaceType(
            matrixSize=mrd.matrixSizeType(x=samples, y=n1, z=depth),
            fieldOfView_mm=mrd.fieldOfViewMm(x=fov[0] * samples / n0, y=fov[1], z=fov[2]),
        )

    limits = mrd.encodingLimitsType(
        kspace_encoding_step_1=mrd.limitType(minimum=0, maximum=n1 - 1, center=n1 // 2),
        kspace_encoding_step_2=mrd.limitType(minimum=0, maximum=depth - 1, center=depth // 2),
        slice=mrd.limitType(minimum=0, maximum=0 if volumetric else n2 - 1, center=0),
    )
    factor = mrd.accelerationFactorType(kspace_encoding_step_1=max(round(acceleration), 1), kspace_encoding_step_2=1)
    encoding = mrd.encodingType(
        encodedSpace=space(wide),
        reconSpace=space(n0),
        encodingLimits=limits,
        trajectory=mrd.trajectoryType.RADIAL if radial else mrd.trajectoryType.CARTESIAN,
        parallelImaging=mrd.parallelImagingType(accelerationFactor=factor),
    )
    named = mrd.subjectInformationType(patientName=subject, patientID=subject) if subject else None
    studied = mrd.studyInformationType(studyDescription=subject) if subject else None
    return mrd.ismrmrdHeader(
        subjectInformation=named,
        studyInformation=studied,
        experimentalConditions=mrd.experimentalConditionsType(H1resonanceFrequency_Hz=63500000),
        encoding=[encoding],
    )
