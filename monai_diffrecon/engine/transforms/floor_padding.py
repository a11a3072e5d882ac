# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A transform that replaces padding of CT images during reconstruction."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_diffrecon.engine.problem.floor_padding import without_padding_of
from monai_diffrecon.engine.transforms.resample_in_plane import note_preparation
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.io.measurement.metatensor import from_tensor, to_tensor


class FloorPaddingd(MapTransform):
    """Replaces padding (far below air or declared in a DICOM header) by the floor of the network's window.

    Networks are not trained on padding, and interpolation across its edge changes the data. The inferer restores it in
    the volume. Applies to images in HU, and to images without a unit if the network maps a window.

    Args:
        keys: keys of the images, ``MetaTensor`` (1, X, Y, Z); measurements with their own operator pass unchanged.
        intensity: intensity map of the network, see :class:`~monai_diffrecon.bundle.score_network.ScoreNetwork`.
        allow_missing_keys: ignore missing keys.
    """

    def __init__(self, keys: KeysCollection, intensity: Mapping[str, Any], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, check_flag(allow_missing_keys, "preprocessing#allow_missing_keys"))
        self.intensity = dict(intensity)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Find padding and replace it."""
        out = dict(data)
        for key in self.key_iterator(out):
            said = from_tensor(out[key])
            done = without_padding_of(said, self.intensity)
            if done is not said:
                out[key] = to_tensor(done)
                note_preparation(out, key, {"floor_padding": {"intensity": self.intensity}})
        return out
