# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import getpass
import hashlib
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_diffrecon.cli import main as cli
from monai_diffrecon.engine.run_report import RunReport
from monai_diffrecon.errors import InputError, IntegrityError
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.numerics.hashing import sha256_file, sha256_tensor
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.tracking.provenance import build_record, record_path, verify_record, write_record
from monai_diffrecon.tracking.provenance_schema import Report

HERE = Path(__file__).parent
SHA = "0123456789abcdef" * 4


def _write(folder: Path, dtype: str = "float32", **changes: Any) -> tuple[Path, dict[str, Any]]:
    volume = torch.randn(1, 8, 9, 10, generator=torch.Generator().manual_seed(0))
    output = folder / "case-1_recon.nii.gz"
    write_volume(output, volume, VolumeGeometry((8, 9, 10)), dtype=dtype)
    report = RunReport(
        seconds=1.23456,
        start_seconds=0.25,
        denoiser_seconds=1.0,
        denoiser_calls=4,
        network_calls=40,
        ladder=(1.0, 0.5),
        steps=[{"step": 1, "sigma": 1.0, "residual": 0.5}, {"step": 2, "sigma": 0.5, "residual": float("nan")}],
        scale=800.0,
        offset=-1000.0,
        seed=7,
        options={"sampler": {"name": "ddim", "steps": 20}, "image": str(folder / "Doe_John.nii.gz")},
        weights={"brain_axial": SHA},
        distributions=("pytest", "not-installed-anywhere"),
        fallbacks=[f"no prior in {folder}/x.pt"],
        inferer={"geometry_file": "Doe_John.h5"},
        execution={"threads": 1, "batch_sizes": {"axial": 8}},
        notices=("a notice",),
    )
    fields = {field.name for field in dataclasses.fields(RunReport)}
    report = dataclasses.replace(report, **{k: v for k, v in changes.items() if k in fields})
    options: dict[str, Any] = {
        "volume": volume if dtype == "float32" else None,
        "measurement_sha256": SHA,
        "options": {"output_dir": folder},
    }
    record = build_record(report, output=output, **options | {k: v for k, v in changes.items() if k not in fields})
    write_record(record_path(output), record)
    return record_path(output), record


def test_record_path() -> None:
    assert record_path("a/b.recon.nii.gz") == Path("a/b.recon.provenance.json")
    assert record_path("b.nii") == Path("b.provenance.json")


def test_record_verifies_and_says_what_was_done(tmp_path: Path) -> None:
    path, record = _write(tmp_path)
    verify_record(path)
    assert json.loads(path.read_text()) == record
    assert sorted(os.listdir(tmp_path)) == ["case-1_recon.nii.gz", "case-1_recon.provenance.json"]
    assert record["output"]["sha256"] == sha256_file(tmp_path / "case-1_recon.nii.gz")
    volume = torch.randn(1, 8, 9, 10, generator=torch.Generator().manual_seed(0))
    assert record["output"]["voxels_sha256"] == sha256_tensor(volume)
    assert record["seeds"] == {"noise": 7}
    assert record["weights"] == {"brain_axial": SHA}
    assert record["inferer"] == {"geometry_file": "<path>"}
    assert record["report"] == {
        "seconds": 1.235,
        "start_seconds": 0.25,
        "denoiser_seconds": 1.0,
        "denoiser_calls": 4,
        "network_calls": 40,
        "ladder": [1.0, 0.5],
        "steps": [{"step": 1, "sigma": 1.0, "residual": 0.5}, {"step": 2, "sigma": 0.5, "residual": None}],
        "scale": 800.0,
        "offset": -1000.0,
        "phase": 0.0,
        "fallbacks": ["no prior in <path>"],
        "execution": {"threads": 1, "batch_sizes": {"axial": 8}},
        "notices": ["a notice"],
        "resumed_from": None,
    }
    assert record["versions"]["python"] == platform.python_version()
    assert record["versions"]["pytest"] == pytest.__version__
    assert record["versions"]["not-installed-anywhere"] is None
    assert {"torch", "monai", "monai_diffrecon"} <= record["versions"].keys()


def test_record_says_where_the_measurement_came_from(tmp_path: Path) -> None:
    nothing = {"reader": None, "unit": "arbitrary", "sha256": None}
    path, record = _write(tmp_path)
    assert record["source"] == nothing
    path, record = _write(tmp_path, reader="measurement_file", unit="HU")
    assert record["source"] == nothing | {"reader": "measurement_file", "unit": "HU"}
    verify_record(path)
    with pytest.raises(IntegrityError) as caught:
        _write(tmp_path, source_sha256="abc")
    assert (caught.value.where, caught.value.got) == ("case-1_recon.provenance.json#source/sha256", "'abc'")


def test_record_identifies_no_one(tmp_path: Path) -> None:
    path, _ = _write(tmp_path)
    text = path.read_text()
    for secret in (str(tmp_path), "Doe", str(Path.home()) + "/", platform.node() or "\0", f"/{getpass.getuser()}/"):
        assert secret not in text


def test_int16_output_verifies(tmp_path: Path) -> None:
    verify_record(_write(tmp_path, dtype="int16")[0])


def test_same_config_same_hash_wherever_it_ran(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = _write(tmp_path / "a")[1], _write(tmp_path / "b")[1]
    assert one["config_sha256"] == other["config_sha256"]
    assert one["output"] == other["output"]
    changed = _write(tmp_path / "b", options={"sampler": {"name": "ddim", "steps": 21}})[1]
    assert changed["config_sha256"] != one["config_sha256"]


@pytest.mark.parametrize("where", [0.02, 0.5, 0.99])
def test_one_flipped_byte_of_the_output_is_found(tmp_path: Path, where: float) -> None:
    path, record = _write(tmp_path)
    output = tmp_path / record["output"]["file"]
    data = bytearray(output.read_bytes())
    data[int(where * len(data))] ^= 1
    output.write_bytes(bytes(data))
    with pytest.raises(IntegrityError) as caught:
        verify_record(path)
    assert (caught.value.where, caught.value.expected) == (output.name, f"sha256 {record['output']['sha256'][:16]}...")


def test_missing_output_and_missing_record(tmp_path: Path) -> None:
    path, record = _write(tmp_path)
    (tmp_path / record["output"]["file"]).unlink()
    with pytest.raises(IntegrityError) as caught:
        verify_record(path)
    assert (caught.value.where, caught.value.expected) == (record["output"]["file"], None)
    path.unlink()
    with pytest.raises(InputError) as caught:
        verify_record(path)
    assert caught.value.where == path.name


def test_all_of_a_report_is_recorded() -> None:
    """What a run was made with stands beside the report; all else that it says is in it."""
    beside = {"seed", "options", "weights", "distributions", "unit", "source_sha256", "inferer"}
    assert {field.name for field in dataclasses.fields(RunReport)} == Report.model_fields.keys() | beside


def _sealed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the hash that belongs to it, as the documentation says it is made."""
    rest = {name: value for name, value in record.items() if name != "record_sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return rest | {"record_sha256": hashlib.sha256(text.encode()).hexdigest()}


REPORT = ("report", "network_calls")


@pytest.mark.parametrize(
    ("entry", "value", "where"),
    [
        (REPORT, "40", "report/network_calls"),
        (REPORT, -1, "report/network_calls"),
        (REPORT, True, "report/network_calls"),
        (("report", "steps", 0, "residual"), "x", "report/steps/0/residual"),
        (("report", "execution"), [], "report/execution"),
        (("report", "notices"), ["a", 1], "report/notices/1"),
        (("report", "surplus"), 1, "report/surplus"),
        (("surplus",), 1, "surplus"),
        (("report",), None, "report"),
        (("output", "file"), "../x.nii", "output/file"),
        (("output", "phase"), None, "output/phase"),
        (("output", "phase"), {"file": "x"}, "output/phase/sha256"),
        (("output", "dicom"), {"folder": "../x", "sha256": SHA}, "output/dicom/folder"),
        (("output", "dicom"), {"folder": "a/..", "sha256": SHA}, "output/dicom/folder"),
        (("measurement_sha256",), None, "measurement_sha256"),
        (("measurement_sha256",), SHA.upper(), "measurement_sha256"),
        (("weights",), {"a": "short"}, "weights/a"),
        (("seeds",), {"noise": 1.5}, "seeds/noise"),
        (("versions",), {"python": "3"}, "versions/torch"),
        (("versions", "pytest"), 9, "versions/pytest"),
        (("preparation",), [{"a": {}, "b": {}}], "preparation/0"),
        (("created",), "yesterday", "created"),
        (("case",), None, "case"),
    ],
)
def test_what_is_no_record_is_told_with_its_field_in_one_line(
    tmp_path: Path, entry: tuple[Any, ...], value: Any, where: str
) -> None:
    path, record = _write(tmp_path)
    changed = json.loads(json.dumps(record))
    inner = changed
    for name in entry[:-1]:
        inner = inner[name]
    inner[entry[-1]] = value
    path.write_text(json.dumps(_sealed(changed)))
    with pytest.raises(IntegrityError) as caught:
        verify_record(path)
    assert caught.value.where == f"{path.name}#{where}"
    assert caught.value.what == "not a provenance record"
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_a_record_that_was_changed_is_found(tmp_path: Path) -> None:
    path, record = _write(tmp_path)
    path.write_text(json.dumps(record | {"report": record["report"] | {"network_calls": 41}}))
    with pytest.raises(IntegrityError) as caught:
        verify_record(path)
    assert (caught.value.where, caught.value.what) == (path.name, "the record was changed")


@pytest.mark.parametrize("version", ["0", "3", 2, None, [], {}])
def test_a_record_of_an_unknown_version_is_refused(tmp_path: Path, version: Any) -> None:
    path, record = _write(tmp_path)
    path.write_text(json.dumps(_sealed(record | {"schema_version": version})))
    with pytest.raises(IntegrityError) as caught:
        verify_record(path)
    assert (caught.value.where, caught.value.got) == (path.name, repr(version))


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_numbers_that_json_does_not_have_are_refused(tmp_path: Path, number: str) -> None:
    path, record = _write(tmp_path)
    path.write_text(json.dumps(record).replace('"steps": 20', f'"steps": {number}'))
    with pytest.raises(IntegrityError) as caught:
        verify_record(path)
    assert caught.value.what == "not a record"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a record of schema 1, written when that was the only one."""
    shutil.copytree(HERE / "record_1", tmp_path / "old")
    return tmp_path / "old/case-1_recon.provenance.json"


def test_a_record_of_schema_1_verifies(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = verify_record(old)
    assert record["report"] == {
        "seconds": 1.5,
        "start_seconds": 0.25,
        "denoiser_seconds": 1.0,
        "network_calls": 40,
        "fallbacks": ["not tracked: MLflow refused (OSError)"],
        "execution": {"threads": 1, "batch_sizes": {"axial": 8}, "resumed": 0},
        "notices": ["it shows a face"],
        "steps": [{"residual": 0.5}, {"residual": None}],
    }
    assert cli.main(["verify", str(old.parent)]) == 0
    assert capsys.readouterr().out == f"{old.name}: verified, sha256 {record['output']['sha256']}\n"


def test_the_earliest_records_verify(old: Path) -> None:
    record = json.loads(old.read_text())
    for name in ("source", "case", "preparation", "inferer", "execution", "identity_sha256", "notices"):
        del record[name]
    old.write_text(json.dumps(_sealed(record)))
    assert verify_record(old)["report"]["network_calls"] == 40


@pytest.mark.parametrize("damage", ["residuals", "report", "phase", "word"])
def test_damage_to_a_record_of_schema_1_is_found(old: Path, damage: str) -> None:
    record = json.loads(old.read_text())
    changes: dict[str, Any] = {"residuals": {"residuals": ["x"]}, "report": {"report": {}}, "word": {"notices": [""]}}
    if damage == "phase":
        (old.parent / record["output"]["phase"]["file"]).write_bytes(b"x")
    else:
        changed = record | changes[damage]
        old.write_text(json.dumps(changed if damage == "word" else _sealed(changed)))
    wheres = {"residuals": f"{old.name}#residuals/0", "report": f"{old.name}#report", "word": old.name}
    with pytest.raises(IntegrityError) as caught:
        verify_record(old)
    assert caught.value.where == wheres.get(damage, "case-1_phase.nii.gz")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_damaged_record_is_found(tmp_path: Path, content: bytes) -> None:
    path, _ = _write(tmp_path)
    path.write_bytes(content)
    with pytest.raises(IntegrityError):
        verify_record(path)


def test_no_record_of_what_was_not_written(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        _write(tmp_path, volume=torch.zeros(1, 8, 9, 10))
    assert caught.value.where == "case-1_recon.nii.gz"
    with pytest.raises(IntegrityError) as caught:
        _write(tmp_path, measurement_sha256="short")
    assert (caught.value.where, caught.value.got) == ("case-1_recon.provenance.json#measurement_sha256", "'short'")
    assert not record_path(tmp_path / "case-1_recon.nii.gz").exists()
