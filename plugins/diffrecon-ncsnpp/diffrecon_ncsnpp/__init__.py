# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Published 2D diffusion networks for monai_diffrecon, and importers of their checkpoints."""

__version__ = "0.1.0"
