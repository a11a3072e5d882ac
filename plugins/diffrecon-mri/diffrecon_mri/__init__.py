# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Non-Cartesian MRI, coil maps, and readers of raw MRI data for monai_diffrecon."""

__version__ = "0.1.0"
