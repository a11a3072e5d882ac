# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Files: scans that are read, volumes that are written, atomically."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.io.readers.dicom_series import DicomSeriesReader
    from monai_diffrecon.io.readers.dxchange import DXchangeReader
    from monai_diffrecon.io.readers.measurement_file import MeasurementFileReader
    from monai_diffrecon.io.readers.measurement_file import MeasurementFileReader as ContainerReader  # former name
    from monai_diffrecon.io.readers.nifti import NIfTIReader
    from monai_diffrecon.io.writers.dicom_series import DicomSeriesWriter
    from monai_diffrecon.io.writers.nifti import NIfTIWriter
else:
    __getattr__ = lazy(__name__)
