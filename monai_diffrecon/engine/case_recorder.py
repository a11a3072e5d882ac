# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Everything that is written of a case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.engine.posterior_samples import PosteriorSpread
from monai_diffrecon.engine.run_report import Reconstruction
from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.metrics import default_data_range, volume_metrics
from monai_diffrecon.evaluation.montage import montage, preview
from monai_diffrecon.io.dicom_writer import write_series
from monai_diffrecon.io.hashing import sha256_tensor
from monai_diffrecon.io.measurement import affine_of, from_tensor
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.numerics.option_checks import check_choice
from monai_diffrecon.tracking.open_run import open_run
from monai_diffrecon.tracking.provenance import build_record, record_path, write_record

#: What a case is written as.
FORMATS = ("nifti", "dicom", "both")


class CaseRecorder:
    """Writes volumes, records and pictures, and tracks one MLflow run a case under one for the cohort.

    Args:
        output_dir: folder for everything.
        track: track in MLflow.
        tracking_uri: MLflow's store; None is ``sqlite:///<output_dir>/mlflow.db``.
        experiment: MLflow's experiment.
        output_format: ``nifti``, ``dicom`` or ``both``; the last two write a DICOM series beside the NIfTI file.
        hounsfield: volumes whose measurement does not say its unit are in HU.
    """

    def __init__(
        self,
        output_dir: Path,
        *,
        track: bool,
        tracking_uri: str | None,
        experiment: str,
        output_format: str = "nifti",
        hounsfield: bool = False,
    ) -> None:
        self.output_dir, self.track = output_dir, track
        self.tracking_uri, self.experiment = tracking_uri, experiment
        self.dicom = check_choice(output_format, "output_format", FORMATS) != "nifti"
        self.unit = "HU" if hounsfield else "arbitrary"
        self._parent: Any = None

    def _run(self, name: str, parent: str | None) -> Any:
        return open_run(
            self.output_dir,
            name,
            track=self.track,
            experiment=self.experiment,
            tracking_uri=self.tracking_uri,
            parent_run_id=parent,
        )

    @contextmanager
    def cohort(self) -> Iterator[None]:
        """Open the run of the cohort."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with self._run("cohort", None) as self._parent:
            yield
        self._parent = None

    @contextmanager
    def case(self, name: str, run: Any = None) -> Iterator[_CaseRecord]:
        """Open the run of one case, or record into a ``run`` that is open."""
        if run is not None:
            yield _CaseRecord(name, self.output_dir, run, self.unit if self.dicom else None)
            return
        with self._run(name, None if self._parent is None else self._parent.run_id) as own:
            yield _CaseRecord(name, self.output_dir, own, self.unit if self.dicom else None)


class _CaseRecord:
    """One case: its file names, its run; with a unit for volumes that do not say theirs, a DICOM series too."""

    def __init__(self, name: str, folder: Path, run: Any, dicom_unit: str | None) -> None:
        self.name, self.folder, self.run, self.dicom_unit = name, folder, run, dicom_unit
        self.output = folder / f"{name}_recon.nii.gz"
        self.dicom = None if dicom_unit is None else folder / name / "dicom"
        self.affine = torch.eye(4, dtype=torch.float64)

    def finish(
        self,
        done: Reconstruction,
        measurement: Tensor,
        reference: Tensor | None,
        *,
        reader: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, float]:
        """Write and track the reconstruction; return its metrics (empty without a reference).

        Of several samples the mean is the output; their spread is written beside it as ``<case>_std.nii.gz``,
        ``<case>_std_measured.nii.gz`` and ``<case>_std_null.nii.gz``, the samples that were kept as
        ``<case>_sample000.nii.gz`` and so on.

        Of a complex volume the magnitude is the output, which metrics and pictures show; its phase (radians, -pi to pi)
        is written beside it as ``<case>_phase.nii.gz``.

        Args:
            done: the reconstruction.
            measurement: what it was made from.
            reference: the truth, or None.
            reader: name of what read the measurement, or None.
            options: what else to put into the provenance record.
        """
        volume, report = _magnitude(done.volume), done.report
        reference = None if reference is None else _magnitude(reference)
        self.affine = torch.as_tensor(affine_of(done.geometry))
        write_volume(self.output, volume, done.geometry)
        phase = None
        if done.volume.is_complex():
            phase = self.folder / f"{self.name}_phase.nii.gz"
            write_volume(phase, done.volume.angle(), done.geometry)
        if self.dicom is not None:
            self._write_series(self.dicom, done, volume, measurement)
        metrics = self._metrics(volume, reference)
        spread = None if done.spread is None else self._write_spread(done.spread, done)
        picture = self.folder / f"{self.name}_montage.png"
        if reference is None:
            preview(volume, picture, spacing=done.geometry.spacing)
            if done.spread is not None:
                preview(done.spread.std, self.folder / f"{self.name}_std.png", spacing=done.geometry.spacing)
        else:
            truth = torch.as_tensor(reference).as_subclass(Tensor)
            montage(
                {"reconstruction": volume},
                truth,
                picture,
                spacing=done.geometry.spacing,
                metrics={"reconstruction": metrics},
                std=None if done.spread is None else done.spread.std,
            )
        record = build_record(
            output=self.output,
            volume=volume,
            phase=phase,
            spread=spread,
            dicom=self.dicom,
            measurement_sha256=sha256_tensor(torch.as_tensor(measurement).as_subclass(Tensor)),
            weights=report.weights,
            config=report.options,
            seeds={"noise": report.seed},
            fallbacks=report.fallbacks,
            residuals=[row["residual"] for row in report.steps],
            timings={
                "seconds": report.seconds,
                "start_seconds": report.start_seconds,
                "denoiser_seconds": report.denoiser_seconds,
            },
            network_calls=report.network_calls,
            distributions=report.distributions,
            options=options,
            source={"reader": reader, "unit": report.unit, "sha256": report.source_sha256},
        )
        write_record(record_path(self.output), record)
        self.run.log_params(report.options | {"seed": report.seed, "weights": report.weights})
        self.run.log_params({"versions": record["versions"]})
        for row in report.steps:
            self.run.log_metrics({k: row[k] for k in ("sigma", "residual")}, step=int(row["step"]))
        self.run.log_metrics(
            {
                **metrics,
                "seconds": report.seconds,
                "denoiser_calls": report.denoiser_calls,
                "network_calls": report.network_calls,
            }
        )
        self.run.log_artifact(picture)
        self.run.log_artifact(record_path(self.output))
        return metrics

    def _write_spread(self, spread: PosteriorSpread, done: Reconstruction) -> dict[str, Path]:
        """Write the spread of the samples, and those that were kept; return name -> file."""
        volumes = {"std": spread.std, "std_measured": spread.std_measured, "std_null": spread.std_null}
        for index, sample in enumerate(spread.samples):
            volumes[f"sample{index:03d}"] = _magnitude(sample)
            if sample.is_complex():
                volumes[f"sample{index:03d}_phase"] = sample.angle()
        files = {name: self.folder / f"{self.name}_{name}.nii.gz" for name in volumes}
        for name, volume in volumes.items():
            write_volume(files[name], volume, done.geometry)
        return files

    def _write_series(self, folder: Path, done: Reconstruction, volume: Tensor, measurement: Tensor) -> None:
        """Write the volume as a DICOM series that says how it came about."""
        said, used = from_tensor(measurement), done.report.options
        names = ", ".join(f"{kind} {used[kind]['name']}" for kind in ("operator", "prior", "sampler") if kind in used)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_series(
            folder,
            volume,
            done.geometry,
            case=self.name,
            unit=self.dicom_unit if said.unit == "arbitrary" and self.dicom_unit else said.unit,
            template=said.header,
            derivation=f"Reconstructed by monai_diffrecon ({names}); for research, not for clinical use",
            entropy=sha256_tensor(torch.as_tensor(measurement).as_subclass(Tensor)),
        )

    def _metrics(self, volume: Tensor, reference: Tensor | None) -> dict[str, float]:
        if reference is None:
            return {}
        return volume_metrics(volume, torch.as_tensor(reference).as_subclass(Tensor))


def check_reference(reference: Tensor, shape: Sequence[int]) -> None:
    """Refuse a reference before there is a reconstruction that cannot be compared with it.

    Args:
        reference: the truth, (1, X, Y, Z).
        shape: voxels of the reconstruction along X, Y, Z.

    Raises:
        InputError: another shape, or a constant.
    """
    if tuple(reference.shape) != (1, *shape):
        raise InputError(
            "reference of another shape than the reconstruction",
            where="reference",
            expected=(1, *shape),
            got=tuple(reference.shape),
            mend="resample it to the reconstruction's grid",
        )
    default_data_range(_magnitude(reference.as_subclass(Tensor)))


def _magnitude(volume: Tensor) -> Tensor:
    return volume.abs() if volume.is_complex() else volume
