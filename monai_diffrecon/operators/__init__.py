# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The built-in forward operators."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.operators.cartesian_mri import CartesianMRI
    from monai_diffrecon.operators.cartesian_mri_3d import CartesianMRI3D
    from monai_diffrecon.operators.fan_ct import FanCT
    from monai_diffrecon.operators.parallel_ct import ParallelCT
    from monai_diffrecon.operators.slice_thickness import SliceThickness
    from monai_diffrecon.operators.stacks import Stacks
    from monai_diffrecon.operators.unconditional import Unconditional
    from monai_diffrecon.operators.unconditional import Unconditional as Unmeasured  # former name, for one release
else:
    __getattr__ = lazy(__name__)
