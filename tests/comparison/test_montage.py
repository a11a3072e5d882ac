# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import matplotlib.image as mpimg
import numpy as np
import pytest
import torch
from torch import Tensor

from monai_diffrecon.comparison.montage import montage, preview
from monai_diffrecon.errors import InputError

from ..raising import raises


def _volume(shape: tuple[int, ...] = (1, 12, 16, 14)) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _lit(picture: np.ndarray, columns: slice) -> tuple[float, float]:
    """Return the centre of the white pixels in some columns: 0 to 1 rightwards and upwards from the first column."""
    part = picture[:, columns, :3]
    rows, cols = np.nonzero((part > 0.97).all(axis=2))
    return cols.mean() / part.shape[1], 1 - rows.mean() / part.shape[0]


def test_right_anterior_superior_are_where_the_letters_say(tmp_path: Path) -> None:
    volume = torch.zeros(1, 32, 32, 32)
    volume[:, 22:30, 20:28, 20:28] = 1.0  # right, anterior, superior
    for plane, index in (("axial", 24), ("coronal", 24), ("sagittal", 26)):
        # Roll the block into the middle slice of this plane only.
        axis = {"sagittal": 1, "coronal": 2, "axial": 3}[plane]
        preview(volume.roll(16 - index, axis), tmp_path / "p.png", window=(0.0, 1.0))
        picture = mpimg.imread(tmp_path / "p.png")
        third = picture.shape[1] // 3
        start = {"axial": 0, "coronal": third, "sagittal": 2 * third}[plane]
        across, up = _lit(picture[80:], slice(start, start + third))
        assert across > 0.6
        assert up > 0.6


def test_montage_writes_one_picture_and_nothing_else(tmp_path: Path) -> None:
    truth = _volume()
    montage({"input": truth + 0.2, "reconstruction": truth + 0.01}, truth, tmp_path / "m.png", title="a $title")
    picture = mpimg.imread(tmp_path / "m.png")
    assert picture.shape[1] > 900
    assert os.listdir(tmp_path) == ["m.png"]


def test_spacing_gives_true_proportions(tmp_path: Path) -> None:
    truth = _volume((1, 16, 16, 8))
    heights = []
    for z in (1.0, 2.0):
        montage({"x": truth + 0.1}, truth, tmp_path / "m.png", spacing=(1, 1, z))
        heights.append(mpimg.imread(tmp_path / "m.png").shape[0])
    # Two planes, two rows each, grow from half a column of 2.1 inches to a whole one, at 150 dpi.
    assert heights[1] - heights[0] == pytest.approx(4 * 1.05 * 150, abs=3)


def test_error_maps_share_one_scale(tmp_path: Path) -> None:
    truth = torch.zeros(1, 16, 16, 16)
    truth[:, 0, 0, 0] = 1.0
    montage(
        {"small": truth + 0.1, "large": truth + 1.0}, truth, tmp_path / "m.png", window=(0, 100), error_scale=1.0
    )  # fmt: skip
    picture = mpimg.imread(tmp_path / "m.png")[:, :, :3]
    brightness = picture.sum(axis=2)
    height, width = brightness.shape
    bottom = brightness[int(0.85 * height) : int(0.9 * height)]
    small, large = bottom[:, int(0.25 * width)], bottom[:, int(0.5 * width)]
    assert small.mean() < 0.5 < 2.0 < large.mean()


def test_given_metrics_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("monai_diffrecon.comparison.montage.volume_metrics", never)
    scores = {"psnr": 30.0} | {f"ssim_{p}": 0.9 for p in ("axial", "coronal", "sagittal")}
    montage({"x": _volume()}, _volume(), tmp_path / "m.png", metrics={"x": scores})
    assert (tmp_path / "m.png").exists()


def test_thin_equal_and_constant_volumes_can_be_drawn(tmp_path: Path) -> None:
    thin = _volume((1, 64, 64, 2))
    montage({"x": thin}, thin, tmp_path / "thin.png")
    preview(torch.zeros(1, 4, 4, 4), tmp_path / "constant.png", title="constant")
    broken = _volume()
    broken[0, 0] = float("nan")
    preview(broken, tmp_path / "broken.png")  # a picture of what went wrong is worth having
    assert len(os.listdir(tmp_path)) == 3


def test_faults(tmp_path: Path) -> None:
    truth = _volume()
    with raises(InputError, where="montage", got="none"):
        montage({}, truth, tmp_path / "m.png")
    with raises(InputError, where="montage", got="truth"):
        montage({"truth": truth}, truth, tmp_path / "m.png")
    with raises(InputError, where="montage 'x'", got=(1, 12, 16, 7)):
        montage({"x": truth[..., ::2]}, truth, tmp_path / "m.png")
    with raises(InputError, where="reconstruction"):
        montage({"x": truth * float("nan")}, truth, tmp_path / "m.png")
    with raises(InputError, where="indices#axial", got=14):
        montage({"x": truth}, truth, tmp_path / "m.png", indices={"axial": 14})
    with raises(InputError, where="picture", got=(12, 16, 14)):
        preview(truth[0], tmp_path / "m.png")
    with raises(InputError, where="picture", got=None):
        preview(truth * float("nan"), tmp_path / "m.png")
    with raises(InputError, where="m.png"):
        preview(truth, tmp_path / "no" / "m.png")
    assert os.listdir(tmp_path) == []
