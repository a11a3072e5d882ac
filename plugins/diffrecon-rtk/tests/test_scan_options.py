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
    ("old", "new", "message"),
    [
        ("</RTKThreeDCircularGeometry>", "", "damaged, or not XML; got no element found"),
        ('version="3"', 'version="2"', "another version of RTK's geometry; expected 3, got 2"),
        ("<GantryAngle>90<", "<GantryAngle>ninety<", r"projection 1: wrong content of <GantryAngle>.* got 'ninety'"),
        ("<GantryAngle>90<", "<GantryAngle>nan<", "expected a finite number, got 'nan'"),
        ("<GantryAngle>90<", "<GantryAngle>91<", "projection 1: the matrix is not that of the parameters"),
        ("<GantryAngle>90</GantryAngle>", "<Gantry>90</Gantry>", "an element that is not known here; got <Gantry>"),
        ("Distance>50<", "Distance>0<", r"wrong <SourceToDetectorDistance>; expected above 0 \(a cone beam\)"),
        ("RTKThreeDCircularGeometry", "Geometry", "not a geometry of RTK|damaged"),
    ],
)
def test_damaged_files(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = write(helix([0.0, 90.0, 200.0], 30.0, 50.0), tmp_path / "geometry.xml")
    path.write_text(damage(path.read_text(), old, new))
    with pytest.raises(InputError, match=message) as caught:
        made(geometry_file=str(path), detectors=[8, 9])
    assert "\n" not in str(caught.value)


def test_every_truncation_is_one_line(tmp_path: Path) -> None:
    path = write(helix([0.0, 90.0], 30.0, 50.0), tmp_path / "geometry.xml")
    content = path.read_bytes().rstrip()
    for end in itertools.chain(range(0, len(content), 23), [len(content) - 1]):
        path.write_bytes(content[:end])
        with pytest.raises(InputError, match="damaged, or not XML"):
            read_geometry(path)


def test_other_files(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.xml"
    with pytest.raises(InputError, match=r"geometry_file, .*nowhere.xml: cannot be read; got No such file"):
        made(geometry_file=str(missing), detectors=[8, 9])
    with pytest.raises(InputError, match="no path"):
        made(geometry_file=3, detectors=[8, 9])
    empty = tmp_path / "empty.xml"
    empty.write_text('<RTKThreeDCircularGeometry version="3"></RTKThreeDCircularGeometry>')
    with pytest.raises(InputError, match="no projection"):
        read_geometry(empty)
    bomb = tmp_path / "bomb.xml"
    bomb.write_text('<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><RTKThreeDCircularGeometry version="3"/>')
    with pytest.raises(IntegrityError, match="declares an entity"):
        read_geometry(bomb)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": None}, "operator#views: no view"),
        ({"views": 0}, "operator#views: out of range; expected an integer from 1"),
        ({"source_distance": None}, "operator#source_distance: out of range; .*got None"),
        ({"source_distance": 4.0}, r"the source would pass through the volume; expected above 4.24264 mm.*got 4 mm"),
        ({"detector_distance": 25.0}, r"in front of the axis of rotation; .*30 mm \(source_distance\) or more, got 25"),
        ({"detector_distance": 33.0, "detector_radius": 33.0}, r"not behind the volume; .*above 34.2426 mm, got 33 mm"),
        ({"detectors": 8}, r"operator#detectors: wrong number of values; expected \[nu, nv\], got 8"),
        ({"detectors": [8, 9, 1]}, "operator#detectors: wrong number of values"),
        ({"detectors": [8, 9.0]}, "operator#detectors: out of range; expected an integer from 1 up to 65536, got 9.0"),
        ({"detector_spacing": 1.5}, "operator#detector_spacing: wrong number of values"),
        ({"detector_spacing": [1.5, 0.0]}, "operator#detector_spacing: out of range"),
        ({"detector_offset": 1.5}, "operator#detector_offset: wrong number of values"),
        ({"detector_radius": -1.0}, "operator#detector_radius: out of range"),
        ({"detectors": None, "pitch": 3.0}, "operator#detectors: no number of pixels"),
        ({"detectors": None, "source_distance": 4.25}, "would be too large"),
        ({"arc": 400.0}, "operator#arc: out of range"),
        ({"angles": [0.0, 1.5, 3.0]}, "operator#angles: these look like radians; .*angles_unit"),
        ({"arc": 2.0 * math.pi}, "operator#arc: these look like radians; .*angles_unit"),
        ({"angles": []}, "operator#angles: no view"),
        ({"angles": "all"}, "operator#angles: no list"),
        ({"angles": [0.0, math.nan, 90.0]}, "operator#angles: out of range"),
        ({"angles": [0.0, 90.0], "angles_unit": "turns"}, "operator#angles_unit: unknown choice"),
        ({"filter": "cosine"}, "operator#filter: unknown choice"),
        ({"initial_iterations": 0}, "operator#initial_iterations: out of range"),
        ({"geometry_file": "scan.xml"}, "the geometry is given twice; got views, source_distance, detector_distance"),
        ({"pitch": math.inf}, "operator#pitch: out of range"),
    ],
)
def test_wrong_options(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        made(**{**GOOD, **change})
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
    with pytest.raises(ConfigError, match=r"view 0: the source is inside the volume; .*4.24264 mm .*got 4 mm"):
        made(geometry_file=str(within), detectors=[8, 9])
    virtual = write(helix([0.0, 90.0], 30.0, 30.0), tmp_path / "virtual.xml")
    with pytest.raises(ConfigError, match=r"view 0: the detector is not behind the volume"):
        made(geometry_file=str(virtual), detectors=[8, 9])
    with pytest.raises(ConfigError, match="no number of pixels"):
        made(geometry_file=str(virtual))


def test_wrong_measurement() -> None:
    with pytest.raises(InputError, match=r"measurement of the wrong shape; expected \(5, 8, 9\), got \(5, 9, 8\)"):
        made(**GOOD).initial(torch.zeros(5, 9, 8))


def test_what_rtk_refuses_is_one_line() -> None:
    """RTK has no FDK for curved detectors."""
    operator = made(**{**GOOD, "detector_radius": 50.0})
    operator.fdk_weighting = "full"
    with pytest.raises(DiffReconError, match=r"RTK failed; got .*cylindrical") as caught:
        operator.initial(torch.zeros(operator.measurement_shape))
    assert "\n" not in str(caught.value)
