# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Running cases: reconstructed unless that was done before, compared, written, recorded."""
