# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""RTK's geometry files, and options that are wrong."""

import itertools
import math
from pathlib import Path

import pytest
import torch

from diffrecon_rtk.geometry_xml import read_geometry
from diffrecon_rtk.rtk_filters import load_rtk, rtk_geometry
from diffrecon_rtk.trajectory import ConeView, Trajectory, helix
from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, IntegrityError
from monai_diffrecon.protocols import Operator, VolumeGeometry

GEOMETRY = VolumeGeometry((6, 6, 8))
GOOD = {"views": 5, "source_distance": 30.0, "detector_distance": 50.0, "detectors": [8, 9]}
SCANS = [
    pytest.param(helix([0.0, 90.0, 200.0], 30.0, 50.0), id="circle"),
    pytest.param(helix([0.0, 200.0, 400.0], 30.0, 50.0, pitch=5.0), id="helix"),
    pytest.param(helix([10.0, 50.0], 30.0, 50.0, detector_radius=50.0), id="curved"),
    pytest.param(
        Trajectory((ConeView(30.0, 50.0, 5.0, 1.0, -2.0, 3.0, -4.0, 0.5, 0.25), ConeView(31.0, 52.0, 90.0))),
        id="tilted",
    ),
]


def made(**options: object) -> Operator:
    return registry.create("operators", "cone_beam_ct", geometry=GEOMETRY, **options)


def write(scan: Trajectory, path: Path) -> Path:
    """Write a scan as RTK does."""
    _, rtk = load_rtk()
    writer = rtk.ThreeDCircularProjectionGeometryXMLFileWriter.New()
    writer.SetFilename(str(path))
    writer.SetObject(rtk_geometry(scan))
    writer.WriteFile()
    return path


@pytest.mark.slow
@pytest.mark.parametrize("scan", SCANS)
def test_reads_what_rtk_writes(scan: Trajectory, tmp_path: Path) -> None:
    found = read_geometry(str(write(scan, tmp_path / "geometry.xml")))
    assert found.detector_radius == scan.detector_radius
    for got, expected in zip(found.views, scan.views, strict=True):
        for a, b, name in zip(got, expected, ConeView._fields, strict=True):
            apart = a - b
            if name.endswith("angle"):
                apart = math.remainder(apart, 360.0)
            assert apart == pytest.approx(0.0, abs=1e-6), name


def test_a_file_measures_as_the_options_do(tmp_path: Path) -> None:
    path = write(helix([72.0 * i for i in range(5)], 30.0, 50.0), tmp_path / "geometry.xml")
    x = torch.rand((1, *GEOMETRY.shape), generator=torch.Generator().manual_seed(0))
    panel = {"detectors": [8, 9], "detector_spacing": [1.5, 1.6], "detector_offset": [0.5, -1.0]}
    scan = {name: GOOD[name] for name in ("views", "source_distance", "detector_distance")}
    from_file, from_options = made(geometry_file=str(path), **panel), made(**scan, **panel)
    torch.testing.assert_close(from_file(x), from_options(x))


def damage(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "where", "got"),
    [
        ("</RTKThreeDCircularGeometry>", "", "", "no element found: line 31, column 0"),
        ('version="3"', 'version="2"', "", "2"),
        ("<GantryAngle>90<", "<GantryAngle>ninety<", ", projection 1", "'ninety'"),
        ("<GantryAngle>90<", "<GantryAngle>nan<", ", projection 1", "'nan'"),
        ("<GantryAngle>90<", "<GantryAngle>91<", ", projection 1", None),
        ("<GantryAngle>90</GantryAngle>", "<Gantry>90</Gantry>", "", "<Gantry>"),
        ("Distance>50<", "Distance>0<", ", projection 0", 0.0),
        ("RTKThreeDCircularGeometry", "Geometry", "", "<Geometry>"),
    ],
)
def test_damaged_files(old: str, new: str, where: str, got: object, tmp_path: Path) -> None:
    path = write(helix([0.0, 90.0, 200.0], 30.0, 50.0), tmp_path / "geometry.xml")
    path.write_text(damage(path.read_text(), old, new))
    with pytest.raises(InputError) as caught:
        made(geometry_file=str(path), detectors=[8, 9])
    assert (caught.value.where, caught.value.got) == (f"operator#geometry_file, {path}{where}", got)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_one_line(tmp_path: Path) -> None:
    path = write(helix([0.0, 90.0], 30.0, 50.0), tmp_path / "geometry.xml")
    content = path.read_bytes().rstrip()
    for end in itertools.chain(range(0, len(content), 23), [len(content) - 1]):
        path.write_bytes(content[:end])
        with pytest.raises(InputError) as caught:
            read_geometry(path)
        assert caught.value.where == f"operator#geometry_file, {path}"
        assert caught.value.expected is None


def test_other_files(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.xml"
    with pytest.raises(InputError) as caught:
        made(geometry_file=str(missing), detectors=[8, 9])
    assert (caught.value.where, caught.value.got) == (f"operator#geometry_file, {missing}", "No such file or directory")
    with pytest.raises(InputError) as caught:
        made(geometry_file=3, detectors=[8, 9])
    assert (caught.value.where, caught.value.got) == ("operator#geometry_file", "3")
    empty = tmp_path / "empty.xml"
    empty.write_text('<RTKThreeDCircularGeometry version="3"></RTKThreeDCircularGeometry>')
    with pytest.raises(InputError) as caught:
        read_geometry(empty)
    assert (caught.value.where, caught.value.expected) == (
        f"operator#geometry_file, {empty}",
        "one <Projection> or more",
    )
    bomb = tmp_path / "bomb.xml"
    bomb.write_text('<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><RTKThreeDCircularGeometry version="3"/>')
    with pytest.raises(IntegrityError) as caught:
        read_geometry(bomb)
    assert (caught.value.where, caught.value.got) == (f"operator#geometry_file, {bomb}", "a")


@pytest.mark.parametrize(
    ("change", "where", "got"),
    [
        ({"views": None}, "operator#views", None),
        ({"views": 0}, "operator#views", "0"),
        ({"source_distance": None}, "operator#source_distance", "None"),
        ({"source_distance": 4.0}, "operator#source_distance", "4 mm"),
        ({"detector_distance": 25.0}, "operator#detector_distance", "25 mm"),
        ({"detector_distance": 33.0, "detector_radius": 33.0}, "operator cone_beam_ct, view 0", "33 mm"),
        ({"detectors": 8}, "operator#detectors", "8"),
        ({"detectors": [8, 9, 1]}, "operator#detectors", "[8, 9, 1]"),
        ({"detectors": [8, 9.0]}, "operator#detectors", "9.0"),
        ({"detector_spacing": 1.5}, "operator#detector_spacing", "1.5"),
        ({"detector_spacing": [1.5, 0.0]}, "operator#detector_spacing", "0.0"),
        ({"detector_offset": 1.5}, "operator#detector_offset", "1.5"),
        ({"detector_radius": -1.0}, "operator#detector_radius", "-1.0"),
        ({"detectors": None, "pitch": 3.0}, "operator#detectors", None),
        ({"detectors": None, "source_distance": 4.25}, "operator#detectors", "146 x 4621"),
        ({"arc": 400.0}, "operator#arc", "400.0"),
        ({"angles": [0.0, 1.5, 3.0]}, "operator#angles", "angles from 0 to 3"),
        ({"arc": 2.0 * math.pi}, "operator#arc", "6.28319"),
        ({"angles": []}, "operator#angles", "none"),
        ({"angles": "all"}, "operator#angles", "'all'"),
        ({"angles": [0.0, math.nan, 90.0]}, "operator#angles", "nan"),
        ({"angles": [0.0, 90.0], "angles_unit": "turns"}, "operator#angles_unit", "'turns'"),
        ({"filter": "cosine"}, "operator#filter", "'cosine'"),
        ({"initial_iterations": 0}, "operator#initial_iterations", "0"),
        ({"geometry_file": "scan.xml"}, "operator#geometry_file", "views, source_distance, detector_distance"),
        ({"pitch": math.inf}, "operator#pitch", "inf"),
    ],
)
def test_wrong_options(change: dict, where: str, got: object) -> None:
    with pytest.raises(ConfigError) as caught:
        made(**{**GOOD, **change})
    assert (caught.value.where, caught.value.got) == (where, got)
    assert "\n" not in str(caught.value)


def test_units_of_angles() -> None:
    panel = {name: GOOD[name] for name in ("source_distance", "detector_distance", "detectors")}
    radians = made(angles=[0.0, 1.5, 3.0], angles_unit="radians", **panel)
    assert radians.trajectory.views[2].gantry_angle == pytest.approx(math.degrees(3.0))
    degrees = made(angles=[0.0, 1.5, 3.0], angles_unit="degrees", **panel)
    assert degrees.trajectory.views[2].gantry_angle == 3.0
    assert made(angles=[0.0, 1.0], **panel).trajectory.views[1].gantry_angle == 1.0
    helices = [
        made(views=8, arc=arc, first_angle=first, angles_unit=unit, pitch=2.0, **panel).trajectory
        for arc, first, unit in ((720.0, 90.0, None), (4.0 * math.pi, math.pi / 2, "radians"))
    ]
    for a, b in zip(*(h.views for h in helices), strict=True):
        assert a == pytest.approx(b)
    assert helices[0].views[7].gantry_angle == 720.0
    assert helices[0].views[7].source_offset_y == pytest.approx(2.0 * 7 / 8)


def test_sources_and_detectors_of_files(tmp_path: Path) -> None:
    """They are where the file says, so they may be wrong in ways that options cannot be."""
    within = write(helix([0.0, 90.0], 4.0, 50.0), tmp_path / "within.xml")
    with pytest.raises(ConfigError) as caught:
        made(geometry_file=str(within), detectors=[8, 9])
    assert (caught.value.expected, caught.value.got) == ("more than 4.24264 mm from the axis", "4 mm")
    assert caught.value.where == "operator cone_beam_ct, view 0"
    virtual = write(helix([0.0, 90.0], 30.0, 30.0), tmp_path / "virtual.xml")
    with pytest.raises(ConfigError) as caught:
        made(geometry_file=str(virtual), detectors=[8, 9])
    assert (caught.value.where, caught.value.got) == ("operator cone_beam_ct, view 0", "30 mm")
    with pytest.raises(ConfigError) as caught:
        made(geometry_file=str(virtual))
    assert caught.value.where == "operator#detectors"


def test_wrong_measurement() -> None:
    with pytest.raises(InputError) as caught:
        made(**GOOD).initial(torch.zeros(5, 9, 8))
    assert (caught.value.where, caught.value.expected, caught.value.got) == (
        "operator ConeBeamCT",
        (5, 8, 9),
        (5, 9, 8),
    )


def test_what_rtk_refuses_is_one_line() -> None:
    """RTK has no FDK for curved detectors."""
    operator = made(**{**GOOD, "detector_radius": 50.0})
    operator.fdk_weighting = "full"
    with pytest.raises(DiffReconError) as caught:
        operator.initial(torch.zeros(operator.measurement_shape))
    assert caught.value.where == "operator cone_beam_ct"
    assert "cylindrical" in str(caught.value.got)
    assert "\n" not in str(caught.value)
