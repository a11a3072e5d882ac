# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A thick-slice DICOM series through ``monai.bundle run`` to a derived series."""

from __future__ import annotations

import gzip
import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
from pydicom import dcmread

from monai_diffrecon.engine.cases.case_recorder import CaseRecorder
from monai_diffrecon.errors import InputError, IntegrityError, PluginError
from monai_diffrecon.io.dicom.series_reader import DicomSeriesReader
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.tracking.provenance import verify_record

SHAPE = (16, 14, 5)


def blobs() -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    return (900 * (sum(a**2 for a in axes) < 0.9) * (1 + 0.3 * np.cos(4 * axes[0]))).astype(np.int16)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path], dicom: Any) -> Callable[..., Path]:
    """Run the bundle in this process on an oblique series: 5 slices of 3 mm, 4 mm apart."""
    root = tmp_path_factory.mktemp("dicom")
    bundle = make_bundle(root / "axial")
    dicom.save(root / "Canaryman_John", dicom.make_series(blobs(), SliceThickness=3.0))

    def run(**options: Any) -> Path:
        given = {
            "bundle_root": str(bundle),
            "config_file": str(bundle / "configs/inference.json"),
            "device": "cpu",
            "image": str(root / "Canaryman_John"),
            "output_dir": str(root / "out"),
            "case_name": "a",
            "evaluator#track": False,
            "sampler#steps": 2,
            "initialize": [],
            **options,
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="parsing config_file")
            monai.bundle.run(logging_file=False, **given)
        return root / "out"

    return run


@pytest.fixture(scope="module")
def output(run: Callable[..., Path]) -> Path:
    hook = sys.excepthook
    folder = run(output_format="dicom")
    assert sys.excepthook is hook
    return folder


def test_the_derived_series_lies_where_the_scan_lay(output: Path, dicom: Any) -> None:
    files = sorted((output / "a/dicom").glob("*.dcm"))
    assert len(files) == 19  # 5 slices every 4 mm without the last gap, in millimetres
    normal = dicom.OBLIQUE[:, 2]
    for k, path in enumerate(files):
        ds = dcmread(path)
        # Both begin at one face: 1.5 mm before the middle of the first thick slice, 0.5 mm before the first thin one.
        expected = dicom.ORIGIN + (k - 1.0) * normal
        np.testing.assert_allclose(np.array(ds.ImagePositionPatient, dtype=float), expected, atol=1e-3)
        cosines = np.array(ds.ImageOrientationPatient, dtype=float)
        np.testing.assert_allclose(cosines, dicom.OBLIQUE[:, :2].T.reshape(-1), atol=1e-6)
        assert (float(ds.SliceThickness), float(ds.SpacingBetweenSlices)) == pytest.approx((1.0, 1.0), abs=1e-6)
        assert (ds.Columns, ds.Rows, ds.Modality, ds.ScanningSequence) == (16, 14, "MR", "GR")
        assert (ds.PatientID, ds.PatientIdentityRemoved) == ("a", "YES")
        assert "operator slice_thickness, prior slices, sampler pnp_hqs" in ds.DerivationDescription


def test_the_header_s_thickness_and_gap_were_used(output: Path) -> None:
    record = json.loads((output / "a_recon.provenance.json").read_text())
    operator = record["config"]["operator"]
    assert (operator["thickness"], operator["gap"]) == pytest.approx((3.0, 1.0), abs=1e-5)
    measured = DicomSeriesReader().read(output / "a/dicom")
    volume, geometry = read_volume(output / "a_recon.nii.gz")
    assert float((measured.data - volume).abs().max()) <= 0.51 * float(volume.max() - volume.min()) / 65535
    thick = SliceThickness(geometry, thickness=3.0, gap=1.0)(volume)[0].numpy()
    expected = blobs()[::-1, ::-1].astype(np.float32)
    assert np.linalg.norm(thick - expected) < 0.02 * np.linalg.norm(expected)


def test_nothing_names_the_patient(output: Path, dicom: Any) -> None:
    secrets = [*dicom.SECRETS.values(), dicom.PRIVATE, dicom.ROOT, "Canaryman"]
    files = [p for p in output.rglob("*") if p.is_file()]
    assert len(files) >= 22
    for path in files:
        content = path.read_bytes()
        content += gzip.decompress(content) if path.suffix == ".gz" else b""
        assert [s for s in secrets if s.encode() in content or s in path.name] == []


def test_the_record_knows_the_series(output: Path) -> None:
    record = output / "a_recon.provenance.json"
    verify_record(record)
    assert json.loads(record.read_text())["output"]["dicom"]["folder"] == "a/dicom"
    path = output / "a/dicom/0003.dcm"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError) as caught:
        verify_record(record)
    assert caught.value.where == "a/dicom"
    path.write_bytes(content)
    verify_record(record)


def test_nifti_alone_is_the_default(run: Callable[..., Path], tmp_path: Path) -> None:
    run(output_dir=str(tmp_path))
    assert not (tmp_path / "a").exists()
    assert "dicom" not in json.loads((tmp_path / "a_recon.provenance.json").read_text())["output"]


def test_a_missing_slice_stops_the_run(run: Callable[..., Path], tmp_path: Path, dicom: Any) -> None:
    series = dicom.make_series(blobs())
    del series[1]
    with pytest.raises(RuntimeError) as caught:
        run(image=str(dicom.save(tmp_path / "scan", series)), output_dir=str(tmp_path / "out"))
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    assert re.search("image: missing slices: 1", str(cause))


def test_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(PluginError) as caught:
        CaseRecorder(tmp_path, track=False, tracking_uri=None, experiment="e", output_format="tiff")
    assert caught.value.where == "output_format"
    assert caught.value.expected == "dicom, metaimage, nifti, nrrd, ome_zarr"
