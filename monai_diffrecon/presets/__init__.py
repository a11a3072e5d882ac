# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Presets of methods (``methods/*.json``), and functions used in their configurations."""

from monai_diffrecon.presets.family import by_family, family_of

__all__ = ["by_family", "family_of"]
