# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.dxchange.reader import DXchangeReader
from monai_diffrecon.io.measurement.checks import check_measurement
from monai_diffrecon.io.measurement.metatensor import from_tensor, to_tensor
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.operators.parallel_ct import ParallelCT
from monai_diffrecon.protocols import Measurement
from monai_diffrecon.testing.reader_laws import check_reader

from .dxchange_files import PIXEL, line_integrals, phantom, write_dxchange

CENTER, COLUMNS = 45.3, 96
HALF = np.arange(0.0, 180.0, 1.5)
LENS = "detection_system/objective/magnification"


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_dxchange(tmp_path / "scan.h5", HALF, center=CENTER, columns=COLUMNS)


def operator_of(m: Measurement) -> ParallelCT:
    assert m.operator is not None
    options = dict(m.operator)
    assert options.pop("name") == "parallel_ct"
    return ParallelCT(m.geometry, **options)


def found_center(m: Measurement) -> float:
    said = [re.search(r"found at column ([\d.]+)", notice) for notice in m.notices]
    (value,) = [float(match[1]) for match in said if match]
    return value


def edit(path: Path, change: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def put(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return change


def test_line_integrals_are_those_of_the_object(scan: Path) -> None:
    reader = DXchangeReader(pixel_size=PIXEL, center=CENTER)
    assert reader.recognises(scan)
    m = reader.read(scan)
    check_measurement(m, "scan")
    expected = line_integrals(HALF, CENTER, COLUMNS).transpose(0, 2, 1)
    assert (m.data.dtype, tuple(m.data.shape)) == (torch.float32, (120, 96, 3))
    np.testing.assert_allclose(m.data.numpy(), expected, atol=1e-3)  # counts are whole numbers
    assert (m.geometry.shape, m.geometry.spacing) == ((96, 96, 3), (PIXEL,) * 3)
    assert (m.unit, m.source_sha256, m.noise_std) == ("1/mm", sha256_file(scan), 0.0)
    assert m.geometry.affine is None
    assert from_tensor(to_tensor(m)).geometry == m.geometry
    assert len(m.notices) == 1
    assert "orientation" in m.notices[0]


@pytest.mark.parametrize(
    ("degrees", "center"),
    [
        (HALF, CENTER),
        (np.linspace(0.0, 180.0, 121), 49.6),
        (np.arange(0.0, 360.0, 3.0), 50.9),
        (np.arange(-90.0, 90.0, 1.5)[::-1], 44.45),
        (np.arange(0.0, 540.0, 3.1), 47.5),
    ],
)
def test_the_volume_is_the_object(tmp_path: Path, degrees: np.ndarray, center: float) -> None:
    """Where it lies, which way it turns and how dense it is, with the axis found from the projections."""
    path = write_dxchange(tmp_path / "scan.h5", degrees, center=center, packed=True)
    m = DXchangeReader(pixel_size=PIXEL).read(path)
    assert abs(found_center(m) - center) < 0.2
    assert not any("uncertain" in notice for notice in m.notices)
    volume = operator_of(m).initial(m.data)[0].numpy()
    truth, flat = phantom(COLUMNS)
    error = (volume - truth)[flat]
    assert np.sqrt(np.square(error).mean()) < 0.03 * truth.max()
    for value in np.unique(truth[..., 0]):
        inside = flat & (truth[..., 0] == value)
        assert inside.sum() > 10
        assert abs(volume[inside, 0].mean() - value) < 0.01 * truth.max()


def test_another_axis_or_turn_would_not_do(scan: Path) -> None:
    truth, flat = phantom(COLUMNS)

    def error(m: Measurement, image: np.ndarray) -> float:
        return float(np.sqrt(np.square(operator_of(m).initial(m.data)[0].numpy() - image)[flat].mean()))

    right, off = (DXchangeReader(pixel_size=PIXEL, center=c).read(scan) for c in (CENTER, COLUMNS - 1 - CENTER))
    assert error(off, truth) > 3 * error(right, truth)
    assert error(right, truth[::-1]) > 3 * error(right, truth)


def test_an_axis_of_few_views_is_found_from_all(scan: Path) -> None:
    whole, few = DXchangeReader().read(scan), DXchangeReader(views=11).read(scan)
    assert found_center(few) == found_center(whole)
    kept = [i * 120 // 11 for i in range(11)]
    torch.testing.assert_close(few.data, whole.data[kept], rtol=0, atol=0)
    assert few.operator is not None
    assert few.operator["angles"] == HALF[kept].tolist()


def test_rows_are_slices(scan: Path) -> None:
    whole, part = DXchangeReader(center=45.0).read(scan), DXchangeReader(center=45.0, rows=[1, 3]).read(scan)
    torch.testing.assert_close(part.data, whole.data[:, :, 1:], rtol=0, atol=0)
    assert part.geometry.shape == (96, 96, 2)


def test_binning_conserves_line_integrals_and_place(scan: Path) -> None:
    def tall(file: h5py.File) -> None:
        for name in ("data", "data_white", "data_dark"):
            values = file[f"exchange/{name}"][...]
            put(f"exchange/{name}", np.concatenate([values[:, :1], values], axis=1))(file)

    edit(scan, tall)
    whole, binned = (DXchangeReader(pixel_size=PIXEL, center=CENTER, binning=n).read(scan) for n in (1, 2))
    assert binned.geometry.shape == (48, 48, 2)
    assert binned.geometry.spacing == (2 * PIXEL,) * 3
    mean = whole.data.reshape(120, 48, 2, 2, 2).mean(dim=(2, 4))
    torch.testing.assert_close(binned.data, mean, rtol=1e-5, atol=1e-6)
    truth, _ = phantom(COLUMNS)
    coarse = truth[..., 0].reshape(48, 2, 48, 2).mean(axis=(1, 3))
    volume = operator_of(binned).initial(binned.data)[0, :, :, 0].numpy()
    assert np.corrcoef(volume.ravel(), coarse.ravel())[0, 1] > 0.98


def test_columns_left_over_do_not_move_the_axis(scan: Path) -> None:
    m = DXchangeReader(pixel_size=0.5, center=CENTER, binning=3).read(scan)
    assert m.operator is not None

    def narrow(file: h5py.File) -> None:
        for name in ("data", "data_white", "data_dark"):
            put(f"exchange/{name}", file[f"exchange/{name}"][..., :-1])(file)

    rest = DXchangeReader(pixel_size=0.5, center=CENTER, binning=3).read(edit(scan, narrow))
    assert rest.operator is not None
    assert (m.operator["detectors"], rest.operator["detectors"]) == (32, 31)
    specs = (m.operator, rest.operator)
    first = [s["detector_offset"] - (s["detectors"] - 1) / 2 * s["detector_spacing"] for s in specs]
    # The middle of the first bin is that of the first three columns.
    assert first == pytest.approx([(1 - CENTER) * 0.5] * 2)


def test_counts_within_the_noise_are_clipped_and_counted(scan: Path) -> None:
    def shade(file: h5py.File) -> None:
        file["exchange/data"][3, 1, 40:47] = 0
        file["exchange/data"][5, 2, 50] = 100

    m = DXchangeReader(center=CENTER).read(edit(scan, shade))
    (said,) = [notice for notice in m.notices if "clipped" in notice]
    assert said.startswith(f"8 of {120 * 96 * 3} counts")
    with h5py.File(scan) as file:
        darks, whites = (file[f"exchange/{n}"][...].astype(float) for n in ("data_dark", "data_white"))
    noise = np.median(darks.std(axis=0, ddof=1))
    beam = (whites.mean(axis=0) - darks.mean(axis=0))[1, 40:47]
    np.testing.assert_allclose(m.data[3, 40:47, 1].numpy(), np.log(beam / noise), rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"detector/x_pixel_size": (6.5e-6, None)}, (0.0065, 0.0065)),
        ({"detector/x_pixel_size": (6.5, "um"), "detector/y_pixel_size": (13.0, "um")}, (0.0065, 0.013)),
        ({"detector/pixel_size_x": ([[0.74]], "microns")}, (0.00074, 0.00074)),
        ({"detector/pixel_size": (6.5, "um"), LENS: (5.0, None)}, (0.0013, 0.0013)),
        ({"detector/pixel_size": (6.5, "um"), LENS: (b"5x", None)}, None),
        ({"detector/x_pixel_size": (6.5, "um"), "detector/actual_pixel_size_x": (1.2e-6, "m")}, (0.0012, 0.0012)),
        ({"detector/x_pixel_size": (6.5, "um"), "detection_system/objective/resolution": (0.65, None)}, (65e-5, 65e-5)),
        ({"detector/x_pixel_size": (0.05, "mm")}, (0.05, 0.05)),
        ({"detector/x_pixel_size": (6.5, None)}, None),
        ({"detector/x_pixel_size": (6.5, "furlongs")}, None),
        ({"detector/x_pixel_size": (0.0, "um")}, None),
        ({"detector/x_pixel_size": (np.nan, "um")}, None),
        ({"detector/x_pixel_size": (b"6.5", "um")}, None),
    ],
)
def test_pixel_sizes_of_the_file(scan: Path, fields: dict[str, Any], expected: tuple[float, float] | None) -> None:
    def state(file: h5py.File) -> None:
        for name, (value, unit) in fields.items():
            file[f"measurement/instrument/{name}"] = value
            if unit is not None:
                file[f"measurement/instrument/{name}"].attrs["units"] = unit

    m = DXchangeReader(center=CENTER).read(edit(scan, state))
    across, along = expected or (1.0, 1.0)
    check_measurement(m, "scan")
    assert m.geometry.spacing == pytest.approx((across, across, along))
    assert m.unit == ("arbitrary" if expected is None else "1/mm")
    assert m.operator is not None
    assert m.operator["detector_spacing"] == pytest.approx(across)
    assert m.operator["detector_offset"] == pytest.approx((47.5 - CENTER) * across)
    assert len([notice for notice in m.notices if "pixel size" in notice]) == 1


@pytest.mark.parametrize("unit", ["radians", np.bytes_("rad")])
def test_angles_in_radians(scan: Path, unit: Any) -> None:
    def turn(file: h5py.File) -> None:
        put("exchange/theta", np.deg2rad(HALF))(file)
        file["exchange/theta"].attrs["units"] = unit

    m = DXchangeReader(center=CENTER).read(edit(scan, turn))
    assert m.operator is not None
    np.testing.assert_allclose(m.operator["angles"], HALF, atol=1e-6)


def test_angles_that_look_like_radians_are_not_guessed(scan: Path) -> None:
    edit(scan, put("exchange/theta", np.deg2rad(HALF)))
    with pytest.raises(InputError) as caught:
        DXchangeReader(center=CENTER).read(scan)
    assert caught.value.where == "scan.h5#exchange/theta"
    assert caught.value.mend is not None
    assert "angles_unit" in caught.value.mend
    m = DXchangeReader(center=CENTER, angles_unit="radians").read(scan)
    assert m.operator is not None
    np.testing.assert_allclose(m.operator["angles"], HALF, atol=1e-6)


def test_without_dark_fields_0_is_assumed(scan: Path) -> None:
    m = DXchangeReader(center=CENTER).read(edit(scan, put("exchange/data_dark", None)))
    assert any("dark" in notice and "0 is assumed" in notice for notice in m.notices)
    with h5py.File(scan) as file:
        data, white = file["exchange/data"][0, 0].astype(float), file["exchange/data_white"][0, 0].astype(float)
    np.testing.assert_allclose(m.data[0, :, 0].numpy(), -np.log(data / white), rtol=1e-4, atol=1e-5)


def test_an_object_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = write_dxchange(tmp_path / "scan.h5", HALF, center=20.0, columns=44)
    m = DXchangeReader(center=20.0).read(path)
    assert any("beyond the detector" in notice for notice in m.notices)


@pytest.mark.parametrize("degrees", [HALF[:60], np.zeros(120)])
def test_no_axis_without_opposite_views(tmp_path: Path, degrees: np.ndarray) -> None:
    path = write_dxchange(tmp_path / "scan.h5", degrees)
    with pytest.raises(InputError) as caught:
        DXchangeReader().read(path)
    assert "axis" in caught.value.what
    assert caught.value.mend is not None
    assert "center" in caught.value.mend
    assert tuple(DXchangeReader(center=45.0).read(path).data.shape) == (len(degrees), 96, 3)


def test_no_axis_when_opposite_views_are_unlike(scan: Path) -> None:
    def shuffle(file: h5py.File) -> None:
        data = file["exchange/data"]
        data[...] = np.random.default_rng(0).permuted(data[...], axis=2)

    with pytest.raises(InputError) as caught:
        DXchangeReader().read(edit(scan, shuffle))
    assert (caught.value.where, caught.value.expected) == (
        "scan.h5",
        "projections half a turn apart that are mirror images",
    )


def external(file: h5py.File) -> None:
    put("exchange/data", h5py.ExternalLink("other.h5", "/x"))(file)


def hollow(file: h5py.File) -> None:
    del file["exchange/data"]
    file.create_dataset("exchange/data", (120, 3000, 4000), np.uint16, chunks=(1, 100, 4000), compression="gzip")
    file["exchange/data"][0, 0, 0] = 1


def spoil(name: str, value: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        values = file[name][...].astype(np.float32)
        values.flat[-1] = value
        put(name, values)(file)

    return change


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (put("exchange/data", None), "", "not a DXchange file"),
        (put("exchange/data", np.ones((3, 96))), "#exchange/data", "shape"),
        (put("exchange/data", np.ones((0, 3, 96))), "#exchange/data", "shape"),
        (put("exchange/data", np.ones((120, 3, 96), dtype=np.complex64)), "#exchange/data", "type"),
        (put("exchange/data", h5py.SoftLink("/exchange/data_white")), "#exchange/data", "link"),
        (external, "#exchange/data", "link"),
        (hollow, "#exchange/data", "declares more"),
        (spoil("exchange/data", np.nan), "#exchange/data", "finite"),
        (put("exchange/data_white", None), "", "white"),
        (put("exchange/data_white", np.ones((4, 3, 95))), "#exchange/data_white", "shape"),
        (spoil("exchange/data_white", np.inf), "#exchange/data_white", "finite"),
        (put("exchange/data_white", np.full((4, 3, 96), 50.0)), "#exchange/data_white", "not brighter"),
        (put("exchange/data_dark", np.ones((4, 2, 96))), "#exchange/data_dark", "shape"),
        (spoil("exchange/data_dark", np.nan), "#exchange/data_dark", "finite"),
        (put("exchange/theta", None), "", "angles"),
        (put("exchange/theta", np.arange(119.0)), "#exchange/theta", "shape"),
        (spoil("exchange/theta", np.nan), "#exchange/theta", "finite"),
        (lambda f: f["exchange/theta"].attrs.__setitem__("units", "grad"), "#exchange/theta@units", "unit"),
    ],
)
def test_what_is_no_scan_is_refused(scan: Path, change: Callable[[h5py.File], None], where: str, what: str) -> None:
    with pytest.raises(InputError) as caught:
        DXchangeReader(center=CENTER).read(edit(scan, change))
    assert caught.value.where == f"scan.h5{where}"
    assert what in caught.value.what
    assert str(scan.parent) not in str(caught.value)


def test_a_dead_pixel_is_named_and_left_out(scan: Path) -> None:
    def kill(file: h5py.File) -> None:
        file["exchange/data_white"][:, 1, 17] = 0

    with pytest.raises(InputError) as caught:
        DXchangeReader(center=CENTER).read(edit(scan, kill))
    assert (caught.value.where, caught.value.got) == (
        "scan.h5#exchange/data_white",
        "none in 1 of 288, first in row 1, column 17",
    )
    assert DXchangeReader(center=CENTER, rows=[2, 3]).read(scan).geometry.shape == (96, 96, 1)


def test_truncated(scan: Path) -> None:
    scan.write_bytes(scan.read_bytes()[:-2000])
    with pytest.raises(InputError) as caught:
        DXchangeReader().read(scan)
    assert caught.value.where == "scan.h5"


@pytest.mark.parametrize(
    "options",
    [
        {"rows": [2, 1]},
        {"rows": [0, 4]},
        {"rows": [0]},
        {"rows": 2},
        {"rows": [0, 1.5]},
        {"views": 0},
        {"views": 121},
        {"binning": 0},
        {"binning": 4},
        {"center": -1.0},
        {"center": 95.5},
        {"pixel_size": 0.0},
        {"pixel_size": "small"},
        {"angles_unit": "grad"},
    ],
)
def test_options_that_do_not_fit(scan: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        DXchangeReader(**{"center": CENTER, **options}).read(scan)
    assert caught.value.where == f"reader#{next(iter(options))}"


def test_it_obeys_the_laws_of_readers(scan: Path, tmp_path: Path) -> None:
    (tmp_path / "laws").mkdir()
    check_reader(DXchangeReader(), tmp_path / "laws", scan)


def test_other_hdf5_is_not_recognised(tmp_path: Path, scan: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kspace"] = np.zeros(3)
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("exchange/data")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["exchange"] = h5py.ExternalLink("scan.h5", "/exchange")
    assert not any(DXchangeReader().recognises(tmp_path / f"{name}.h5") for name in ("other", "group", "link"))
