# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A transform for programs that bring every output of a network back onto the grid of its input."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import CommonKeys


class VolumeGridd(MapTransform):
    """States the grid of the reconstructed volume as the one that outputs are to be restored to.

    MONAI Label resizes what a bundle returns to the ``spatial_shape`` of the input's metadata, and writes it with the
    ``original_affine`` found there: right for a mask, wrong for a reconstruction, which has a grid of its own. The
    metadata of the input are changed in place, since the programs hold on to that object; its voxels and its own affine
    stay. Runs of :class:`~monai_diffrecon.engine.cases.evaluator.ReconstructionEvaluator` skip a step that they do not
    need.

    Args:
        keys: keys of the input, a ``MetaTensor``; anything else is left alone.
        volume: key of the volume, a ``MetaTensor`` (1, X, Y, Z).
    """

    def __init__(self, keys: KeysCollection, volume: str = CommonKeys.PRED.value) -> None:
        super().__init__(keys)
        self.volume = volume

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """State the grid."""
        out, volume = dict(data), data[self.volume]
        for key in self.key_iterator(out):
            if isinstance(out[key], MetaTensor) and isinstance(volume, MetaTensor):
                out[key].meta |= {
                    "spatial_shape": np.asarray(volume.shape[1:]),
                    "original_affine": volume.affine.cpu().numpy().copy(),
                }
        return out
