# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Score priors (volume-level denoisers) and regularizers."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.priors.perpendicular import PerpendicularPrior
    from monai_diffrecon.priors.perpendicular_neighbours import PerpendicularNeighboursPrior
    from monai_diffrecon.priors.slices import SlicesPrior
else:
    __getattr__ = lazy(__name__)
