# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What the module DiffReconSlicer does without Slicer; the standard library is enough."""
