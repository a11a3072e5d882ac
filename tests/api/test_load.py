# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``monai_diffrecon.load``: what it takes, what comes out, and what it refuses."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

import monai_diffrecon as dr
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError
from monai_diffrecon.io.measurement.metatensor import to_tensor
from monai_diffrecon.tracking.provenance import verify_record

AFFINE = np.array([[1.0, 0, 0, -5], [0, 1, 0, 7], [0, 0, 1, 2], [0, 0, 0, 1]])
GEOMETRY = dr.VolumeGeometry((12, 10, 9), affine=tuple(tuple(float(v) for v in row) for row in AFFINE))
TRUTH = torch.rand((1, *GEOMETRY.shape), generator=torch.Generator().manual_seed(0)) * 100 + 20
MRI = {"name": "cartesian_mri", "mask_type": "poisson", "acceleration": 2}
THICK = {"name": "slice_thickness", "thickness": 3.0}


class Mine(dr.operators.CartesianMRI):
    """An operator that is in no package."""


@pytest.fixture(scope="module")
def bundles(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles")
    make_bundle(root / "tiny_axial")
    make_bundle(root / "tiny_coronal", "coronal", 1)
    return root


@pytest.fixture(scope="module")
def mri(bundles: Path) -> dr.Reconstructor:
    return dr.load(bundles / "tiny_axial", task="accelerated_mri", method="dds", calls=3, device="cpu")


@pytest.fixture(scope="module")
def built() -> dr.Operator:
    return dr.operators.CartesianMRI(GEOMETRY, mask_type="poisson", acceleration=2)


@pytest.fixture(scope="module")
def y(built: dr.Operator) -> torch.Tensor:
    return built(TRUTH)


@pytest.fixture(scope="module")
def expected(mri: dr.Reconstructor, y: torch.Tensor) -> torch.Tensor:
    """By the inferer that an operator's spec makes, without any of the faces."""
    inferer = dr.DiffReconInferer(
        mri.inferer.score,
        MRI,
        "slices",
        {"name": "admm", "rho": 0.026, "cg_iterations": 5, "regularizers": [{"name": "z_tv", "threshold": 0.004}]},
        {"name": "ddim", "steps": 3, "eta": 1.0, "sigma_start": 0.2, "start": dict(TV)},
        progress=False,
    )
    return inferer.reconstruct(to_tensor(dr.Measurement(y, GEOMETRY, MRI))).volume


TV = {"name": "admm_tv", "rho": 0.3, "threshold": 0.03}


@pytest.mark.parametrize("data", ["tensor", "numpy", "double"])
@pytest.mark.parametrize("how", ["instance", "spec", "class", "class with options", "own class", "measurement"])
def test_measurements_of_every_kind_give_the_same(
    how: str, data: str, mri: dr.Reconstructor, built: dr.Operator, y: torch.Tensor, expected: torch.Tensor
) -> None:
    given: Any = {"tensor": y, "numpy": y.numpy(), "double": y.to(torch.complex128)}[data]
    options = {k: v for k, v in MRI.items() if k != "name"}
    if how == "measurement":
        result = mri.reconstruct(dr.Measurement(y, GEOMETRY, MRI))
    elif how == "instance":
        result = mri.reconstruct(given, operator=built)
    else:
        operator: Any = {"spec": MRI, "class": type(built)}.get(how)
        if how == "class":
            options = {}
            given = type(built)(GEOMETRY)(TRUTH)
            named = mri.reconstruct(given, operator="cartesian_mri", geometry=GEOMETRY).volume
            assert torch.equal(mri.reconstruct(given, operator=operator, geometry=GEOMETRY).volume, named)
            return
        cls = Mine if how == "own class" else type(built)
        result = mri.reconstruct(given, operator=operator or {"name": cls, **options}, geometry=GEOMETRY)
    torch.testing.assert_close(result.volume, expected, rtol=0, atol=0)
    np.testing.assert_array_equal(result.affine, AFFINE)


def test_a_path_gives_what_bundle_run_gives(bundles: Path, tmp_path: Path) -> None:
    path, root = tmp_path / "volume.nii.gz", bundles / "tiny_axial"
    nib.save(nib.Nifti1Image(TRUTH[0].numpy(), AFFINE), path)
    config = ConfigParser()
    config.read_config([str(root / "configs/inference.json"), str(root / "configs/tasks/accelerated_mri.json")])
    config.update({"bundle_root": str(root), "image": str(path), "sampler#steps": 3, "device": "cpu"})
    config.update({"evaluator#track": False, "output_dir": str(tmp_path / "out"), "case_name": "c"})
    config.get_parsed_content("evaluator").run()
    written = nib.load(tmp_path / "out/c_recon.nii.gz").get_fdata(dtype=np.float32)
    model = dr.load(root, task="accelerated_mri", overrides={"sampler#steps": 3}, device="cpu")
    result = model.reconstruct(path, case="c")
    np.testing.assert_array_equal(np.asarray(result), written)
    np.testing.assert_array_equal(result.affine, AFFINE)
    scan = dr.read_scan(path)
    assert torch.equal(model.reconstruct(scan, case="c").volume, result.volume)
    assert torch.equal(model.reconstruct(scan.data[0].numpy(), affine=AFFINE, case="c").volume, result.volume)
    assert torch.equal(
        dr.reconstruct(
            str(path), bundle=root, task="accelerated_mri", overrides={"sampler#steps": 3, "device": "cpu"}, case="c"
        ).volume,
        result.volume,
    )


@pytest.mark.parametrize("form", [THICK, dr.operators.SliceThickness, "built"])
def test_a_measured_image_says_its_volume(bundles: Path, form: Any) -> None:
    operator = dr.operators.SliceThickness(GEOMETRY, thickness=3.0)
    image = operator(TRUTH)
    affine = np.asarray(operator.measured_geometry().affine)
    model = dr.load(bundles / "tiny_axial", sampler="cubic", device="cpu")
    if form == "built":
        result = model.reconstruct(image, operator=operator)
    else:
        result = model.reconstruct(image[0].numpy(), operator=form, affine=affine)
    torch.testing.assert_close(result.volume, operator.initial(image))
    np.testing.assert_allclose(result.affine, AFFINE)


def test_an_image_in_a_file_with_an_operator(bundles: Path, tmp_path: Path) -> None:
    operator = dr.operators.SliceThickness(GEOMETRY, thickness=3.0)
    image, path = operator(TRUTH), tmp_path / "thick.nii.gz"
    dr.write_volume(path, image, operator.measured_geometry())
    model = dr.load(bundles / "tiny_axial", sampler="cubic", device="cpu")
    for y in (path, dr.read_scan(path)):
        result = model.reconstruct(y, operator={**THICK, "profile": "gaussian"})
        torch.testing.assert_close(result.volume, operator.initial(image))
        assert result.report.options["operator"]["profile"] == "gaussian"


def test_a_measurement_that_is_no_stack_of_images(bundles: Path) -> None:
    """Data of three axes, with an operator that is built: it says the volume."""
    operator = dr.operators.ParallelCT(dr.VolumeGeometry((12, 12, 3)), views=7)
    y = operator(torch.rand(operator.volume_shape, generator=torch.Generator().manual_seed(2)))
    assert y.ndim == 3
    result = dr.load(bundles / "tiny_axial", sampler="initial", device="cpu").reconstruct(y, operator=operator)
    torch.testing.assert_close(result.volume, operator.initial(y))


def test_noise_seed_and_plugins_are_those_that_were_given(bundles: Path, built: dr.Operator, y: torch.Tensor) -> None:
    class Sampler(dr.samplers.DDIMSampler):
        """In no package."""

    given = {"prior": "slices", "device": "cpu"}
    by_name = dr.load(bundles / "tiny_axial", **given, sampler={"name": "ddim", "steps": 2, "sigma_start": 0.3})
    for sampler in (Sampler(2, sigma_start=0.3), {"name": Sampler, "steps": 2, "sigma_start": 0.3}):
        model = dr.load(bundles / "tiny_axial", **given, sampler=sampler)
        one, two = (model.reconstruct(y, operator=built, seed=s).volume for s in (1, 2))
        assert torch.equal(one, by_name.reconstruct(y, operator=built, seed=1).volume)
        assert not torch.equal(one, two)
    report = by_name.reconstruct(y, operator=built, noise_std=0.25).report
    assert report.inferer["noise_std"] == 0.25
    assert by_name.reconstruct(y, operator=built).report.inferer["noise_std"] is None  # nothing is left behind


def test_the_settings_of_a_preset_follow_the_operator(mri: dr.Reconstructor) -> None:
    operator = dr.operators.SliceThickness(GEOMETRY, thickness=3.0)
    options = mri.reconstruct(operator(TRUTH), operator=operator).report.options
    assert options["sampler"]["sigma_start"] == 0.5
    assert options["sampler"]["start"] == "initial"


def test_a_result_is_an_array_and_a_file(mri: dr.Reconstructor, built: dr.Operator, y: Any, tmp_path: Path) -> None:
    result = mri.reconstruct(y, operator=built)
    assert result.volume.shape == (1, *GEOMETRY.shape)
    assert type(result.volume) is torch.Tensor
    assert np.asarray(result).shape == GEOMETRY.shape
    assert np.asarray(result, dtype=np.float64).dtype == np.float64
    result.save(tmp_path / "out.nii.gz")
    image = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), np.asarray(result))
    np.testing.assert_array_equal(image.affine, AFFINE)
    assert [p.name for p in tmp_path.iterdir()] == ["out.nii.gz"]
    for wrong in (tmp_path / "out.npy", "", 3, tmp_path / "missing" / "out.txt"):
        with pytest.raises(InputError):
            result.save(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        replace(result, volume=result.volume + 1j).save(tmp_path / "complex.nii.gz")


def test_a_result_never_overwrites_its_scan(bundles: Path, tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(TRUTH[0].numpy()[:, :, ::3].copy(), np.diag([1.0, 1, 3, 1])), path)
    before = path.read_bytes()
    result = dr.load(bundles / "tiny_axial", sampler="cubic", device="cpu").reconstruct(str(path))
    link = tmp_path / "link.nii.gz"
    link.symlink_to(path)
    for target in (path, str(path), link):
        with pytest.raises(InputError) as caught:
            result.save(target)
        assert caught.value.exit_code == 2
    assert path.read_bytes() == before
    result.save(tmp_path / "other.nii.gz")
    result.save(tmp_path / "other.nii.gz")


OTHER = dr.VolumeGeometry((3, 3, 3))


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"operator": "cartesian_mri"}, "geometry"),
        ({"operator": "cartesian_mir", "geometry": GEOMETRY}, "operator"),
        ({"operator": {"name": "cartesian_mri", "accel": 2}, "geometry": GEOMETRY}, "operator#accel"),
        ({"operator": dr.samplers.DDIMSampler, "geometry": GEOMETRY}, "operator"),
        ({"operator": 3, "geometry": GEOMETRY}, "operator"),
        ({"operator": MRI, "geometry": GEOMETRY, "affine": AFFINE}, "geometry"),
        ({"operator": "built", "geometry": GEOMETRY}, "geometry"),
        ({"operator": "built", "affine": AFFINE}, "geometry"),
        ({"operator": MRI, "geometry": OTHER}, "operator cartesian_mri"),
        ({"geometry": GEOMETRY}, "geometry"),
        ({"operator": "built", "noise_std": -1}, "noise_std"),
        ({"operator": "built", "noise_std": "x"}, "noise_std"),
        ({"operator": "built", "unit": "mm"}, "unit"),
        ({"operator": "built", "seed": -1}, "seed"),
    ],
)
def test_what_contradicts_is_refused(
    given: dict[str, Any], where: str, mri: dr.Reconstructor, built: dr.Operator, y: torch.Tensor
) -> None:
    given = {k: built if isinstance(v, str) and v == "built" else v for k, v in given.items()}
    with pytest.raises(DiffReconError) as caught:
        mri.reconstruct(y, **given)
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("data", "given", "where"),
    [
        ("missing.nii.gz", {}, "image"),
        ("missing.nii.gz", {"affine": AFFINE}, "y"),
        (dr.Measurement(TRUTH, GEOMETRY), {"affine": AFFINE}, "y"),
        (dr.Measurement(torch.zeros(1, *GEOMETRY.shape).cfloat(), GEOMETRY, MRI), {"operator": MRI}, "operator"),
        (dr.Measurement(TRUTH, OTHER), {}, "y#data"),
        (np.array(["a"]), {}, "y"),
        (None, {}, "y"),
        ({"a": 1}, {}, "y"),
        (np.full(GEOMETRY.shape, np.nan), {}, "y#data"),
        (TRUTH, {"affine": np.eye(3)}, "affine"),
        (TRUTH, {"affine": np.zeros((4, 4))}, "affine"),
        (torch.zeros(2, 12, 10, 9), {}, "y#data"),
        (torch.zeros(12, 10), {}, "inputs"),
    ],
)
def test_what_is_no_scan_is_refused(mri: dr.Reconstructor, data: Any, given: dict[str, Any], where: str) -> None:
    with pytest.raises(DiffReconError) as caught:
        mri.reconstruct(data, **given)
    assert caught.value.where == where
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("given", "where", "near"),
    [
        ({"task": "accelerated_mir"}, "task", "accelerated_mri"),
        ({"method": "ddss"}, "preset", "dds"),
        ({"smpler": "ddim"}, "overrides#smpler", "sampler"),
        ({"overrides": {"sampler#stps": 3}}, "overrides#sampler#stps", "sampler#steps"),
        ({"overrides": {3: 3}}, "overrides#3", None),
        ({"image": "x.nii"}, "overrides#image", None),
        ({"overrides": {"output_dir": "x"}}, "overrides#output_dir", None),
        ({"overrides": {"seed": 1}, "seed": 2}, "seed", None),
        ({"sampler": 3}, "sampler", None),
        ({"overrides": {"sampler#steps": 0}}, "sampler#steps", None),
    ],
)
def test_settings_that_do_not_exist_are_refused(
    bundles: Path, given: dict[str, Any], where: str, near: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        dr.load(bundles / "tiny_axial", **given)
    assert caught.value.where == where
    assert near is None or repr(near) in str(caught.value.mend)


def test_what_a_bundle_wants_to_run_is_inspected(bundles: Path, make_bundle: Callable[..., Path]) -> None:
    bundle = make_bundle(bundles / "bad_axial")
    path = bundle / "configs/inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prior": "$__import__('os').getcwd()"}))
    with pytest.raises(DiffReconError) as caught:
        dr.load(bundle)
    assert caught.value.exit_code == 4


def test_an_older_bundle_is_read(make_bundle: Callable[..., Path], tmp_path: Path, y: Any, built: Any) -> None:
    bundle = make_bundle(tmp_path / "old_axial")
    path = bundle / "configs/inference.json"
    text = path.read_text()
    for new, old in {
        "monai_diffrecon.DiffReconInferer": "monai_diffrecon.gone.DiffReconInferer",
        "monai_diffrecon.networks.BiasFreeUNet": "monai_diffrecon.gone.BiasFreeUNet",
        "from monai_diffrecon import check": "from monai_diffrecon.gone import check",
    }.items():
        assert new in text
        text = text.replace(new, old)
    path.write_text(text)
    assert dr.load(bundle, sampler="initial", device="cpu").reconstruct(y, operator=built).volume.shape == TRUTH.shape
    assert dr.load_score_network(bundle).plane == "axial"


@pytest.mark.parametrize(
    ("name", "planes", "warned"), [("brain_mr_t1", 2, [("brain_mr_t1_axial", "brain_mr")]), ("brain_mr", 1, [])]
)
def test_bundles_of_the_repository_by_name_or_family(
    name: str, planes: int, warned: list[object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A family that is deprecated still loads, with one warning."""
    monkeypatch.chdir(Path(__file__).parents[2])
    with caplog.at_level(logging.WARNING):
        inferer = dr.load(name, task="accelerated_mri", device="cpu").inferer
    assert 1 + len(inferer.auxiliaries) == planes
    assert inferer.score.plane == "axial"
    assert [record.args for record in caplog.records] == warned


@pytest.mark.parametrize("absent", [True, False], ids=["absent", "null"])
def test_a_bundle_that_only_generates_takes_tensors(
    make_bundle: Callable[..., Path], tmp_path: Path, built: Any, absent: bool
) -> None:
    bundle = make_bundle(tmp_path / "bare_axial")
    path = bundle / "configs/inference.json"
    config = json.loads(path.read_text())
    config["preprocessing"] = config["dataset"] = None
    if absent:
        del config["preprocessing"], config["dataset"]
    path.write_text(json.dumps(config))
    model, y = dr.load(bundle, sampler="initial", device="cpu"), built(TRUTH)
    torch.testing.assert_close(model.reconstruct(y, operator=built).volume, built.initial(y))
    with pytest.raises(ConfigError) as caught:
        model.reconstruct("scan.nii.gz")
    assert caught.value.where == "preprocessing"


def test_scans_are_read_and_volumes_written(tmp_path: Path) -> None:
    path = tmp_path / "v.nii.gz"
    for volume in (TRUTH, TRUTH[0], TRUTH.numpy(), TRUTH[0].double().numpy(), MetaTensor(TRUTH, affine=torch.eye(4))):
        dr.write_volume(path, volume, AFFINE)
        scan = dr.read_scan(path)
        assert torch.equal(scan.data, TRUTH)
        assert scan.geometry == GEOMETRY
    dr.write_volume(path, TRUTH, GEOMETRY)
    assert dr.read_scan(path, {"name": "nifti"}).geometry == GEOMETRY
    dr.write_volume(path, TRUTH)
    assert dr.read_scan(path).geometry.affine is None
    dr.write_volume(path, TRUTH, AFFINE, dtype="int16")
    step = float(TRUTH.max() - TRUTH.min()) / 65535
    assert float((dr.read_scan(path).data - TRUTH).abs().max()) <= 0.51 * step
    for wrong in (
        (path, torch.zeros(2, 3, 4, 5)),
        (path, [["a"]]),
        (path, TRUTH + 1j),
        (path, TRUTH, np.eye(3)),
        (path, TRUTH, OTHER),
        (tmp_path / "v.mha", TRUTH),
        (3, TRUTH),
    ):
        with pytest.raises(InputError):
            dr.write_volume(*wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        dr.read_scan(tmp_path / "missing.nii.gz")


def test_a_result_is_written_as_bundle_run_writes_it(bundles: Path, tmp_path: Path) -> None:
    path, root, options = tmp_path / "volume.nii.gz", bundles / "tiny_axial", {"sampler#steps": 2, "device": "cpu"}
    nib.save(nib.Nifti1Image(TRUTH[0].numpy()[:, :, ::3].copy(), np.diag([1.0, 1, 3, 1])), path)
    config = ConfigParser()
    config.read_config(str(root / "configs/inference.json"))
    config.update({"bundle_root": str(root), "image": str(path), **options, "output_format": "dicom"})
    config.update({"evaluator#track": False, "output_dir": str(tmp_path / "run"), "case_name": "c"})
    config.get_parsed_content("evaluator").run()
    result = dr.load(root, overrides=options).reconstruct(path, case="c", reader="nifti")
    records = [json.loads(result.write(tmp_path / "api", "dicom").read_text()), None]
    records[1] = json.loads((tmp_path / "run/c_recon.provenance.json").read_text())
    same = ("output", "identity_sha256", "measurement_sha256", "config", "options", "preparation", "source", "case")
    assert {key: records[0][key] for key in same} == {key: records[1][key] for key in same}
    assert records[0]["output"]["dicom"]["folder"] == "c/dicom"
    verify_record(tmp_path / "api" / "c_recon.provenance.json")


def test_what_is_not_written(bundles: Path, tmp_path: Path) -> None:
    model = dr.load(bundles / "tiny_axial", sampler="cubic", device="cpu")
    result = model.reconstruct(TRUTH, affine=AFFINE)
    for wrong in (result, replace(result, made_from=None)):
        with pytest.raises(InputError) as caught:  # it has no name, or was not reconstructed
            wrong.write(tmp_path)
        assert caught.value.where in ("case", "made_from")
    nowhere = model.reconstruct(dr.Measurement(TRUTH, dr.VolumeGeometry(tuple(TRUTH.shape[1:]))), case="c")
    with pytest.raises(InputError):
        nowhere.write(tmp_path / "out", "dicom")
    assert not list(tmp_path.glob("out/[!.]*"))
    with pytest.raises(ConfigError):
        model.reconstruct(TRUTH, reader="nifti")
