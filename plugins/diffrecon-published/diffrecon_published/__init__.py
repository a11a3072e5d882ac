# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What only the reproduction of the numbers of published codes needs, for monai_diffrecon."""

__version__ = "0.1.0"
