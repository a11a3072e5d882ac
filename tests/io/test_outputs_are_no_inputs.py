# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a run wrote is no scan of the next run; a name of a file that is no text is one like any other."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from monai_diffrecon.cli import main as cli
from monai_diffrecon.engine.cases.list_cases import list_cases
from monai_diffrecon.errors import InputError
from monai_diffrecon.errors.uncaught import users_error

UNDECODABLE = os.fsdecode(b"Doe\xff.nii.gz")


def scan(path: Path, high: float = 400.0) -> Path:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (16, 14, 4)), indexing="ij")
    blob = (high * (sum(a**2 for a in axes) < 0.9) * (1 + 0.3 * np.cos(4 * axes[0]))).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(blob, np.diag([1.0, 1, 3, 1])), path)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "axial")


@pytest.fixture
def run(bundle: Path) -> Callable[..., list[str]]:
    """Run the bundle over a folder, with all that it can write; return the names of the cases."""

    def run(scans: Path, output: Path, **options: Any) -> list[str]:
        parser = ConfigParser()
        parser.read_config(str(bundle / "configs/inference.json"))
        given: dict[str, Any] = {"bundle_root": str(bundle), "device": "cpu", "dataset_dir": str(scans)}
        given |= {"output_dir": str(output), "num_samples": 2, "keep_samples": "true", "output_format": "both"}
        given |= {"sampler": {"name": "heun", "steps": 1}, "evaluator#track": "0", "evaluator#preview_every": 1}
        parser.update(given | options)
        try:
            parser.get_parsed_content("run")
        except RuntimeError as error:
            raise users_error(error) or error from error
        return [result["case"] for result in parser.get_parsed_content("evaluator").results]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("place", [".", "outputs", "../beside"])
def test_three_runs_reconstruct_the_same_scans(run: Callable[..., list[str]], tmp_path: Path, place: str) -> None:
    scans = tmp_path / "scans"
    for name in ("a.nii.gz", "b_recon.nii.gz", "c_recon_std.nii"):
        scan(scans / name)
    first = run(scans, scans / place)
    assert len(first) == 3
    there = {path.name for path in (scans / place).glob("*.nii*")}
    assert len(there - {"a.nii.gz", "b_recon.nii.gz", "c_recon_std.nii"}) == 3 * 6
    assert run(scans, scans / place) == first
    assert run(scans, scans / place, resume="never") == first
    assert {path.name for path in (scans / place).glob("*.nii*")} == there


def test_neither_are_the_folders_of_outputs(run: Callable[..., list[str]], tmp_path: Path) -> None:
    (case,) = run(scan(tmp_path / "scans/a.nii.gz").parent, tmp_path / "out")
    for folder in (tmp_path / "out", tmp_path / "out" / case, tmp_path / "out" / case / "dicom"):
        with pytest.raises(InputError) as caught:
            list_cases(dataset_dir=str(folder), output_dir=str(tmp_path / "next"))
        assert (caught.value.where, caught.value.got) == ("image, dataset_dir", "a folder without scans")


def test_without_its_record_a_file_is_a_scan_whatever_its_name(
    run: Callable[..., list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scans = scan(tmp_path / "scans/a.nii.gz").parent
    (case,) = run(scans, scans)
    record = scans / f"{case}_recon.provenance.json"
    with caplog.at_level(logging.INFO):
        assert len(list_cases(dataset_dir=str(scans), output_dir=str(scans))) == 1
    assert "6 outputs of earlier runs" in caplog.text
    record.write_text(json.dumps({**json.loads(record.read_text()), "case": "changed"}))
    assert len(list_cases(dataset_dir=str(scans), output_dir=str(scans))) == 1
    record.unlink()
    # Of a run that was killed before its record: the name is that of a scan beside it.
    assert [c["case"] for c in list_cases(dataset_dir=str(scans), output_dir=str(scans))] == [case]
    (scans / "a.nii.gz").rename(tmp_path / "a.nii.gz")
    assert len(list_cases(dataset_dir=str(scans), output_dir=str(scans))) == 6


@pytest.mark.parametrize("content", [b"\xff", b"[]", b"{}", b'{"record_sha256": 1, "output": 7}', b"[" * 100_000])
def test_what_is_no_record_hides_nothing(tmp_path: Path, content: bytes) -> None:
    scans = scan(tmp_path / "a.nii.gz").parent
    (scans / "a.provenance.json").write_bytes(content)
    assert len(list_cases(dataset_dir=str(scans), output_dir=str(tmp_path / "out"))) == 1


def test_a_name_that_is_no_text_is_a_case_like_any_other(
    run: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = scan(tmp_path / "scans" / UNDECODABLE).parent
    scan(scans / "b.nii.gz")
    broken = scans / os.fsdecode(b"Roe\xfe.nii.gz")
    broken.write_bytes(b"junk")
    with pytest.raises(InputError) as caught:
        run(scans, tmp_path / "out")
    assert caught.value.where == "cases"
    assert caught.value.what.startswith("1 of 3 ")
    assert "Roe" not in str(caught.value)
    assert len(list((tmp_path / "out").glob("*_recon.nii.gz"))) == 2
    assert cli.main(["cases", str(scans), "--output", str(tmp_path / "out")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
