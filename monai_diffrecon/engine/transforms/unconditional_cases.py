# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cases without a measurement."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from monai.data import Dataset

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer, check_number
from monai_diffrecon.io.measurement.metatensor import to_tensor
from monai_diffrecon.protocols import Measurement, VolumeGeometry

#: Voxels along an axis, and samples, beyond which a number is a slip of the pen.
_LONGEST, _MOST = 4096, 1_000_000


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
        x, y, z = (check_integer(n, "shape", low=1, high=_LONGEST) for n in _three(shape, "shape"))
        dx, dy, dz = (check_number(s, "spacing", low=0.0, open_low=True) for s in _three(spacing, "spacing"))
        count = check_integer(count, "count", low=1, high=_MOST)
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.\-]*", name, flags=re.ASCII):
            raise ConfigError("not a valid name for files", where="name", expected="letters, digits, '.', '_', '-'")
        geometry = VolumeGeometry((x, y, z), (dx, dy, dz))
        empty = to_tensor(Measurement(torch.zeros(0), geometry, operator={"name": "unconditional"}))
        cases: list[dict[str, Any]] = [{"image": empty, "case": f"{name}{i:03d}"} for i in range(count)]
        super().__init__(cases)


def _three(value: object, where: str) -> Sequence[object]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        raise ConfigError("not three numbers", where=where, expected="[X, Y, Z]", got=repr(value)[:60])
    return value
