# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The version of the package, which everything may import."""

__version__ = "0.1.0"
