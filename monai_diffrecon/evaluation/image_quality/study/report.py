# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The report of a study: a section a question, pictures first; and the summary on one page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.image_quality.study.images import picture_row
from monai_diffrecon.evaluation.image_quality.study.measured import Measured
from monai_diffrecon.evaluation.image_quality.study.scans import PhantomCase
from monai_diffrecon.evaluation.image_quality.study.spec import QualitySpec
from monai_diffrecon.evaluation.image_quality.study.verdict import RULE, focus_of, said_of, sentences, verdict
from monai_diffrecon.evaluation.image_quality.study.words import better_of, unit_for, unit_of
from monai_diffrecon.evaluation.pages.charts import line_plot
from monai_diffrecon.evaluation.pages.render import number, write_page
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.protocols import Finding, PhantomMetric, Quantity

_TEMPLATES = Path(__file__).parent / "template"
#: Question of a metric -> heading of its section.
QUESTIONS = {
    "contrast": "Are small contrasts kept?",
    "resolution": "Is detail as sharp at low contrast as at high contrast?",
    "noise": "Is the noise natural?",
    "invented": "Was anything invented?",
}
#: Numbers that say why a method keeps or loses lesions.
_REASONS = (
    "noise_std",
    "noise_mean_frequency",
    "ttf_50",
    "false_lesions",
    "measured_rmse",
    "null_rmse",
    "frc_resolution",
)


def write_report(
    path: Path,
    spec: QualitySpec,
    measured: Measured,
    rows: Sequence[CaseRow],
    methods: Sequence[Mapping[str, Any]],
    cases: Sequence[PhantomCase],
) -> None:
    """Write the report, one self-contained HTML page.

    Args:
        path: file to write.
        spec: the study.
        measured: the results.
        rows: of the cohort.
        methods: descriptions of the methods, without paths.
        cases: the measurements.
    """
    context = _context(spec, measured, rows, methods)
    sections = {
        key: _section([m for m in measured.metrics if m.question == key], measured, context["unit"])
        for key in QUESTIONS
    }
    shown = {
        key: found for key, found in sections.items() if any(found[part] for part in ("tables", "plots", "pictures"))
    }
    write_page(
        path,
        _TEMPLATES / "image_quality.html.j2",
        **context,
        questions=[{"key": key, "heading": QUESTIONS[key], **found} for key, found in shown.items()],
        uncertainty=_uncertainty(measured.labels, rows),
        phantoms=_phantoms(spec, cases),
    )


def write_summary(
    folder: Path,
    spec: QualitySpec,
    measured: Measured,
    rows: Sequence[CaseRow],
    methods: Sequence[Mapping[str, Any]],
) -> None:
    """Write ``summary.html``, one page, and ``summary.md``, the same for a model card.

    Args:
        folder: where to.
        spec: the study.
        measured: the results.
        rows: of the cohort.
        methods: descriptions of the methods, without paths.
    """
    context = _context(spec, measured, rows, methods)
    write_page(folder / "summary.html", _TEMPLATES / "summary.html.j2", **context)
    text = _markdown(context)
    atomic_write(folder / "summary.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _context(
    spec: QualitySpec, measured: Measured, rows: Sequence[CaseRow], methods: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    unit = unit_for(spec.modality)
    focus = focus_of(measured, spec.focus)
    settings = [s for s in measured.settings("lesion_contrast") if s["lesion"] != "disc"]
    return {
        "spec": spec,
        "unit": unit,
        "labels": measured.labels,
        "methods": methods,
        "measurement": _measurement(spec),
        "failed": [row for row in rows if row.failed],
        "missing": [m["label"] for m in methods if m["label"] not in measured.labels],
        "focus": None if focus is None else said_of(focus, unit),
        "sentences": [] if focus is None else sentences(measured, focus, unit),
        "rule": RULE,
        "verdicts": [(said_of(s, unit), [verdict(measured, m, s) for m in measured.labels]) for s in settings],
        "reasons": _reasons(measured, focus, rows, unit),
    }


def _measurement(spec: QualitySpec) -> str:
    """Return what the noise of the measurement is."""
    said = spec.simulate if isinstance(spec.simulate, dict) else {}
    words = {
        "photons": "{:,.0f} photons a ray",
        "noise": "{:g} relative noise",
        "electronic_std": "electronic noise {:g}",
    }
    parts = [words[name].format(value) for name, value in said.items() if name in words and value]
    return ", ".join(parts) or "no noise"


def _section(metrics: Sequence[PhantomMetric], measured: Measured, unit: str) -> dict[str, Any]:
    """Return what a section shows: pictures, diagrams, tables, and how it was measured."""
    tables, plots, pictures, notes = list[Any](), list[Any](), list[Any](), dict[str, list[str]]()
    whole = list[Any]()
    for metric in metrics:
        for key, quantity in metric.quantities.items():
            settings = measured.settings(key)
            cells = [[_cell(measured.finding(m, key, **s), quantity) for m in measured.labels] for s in settings]
            title = "; ".join(filter(None, (_heading(quantity, unit), _better(quantity))))
            if settings == [{}]:
                whole.append((title, cells[0]))
            elif settings:
                said = [said_of(s, unit) for s in settings]
                tables.append({"title": title, "rows": list(zip(said, cells, strict=True))})
            plots += _plots(key, quantity, measured, unit)
            if (shown := picture_row(measured, key)) is not None:
                pictures.append({"title": quantity.title, "rows": shown.rows, "columns": shown.columns})
        for label in measured.labels:
            for warning in measured.result_of(label, metric).warnings:
                notes.setdefault(warning, []).append(label)
    everywhere = len(measured.labels)
    return {
        "tables": [{"title": "", "rows": whole}, *tables] if whole else tables,
        "plots": plots,
        "pictures": pictures,
        "methods": [metric.method for metric in metrics],
        "notes": [(note, "" if len(those) == everywhere else ", ".join(those)) for note, those in notes.items()],
    }


def _plots(key: str, quantity: Quantity, measured: Measured, unit: str) -> list[Any]:
    """Return a diagram for each setting of a curve, a line a method."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for label in measured.labels:
        for curve in measured.curves(label, key):
            points = [(float(x), float(y)) for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(y)]
            found.setdefault(said_of(curve.setting, unit), {})[label] = points
    y = unit_of(quantity, unit)
    return [
        (
            f"{quantity.title}{'' if said == 'all' else f': {said}'}",
            line_plot(quantity.title, curves, quantity.axis, y or quantity.title),
        )
        for said, curves in found.items()
        if any(curves.values())
    ]


def _cell(finding: Finding | None, quantity: Quantity) -> dict[str, str]:
    if finding is None:
        return {"value": number(None, 0), "interval": ""}
    interval = ""
    if math.isinf(finding.high):
        return {"value": f"{number(finding.value, quantity.digits)} or more", "interval": ""}
    if math.isfinite(finding.low) and math.isfinite(finding.high):
        interval = f"{number(finding.low, quantity.digits)} to {number(finding.high, quantity.digits)}"
    return {"value": number(finding.value, quantity.digits), "interval": interval}


def _heading(quantity: Quantity, unit: str) -> str:
    said = unit_of(quantity, unit)
    return f"{quantity.title} ({said})" if said else quantity.title


def _better(quantity: Quantity) -> str:
    better = better_of(quantity)
    return f"{better} is better" if better else ""


def _reasons(
    measured: Measured, focus: dict[str, Any] | None, rows: Sequence[CaseRow], unit: str
) -> list[tuple[str, str, list[str]]]:
    """Return (quantity, what is better, a number a method) of what explains the fate of a lesion."""
    quantities = {key: q for metric in measured.metrics for key, q in metric.quantities.items()}
    found = []
    for key in _REASONS:
        settings = measured.settings(key)
        if not settings:
            continue
        setting = _nearest(settings, focus)
        values = [_cell(measured.finding(m, key, **setting), quantities[key])["value"] for m in measured.labels]
        said = said_of(setting, unit)
        title = _heading(quantities[key], unit)
        found.append((title if said == "all" else f"{title}, {said}", _better(quantities[key]), values))
    psnr = {
        m: [r.value("psnr") for r in rows if r.method == m and math.isfinite(r.value("psnr"))] for m in measured.labels
    }
    if any(psnr.values()):
        values = [number(fmean(v), 1) if v else number(None, 0) for v in psnr.values()]
        found.append(("PSNR, mean of all phantoms (dB)", "does not say whether a lesion survives", values))
    return found


def _nearest(settings: Sequence[dict[str, Any]], focus: dict[str, Any] | None) -> dict[str, Any]:
    """Return the setting that is most like a lesion: of its diameter, then of the nearest contrast."""
    wanted = focus or {}

    def distance(setting: dict[str, Any]) -> tuple[float, float]:
        apart = [
            abs(float(setting[k]) - float(wanted[k])) if k in setting and k in wanted else 0.0
            for k in ("diameter", "contrast")
        ]
        return apart[0], apart[1]

    return min(settings, key=distance)


def _uncertainty(labels: Sequence[str], rows: Sequence[CaseRow]) -> list[tuple[str, list[str]]]:
    """Return (quantity, a number a method) of the methods that drew samples; empty when none did."""
    found = []
    for key, title in (
        ("coverage_90", "Part of the voxels whose nominal 90 % interval holds the truth"),
        ("coverage_excess", "Coverage of the calibrated interval, less its level"),
    ):
        values = {m: [r.value(key) for r in rows if r.method == m and math.isfinite(r.value(key))] for m in labels}
        if any(values.values()):
            found.append((title, [number(fmean(v), 3) if v else number(None, 0) for v in values.values()]))
    return found


def _phantoms(spec: QualitySpec, cases: Sequence[PhantomCase]) -> list[dict[str, Any]]:
    found = []
    for phantom in spec.placed:
        mine = [case for case in cases if case.label == phantom.label]
        sites = [site for case in mine if case.present for site in case.phantom.sites]
        kinds = {kind: sum(site.kind == kind for site in sites) for kind in dict.fromkeys(s.kind for s in sites)}
        found.append(
            {
                "label": phantom.label,
                "measurements": len(mine),
                "sites": ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
            }
        )
    return found


def _markdown(context: dict[str, Any]) -> str:
    """Return the summary as Markdown, to be pasted into a model card."""
    labels: list[str] = context["labels"]
    lines = [f"**{context['spec'].title}** ({context['measurement']}; phantoms, not patients).", ""]
    if context["failed"]:
        cases = sorted({f"{row.method} {row.case}" for row in context["failed"]})
        lines += [f"**{len(cases)} reconstructions failed and are missing**: {', '.join(cases[:5])}.", ""]
    lines += [f"- {sentence}" for sentence in context["sentences"]]
    head = [f"| lesion | {' | '.join(labels)} |", f"|---|{'---|' * len(labels)}"]
    lines += ["", *head]
    for lesion, verdicts in context["verdicts"]:
        cells = [", ".join([v.word, *v.numbers()]) for v in verdicts]
        lines.append(f"| {lesion} | {' | '.join(cells)} |")
    lines += ["", f"| | {' | '.join(labels)} |", head[1]]
    lines += [f"| {title} | {' | '.join(values)} |" for title, _, values in context["reasons"]]
    return "\n".join([*lines, "", context["rule"], ""])
