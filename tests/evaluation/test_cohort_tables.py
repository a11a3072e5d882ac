# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Tables over rows, and diagrams of them."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread, imsave

from monai_diffrecon.comparison.metric_info import METRICS
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.notes.cohort_note import fitted_picture
from monai_diffrecon.evaluation.cohort.report import best_median_worst
from monai_diffrecon.evaluation.cohort.tables import compare, differences_of, mean_coverage, present, summarize
from monai_diffrecon.evaluation.pages.charts import agreement_plot, box_plot, forest_plot, line_plot

INFO = {info.key: info for info in METRICS}


def rows(key: str, **values: list[float]) -> list[CaseRow]:
    """One row a case and method; NaN is a case that failed."""
    return [
        CaseRow(f"c{n}", method, status="failed" if math.isnan(v) else "computed", metrics={key: v})
        for method, row in values.items()
        for n, v in enumerate(row)
    ]


@pytest.mark.parametrize(
    ("key", "a", "b", "best"),
    [
        ("psnr", [30.0, 32.0], [31.0, 29.0], "a"),
        ("nmse", [0.3, 0.1], [0.1, 0.1], "b"),
        ("jump_ratio", [1.4, 1.4], [0.9, 0.9], "b"),
        ("high_frequency_ratio", [1.1, 1.1], [0.2, 0.2], "a"),
        ("coverage_90", [0.95, 0.95], [0.8, 0.8], "a"),
        ("coverage_90", [1.0, 1.0], [0.85, 0.85], "b"),
        ("calibration_error", [0.1, 0.1], [0.2, 0.2], "a"),
        ("psnr", [40.0, math.nan], [31.0, 29.0], "b"),  # a failed on the hard case
    ],
)
def test_the_best_is_marked(key: str, a: list[float], b: list[float], best: str) -> None:
    found = summarize(rows(key, a=a, b=b), ["a", "b"], [INFO[key]])[key]
    assert [s.best for s in found] == [best == "a", best == "b"]


def test_equal_methods_are_both_best_and_one_alone_is_not() -> None:
    both = summarize(rows("psnr", a=[1.0], b=[1.0]), ["a", "b"], [INFO["psnr"]])["psnr"]
    assert [s.best for s in both] == [True, True]
    assert math.isnan(both[0].sd)
    alone = summarize(rows("psnr", a=[1.0, 3.0]), ["a"], [INFO["psnr"]])["psnr"]
    assert (alone[0].mean, alone[0].sd, alone[0].best) == (2.0, pytest.approx(2**0.5), False)


def test_differences_are_paired_by_case_and_corrected() -> None:
    base = [30.0, 20.0, 25.0, 28.0, 22.0, 26.0, 24.0]
    better = [v + 0.5 + 0.01 * n for n, v in enumerate(base)]
    mixed = [v + (-1) ** n * (1 + n) for n, v in enumerate(base)]
    table = rows("psnr", base=base, better=better, mixed=mixed)
    table.reverse()  # the order of rows does not matter
    found = compare(table, ["base", "better", "mixed"], "base", [INFO["psnr"]], seed=0, resamples=500)["psnr"]
    assert found["better"].mean == pytest.approx(0.53)
    assert 0.5 < found["better"].low < 0.53 < found["better"].high < 0.57
    assert found["better"].p == pytest.approx(2 / 2**7)
    assert found["better"].p_holm == pytest.approx(4 / 2**7)
    assert found["mixed"].p_holm == found["mixed"].p


def test_of_ratios_the_distance_from_1_is_compared() -> None:
    table = rows("jump_ratio", a=[1.5, 0.5], b=[0.9, 1.1])
    found = compare(table, ["a", "b"], "a", [INFO["jump_ratio"]], seed=0, resamples=100)["jump_ratio"]
    assert found["b"].mean == pytest.approx(-0.4)


def test_only_what_is_there_is_shown() -> None:
    table = rows("nmse", a=[0.1]) + rows("psnr", b=[math.inf])
    assert [info.key for info in present(table)] == ["nmse"]


def test_best_median_and_worst() -> None:
    assert best_median_worst(rows("psnr", a=[3.0, 1.0, 2.0, math.nan])) == {
        "best": "c0",
        "median": "c2",
        "worst": "c1",
    }
    assert best_median_worst(rows("psnr", a=[math.nan])) == {}


def test_diagrams_are_well_formed_and_escaped() -> None:
    label = "<b> & 'x'"
    for svg in (
        forest_plot(label, {label: (0.5, -1.0, 2.0), "none": (math.nan,) * 3}, "dB", "note"),
        box_plot(label, {label: [1.0, 2.0, 3.0, 9.0], "none": []}, "dB"),
        box_plot(label, {label: [2.0, 2.0, 2.0]}, "dB"),
        agreement_plot(label, [(0.0, 1.0), (100.0, 99.0)], 0.0, (-2.0, 2.0), 2.6),
        agreement_plot(label, [(0.0, 0.0)], 0.0, (0.0, 0.0), 1.0),
        line_plot(label, {label: [(0.5, 0.4), (0.9, 1.0)], "one": [(0.5, 0.0)]}, "x", label, diagonal=True),
        line_plot(label, {f"{n} {label}": [(0.5, 0.5)] for n in range(20)}, label, "y"),
        line_plot(label, {label: [(1, math.nan), (8, 1.0, math.nan, math.nan)], "none": []}, label, "y", log_x=True),
    ):
        root = ET.fromstring(str(svg))
        assert root.attrib["aria-label"] == label
        assert "nan" not in re.sub(r"<title>.*?</title>", "", str(svg))


@pytest.mark.parametrize(("values", "boxes"), [([0.5, -1.0, 2.0, 1.0, 0.0], 0), ([0.5, -1.0, 2.0, 1.0, 0.0, 3.0], 1)])
def test_few_cases_are_dots_without_a_box(values: list[float], boxes: int) -> None:
    root = ET.fromstring(str(box_plot("t", {"a": values}, "dB", zero=True)))
    found = [element.get("class") for element in root.iter()]
    assert (found.count("dot"), found.count("box"), found.count("interval")) == (len(values), boxes, boxes)
    (zero,) = (element for element in root.iter() if element.get("class") == "zero")
    (dot,) = (e for e, v in zip(root.iter("circle"), values, strict=True) if v == 0.0)
    assert dot.get("cx") == zero.get("x1")


def test_differences_are_of_cases_that_both_methods_have() -> None:
    found = differences_of(rows("psnr", a=[3.0, math.nan, 2.0], b=[1.0, 1.0, 2.5]), "a", "b", INFO["psnr"])
    assert found == [2.0, -0.5]


def test_the_forest_plot_is_to_scale() -> None:
    root = ET.fromstring(str(forest_plot("t", {"a": (1.0, 0.5, 1.5), "b": (-1.0, -2.0, 0.0)}, "", "")))
    lines = [e for e in root if e.attrib.get("class") == "interval"]
    (zero,) = (float(e.attrib["x1"]) for e in root if e.attrib.get("class") == "zero")
    (a1, a2), (b1, b2) = ((float(e.attrib["x1"]), float(e.attrib["x2"])) for e in lines)
    assert b2 == zero
    assert (a2 - a1) / (b2 - b1) == pytest.approx(0.5, abs=0.01)
    assert (a1 - zero) / (zero - b1) == pytest.approx(0.25, abs=0.01)


def test_the_calibration_plot_is_to_scale() -> None:
    curves = {"on the diagonal": [(0.5, 0.5), (0.9, 0.9)], "above": [(0.5, 0.6)], "below": [(0.5, 0.4)]}
    root = ET.fromstring(str(line_plot("t", curves, "", "", diagonal=True)))
    (line,) = (e.attrib for e in root if e.attrib.get("class") == "zero")
    x1, x2, y1, y2 = (float(line[name]) for name in ("x1", "x2", "y1", "y2"))
    assert x2 - x1 == y1 - y2 > 0  # square, upwards
    ticks = {e.text: e.attrib for e in root if e.attrib.get("class") == "tick"}
    assert float(ticks["1"]["x"]) == x2  # the axis below, which is drawn last
    groups = [e for e in root if e.tag == "g"]
    assert len({g.attrib["class"] for g in groups}) == 3
    assert [g.find("text").text for g in groups] == list(curves)  # type: ignore[union-attr]
    for group, curve in zip(groups, curves.values(), strict=True):
        (points,) = (e.attrib["points"].split() for e in group if e.tag == "polyline")
        knots = [(float(e.attrib["cx"]), float(e.attrib["cy"])) for e in group if e.tag == "circle"]
        assert [tuple(map(float, p.split(","))) for p in points] == knots
        for (x, y), (nominal, observed) in zip(knots, curve, strict=True):
            assert (x - x1) / (x2 - x1) == pytest.approx(nominal, abs=1e-3)
            assert (y1 - y) / (y1 - y2) == pytest.approx(observed, abs=1e-3)


def test_a_logarithmic_line_plot_is_to_scale_and_has_bands() -> None:
    curves = {
        "a": [(8, 20.0, 19.0, 22.0), (16, 25.0, 24.0, 26.0), (32, 30.0, 29.0, 31.0)],
        "b": [(8, 19.0), (32, 31.0)],
    }
    ticks = {8: "8", 16: "<16>", 32: "32"}
    root = ET.fromstring(str(line_plot("t", curves, "views", "PSNR", log_x=True, ticks=ticks)))
    a, b = (e for e in root if e.tag == "g")
    knots = [(float(e.attrib["cx"]), float(e.attrib["cy"])) for e in a if e.tag == "circle"]
    assert knots[1][0] - knots[0][0] == pytest.approx(knots[2][0] - knots[1][0], abs=0.2)  # octaves
    assert knots[0][1] - knots[1][1] == pytest.approx(knots[1][1] - knots[2][1], abs=0.2)
    assert [float(e.attrib["x"]) for e in root if e.text in ticks.values()] == [x for x, _ in knots]
    (band,) = ([tuple(map(float, p.split(","))) for p in e.attrib["points"].split()] for e in a if e.tag == "polygon")
    assert [x for x, _ in band] == [x for x, _ in [*knots, *reversed(knots)]]
    unit = (knots[0][1] - knots[2][1]) / 10
    assert (knots[0][1] - band[0][1]) / unit == pytest.approx(2.0, abs=0.02)  # up to 22
    assert (band[-1][1] - knots[0][1]) / unit == pytest.approx(1.0, abs=0.02)  # down to 19
    assert not [e for e in b if e.tag == "polygon"]
    assert not [e for e in root if e.attrib.get("class") == "zero"]


def test_the_curve_of_a_method_is_the_mean_over_its_cases() -> None:
    table = [
        CaseRow("c0", "a", coverage=[(0.5, 0.2), (0.9, 0.6)]),
        CaseRow("c1", "a", coverage=[(0.5, 0.4), (0.9, 1.0)]),
        CaseRow("c2", "a", status="failed", coverage=[(0.5, 1.0)]),
        CaseRow("c3", "a"),
        CaseRow("c0", "b", coverage=[(0.5, 0.9)]),
    ]
    assert mean_coverage(table, "a") == [(0.5, pytest.approx(0.3)), (0.9, pytest.approx(0.8))]
    assert mean_coverage(table, "c") == []


def test_a_wide_picture_is_made_to_fit(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    wide, narrow = tmp_path / "wide.png", tmp_path / "narrow.png"
    imsave(wide, np.tile(np.linspace(0, 1, 2400), (100, 1)), cmap="gray")
    imsave(narrow, np.zeros((10, 1200)), cmap="gray")
    assert fitted_picture(narrow, tmp_path / "copy") == narrow
    found = fitted_picture(wide, tmp_path / "copy")
    assert found == tmp_path / "copy/wide.png"
    pixels = imread(found)
    assert pixels.shape[:2] == (50, 1200)
    assert pixels[25, 600, 0] == pytest.approx(0.5, abs=0.01)
    assert imread(wide).shape[:2] == (100, 2400)
