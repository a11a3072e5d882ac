# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reconstruct 3D CT and MR volumes from few measurements with pre-trained 2D diffusion models."""

__version__ = "0.1.0"
