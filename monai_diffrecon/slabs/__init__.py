# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""One volume in several slabs, each by a process of its own, or one after the other in little memory.

Where the operator leaves the slices of a plane apart, most of a step on a slab is the step on the volume. For the rest
a plugin asks here: sums over the volume (:func:`total`, :func:`norm`), and neighbouring slices
(:func:`with_neighbours`). Plugins that do so, or need neither, say ``in_slabs = True``; others are refused.
"""

from monai_diffrecon.slabs.slab import (
    Peers,
    Slab,
    cut,
    cut_along,
    first_slice,
    gathered,
    largest,
    mean,
    norm,
    norm_of_solve,
    peers,
    refuse_across,
    squared_norm,
    sum_of_measurements,
    total,
    total_of_solve,
    with_neighbours,
    within,
)

__all__ = [
    "Peers",
    "Slab",
    "cut",
    "cut_along",
    "first_slice",
    "gathered",
    "largest",
    "mean",
    "norm",
    "norm_of_solve",
    "peers",
    "refuse_across",
    "squared_norm",
    "sum_of_measurements",
    "total",
    "total_of_solve",
    "with_neighbours",
    "within",
]
