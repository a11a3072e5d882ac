# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The bundles of monai_diffrecon."""

from pathlib import Path

FOLDER = Path(__file__).parent / "bundles"
