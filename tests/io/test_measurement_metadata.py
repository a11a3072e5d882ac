# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement import META_KEY, affine_of, check_finite, describe_volume, geometry_of, volume_of
from monai_diffrecon.protocols import VolumeGeometry

OBLIQUE = np.array([[0, -2.0, 0, 1], [1, 0, 0, 2], [0, 0, 3.5, 3], [0, 0, 0, 1]])


def test_spacing_is_the_length_of_the_columns() -> None:
    geometry = geometry_of((4, 5, 6), torch.as_tensor(OBLIQUE))
    assert geometry.shape == (4, 5, 6)
    assert geometry.spacing == (1.0, 2.0, 3.5)
    np.testing.assert_array_equal(affine_of(geometry), OBLIQUE)


def test_without_an_affine() -> None:
    assert geometry_of((4, 5, 6)).spacing == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(affine_of(VolumeGeometry((4, 5, 6), (1.0, 2.0, 3.0))), np.diag([1, 2, 3, 1]))


def test_a_measurement_says_its_volume_also_after_json() -> None:
    geometry = geometry_of((4, 5, 6), OBLIQUE)
    meta = json.loads(json.dumps({META_KEY: describe_volume(geometry, 0.25)}))
    assert volume_of(meta) == (geometry, 0.25)
    assert volume_of({}) is None
    assert volume_of({META_KEY: "none"}) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), complex(0, float("nan"))])
def test_every_entry_must_be_finite(bad: complex) -> None:
    x = torch.zeros(3, dtype=torch.complex64 if isinstance(bad, complex) else torch.float32)
    assert check_finite(x, "inputs") is x
    x[1] = bad
    with pytest.raises(InputError, match="inputs: entries that are not finite"):
        check_finite(x, "inputs")
