# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Options that ask for more than any machine has, or that no number can hold: refused before memory is taken."""

from __future__ import annotations

from typing import Any

import pytest

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, ResourceError
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.protocols import Operator, VolumeGeometry

from ..raising import raises

GEOMETRY = VolumeGeometry((8, 8, 5))
FAN = {"source_distance": 50.0, "detector_distance": 80.0}
TOO_MANY_RAYS = {"expected": "at most 4 GB for their directions"}
OPTIONS: dict[str, tuple[dict[str, Any], type[DiffReconError], dict[str, Any]]] = {
    "10^9 views": (
        {"name": "parallel_ct", "views": 10**9},
        ConfigError,
        {"where": "operator#views", "expected": "an integer from 1 up to 1000000", "got": 10**9},
    ),
    "10^9 views of a rotation": (
        {"name": "rotation_ct", "views": 10**9},
        ConfigError,
        {"where": "operator#views", "expected": "an integer from 2 up to 1000000", "got": 10**9},
    ),
    "10^12 rays": ({"name": "parallel_ct", "views": 10**6, "detectors": 10**6}, ResourceError, TOO_MANY_RAYS),
    "10^12 bins": ({"name": "fan_ct", "views": 3, "detectors": 10**12, **FAN}, ResourceError, TOO_MANY_RAYS),
    "a detector without end": (
        {"name": "parallel_ct", "views": 3, "detector_spacing": 1e-300},
        ResourceError,
        TOO_MANY_RAYS,
    ),
    "an integer beyond all floats": (
        {"name": "cartesian_mri", "acceleration": 10**400},
        ConfigError,
        {"where": "operator#acceleration"},
    ),
    "the smallest number": (
        {"name": "slice_thickness", "thickness": 5e-324},
        ConfigError,
        {"where": "operator#thickness", "expected": "1 to 5 mm"},
    ),
    "the largest number": (
        {"name": "slice_thickness", "thickness": 1e308, "gap": 1e308},
        ConfigError,
        {"where": "operator#thickness", "got": 1e308},
    ),
}


@pytest.mark.parametrize("name", list(OPTIONS))
def test_an_impossible_option_is_one_line(name: str) -> None:
    spec, kind, fields = OPTIONS[name]
    with raises(kind, **fields) as caught:
        registry.build("operators", spec, geometry=GEOMETRY)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 600


def test_thin_slices_without_number_are_refused_before_there_is_a_matrix() -> None:
    with raises(ConfigError, where="operator#target_spacing", got="5e+08", expected="at most 8192"):
        SliceThickness.volume_geometry(VolumeGeometry((8, 8, 5), (1.0, 1.0, 1e8)))
    with raises(ConfigError, where="operator#target_spacing", got="1e+06"):
        SliceThickness(VolumeGeometry((8, 8, 10**6)), thickness=3.0)


def test_a_long_value_makes_no_long_line() -> None:
    with pytest.raises(ConfigError) as caught:
        registry.build("operators", {"name": "parallel_ct", "views": "x" * 5000}, geometry=GEOMETRY)
    line = str(caught.value)
    assert len(line) < 600
    assert line.startswith("operator#views: out of range; expected an integer from 1 up to 1000000, got 'xxx")
    assert caught.value.got == repr("x" * 5000)


def test_a_line_is_one_line_whatever_is_in_it() -> None:
    line = str(InputError("what\n\u2028went", where="a\tb", got="y\n" * 2000, mend="m " * 2000))
    assert len(line.splitlines()) == 1
    assert len(line) < 600


class _Careless(Operator):
    """Raises what its author never thought of."""

    def __init__(self, geometry: VolumeGeometry, fault: str) -> None:
        raise {"key": KeyError("x"), "zero": ZeroDivisionError(), "torch": RuntimeError("x"), "memory": MemoryError()}[
            fault
        ]

    def _forward(self, x: Any) -> Any:
        return x

    _adjoint = initial = _forward


@pytest.mark.parametrize("fault", ["key", "zero", "torch", "memory"])
def test_what_a_constructor_raises_is_one_line(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_diffrecon.registry.construction.load_entry", lambda *_, **__: _Careless)
    kind = ResourceError if fault == "memory" else ConfigError
    with raises(kind, where="operator"):
        registry.build("operators", {"name": "parallel_ct", "fault": fault}, geometry=GEOMETRY)
