# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The one way to run a case: unless that was done before it is reconstructed; it is compared, written and recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from monai_diffrecon.engine.cases.case_record import comparable
from monai_diffrecon.engine.cases.case_recorder import CaseRecorder, check_reference
from monai_diffrecon.engine.cases.postprocessing import Postprocessing
from monai_diffrecon.engine.cases.reference_grid import reference_on_grid
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.run_report import PosteriorSpread, Reconstruction, RunReport
from monai_diffrecon.protocols import VolumeGeometry

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseResult:
    """A case that is done.

    Attributes:
        volume: (1, X, Y, Z) in physical units; of a complex volume that was done before, the magnitude.
        geometry: where it lies.
        output: the file.
        record: what was recorded.
        metrics: of the volume and the reference; empty without one.
        reference: the reference on the volume's grid, or None.
        preparation: what was done to measurement and reference, in order.
        report: what was done; None for a case that was done before.
        spread: of several samples; None for one, and for a case that was done before.
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
        """It was not done before."""
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
    handlers: Sequence[Any] = (),
    run: Any = None,
    options: Mapping[str, Any] | None = None,
    costs: Callable[[Reconstruction], Mapping[str, Any]] | None = None,
    check: Callable[[Tensor | None], None] | None = None,
    score_kept: bool = True,
) -> CaseResult:
    """Run a case, or leave it alone.

    It was done before when its record verifies, is of the same identity (measurement, configuration, weights, seed,
    versions, postprocessing) and ``options``, and has every output that is asked for. A checkpoint that is still there
    is then removed.

    Args:
        inferer: reconstructs.
        case: the case.
        recorder: where it is written and tracked, and what ``resume`` says of what is there.
        reference: the truth, or None.
        resample_reference: bring a reference that lies on another grid to that of the volume; else it is refused.
        reader: name of what read the measurement, or None.
        preparation: what was done to what was read, in order.
        postprocessing: is applied to the volume before it is written and compared; to no sample and no spread.
        handlers: further handlers of the reconstruction.
        run: the open run to track in; None opens one.
        options: what else is recorded, and must be the same in the record of a case that was done before.
        costs: tells of a reconstruction what else is recorded under ``options``.
        check: looks at the reference, on the grid of the volume, before anything is computed.
        score_kept: compare and track a case that was done before as well.

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
        for writer in record.writers.values():
            writer.check(case.geometry, f"case {case.name}")
        identity = case.identity | changed.identity
        kept = record.kept(identity, options)
        if kept is not None:
            logger.info("case %s: its record verifies, nothing is computed", case.name)
            metrics = {}
            if score_kept:
                metrics = record.metrics(comparable(*kept, image), reference, kept[1])
                record.track_kept(metrics)
            return CaseResult(*kept, record.output, record.written, metrics, reference, steps)
        done = inferer.reconstruct(
            case,
            case=case.name,
            handlers=[record, *handlers],
            checkpoint=record.checkpoint,
            run_id=record.run.run_id,
        )
        done = replace(done, volume=changed(done.volume, done.geometry, case))
        options |= {} if costs is None else costs(done)
        metrics = record.finish(
            done, case, reference, reader=reader, preparation=steps, identity=identity, options=options
        )
    volume, report, spread = done.volume, done.report, done.spread
    return CaseResult(volume, done.geometry, record.output, record.written, metrics, reference, steps, report, spread)
