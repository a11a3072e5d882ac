# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cases without a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data import Dataset

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.io.measurement import to_tensor
from monai_diffrecon.protocols import Measurement, VolumeGeometry


class UnconditionalCases(Dataset):
    """One empty measurement for each volume to sample; each case has its own name, and so its own noise.

    Args:
        shape: voxels (X, Y, Z) of the volume.
        spacing: voxel size (mm) in RAS+ order.
        count: number of samples.
        name: first part of the cases' names.

    Raises:
        ConfigError: no shape, no spacing or no sample.
    """

    def __init__(
        self,
        shape: Sequence[int],
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        count: int = 1,
        name: str = "sample",
    ) -> None:
        if len(shape) != 3 or min(shape) < 1:
            raise ConfigError("not a shape", where="shape", expected="[X, Y, Z]", got=shape)
        if len(spacing) != 3 or not min(spacing) > 0:
            raise ConfigError("not a voxel size", where="spacing", expected="[x, y, z] in mm", got=spacing)
        if count < 1:
            raise ConfigError("no sample", where="count", expected="1 or more", got=count)
        x, y, z = (int(n) for n in shape)
        dx, dy, dz = (float(s) for s in spacing)
        geometry = VolumeGeometry((x, y, z), (dx, dy, dz))
        empty = to_tensor(Measurement(torch.zeros(0), geometry, operator={"name": "unmeasured"}))
        cases: list[dict[str, Any]] = [{"image": empty, "case": f"{name}{i:03d}"} for i in range(count)]
        super().__init__(cases)
