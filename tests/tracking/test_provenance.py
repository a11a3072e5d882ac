# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import getpass
import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_diffrecon.errors import InputError, IntegrityError
from monai_diffrecon.io.hashing import sha256_file, sha256_tensor
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.tracking.provenance import build_record, record_path, verify_record, write_record

SHA = "0123456789abcdef" * 4


def _write(folder: Path, dtype: str = "float32", **changes: Any) -> tuple[Path, dict[str, Any]]:
    volume = torch.randn(1, 8, 9, 10, generator=torch.Generator().manual_seed(0))
    output = folder / "case-1_recon.nii.gz"
    write_volume(output, volume, VolumeGeometry((8, 9, 10)), dtype=dtype)
    options: dict[str, Any] = {
        "volume": volume if dtype == "float32" else None,
        "measurement_sha256": SHA,
        "weights": {"brain_axial": SHA},
        "config": {"sampler": {"name": "ddim", "steps": 20}, "image": str(folder / "Doe_John.nii.gz")},
        "seeds": {"noise": 7},
        "options": {"output_dir": folder},
        "fallbacks": [f"no prior in {folder}/x.pt"],
        "residuals": [0.5, float("nan")],
        "timings": {"seconds": 1.23456},
        "network_calls": 40,
        "distributions": ["pytest", "not-installed-anywhere"],
    }
    record = build_record(output=output, **(options | changes))
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
    assert record["residuals"] == [0.5, None]
    assert record["timings"] == {"seconds": 1.235}
    assert record["versions"]["python"] == platform.python_version()
    assert record["versions"]["pytest"] == pytest.__version__
    assert record["versions"]["not-installed-anywhere"] is None
    assert {"torch", "monai", "monai_diffrecon"} <= record["versions"].keys()


def test_record_says_where_the_measurement_came_from(tmp_path: Path) -> None:
    nothing = {"reader": None, "unit": None, "sha256": None}
    path, record = _write(tmp_path)
    assert record["source"] == nothing
    path, record = _write(tmp_path, source={"reader": "measurement_file", "unit": "HU"})
    assert record["source"] == nothing | {"reader": "measurement_file", "unit": "HU"}
    verify_record(path)
    with pytest.raises(IntegrityError, match="not a provenance record"):
        _write(tmp_path, source={"sha256": "abc"})


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
    changed = _write(tmp_path / "b", config={"sampler": {"name": "ddim", "steps": 21}})[1]
    assert changed["config_sha256"] != one["config_sha256"]


@pytest.mark.parametrize("where", [0.02, 0.5, 0.99])
def test_one_flipped_byte_of_the_output_is_found(tmp_path: Path, where: float) -> None:
    path, record = _write(tmp_path)
    output = tmp_path / record["output"]["file"]
    data = bytearray(output.read_bytes())
    data[int(where * len(data))] ^= 1
    output.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match=f"output was changed; expected sha256 {record['output']['sha256'][:16]}"):
        verify_record(path)


def test_missing_output_and_missing_record(tmp_path: Path) -> None:
    path, record = _write(tmp_path)
    (tmp_path / record["output"]["file"]).unlink()
    with pytest.raises(IntegrityError, match="output is missing"):
        verify_record(path)
    path.unlink()
    with pytest.raises(InputError, match="no such record"):
        verify_record(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network_calls": 41}, "record was changed"),
        ({"schema_version": "2"}, "another version"),
        ({"network_calls": "40"}, "not a provenance record"),
        ({"surplus": 1}, "not a provenance record"),
        ({"output": {"file": "../x.nii", "sha256": SHA, "voxels_sha256": SHA}}, "not a provenance record"),
        ({"measurement_sha256": None}, "not a provenance record"),
    ],
)
def test_changed_record_is_found(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path, record = _write(tmp_path)
    path.write_text(json.dumps(record | change))
    with pytest.raises(IntegrityError, match=message):
        verify_record(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_damaged_record_is_found(tmp_path: Path, content: bytes) -> None:
    path, _ = _write(tmp_path)
    path.write_bytes(content)
    with pytest.raises(IntegrityError):
        verify_record(path)


def test_no_record_of_what_was_not_written(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="does not hold the volume"):
        _write(tmp_path, volume=torch.zeros(1, 8, 9, 10))
    with pytest.raises(IntegrityError, match="measurement_sha256"):
        _write(tmp_path, measurement_sha256="short")
    assert not record_path(tmp_path / "case-1_recon.nii.gz").exists()
