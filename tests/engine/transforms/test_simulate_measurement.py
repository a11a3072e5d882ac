# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from torch import Tensor

from monai_diffrecon import registry
from monai_diffrecon.engine.transforms.simulate_measurement import SimulateMeasurementd
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.measurement.metatensor import affine_of, from_tensor, geometry_of
from monai_diffrecon.numerics.noise import key_seed

from ...raising import raises

SHAPE = (16, 14, 12)
AFFINE = np.array(
    [[1.0, 0, 0, -12], [0, np.cos(0.3), -np.sin(0.3), 7], [0, np.sin(0.3), np.cos(0.3), 40], [0, 0, 0, 1]]
)
GEOMETRY = geometry_of(SHAPE, AFFINE)

SLICES = {"name": "slice_thickness", "thickness": 4.0}
MRI = {"name": "cartesian_mri", "mask_type": "gaussian1d", "acceleration": 2}
CT = {"name": "parallel_ct", "views": 12}


def sample(*, dtype: torch.dtype = torch.float32, border: int = 2) -> dict[str, Any]:
    x = torch.zeros((1, *SHAPE), dtype=dtype)
    inner = (slice(None), slice(border, -border), slice(border, -border))
    x[inner] = 300 + 50 * torch.randn(x[inner].shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return {"image": MetaTensor(x, affine=torch.as_tensor(AFFINE)), "case": "a"}


def plain(x: Tensor) -> Tensor:
    return x.as_subclass(Tensor)


@pytest.mark.parametrize("spec", [SLICES, MRI, CT], ids=lambda s: s["name"])
def test_it_is_the_operator_and_keeps_the_volume(spec: dict[str, Any]) -> None:
    before = sample()
    out = SimulateMeasurementd(["image"], spec)(before)
    operator = registry.build("operators", spec, geometry=GEOMETRY)
    torch.testing.assert_close(plain(out["image"]), operator(plain(before["image"])))
    assert torch.equal(plain(out["reference"]), plain(before["image"]))
    np.testing.assert_allclose(out["reference"].affine, AFFINE)
    assert out["case"] == "a"
    said = from_tensor(out["image"])
    assert said.geometry.shape == SHAPE
    np.testing.assert_allclose(affine_of(said.geometry), AFFINE, atol=1e-12)
    assert said.operator == spec
    assert said.noise_std == 0.0


def test_thick_slices_lie_where_the_volume_lies() -> None:
    out = SimulateMeasurementd(["image"], SLICES)(sample())
    affine = np.asarray(out["image"].affine)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), (1, 1, 4))
    # The first thick slice is the mean of the first four thin ones: its centre lies between the second and third.
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], AFFINE @ [0, 0, 1.5, 1])


@pytest.mark.parametrize("spec", [SLICES, MRI, CT], ids=lambda s: s["name"])
def test_noise_is_what_the_measurement_says(spec: dict[str, Any]) -> None:
    clean = plain(SimulateMeasurementd(["image"], spec)(sample())["image"])
    noisy = SimulateMeasurementd(["image"], spec, noise=0.1, seed=3)(sample())["image"]
    difference = plain(noisy) - clean
    operator = registry.build("operators", spec, geometry=GEOMETRY)
    measured = operator(torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(1))) != 0
    assert torch.equal(difference != 0, measured)  # air is measured, k-space outside the mask is not
    said = from_tensor(noisy).noise_std
    components = torch.view_as_real(difference[measured]) if difference.is_complex() else difference[measured]
    assert float(components.std()) == pytest.approx(said, rel=0.08)
    power = float(clean[clean != 0].abs().square().mean().sqrt())
    assert said == pytest.approx(0.1 * power / (2**0.5 if difference.is_complex() else 1), rel=1e-5)


def test_noise_depends_on_the_seed_alone() -> None:
    first, again, other = (
        plain(SimulateMeasurementd(["image"], MRI, noise=0.1, seed=seed)(sample())["image"]) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_complex_volume() -> None:
    data = sample(dtype=torch.complex64)
    out = SimulateMeasurementd(["image"], {**MRI, "complex_volume": True}, noise=0.05)(data)
    assert out["image"].dtype == out["reference"].dtype == torch.complex64
    assert torch.equal(plain(out["reference"]), plain(data["image"]))


def test_geometry_survives_the_loader() -> None:
    dataset = Dataset([sample()], SimulateMeasurementd(["image"], CT, noise=0.1))
    (batch,) = DataLoader(dataset, batch_size=1, num_workers=0)
    for image in (batch["image"][0], next(iter(batch["image"]))):
        got, expected = from_tensor(image), from_tensor(dataset[0]["image"])
        assert replace(got, data=None) == replace(expected, data=None)


def test_disabled_it_passes_everything_through() -> None:
    data = sample()
    out = SimulateMeasurementd(["image"], SLICES, enabled=False)(data)
    assert out["image"] is data["image"]
    assert "reference" not in out


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_volume_must_be_finite(value: float) -> None:
    data = sample()
    data["image"][0, 1, 2, 3] = value
    with raises(InputError, where="image", mend="repair the measurement"):
        SimulateMeasurementd(["image"], SLICES)(data)


def test_an_empty_volume_is_refused() -> None:
    with raises(InputError, where="image", mend=None):
        SimulateMeasurementd(["image"], SLICES, noise=0.1)({"image": torch.zeros(1, *SHAPE)})


def test_without_an_affine_voxels_are_1_mm() -> None:
    out = SimulateMeasurementd(["image"], SLICES)({"image": plain(sample()["image"])})
    assert affine_of(from_tensor(out["image"]).geometry).tolist() == np.eye(4).tolist()


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_noise_is_checked(noise: float) -> None:
    with raises(ConfigError, where="simulate_noise", expected="a finite number from 0"):
        SimulateMeasurementd(["image"], SLICES, noise=noise)


@pytest.mark.parametrize("spec", [None, 3, {"thickness": 4}])
def test_the_operator_must_be_one(spec: object) -> None:
    with raises(ConfigError, where="operator", expected='a name or {"name": ..., options}'):
        SimulateMeasurementd(["image"], spec)


def noise_of(realization: int | None, spec: dict[str, Any] = CT, *, option: int = 0) -> Tensor:
    """Return the standardized noise of a realization, given in the data (None: not there) or as an option."""
    clean = plain(SimulateMeasurementd(["image"], spec)(sample())["image"])
    data = sample() | ({} if realization is None else {"realization": realization})
    noisy = SimulateMeasurementd(["image"], spec, noise=0.1, seed=3, realization=option)(data)["image"]
    return (plain(noisy) - clean) / from_tensor(noisy).noise_std


def test_realization_0_is_the_noise_of_the_seed_alone() -> None:
    """Published numbers stay: the noise is the next numbers of a generator seeded by ``(seed, "simulate")``."""
    noise = noise_of(0)
    drawn = torch.randn(noise.shape, generator=torch.Generator().manual_seed(key_seed(3, "simulate")))
    assert int((noise != 0).sum()) > 1000
    torch.testing.assert_close(noise[noise != 0], drawn[noise != 0], rtol=0, atol=1e-4)
    assert torch.equal(noise_of(None), noise)


def test_realizations_are_independent_and_repeat() -> None:
    zero, one, again, two = (noise_of(number) for number in (0, 1, 1, 2**31))
    assert torch.equal(one, again)
    assert torch.equal(one, noise_of(None, option=1))
    assert torch.equal(one, noise_of(1, option=7))  # the data's wins
    inside = zero != 0
    for a, b in ((zero, one), (zero, two), (one, two)):
        correlation = float(torch.corrcoef(torch.stack([a[inside], b[inside]]))[0, 1])
        assert abs(correlation) < 4 / int(inside.sum()) ** 0.5
    assert float(one[inside].std()) == pytest.approx(1.0, abs=0.05)


def test_the_note_says_the_realization_unless_it_is_0() -> None:
    transform = SimulateMeasurementd(["image"], CT, noise=0.1)
    notes = [json.loads(transform(sample() | {"realization": n})["image_preparation"])[0]["simulate"] for n in (0, 4)]
    assert "realization" not in notes[0]
    assert notes[1] == notes[0] | {"realization": 4}


@pytest.mark.parametrize("number", [-1, 2**31 + 1, 1.5, True])
def test_a_number_that_is_none(number: Any) -> None:
    with raises(ConfigError, where="realization", got=repr(number)):
        SimulateMeasurementd(["image"], CT, realization=number)
