# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What MLflow shows for a cohort: means, the worst case, and a description with table, picture and files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.image import imread, imsave
from torch.nn.functional import interpolate

from monai_diffrecon.comparison.metric_info import HIGHER, VOLUME, MetricInfo
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.read import slug
from monai_diffrecon.evaluation.cohort.spec import CohortSpec
from monai_diffrecon.evaluation.cohort.tables import Summary, present, summarize
from monai_diffrecon.tracking.markdown import artifact, code, number, plain, table

#: Columns of the table: a wider one makes MLflow's page wider than the window.
_TABLE = ("psnr", "ssim", "psnr_mask", "coverage_90", "seconds")
#: Tracked besides the metrics of the whole volume.
_FURTHER = ("psnr_mask", "coverage_90", "seconds")
_WORST = ("psnr", "ssim")
_WIDTH = 1200  # pixels of a picture: MLflow's page shows it in full size, and a window may be narrow


def method_params(methods: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return ``method.<folder>`` -> what the method is, in one line; ``methods`` are the descriptions of the report."""
    params = {}
    for said in methods:
        words = [", ".join([said["bundle"] or "volumes of other software", *said["auxiliaries"]])]
        words += [f"{key} {said[key]}" for key in ("task", "preset") if said[key]]
        words += [json.dumps(said["overrides"])] if said["overrides"] else []
        params[f"method.{slug(said['label'])}"] = "; ".join(words)
    return params


def cohort_metrics(rows: Sequence[CaseRow], labels: Sequence[str]) -> dict[str, float]:
    """Return ``<metric>/<folder of the method>`` -> mean over the cases, and ``psnr_worst/...``, ``ssim_worst/...``."""
    infos = _shown(rows)
    found: dict[str, float] = {}
    for key, row in summarize(rows, labels, infos).items():
        found |= {f"{key}/{slug(label)}": s.mean for label, s in zip(labels, row, strict=True)}
    for label in labels:
        found |= {f"{info.key}_worst/{slug(label)}": _worst(rows, label, info) for info in infos if info.key in _WORST}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def cohort_note(spec: CohortSpec, rows: Sequence[CaseRow], folder: str, picture: str | None) -> str:
    """Return the description of the run of a cohort, in Markdown.

    Args:
        spec: the cohort.
        rows: its rows.
        folder: name of the output folder.
        picture: path of a montage among the artifacts, or None.
    """
    labels, infos = [method.label for method in spec.methods], [i for i in _shown(rows) if i.key in _TABLE]
    failed = sum(row.failed for row in rows)
    text = [
        f"**{plain(spec.title)}**: {len({row.case for row in rows})} cases, {len(labels)} methods, "
        f"{failed} of {len(rows)} reconstructions failed. For research, not for clinical use."
    ]
    summary = summarize(rows, labels, infos)
    lines = []
    for index, label in enumerate(labels):
        name = f"{plain(label)} (baseline)" if label == spec.baseline and len(labels) > 1 else plain(label)
        lines.append([name, *(_cell(rows, label, info, summary[info.key][index]) for info in infos)])
    text.append(table(["method", *map(_heading, infos)], lines, most=15))
    text.append("Means over the cases, the best in bold, in parentheses the worst case. The report has all metrics.")
    if picture is not None:
        text.append(f"![all methods, their errors and the truth]({artifact(picture)})")
    files = ", ".join(map(code, ("report.html", "cases.csv", "summary.csv", "differences.csv")))
    text.append(f"[Report]({artifact('report.html')}). In the output folder {code(folder)}: {files}, the methods.")
    return "\n\n".join(text)


def fitted_picture(picture: Path, folder: Path) -> Path:
    """Return a PNG file that fits into MLflow's page: the picture itself, or a smaller one of its name in a folder."""
    pixels = torch.from_numpy(imread(picture)).movedim(-1, 0)[None]
    height, width = pixels.shape[2:]
    if width <= _WIDTH:
        return picture
    size = (round(height * _WIDTH / width), _WIDTH)
    small = interpolate(pixels, size, mode="bilinear", antialias=True)[0].movedim(0, -1)
    imsave(folder / picture.name, small.clamp(0, 1).numpy())
    return folder / picture.name


def _heading(info: MetricInfo) -> str:
    title = info.title.partition(",")[0] + (" (mask)" if info.key.endswith("_mask") else "")
    return f"{title} ({info.unit})" if info.unit else title


def _shown(rows: Sequence[CaseRow]) -> list[MetricInfo]:
    return [info for info in present(rows) if info.group == VOLUME or info.key in _FURTHER]


def _cell(rows: Sequence[CaseRow], label: str, info: MetricInfo, summary: Summary) -> str:
    mean = number(summary.mean, info.digits)
    mean = f"**{mean}**" if summary.best else mean
    return f"{mean} ({number(_worst(rows, label, info), info.digits)})" if info.key in _WORST else mean


def _worst(rows: Sequence[CaseRow], label: str, info: MetricInfo) -> float:
    values = [row.value(info.key) for row in rows if row.method == label and not row.failed]
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return math.nan
    return min(values) if info.better == HIGHER else max(values)
