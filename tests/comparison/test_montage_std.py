# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import matplotlib.image as mpimg
import numpy as np
import torch

from monai_diffrecon.comparison.montage import montage
from monai_diffrecon.errors import InputError

from ..raising import raises


def test_the_std_is_below_the_truth_in_the_colours_of_the_errors(tmp_path: Path) -> None:
    truth = torch.zeros(1, 16, 16, 16)
    truth[:, 0, 0, 0] = 1.0
    pictures = []
    for std in (None, torch.zeros_like(truth), torch.ones_like(truth)):
        montage({"x": truth + 1.0}, truth, tmp_path / "m.png", window=(0, 100), error_scale=1.0, std=std)
        pictures.append(mpimg.imread(tmp_path / "m.png")[:, :, :3].sum(axis=2))
    without, none, full = pictures
    assert none.shape[1] > without.shape[1]  # room for the colour bar
    row = int(0.93 * none.shape[0])
    error, spread = (slice(int(0.15 * none.shape[1]), int(0.4 * none.shape[1])), slice(int(0.55 * none.shape[1]), -150))
    assert np.abs(full[row, spread] - full[row, error].mean()).max() < 0.05  # as bright as an error of 1
    assert none[row, spread].mean() < 0.1


def test_a_std_on_another_grid_is_refused(tmp_path: Path) -> None:
    truth = torch.rand(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with raises(InputError, where="montage 'std'", got=(1, 4, 8, 8)):
        montage({"x": truth}, truth, tmp_path / "m.png", std=truth[:, :4])
