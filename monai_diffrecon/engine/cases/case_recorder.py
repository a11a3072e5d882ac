# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Locks, runs and records of cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from monai_diffrecon import distributed
from monai_diffrecon.comparison.volume_metrics import default_data_range
from monai_diffrecon.engine.cases.case_lock import case_lock
from monai_diffrecon.engine.cases.case_record import CaseRecord, checkpoint_path, magnitude_of
from monai_diffrecon.engine.cases.notes.case_note import cases_note, means_of, montage_path
from monai_diffrecon.engine.cases.output_formats import output_writers
from monai_diffrecon.engine.cases.reference_grid import RESAMPLE, check_on_grid
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.io.atomic import make_folder, remove_leftovers
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.tracking.export_run import TrackedRun
from monai_diffrecon.tracking.provenance import read_record, record_path
from monai_diffrecon.tracking.run_notes import RunNotes, is_server
from monai_diffrecon.tracking.store_file import check_address


class CaseRecorder:
    """Writes volumes, records and pictures, and tracks one MLflow run per case, under one for several cases.

    Args:
        output_dir: folder for everything.
        track: track in MLflow.
        tracking_uri: MLflow's store; None is ``sqlite:///<output_dir>/mlflow.db``.
        experiment: MLflow's experiment.
        output_format: ``nifti``, or the format written in addition: the name of a writer, such as ``dicom``, or a list.
        hounsfield: volumes whose measurement states no unit are in HU.
        tracking_required: an MLflow failure ends the run; otherwise a warning is logged and the run continues.
        resume: see :class:`~monai_diffrecon.engine.resume.run_checkpoint.RunCheckpoint`; with ``never`` a case is
            computed again even if its record verifies.
        checkpoint_every: steps between checkpoints, see there.
        anatomy: the anatomy the network was trained on, for the notice that a volume may show a face.
        view: write a page for each case that shows its volumes in a browser.

    Attributes:
        notes: what the first process of a run has to log for this one, if the store is a file.
    """

    def __init__(
        self,
        output_dir: Path,
        *,
        track: bool,
        tracking_uri: str | None,
        experiment: str,
        output_format: Any = "nifti",
        hounsfield: bool = False,
        tracking_required: bool = False,
        resume: str = "auto",
        checkpoint_every: int | None = None,
        anatomy: str | None = None,
        view: bool = False,
    ) -> None:
        self.output_dir, self.track = output_dir, check_flag(track, "evaluator#track")
        self.tracking_uri, self.experiment = tracking_uri, experiment
        self.tracking_required = check_flag(tracking_required, "tracking_required")
        self.resume, self.checkpoint_every = resume, checkpoint_every
        RunCheckpoint(output_dir / "checkpoint.pt", resume=resume, every=checkpoint_every)  # checks the options now
        self.writers = output_writers(output_format)
        self.unit, self.anatomy = "HU" if hounsfield else "arbitrary", anatomy
        self.notes: list[RunNotes] = []
        self.view = check_flag(view, "evaluator#view")
        self._parent: str | None = None
        self._first = True

    def _run(self, name: str) -> TrackedRun:
        return TrackedRun(
            self.output_dir,
            name,
            track=self.track,
            experiment=self.experiment,
            tracking_uri=self.tracking_uri,
            parent_run_id=self._parent,
            required=self.tracking_required,
        )

    @contextmanager
    def cohort(self, cases: int | None = None) -> Iterator[TrackedRun | None]:
        """Open a run above those of the cases, in the first of the processes that take part; yield it.

        Args:
            cases: number of cases; 1 opens none, and the run of the case stands alone.

        Raises:
            InputError: the default store cannot be in ``output_dir``.
        """
        make_folder(self.output_dir)
        if self.track and self.tracking_uri is None:
            check_address(self.output_dir)
        self.notes, self._parent, self._first = [], None, distributed.is_first()
        with self._run("cohort") if self._first and cases != 1 else nullcontext() as run:
            self._parent = distributed.from_first(None if run is None else run.run_id)
            yield run
        self._parent = None

    def summarize(self, run: TrackedRun, results: Sequence[Mapping[str, Any]], failed: int) -> None:
        """Track means, data and a description of all cases in the run above theirs.

        Args:
            run: that run.
            results: one entry per case that is done, with ``case``, ``metrics`` and ``output``.
            failed: number of the others.
        """
        if run.run_id is None:
            return
        hashes = [read_record(record_path(result["output"]))["measurement_sha256"] for result in results]
        if hashes:
            digest = sha256("".join(sorted(hashes)).encode()).hexdigest()
            run.log_dataset("all cases", digest, {"cases": len(hashes)})
        ranked = [result for result in results if "psnr" in result["metrics"]]
        ranked.sort(key=lambda result: float(result["metrics"]["psnr"]))
        picture = None
        if ranked:
            path = montage_path(self.output_dir, ranked[(len(ranked) - 1) // 2]["case"])
            picture = path.name if path.is_file() else None
        if picture is not None:
            run.log_artifact(path)
        run.log_metrics(means_of(results))
        run.log_note(cases_note(results, failed, self.output_dir.resolve().name, picture))

    def log(self, notes: RunNotes) -> None:
        """Log what another process has noted, in a run below that of the cohort."""
        notes.replay(self._run(notes.run_name))

    def _run_of_case(self, name: str) -> TrackedRun | RunNotes:
        if self._first or not self.track or is_server(self.tracking_uri):
            return self._run(name)
        self.notes.append(RunNotes(name, {}))
        return self.notes[-1]

    @contextmanager
    def case(self, name: str, run: Any = None) -> Iterator[CaseRecord]:
        """Hold the lock of one case and open its run, or record into an open ``run``.

        Raises:
            ResourceError: another process is reconstructing the same case.
        """
        with case_lock(self.output_dir, name):
            for folder in (self.output_dir, self.output_dir / name):
                remove_leftovers(folder)
            if run is not None:
                yield self._record(name, run)
                return
            with self._run_of_case(name) as own:
                yield self._record(name, own)

    def _record(self, name: str, run: Any) -> CaseRecord:
        checkpoint = RunCheckpoint(
            checkpoint_path(self.output_dir, name), resume=self.resume, every=self.checkpoint_every
        )
        return CaseRecord(name, self.output_dir, run, checkpoint, self.writers, self.unit, self.anatomy, self.view)


def check_reference(reference: Tensor, geometry: VolumeGeometry, image: Tensor | None = None) -> None:
    """Refuse an unusable reference before the reconstruction starts.

    Args:
        reference: the ground truth, (1, X, Y, Z); a ``MetaTensor`` carries its affine.
        geometry: of the reconstruction.
        image: what it is made from.

    Raises:
        InputError: another shape, another place, or a constant.
    """
    mend = f"{RESAMPLE}, or resample it to the reconstruction's grid"
    check_on_grid(reference, geometry, "reference", mend, image=image)
    default_data_range(magnitude_of(reference.as_subclass(Tensor)))
