# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Everything that is written for one case."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.comparison.montage import montage, preview
from monai_diffrecon.comparison.third_party_metrics import compute_third_party
from monai_diffrecon.comparison.volume_metrics import default_data_range, volume_metrics
from monai_diffrecon.engine.calibration.intervals import Intervals
from monai_diffrecon.engine.cases.notes.case_note import few_params, montage_path, track_summary
from monai_diffrecon.engine.cases.output_formats import write_formats
from monai_diffrecon.engine.problem.classical_estimate import classical_estimate
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.engine.run_report import PosteriorSpread, Reconstruction
from monai_diffrecon.errors import InputError, IntegrityError
from monai_diffrecon.io.measurement.metatensor import affine_of, from_tensor
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.numerics.padding import without_padding
from monai_diffrecon.privacy.faces import face_notice
from monai_diffrecon.privacy.redaction import redact
from monai_diffrecon.protocols import VolumeGeometry, VolumeOrigin, VolumeWriter
from monai_diffrecon.tracking.provenance import (
    build_record,
    identity_sha256,
    record_path,
    verify_record,
    write_record,
)
from monai_diffrecon.viewer.run_page import write_run_page

logger = logging.getLogger(__name__)


def checkpoint_path(folder: Path, case: str) -> Path:
    """Return the path of a case's checkpoint while the case is running."""
    return folder / f"{case}_checkpoint.pt"


class CaseRecord:
    """One case: its file names, run, checkpoint, formats beside NIfTI, and a unit for volumes that state none.

    It is a handler of the reconstruction engine as well: the numbers of each step are tracked while the case runs.

    Attributes:
        output: the file of the volume.
        written: the record, once it is written or an existing one was found to match.
        checkpoint: the state of the run while it is in progress.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        run: Any,
        checkpoint: RunCheckpoint,
        writers: dict[str, VolumeWriter],
        unit: str,
        anatomy: str | None,
        view: bool = False,
    ) -> None:
        self.name, self.folder, self.run, self.unit = name, folder, run, unit
        self.checkpoint, self.anatomy, self.view = checkpoint, anatomy, view
        self.output = folder / f"{name}_recon.nii.gz"
        self.writers = writers
        self.written: dict[str, Any] = {}
        self._tracked: set[int] = set()

    def attach(self, engine: Any) -> None:
        """Attach to a reconstruction engine, after the handler that computes the residual."""
        engine.add_event_handler(StepEvents.STEP_COMPLETED, self._track_step)

    def _track_step(self, engine: Any) -> None:
        recon = engine.state.recon
        if recon.case == self.name:  # otherwise it belongs to a later sample, whose steps are not reported
            residual = engine.state.metrics["residual"]
            self._track_row({"step": recon.step, "sigma": engine.ladder[recon.step - 1], "residual": residual})

    def _track_row(self, row: Mapping[str, float]) -> None:
        step = int(row["step"])
        if step not in self._tracked:
            self._tracked.add(step)
            self.run.log_metrics({k: row[k] for k in ("sigma", "residual")}, step=step)

    def kept(
        self, identity: Mapping[str, str], options: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, VolumeGeometry] | None:
        """Return the existing volume (1, X, Y, Z) and its geometry, or None when the case must be computed.

        Its record must verify and have the same identity, and every requested output must exist.

        Args:
            identity: everything that determines the voxels, see ``DiffReconInferer.identity``.
            options: entries that its record must have under ``options``; it may have others.
        """
        path = record_path(self.output)
        if self.checkpoint.resume == "never" or not path.is_file():
            return None
        try:
            record = verify_record(path)
        except (InputError, IntegrityError) as error:
            logger.warning("case %s is computed again: %s", self.name, error.what)
            return None
        same = record.get("identity_sha256") == identity_sha256(identity)
        same = same and redact(options or {}).items() <= record["options"].items()
        if not same or not self.writers.keys() <= {*record["output"], *record["output"].get("formats", {})}:
            return None
        self.checkpoint.remove()  # left by a run that was killed after it wrote its record
        self.written = record
        return read_volume(self.output)

    def track_scan(self, case: PosedCase) -> None:
        """Track the measurement by its hash, as the dataset of the run."""
        shape, spacing = list(case.geometry.shape), [round(s, 4) for s in case.geometry.spacing]
        self.run.log_dataset(self.name, case.sha256, {"volume_shape": shape, "volume_spacing_mm": spacing})

    def track_kept(self, metrics: Mapping[str, float]) -> None:
        """Record in the case's run that nothing was computed."""
        self.run.set_tags({"computed": "false"})
        self.run.log_metrics(dict(metrics))
        track_summary(self.run, self.written, metrics, self.folder)

    def finish(
        self,
        done: Reconstruction,
        case: PosedCase,
        reference: Tensor | None,
        *,
        reader: str | None = None,
        preparation: Sequence[Mapping[str, Any]] = (),
        identity: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        intervals: Intervals | None = None,
        track: bool = True,
    ) -> dict[str, float]:
        """Write and track the reconstruction; return its metrics (empty without a reference).

        With several samples the output is their mean; the spread is written beside it as ``<case>_std.nii.gz``,
        ``<case>_std_measured.nii.gz`` and ``<case>_std_null.nii.gz``, kept samples as
        ``<case>_sample000.nii.gz`` and so on.

        For a complex volume the output, metrics and pictures show the magnitude; the phase (radians, -pi to pi)
        is written beside it as ``<case>_phase.nii.gz``.

        Args:
            done: the reconstruction.
            case: the case it was made from.
            reference: the ground truth, or None.
            reader: name of the reader of the measurement, or None.
            preparation: the preparation steps applied after reading, in order, for the provenance record.
            identity: everything that determines the voxels, for :meth:`kept`.
            options: further entries of the provenance record.
            intervals: written as ``<case>_low.nii.gz`` and ``<case>_high.nii.gz``.
            track: track picture, record and description as well; otherwise the caller does.
        """
        volume, report = magnitude_of(done.volume), done.report
        reference = None if reference is None else magnitude_of(reference)
        write_volume(self.output, volume, done.geometry)
        record_path(self.output).unlink(missing_ok=True)  # an earlier record, which does not describe this volume
        phase = None
        if done.volume.is_complex():
            phase = self.folder / f"{self.name}_phase.nii.gz"
            write_volume(phase, done.volume.angle(), done.geometry)
        formats = write_formats(self.writers, self.output, volume, done.geometry, self._origin(done, case))
        shown = comparable(volume, done.geometry, case.measurement)
        metrics = self.metrics(shown, reference, done.geometry)
        spread = None if done.spread is None else self._write_spread(done.spread, done, intervals)
        picture = montage_path(self.folder, self.name)
        if reference is None:
            preview(shown, picture, spacing=done.geometry.spacing)
            if done.spread is not None:
                preview(done.spread.std, self.folder / f"{self.name}_std.png", spacing=done.geometry.spacing)
        else:
            truth = torch.as_tensor(reference).as_subclass(Tensor)
            montage(
                {"reconstruction": shown},
                truth,
                picture,
                spacing=done.geometry.spacing,
                metrics={"reconstruction": metrics},
                std=None if done.spread is None else done.spread.std,
            )
        page = None
        if self.view:
            volumes = {"recon": shown, "truth": reference, "std": None if done.spread is None else done.spread.std}
            volumes |= {} if intervals is None else {"low": intervals.low, "high": intervals.high}
            path, estimate = self.folder / f"{self.name}_view.html", partial(classical_estimate, case)
            page = write_run_page(path, self.name, volumes, estimate, done.geometry, self._unit(case))
        if (face := face_notice(shown, done.geometry.spacing, self.anatomy)) is not None:
            logger.warning("case %s: %s", self.name, face)
            self.run.set_tags({"face": "true"})
            report = replace(report, notices=(*report.notices, face))
        if report.notices:
            self.run.set_tags({"notices": "; ".join(report.notices)})
        record = build_record(
            replace(report, fallbacks=[*report.fallbacks, *self.run.problems]),
            output=self.output,
            volume=volume,
            phase=phase,
            spread=spread,
            dicom=formats.pop("dicom", None),
            formats=formats,
            measurement_sha256=case.sha256,
            options=options,
            reader=reader,
            preparation=preparation,
            identity=identity,
            case=self.name,
        )
        write_record(record_path(self.output), record)
        self.written = record
        self.checkpoint.remove()
        self.run.log_params(few_params(report, record["versions"]))
        if intervals is not None:
            self.run.log_params({"calibration": record["options"]["calibration"]})
            self.run.log_metrics(intervals.metrics())
        if report.resumed_from is not None:
            self.run.set_tags({"resumed_from": report.resumed_from})
        for row in report.steps:  # of a resumed run: the steps before the interruption
            self._track_row(row)
        costs = {name: getattr(report, name) for name in ("seconds", "denoiser_calls", "network_calls")}
        self.run.log_metrics({**metrics, **costs})
        if page is not None:
            self.run.log_artifact(page)
        if track:
            track_summary(self.run, record, {**metrics, **costs}, self.folder)
        return metrics

    def _write_spread(
        self, spread: PosteriorSpread, done: Reconstruction, intervals: Intervals | None
    ) -> dict[str, Path]:
        """Write the spread of the samples, intervals and the kept samples; return name -> file."""
        volumes = {"std": spread.std, "std_measured": spread.std_measured, "std_null": spread.std_null}
        volumes |= {} if intervals is None else {"low": intervals.low, "high": intervals.high}
        for index, sample in enumerate(spread.samples):
            volumes[f"sample{index:03d}"] = magnitude_of(sample)
            if sample.is_complex():
                volumes[f"sample{index:03d}_phase"] = sample.angle()
        files = {name: self.folder / f"{self.name}_{name}.nii.gz" for name in volumes}
        for name, volume in volumes.items():
            write_volume(files[name], volume, done.geometry)
        return files

    def _origin(self, done: Reconstruction, case: PosedCase) -> VolumeOrigin:
        """Return what a format may state about the origin of the volume."""
        said, used = case.said, done.report.options
        names = ", ".join(f"{kind} {used[kind]['name']}" for kind in ("operator", "prior", "sampler") if kind in used)
        return VolumeOrigin(
            case=self.name,
            unit=self._unit(case),
            header=said.header,
            derivation=f"Reconstructed by monai_diffrecon ({names}); for research, not for clinical use",
            entropy=case.sha256,
        )

    def _unit(self, case: PosedCase) -> str:
        return self.unit if case.said.unit == "arbitrary" else case.said.unit

    @staticmethod
    def metrics(volume: Tensor, reference: Tensor | None, geometry: VolumeGeometry) -> dict[str, float]:
        """Return the metrics of a volume, empty without a reference."""
        if reference is None:
            return {}
        truth = magnitude_of(torch.as_tensor(reference).as_subclass(Tensor))
        of_packages = compute_third_party(volume, truth, geometry, data_range=default_data_range(truth))
        return volume_metrics(volume, truth) | of_packages


def comparable(volume: Tensor, geometry: VolumeGeometry, measurement: Tensor) -> Tensor:
    """Return a volume (1, X, Y, Z) for comparison with a reference: without the padding of its scan.

    Args:
        volume: the volume.
        geometry: its geometry.
        measurement: its source; the metadata list the padding, which was removed from the reference as well.
    """
    return without_padding(volume, affine_of(geometry), from_tensor(torch.as_tensor(measurement)).padding)


def magnitude_of(volume: Tensor) -> Tensor:
    """Return the magnitude of a complex volume; a real one as it is."""
    return volume.abs() if volume.is_complex() else volume
