# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from monai_diffrecon.engine.problem.measured_operator import build_operator
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.dicom.series_reader import DicomSeriesReader
from monai_diffrecon.io.dicom_ct_pd.reader import DicomCTPDReader
from monai_diffrecon.io.measurement.checks import check_measurement
from monai_diffrecon.numerics.ct.helical import single_slice_rebinning
from monai_diffrecon.testing.reader_laws import check_reader

from .helical_files import BALLS, COLUMN, COLUMNS, DETECTOR, FEED, ROW, SOURCE, TURN, write


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("pd") / "scan")


@pytest.mark.slow
@pytest.mark.parametrize(("detector", "sense", "typed"), [("CYLINDRICAL", 1, True), ("FLAT", -1, False)])
def test_balls_are_where_they_were_and_as_dense(tmp_path: Path, detector: str, sense: int, typed: bool) -> None:
    reader = DicomCTPDReader(slice_spacing=2.0)
    folder = write(tmp_path / "scan", detector, sense, typed)
    assert reader.recognises(folder)
    m = reader.read(folder)
    check_measurement(m, "scan")
    assert (m.unit, m.data.shape[:2]) == ("1/mm", (TURN, COLUMNS))
    assert m.operator is not None
    volume = build_operator(m.operator, m.geometry).initial(m.data)[0].numpy()
    (nx, ny, nz), pixel = m.geometry.shape, m.geometry.spacing[0]
    assert pixel == pytest.approx(COLUMN * SOURCE / DETECTOR)
    # RAS+: x runs to the right of the patient.
    x, y = ((np.arange(n) - (n - 1) / 2) * pixel for n in (nx, ny))
    z = FEED / 2 + 2.0 * np.arange(nz)  # the first slice around which there is a turn
    for (left, front, head), radius, value in BALLS:
        away = np.sqrt((x[:, None, None] + left) ** 2 + (y[:, None] - front) ** 2 + (z - head) ** 2)
        inside, around = volume[away < 0.6 * radius], volume[(away > radius + 4.0) & (away < radius + 6.0)]
        assert inside.mean() == pytest.approx(value, rel=0.05)
        assert abs(around.mean()) < 0.1 * value
        weights = np.where(away < radius + 4.0, volume, 0.0)
        for axis, place in ((x[:, None, None], -left), (y[:, None], front), (z, head)):
            assert float((weights * axis).sum() / weights.sum()) == pytest.approx(place, abs=0.5)


def test_part_of_a_scan(scan: Path) -> None:
    whole, part = DicomCTPDReader().read(scan), DicomCTPDReader(views=9, slices=[3, 5]).read(scan)
    np.testing.assert_array_equal(part.data.numpy(), whole.data.numpy()[::8, :, 3:5])
    assert whole.operator is not None
    assert part.operator is not None
    assert part.operator["angles"] == whole.operator["angles"][::8]
    assert whole.geometry.spacing[2] == pytest.approx(ROW * SOURCE / DETECTOR)


def test_water_gives_hounsfield_units(tmp_path: Path, scan: Path) -> None:
    m, plain = (
        DicomCTPDReader(views=4).read(write(tmp_path / "scan", water="0.0200")),
        DicomCTPDReader(views=4).read(scan),
    )
    assert (m.unit, plain.unit) == ("HU", "1/mm")
    np.testing.assert_allclose(m.data.numpy(), plain.data.numpy() * 1.03, rtol=1e-5, atol=1e-6)


def test_rebinning_is_exact_for_what_does_not_change_along_the_axis() -> None:
    """A cylinder about the axis: an oblique ray is longer by how much it leans."""
    gamma, rows = np.array([-0.1, 0.0, 0.05]), np.arange(9)
    v = (4.0 - rows) * 2.0
    chord = 2.0 * np.sqrt(30.0**2 - (200.0 * np.sin(gamma)) ** 2)
    image = chord[:, None] * np.hypot(1.0, v / 360.0)
    heights = np.array([-3.0, 0.0, 2.2])
    found = single_slice_rebinning(image, gamma, np.full(3, 360.0), 200.0, heights, 2.0, 4.0)
    np.testing.assert_allclose(found, chord[:, None].repeat(3, axis=1), rtol=1e-5)  # of rows in between


def test_images_and_projections_are_told_apart(scan: Path, tmp_path: Path) -> None:
    assert not DicomSeriesReader().recognises(scan)
    first = dcmread(sorted(scan.iterdir())[0])
    del first[0x70311001]
    first.save_as(tmp_path / "image.dcm")
    assert DicomSeriesReader().recognises(tmp_path)
    assert not DicomCTPDReader().recognises(tmp_path)


def edit(tag: int, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        ds = dcmread(folder / "037.dcm")
        if value is None:
            del ds[tag]
        else:
            ds[tag].value = value
        ds.save_as(folder / "037.dcm")

    return change


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda folder: (folder / "111.dcm").unlink(), "scan"),
        (edit(0x70311002, 1e30), "scan"),
        (edit(0x70311001, 3.0), "scan"),
        (edit(0x70311003, 250.0), "scan"),
        (edit(0x70311003, None), "037.dcm"),
        (edit(0x70291010, 13), "037.dcm"),
        (edit(0x7029100B, "SPHERICAL"), "037.dcm"),
        (edit(0x70391009, "NO"), "037.dcm"),
        (lambda folder: (folder / "037.dcm").write_bytes((folder / "037.dcm").read_bytes()[:900]), "037.dcm"),
    ],
)
def test_what_is_no_helix_is_one_line(scan: Path, tmp_path: Path, change: Callable[[Path], object], where: str) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    for path in scan.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    change(folder)
    with pytest.raises(InputError) as caught:
        DicomCTPDReader().read(folder)
    assert caught.value.where == where
    assert "\n" not in str(caught.value)


def test_it_obeys_the_laws_of_readers(scan: Path, tmp_path: Path) -> None:
    check_reader(DicomCTPDReader(views=4, slices=[0, 2]), tmp_path, scan)
