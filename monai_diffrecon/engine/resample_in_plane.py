# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A transform that brings an image to the voxel size of a network."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, Spacing

from monai_diffrecon.engine.preparation import note_preparation
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement import from_tensor
from monai_diffrecon.numerics.option_checks import check_flag
from monai_diffrecon.protocols import PLANE_AXIS


class ResampleInPlaned(MapTransform):
    """Resamples each image to the network's spacing within its plane; across the plane it stays as it is.

    Args:
        keys: keys of the images, ``MetaTensor`` (1, X, Y, Z).
        plane: plane of the network.
        spacing: voxel size (mm) within the plane.
        enabled: False passes everything through.
    """

    def __init__(self, keys: KeysCollection, plane: str, spacing: Sequence[float], *, enabled: bool = True) -> None:
        super().__init__(keys)
        self.plane, self.spacing = plane, [float(s) for s in spacing]
        pixdim = list(self.spacing)
        pixdim.insert(PLANE_AXIS[plane], -1.0)
        self.resample = Spacing(pixdim=pixdim, mode=3, padding_mode="nearest")
        self.enabled = check_flag(enabled, "resample")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample by cubic splines.

        Raises:
            InputError: no image, but a measurement that carries its operator.
        """
        out = dict(data)
        for key in self.key_iterator(out) if self.enabled else ():
            if from_tensor(out[key]).operator is not None:
                raise InputError(
                    "a measurement with its own operator cannot be resampled",
                    where=str(key),
                    mend="leave --resample out; of raw MRI ask the reader for the voxel size "
                    "(--reader \"{'name': 'fastmri', 'spacing': 1.0}\"), else use networks of the measurement's",
                )
            out[key] = self.resample(out[key])
            note_preparation(out, key, {"resample": {"plane": self.plane, "spacing": self.spacing}})
        return out
