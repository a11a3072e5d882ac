# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""No identifier of a patient, a user or a machine in any byte that a run writes or says.

Names, headers and surroundings of the inputs are full of canaries; every file under the output folder, and whatever
else appeared, is opened to its last container (see ``canary.py``). Only the name that the user gives a case may come
back.
"""

from __future__ import annotations

import json
import logging
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch

from monai_diffrecon.cli import main as cli
from monai_diffrecon.engine.cases.list_cases import list_cases
from monai_diffrecon.errors import DiffReconError, InputError, NumericalError
from monai_diffrecon.errors.uncaught import chain_of
from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet

HERE = Path(__file__)
SCANNER, DICOM = (runpy.run_path(str(p)) for p in (HERE.with_name("canary.py"), HERE.parents[1] / "io/conftest.py"))
canaries_in, canaries_in_text = SCANNER["canaries_in"], SCANNER["canaries_in_text"]

PATIENT = "Doe_Canary_19700101"
SHAPE = (16, 14, 12)
HEADER = {name: f"Canary_{name[:6]}".encode() for name in ("descrip", "aux_file", "intent_name", "db_name")}
SURROUNDINGS = {"USER": "canary_user", "LOGNAME": "canary_user", "HOSTNAME": "canary-host", "ANY": "Canary_variable"}
WORDS = ["Doe_Canary", "19700101", "1970-01-01", "Canary_extension", "Canary_attribute", "Canary_home"]
WORDS += ["Canary_tmp", "Canary_cwd", *(v.decode() for v in HEADER.values()), *SURROUNDINGS.values()]
WORDS += [*DICOM["SECRETS"].values(), DICOM["PRIVATE"], DICOM["ROOT"], "SECRET VENDOR"]


def blobs(*shape: int) -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return (900 * (sum(a**2 for a in axes) < 0.9) * (1 + 0.3 * np.cos(4 * axes[0]))).astype(np.float32)


def nifti(path: Path) -> Path:
    """Write a scan whose header says whatever a header can."""
    image = nib.Nifti1Image(blobs(*SHAPE), np.eye(4))
    for name, value in HEADER.items():
        image.header[name] = value
    for code in ("comment", "dicom"):
        content = b"" if code == "dicom" else f"Canary_extension of {PATIENT}".encode()
        image.header.extensions.append(nib.nifti1.Nifti1Extension(code, content))
    nib.save(image, path)
    return path


def series(folder: Path) -> Path:
    """Write thick slices in files that are named after the patient, with a date that is no date."""
    slices = DICOM["make_series"](blobs(16, 14, 5).astype(np.int16), SliceThickness=3.0)
    DICOM["save"](folder, slices)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"{PATIENT}_{number}.dcm")
    return folder


@dataclass
class Stage:
    """The folders of a run, and what it said.

    Attributes:
        root: all of them.
        bundle: the bundle.
        patient: folder with the scans; its name, and theirs, are a patient's.
        said: what runs wrote to the terminal, by run.
        case: name of the case of the first run.
    """

    root: Path
    bundle: Path
    patient: Path
    said: dict[str, str] = field(default_factory=dict)
    case: str = ""

    def overlay(self, name: str, **options: Any) -> str:
        """Write options to a file: MONAI repeats those of its command line on the terminal."""
        path = self.root / f"{name}.json"
        path.write_text(json.dumps({"bundle_root": str(self.bundle), "device": "$torch.device('cpu')", **options}))
        return f"['{self.bundle / 'configs/inference.json'}', '{path}']"

    def command(self, name: str, start: Callable[..., Any], **options: Any) -> int:
        """Run the bundle as a user does, in surroundings full of canaries; return the exit code."""
        places = {key: self.root / f"Canary_{key}" for key in ("home", "tmp", "cwd")}
        for folder in places.values():
            folder.mkdir(exist_ok=True)
        environment = os.environ | SURROUNDINGS | {"HOME": str(places["home"]), "TMPDIR": str(places["tmp"])}
        environment.pop("DIFFRECON_CASE_KEY", None)
        words = ["monai.bundle", "run", "--config_file", self.overlay(name, **options)]
        done = start(*words, cwd=places["cwd"], env=environment)
        self.said[name] = done.stdout + done.stderr
        return done.returncode

    def found(self, output: str) -> list[str]:
        """Return every canary in what a run wrote anywhere."""
        places = [self.root / f"Canary_{key}" for key in ("home", "tmp", "cwd")]
        return list(canaries_in([self.root / output, *(p for p in places if p.exists())], WORDS))


def new_process(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Start Python itself, whose libraries look at the surroundings while they are imported."""
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=220, **options)


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path], empty_store: Callable[[Path], Path]
) -> Stage:
    root = tmp_path_factory.mktemp("stage")
    stage = Stage(root, make_bundle(root / "axial"), root / PATIENT)
    stage.patient.mkdir()
    nifti(stage.patient / f"{PATIENT}_T1.nii.gz")
    nifti(stage.patient / "Doe_Canary truth.nii.gz")
    for name in ("out", "dicom", "measured", "cohort"):
        empty_store(root / name)
    return stage


@pytest.fixture(scope="module")
def reconstructed(stage: Stage) -> Stage:
    """A run with everything on: simulation, truth, tracking, pictures, both formats, several samples."""
    code = stage.command(
        "run",
        new_process,
        image=str(stage.patient / f"{PATIENT}_T1.nii.gz"),
        reference=str(stage.patient / "Doe_Canary truth.nii.gz"),
        output_dir=str(stage.root / "out"),
        output_format="both",
        simulate=True,
        num_samples=2,
        keep_samples=True,
        operator={"name": "slice_thickness", "thickness": 3.0},
        sampler={"name": "heun", "steps": 2},
        **{"evaluator#preview_every": 1},
    )
    assert code == 0, stage.said["run"][-3000:]
    (output,) = (stage.root / "out").glob("*_recon.nii.gz")
    stage.case = output.name.removesuffix("_recon.nii.gz")
    return stage


@pytest.mark.slow
def test_a_run_writes_and_says_no_identifier(reconstructed: Stage) -> None:
    kinds = {path.suffix for path in (reconstructed.root / "out").rglob("*") if path.is_file()}
    assert {".gz", ".json", ".png", ".db", ".dcm"} <= kinds
    assert reconstructed.found("out") == []
    assert canaries_in_text(reconstructed.said["run"], WORDS) == []


@pytest.mark.slow
def test_the_key_of_names_stays_in_its_file(reconstructed: Stage) -> None:
    out = reconstructed.root / "out"
    key = (out / ".case_key").read_text()
    assert [place.split(":")[0] for place in canaries_in([out], [key])] == [".case_key"]
    assert (out / ".case_key").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_volumes_carry_geometry_and_nothing_else(reconstructed: Stage) -> None:
    volumes = sorted((reconstructed.root / "out").glob("*.nii.gz"))
    assert len(volumes) >= 4
    for path in volumes:
        header = nib.load(path).header
        assert len(header.extensions) == 0
        texts = {name: header[name].item() for name in header if header[name].dtype.kind == "S"}
        assert {name for name, text in texts.items() if text} == {"magic"}, path.name


@contextmanager
def captured(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Collect all that is printed and logged within."""
    said: list[str] = []
    caplog.set_level(logging.DEBUG)
    capfd.readouterr()
    try:
        yield said
    finally:
        said += [*capfd.readouterr(), caplog.text]


def in_process(stage: Stage, name: str, **options: Any) -> None:
    """Run the bundle in this process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="parsing config_file")
        given = {"initialize": [], "sampler#steps": 2, **options}
        monai.bundle.run(logging_file=False, config_file=json_list(stage.overlay(name, **given)))


def json_list(text: str) -> list[str]:
    return list(json.loads(text.replace("'", '"')))


def test_a_dicom_series_leaves_no_identifier(
    stage: Stage, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    scan = series(stage.root / "dicoms" / PATIENT)
    out = stage.root / "dicom"
    with captured(capfd, caplog) as said:
        in_process(stage, "b", image=str(scan), output_dir=str(out), output_format="both")
    assert len(list(out.rglob("*.dcm"))) > 5
    assert stage.found("dicom") == []
    assert canaries_in_text("".join(said), WORDS) == []


def test_a_measurement_leaves_no_identifier(
    stage: Stage, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    measured = stage.root / "plain.h5"
    scan = str(stage.patient / f"{PATIENT}_T1.nii.gz")
    with captured(capfd, caplog) as said:
        options = ["--operator", "slice_thickness", "--set", "thickness=3", "--output", str(measured)]
        assert cli.main(["simulate", scan, *options]) == 0
        assert canaries_in([measured], WORDS) == []
        with h5py.File(measured, "a") as file:
            file.attrs["source"] = f"Canary_attribute {PATIENT}"
        named = measured.rename(stage.patient / f"{PATIENT}.h5")
        in_process(stage, "c", image=str(named), output_dir=str(stage.root / "measured"))
    assert stage.found("measured") == []
    assert canaries_in_text("".join(said), WORDS) == []


def broken(stage: Stage) -> Path:
    """A folder with one scan that was cut."""
    folder = stage.root / "broken" / PATIENT
    folder.mkdir(parents=True, exist_ok=True)
    whole = (stage.patient / f"{PATIENT}_T1.nii.gz").read_bytes()
    (folder / f"{PATIENT}_T1.nii.gz").write_bytes(whole[: len(whole) // 2])
    return folder


def test_a_damaged_scan_is_refused_by_the_name_of_its_case(stage: Stage, python_m: Callable[..., Any]) -> None:
    folder, out = broken(stage), stage.root / "refused"
    options = {"dataset_dir": str(folder), "output_dir": str(out), "evaluator#track": False}
    code = stage.command("refused", python_m, **options)
    said = stage.said["refused"]
    assert code == InputError.exit_code, said[-2000:]
    assert canaries_in_text(said, WORDS) == []
    assert stage.found("refused") == []
    # Who holds the key can still tell which scan it is.
    (case,) = list_cases(dataset_dir=str(folder), output_dir=str(out))
    assert f"error: case {case['case']}: image: cannot be read as NIfTI" in said


def test_a_failing_reconstruction_names_no_file(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(BiasFreeUNet, "forward", lambda self, x, *_: x * torch.nan)
    scan = str(stage.patient / f"{PATIENT}_T1.nii.gz")
    options = {"image": scan, "output_dir": str(stage.root / "measured"), "simulate": True}
    with captured(capfd, caplog) as said, pytest.raises(Exception) as caught:  # noqa: PT011
        in_process(stage, "d", operator={"name": "slice_thickness", "thickness": 3.0}, **options)
    errors = [e for e in chain_of(caught.value) if isinstance(e, DiffReconError)]
    assert isinstance(errors[0], NumericalError), errors
    texts = "\n".join(str(e) for e in chain_of(caught.value))
    assert canaries_in_text("".join(said) + texts, WORDS) == []
    assert stage.found("measured") == []


def cohort(stage: Stage, scan: Path, **changes: Any) -> Path:
    shared = {"bundle": "axial", "task": "z_super_resolution"}
    methods = [{"label": "Cubic", "preset": "cubic", **shared}, {"label": "Diffusion", "overrides": {"device": "cpu"}}]
    methods[1] |= {**shared, "overrides": {"sampler#steps": 2, "device": "cpu"}}
    path = stage.root / "cohort.json"
    content = {"cases": [{"image": str(scan), **changes}], "methods": methods, "simulate": {}, "resamples": 200}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_a_cohort_leaves_no_identifier(
    stage: Stage, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = cohort(stage, stage.patient / f"{PATIENT}_T1.nii.gz", mask=str(stage.patient / "Doe_Canary truth.nii.gz"))
    with captured(capfd, caplog) as said:
        assert cli.main(["evaluate", "--config", str(config), "--output", str(stage.root / "cohort")]) == 0
    assert stage.found("cohort") == []
    assert canaries_in_text("".join(said), WORDS) == []


@pytest.mark.slow
def test_a_damaged_scan_of_a_cohort_is_refused_by_the_name_of_its_case(
    stage: Stage, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (scan,) = broken(stage).iterdir()
    out = stage.root / "cohort"
    with captured(capfd, caplog) as said:
        assert cli.main(["evaluate", "--config", str(cohort(stage, scan)), "--output", str(out)]) == 2
    (case,) = list_cases(image=str(scan), output_dir=str(out))
    assert f"error: case {case['case']}: image: cannot be read as NIfTI" in "".join(said)
    assert canaries_in_text("".join(said), WORDS) == []
    assert stage.found("cohort") == []


@pytest.mark.slow
def test_the_name_that_the_user_gives_a_case_is_used(stage: Stage) -> None:
    config = cohort(stage, stage.patient / f"{PATIENT}_T1.nii.gz", name="Doe_Canary")
    out = stage.root / "named"
    assert cli.main(["evaluate", "--config", str(config), "--output", str(out), "--no-tracking"]) == 0
    found = canaries_in([out], WORDS)
    assert found
    # And nothing but that name.
    assert {place.rpartition(": ")[2] for place in found} == {"Doe_Canary"}
