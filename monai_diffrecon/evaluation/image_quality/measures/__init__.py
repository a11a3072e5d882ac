# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The numerics of image quality: functions of NumPy arrays in float64, without files and plugins."""
