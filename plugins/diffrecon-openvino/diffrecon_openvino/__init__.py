# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Executes the networks of monai_diffrecon with OpenVINO."""

__version__ = "0.1.0"
