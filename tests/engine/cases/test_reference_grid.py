# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""References must lie where the reconstruction does, or are brought there when asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor

from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.engine.cases.case_recorder import check_reference
from monai_diffrecon.engine.cases.evaluator import ReconstructionEvaluator
from monai_diffrecon.engine.cases.reference_grid import reference_on_grid
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of, to_tensor
from monai_diffrecon.protocols import Measurement, VolumeGeometry

from ...raising import raises
from ..tiny_networks import SCORE

SHAPE = (22, 20, 18)
#: A rotation about X: an oblique volume in RAS+ order.
TURN = np.array([[1.0, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])


def placed(turn: np.ndarray, spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag(spacing), origin
    return affine


def smooth(affine: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """A smooth function of the world's coordinates on a grid, (1, X, Y, Z)."""
    index = np.stack([*np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), np.ones(shape)])
    x, y, z = np.tensordot(affine[:3], index, 1)
    value = 500 + 150 * np.sin(x / 6) + 120 * np.cos(y / 7 + 0.4) + 100 * np.sin((z + x) / 8)
    return torch.from_numpy(value)[None].float()


def tensor(affine: np.ndarray, shape: tuple[int, ...]) -> MetaTensor:
    return MetaTensor(smooth(affine, shape), affine=torch.as_tensor(affine))


GRID = placed(TURN, (1.0, 1.0, 1.0), (-20.0, 12.0, 5.0))
GEOMETRY: VolumeGeometry = geometry_of(SHAPE, GRID)


@pytest.mark.parametrize("aside", [0.0, 0.05, -0.09])
def test_rounding_is_no_other_place(aside: float) -> None:
    moved = GRID.copy()
    moved[:3, 3] += TURN[:, 1] * aside
    check_reference(tensor(moved, SHAPE), GEOMETRY)


@pytest.mark.parametrize(
    ("change", "voxels"),
    [
        (placed(np.eye(3), (1, 1, 1), (0.2, 0.0, 0.0)), 0.2),
        (placed(np.eye(3), (1, 1, 1), (0.0, 20.0, 0.0)), 20.0),
        (np.diag([2.0, 2.0, 2.0, 1.0]), 21.0),
        (np.diag([1.0, 1.0, 1.01, 1.0]), 0.17),
        (np.diag([-1.0, 1.0, 1.0, 1.0]), 42.0),
    ],
)
def test_another_place_or_voxel_size_is_refused(change: np.ndarray, voxels: float) -> None:
    with raises(InputError, where="reference", expected="corners within 0.1 voxels") as caught:
        check_reference(tensor(GRID @ change, SHAPE), GEOMETRY)
    error = caught.value
    assert (error.where, error.exit_code) == ("reference", 2)
    assert float(str(error.got).split()[0]) == pytest.approx(voxels, rel=0.02)
    assert "--resample_reference true" in str(error.mend)


def test_a_reference_that_says_no_place_is_compared_by_its_shape() -> None:
    check_reference(smooth(GRID, SHAPE), GEOMETRY)
    with raises(InputError, where="reference", got=(1, 21, 20, 18)):
        check_reference(smooth(GRID, SHAPE)[:, 1:], GEOMETRY)


def test_where_neither_image_nor_reference_says_a_position_voxel_sizes_are_compared() -> None:
    image = to_tensor(Measurement(torch.ones(1, 22, 20, 4), geometry_of((22, 20, 4), np.diag([1.0, 1.0, 5.0, 1.0]))))
    thin = geometry_of((22, 20, 20), placed(np.eye(3), (1, 1, 1), (0, 0, -2)))
    check_reference(tensor(np.eye(4), (22, 20, 20)), thin, image)
    for affine in (np.diag([1.0, 1.0, 2.0, 1.0]), placed(np.eye(3), (1, 1, 1), (20, 0, 0))):
        with raises(InputError, where="reference", expected="corners within 0.1 voxels"):
            check_reference(tensor(affine, (22, 20, 20)), thin, image)
    elsewhere = placed(np.eye(3), (1, 1, 5), (0, 0, 30))
    image = to_tensor(Measurement(torch.ones(1, 22, 20, 4), geometry_of((22, 20, 4), elsewhere)))
    with raises(InputError, where="reference", got="2 voxels"):
        check_reference(tensor(np.eye(4), (22, 20, 20)), thin, image)


@pytest.mark.parametrize(
    "source",
    [
        placed(TURN, (0.5, 0.5, 0.5), (0, 0, 0)),
        placed(TURN, (0.7, 1.0, 1.3), (0, 0, 0)),
        placed(np.eye(3), (0.6, 0.6, 0.6), (0, 0, 0)),
        placed(np.linalg.qr(np.random.default_rng(9).standard_normal((3, 3)))[0], (1.0, 0.8, 1.0), (0, 0, 0)),
    ],
)
def test_a_reference_is_resampled_to_the_reconstructions_grid(source: np.ndarray) -> None:
    """Finer, coarser or turned, from a larger field of view: the values are those of the function."""
    shape = tuple(int(60 / s) for s in np.linalg.norm(source[:3, :3], axis=0))
    middle = (GRID @ [*((n - 1) / 2 for n in SHAPE), 1])[:3]
    source = source.copy()
    source[:3, 3] = middle - source[:3, :3] @ ((np.array(shape) - 1) / 2) + 0.37
    got, step = reference_on_grid(tensor(source, shape), GEOMETRY)
    assert step is not None
    assert step["resample_reference"]["from_shape"] == list(shape)
    check_reference(got, GEOMETRY)
    torch.testing.assert_close(got.as_subclass(torch.Tensor), smooth(GRID, SHAPE), rtol=0, atol=1.5)
    again, step = reference_on_grid(got, GEOMETRY)
    assert step is None
    assert again is got


def test_a_reference_that_does_not_cover_the_reconstruction_is_refused() -> None:
    moved = GRID.copy()
    moved[:3, 3] += TURN[:, 0] * 5
    with raises(InputError, where="reference", got="up to 4.5 voxels beyond its edge"):
        reference_on_grid(tensor(moved, SHAPE), GEOMETRY)


def test_a_thick_reference_is_no_truth() -> None:
    with raises(InputError, where="reference", got="5 mm"):
        reference_on_grid(tensor(GRID @ np.diag([1.0, 1.0, 5.0, 1.0]), (22, 20, 4)), GEOMETRY)


def run(output: Path, image: MetaTensor, reference: MetaTensor, **options: Any) -> Any:
    loader = DataLoader(Dataset([{"image": image, "reference": reference, "case": "c"}]), batch_size=1, num_workers=0)
    inferer = DiffReconInferer(
        SCORE,
        "slice_thickness",
        sampler={"name": "pnp_hqs", "steps": 1, "sigma_start": 0.2},
        spacing_tolerance=0.05,
        progress=False,
    )
    evaluator = ReconstructionEvaluator("cpu", loader, SCORE.network, inferer, str(output), track=False, **options)
    evaluator.run()
    return evaluator.state.output


def test_a_run_refuses_or_resamples_and_says_so_in_the_record(tmp_path: Path) -> None:
    thick = placed(TURN, (1.0, 1.0, 3.0), (-20.0, 12.0, 5.0))
    image = to_tensor(Measurement(smooth(thick, (22, 20, 6)), geometry_of((22, 20, 6), thick)))
    source = placed(TURN, (0.8, 0.8, 0.8), (0, 0, 0))
    source[:3, 3] = thick[:3, 3] - TURN @ np.array([3.0, 3.0, 3.0])
    reference = tensor(source, (40, 40, 40))
    with raises(InputError, where="reference", got=(1, 40, 40, 40)):
        run(tmp_path / "refused", image, reference)
    assert not (tmp_path / "refused" / "c_recon.nii.gz").exists()
    output = run(tmp_path / "done", image, reference, resample_reference=True)
    record = json.loads((tmp_path / "done" / "c_recon.provenance.json").read_text())
    (step,) = record["preparation"]
    assert step["resample_reference"]["from_shape"] == [40, 40, 40]
    grid = np.asarray(output["pred"].affine)
    truth = smooth(grid, tuple(output["pred"].shape[1:]))
    expected = volume_metrics(output["pred"].as_subclass(torch.Tensor), truth)["psnr"]
    assert output["metrics"]["psnr"] == pytest.approx(expected, abs=0.05)
    again = run(tmp_path / "done", image, reference, resample_reference=True)  # the record verifies: kept
    assert again["report"] is None
    assert again["metrics"]["psnr"] == pytest.approx(output["metrics"]["psnr"], abs=1e-3)
    np.testing.assert_allclose(grid, affine_of(geometry_of((22, 20, 18), grid)))
