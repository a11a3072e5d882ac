# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Helical projections of clinical scanners (DICOM-CT-PD)."""
