# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A MONAI Label app that reconstructs scans."""

__version__ = "0.1.0"
