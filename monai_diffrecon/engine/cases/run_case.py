# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Runs one case: reconstructs it unless already done, then compares, writes and records it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from monai_diffrecon.engine.calibration.calibration_file import Calibration
from monai_diffrecon.engine.calibration.intervals import checked_region, intervals_of
from monai_diffrecon.engine.cases.case_record import comparable
from monai_diffrecon.engine.cases.case_recorder import CaseRecorder, check_reference
from monai_diffrecon.engine.cases.postprocessing import Postprocessing
from monai_diffrecon.engine.cases.reference_grid import check_on_grid, reference_on_grid
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.run_report import PosteriorSpread, Reconstruction, RunReport
from monai_diffrecon.protocols import VolumeGeometry

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseResult:
    """A completed case.

    Attributes:
        volume: (1, X, Y, Z) in physical units; for a complex volume of an earlier run, the magnitude.
        geometry: its geometry.
        output: the file.
        record: its provenance record.
        metrics: of the volume against the reference; empty without one.
        reference: the reference on the volume's grid, or None.
        preparation: the preparation steps of measurement and reference, in order.
        report: the run's report; None for a case that was already done.
        spread: of several samples; None for one sample and for a case that was already done.
    """

    volume: Tensor
    geometry: VolumeGeometry
    output: Path
    record: dict[str, Any]
    metrics: dict[str, float]
    reference: Tensor | None
    preparation: list[Mapping[str, Any]]
    report: RunReport | None = None
    spread: PosteriorSpread | None = None

    @property
    def computed(self) -> bool:
        """Whether it was computed in this run."""
        return self.report is not None


def run_case(
    inferer: DiffReconInferer,
    case: PosedCase,
    recorder: CaseRecorder,
    *,
    reference: Tensor | None = None,
    resample_reference: bool = False,
    reader: str | None = None,
    preparation: Sequence[Mapping[str, Any]] = (),
    postprocessing: Postprocessing | None = None,
    calibration: Calibration | None = None,
    region: Tensor | None = None,
    handlers: Sequence[Any] = (),
    run: Any = None,
    options: Mapping[str, Any] | None = None,
    costs: Callable[[Reconstruction], Mapping[str, Any]] | None = None,
    check: Callable[[Tensor | None], None] | None = None,
    score_kept: bool = True,
    starting: Callable[[], None] | None = None,
) -> CaseResult:
    """Run a case, or skip it if it is already done.

    It is done if its record verifies, has the same identity (measurement, configuration, weights, seed, versions,
    postprocessing) and the same ``options``, and has every requested output. A leftover checkpoint is then
    removed.

    Args:
        inferer: the inferer.
        case: the case.
        recorder: writes and tracks it, and holds the option ``resume``.
        reference: the ground truth, or None.
        resample_reference: resample a reference on another grid to that of the volume; otherwise it is refused.
        reader: name of the reader of the measurement, or None.
        preparation: the preparation steps applied after reading, in order.
        postprocessing: applied to the volume before it is written and compared, not to samples or spread.
        calibration: intervals are written too, by its nominal level.
        region: a mask, on the grid of the volume: the interval of its mean is recorded as well.
        handlers: further handlers of the reconstruction.
        run: the open run to track in; None opens one.
        options: further recorded entries; an existing record must have the same.
        costs: returns further entries of ``options`` for a reconstruction.
        check: checks the reference, on the grid of the volume, before anything is computed.
        score_kept: also compare and track a case that was already done, and track picture, record and description;
            otherwise the caller does.
        starting: called before a case is reconstructed, and not for one that was already done.

    Raises:
        DiffReconError: the case cannot be reconstructed, compared or written.
    """
    image, changed = case.measurement, postprocessing or Postprocessing(None)
    options = dict(options or {}) | ({"postprocessing": changed.steps} if changed.steps else {})
    steps = list(preparation)
    with recorder.case(case.name, run) as record:
        if reference is not None:
            if resample_reference:
                reference, step = reference_on_grid(reference, case.geometry, image)
                steps += [] if step is None else [step]
            check_reference(reference, case.geometry, image)
        if check is not None:
            check(reference)
        if calibration is not None:
            options |= calibration.options(case, changed.steps)
            if region is not None:
                check_on_grid(region, case.geometry, "region", "resample it to the reconstruction's grid", image=image)
                options["calibration"] |= {"region": checked_region(region, calibration)}
        for writer in record.writers.values():
            writer.check(case.geometry, f"case {case.name}")
        record.track_scan(case)
        identity = case.identity | changed.identity
        kept = record.kept(identity, options)
        if kept is not None:
            logger.info("case %s is already done: its record verifies", case.name)
            metrics = {}
            if score_kept:
                metrics = record.metrics(comparable(*kept, image), reference, kept[1])
                record.track_kept(metrics)
            return CaseResult(*kept, record.output, record.written, metrics, reference, steps)
        if starting is not None:
            starting()
        done = inferer.reconstruct(
            case,
            case=case.name,
            handlers=[record, *handlers],
            checkpoint=record.checkpoint,
            run_id=record.run.run_id,
        )
        done = replace(done, volume=changed(done.volume, done.geometry, case))
        intervals = None
        if calibration is not None:
            intervals = intervals_of(done, calibration, comparable(done.volume, done.geometry, image), region)
            options["intervals"] = intervals.numbers
            for notice in (notices := calibration.notices(case)):
                logger.warning("case %s: %s", case.name, notice)
            done.report.notices += notices
        options |= {} if costs is None else costs(done)
        metrics = record.finish(
            done,
            case,
            reference,
            reader=reader,
            preparation=steps,
            identity=identity,
            options=options,
            intervals=intervals,
            track=score_kept,
        )
    volume, report, spread = done.volume, done.report, done.spread
    return CaseResult(volume, done.geometry, record.output, record.written, metrics, reference, steps, report, spread)
