# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What MONAI Label loads of the folder that ``--app`` names."""

from diffrecon_label.app_class import ReconstructionApp

__all__ = ["ReconstructionApp"]
