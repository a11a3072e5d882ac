# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cone-beam CT for monai_diffrecon, by RTK (the Reconstruction Toolkit)."""

__version__ = "0.1.0"
