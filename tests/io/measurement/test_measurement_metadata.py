# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.metatensor import affine_of, check_finite, from_tensor, geometry_of, to_tensor
from monai_diffrecon.protocols import Measurement, VolumeGeometry

OBLIQUE = np.array([[0, -2.0, 0, 1], [1, 0, 0, 2], [0, 0, 3.5, 3], [0, 0, 0, 1]])


def test_spacing_is_the_length_of_the_columns() -> None:
    geometry = geometry_of((4, 5, 6), torch.as_tensor(OBLIQUE))
    assert geometry.shape == (4, 5, 6)
    assert geometry.spacing == (1.0, 2.0, 3.5)
    np.testing.assert_array_equal(affine_of(geometry), OBLIQUE)


def test_without_an_affine() -> None:
    assert geometry_of((4, 5, 6)).spacing == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(affine_of(VolumeGeometry((4, 5, 6), (1.0, 2.0, 3.0))), np.diag([1, 2, 3, 1]))


def test_a_measurement_says_all_it_knows_also_after_a_loader() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    measurement = Measurement(
        data=torch.ones(2, 3, dtype=torch.complex64),
        geometry=geometry_of((4, 5, 6), OBLIQUE),
        operator={"name": "cartesian_mri", "mask": mask, "acceleration": 4.0, "coil_maps": None},
        noise_std=0.25,
        weights=torch.tensor([[1.0, 2.0, 0.0], [1.0, 1.0, 1.0]]),
        unit="HU",
        source_sha256="ab" * 32,
    )
    tensor = to_tensor(measurement)
    (batch,) = DataLoader([{"image": tensor}], batch_size=1, num_workers=0)
    for carried in (tensor, batch["image"][0]):
        said = from_tensor(carried)
        assert said.operator is not None
        assert measurement.operator is not None
        assert torch.equal(said.operator.pop("mask"), mask)
        assert said.operator == {k: v for k, v in measurement.operator.items() if k != "mask"}
        assert said.weights is not None
        assert torch.equal(said.weights, measurement.weights)
        assert torch.equal(said.data, measurement.data)
        same = ("geometry", "noise_std", "unit", "source_sha256")
        assert [getattr(said, f) for f in same] == [getattr(measurement, f) for f in same]


def test_an_image_says_where_it_lies() -> None:
    image = to_tensor(Measurement(torch.ones(1, 4, 5, 6), geometry_of((4, 5, 6), OBLIQUE)))
    said = from_tensor(image)
    assert (said.geometry, said.operator, said.weights) == (geometry_of((4, 5, 6), OBLIQUE), None, None)
    with pytest.raises(InputError) as caught:
        from_tensor(torch.ones(4, 5, 6))
    assert (caught.value.where, caught.value.expected, caught.value.got) == ("inputs", "(1, X, Y, Z)", (4, 5, 6))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), complex(0, float("nan"))])
def test_every_entry_must_be_finite(bad: complex) -> None:
    x = torch.zeros(3, dtype=torch.complex64 if isinstance(bad, complex) else torch.float32)
    assert check_finite(x, "inputs") is x
    x[1] = bad
    with pytest.raises(InputError) as caught:
        check_finite(x, "inputs")
    assert caught.value.where == "inputs"
