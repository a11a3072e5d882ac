# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Methods of a cohort: those that reconstruct, and volumes that were made elsewhere."""
