# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The application and its operators, with the real SDK."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread

pytest.importorskip("holoscan")

from diffrecon_deploy.app.application import main
from diffrecon_deploy.reconstruction_operator import ReconstructionOperator
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.io.dicom.series_reader import DicomSeriesReader
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.tracking.provenance import verify_record

MODELS = Path(__file__).parents[3] / "bundles"


def change(folder: Path, edit: Callable[[Dataset, int], None]) -> None:
    """Change the headers of a series."""
    for number, path in enumerate(sorted(folder.glob("*.dcm"))):
        dataset = dcmread(path)
        edit(dataset, number)
        dataset.save_as(path)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return what runs the application with settings that differ from these."""

    def runs(output: str = "out", **settings: Any) -> int:
        said: dict[str, Any] = {"rules": "thick_mr.json", "bundle": "brain_mr", "case": "c"}
        said["overrides"] = {"sampler": {"name": "cubic"}, "device": "cpu"}
        # JSON is YAML.
        (tmp_path / "app.yaml").write_text(json.dumps({"reconstruction": said | settings}))
        monkeypatch.setenv("HOLOSCAN_CONFIG_PATH", str(tmp_path / "app.yaml"))
        return main(["app", "-i", str(tmp_path / "in"), "-o", str(tmp_path / output), "-m", str(MODELS)])

    return runs


def written(folder: Path) -> dict[str, bytes]:
    """Return the files of a run; records tell the time."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_series_is_reconstructed(run: Callable[..., int], scan: Path, tmp_path: Path) -> None:
    overrides = {"sampler#steps": 2, "device": "cpu"}
    assert run(overrides=overrides) == run(output="again", overrides=overrides) == 0
    record = verify_record(tmp_path / "out" / "c_recon.provenance.json")
    volume, geometry = read_volume(tmp_path / "out" / "c_recon.nii.gz")
    thin, thick = DicomSeriesReader().read(tmp_path / "out/c/dicom"), DicomSeriesReader().read(scan)
    assert geometry.shape == thin.geometry.shape == (12, 10, 20)
    assert np.abs(thin.data.numpy() - volume.numpy()).max() < np.ptp(volume.numpy()) / 60000
    assert record["source"]["sha256"] == thick.source_sha256
    assert record["source"]["reader"] == "dicom"
    image = dcmread(tmp_path / "out/c/dicom/0001.dcm")
    assert (image.PatientName, image.PatientIdentityRemoved) == ("c", "YES")
    assert "research" in image.DerivationDescription
    assert written(tmp_path / "out") == written(tmp_path / "again")
    assert not list(tmp_path.glob("out/.*"))


def test_a_derived_series_that_keeps_the_identity(run: Callable[..., int], scan: Path, tmp_path: Path) -> None:
    # Another series in the same folder, whose patient must not get into the first one's.
    before = {path.name for path in scan.iterdir()}
    for path in sorted(scan.glob("*.dcm")):
        dataset = dcmread(path)
        dataset.PatientName, dataset.ImageType = "Other", ["DERIVED", "SECONDARY"]
        dataset.SeriesInstanceUID += ".1"
        dataset.SOPInstanceUID += ".1"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(scan / f"0_{path.name}")
    assert run(keep_identity=True) == 0
    source, image = dcmread(scan / min(before)), dcmread(tmp_path / "out/c/dicom/0001.dcm")
    assert (image.PatientName, image.PatientID) == ("Doe^Jane", "4711")
    assert image.StudyInstanceUID == source.StudyInstanceUID
    assert image.SeriesInstanceUID != source.SeriesInstanceUID
    assert "dicom" not in verify_record(tmp_path / "out" / "c_recon.provenance.json")["output"]


def two(folder: Path) -> None:
    other = folder.with_name("other")
    other.mkdir()
    for path in folder.iterdir():
        dataset = dcmread(path)
        dataset.SeriesInstanceUID += ".1"
        dataset.save_as(other / path.name)


def tilted(dataset: Dataset, number: int) -> None:
    x, y, z = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [x, float(y) + number, z]


REFUSED: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda folder: [path.unlink() for path in folder.iterdir()],
    "another modality": lambda folder: change(folder, lambda ds, n: setattr(ds, "Modality", "CT")),
    "thin slices": lambda folder: change(folder, lambda ds, n: setattr(ds, "SliceThickness", "1")),
    "two series": two,
    "a missing slice": lambda folder: (folder / "0003.dcm").unlink(),
    "gantry tilt": lambda folder: change(folder, tilted),
    "an empty file": lambda folder: (folder / "0003.dcm").write_bytes(b""),
    "half a file": lambda folder: (folder / "0003.dcm").write_bytes((folder / "0003.dcm").read_bytes()[:-50]),
    "half a header": lambda folder: (folder / "0003.dcm").write_bytes((folder / "0003.dcm").read_bytes()[:400]),
    # The loader of the SDK keeps one slice at each position, of the later acquisition.
    "two volumes": lambda folder: [
        (
            setattr(ds := dcmread(path), "AcquisitionNumber", 2),
            setattr(ds, "SOPInstanceUID", f"{ds.SOPInstanceUID}.1"),
            ds.save_as(folder / f"2_{path.name}"),
        )
        for path in sorted(folder.iterdir())
    ],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_series_is_one_line_and_no_file(
    kind: str, run: Callable[..., int], scan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    REFUSED[kind](scan)
    assert run() == 2
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    "settings",
    [{"bundle": "missing"}, {"rules": "missing.json"}, {"task": "missing"}, {"overrides": {"sampler#stepps": 2}}],
)
def test_wrong_settings_are_one_line(
    settings: dict[str, Any], run: Callable[..., int], scan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(**settings) == 2
    assert len([line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]) == 1
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    "rules",
    [
        "[]",
        '{"selections": []}',
        '{"selections": [{"name": "x", "conditions": ["Modality"]}]}',
        '{"selections": [{"name": "x", "conditions": {"Modality": "("}}]}',
    ],
)
def test_wrong_rules_are_one_line(
    rules: str, run: Callable[..., int], scan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rules.json").write_text(rules)
    assert run(rules=str(tmp_path / "rules.json")) == 2
    assert len([line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]) == 1


def test_other_operators_receive_an_image_in_full_precision(scan: Path) -> None:
    from monai.deploy.core import Fragment

    operator = ReconstructionOperator(Fragment(), bundle=MODELS / "brain_mr", overrides={"sampler": "cubic"})
    series = SimpleNamespace(
        SeriesInstanceUID=str(dcmread(scan / "0001.dcm").SeriesInstanceUID),
        get_sop_instances=lambda: [SimpleNamespace(get_native_sop_instance=lambda: dcmread(scan / "0001.dcm"))],
    )
    selection = [SimpleNamespace(selected_series=[SimpleNamespace(series=series)])]
    sent: dict[str, Any] = {}
    output = SimpleNamespace(emit=lambda value, name: sent.update({name: value}))
    operator.compute(SimpleNamespace(receive=lambda name: selection), output, None)
    result, image = sent["reconstruction"].result, sent["image"]
    assert image.asnumpy().dtype == np.float32
    np.testing.assert_array_equal(image.asnumpy(), np.asarray(result).transpose(2, 1, 0))
    expected = np.eye(4)  # 1 mm; the middle of the first slice lies 1.5 mm before that of the thick one
    expected[:3, 3] = [-4, 6, 8.5]
    np.testing.assert_allclose(image.metadata()["affine"], expected)
    with pytest.raises(ConfigError):
        ReconstructionOperator(Fragment(), bundle=MODELS / "missing")
