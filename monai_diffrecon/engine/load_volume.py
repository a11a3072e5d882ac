# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A transform that reads volumes in RAS+ order."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_diffrecon.io.measurement import affine_of
from monai_diffrecon.io.nifti import read_volume


class LoadVolumed(MapTransform):
    """Reads each file to a ``MetaTensor`` (1, X, Y, Z) float32 in RAS+ order with its affine.

    Unlike MONAI's ``LoadImaged`` it refuses what cannot be a volume, and keeps neither the file's name nor its
    header, so that nothing that may name a patient travels with the voxels.

    Args:
        keys: keys of the paths.
        allow_missing_keys: pass over keys that are not there.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read."""
        out = dict(data)
        for key in self.key_iterator(out):
            volume, geometry = read_volume(out[key])
            out[key] = MetaTensor(volume, affine=torch.as_tensor(affine_of(geometry)))
        return out
