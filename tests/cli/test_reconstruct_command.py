# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""`diffrecon reconstruct`: what it chooses from a scan, and that it runs what it says."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_diffrecon.api.choice import choose, modality_of
from monai_diffrecon.cli import main as cli
from monai_diffrecon.cli.reconstruct import quoted
from monai_diffrecon.cli.run import overrides_of
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.protocols import Measurement, VolumeGeometry
from monai_diffrecon.tracking.provenance import verify_record

from ..raising import raises

BUNDLES = Path(__file__).parents[2] / "bundles"


def shipped(name: str) -> Path:
    return BUNDLES / name


def image(spacing: tuple[float, float, float] = (0.5, 0.5, 3.0), low: float = 0.0, **known: Any) -> Measurement:
    data = torch.linspace(low, 1000.0, 60).reshape(1, 3, 4, 5)
    return Measurement(data, VolumeGeometry((3, 4, 5), spacing), **known)


def raw(name: str, **options: Any) -> Measurement:
    return image(operator={"name": name, **options})


@pytest.mark.parametrize(
    ("scan", "bundle", "task"),
    [
        (image(), "brain_mr", None),
        (image((3.0, 0.5, 0.5)), "brain_mr", None),
        (image(low=-1000.0), "body_ct", None),
        (image(unit="HU"), "body_ct", None),
        (image(header={"Modality": "CT"}), "body_ct", None),
        (image(header={"Modality": "MR"}, low=-1000.0), "brain_mr", None),
        (raw("cartesian_mri"), "brain_mr", "raw_mri"),
        (raw("noncartesian_mri"), "brain_mr", "raw_mri"),
        (raw("parallel_ct", views=32), "body_ct", "sparse_view_ct"),
        (raw("parallel_ct", views=60, arc=90), "body_ct", "limited_angle_ct"),
        (raw("fan_ct", views=60), "body_ct", "sparse_view_ct"),
        (raw("slice_thickness", thickness=3.0), "brain_mr", None),
    ],
)
def test_a_scan_chooses_its_bundle_and_task(scan: Measurement, bundle: str, task: str | None) -> None:
    found = choose(scan, find=shipped)
    assert (found.bundle.name, found.task) == (bundle, task)
    assert len(found.reasons) == 2


def test_what_the_user_says_is_taken() -> None:
    found = choose(image((1.0, 1.0, 1.0)), "body_mr", "accelerated_mri", find=shipped)
    assert (found.bundle.name, found.task, found.reasons) == ("body_mr", "accelerated_mri", ())
    assert choose(image(low=-1000.0), "brain_mr", find=shipped).bundle.name == "brain_mr"


def test_cubic_voxels_lack_nothing() -> None:
    with raises(InputError, where="scan", got="voxels of 1 x 1 x 1 mm"):
        choose(image((1.0, 1.0, 1.0)), find=shipped)


def test_a_network_of_another_modality_is_refused_for_raw_data() -> None:
    with raises(ConfigError, where="bundle brain_mr"):
        choose(raw("parallel_ct"), "brain_mr", find=shipped)


def test_a_bundle_without_such_a_task_is_refused() -> None:
    with raises(InputError, where="--task"):
        choose(raw("unconditional"), "brain_mr", find=shipped)


def test_modality_by_its_witnesses() -> None:
    assert modality_of(image(unit="1/mm"))[0] == "CT"
    assert modality_of(image(low=-400.0))[0] == "MR"
    assert modality_of(Measurement(torch.ones(1, 2, 2, 2, dtype=torch.complex64), VolumeGeometry((2, 2, 2))))[0] == "MR"


def test_options_of_a_person() -> None:
    assert overrides_of(["sampler.steps=20", "prior#K=3", "resample=true", "case_name=a.b"]) == {
        "sampler#steps": 20,
        "prior#K": 3,
        "resample": True,
        "case_name": "a.b",
    }
    for wrong in (["x"], ["=3"], ["a.b=1", "a#b=2"]):
        with raises(ConfigError, where="--set"):
            overrides_of(wrong)


@pytest.mark.parametrize("word", ["a b", "['x.json','y.json']", "it's", 'a"b', "$HOME's", "--sampler#steps", "!'x"])
def test_a_shell_reads_what_was_meant(word: str) -> None:
    assert shlex.split(quoted(word)) == [word]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("reconstruct")
    make_bundle(root / "bundles/brain_mr")
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (16, 14, 4)), indexing="ij")
    blob = (400 * (sum(a**2 for a in axes) < 0.9) * (1 + 0.3 * np.cos(4 * axes[0]))).astype(np.float32)
    nib.save(nib.Nifti1Image(blob, np.diag([1.0, 1, 3, 1])), root / "thick.nii.gz")
    return root


def test_a_scan_without_another_word(
    root: Path, python_m: Callable[..., Any], empty_store: Callable[[Path], Path]
) -> None:
    folder = empty_store(root / "reconstruction")
    words = ("--case", "a", "--calls", "2", "--set", "inferer.progress=false", "--device", "cpu")
    done = python_m("monai_diffrecon", "reconstruct", "thick.nii.gz", *words, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    record = verify_record(folder / "a_recon.provenance.json")
    assert record["config"]["sampler"]["steps"] == 2
    assert nib.load(folder / "a_recon.nii.gz").shape == (16, 14, 12)
    assert f"look at it: {Path('reconstruction/a_view.html')}" in done.stdout
    assert "then open http://127.0.0.1:5000/#/experiments/1?workflowType=machine_learning\n" in done.stdout
    (same,) = [line for line in done.stdout.splitlines() if line.startswith("the same as: ")]
    command = shlex.split(same.removeprefix("the same as: "))
    assert command[:4] == ["python", "-m", "monai.bundle", "run"]
    again = python_m("monai.bundle", "run", *command[4:], "--output_dir", "again", cwd=root)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (root / "again/a_recon.nii.gz").read_bytes() == (folder / "a_recon.nii.gz").read_bytes()


def test_values_reach_monai_as_python(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    given = ["flips=true", "adaptation=null", 'tune={"a": [1, false]}', "case_name=101_1"]
    words = ["reconstruct", "thick.nii.gz", "--dry-run", *(word for pair in given for word in ("--set", pair))]
    assert cli.main(words) == 0
    command = shlex.split(capsys.readouterr().out.partition("the same as: ")[2].splitlines()[0])
    said = dict(zip(command[4::2], command[5::2], strict=True))
    found = [said[f"--{id_}"] for id_ in ("flips", "adaptation", "tune", "case_name")]
    assert found == ["True", "None", "{'a': [1, False]}", "101_1"]


def test_only_what_would_be_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    words = ["reconstruct", "thick.nii.gz", "--dry-run", "--samples", "3", "--calls", "7", "--output", "nowhere"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    command = shlex.split(out.partition("the same as: ")[2].splitlines()[0])
    given = dict(zip(command[4::2], command[5::2], strict=True))
    assert given["--num_samples"] == "3"
    assert given["--calls"] == "7"
    assert "posterior.json" in given["--config_file"]
    assert not (root / "nowhere").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["no.nii.gz"], 2),
        (["thick.nii.gz", "--task", "z_super_resolutoin"], 2),
        (["thick.nii.gz", "--method", "ddss"], 2),
        (["thick.nii.gz", "--bundle", "brain_rm"], 2),
        (["thick.nii.gz", "--calls", "3", "--set", "sampler.steps=4"], 2),
        (["thick.nii.gz", "--set", "samplr.steps=4"], 2),
    ],
)
def test_mistakes_are_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], code: int
) -> None:
    monkeypatch.chdir(root)
    assert cli.main(["reconstruct", *words, "--output", "nothing"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert not (root / "nothing").exists()


@pytest.mark.parametrize("typed", ['{"name": "nifti", "series": 0}', "{'name': 'nifti', 'series': 0}"])
def test_a_reader_with_options(tmp_path: Path, capsys: pytest.CaptureFixture[str], typed: str) -> None:
    nib.save(nib.Nifti1Image(np.ones((8, 8, 1, 3), np.float32), np.eye(4)), tmp_path / "cine.nii.gz")
    words = ["reconstruct", str(tmp_path / "cine.nii.gz"), "--task", "dynamic", "--dry-run", "--reader"]
    assert cli.main([*words, typed]) == 0
    said = shlex.split(capsys.readouterr().out.split("the same as: ")[1])
    assert said[said.index("--reader") + 1] == "{'name': 'nifti', 'series': 0}"
    assert cli.main([*words, "{'name': nifti}"]) == 2
    assert "--reader" in capsys.readouterr().err
