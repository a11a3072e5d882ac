# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Built-in noise sources."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.noises.independent import IndependentNoise
    from monai_diffrecon.noises.slerp import SlerpNoise
else:
    __getattr__ = lazy(__name__)
