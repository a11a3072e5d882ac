# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Files: scans that are read, volumes that are written, atomically."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.io.dicom.series_reader import DicomSeriesReader
    from monai_diffrecon.io.dicom.series_writer import DicomSeriesWriter
    from monai_diffrecon.io.dicom_ct_pd.reader import DicomCTPDReader
    from monai_diffrecon.io.dxchange.reader import DXchangeReader
    from monai_diffrecon.io.images.metaimage_reader import MetaImageReader
    from monai_diffrecon.io.images.metaimage_writer import MetaImageWriter
    from monai_diffrecon.io.images.nibabel_reader import NibabelReader
    from monai_diffrecon.io.images.nrrd_reader import NRRDReader
    from monai_diffrecon.io.images.nrrd_writer import NRRDWriter
    from monai_diffrecon.io.images.ome_zarr_writer import OMEZarrWriter
    from monai_diffrecon.io.measurement.file_reader import MeasurementFileReader
    from monai_diffrecon.io.measurement.file_reader import MeasurementFileReader as ContainerReader  # former name
    from monai_diffrecon.io.nifti_reader import NIfTIReader
    from monai_diffrecon.io.nifti_writer import NIfTIWriter
    from monai_diffrecon.io.projections.reader import ProjectionsReader
else:
    __getattr__ = lazy(__name__)
