# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Padding of CT: the body comes out as without it, the padding as it was."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch

from monai_diffrecon.engine.cases.rerun import rerun
from monai_diffrecon.io.dicom.series_reader import DicomSeriesReader
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.numerics.padding import padding_mask

N, THIN = 24, 12
X, Y = np.meshgrid(*(np.arange(N) - (N - 1) / 2,) * 2, indexing="ij")
#: Outside of the scanner's circle; the body's slices end well within it.
OUTSIDE = np.hypot(X, Y) > 11.0
AIR = -1000.0


def body(slices: int) -> np.ndarray:
    """A body (X, Y, slices) in HU with an organ and a bone, in air."""
    volume = np.full((N, N, slices), AIR, dtype=np.float32)
    volume[np.hypot(X / 9, Y / 7) < 1] = 40.0
    volume[(np.hypot(X - 3, Y) < 3), slices // 3 :] = 120.0
    volume[np.hypot(X + 5, Y + 2) < 1.5] = 900.0
    return volume


def padded(volume: np.ndarray, value: float) -> np.ndarray:
    out = volume.copy()
    out[OUTSIDE] = value
    return out


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    window = {"map": "window", "low": -1000, "high": 1000}
    return make_bundle(tmp_path_factory.mktemp("bundle") / "ct", intensity=window)


@pytest.fixture
def run(bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(name: str, image: Path, **options: Any) -> Path:
        given = {
            "bundle_root": str(bundle),
            "config_file": str(bundle / "configs/inference.json"),
            "device": "cpu",
            "image": str(image),
            "output_dir": str(tmp_path / "out"),
            "case_name": name,
            "evaluator#track": False,
            "sampler#steps": 2,
            "initialize": [],
            **options,
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="parsing config_file")
            monai.bundle.run(logging_file=False, **given)
        return tmp_path / "out" / f"{name}_recon.nii.gz"

    return run


def save(path: Path, volume: np.ndarray, spacing: tuple[float, float, float]) -> Path:
    nib.save(nib.Nifti1Image(volume, np.diag([*spacing, 1.0])), path)
    return path


def record(path: Path) -> dict[str, Any]:
    return json.loads(path.with_name(path.name.replace(".nii.gz", ".provenance.json")).read_text())


@pytest.mark.parametrize("value", [-1200.0, -2000.0, -2048.0, -3024.0, -32768.0])
def test_thick_slices_in_nifti(run: Callable[..., Path], tmp_path: Path, value: float, bundle: Path) -> None:
    thick = body(4)
    plain = run("plain", save(tmp_path / "plain.nii.gz", thick, (1, 1, 3)))
    scan = save(tmp_path / "padded.nii.gz", padded(thick, value), (1, 1, 3))
    with_padding = run("padded", scan)
    a, b = read_volume(plain)[0][0], read_volume(with_padding)[0][0]
    assert a.shape == (N, N, THIN)
    assert torch.equal(a[~OUTSIDE], b[~OUTSIDE])
    assert bool((b[OUTSIDE] == value).all())
    (notice,) = set(record(with_padding)["report"]["notices"]) - set(record(plain)["report"]["notices"])
    assert f"{int(OUTSIDE.sum()) * 4} voxels" in notice
    assert f"{value:g}" in notice
    again = rerun(with_padding.with_name("padded_recon.provenance.json"), scan, bundle, device="cpu")
    assert again.same


def test_a_wedge_that_ends_within_the_scan(run: Callable[..., Path], tmp_path: Path) -> None:
    """Slices without a measurement in a corner, of two values: each thin slice takes those of the one around it."""
    thick = body(4)
    wedge = thick.copy()
    thick[:8, :8, 0], thick[:4, :4, 1] = AIR, AIR
    wedge[:8, :8, 0], wedge[:4, :4, 1] = -2000.0, -3024.0
    plain = read_volume(run("plain", save(tmp_path / "a.nii.gz", thick, (1, 1, 3))))[0][0]
    b = read_volume(run("wedge", save(tmp_path / "b.nii.gz", wedge, (1, 1, 3))))[0][0]
    assert bool((b[:8, :8, :3] == -2000).all())
    assert bool((b[:4, :4, 3:6] == -3024).all())
    assert int((b < -1500).sum()) == 3 * (8 * 8 + 4 * 4)
    assert torch.equal(plain[b > -1500], b[b > -1500])


def test_resampled_in_plane(run: Callable[..., Path], tmp_path: Path) -> None:
    thick = body(4)
    plain = run("plain", save(tmp_path / "a.nii.gz", thick, (1.5, 1.5, 3)), resample=True)
    b = run("padded", save(tmp_path / "b.nii.gz", padded(thick, -3024), (1.5, 1.5, 3)), resample=True)
    a, b = read_volume(plain)[0][0], read_volume(b)[0][0]
    back = b == -3024
    assert torch.equal(a[~back], b[~back])
    assert float(back.float().mean()) == pytest.approx(float(OUTSIDE.mean()), abs=0.02)
    assert float(b[~back].min()) > -1300  # no ringing beside the padding


@pytest.mark.parametrize("operator", ["slice_thickness", "parallel_ct"])
def test_a_simulated_measurement_of_a_padded_volume(run: Callable[..., Path], tmp_path: Path, operator: str) -> None:
    options: dict[str, Any] = {
        "simulate": True,
        "simulate_unit": "HU",
        "operator": {
            "slice_thickness": {"name": "slice_thickness", "thickness": 3.0},
            "parallel_ct": {"name": "parallel_ct", "views": 12},
        }[operator],
    }
    thin = body(THIN)
    plain = run("plain", save(tmp_path / "a.nii.gz", thin, (1, 1, 1)), **options)
    scan = save(tmp_path / "b.nii.gz", padded(thin, -2000), (1, 1, 1))
    with_padding = run("padded", scan, **options)
    a, b = read_volume(plain)[0][0], read_volume(with_padding)[0][0]
    assert torch.equal(a[~OUTSIDE], b[~OUTSIDE])
    assert bool((b[OUTSIDE] == -2000).all())


def test_metrics_do_not_know_of_padding(run: Callable[..., Path], tmp_path: Path, bundle: Path) -> None:
    """Neither where the truth has it too, nor when a volume is kept; the montage is the same picture."""
    thin = body(THIN)
    thick = thin.reshape(N, N, 4, 3).mean(-1)
    truth, truth_padded = (save(tmp_path / f"t{v:g}.nii.gz", padded(thin, v), (1, 1, 1)) for v in (AIR, -3024))
    seen: dict[str, Any] = {}
    from monai_diffrecon.engine.cases.case_record import CaseRecord

    original = CaseRecord.metrics

    def metrics(volume: Any, reference: Any, geometry: Any) -> dict[str, float]:
        return seen.setdefault(str(len(seen)), original(volume, reference, geometry))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CaseRecord, "metrics", staticmethod(metrics))
        run("plain", save(tmp_path / "a.nii.gz", thick, (1, 1, 3)), reference=str(truth))
        scan = save(tmp_path / "b.nii.gz", padded(thick, -3024), (1, 1, 3))
        for _ in range(2):  # the second time it is kept
            run("padded", scan, reference=str(truth_padded))
    assert len(seen) == 3
    plain, computed, kept = seen.values()
    assert plain["psnr"] > 10
    # The plain run's own error outside of the circle is what the padded one does not have.
    assert computed["psnr"] == pytest.approx(plain["psnr"], abs=0.5)
    assert kept == computed


def test_a_dicom_series_says_what_is_padding(run: Callable[..., Path], tmp_path: Path, dicom: Any) -> None:
    """Below air, above all, a range of values, and with the other sign; it comes back through DICOM as well."""
    stored = (body(4) + 1024).astype(np.int16)
    plain = run("plain", dicom.save(tmp_path / "plain", make_ct(dicom, stored)))
    a = read_volume(plain)[0][0]
    for name, value, declared in (
        ("low", -2000, {"PixelPaddingValue": -2000}),
        ("bright", 32000, {"PixelPaddingValue": 32000}),
        ("range", -30, {"PixelPaddingValue": -40, "PixelPaddingRangeLimit": -20}),
        ("zero", 0, {"PixelPaddingValue": 0}),
    ):
        series = make_ct(dicom, padded(stored, value), **declared)
        folder = dicom.save(tmp_path / name, series)
        assert DicomSeriesReader().read(folder).padding is not None
        b = read_volume(run(name, folder, output_format="dicom"))[0][0]
        assert torch.equal(a[~OUTSIDE], b[~OUTSIDE])
        assert bool((b[OUTSIDE] == value - 1024).all())
        derived = DicomSeriesReader().read(tmp_path / "out" / name / "dicom").data[0]
        assert bool((derived[OUTSIDE] == value - 1024).all())
        shutil.rmtree(tmp_path / name)


def make_ct(dicom: Any, stored: np.ndarray, **changes: Any) -> Any:
    """A CT series whose pixels are RAS+ when they are read; in-plane 1 mm."""
    series = dicom.make_ct(stored[::-1, ::-1, ::-1], PixelSpacing=[1.0, 1.0], **changes)
    for ds in series:
        ds.RescaleSlope = 1
    return series


def test_a_clipped_value_inside_of_the_body_is_no_padding(tmp_path: Path, dicom: Any) -> None:
    stored = (body(4) + 1024).astype(np.int16)
    stored[OUTSIDE] = 0
    stored[12, 12, 2] = 0
    read = DicomSeriesReader().read(dicom.save(tmp_path / "ct", make_ct(dicom, stored, PixelPaddingValue=0)))
    assert read.padding is not None
    assert bool((read.padding.values[OUTSIDE] == -1024).all())
    assert bool(read.padding.values[~OUTSIDE].isnan().all())
    assert float(read.data[0, 12, 12, 2]) == -1024


def test_an_unsigned_padding_value_of_signed_pixels(tmp_path: Path, dicom: Any) -> None:
    stored = padded((body(4) + 1024).astype(np.int16), -2000)
    series = make_ct(dicom, stored)
    for ds in series:
        ds.add_new(0x00280120, "US", 63536)
    read = DicomSeriesReader().read(dicom.save(tmp_path / "ct", series))
    assert read.padding is not None
    assert bool((read.padding.values[OUTSIDE] == -3024).all())


def test_what_is_no_padding() -> None:
    volume = torch.from_numpy(body(4))
    assert not bool(padding_mask(volume).any())
    assert not bool(padding_mask(torch.full_like(volume, -1024.0)).any())
    noisy = volume + 80 * torch.randn(volume.shape, generator=torch.Generator().manual_seed(0))
    low = noisy.round() < -1100
    assert int(low.sum()) > 50  # noise in air
    assert not bool(padding_mask(noisy.round()).any())
    assert not bool(padding_mask(noisy).any())
