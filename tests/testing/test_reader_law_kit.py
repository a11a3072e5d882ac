# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The laws of readers find what they are for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.io.nifti_reader import NIfTIReader
from monai_diffrecon.protocols import Measurement
from monai_diffrecon.testing.reader_laws import check_reader

GEOMETRY = geometry_of((3, 4, 5))


class Sound(NIfTIReader):
    """A reader to break; returns ``measurement`` for its example."""

    measurement = Measurement(torch.ones(1, 3, 4, 5), GEOMETRY)

    def read(self, path: Path) -> Measurement:
        return self.measurement if path.name == "example.nii" else super().read(path)


def changed(**options: Any) -> type[Sound]:
    return type("Changed", (Sound,), options)


def raising(error: Exception) -> Callable[..., Any]:
    def act(self: Any, path: Path) -> Any:
        raise error

    return act


def says(text: str) -> Callable[..., Any]:
    """Refuse with a text, in which ``{}`` is the path, but read the example."""

    def read(self: Any, path: Path) -> Measurement:
        if path.name == "example.nii":
            return self.measurement
        error = InputError("x")
        error.args = (text.format(path),)
        raise error

    return read


def check(kind: type[Sound], tmp_path: Path) -> None:
    example = tmp_path / "example.nii"
    write_volume(example, torch.ones(1, 3, 4, 5), GEOMETRY)
    (tmp_path / "work").mkdir()
    check_reader(kind(), tmp_path / "work", example)


def test_a_sound_reader_passes(tmp_path: Path) -> None:
    check(Sound, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recognises": raising(ValueError("no"))}, "recognises raises ValueError"),
        ({"recognises": lambda self, path: None}, "recognises returns None"),
        ({"recognises": lambda self, path: True}, "empty is recognised"),
        ({"recognises": lambda self, path: False}, "the example is not recognised"),
        ({"read": raising(KeyError("kspace"))}, "read raises KeyError for empty"),
        ({"read": lambda self, path: self.measurement}, "read takes empty"),
        ({"read": says("{}: bad")}, "the refusal names the folder"),
        ({"read": says("bad")}, "the refusal does not name empty"),
        ({"measurement": Measurement(torch.ones(1, 3, 4, 6), GEOMETRY)}, "the data are"),
        ({"measurement": Measurement(torch.ones(1, 3, 4, 5).double(), GEOMETRY)}, "the data are torch.float64"),
        ({"measurement": Measurement(torch.full((1, 3, 4, 5), torch.nan), GEOMETRY)}, "not finite"),
        ({"measurement": Measurement(torch.ones(1, 3, 4, 5), GEOMETRY, weights=torch.ones(3))}, "weights"),
        ({"measurement": Measurement(torch.ones(1, 3, 4, 5), GEOMETRY, noise_std=-1.0)}, "noise_std is -1"),
        ({"measurement": Measurement(torch.ones(3), GEOMETRY, {"name": "parallel_ct"})}, "operator cannot be built"),
        ({"measurement": Measurement(torch.ones(3), GEOMETRY, {"name": "parallel_ct", "views": 2})}, r"expected \(2, "),
        ({"measurement": Measurement(torch.ones(1, 3, 4, 5), GEOMETRY, {"name": "cartesian_mri"})}, "real data for a"),
    ],
)
def test_a_broken_one_does_not(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(changed(**options), tmp_path)
