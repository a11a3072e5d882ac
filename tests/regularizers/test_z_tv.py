# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Total variation across slices."""

import pytest
import torch

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.regularizers.z_tv import ZTV
from monai_diffrecon.testing.regularizer_laws import check_regularizer

from ..raising import raises

GEOMETRY = VolumeGeometry((4, 5, 6), (1.0, 2.0, 4.0))
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("boundary", ["neumann", "periodic"])
@pytest.mark.parametrize("plane", AXES)
def test_laws(plane: str, boundary: str, dtype: torch.dtype) -> None:
    check_regularizer(ZTV(plane=plane, boundary=boundary), GEOMETRY, dtype=dtype)


@pytest.mark.parametrize("plane", AXES)
def test_slope_in_mm_costs_the_same_along_every_axis(plane: str) -> None:
    """A ramp of 0.1 a mm: every difference is 0.1 times the smallest voxel size."""
    axis = AXES[plane]
    ramp = torch.arange(GEOMETRY.shape[axis], dtype=torch.float64) * 0.1 * GEOMETRY.spacing[axis]
    x = ramp.reshape([-1 if a == axis else 1 for a in range(3)]).expand(1, *GEOMETRY.shape)
    regularizer = ZTV(plane=plane)
    regularizer.bind(GEOMETRY)
    d = regularizer.transform(x).movedim(axis + 1, 0)
    torch.testing.assert_close(d[:-1], torch.full_like(d[:-1], 0.1))
    assert torch.equal(d[-1], torch.zeros_like(d[-1]))
    expected = 0.1 * (GEOMETRY.shape[axis] - 1) * 4 * 5 * 6 / GEOMETRY.shape[axis]
    assert regularizer.penalty(x) == pytest.approx(expected)


@pytest.mark.parametrize("step", [0.0, 0.2, 1.5])
def test_prox_satisfies_its_optimality_condition(step: float) -> None:
    """0 is in u - v + step * d|u|: the subgradient (v - u) / step is sign(u), or in [-1, 1] where u is 0."""
    v = torch.randn((1, 4, 5, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = ZTV().prox(v, step)
    gap = v - u
    torch.testing.assert_close(gap[u != 0], step * torch.sign(u[u != 0]))
    assert (gap[u == 0].abs() <= step + 1e-12).all()


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({"threshold": -1e-3}, "z_tv#threshold", "-0.001"),
        ({"threshold": float("nan")}, "z_tv#threshold", "nan"),
        ({"threshold": float("inf")}, "z_tv#threshold", "inf"),
        ({"threshold": True}, "z_tv#threshold", "True"),
        ({"threshold": "0.1"}, "z_tv#threshold", "'0.1'"),
        ({"plane": "z"}, "z_tv#plane", "'z'"),
        ({"boundary": "zero"}, "z_tv#boundary", "'zero'"),
    ],
)
def test_wrong_options(options: dict, where: str, got: str | None) -> None:
    with raises(ConfigError, where=where, got=got):
        ZTV(**options)


def test_needs_its_geometry() -> None:
    with raises(ConfigError, where="z_tv"):
        ZTV().transform(torch.zeros(1, 4, 4, 4))


@pytest.mark.parametrize(
    ("method", "broken", "message"),
    [
        ("adjoint", lambda self, v: 0.9 * v, "not the adjoint"),
        ("prox", lambda self, v, step: (1 + step) * v, "firmly nonexpansive"),
        ("prox", lambda self, v, step: v.mul_(1 / (1 + step)), "in place"),
        ("transform", lambda self, x: x.abs(), "not linear"),
    ],
)
def test_the_law_kit_finds_a_broken_regularizer(method: str, broken, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_regularizer(type("Broken", (ZTV,), {method: broken})(), GEOMETRY)
