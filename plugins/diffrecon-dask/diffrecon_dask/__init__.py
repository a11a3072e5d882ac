# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cohorts of monai_diffrecon on a Dask cluster."""

__version__ = "0.1.0"
