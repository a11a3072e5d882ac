# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of an installed package: computed for every case, and never at the price of one."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_diffrecon.cli import main as cli
from monai_diffrecon.comparison.builtin_metrics import MAE, PSNR, SSIM
from monai_diffrecon.comparison.case_metrics import case_metrics
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.engine.cases.case_record import CaseRecord
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.protocols import Metric, VolumeGeometry
from monai_diffrecon.testing.metric_laws import check_metric

Install = Callable[..., None]
SHAPE = (14, 13, 12)
GEOMETRY = VolumeGeometry(SHAPE, (1.0, 1.0, 2.0))

WORST = '''
from monai_diffrecon.protocols import Metric


class Worst(Metric):
    """Largest error, times the thickness of a slice."""

    name, title, unit, higher_is_better, digits = "worst", "Largest error", "HU", False, 1

    def __call__(self, volume, reference, *, geometry, data_range, mask=None):
        error = (volume - reference).abs()
        return float((error if mask is None else error[mask]).max()) * geometry.spacing[2]
'''
ILL = """
from monai_diffrecon.protocols import Metric


class Ill(Metric):
    name = "ill"

    def __call__(self, volume, reference, *, geometry, data_range, mask=None):
        volume.zero_()
        {body}
"""


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand((1, *SHAPE), generator=generator) * 100
    return reference + 5 * torch.randn((1, *SHAPE), generator=generator), reference


@pytest.fixture
def worst(install: Install) -> None:
    install("acme-worst", "metrics", {"worst": "Worst"}, WORST)


def test_it_stands_beside_ours(worst: None) -> None:
    x, reference = pair()
    ours = volume_metrics(x, reference)
    metrics = case_metrics(x, reference, GEOMETRY)
    assert metrics["worst"] == pytest.approx(2 * float((x - reference).abs().max()))
    assert {k: metrics[k] for k in ours} == ours
    mask = torch.zeros((1, *SHAPE))
    mask[:, 2:5, 2:5, 2:5] = 1
    inside = case_metrics(x, reference, GEOMETRY, mask=mask)["worst"]
    assert inside == pytest.approx(2 * float((x - reference).abs()[mask > 0].max()))
    assert inside < metrics["worst"]
    in_a_run = CaseRecord.metrics(x, reference, GEOMETRY)
    assert in_a_run == {**ours, "worst": metrics["worst"]}
    assert CaseRecord.metrics(x, None, GEOMETRY) == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('/home/Doe_John')", "ValueError"),
        ("raise MemoryError", "MemoryError"),
        ("return float('nan')", "not finite"),
        ("return float('inf')", "not finite"),
        ("return 'good'", "ValueError"),
        ("return None", "TypeError"),
        ("return volume", "Error"),
    ],
)
def test_one_that_fails_is_left_out_with_one_warning(
    install: Install, worst: None, body: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    install("acme-ill", "metrics", {"ill": "Ill"}, ILL.format(body=body))
    x, reference = pair()
    before = x.clone()
    with caplog.at_level(logging.WARNING):
        metrics = case_metrics(x, reference, GEOMETRY)
    assert "ill" not in metrics
    assert "worst" in metrics
    assert torch.equal(x, before)
    (record,) = caplog.records
    assert "the metric ill of acme-ill" in record.message
    assert said in record.message
    assert "Doe_John" not in record.message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({'"worst", "Largest': '"psnr", "Largest'}, "another metric is called 'psnr'"),
        ({'"worst", "Largest': '"a/b", "Largest'}, "letters, digits and _"),
        ({"name, title": "named, title"}, "letters, digits and _"),
        ({"(Metric)": "(object)"}, "is not a subclass of Metric"),
        ({"    name, title": "    def __init__(self, weight): ...\n    name, title"}, "is missing 'weight'"),
        ({"from monai": "import no_such_module\nfrom monai"}, "No module named"),
    ],
)
def test_one_that_cannot_be_used_is_left_out_with_one_warning(
    install: Install, change: dict[str, str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = WORST
    for old, new in change.items():
        assert old in source
        source = source.replace(old, new)
    install("acme-worst", "metrics", {"worst": "Worst"}, source)
    x, reference = pair()
    with caplog.at_level(logging.WARNING):
        metrics = case_metrics(x, reference, GEOMETRY)
    assert metrics.keys() >= volume_metrics(x, reference).keys()
    assert metrics["psnr"] == volume_metrics(x, reference)["psnr"]
    assert "worst" not in metrics
    (record,) = caplog.records
    assert said in record.message


def test_two_of_one_name_are_one(install: Install, worst: None, caplog: pytest.LogCaptureFixture) -> None:
    install("zeta-worst", "metrics", {"worst": "Worst"}, WORST.replace("geometry.spacing[2]", "1000"))
    x, reference = pair()
    with caplog.at_level(logging.WARNING):
        metrics = case_metrics(x, reference, GEOMETRY)
    assert metrics["worst"] == pytest.approx(2 * float((x - reference).abs().max()))
    (record,) = caplog.records
    assert "worst of zeta-worst 2.1 is skipped" in record.message or "worst of zeta-worst is skipped" in record.message


@pytest.mark.slow
def test_a_cohort_has_its_column_and_computes_it_when_it_is_installed_later(
    install: Install, tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    truth = 500 * torch.nn.functional.avg_pool3d(pair()[1] / 100, 3, stride=1, padding=1)
    write_volume(tmp_path / "a.nii.gz", truth, geometry_of(SHAPE))
    make_bundle(tmp_path / "axial")
    method = {"bundle": "axial", "task": "z_super_resolution", "preset": "cubic"}
    content: dict[str, Any] = {
        "cases": [{"image": "a.nii.gz", "name": "a"}],
        "methods": [{"label": "one", **method}, {"label": "two", **method}],
        "simulate": {"noise": 0.01},
    }
    (tmp_path / "cohort.json").write_text(json.dumps(content))
    command = ["evaluate", "--config", str(tmp_path / "cohort.json"), "--output", str(tmp_path / "out")]

    def rows() -> list[dict[str, str]]:
        assert cli.main(command) == 0
        with (tmp_path / "out" / "cases.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    first = rows()
    assert "worst" not in first[0]
    install("acme-worst", "metrics", {"worst": "Worst"}, WORST)
    second = rows()
    assert [row["status"] for row in second] == ["reused", "reused"]
    assert list(second[0])[-2:] == ["worst", "error"]
    assert all(float(row["worst"]) > 0 for row in second)
    assert [{k: v for k, v in row.items() if k in first[0] and k != "status"} for row in second] == [
        {k: v for k, v in row.items() if k != "status"} for row in first
    ]
    assert "Largest error (HU)" in (tmp_path / "out" / "report.html").read_text()


def test_ours_are_plugins_of_the_same_kind() -> None:
    x, reference = pair()
    span = float(reference.max() - reference.min())
    mask = reference > 30
    whole = case_metrics(x, reference, GEOMETRY, mask=mask)
    given = {"geometry": GEOMETRY, "data_range": span}
    assert PSNR()(x, reference, **given) == pytest.approx(whole["psnr"])
    assert SSIM()(x, reference, **given) == pytest.approx(whole["ssim"])
    assert MAE()(x, reference, mask=mask, **given) == whole["mae_mask"]
    assert PSNR()(x, reference, mask=mask, **given) == pytest.approx(whole["psnr_mask"])


class Wrong(Metric):
    """Right, until a test makes it wrong."""

    name = "wrong"
    higher_is_better = False

    def __call__(self, volume: Tensor, reference: Tensor, **given: Any) -> float:
        error = (volume - reference).abs()
        return float((error if given["mask"] is None else error[given["mask"]]).mean())


def changes(self: Metric, volume: Tensor, reference: Tensor, **given: Any) -> float:
    return float(volume.sub_(reference).abs().mean())


def draws(self: Metric, volume: Tensor, reference: Tensor, **given: Any) -> float:
    return float((volume - reference).abs().mean() + 0 * torch.rand(1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "a b"}, "its name"),
        ({"unit": None}, "its unit"),
        ({"higher_is_better": "yes"}, "higher_is_better"),
        ({"higher_is_better": True}, "more error is not worse"),
        ({"__call__": lambda s, x, r, **k: 1.0}, "are one number"),
        ({"__call__": lambda s, x, r, **k: float("nan")}, "not finite"),
        ({"__call__": lambda s, x, r, **k: (x - r).abs().mean()}, "not a number"),
        ({"__call__": lambda s, x, r, **k: float((x - r).abs().mean() or 9.0)}, "no error"),
        ({"__call__": changes}, "the volume was changed"),
        ({"__call__": draws}, "global generator"),
    ],
)
def test_the_laws_find_a_wrong_one(change: dict[str, Any], said: str) -> None:
    check_metric(Wrong)
    with torch.random.fork_rng(), pytest.raises(AssertionError, match=said):
        check_metric(type("Broken", (Wrong,), change))
