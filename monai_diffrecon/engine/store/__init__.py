# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reconstruction of a volume that is kept on the disk and computed in slabs, one after the other."""
