# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Operators and an application of MONAI Deploy App SDK."""

__version__ = "0.1.0"
