# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What the projectors share: views recomputed at every use, and the cache on disk."""

import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffrecon_published.rotation_ct import RotationCT
from monai_diffrecon.operators import _matrix_cache as matrix_cache
from monai_diffrecon.operators import _sparse_projector
from monai_diffrecon.operators._sparse_projector import SparseProjector
from monai_diffrecon.operators.fan_ct import FanCT
from monai_diffrecon.operators.parallel_ct import ParallelCT
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.testing.operator_laws import check_operator

GEOMETRY = VolumeGeometry((11, 11, 3), (1.0, 1.0, 2.0))
MAKERS: dict[str, Callable[..., SparseProjector]] = {
    "parallel_ct": lambda **options: ParallelCT(GEOMETRY, views=7, detector_offset=0.25, **options),
    "fan_ct": lambda **options: FanCT(GEOMETRY, 20.0, 35.0, "curved", views=7, **options),
    "rotation_ct": lambda **options: RotationCT(GEOMETRY, views=7, **options),
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[..., SparseProjector]:
    return MAKERS[request.param]


def limit_of(operator: SparseProjector, views: float) -> float:
    """Return a limit in GB that some of the 7 views fit into."""
    each = {"rotation_ct": 16 * 11 * 11 * (2.0 * 2**0.5 + 2.0)}.get(operator.name, 20 * 2 * 11 * 16.0)
    return views * each / 1e9


@pytest.mark.parametrize("views", [1.1, 3.3])
def test_rebuilt_views_are_the_same_map(
    make: Callable[..., SparseProjector], views: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Forward, adjoint, normal and the estimate of the stored matrix, in both precisions; one warning says so."""
    stored = make()
    assert not caplog.records
    rebuilt = make(memory_limit_gb=limit_of(stored, views))
    assert rebuilt.matrix is None
    assert 1 < len(rebuilt._parts) <= 7
    assert rebuilt._parts[0][0] == 0
    assert rebuilt._parts[-1][1] == 7
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(stored.volume_shape, generator=generator)
    y = torch.randn(stored.measurement_shape, generator=generator)
    torch.testing.assert_close(rebuilt(x), stored(x), atol=0, rtol=0)
    for name, argument in (("adjoint", y), ("normal", x), ("initial", y)):
        expected = getattr(stored, name)(argument)
        torch.testing.assert_close(
            getattr(rebuilt, name)(argument), expected, rtol=0, atol=3e-6 * float(expected.abs().max())
        )
    a, b = copy.deepcopy(rebuilt).double(), copy.deepcopy(stored).double()
    torch.testing.assert_close(a.normal(x.double()), b.normal(x.double()), rtol=1e-12, atol=1e-12 * stored.norm())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"operator {stored.name}: the matrix would need about" in record.message


@pytest.mark.slow
def test_laws_of_rebuilt_views(make: Callable[..., SparseProjector]) -> None:
    check_operator(make(memory_limit_gb=limit_of(make(), 2.2)))


def test_rebuilt_views_copy_and_pickle(make: Callable[..., SparseProjector]) -> None:
    operator = make(memory_limit_gb=limit_of(make(), 1.1))
    x = torch.randn(operator.volume_shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pickle.loads(pickle.dumps(operator))(x), operator(x))
    assert not operator.state_dict()


def test_more_entries_than_int32_counts_are_rebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sparse_projector, "_MOST_ENTRIES", 100)
    assert MAKERS["parallel_ct"]().matrix is None


def test_the_matrix_comes_from_the_cache(
    make: Callable[..., SparseProjector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second operator reads what the first one built; rebuilt views are not kept."""
    monkeypatch.setenv("DIFFRECON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(matrix_cache, "WORTH_SECONDS", 0.0)
    first = make()
    assert len(list(tmp_path.iterdir())) == 1
    x = torch.randn(first.volume_shape, generator=torch.Generator().manual_seed(0))
    expected = first(x)
    with monkeypatch.context() as patched:
        patched.setattr(type(first), "_view_matrix", None)
        second = make()
    assert torch.equal(second(x), expected)
    assert torch.equal(second.adjoint(expected), first.adjoint(expected))
    make(memory_limit_gb=limit_of(first, 1.1))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"views": 8},
        {"arc": 179.0},
        {"first_angle": 1e-9},
        {"detectors": 20},
        {"detector_spacing": 1.1},
        {"detector_offset": 0.1},
        {"geometry": VolumeGeometry((11, 12, 1))},
        {"geometry": VolumeGeometry((11, 11, 1), (1.0, 1.01, 1.0))},
    ],
)
def test_each_number_of_the_geometry_names_the_file(
    change: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFRECON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(matrix_cache, "WORTH_SECONDS", 0.0)
    base = {"geometry": VolumeGeometry((11, 11, 1)), "views": 7, "arc": 180.0, "detectors": 21, "detector_spacing": 1.0}
    ParallelCT(**base)
    ParallelCT(**{**base, "geometry": VolumeGeometry((11, 11, 5))})  # slices share it
    ParallelCT(**base, filter="hann")
    assert len(list(tmp_path.iterdir())) == 1
    ParallelCT(**(base | change))
    FanCT(source_distance=20.0, detector_distance=30.0, **base)
    FanCT(source_distance=20.0, detector_distance=31.0, **base)
    FanCT(source_distance=20.0, detector_distance=31.0, detector="curved", **base)
    assert len(list(tmp_path.iterdir())) == 5
