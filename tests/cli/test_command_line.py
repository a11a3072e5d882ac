# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What is typed after ``python -m monai.bundle run`` is what is done, or it is refused before anything is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire
import monai.bundle
import nibabel as nib
import numpy as np
import pytest

from monai_diffrecon.cli import main as cli
from monai_diffrecon.errors import DiffReconError, InputError
from monai_diffrecon.errors.uncaught import users_error
from monai_diffrecon.options.command_line import check_arguments
from monai_diffrecon.options.typed_option import typed_options

from ..raising import raises

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file")
PROGRAM = str(Path(monai.bundle.__file__).with_name("__main__.py"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("typed")
    make_bundle(root / "axial")
    make_bundle(root / "coronal", plane="coronal", seed=1)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (16, 14, 4)), indexing="ij")
    blob = (400 * (sum(a**2 for a in axes) < 0.9) * (1 + 0.3 * np.cos(4 * axes[0]))).astype(np.float32)
    nib.save(nib.Nifti1Image(blob, np.diag([1.0, 1, 3, 1])), root / "thick.nii.gz")
    nib.save(nib.Nifti1Image(blob, np.diag([1.4, 1.4, 3, 1])), root / "coarse.nii.gz")
    return root


@pytest.fixture
def typed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run the axial bundle as the command line does, in this process; raises our own error."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("DIFFRECON_CASE_KEY", raising=False)

    def run(*words: str, image: str | None = "thick.nii.gz", config: str | None = None) -> None:
        given = ["--config_file", config or str(root / "axial/configs/inference.json")]
        given += ["--bundle_root", str(root / "axial"), "--logging_file", "False", "--device", "cpu"]
        given += ["--sampler#steps", "1", "--evaluator#track", "false", "--inferer#progress", "False"]
        given += [] if image is None else ["--image", str(root / image)]
        monkeypatch.setattr(sys, "argv", [PROGRAM, "run", *given, *words])
        try:
            fire.Fire(monai.bundle.run, command=[*given, *words])
        except Exception as error:
            raise users_error(error) or error from error

    return run


def written(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("words", "where", "near"),
    [
        (["--num_sampels", "4"], "num_sampels", "num_samples"),
        (["--ouput_dir=wanted"], "ouput_dir", "output_dir"),
        (["--referense", "truth.nii.gz"], "referense", "reference"),
        (["--sampler#stepz", "3"], "sampler#stepz", "sampler#steps"),
        (["--steps", "3"], "steps", "sampler#steps"),
        (["--operator#thicknes", "3"], "operator#thicknes", "operator#thickness"),
        (["--evaluator#trak", "false"], "evaluator#trak", "evaluator#track"),
        (["--inferer#windows", "[8,8]"], "inferer#windows", "inferer#window"),
        (["--perpendicular#k", "3"], "perpendicular#k", "perpendicular#K"),
        (["--network_def#unit", "1"], "network_def#unit", "network_def#units"),
        (["--num-sampels", "4", "--sead", "3"], "num_sampels, sead", "'num_samples', 'seed'"),
        (["--keep_sample"], "keep_sample", "keep_samples"),
    ],
)
def test_an_unknown_id_is_refused_with_the_nearest(
    typed: Callable[..., None], words: list[str], where: str, near: str
) -> None:
    with pytest.raises(DiffReconError) as caught:
        typed(*words)
    assert caught.value.exit_code == 2
    assert caught.value.where == where
    assert near in str(caught.value.mend)
    assert written(Path.cwd()) == []


@pytest.mark.parametrize(
    ("name", "near"),
    [("samplr#steps", "sampler#steps"), ("prior#K", "perpendicular#K"), ("handlers#3", None), ("seed#x", None)],
)
def test_what_monai_would_end_in_a_traceback_is_refused_too(root: Path, name: str, near: str | None) -> None:
    with pytest.raises(DiffReconError) as caught:
        check_arguments(["--config_file", str(root / "axial/configs/inference.json"), f"--{name}", "3"])
    assert (caught.value.exit_code, caught.value.where) == (2, name)
    assert near is None or near in str(caught.value.mend)


@pytest.mark.parametrize(
    "words",
    [
        ["--operator#gap", "0.0"],
        ["--sampler", "{'name': 'ddim', 'steps': 2}", "--sampler#eta", "0.5"],
        ["--sampler#start", "{'name': 'admm_tv'}", "--sampler#start#iterations", "3"],
        ["--consistency#iterations", "2", "--inferer#window", "[16,16]", "--dataloader#prefetch_factor", "None"],
        ["--perpendicular#share#axial", "coronal", "--perpendicular#K", "2"],
        ["--network_def#_desc_", "text", "--evaluator#experiment", "mine"],
        ["run", "--init_id", "initialize", "--workflow_type", "infer"],
    ],
)
def test_options_that_no_file_spells_out_are_known_to_their_plugin(root: Path, words: list[str]) -> None:
    check_arguments(["--config_file", str(root / "axial/configs/inference.json"), *words])


def test_ids_of_overlays_and_of_files_of_arguments_count(root: Path, tmp_path: Path) -> None:
    configs = root / "axial/configs"
    both = f"['{configs}/inference.json','{configs}/tasks/generate.json']"
    check_arguments(["--config_file", both, "--shape", "[8,8,8]"])
    arguments = tmp_path / "arguments.json"
    arguments.write_text(json.dumps({"config_file": f"{configs}/inference.json", "shapes": [8, 8, 8]}))
    with pytest.raises(DiffReconError) as caught:
        check_arguments(["--args_file", str(arguments)])
    assert caught.value.where == "shapes"
    with pytest.raises(DiffReconError) as caught:
        check_arguments(["--config_file", f"{configs}/inference.json", "--shape", "[8,8,8]"])
    assert caught.value.where == "shape"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("configs/tasks/nope.json", None),
        ("configs/tasks/sparse_view.json", "tasks/sparse_view_ct.json"),
        ("configs/task/generate.json", "tasks/generate.json"),
        ("configs/generate.json", "tasks/generate.json"),
    ],
)
def test_a_missing_overlay_is_one_line(
    root: Path, name: str, near: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    axial = root / "axial"
    assert cli.main(["run", "--config_file", f"['{axial}/configs/inference.json','{axial}/{name}']"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: config_file: no such file")
    assert near is None or line.endswith(f"did you mean {axial}/configs/{near}?")


def test_other_files_that_are_missing(root: Path) -> None:
    config = ["--config_file", str(root / "axial/configs/inference.json")]
    for words, where in (
        ([*config, "--logging_file", str(root / "axial/configs/loging.conf")], "logging_file"),
        ([*config, "--meta_file", str(root / "axial/configs/metdata.json")], "meta_file"),
        (["--args_file", "none.json"], "args_file"),
        (["--seed", "3"], "config_file"),
    ):
        with pytest.raises(DiffReconError) as caught:
            check_arguments(words)
        assert (caught.value.exit_code, caught.value.where) == (2, where)


def test_the_checked_command_runs_what_monai_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    words = ["--config_file", str(root / "axial/configs/inference.json"), "--bundle_root", str(root / "axial")]
    words += ["--image", str(root / "thick.nii.gz"), "--output_dir", str(tmp_path / "x#1"), "--case_name", "1_1"]
    words += ["--sampler#steps", "1", "--evaluator#track", "0", "--logging_file", "False", "--device", "cpu"]
    before = list(sys.argv)
    assert cli.main(["run", *words]) == 0
    assert "1_1_recon.nii.gz" in written(tmp_path / "x#1")
    assert sys.argv == before
    assert cli.main(["run", *words, "--image", str(root / "coarse.nii.gz")]) == 2
    assert "voxels of another size" in capsys.readouterr().err.splitlines()[-1]
    assert cli.main(["run", "--help"]) == 0


@pytest.mark.parametrize("name", ["101_1", "10_11", "1e3", "0x10", "1011", "'7_7'", "True", "a.b-c", "1_0.5"])
def test_a_case_is_named_as_typed(typed: Callable[..., None], name: str) -> None:
    typed("--case_name", name, "--output_dir", "out", "--resample", "false", "--simulate", "0")
    assert f"{name.strip(chr(39))}_recon.nii.gz" in written(Path("out"))


@pytest.mark.parametrize(
    "name",
    ["run#3", "a#b/c#d", "2024_01", "1e3", "a b", "it's", 'a"b', "a::b", "50%", "x@y", "a;b&c=d", "[a]", "a,b", "a\nb"],
)
def test_paths_are_taken_as_typed(typed: Callable[..., None], root: Path, name: str) -> None:
    scan = Path.cwd().parent / f"{name.replace('/', '_')}.nii.gz"
    scan.write_bytes((root / "thick.nii.gz").read_bytes())
    typed("--output_dir", name, "--case_name", "a", "--image", f"../{scan.name}", image=None)
    assert "a_recon.nii.gz" in written(Path(name))
    assert {p.name for p in Path.cwd().iterdir()} == {Path(name).parts[0]}


@pytest.mark.parametrize("absolute", [True, False])
def test_a_hash_in_the_root_of_a_bundle(
    typed: Callable[..., None], tmp_path: Path, make_bundle: Callable[..., Path], absolute: bool
) -> None:
    make_bundle(tmp_path / "b#1")
    typed("--bundle_root", str(tmp_path / "b#1") if absolute else "../b#1", "--case_name", "a")
    assert "a_recon.nii.gz" in written(tmp_path / "b#1" / "eval")
    assert written(Path.cwd()) == []


@pytest.mark.parametrize("option", ["output_dir", "image", "reference", "dataset_dir"])
@pytest.mark.parametrize("value", ["$HOME/x", "@scan.nii.gz", "$1 + 1"])
def test_marks_of_monai_are_refused(typed: Callable[..., None], option: str, value: str) -> None:
    with pytest.raises(DiffReconError) as caught:
        typed(f"--{option}", value)
    assert (caught.value.exit_code, caught.value.where) == (2, option)
    assert written(Path.cwd()) == []


def test_a_macro_is_refused_before_monai_reads_it(root: Path) -> None:
    with pytest.raises(DiffReconError) as caught:
        check_arguments(["--config_file", str(root / "axial/configs/inference.json"), "--image", "%scan.nii.gz"])
    assert caught.value.where == "image"


def test_references_and_expressions_stay_what_they_are(typed: Callable[..., None], root: Path) -> None:
    typed("--output_dir", "$str('wan') + 'ted' + str(@seed)", "--case_name", "a", "--reference", "None")
    assert "a_recon.nii.gz" in written(Path("wanted0"))


def test_a_hash_in_a_configuration_file(typed: Callable[..., None], root: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"output_dir": str(tmp_path / "x#1"), "case_name": "a"}))
    typed(config=f"['{root / 'axial/configs/inference.json'}','{overlay}']")
    assert "a_recon.nii.gz" in written(tmp_path / "x#1")
    assert not (tmp_path / "x::1").exists()


def test_without_a_command_line_a_hash_is_refused(root: Path, tmp_path: Path) -> None:
    workflow = monai.bundle.ConfigWorkflow(
        str(root / "axial/configs/inference.json"), logging_file=False, output_dir=str(tmp_path / "x#1")
    )
    with pytest.raises(RuntimeError) as caught:
        workflow.initialize()
    error = users_error(caught.value)
    assert error is not None
    assert (error.exit_code, error.where) == (2, "output_dir")


FLAGS = ["resample", "simulate", "keep_samples", "tracking_required", "evaluator#track", "inferer#progress"]


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("value", ["no", "2", "FALSE"])
def test_a_flag_takes_nothing_else(typed: Callable[..., None], flag: str, value: str) -> None:
    with pytest.raises(DiffReconError) as caught:
        typed(f"--{flag}", value)
    assert (caught.value.exit_code, caught.value.where) == (
        2,
        flag if flag != "keep_samples" else "inferer#keep_samples",
    )
    assert written(Path.cwd()) == [] or written(Path.cwd()) == [".case_key"]


@pytest.mark.parametrize(("value", "on"), [("false", False), ("0", False), ("true", True), ("1", True)])
def test_a_flag_does_what_it_says(typed: Callable[..., None], value: str, on: bool) -> None:
    options = ["--case_name", "a", "--output_dir", "out", "--resample", value]
    if on:
        typed(*options, image="coarse.nii.gz")
        assert nib.load("out/a_recon.nii.gz").header.get_zooms()[:2] == pytest.approx((1, 1), abs=1e-3)
        return
    with raises(DiffReconError, where="bundle axial", got="1.4 x 1.4 mm"):
        typed(*options, image="coarse.nii.gz")


def test_options_are_read_as_fire_reads_them() -> None:
    seen: dict[str, Any] = {}
    words = ["--a", "1_1", "--b=x=y", "-c", "--d", "--noe", "--f-g", "[1,2]", "--h", "-1", "--i::j", "k", "-l=3"]
    fire.Fire(lambda **given: seen.update(given), command=words)
    assert {option.name.replace("#", "::"): option.value for option in typed_options(words)} == seen


@pytest.mark.slow
def test_the_command_as_typed(root: Path, tmp_path: Path) -> None:
    """Once with MONAI's own program, where the texts come from the system."""
    name = os.fsdecode(b"Doe\xff#1.nii.gz")
    (tmp_path / name).write_bytes((root / "thick.nii.gz").read_bytes())
    command = [sys.executable, "-m", "monai.bundle", "run", "--sampler#steps", "1", "--case_name", "101_1"]
    command += ["--config_file", str(root / "axial/configs/inference.json"), "--bundle_root", str(root / "axial")]
    command += ["--image", name, "--output_dir", f"{tmp_path}/run#3", "--evaluator#track", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LC_ALL": "C"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=220)
    assert done.returncode == 0, done.stderr[-3000:]
    assert b"Traceback" not in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {name, "run#3"}
    (line,) = [line for line in done.stdout.decode().splitlines() if "the volume is in" in line]
    assert line.endswith(f"case 101_1: the volume is in {tmp_path}/run#3/101_1_recon.nii.gz")


@pytest.mark.slow
def test_a_mistyped_option_as_typed(root: Path, tmp_path: Path, python_m: Callable[..., Any]) -> None:
    words = ["--config_file", root / "axial/configs/inference.json", "--bundle_root", root / "axial"]
    words += ["--image", root / "thick.nii.gz", "--output_dir", tmp_path / "out", "--num_sampels", "4"]
    done = python_m("monai.bundle", "run", *words)
    assert done.returncode == InputError.exit_code
    assert done.stderr.splitlines()[-1].startswith("error: num_sampels: ")
    assert "Traceback" not in done.stderr
