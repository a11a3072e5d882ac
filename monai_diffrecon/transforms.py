# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Data of reconstructions for MONAI's pipelines: transforms, and the data set of cases without a measurement."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.engine.transforms.floor_padding import FloorPaddingd
    from monai_diffrecon.engine.transforms.load_measurement import LoadMeasurementd, LoadVolumed
    from monai_diffrecon.engine.transforms.resample_in_plane import ResampleInPlaned
    from monai_diffrecon.engine.transforms.simulate_measurement import SimulateMeasurementd
    from monai_diffrecon.engine.transforms.unconditional_cases import UnconditionalCases
    from monai_diffrecon.engine.transforms.volume_grid import VolumeGridd
else:
    __getattr__ = lazy(__name__)
