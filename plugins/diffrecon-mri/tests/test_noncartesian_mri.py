# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""NoncartesianMRI: the laws of every operator, parity with the explicit transform, density compensation, faults."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from diffrecon_mri.noncartesian.nufft import nufft
from diffrecon_mri.noncartesian.operator import NoncartesianMRI
from diffrecon_mri.noncartesian.trajectories import radial, spiral
from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.mri.fourier import centred_fft
from monai_diffrecon.protocols import Operator, VolumeGeometry
from monai_diffrecon.testing.operator_laws import OperatorLaws

GEOMETRY = VolumeGeometry((8, 7, 4), (1.0, 1.2, 2.0))


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex128) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(geometry: VolumeGeometry = GEOMETRY, **options: Any) -> NoncartesianMRI:
    return registry.create("operators", "diffrecon-mri:noncartesian_mri", geometry=geometry, **options)


CASES = {
    "real": {"spokes": 5},
    "coils": {"pattern": "radial", "spokes": 4, "coil_maps": random(3, 8, 7, 4, dtype=torch.complex64)},
    "spiral, complex": {"pattern": "spiral", "interleaves": 3, "complex_volume": True},
    "one sample": {"trajectory": torch.tensor([[0.3, -1.2]]), "complex_volume": True},
    "real, coils": {
        "trajectory": 3.0 * torch.rand(40, 2, generator=torch.Generator().manual_seed(1)),
        "coil_maps": random(2, 8, 7, 4, dtype=torch.complex64),
        "complex_volume": True,
    },
}


class TestLaws(OperatorLaws):
    @pytest.fixture(params=CASES.values(), ids=CASES.keys())
    def operator(self, request: pytest.FixtureRequest) -> Operator:
        return make(**request.param)

    def of_slice(self, operator: Operator, index: int) -> Operator:
        assert isinstance(operator, NoncartesianMRI)
        single = copy.deepcopy(operator)
        maps = None if operator.coil_maps is None else operator.coil_maps[..., index : index + 1]
        NoncartesianMRI.__init__(
            single,
            VolumeGeometry((8, 7, 1)),
            trajectory=operator.points.double().T * torch.tensor([8, 7]) / (2 * math.pi),
            coil_maps=maps,
            complex_volume=operator.complex_volume,
        )
        return single


@pytest.mark.parametrize("shape", [(8, 7), (9, 6)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex64, 3e-6), (torch.complex128, 1e-11)])
def test_parity_with_the_explicit_transform(shape: tuple[int, int], dtype: torch.dtype, tolerance: float) -> None:
    k = (torch.rand(50, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) - 0.5) * torch.tensor(shape)
    geometry = VolumeGeometry((*shape, 3))
    maps = random(2, *geometry.shape)
    operator = make(geometry, trajectory=k, coil_maps=maps, complex_volume=True)
    x = random(1, *geometry.shape, seed=1)
    n = torch.stack(torch.meshgrid(*(torch.arange(s) - s // 2 for s in shape), indexing="ij"), -1).double()
    points = operator.points.double()  # as rounded to single precision
    kernel = torch.exp(-1j * torch.einsum("dk,xyd->kxy", points, n)) / math.sqrt(shape[0] * shape[1])
    expected = torch.einsum("kxy,cxyz->ckz", kernel, maps * x)
    got = operator(x.to(dtype))
    assert got.dtype == dtype
    assert float((got - expected).norm() / expected.norm()) < tolerance
    assert float((points - 2 * math.pi * k.T / torch.tensor(shape)[:, None]).abs().max()) < 3e-7


def test_at_whole_frequencies_it_is_the_cartesian_transform() -> None:
    k = torch.cartesian_prod(torch.arange(8) - 4, torch.arange(7) - 3)
    operator, x = make(trajectory=k, complex_volume=True), random(1, 8, 7, 4, dtype=torch.complex64)
    y = centred_fft(x)
    torch.testing.assert_close(operator(x).reshape(y.shape), y, rtol=0, atol=1e-5)
    # Neighbours at the Cartesian distance do not compensate for each other, and the classical estimate is the image.
    torch.testing.assert_close(operator.density, torch.ones(56), rtol=0, atol=1e-3)
    torch.testing.assert_close(operator.initial(operator(x)), x, rtol=0, atol=5e-3)


def test_the_normal_operator_follows_the_precision_and_large_volumes_are_split(monkeypatch: Any) -> None:
    operator = make(**CASES["coils"])
    x = random(1, 8, 7, 4, dtype=torch.float32)
    whole = operator.normal(x)
    monkeypatch.setattr("diffrecon_mri.noncartesian.operator._CHUNK", 1)
    torch.testing.assert_close(operator.normal(x), whole, rtol=1e-6, atol=1e-6)
    wide = copy.deepcopy(operator).double()
    expected = wide.adjoint(wide(x.double()))
    assert float((wide.normal(x.double()) - expected).norm() / expected.norm()) < 1e-11


@pytest.mark.parametrize(
    "options",
    [{"pattern": "radial", "spokes": 101}, {"spokes": 140}, {"pattern": "spiral"}],
    ids=["radial", "golden_radial", "spiral"],
)
@pytest.mark.parametrize("coils", [0, 3])
def test_density_compensation_gives_a_disk_back(options: dict[str, Any], coils: int) -> None:
    n = 64
    x, y = torch.meshgrid(torch.arange(n) - n // 2, torch.arange(n) - n // 2, indexing="ij")
    radius = torch.hypot(x.double(), y.double())
    disk = torch.sigmoid(2 * (20 - radius)).float()[None, :, :, None]
    maps = None
    if coils:
        centres = torch.polar(torch.full((coils,), 25.0), torch.arange(coils) * 2.0)
        distance = (x[None] - centres.real[:, None, None]) ** 2 + (y[None] - centres.imag[:, None, None]) ** 2
        maps = torch.polar(torch.exp(-distance / 3000), torch.arange(coils)[:, None, None] * x / 50.0)[..., None]
    operator = make(VolumeGeometry((n, n, 1)), coil_maps=maps, **options)
    estimate = operator.initial(operator(disk))[0, :, :, 0]
    inside = estimate[radius < 16]
    assert float(inside.mean()) == pytest.approx(1.0, abs=0.02)
    assert float((inside - 1).abs().max()) < 0.04
    assert float(estimate[radius > 25].abs().mean()) < 0.02


def test_trajectories() -> None:
    k = radial((8, 6), 4, 16, golden=False).reshape(4, 16, 2)
    torch.testing.assert_close(k[:, 8], torch.zeros(4, 2, dtype=torch.float64))
    torch.testing.assert_close(k[0, 0], torch.tensor([-4.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(k[2, 0], torch.tensor([0.0, -3.0], dtype=torch.float64))
    golden = radial((8, 8), 3, 16, golden=True).reshape(3, 16, 2)[:, -1]
    angles = torch.rad2deg(torch.atan2(golden[:, 1], golden[:, 0]))
    torch.testing.assert_close(angles, torch.tensor([0.0, 111.246118, 42.492236], dtype=torch.float64))
    s = spiral((8, 8), 2, 2.0, 40).reshape(2, 40, 2)
    torch.testing.assert_close(s[0], -s[1])
    assert float(s.norm(dim=-1).max()) == pytest.approx(4 * 39 / 40)
    # Full sampling by default: half the matrix over the interleaves in turns, and steps of about one cycle outside.
    whole = make(VolumeGeometry((32, 32, 1)), pattern="spiral", interleaves=8)
    assert whole.measurement_shape == (1, 8 * math.ceil(math.pi * 32 * 2), 1)
    assert make(pattern="radial", spokes=3).measurement_shape == (1, 3 * 16, 4)


def test_the_centre_sample_is_the_sum() -> None:
    x = random(5, 6)[None]
    got = nufft(x, torch.zeros(2, 1, dtype=torch.float64))
    torch.testing.assert_close(got, x.sum((1, 2), keepdim=True)[0] / math.sqrt(30))


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"pattern": "cartesian"}, {"where": "operator#pattern", "got": "'cartesian'"}),
        ({"spokes": 0}, {"where": "operator#spokes", "got": "0"}),
        ({"pattern": "spiral", "interleaves": 1.5}, {"where": "operator#interleaves", "got": "1.5"}),
        ({"pattern": "spiral", "turns": 0}, {"where": "operator#turns", "got": "0"}),
        ({"samples": 0}, {"where": "operator#samples", "got": "0"}),
        ({"complex_volume": "no"}, {"where": "operator#complex_volume", "got": "'no'"}),
        ({"trajectory": torch.zeros(4, 3)}, {"where": "operator#trajectory", "got": (4, 3)}),
        ({"trajectory": torch.zeros(0, 2)}, {"where": "operator#trajectory", "got": (0, 2)}),
        ({"trajectory": "spiral.txt"}, {"where": "operator#trajectory", "expected": "(samples, 2)"}),
        (
            {"trajectory": torch.tensor([[math.nan, 0.0]])},
            {"where": "operator#trajectory", "expected": None, "got": None},
        ),
        ({"trajectory": torch.tensor([[0.0, 4.0]])}, {"where": "operator#trajectory", "got": "up to 0 and 4"}),
        ({"coil_maps": torch.zeros(2, 8, 7, 4)}, {"where": "operator#coil_maps", "got": "torch.float32 (2, 8, 7, 4)"}),
        (
            {"spoke": 3},
            {"where": "operator#spoke", "got": None},
        ),
    ],
)
def test_wrong_options(options: dict[str, Any], fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**options)
    assert {name: getattr(caught.value, name) for name in fields} == fields
