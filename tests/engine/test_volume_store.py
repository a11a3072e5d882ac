# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A volume that lies on the disk is the volume that is reconstructed in memory."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_diffrecon import distributed
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.engine.store.volume_store import VolumeStore, stored
from monai_diffrecon.errors import ConfigError, DiffReconError, IntegrityError, ResumeMismatchError
from monai_diffrecon.io.measurement.metatensor import from_tensor, to_tensor
from monai_diffrecon.operators import CartesianMRI, ParallelCT, SliceThickness
from monai_diffrecon.protocols import Measurement, Operator, VolumeGeometry

from ..raising import raises
from .test_slabs import AXIAL, CORONAL

pytest.importorskip("zarr", reason="zarr 3 needs Python 3.11")

GEOMETRY = VolumeGeometry((12, 10, 11), (1.0, 1.0, 1.0))
STORE = {"name": "zarr", "slab_gb": 1e-5}  # slabs of two slices
#: Each slab ends its conjugate gradients by itself, so they have to converge to be the same.
SOLVED = {"name": "conjugate_gradient", "iterations": 50, "tolerance": 1e-6, "gamma": 0.1}
#: Relative to the largest voxel.
TOLERANCE = 2e-4


PNP = {"name": "pnp_hqs", "steps": 2, "start": "initial"}


def specs(name: str) -> dict[str, Any]:
    return {
        "ct": {"name": "parallel_ct", "views": 6},
        "thick": {"name": "slice_thickness", "thickness": 2.0, "target_spacing": 1.0},
        "mri": {"name": "cartesian_mri", "acceleration": 2.0},
    }[name]


def measurement(name: str, noise_std: float = 0.01) -> Tensor:
    spec = specs(name)
    options = {k: v for k, v in spec.items() if k != "name"}
    operator: Operator = {"ct": ParallelCT, "thick": SliceThickness, "mri": CartesianMRI}[name](GEOMETRY, **options)
    generator = torch.Generator().manual_seed(3)
    y = operator(1.0 + 0.2 * torch.rand(operator.volume_shape, generator=generator))  # far from negative
    y = y + noise_std * torch.randn(y.shape, generator=generator, dtype=y.dtype)
    return to_tensor(Measurement(y, GEOMETRY, operator=spec, noise_std=noise_std))


def inferer(name: str, **options: Any) -> DiffReconInferer:
    plugins = {"prior": "perpendicular", "consistency": SOLVED, "sampler": PNP}
    options = {"sw_batch_size": 2, "progress": False, **plugins, **options}
    return DiffReconInferer(AXIAL, specs(name), auxiliaries=(CORONAL,), **options)


def both(name: str, **options: Any) -> tuple[Tensor, Tensor]:
    y = measurement(name)
    whole = inferer(name, **options).reconstruct(y, case="a")
    parts = inferer(name, volume_store=STORE, **options).reconstruct(y, case="a")
    assert parts.report.execution["slabs"] > 3
    assert parts.report.network_calls >= whole.report.network_calls
    assert parts.report.denoiser_calls == whole.report.denoiser_calls
    assert [row["residual"] for row in parts.report.steps] == pytest.approx(
        [row["residual"] for row in whole.report.steps], rel=1e-2
    )
    return parts.volume, whole.volume


def difference(parts: Tensor, whole: Tensor) -> float:
    return float((parts - whole).abs().max() / whole.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ct", "thick", "mri"])
@pytest.mark.parametrize(
    "plugins",
    [
        {},
        {"sampler": {"name": "pnp_hqs", "steps": 3, "momentum": 0.5}},
        {"sampler": {"name": "heun", "steps": 2, "S_churn": 1.0}, "prior": {"name": "perpendicular", "K": "average"}},
        {"sampler": {"name": "predictor_corrector", "steps": 2}},
        {"sampler": {"name": "pnp_hqs", "steps": 3, "start": "initial"}, "flips": True},
        {"sampler": {"name": "ddim", "steps": 2, "start": "initial", "sigma_start": 0.2}},
    ],
    ids=["pnp_hqs", "momentum", "heun", "predictor_corrector", "flips", "ddim"],
)
def test_same_volume(name: str, plugins: dict[str, Any]) -> None:
    assert difference(*both(name, **plugins)) <= TOLERANCE


@pytest.mark.parametrize("name", ["ct", "thick"])
def test_same_where_nothing_is_solved(name: str) -> None:
    """Noise and batches of the networks do not depend on the slabs; some CPUs round a slice alone differently."""
    sampler = {"name": "heun", "start": "noise", "sigma_start": 0.3, "steps": 3}
    assert difference(*both(name, sampler=sampler, consistency="none")) <= 1e-5


def test_a_large_volume_needs_no_more_of_the_network() -> None:
    """Turns that are taken again do not call the networks again."""
    options = {"sampler": {"name": "predictor_corrector", "steps": 2}, "prior": {"name": "perpendicular", "K": 2}}
    y = measurement("ct")
    done = [inferer("ct", volume_store=store, **options).reconstruct(y, case="a") for store in (None, "zarr")]
    assert done[0].report.network_calls == done[1].report.network_calls  # one slab
    assert done[1].report.execution["slabs"] == 1
    assert torch.equal(done[0].volume, done[1].volume)


def test_negative_voxels_are_removed() -> None:
    y = measurement("mri")
    signs = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).sign()
    y = to_tensor(replace(from_tensor(y), data=from_tensor(y).data * signs, noise_std=0.01))
    done = inferer("mri", volume_store=STORE).reconstruct(y, case="a")
    assert float(done.volume.min()) >= 0.0
    assert done.report.execution["negative_voxels"] > 0.0


class Killed(BaseException):
    pass


class Killer:
    """Ends the run within a step: at the n-th file of a slab."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self.left, write = after, VolumeStore.write

        def killed(store: VolumeStore, *given: Any) -> None:
            self.left -= 1
            if self.left < 0:
                raise Killed
            write(store, *given)

        monkeypatch.setattr(VolumeStore, "write", killed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ct", "thick"])
@pytest.mark.parametrize("after", [3, 14, 20])
def test_a_killed_run_goes_on(name: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"volume_store": STORE, "sampler": {"name": "ddim", "steps": 3}}
    y, path = measurement(name), tmp_path / "a_checkpoint.pt"
    expected = inferer(name, **options).reconstruct(y, case="a").volume.clone()
    with monkeypatch.context() as within:
        Killer(within, after)
        with pytest.raises(Killed):
            inferer(name, **options).reconstruct(y, case="a", checkpoint=RunCheckpoint(path))
    checkpoint = RunCheckpoint(path)
    done = inferer(name, **options).reconstruct(y, case="a", checkpoint=checkpoint)
    assert torch.equal(done.volume, expected)
    assert done.report.execution["resumed"] == int(after >= done.report.execution["slabs"])
    assert len(done.report.steps) == 3
    assert checkpoint.folder.is_dir()
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(done.volume, expected)  # still there


def test_a_checkpoint_without_its_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    y, checkpoint = measurement("ct"), RunCheckpoint(tmp_path / "a_checkpoint.pt")
    Killer(monkeypatch, 14)
    with pytest.raises(Killed):
        inferer("ct", volume_store=STORE).reconstruct(y, case="a", checkpoint=checkpoint)
    monkeypatch.undo()
    shutil.rmtree(checkpoint.folder)
    with raises(IntegrityError, where="inferer#volume_store"):
        inferer("ct", volume_store=STORE).reconstruct(y, case="a", checkpoint=RunCheckpoint(checkpoint.path))


def test_a_checkpoint_of_a_volume_in_memory_is_another(tmp_path: Path) -> None:
    y, checkpoint = measurement("ct"), RunCheckpoint(tmp_path / "a_checkpoint.pt", every=1)
    inferer("ct").reconstruct(y, case="a", checkpoint=checkpoint)
    with raises(ResumeMismatchError):
        inferer("ct", volume_store=STORE).reconstruct(y, case="a", checkpoint=RunCheckpoint(checkpoint.path))


def test_temporary_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    maker, y = inferer("ct", volume_store=STORE), measurement("ct")
    maker.check(y)
    maker.reconstruct(y, case="a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({"volume_store": "hdf5"}, "inferer#volume_store", "hdf5"),
        ({"volume_store": {"name": "zarr", "size": 1}}, "inferer#volume_store", {"name": "zarr", "size": 1}),
        ({"volume_store": {"name": "zarr", "slab_gb": 0}}, "inferer#volume_store#slab_gb", "0"),
        ({"volume_store": STORE, "num_samples": 2, "sampler": "heun"}, "inferer#num_samples", "2"),
        ({"volume_store": STORE, "volume_device": "meta"}, "inferer#volume_device", "meta"),
        ({"volume_store": STORE, "consistency": "dps"}, "inferer#volume_store", "DPSStep"),
    ],
)
def test_refused_options(options: dict[str, Any], where: str, got: Any) -> None:
    with pytest.raises(DiffReconError) as caught:
        inferer("ct", **options)
    assert isinstance(caught.value, ConfigError)
    assert (caught.value.where, str(caught.value.got)) == (where, str(got))


Z_TV = {"name": "admm", "regularizers": [{"name": "z_tv"}]}


@pytest.mark.parametrize(
    "options",
    [{"consistency": Z_TV}, {"sampler": {"name": "pnp_hqs", "steps": 1, "start": {"name": "admm_tv"}}}],
    ids=["z_tv", "admm_tv"],
)
def test_what_looks_across_the_slabs_is_refused(options: dict[str, Any]) -> None:
    with raises(ConfigError, where="inferer#volume_store"):
        inferer("ct", volume_store=STORE, **options).reconstruct(measurement("ct"), case="a")


def test_total_variation_along_the_slabs_is_not_refused() -> None:
    """Slabs of thick slices lie across them."""
    parts, whole = both("thick", consistency=Z_TV | {"iterations": 3, "cg_iterations": 30})
    assert difference(parts, whole) <= 5e-3


def test_an_operator_that_couples_all_planes_is_refused() -> None:
    class Coupled(CartesianMRI):
        def slice_axis(self, plane: str) -> int | None:
            return None

    operator = Coupled(GEOMETRY, acceleration=2.0)
    maker = DiffReconInferer(AXIAL, operator, auxiliaries=(CORONAL,), prior="perpendicular", volume_store=STORE)
    y = operator(torch.rand(operator.volume_shape))
    with raises(ConfigError, where="inferer#volume_store", got="Coupled"):
        maker.reconstruct(to_tensor(Measurement(y, GEOMETRY)), case="a")


def test_missing_zarr_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with raises(ConfigError, where="inferer#volume_store"):
        inferer("ct", volume_store="zarr")


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    maker, y = inferer("ct", volume_store=STORE), measurement("ct")
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    with raises(ConfigError, where="inferer#volume_store", got="2 processes"), stored(maker.recipe.volume_store):
        maker.check(y)
