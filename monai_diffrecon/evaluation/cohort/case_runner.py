# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Runs one case with one method: reconstructs it unless already done, compares it with the truth and records it."""

from __future__ import annotations

import cmath
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.comparison.calibration import interval_coverage
from monai_diffrecon.comparison.case_metrics import magnitude
from monai_diffrecon.engine.calibration.intervals import coverage_of
from monai_diffrecon.engine.calibration.residuals import case_residuals
from monai_diffrecon.engine.cases.case_record import comparable
from monai_diffrecon.engine.cases.case_recorder import CaseRecorder
from monai_diffrecon.engine.cases.notes.case_note import track_summary
from monai_diffrecon.engine.cases.run_case import run_case
from monai_diffrecon.engine.memory.machine_memory import PeakMemory
from monai_diffrecon.engine.problem.network_units import unit_map
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.run_report import Reconstruction
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.cases import CaseHashes, read_mask
from monai_diffrecon.evaluation.cohort.comparing import check_region, compare_volume, row_key
from monai_diffrecon.evaluation.cohort.methods.given_volumes import GivenVolumes, Method
from monai_diffrecon.evaluation.cohort.methods.prepared_method import PreparedMethod
from monai_diffrecon.evaluation.cohort.methods.volume_copy import VolumeCopy
from monai_diffrecon.evaluation.cohort.spec import CohortCase, CohortSpec
from monai_diffrecon.io.atomic import make_folder
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.numerics.padding import without_padding
from monai_diffrecon.tracking.versions import versions_of


def data_residual(done: Reconstruction, case: PosedCase) -> float:
    """Return ``||A x - y|| / ||y||`` of the volume as it was handed out, weighted as the measurement says.

    Args:
        done: the reconstruction.
        case: what it was made from.

    Returns:
        NaN when nothing was measured.
    """
    measured, operator = case.said, case.posed.operator
    if not measured.data.numel():
        return math.nan
    x = without_padding(done.volume.as_subclass(Tensor), affine_of(done.geometry), measured.padding)
    x = x.to(operator.volume_dtype)
    y = measured.data.to(torch.complex64 if measured.data.is_complex() else torch.float32)
    y = y * cmath.exp(-1j * done.report.phase) if y.is_complex() else y
    difference = operator(unit_map(operator, done.report.unit).to_network(x)) - y
    root = 1.0 if measured.weights is None else measured.weights.sqrt()
    norm = float(torch.linalg.vector_norm(root * y))
    return float(torch.linalg.vector_norm(root * difference)) / norm if norm > 0 else math.nan


class CaseRunner:
    """Makes the rows of a cohort.

    Args:
        spec: the cohort.
        output_dir: folder of the methods' folders.
        resume: ``auto`` continues an interrupted run and skips completed cases, ``require`` refuses to start a case
            from scratch, ``never`` computes everything again.
        checkpoint_every: steps between checkpoints; None spends about 1 % of the wall time on them.
    """

    def __init__(
        self, spec: CohortSpec, output_dir: Path, *, resume: str = "auto", checkpoint_every: int | None = None
    ) -> None:
        self.spec, self.output_dir = spec, output_dir
        self.resume, self.checkpoint_every = resume, checkpoint_every

    def row(self, case: CohortCase, method: Method, data: dict[str, Any], hashes: CaseHashes, run: Any) -> CaseRow:
        """Return the row of a case and a method, computed unless its record verifies and is of the same inputs.

        Args:
            case: the case.
            method: the method.
            data: the measurement, and the truth if there is one.
            hashes: of the case's files.
            run: the open run to track in.
        """
        if isinstance(method, GivenVolumes):
            return self._given(case, method, data, hashes, run)
        image, mask = data["image"], None if case.mask is None else read_mask(case.mask)
        folder = self.output_dir / method.folder
        posed = method.inferer.pose(image, case=case.name)
        memory = PeakMemory(posed.device)

        done = run_case(
            method.inferer,
            posed,
            self._recorder(folder, method),
            reference=data.get("reference"),
            resample_reference=method.resample_reference,
            reader=data.get("image_reader"),
            preparation=json.loads(data.get("image_preparation", "[]")),
            postprocessing=method.postprocessing,
            calibration=method.calibration,
            region=mask if method.calibrates_region else None,
            run=run,
            options={"method_sha256": method.fingerprint},
            costs=lambda done: _costs_of(done, posed, memory),
            check=lambda truth: check_region(mask, truth, posed.geometry, image),
            score_kept=False,
        )
        record, truth, known = done.record, done.reference, done.metrics
        if truth is not data.get("reference"):  # brought to the grid: for the methods that follow as well
            data["reference"], data["image_preparation"] = truth, json.dumps(done.preparation)
        key = row_key(record["record_sha256"], truth, hashes, self.spec)
        kept = folder / f"{case.name}_metrics.json"
        row = CaseRow.read(kept, key)
        if row is None:
            geometry, volume = done.geometry, comparable(magnitude(done.volume), done.geometry, image)
            row = CaseRow(case.name, method.label, record_sha256=record["record_sha256"], versions=record["versions"])
            row.metrics = _costs(record)
            if truth is not None:
                operator, reference = record["config"]["operator"], magnitude(truth)
                inside = compare_volume(
                    row, volume, truth, geometry, self.spec, operator=operator, mask=mask, known=known
                )
                if "spread" in record["output"] and "phase" not in record["output"]:
                    std = _volume(record, folder, "std")
                    samples = record["config"]["num_samples"]
                    coverage = interval_coverage(volume, std, reference, mask=inside, num_samples=samples)
                    row.coverage = list(zip(coverage.nominal, coverage.observed, strict=True))
                    row.metrics |= {
                        "coverage_90": coverage.at(0.9),
                        "calibration_error": coverage.expected_calibration_error,
                    }
                    if method.calibration is not None:
                        low, high = (_volume(record, folder, name) for name in ("low", "high"))
                        observed = coverage_of(low, high, reference, inside)
                        row.metrics["coverage_excess"] = observed - method.calibration.nominal.level
                    row.residuals = asdict(
                        case_residuals(
                            posed,
                            volume,
                            std,
                            reference,
                            inside,
                            subject=case.subject or case.name,
                            metrics=row.metrics,
                            region=None if mask is None else inside,
                            data_range=self.spec.data_range,
                            postprocessing=method.postprocessing.steps,
                        )
                    )
            row.write(kept, key)
        row.status, row.method = "computed" if done.computed else "reused", method.label
        finite = {k: v for k, v in row.metrics.items() if math.isfinite(v)}
        run.log_metrics(finite)
        track_summary(run, record, finite, folder)
        return row

    def _given(
        self, case: CohortCase, method: GivenVolumes, data: dict[str, Any], hashes: CaseHashes, run: Any
    ) -> CaseRow:
        """Return the row of a volume that other software made; computed unless volume, truth and mask are the same."""
        truth, operator = method.truth(case, data)
        copy = VolumeCopy(make_folder(self.output_dir / method.folder), case.name, method.sha256(case))
        key, kept = row_key(copy.source_sha256, truth, hashes, self.spec), copy.folder / f"{case.name}_metrics.json"
        row = CaseRow.read(kept, key) if self.resume != "never" and copy.is_there() else None
        reused = row is not None
        if row is None:
            volume, image = method.read(case, truth), data["image"]
            geometry = geometry_of(volume.shape[1:], (volume if truth is None else truth).affine)
            mask = None if case.mask is None else read_mask(case.mask)
            check_region(mask, truth, geometry, image)
            copy.write(volume)
            row = CaseRow(case.name, method.label, record_sha256=copy.source_sha256, versions=versions_of(()))
            if truth is not None:
                compared = comparable(volume.as_subclass(Tensor), geometry, image)
                compare_volume(row, compared, truth, geometry, self.spec, operator=operator, mask=mask)
            row.write(kept, key)
        row.status, row.method = "reused" if reused else "computed", method.label
        finite = {k: v for k, v in row.metrics.items() if math.isfinite(v)}
        run.log_metrics(finite)
        copy.track(run, hashes.image, finite)
        return row

    def _recorder(self, folder: Path, method: PreparedMethod) -> CaseRecorder:
        return CaseRecorder(
            folder,
            track=False,
            tracking_uri=None,
            experiment="",
            resume=self.resume,
            checkpoint_every=self.checkpoint_every,
            anatomy=method.inferer.score.anatomy,
        )


def _costs_of(done: Reconstruction, case: PosedCase, memory: PeakMemory) -> dict[str, Any]:
    """Return the further entries that a record must have to be reused for a row."""
    return {
        "denoiser_calls": done.report.denoiser_calls,
        "peak_memory_gb": memory.gigabytes(),
        "data_residual": data_residual(done, case),
    }


def _volume(record: dict[str, Any], folder: Path, name: str) -> Tensor:
    """Return a volume of the spread. That of a complex volume, over both components, says nothing of its magnitude."""
    return read_volume(folder / record["output"]["spread"][name]["file"])[0]


def _costs(record: dict[str, Any]) -> dict[str, float]:
    options = record["options"]
    costs = {
        "seconds": record["report"].get("seconds"),
        "network_calls": record["report"]["network_calls"],
        "denoiser_calls": record["report"].get("denoiser_calls", options.get("denoiser_calls")),
        "peak_memory": options.get("peak_memory_gb"),
        "data_residual": options.get("data_residual"),
    }
    return {name: float(value) for name, value in costs.items() if value is not None}
