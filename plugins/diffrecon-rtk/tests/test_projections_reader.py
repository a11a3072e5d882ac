# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Projections of machines: what is read, and what is refused in one line."""

from pathlib import Path

import numpy as np
import pytest

from diffrecon_rtk.projections_reader import RTKProjectionsReader
from diffrecon_rtk.rtk_filters import load_rtk, rtk_geometry
from diffrecon_rtk.trajectory import ConeView, Detector, Trajectory, options_of
from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.protocols import VolumeGeometry

VIEWS, SIZE = 3, 16
COUNTS = np.random.default_rng(0).integers(400, 60000, (VIEWS, SIZE, SIZE))
SCAN = Trajectory(
    tuple(ConeView(1000.0, 1500.0 + i, 30.0 * i, 5.0, -1.0, 0.1 * i, 0.3, 0.5, 0.25 * i) for i in range(VIEWS))
)


def write_geometry(path: Path, scan: Trajectory = SCAN) -> None:
    _, rtk = load_rtk()
    writer = rtk.ThreeDCircularProjectionGeometryXMLFileWriter.New()
    writer.SetFilename(str(path))
    writer.SetObject(rtk_geometry(scan))
    writer.WriteFile()


def write_image(path: Path, values: np.ndarray) -> None:
    itk, _ = load_rtk()
    image = itk.image_from_array(values)
    image.SetSpacing([0.8, 1.2, 1.0][: values.ndim])
    image.SetOrigin([-4.0, 2.0, 0.0][: values.ndim])
    itk.imwrite(image, str(path))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_image(tmp_path / "scan.mha", COUNTS.astype(np.uint16))
    write_geometry(tmp_path / "geometry.xml")
    return tmp_path


def test_images_with_fields(images: Path) -> None:
    """Fields per pixel, a per-view geometry, binning and views; the projections are where the header says."""
    beam = 50000.0 + np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
    write_image(images / "flat.mha", (np.stack([beam - 1.0, beam + 1.0]) + 200.0).astype(np.float32))
    write_image(images / "dark.mha", np.full((1, SIZE, SIZE), 200.0, np.float32))
    options = {"flat": "flat.mha", "dark": "dark.mha", "views": 2, "binning": 5, "shape": [4, 5, 6], "spacing": 2.0}
    m = RTKProjectionsReader(**options).read(images)
    lines = -np.log((COUNTS[:2] - 200.0) / beam)[:, :15, :15].reshape(2, 3, 5, 3, 5).mean((2, 4))
    np.testing.assert_allclose(m.data, lines.transpose(0, 2, 1), rtol=1e-5)
    assert (m.geometry.shape, m.geometry.spacing) == ((4, 5, 6), (2.0, 2.0, 2.0))
    operator = registry.build("operators", m.operator, geometry=m.geometry)
    assert operator.detector.spacing == pytest.approx((4.0, 6.0))
    # The middle of pixels 0 to 14, the last one is dropped.
    assert operator.detector.offset == pytest.approx((-4.0 + 7.0 * 0.8, 2.0 + 7.0 * 1.2))
    for view, expected in zip(operator.trajectory.views, SCAN.views, strict=False):
        assert view == pytest.approx(expected, abs=1e-6)


def test_line_integrals_as_they_are(tmp_path: Path) -> None:
    lines = np.random.default_rng(1).random((VIEWS, SIZE, SIZE)).astype(np.float32)
    write_image(tmp_path / "lines.mha", lines)
    write_geometry(tmp_path / "geometry.xml")
    m = RTKProjectionsReader().read(tmp_path)
    np.testing.assert_array_equal(m.data, lines.transpose(0, 2, 1))
    assert m.weights is None
    # The voxels reach as far as the rays: the far end of the detector, brought to the isocentre.
    reach = max(m.geometry.shape[:2]) * m.geometry.spacing[0] / 2
    assert reach == pytest.approx((-4.0 + 15 * 0.8 + 5.0 - 0.5) / 1.5 + 0.5, abs=0.6)


def test_clipped_counts_are_said_and_weigh_nothing(images: Path) -> None:
    counts = COUNTS.copy()
    counts[0, 3, 5] = 90
    write_image(images / "scan.mha", counts.astype(np.uint16))
    m = RTKProjectionsReader(flat=60000.0, dark=100.0).read(images)
    assert float(m.data[0, 5, 3]) == pytest.approx(-np.log(1e-5), rel=1e-5)
    assert float(m.weights[0, 5, 3]) == pytest.approx(1e-5, rel=1e-3)
    assert sum("1 of 768 counts" in notice for notice in m.notices) == 1


def test_options_of_a_scan_without_a_file() -> None:
    detector = Detector((8, 9), (1.5, 1.6), (0.5, -1.0))
    made = registry.create(
        "operators", "cone_beam_ct", geometry=VolumeGeometry((6, 6, 8)), **options_of(SCAN, detector)
    )
    assert made.detector == detector
    for view, expected in zip(made.trajectory.views, SCAN.views, strict=True):
        assert view == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("options", "spoil", "where", "got"),
    [
        ({"flat": "nowhere.mha"}, lambda p: None, "nowhere.mha", None),
        ({"flat": 100.0, "dark": 100.0}, lambda p: None, "reader#flat", "none in 256 of 256"),
        ({"flat": 1.0}, lambda p: (p / "geometry.xml").unlink(), None, None),
        ({"flat": 1.0}, lambda p: (p / "other.xml").write_text("<a/>"), None, "geometry.xml, other.xml"),
        ({"flat": 1.0}, lambda p: (p / "geometry.xml").write_text("<a/>"), "geometry.xml", None),
        ({"flat": 1.0}, lambda p: write_geometry(p / "geometry.xml", Trajectory(SCAN.views[:2])), "geometry.xml", 2),
        ({"flat": 1.0}, lambda p: (p / "scan.mha").unlink(), None, None),
        ({"flat": 1.0}, lambda p: (p / "scan.his").touch(), None, ".his, .mha"),
        (
            {"flat": "flat.mha"},
            lambda p: write_image(p / "flat.mha", np.ones((1, 3, 4), np.float32)),
            "flat.mha",
            (3, 4),
        ),
    ],
)
def test_what_does_not_fit(images: Path, options: dict, spoil: object, where: str | None, got: object) -> None:
    spoil(images)
    with pytest.raises(InputError) as caught:
        RTKProjectionsReader(**options).read(images)
    assert (caught.value.where, caught.value.got) == (where or images.name, got)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"flat": -1.0}, "reader#flat"),
        ({"dark": -1.0}, "reader#dark"),
        ({"views": 0}, "reader#views"),
        ({"views": 4}, "reader#views"),
        ({"binning": 17}, "reader#binning"),
        ({"shape": [3, 4]}, "reader#shape"),
        ({"spacing": 0.0}, "reader#spacing"),
        ({"unit": "Gy"}, "reader#unit"),
    ],
)
def test_wrong_options(options: dict, where: str, images: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        RTKProjectionsReader(**{"flat": 6e4, **options}).read(images)
    assert caught.value.where == where


def test_recognises(images: Path, tmp_path: Path) -> None:
    reader = RTKProjectionsReader()
    assert reader.recognises(images)
    assert not reader.recognises(images / "scan.mha")
    assert not reader.recognises(tmp_path / "nowhere")
    (images / "geometry.xml").unlink()
    assert not reader.recognises(images)
