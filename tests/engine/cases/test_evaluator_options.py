# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Options of the evaluator and of its pictures that are refused before the first case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_diffrecon.bundle.score_network import load_score_network
from monai_diffrecon.engine.cases.evaluator import ReconstructionEvaluator
from monai_diffrecon.engine.handlers.preview_pictures import PreviewPictures
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.errors import DiffReconError

from ...raising import raises


@pytest.mark.parametrize(
    ("option", "where", "values"),
    [
        ("output_dir", "output_dir", [None, 7, [], {}, "", "Roe\0", "Roe" * 100]),
        ("preview_every", "evaluator#preview_every", [-1, 2.5, "5", None, True]),
        ("device", "device", ["gpu", [], {}]),
    ],
)
def test_an_option_of_the_wrong_type_is_refused(
    tmp_path: Path, make_bundle: Callable[..., Path], option: str, where: str, values: list[Any]
) -> None:
    score = load_score_network(make_bundle(tmp_path / "axial"))
    options: dict[str, Any] = {"device": "cpu", "output_dir": str(tmp_path / "out"), "track": False}
    for value in values:
        with pytest.raises(DiffReconError) as caught:
            ReconstructionEvaluator(
                val_data_loader=[],
                network=score.network,
                inferer=DiffReconInferer(score, "slice_thickness"),
                **options | {option: value},
            )
        assert (caught.value.where, caught.value.exit_code) == (where, 2)
        assert "Roe" not in str(caught.value)


@pytest.mark.parametrize("every", [0, -1, "5", 1.5, None])
def test_pictures_every_so_many_steps(tmp_path: Path, every: Any) -> None:
    with raises(DiffReconError, where="preview_every", expected="an integer from 1"):
        PreviewPictures(str(tmp_path), every)
