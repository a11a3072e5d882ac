# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""No data consistency: the measurement is ignored."""

from __future__ import annotations

from monai_diffrecon.protocols import ConsistencyStep


class NoConsistency(ConsistencyStep):
    """Leaves the estimate to the prior alone: unconditional sampling, plain denoising."""

    in_slabs = True
