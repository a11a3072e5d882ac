# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What MLflow shows for a case, and for the cases of one command: few parameters, a description, means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_diffrecon.comparison.metric_info import DEFINITIONS
from monai_diffrecon.comparison.third_party_metrics import metric_infos
from monai_diffrecon.engine.run_report import RunReport
from monai_diffrecon.tracking.markdown import artifact, code, number, plain, table
from monai_diffrecon.tracking.provenance import record_path

_RESEARCH = "For research, not for clinical use."


def few_params(report: RunReport, versions: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the parameters of a run: the options and the seed; networks and versions in one line each.

    Args:
        report: report of the reconstruction.
        versions: distribution -> version, of the record.
    """
    # This package is listed by both of its names.
    named = {name.replace("-", "_") if name == "monai-diffrecon" else name: v for name, v in versions.items()}
    return report.options | {
        "seed": report.seed,
        "weights": ", ".join(f"{name} (sha256 {sha[:12]})" for name, sha in report.weights.items()),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(named.items())),
    }


def montage_path(folder: Path, case: str) -> Path:
    """Return the file of the picture of a case."""
    return folder / f"{case}_montage.png"


def track_summary(run: Any, record: Mapping[str, Any], metrics: Mapping[str, float], folder: Path) -> None:
    """Track the description of a case, its record, and its picture if there is one.

    Args:
        run: its run.
        record: its provenance record.
        metrics: name -> value.
        folder: folder of its files.
    """
    picture = montage_path(folder, record["case"])
    shown = picture.name if picture.is_file() else None
    if shown is not None:
        run.log_artifact(picture)
    run.log_artifact(record_path(folder / record["output"]["file"]))
    run.log_note(case_note(record, metrics, folder.resolve().name, shown))


def case_note(record: Mapping[str, Any], metrics: Mapping[str, float], folder: str, picture: str | None) -> str:
    """Return the description of the run of a case, in Markdown.

    Args:
        record: its provenance record.
        metrics: name -> value.
        folder: name of the output folder, and of a folder in it.
        picture: name of its picture among the artifacts, or None.
    """
    config = record["config"]
    parts = [f"{kind} {code(str(config[kind]['name']))}" for kind in ("operator", "prior", "sampler") if kind in config]
    networks = ", ".join(map(plain, record["weights"])) or "a classical method"
    text = [f"Reconstruction of {plain(record['case'])} by {networks}: {', '.join(parts)}. {_RESEARCH}"]
    text += metrics_text(metrics)
    text.append(
        f"The curves {code('residual')} and {code('sigma')} are the relative data residual and the noise level "
        f"after each step."
    )
    if picture is not None:
        text.append(f"![the reconstruction]({artifact(picture)})")
    volume = record["output"]["file"]
    files = f"{code(volume)} is the volume, {code(record_path(Path(volume)).name)} says how it was made"
    text.append(f"In the output folder {code(folder)}: {files} ({code('diffrecon verify')} checks it).")
    return "\n\n".join(text)


def metrics_text(metrics: Mapping[str, float]) -> list[str]:
    """Return paragraphs in Markdown: the most important metrics in one line, and a table of all with their meaning."""
    text = []
    infos = {info.key: info for info in metric_infos()}
    # First what matters: MLflow shows a few lines until asked for more.
    first = [key for key in ("psnr", "ssim_axial", "ssim_coronal", "ssim_sagittal", "seconds") if key in metrics]
    said = [f"{infos[k].title} {number(metrics[k], infos[k].digits)} {infos[k].unit}".rstrip() for k in first]
    text += [f"**{', '.join(said)}**"] if said else []
    rows = [
        [code(key), number(metrics[key], info.digits), info.unit, info.better, DEFINITIONS.get(key, plain(info.title))]
        for key, info in infos.items()
        if key in metrics
    ]
    if "psnr" not in metrics:
        text.append("There was no reference, so there is no PSNR or SSIM.")
    if rows:
        text.append(table(["metric", "value", "unit", "better", "meaning"], rows))
    return text


def means_of(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return metric -> mean over the cases that have it, and ``psnr_worst``.

    Args:
        results: entries with ``metrics``.
    """
    values: dict[str, list[float]] = {}
    for result in results:
        for name, value in result["metrics"].items():
            values.setdefault(name, []).extend([value] if math.isfinite(value) else [])
    means = {name: sum(found) / len(found) for name, found in values.items() if found}
    return means | ({"psnr_worst": min(values["psnr"])} if values.get("psnr") else {})


def cases_note(results: Sequence[Mapping[str, Any]], failed: int, folder: str, picture: str | None) -> str:
    """Return the description of the run above those of several cases, in Markdown.

    Args:
        results: one entry per case, with ``case`` and ``metrics``.
        failed: number of cases that failed.
        folder: name of the output folder.
        picture: name of the picture of the median case among the artifacts, or None.
    """
    done = f"{len(results)} {'case' if len(results) == 1 else 'cases'} reconstructed"
    text = [f"{done}, {failed} failed; each has a run below this one. {_RESEARCH}"]
    infos = [info for info in metric_infos() if any(info.key in result["metrics"] for result in results)]
    infos = [info for info in infos if info.key == "psnr" or info.key.startswith("ssim")]
    if infos:
        means = means_of(results)
        rows = [("mean", means), *((plain(result["case"]), result["metrics"]) for result in results)]
        text.append(
            table(
                ["case", *(info.heading for info in infos)],
                [[name, *(number(of.get(i.key, math.nan), i.digits) for i in infos)] for name, of in rows],
            )
        )
        text.append(f"Metrics of this run are means over the cases; {code('psnr_worst')} is the lowest PSNR.")
    if picture is not None:
        text.append(f"The case with the median PSNR:\n\n![the median case]({artifact(picture)})")
    text.append(f"The output folder {code(folder)} has a volume, a record and a picture of each case.")
    return "\n\n".join(text)
